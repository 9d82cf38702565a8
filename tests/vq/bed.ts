/** A test bed: a device with the echo service on real loops, and drivers of its queues in the test's isolate. */
import assert from "node:assert/strict";
import { Virtqueue, type VirtqueueOptions } from "../../bench/driver.ts";
import { GuestMemory, type RegionSpec } from "../../bench/guest_memory.ts";
import { createEventfd, drain } from "../../ffi/eventfd.ts";
import { libc } from "../../ffi/libc.ts";
import {
  IORING_SETUP_COOP_TASKRUN,
  IORING_SETUP_SUBMIT_ALL,
  IORING_SETUP_TASKRUN_FLAG,
} from "../../ffi/uring_layout.ts";
import { DeviceControl } from "../../vq/control.ts";
import type { GuestAddr, QueueSetup } from "../../vq/device.ts";
import type { Placement } from "../../vq/placement.ts";
import { LoopPool } from "../../vq/pool.ts";
import { COUNT, type EchoConfig, OP } from "./echo_service.ts";

export const DEADLINE_MS = 10_000;

/**
 * Flags of io_uring_setup(2) as kernels of some versions know them, and none for a kernel without: RINGFSD_TEST_RING names one, and
 * every bed's loops are then as they would be on it.
 */
export const RING_FLAGS: Record<string, readonly number[]> = {
  "5.13": [0],
  "5.18": [IORING_SETUP_SUBMIT_ALL],
  "5.19": [IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL],
  plain: [],
};
const kernel = Deno.env.get("RINGFSD_TEST_RING");
const ringFlags = kernel === undefined ? {} : { ringFlags: RING_FLAGS[kernel] };

export interface BedOptions extends VirtqueueOptions {
  loops?: number;
  queues?: number;
  /** 0 unless a test is about polling: what sleeps shows lost wake-ups. */
  pollMaxUs?: number;
  memory?: number | readonly RegionSpec[];
  loopOf?: (queue: number) => number;
  placements?: readonly Placement[];
  /** As in DeviceOptions, for the first device. */
  urgent?: (queue: number) => boolean;
}

/** Lets everything else in this isolate run; a wait is a loop of these with a deadline. */
export const turn = () => new Promise<void>((resolve) => setTimeout(resolve, 0));

/** Waits until `condition` holds. Fails the test where it does not in time. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + DEADLINE_MS;
  while (!condition()) {
    assert.ok(performance.now() < deadline, `timed out: ${what}`);
    await turn();
  }
}

/** `promise`, but not for ever. */
export async function soon<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`timed out: ${what}`)), DEADLINE_MS);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Threads for a pool that run the echo service. `end` is for after the pool's exit. */
export class Threads {
  readonly #workers: Worker[] = [];

  readonly spawn = (): Worker => {
    const worker = new Worker(new URL("./echo_service.ts", import.meta.url).href, { type: "module" });
    this.#workers.push(worker);
    return worker;
  };

  end(): void {
    for (const worker of this.#workers) worker.terminate();
  }
}

const REQUEST_BYTES = 64;

/** A request on its way. */
interface Sent {
  words: readonly number[];
  buffers: { request: GuestAddr; reply: GuestAddr };
}

/** Drives one queue: requests of words, each of which must be answered once, by itself. */
export class Traffic {
  /** By the head of its chain. */
  readonly sent = new Map<number, Sent>();
  answered = 0;
  /** Requests that were given up, where that may be. */
  abandoned = 0;
  mayBeAbandoned = false;
  #serial = 0;
  readonly #spare: Sent["buffers"][] = [];

  constructor(readonly queue: Virtqueue, readonly memory: GuestMemory) {}

  /** Puts one request on the queue and kicks, unless told to wait with that. */
  send(op: number, argument = 0, kick = true): void {
    const { memory, queue } = this;
    const buffers = this.#spare.pop() ??
      { request: memory.allocate(REQUEST_BYTES), reply: memory.allocate(REQUEST_BYTES) };
    const words = [op, argument, queue.index, ++this.#serial];
    memory.words32(buffers.request, words.length).set(words);
    memory.bytes(buffers.reply, REQUEST_BYTES).fill(0);
    const head = queue.place([
      { addr: buffers.request, len: words.length * 4 },
      { addr: buffers.reply, len: REQUEST_BYTES, write: true },
    ]);
    this.sent.set(head, { words, buffers });
    queue.offer(head);
    queue.publish();
    if (kick) queue.kick();
  }

  /** Takes the answers that are there and checks each. Returns how many. */
  collect(): number {
    const { queue, memory } = this;
    let taken = 0;
    for (let head = queue.reap(); head >= 0; head = queue.reap()) {
      const sent = this.sent.get(head);
      assert.ok(sent, `queue ${queue.index}: ${head} was answered, and is not on its way`);
      if (this.mayBeAbandoned && queue.usedLength === 0) {
        this.abandoned++;
      } else {
        assert.equal(queue.usedLength, sent.words.length * 4);
        assert.deepEqual([...memory.words32(sent.buffers.reply, sent.words.length)], sent.words);
      }
      this.sent.delete(head);
      queue.free(head);
      this.#spare.push(sent.buffers);
      taken++;
    }
    this.answered += taken;
    return taken;
  }

  /** Waits until everything sent was answered. */
  async done(): Promise<void> {
    await until(() => {
      this.collect();
      return this.sent.size === 0;
    }, `queue ${this.queue.index} has ${this.sent.size} requests unanswered`);
  }

  /** One request, and its answer. */
  async roundTrip(op: number = OP.ECHO, argument = 0): Promise<void> {
    this.send(op, argument);
    await this.done();
  }
}

export class Bed {
  readonly memory: GuestMemory;
  readonly threads = new Threads();
  readonly pool: LoopPool;
  readonly control: DeviceControl;
  readonly traffic: Traffic[];
  readonly errFd = createEventfd();
  readonly logs: string[] = [];
  /** That there is no io_uring, which is no test's fault. */
  readonly ringLogs: string[] = [];
  readonly fatal: string[] = [];
  readonly #counts: Int32Array;

  constructor(options: BedOptions = {}) {
    const { loops = 1, queues = 1, pollMaxUs = 0, memory = 4 << 20, loopOf = (queue) => queue, placements } = options;
    this.memory = GuestMemory.create(memory);
    this.traffic = Array.from(
      { length: queues },
      (_, i) => new Traffic(Virtqueue.create(this.memory, i, { size: 16, ...options }), this.memory),
    );
    const say = (message: string) =>
      void (message.startsWith("io_uring is not available") ? this.ringLogs : this.logs).push(message);
    this.pool = new LoopPool({
      count: loops,
      helpers: 2,
      pollMaxUs,
      ...(placements ? { placements } : {}),
      debug: false,
      log: { error: say, warn: say, info: say, debug: say },
      spawn: this.threads.spawn,
      onFatal: (_, reason) => void this.fatal.push(reason),
      ...ringFlags,
    });
    this.#counts = new Int32Array(new SharedArrayBuffer(loops * COUNT.words * 4));
    this.control = this.device(0, { loopOf, ...(options.urgent ? { urgent: options.urgent } : {}) });
  }

  /** Another device on the same loops. */
  device(
    id: number,
    options: { loopOf?: (queue: number) => number; urgent?: (queue: number) => boolean; refuse?: string } = {},
  ): DeviceControl {
    const { loopOf = (queue) => queue, urgent = () => false, ...more } = options;
    return new DeviceControl({
      id,
      pool: this.pool,
      queueCount: 256,
      features: 0n,
      config: new Uint8Array(0),
      service: { counts: this.#counts.buffer as SharedArrayBuffer, ...more } satisfies EchoConfig,
      loopOf,
      urgent,
    });
  }

  /** One more queue, for the device whose queues are not started yet. */
  addQueue(options: VirtqueueOptions): Traffic {
    const traffic = new Traffic(Virtqueue.create(this.memory, this.traffic.length, options), this.memory);
    this.traffic.push(traffic);
    return traffic;
  }

  count(what: keyof typeof COUNT, loop = 0): number {
    return Atomics.load(this.#counts, loop * COUNT.words + COUNT[what]);
  }

  setup(index: number, base = 0): QueueSetup {
    const { size, desc, avail, used, kickFd, callFd, eventIdx, indirect } = this.traffic[index].queue.state;
    const { memory, errFd } = this;
    const [descAt, availAt, usedAt] = [desc, avail, used].map((addr) => memory.userAddr(addr));
    return { size, desc: descAt, avail: availAt, used: usedAt, base, kickFd, callFd, errFd, eventIdx, indirect };
  }

  /** Gives the device its memory, and starts all queues at `base`. */
  async start(base = 0): Promise<void> {
    await soon(this.control.setMemory(this.memory.regions), "setMemory");
    for (let i = 0; i < this.traffic.length; i++) await this.startQueue(i, base);
  }

  startQueue(index: number, base: number): Promise<void> {
    return soon(this.control.startQueue(index, this.setup(index, base)), "startQueue");
  }

  stopQueue(index: number): Promise<number> {
    return soon(this.control.stopQueue(index), "stopQueue");
  }

  /** Whether the error eventfd was written since it was last asked. */
  get errorSignalled(): boolean {
    return drain(this.errFd) === 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      if (this.fatal.length === 0) {
        await soon(this.control.reset(), "reset");
        await soon(this.pool.exit(), "exit");
      }
    } finally {
      this.threads.end();
      for (const { queue } of this.traffic) queue.close();
      libc.close(this.errFd);
      this.memory.close();
    }
  }
}

/** A bed whose device runs all its queues. */
export async function startedBed(options: BedOptions = {}): Promise<Bed> {
  const bed = new Bed(options);
  await bed.start(options.base ?? 0);
  return bed;
}

/** CPU nanoseconds that a thread of this process has used. */
export function cpuNs(tid: number): number {
  return parseInt(Deno.readTextFileSync(`/proc/self/task/${tid}/schedstat`));
}
