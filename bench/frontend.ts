/**
 * A vhost-user front end: it plays the hypervisor and the guest's boot. Negotiates, shares its own guest memory, sets up
 * queues, stops them, and sends rubbish where a test wants it. All calls block, with a timeout: use it in a process or a
 * Worker other than the back end's main isolate.
 */
import { EINTR } from "../ffi/errno.ts";
import { errno, libc } from "../ffi/libc.ts";
import { connectUnix, peerCredentials, receive, send } from "../ffi/socket.ts";
import { Virtqueue, type VirtqueueOptions } from "./driver.ts";
import type { GuestMemory } from "./guest_memory.ts";
import * as wire from "./vhost_wire.ts";
import type { MemoryRegion } from "../vq/device.ts";

const { VHOST_USER } = wire;
const POLLIN = 1;
const MAX_FDS = 8;

/** What to connect to and how long to wait; times in milliseconds. */
export interface ConnectOptions {
  /** For each reply. */
  timeoutMs?: number;
  /** Keep trying for this long where nothing listens at the path yet. */
  retryMs?: number;
}

/** What to ask for; what the back end does not offer is an error unless it is listed as optional here. */
export interface NegotiateOptions {
  /** Ring features, on by default where offered. `true` and not offered throws. */
  eventIdx?: boolean;
  indirect?: boolean;
  /** Feature bits to be set beside VERSION_1, PROTOCOL_FEATURES and the two above; not checked against the offer. */
  extraFeatures?: bigint;
  /** Exactly these feature bits, whatever else is given. */
  features?: bigint;
  /** Protocol features wanted; those not offered are left out. Default MQ, REPLY_ACK, RESET_DEVICE, CONFIGURE_MEM_SLOTS. */
  protocolFeatures?: bigint;
}

/** Memory in which back ends keep their requests in flight. */
export interface InflightArea {
  fd: number;
  size: number;
  offset: number;
  queues: number;
  queueSize: number;
}

/** The other side refused, hung up, was silent or broke the protocol. */
export class FrontendError extends Error {
  override name = "FrontendError";
}

/** A message received. `fds` belong to the caller. */
export interface Message {
  request: number;
  flags: number;
  payload: Uint8Array;
  fds: readonly number[];
}

const DEFAULT_PROTOCOL_FEATURES = wire.PROTOCOL_F_MQ | wire.PROTOCOL_F_REPLY_ACK | wire.PROTOCOL_F_RESET_DEVICE |
  wire.PROTOCOL_F_CONFIGURE_MEM_SLOTS;

const NONE = new Uint8Array(0);

/** One connection to a back end. */
export class Frontend {
  /** Feature bits that the back end offered, and those that were set. */
  offered = 0n;
  features = 0n;
  protocolOffered = 0n;
  protocolFeatures = 0n;
  /** Queues that were set up, by index. */
  readonly queues: Virtqueue[] = [];
  #open = true;
  readonly #pollfd: Uint8Array<ArrayBuffer>;

  private constructor(readonly fd: number, readonly timeoutMs: number) {
    this.#pollfd = new Uint8Array(new Int32Array([fd, POLLIN]).buffer);
  }

  /** Connects to a back end's listening socket. Throws SystemError. */
  static connect(path: string, { timeoutMs = 5000, retryMs = 0 }: ConnectOptions = {}): Frontend {
    const deadline = performance.now() + retryMs;
    for (;;) {
      try {
        return new Frontend(connectUnix(path), timeoutMs);
      } catch (error) {
        if (performance.now() >= deadline) throw error;
        libc.poll(NONE, 0, 5);
      }
    }
  }

  /** The process that listens, by SO_PEERCRED. */
  get peerPid(): number {
    return peerCredentials(this.fd).pid;
  }

  get hasReplyAck(): boolean {
    return (this.protocolFeatures & wire.PROTOCOL_F_REPLY_ACK) !== 0n;
  }

  get hasMultiqueue(): boolean {
    return (this.protocolFeatures & wire.PROTOCOL_F_MQ) !== 0n;
  }

  // --- messages

  /** Sends bytes as they are, with descriptors. Returns false where the back end has hung up. */
  sendRaw(bytes: Uint8Array, fds: readonly number[] = []): boolean {
    for (let at = 0; at < bytes.length || at === 0;) {
      const n = send(this.fd, bytes.subarray(at), at === 0 ? fds : []);
      if (n <= 0) return false;
      at += n;
    }
    return true;
  }

  /** Sends one message and waits for nothing. */
  send(request: number, payload: Uint8Array = NONE, fds: readonly number[] = [], flags = wire.FLAG_VERSION): void {
    if (!this.sendRaw(wire.message(request, flags, payload), fds)) {
      throw new FrontendError(`${wire.requestName(request)}: the back end has hung up`);
    }
  }

  /** Waits for the next message; undefined where the back end closes the connection instead. Throws on timeout. */
  receiveMessage(timeoutMs: number = this.timeoutMs): Message | undefined {
    const head = this.#receiveBytes(wire.HEADER_BYTES, timeoutMs);
    if (head === undefined) return undefined;
    const view = new DataView(head.bytes.buffer);
    const size = view.getUint32(8, true);
    if (size > 65536) throw new FrontendError(`reply with a payload of ${size} bytes`);
    const body = this.#receiveBytes(size, timeoutMs);
    if (body === undefined) return undefined;
    const fds = [...head.fds, ...body.fds];
    return { request: view.getUint32(0, true), flags: view.getUint32(4, true), payload: body.bytes, fds };
  }

  #receiveBytes(size: number, timeoutMs: number): { bytes: Uint8Array<ArrayBuffer>; fds: number[] } | undefined {
    const bytes = new Uint8Array(size);
    const fds: number[] = [];
    for (let have = 0; have < size;) {
      if (!this.#readable(timeoutMs)) throw new FrontendError(`no answer within ${timeoutMs} ms`);
      const part = receive(this.fd, bytes.subarray(have), MAX_FDS);
      fds.push(...part.fds);
      if (part.n <= 0) return undefined;
      have += part.n;
    }
    return { bytes, fds };
  }

  #readable(timeoutMs: number): boolean {
    for (;;) {
      const count = libc.poll(this.#pollfd, 1, timeoutMs);
      if (count >= 0 || errno() !== EINTR) return count > 0;
    }
  }

  /** Sends a request that has a reply of its own and returns the reply's payload. */
  query(request: number, payload: Uint8Array = NONE, fds: readonly number[] = []): Uint8Array {
    this.send(request, payload, fds);
    return this.#reply(request).payload;
  }

  /** Sends a request that has none; where REPLY_ACK is on, waits for the acknowledgement and throws unless it is 0. */
  set(request: number, payload: Uint8Array = NONE, fds: readonly number[] = []): void {
    this.send(request, payload, fds, wire.FLAG_VERSION | (this.hasReplyAck ? wire.FLAG_NEED_REPLY : 0));
    if (!this.hasReplyAck) return;
    const code = u64(this.#reply(request).payload);
    if (code !== 0n) throw new FrontendError(`${wire.requestName(request)} refused with ${code}`);
  }

  #reply(request: number): Message {
    const name = wire.requestName(request);
    const reply = this.receiveMessage();
    if (reply === undefined) throw new FrontendError(`${name}: the back end closed the connection`);
    if (reply.request !== request || (reply.flags & 7) !== (wire.FLAG_VERSION | wire.FLAG_REPLY)) {
      throw new FrontendError(`${name}: reply to ${wire.requestName(reply.request)}, flags ${reply.flags}`);
    }
    return reply;
  }

  /** Whether the back end closes the connection within the time. Messages that arrive meanwhile are thrown away. */
  waitDisconnect(timeoutMs: number = this.timeoutMs): boolean {
    const bytes = new Uint8Array(4096);
    while (this.#readable(timeoutMs)) if (receive(this.fd, bytes, 0).n <= 0) return true;
    return false;
  }

  // --- negotiation

  getFeatures(): bigint {
    return this.offered = u64(this.query(VHOST_USER.GET_FEATURES));
  }
  setFeatures(features: bigint): void {
    this.set(VHOST_USER.SET_FEATURES, wire.words64(features));
    this.features = features;
  }
  getProtocolFeatures(): bigint {
    return this.protocolOffered = u64(this.query(VHOST_USER.GET_PROTOCOL_FEATURES));
  }
  setProtocolFeatures(features: bigint): void {
    this.send(VHOST_USER.SET_PROTOCOL_FEATURES, wire.words64(features));
    this.protocolFeatures = features;
  }
  setOwner(): void {
    this.set(VHOST_USER.SET_OWNER);
  }
  /** Number of queues that the back end can serve, the high-priority one included. Needs MQ. */
  getQueueNum(): number {
    return Number(u64(this.query(VHOST_USER.GET_QUEUE_NUM)));
  }

  /** All of the above, in the order in which QEMU does it. Throws where the back end lacks what is asked for. */
  negotiate(options: NegotiateOptions = {}): this {
    const { eventIdx, indirect, extraFeatures = 0n, protocolFeatures = DEFAULT_PROTOCOL_FEATURES } = options;
    const offered = this.getFeatures();
    let features = wire.VIRTIO_F_VERSION_1 | (offered & wire.VHOST_USER_F_PROTOCOL_FEATURES);
    if (eventIdx ?? (offered & wire.VIRTIO_RING_F_EVENT_IDX) !== 0n) features |= wire.VIRTIO_RING_F_EVENT_IDX;
    if (indirect ?? (offered & wire.VIRTIO_RING_F_INDIRECT_DESC) !== 0n) features |= wire.VIRTIO_RING_F_INDIRECT_DESC;
    const lacking = features & ~offered;
    if (lacking !== 0n && options.features === undefined) {
      throw new FrontendError(`the back end offers 0x${offered.toString(16)}, without 0x${lacking.toString(16)}`);
    }
    if ((offered & wire.VHOST_USER_F_PROTOCOL_FEATURES) !== 0n) {
      this.setProtocolFeatures(this.getProtocolFeatures() & protocolFeatures);
    }
    this.setOwner();
    this.setFeatures(options.features ?? (features | extraFeatures));
    return this;
  }

  // --- memory

  /** SET_MEM_TABLE with the regions given, or all regions of guest memory. */
  setMemory(memory: GuestMemory | readonly MemoryRegion[]): void {
    const regions = "regions" in memory ? memory.regions : memory;
    this.set(VHOST_USER.SET_MEM_TABLE, wire.memoryTable(regions), regions.map((region) => region.fd));
  }
  getMaxMemSlots(): number {
    return Number(u64(this.query(VHOST_USER.GET_MAX_MEM_SLOTS)));
  }
  addRegion(region: MemoryRegion): void {
    this.set(VHOST_USER.ADD_MEM_REG, wire.singleRegion(region), [region.fd]);
  }
  removeRegion(region: MemoryRegion): void {
    this.set(VHOST_USER.REM_MEM_REG, wire.singleRegion(region));
  }

  // --- requests in flight

  /** GET_INFLIGHT_FD: an area for so many queues of so many descriptors. Its descriptor is the caller's. Needs INFLIGHT_SHMFD. */
  getInflight(queues: number, queueSize: number): InflightArea {
    this.send(VHOST_USER.GET_INFLIGHT_FD, wire.inflightDescription(0, 0, queues, queueSize));
    const { payload, fds } = this.#reply(VHOST_USER.GET_INFLIGHT_FD);
    const view = new DataView(payload.buffer, payload.byteOffset);
    const [size, offset] = [0, 8].map((at) => Number(view.getBigUint64(at, true)));
    return { fd: fds[0], size, offset, queues, queueSize };
  }
  /** SET_INFLIGHT_FD: has the back end keep its requests in flight there, and take up those that it finds. */
  setInflight({ fd, size, offset, queues, queueSize }: InflightArea): void {
    this.set(VHOST_USER.SET_INFLIGHT_FD, wire.inflightDescription(size, offset, queues, queueSize), [fd]);
  }

  // --- queues

  setVringNum(index: number, size: number): void {
    this.set(VHOST_USER.SET_VRING_NUM, wire.words32(index, size));
  }
  setVringBase(index: number, base: number): void {
    this.set(VHOST_USER.SET_VRING_BASE, wire.words32(index, base));
  }
  setVringAddr(index: number, desc: number, used: number, avail: number): void {
    this.set(VHOST_USER.SET_VRING_ADDR, wire.vringAddress(index, desc, used, avail));
  }
  /** SET_VRING_KICK, CALL or ERR; -1 says that there is no descriptor. */
  setVringFd(kind: "KICK" | "CALL" | "ERR", index: number, fd: number): void {
    const request = VHOST_USER[`SET_VRING_${kind}`];
    if (fd < 0) this.set(request, wire.words64(BigInt(index) | wire.VRING_NOFD));
    else this.set(request, wire.words64(index), [fd]);
  }
  setVringEnable(index: number, on = true): void {
    this.set(VHOST_USER.SET_VRING_ENABLE, wire.words32(index, on ? 1 : 0));
  }
  /** GET_VRING_BASE: stops the queue and returns the next available index. */
  stopQueue(index: number): number {
    return new DataView(this.query(VHOST_USER.GET_VRING_BASE, wire.words32(index, 0)).buffer).getUint32(4, true);
  }

  /** Makes a queue with the negotiated ring features, tells the back end all about it and enables it. */
  addQueue(memory: GuestMemory, index: number, options: VirtqueueOptions = {}): Virtqueue {
    const eventIdx = (this.features & wire.VIRTIO_RING_F_EVENT_IDX) !== 0n;
    const indirect = (this.features & wire.VIRTIO_RING_F_INDIRECT_DESC) !== 0n;
    const queue = Virtqueue.create(memory, index, { eventIdx, indirect, ...options });
    this.queues[index] = queue;
    this.startQueue(queue);
    return queue;
  }

  /** Starts a queue that is set up in memory, at its driver's next available index: the first time or after `stopQueue`. */
  startQueue(queue: Virtqueue, { base = queue.nextAvail, enable = true } = {}): void {
    const { index, size, desc, avail, used, kickFd, callFd } = queue.state;
    const { memory } = queue;
    this.setVringNum(index, size);
    this.setVringBase(index, base);
    this.setVringAddr(index, memory.userAddr(desc), memory.userAddr(used), memory.userAddr(avail));
    this.setVringFd("KICK", index, kickFd);
    this.setVringFd("CALL", index, callFd);
    if (enable && (this.features & wire.VHOST_USER_F_PROTOCOL_FEATURES) !== 0n) this.setVringEnable(index);
  }

  // --- the device

  /** GET_CONFIG: `size` bytes of the configuration space from `offset`. Needs CONFIG. */
  getConfig(offset: number, size: number): Uint8Array {
    const payload = new Uint8Array(12 + size);
    payload.set(wire.words32(offset, size, 0));
    return this.query(VHOST_USER.GET_CONFIG, payload).subarray(12);
  }
  /** Stops all queues and forgets the guest. Needs RESET_DEVICE. */
  resetDevice(): void {
    this.set(VHOST_USER.RESET_DEVICE);
  }

  /** Hangs up, and closes the queues' eventfds. Guest memory stays its maker's. May be called twice. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    libc.close(this.fd);
    for (const queue of this.queues) queue?.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }
}

function u64(payload: Uint8Array): bigint {
  if (payload.length !== 8) throw new FrontendError(`a reply of ${payload.length} bytes, expected 8`);
  return new DataView(payload.buffer, payload.byteOffset).getBigUint64(0, true);
}
