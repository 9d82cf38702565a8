/**
 * A service for tests, and the Worker that runs it: answers a request with its own bytes, at once or when the request says. A
 * request is words: operation, argument, anything. Shorter ones are echoed.
 */
import { signal } from "../../ffi/eventfd.ts";
import { allocate } from "../../ffi/memory.ts";
import type { Loop } from "../../vq/loop.ts";
import { type LoopScope, runLoop } from "../../vq/loop_worker.ts";
import { type LoopDevice, PENDING, type Service } from "../../vq/queue.ts";
import { IN_BYTES } from "../../vq/requests.ts";
import { lock } from "../../vq/spin.ts";

export const OP = {
  ECHO: 0,
  /** Answered when the eventfd `argument` becomes readable: by a read on the ring. */
  READ_FD: 1,
  /** Answered at the next bell. */
  WAIT: 2,
  /** Rings the bell of loop `argument`. */
  RING: 3,
  /** Answered after `argument` microseconds of work. */
  WORK: 4,
  /** Answered when no other request of the device is in flight on the loop. */
  ALONE: 5,
  /** A fault of the service's own. */
  THROW: 6,
  /** Answered through the ring, at the next look at it. */
  NOP: 7,
  /** The same fault when the ring has done something for it. */
  THROW_LATER: 8,
  /** The same fault while it holds a lock. */
  THROW_LOCKED: 9,
} as const;

/** Words that each loop's service counts in, one line a loop. */
export const COUNT = { tid: 0, begins: 1, ends: 2, handled: 3, bells: 4, resets: 5, abandoned: 6, words: 16 } as const;

export interface EchoConfig {
  counts: SharedArrayBuffer;
  /** The service cannot be made. */
  refuse?: string;
}

class EchoService implements Service {
  readonly #counts: Int32Array;
  readonly #waiting: number[] = [];
  #alone = -1;
  // Where READ_FD reads to; nobody looks.
  readonly #sink = allocate(4096).addr;

  constructor(
    config: EchoConfig,
    readonly loop: Loop,
    readonly device: LoopDevice,
    readonly bellFds: readonly number[],
  ) {
    if (config.refuse !== undefined) throw new Error(config.refuse);
    this.#counts = new Int32Array(config.counts, loop.index * COUNT.words * 4, COUNT.words);
    Atomics.store(this.#counts, COUNT.tid, parseInt(Deno.readTextFileSync("/proc/thread-self/stat")));
  }

  begin(): void {
    Atomics.add(this.#counts, COUNT.begins, 1);
  }

  end(): void {
    Atomics.add(this.#counts, COUNT.ends, 1);
  }

  handle(slot: number): number {
    Atomics.add(this.#counts, COUNT.handled, 1);
    const { ring, requests } = this.loop;
    const copied = requests.copyIn(slot, this.device.memory, Math.min(requests.readableBytes[slot], 8));
    const [op, argument] = copied < 8 ? [OP.ECHO, 0] : requests.in32;
    if (op === OP.WAIT) {
      this.#waiting.push(slot);
      return PENDING;
    }
    if (op === OP.ALONE && this.device.inFlight > 1) {
      this.#alone = slot;
      this.device.waiting = true;
      return PENDING;
    }
    if (op === OP.READ_FD || op === OP.NOP || op === OP.THROW_LATER) {
      const sqe = this.loop.sqe();
      if (op !== OP.READ_FD) ring.prep_nop(sqe);
      else ring.prep_read(sqe, argument, this.#sink >>> 0, Math.floor(this.#sink / 2 ** 32), 8, 0, 0);
      this.loop.forSlot(sqe, slot);
      return PENDING;
    }
    if (op === OP.RING) signal(this.bellFds[argument]);
    if (op === OP.THROW_LOCKED) lock(new Int32Array(1), 0);
    if (op === OP.THROW || op === OP.THROW_LOCKED) throw new Error("asked to");
    if (op === OP.WORK) { for (const end = performance.now() + argument / 1000; performance.now() < end;); }
    return this.#echo(slot);
  }

  complete(slot: number): number {
    this.loop.requests.copyIn(slot, this.device.memory, 4);
    if (this.loop.requests.in32[0] === OP.THROW_LATER) throw new Error("asked to, later");
    return this.#echo(slot);
  }

  bell(): void {
    Atomics.add(this.#counts, COUNT.bells, 1);
    for (const slot of this.#waiting.splice(0)) this.loop.finish(slot, this.#echo(slot));
    if (this.#alone < 0 || this.device.inFlight > 1) return;
    const slot = this.#alone;
    this.#alone = -1;
    this.device.waiting = false;
    this.loop.finish(slot, this.#echo(slot));
  }

  stopping(slot: number, gone: boolean): void {
    if (gone) this.loop.cancel(slot);
  }

  /** Answers nothing. */
  abandon(): number {
    Atomics.add(this.#counts, COUNT.abandoned, 1);
    return 0;
  }

  reset(): void {
    Atomics.add(this.#counts, COUNT.resets, 1);
  }

  #echo(slot: number): number {
    const { requests } = this.loop;
    const { memory } = this.device;
    const n = requests.copyIn(slot, memory, Math.min(requests.readableBytes[slot], IN_BYTES));
    requests.out.set(requests.in.subarray(0, n));
    const room = Math.min(n, requests.writableBytes[slot]);
    requests.copyOut(slot, memory, room);
    return room;
  }
}

if ("WorkerGlobalScope" in globalThis) {
  runLoop(globalThis as unknown as LoopScope, (config, host, device, bellFds) => {
    return new EchoService(config as EchoConfig, host as Loop, device, bellFds);
  });
}
