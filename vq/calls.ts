/**
 * System calls that may wait and that the ring has no operation for: a lock that another holds, syncfs, copy_file_range. Threads
 * of their own (helpers) make them, so that a loop never waits. A call is a number and six words; it belongs to a slot of a loop,
 * and lies at a place of its own in shared memory, so that nothing is allocated and nothing can overflow.
 */
import { signal } from "../ffi/eventfd.ts";
import { EINTR } from "../ffi/errno.ts";
import { interrupt, threadId } from "../ffi/interrupt.ts";
import { errno, libc } from "../ffi/libc.ts";
import { allocate, type HostAddr, viewAt } from "../ffi/memory.ts";
import { SLOTS } from "./requests.ts";
import { lock } from "./spin.ts";

/** A call: words as below, and room for what its arguments point to. */
const CALL_BYTES = 256;
const ROOM = 128;
export const ROOM_BYTES = CALL_BYTES - ROOM;

// 64-bit words of a call.
const NUMBER = 0;
const RESULT = 7;
// 32-bit words.
const STATE = 16;
const THREAD = 17;

const QUEUED = 1;
const RUNNING = 2;
const DONE = 3;
/** It is to be interrupted, whether it waits already or not yet. */
const CANCELLED = 4;

// Words of the head: a queue of calls to make, and per loop one of calls made. Each has a lock, held for some stores.
const LOCK = 0;
const FIRST = 1;
const LAST = 2;
/** Helpers that wait for a call. */
const WAITING = 16;
const HEAD_WORDS = 32;
const QUEUE_HEAD = 3;

export interface CallsInit {
  addr: HostAddr;
  loops: number;
  /** An eventfd as semaphore: one for each call to make. */
  semaphore: number;
}

const queueWords = (capacity: number) => QUEUE_HEAD + capacity;
const headBytes = (loops: number) => {
  const words = HEAD_WORDS + queueWords(loops * SLOTS) + loops * queueWords(SLOTS);
  return Math.ceil(words * 4 / CALL_BYTES) * CALL_BYTES;
};
const totalBytes = (loops: number) => headBytes(loops) + loops * SLOTS * CALL_BYTES;

const EFD_SEMAPHORE = 1;
const EFD_CLOEXEC = 0o2000000;

/** Takes the memory and the semaphore, for the whole process. */
export function createCalls(loops: number): CallsInit {
  const semaphore = libc.eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
  return { addr: allocate(totalBytes(loops)).addr, loops, semaphore };
}

/** What loops and helpers share. */
class Shared {
  readonly words: Int32Array<ArrayBuffer>;
  readonly longs: BigInt64Array<ArrayBuffer>;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly callsAt: number;

  constructor(readonly init: CallsInit) {
    const buffer = viewAt(init.addr, totalBytes(init.loops));
    this.words = new Int32Array(buffer);
    this.longs = new BigInt64Array(buffer);
    this.bytes = new Uint8Array(buffer);
    this.callsAt = headBytes(init.loops);
  }

  /** Byte at which a call lies. */
  at(call: number): number {
    return this.callsAt + call * CALL_BYTES;
  }

  /** Word at which the queue of calls to make lies, or a loop's queue of calls made. */
  queue(loop = -1): number {
    return loop < 0 ? HEAD_WORDS : HEAD_WORDS + queueWords(this.init.loops * SLOTS) + loop * queueWords(SLOTS);
  }

  put(queue: number, capacity: number, call: number): void {
    const w = this.words;
    this.lock(queue);
    w[queue + QUEUE_HEAD + w[queue + LAST] % capacity] = call;
    w[queue + LAST] = (w[queue + LAST] + 1) % (capacity * 2);
    Atomics.store(w, queue + LOCK, 0);
  }

  /** The oldest, or -1. */
  take(queue: number, capacity: number): number {
    const w = this.words;
    this.lock(queue);
    let call = -1;
    if (w[queue + FIRST] !== w[queue + LAST]) {
      call = w[queue + QUEUE_HEAD + w[queue + FIRST] % capacity];
      w[queue + FIRST] = (w[queue + FIRST] + 1) % (capacity * 2);
    }
    Atomics.store(w, queue + LOCK, 0);
    return call;
  }

  /** Takes one out that may be anywhere in the queue. False where it is not in it. */
  remove(queue: number, capacity: number, call: number): boolean {
    const w = this.words;
    this.lock(queue);
    let found = false;
    for (let i = w[queue + FIRST]; i !== w[queue + LAST]; i = (i + 1) % (capacity * 2)) {
      const at = queue + QUEUE_HEAD + i % capacity;
      if (found) w[queue + QUEUE_HEAD + (i + capacity * 2 - 1) % capacity] = w[at];
      else found = w[at] === call;
    }
    if (found) w[queue + LAST] = (w[queue + LAST] + capacity * 2 - 1) % (capacity * 2);
    Atomics.store(w, queue + LOCK, 0);
    return found;
  }

  lock(queue: number): void {
    lock(this.words, queue + LOCK);
  }
}

/** A loop's side. */
export class Calls {
  readonly #shared: Shared;
  readonly #loop: number;
  /** `offer` has asked for a helper, and none has come since. */
  #asked = false;

  /** `wantHelper` is called when no helper waits for a call that was queued; `bell` is the loop's own eventfd. */
  constructor(init: CallsInit, loop: number, readonly wantHelper: () => void, readonly bell: number) {
    this.#shared = new Shared(init);
    this.#loop = loop;
  }

  /** Room of the slot's call for what its arguments point to, ROOM_BYTES of it, and its address. Free when no call of it runs. */
  room(slot: number): Uint8Array<ArrayBuffer> {
    const at = this.#shared.at(this.#call(slot)) + ROOM;
    return this.#shared.bytes.subarray(at, at + ROOM_BYTES);
  }

  roomAddr(slot: number): number {
    return this.#shared.init.addr + this.#shared.at(this.#call(slot)) + ROOM;
  }

  /** Has a helper make a system call for a slot. The loop gets the slot from `take` when it is done. */
  make(slot: number, number: number, ...args: (number | bigint)[]): void {
    this.#put(slot, number, args);
    if (Atomics.sub(this.#shared.words, WAITING, 1) <= 0) this.wantHelper();
    signal(this.#shared.init.semaphore);
  }

  /** The same, but only where a helper waits for a call now. False where none does: nothing is done, and one more helper asked for. */
  offer(slot: number, number: number, ...args: (number | bigint)[]): boolean {
    const { words, init } = this.#shared;
    for (let waiting = Atomics.load(words, WAITING);;) {
      if (waiting <= 0) {
        // One at a time: it takes a while to start.
        if (!this.#asked) this.wantHelper();
        this.#asked = true;
        return false;
      }
      const found = Atomics.compareExchange(words, WAITING, waiting, waiting - 1);
      if (found === waiting) break;
      waiting = found;
    }
    this.#asked = false;
    this.#put(slot, number, args);
    signal(init.semaphore);
    return true;
  }

  #put(slot: number, number: number, args: (number | bigint)[]): void {
    const { words, longs } = this.#shared;
    const call = this.#call(slot);
    const at = this.#shared.at(call);
    longs[at / 8 + NUMBER] = BigInt(number);
    for (let i = 0; i < 6; i++) longs[at / 8 + 1 + i] = BigInt(args[i] ?? 0);
    words[at / 4 + THREAD] = 0;
    Atomics.store(words, at / 4 + STATE, QUEUED);
    this.#shared.put(this.#shared.queue(), this.#shared.init.loops * SLOTS, call);
  }

  /** The next slot whose call is done, or -1. */
  take(): number {
    const call = this.#shared.take(this.#shared.queue(this.#loop), SLOTS);
    return call < 0 ? -1 : call % SLOTS;
  }

  /** What the call of a slot returned: its result or -errno. */
  result(slot: number): number {
    return Number(this.#shared.longs[this.#shared.at(this.#call(slot)) / 8 + RESULT]);
  }

  /**
   * Interrupts a slot's call. False where there is nothing (more) to interrupt. A call that is on its way into the kernel is not
   * reached by the signal: ask again a little later, until it is taken.
   */
  cancel(slot: number): boolean {
    const { words } = this.#shared;
    const at = this.#shared.at(this.#call(slot)) / 4;
    const was = Atomics.compareExchange(words, at + STATE, QUEUED, CANCELLED);
    if (was === QUEUED) return !this.#withdraw(this.#call(slot));
    if (was !== RUNNING && was !== CANCELLED) return false;
    Atomics.compareExchange(words, at + STATE, RUNNING, CANCELLED);
    const thread = Atomics.load(words, at + THREAD);
    if (thread > 0) interrupt(thread);
    return true;
  }

  /**
   * Ends a call that no helper has taken, without waiting for one: all of them may wait for locks, of another queue's that is stopped
   * after this one. False where a helper has it.
   */
  #withdraw(call: number): boolean {
    const { words, longs, init } = this.#shared;
    if (!this.#shared.remove(this.#shared.queue(), init.loops * SLOTS, call)) return false;
    const at = this.#shared.at(call);
    longs[at / 8 + RESULT] = BigInt(-EINTR);
    Atomics.store(words, at / 4 + STATE, DONE);
    this.#shared.put(this.#shared.queue(this.#loop), SLOTS, call);
    signal(this.bell);
    return true;
  }

  #call(slot: number): number {
    return this.#loop * SLOTS + slot;
  }
}

/** A helper: makes one call after the other, and never returns. Its thread can do nothing else. */
export function runHelper(init: CallsInit, bellFds: readonly number[]): never {
  const shared = new Shared(init);
  const { words } = shared;
  const thread = threadId();
  const token = new Uint8Array(8);
  for (;;) {
    Atomics.add(words, WAITING, 1);
    // An interrupt that comes late must not cost a call.
    while (libc.read(init.semaphore, token, 8) < 0) continue;
    const call = shared.take(shared.queue(), init.loops * SLOTS);
    if (call < 0) continue;
    makeCall(shared, call, thread);
    const loop = Math.floor(call / SLOTS);
    shared.put(shared.queue(loop), SLOTS, call);
    signal(bellFds[loop]);
  }
}

function makeCall(shared: Shared, call: number, thread: number): void {
  const { words, longs } = shared;
  const at = shared.at(call);
  const state = at / 4 + STATE;
  Atomics.store(words, at / 4 + THREAD, thread);
  let result = BigInt(-EINTR);
  if (Atomics.compareExchange(words, state, QUEUED, RUNNING) === QUEUED) {
    const w = longs.subarray(at / 8, at / 8 + 8);
    do {
      result = libc.syscall6(w[0], w[1], w[2], w[3], w[4], w[5], w[6]);
      if (result < 0n) result = BigInt(-errno());
      // V8 and the runtime send signals too: only a cancellation ends the call.
    } while (result === BigInt(-EINTR) && Atomics.load(words, state) === RUNNING);
  }
  longs[at / 8 + RESULT] = result;
  Atomics.store(words, at / 4 + THREAD, 0);
  Atomics.store(words, state, DONE);
}
