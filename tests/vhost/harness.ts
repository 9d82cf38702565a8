/** A scripted front end, a device that records what it is told, and a server between them. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { createEventfd } from "../../ffi/eventfd.ts";
import { cString, libc } from "../../ffi/libc.ts";
import { Reactor } from "../../ffi/reactor.ts";
import { connectUnix, receive, send, wouldBlock } from "../../ffi/socket.ts";
import { Server, type ServerOptions } from "../../vhost/server.ts";
import * as wire from "../../vhost/wire.ts";
import type { InflightArea, MemoryRegion, QueueSetup, VirtioDevice } from "../../vq/device.ts";
import type { Log } from "../../vq/log.ts";

export const DEADLINE_MS = 5000;
export const FEATURE_OF_DEVICE = 1n << 5n;

/** All features that are offered with the fake device. */
export const FEATURES = FEATURE_OF_DEVICE | wire.VIRTIO_RING_F_INDIRECT_DESC | wire.VIRTIO_RING_F_EVENT_IDX |
  wire.VHOST_USER_F_PROTOCOL_FEATURES | wire.VIRTIO_F_VERSION_1;
export const PROTOCOL_FEATURES = wire.VHOST_USER_PROTOCOL_F_MQ | wire.VHOST_USER_PROTOCOL_F_REPLY_ACK |
  wire.VHOST_USER_PROTOCOL_F_BACKEND_REQ | wire.VHOST_USER_PROTOCOL_F_CONFIG |
  wire.VHOST_USER_PROTOCOL_F_RESET_DEVICE | wire.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS |
  wire.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD;

export function openDescriptors(): number {
  return [...Deno.readDirSync("/proc/self/fd")].length;
}

export function isOpen(fd: number): boolean {
  return libc.fcntl(fd, 1, 0) >= 0;
}

/** Keeps to the contract of VirtioDevice and fails the test when the caller does not. */
export class FakeDevice implements VirtioDevice {
  queueCount = 3;
  features = FEATURE_OF_DEVICE;
  onLost: (() => void) | null = null;
  config: Uint8Array = new Uint8Array(40).map((_, i) => i + 1);
  /** What it was told, one word or two each; `reset` at the end of a session included. */
  calls: string[] = [];
  regions: readonly MemoryRegion[] = [];
  inflight: InflightArea | null = null;
  running = new Map<number, QueueSetup>();
  lastSetup: QueueSetup | null = null;
  /** How many requests a queue is thought to serve before it stops. */
  served = 0;
  /** The reason for the next rejection of a call. */
  reject: Partial<Record<"setMemory" | "setInflight" | "startQueue" | "setCall" | "stopQueue" | "reset", string>> = {};
  /** What broke the contract. */
  complaints: string[] = [];
  #busy = false;

  async setMemory(regions: readonly MemoryRegion[]): Promise<void> {
    await this.#call("setMemory", `${regions.length}`);
    for (const { fd } of regions) if (!isOpen(fd)) this.complaints.push(`memory descriptor ${fd} is closed`);
    this.regions = regions;
  }

  async setInflight(area: InflightArea | null): Promise<void> {
    await this.#call("setInflight", area === null ? "none" : `${area.queues} of ${area.queueSize}`);
    if (area !== null && !isOpen(area.fd)) this.complaints.push(`in-flight descriptor ${area.fd} is closed`);
    this.inflight = area;
  }

  async startQueue(index: number, setup: QueueSetup): Promise<void> {
    await this.#call("startQueue", `${index}`);
    if (this.running.has(index)) this.complaints.push(`queue ${index} runs already`);
    for (const fd of [setup.kickFd, setup.callFd, setup.errFd]) {
      if (fd !== -1 && !isOpen(fd)) this.complaints.push(`descriptor ${fd} of queue ${index} is closed`);
    }
    this.running.set(index, setup);
    this.lastSetup = setup;
  }

  async setCall(index: number, callFd: number, errFd: number): Promise<void> {
    const setup = this.running.get(index);
    if (setup === undefined) this.complaints.push(`queue ${index} does not run`);
    // The old ones are in use until this has resolved.
    for (const fd of [setup!.callFd, setup!.errFd, callFd, errFd]) {
      if (fd !== -1 && !isOpen(fd)) this.complaints.push(`descriptor ${fd} of queue ${index} is closed`);
    }
    await this.#call("setCall", `${index}`);
    setup!.callFd = callFd;
    setup!.errFd = errFd;
  }

  async stopQueue(index: number): Promise<number> {
    await this.#call("stopQueue", `${index}`);
    const setup = this.running.get(index);
    if (setup === undefined) this.complaints.push(`queue ${index} does not run`);
    for (const fd of [setup!.kickFd, setup!.callFd, setup!.errFd]) {
      if (fd !== -1 && !isOpen(fd)) this.complaints.push(`descriptor ${fd} of queue ${index} was closed under it`);
    }
    this.running.delete(index);
    return (setup!.base + this.served) & 0xffff;
  }

  async reset(): Promise<void> {
    await this.#call("reset", "");
    this.running.clear();
    this.regions = [];
    this.inflight = null;
  }

  async #call(name: keyof FakeDevice["reject"], detail: string): Promise<void> {
    if (this.#busy) this.complaints.push(`${name} came before the call before it was done`);
    this.#busy = true;
    this.calls.push(`${name} ${detail}`.trim());
    await new Promise((resolve) => setTimeout(resolve, 0));
    this.#busy = false;
    const reason = this.reject[name];
    if (reason === undefined) return;
    delete this.reject[name];
    if (name === "setMemory") {
      this.running.clear();
      this.regions = [];
    }
    throw new Error(reason);
  }
}

/** Keeps lines by their level. */
export class RecordingLog implements Log {
  lines: string[] = [];
  error = (message: string) => void this.lines.push(`error: ${message}`);
  warn = (message: string) => void this.lines.push(`warn: ${message}`);
  info = (message: string) => void this.lines.push(`info: ${message}`);
  debug = (message: string) => void this.lines.push(`debug: ${message}`);

  /** The lines of a level since the last call. */
  take(level: string): string[] {
    const taken = this.lines.filter((line) => line.startsWith(level));
    this.lines = this.lines.filter((line) => !line.startsWith(level));
    return taken;
  }
}

/** Rejects when a promise takes too long. */
export async function soon<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${DEADLINE_MS} ms`)), DEADLINE_MS);
  });
  return await Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Waits until something is so. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + DEADLINE_MS;
  while (!condition()) {
    assert.ok(performance.now() < deadline, `waited for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

export function message(request: number, payload: Uint8Array = new Uint8Array(0), flags = 1): Uint8Array {
  const bytes = new Uint8Array(wire.header.sizeof + payload.length);
  bytes.set(new Uint8Array(Uint32Array.of(request, flags, payload.length).buffer));
  bytes.set(payload, wire.header.sizeof);
  return bytes;
}

export function u64(value: bigint | number): Uint8Array {
  return new Uint8Array(BigUint64Array.of(BigInt(value)).buffer);
}

export function u32(...values: number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

export function join64(...values: (bigint | number)[]): Uint8Array {
  return new Uint8Array(BigUint64Array.from(values.map(BigInt)).buffer);
}

/** A vring address description whose rings lie one after the other from an address on. */
export function vringAddr(index: number, at = 0x1000, flags = 0): Uint8Array {
  const payload = new Uint8Array(40);
  payload.set(u32(index, flags));
  payload.set(join64(at, at + 0x2000, at + 0x1000, 0), 8);
  return payload;
}

export interface RegionFields {
  guest?: bigint | number;
  size?: bigint | number;
  user?: bigint | number;
  offset?: bigint | number;
}

export const REGION_SIZE = 0x10000;

export function region({ guest = 0, size = REGION_SIZE, user = 0, offset = 0 }: RegionFields = {}): Uint8Array {
  return join64(guest, size, user, offset);
}

export function memTable(regions: RegionFields[], count = regions.length, room = regions.length): Uint8Array {
  const payload = new Uint8Array(8 + 32 * room);
  payload.set(u32(count));
  regions.forEach((each, i) => payload.set(region(each), 8 + 32 * i));
  return payload;
}

export function singleRegion(fields: RegionFields = {}): Uint8Array {
  return new Uint8Array([...u64(0), ...region(fields)]);
}

export interface Reply {
  request: number;
  flags: number;
  payload: Uint8Array;
}

/** One connection, driven message by message. */
export class FrontEnd {
  /** SET_PROTOCOL_FEATURES had REPLY_ACK: every message asks for an acknowledgement. */
  acks = false;
  #open = true;
  constructor(readonly fd: number, readonly reactor: Reactor) {}

  /** Sends bytes as they are. A server that has closed the connection is no failure. */
  async raw(bytes: Uint8Array, fds: readonly number[] = []): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      const n = send(this.fd, bytes.subarray(at), at === 0 ? fds : []);
      if (wouldBlock(n)) await soon(this.reactor.writable(this.fd), "sending");
      else if (n < 0) return;
      else at += n;
    }
  }

  /** Sends a message. With `acks` it waits for the acknowledgement and returns its number, else 0. */
  async tell(request: number, payload?: Uint8Array, fds?: readonly number[]): Promise<number> {
    await this.raw(message(request, payload, this.acks ? 9 : 1), fds);
    if (!this.acks) return 0;
    const reply = await this.receive();
    assert.deepEqual([reply.request, reply.flags, reply.payload.length], [request, 5, 8]);
    return Number(new DataView(reply.payload.buffer).getBigUint64(0, true));
  }

  /** Sends a message that has a reply of its own. */
  async ask(request: number, payload?: Uint8Array): Promise<Uint8Array> {
    await this.raw(message(request, payload, this.acks ? 9 : 1));
    const reply = await this.receive();
    assert.deepEqual([reply.request, reply.flags], [request, 5]);
    return reply.payload;
  }

  async ask64(request: number): Promise<bigint> {
    const payload = await this.ask(request);
    assert.equal(payload.length, 8);
    return new DataView(payload.buffer).getBigUint64(0, true);
  }

  /** Resolves when everything sent before has been handled. */
  async settle(): Promise<void> {
    await this.ask64(wire.VHOST_USER_GET_FEATURES);
  }

  async receive(): Promise<Reply> {
    const head = new DataView(await this.#exactly(12));
    const payload = new Uint8Array(await this.#exactly(head.getUint32(8, true)));
    return { request: head.getUint32(0, true), flags: head.getUint32(4, true), payload };
  }

  /** Resolves when the server has closed the connection, without another byte. */
  async closed(): Promise<void> {
    const got = await this.#some(new Uint8Array(1));
    assert.ok(got <= 0, "the server sent something instead of closing the connection");
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.reactor.forget(this.fd);
    libc.close(this.fd);
  }

  async #exactly(size: number): Promise<ArrayBuffer> {
    const buffer = new ArrayBuffer(size);
    for (let at = 0; at < size;) {
      const n = await this.#some(new Uint8Array(buffer, at));
      assert.ok(n > 0, "the server closed the connection instead of replying");
      at += n;
    }
    return buffer;
  }

  async #some(into: Uint8Array): Promise<number> {
    for (;;) {
      const { n, fds } = receive(this.fd, into, 0);
      assert.deepEqual(fds, []);
      if (!wouldBlock(n)) return n;
      await soon(this.reactor.readable(this.fd), "the server's reply");
    }
  }
}

export interface Bench {
  reactor: Reactor;
  device: FakeDevice;
  log: RecordingLog;
  server: Server;
  path: string;
  served: Promise<void>;
  /** A new connection, nothing negotiated. */
  connect(): FrontEnd;
  /** A new connection with all features, with acknowledgements. */
  negotiated(): Promise<FrontEnd>;
  /** A shared-memory file of REGION_SIZE or as given; closed after the test. */
  memory(size?: number): number;
  /** An eventfd, closed after the test. */
  event(): number;
}

/**
 * Runs a test against a server, then closes it and checks that no descriptor is left and the device was used
 * properly.
 */
export async function withServer(
  body: (bench: Bench) => Promise<void>,
  options: Partial<ServerOptions> & { device?: FakeDevice } = {},
): Promise<void> {
  const directory = Deno.makeTempDirSync();
  const before = openDescriptors();
  const reactor = new Reactor();
  const device = options.device ?? new FakeDevice();
  const log = new RecordingLog();
  const path = join(directory, "socket");
  const server = new Server({
    reactor,
    device,
    log,
    ...(options.fd === undefined ? { socketPath: path } : {}),
    ...options,
  });
  const mine: number[] = [];
  const ends: FrontEnd[] = [];
  const keep = (fd: number) => (mine.push(fd), fd);
  const bench: Bench = {
    reactor,
    device,
    log,
    server,
    path,
    served: server.serve(),
    connect: () => {
      const end = new FrontEnd(connectUnix(path, { nonblock: true }), reactor);
      ends.push(end);
      return end;
    },
    negotiated: async () => {
      const end = bench.connect();
      await negotiate(end);
      return end;
    },
    memory: (size = REGION_SIZE) => {
      const fd = keep(libc.memfd_create(cString("guest"), 1));
      assert.equal(libc.ftruncate(fd, BigInt(size)), 0);
      return fd;
    },
    event: () => keep(createEventfd()),
  };
  bench.served.catch(() => {});
  try {
    await body(bench);
    await soon(server.close(), "closing the server");
    assert.deepEqual(device.complaints, []);
    assert.equal(device.calls.at(-1) ?? "reset", "reset");
  } finally {
    await server.close();
    for (const end of ends) end.close();
    for (const fd of mine) libc.close(fd);
    await reactor.close();
    Deno.removeSync(directory, { recursive: true });
  }
  assert.equal(openDescriptors(), before, "descriptors left open");
}

/** What a front end does first. */
export async function negotiate(end: FrontEnd, features = FEATURES, protocol = PROTOCOL_FEATURES): Promise<void> {
  assert.equal(await end.ask64(wire.VHOST_USER_GET_FEATURES) & features, features);
  assert.equal(await end.ask64(wire.VHOST_USER_GET_PROTOCOL_FEATURES) & protocol, protocol);
  await end.tell(wire.VHOST_USER_SET_PROTOCOL_FEATURES, u64(protocol));
  end.acks = (protocol & wire.VHOST_USER_PROTOCOL_F_REPLY_ACK) !== 0n;
  assert.equal(await end.tell(wire.VHOST_USER_SET_OWNER), 0);
  assert.equal(await end.tell(wire.VHOST_USER_SET_FEATURES, u64(features)), 0);
}

/** All that a queue needs, in QEMU's order; SET_VRING_ENABLE is left out. */
export async function prepareQueue(bench: Bench, end: FrontEnd, index: number, kick = bench.event()): Promise<number> {
  assert.equal(await end.tell(wire.VHOST_USER_SET_VRING_NUM, u32(index, 128)), 0);
  assert.equal(await end.tell(wire.VHOST_USER_SET_VRING_BASE, u32(index, 0)), 0);
  assert.equal(await end.tell(wire.VHOST_USER_SET_VRING_ADDR, vringAddr(index)), 0);
  assert.equal(await end.tell(wire.VHOST_USER_SET_VRING_KICK, u64(index), [kick]), 0);
  return kick;
}

/** A front end with memory and queue 1 running. */
export async function withRunningQueue(bench: Bench): Promise<FrontEnd> {
  const end = await bench.negotiated();
  assert.equal(await end.tell(wire.VHOST_USER_SET_MEM_TABLE, memTable([{}]), [bench.memory()]), 0);
  await prepareQueue(bench, end, 1);
  assert.equal(await end.tell(wire.VHOST_USER_SET_VRING_ENABLE, u32(1, 1)), 0);
  assert.deepEqual([...bench.device.running.keys()], [1]);
  bench.device.calls = [];
  return end;
}
