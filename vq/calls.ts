/**
 * What may wait and the ring has no operation for is done by threads of their own (helpers), so that a loop never waits: a system call,
 * such as for a lock that another holds, or a whole request, served by the device's service as the loop would. Either belongs to
 * a slot of a loop, and lies at a place of its own in shared memory, so that nothing is allocated and nothing can overflow.
 *
 * There are two lines. What may wait for another request of the guest (a lock) stands in one of its own, and never takes more than
 * half of the helpers: else the holder of a lock could find none to give it up with.
 */
import { signal } from "../ffi/eventfd.ts";
import { EINTR, EIO } from "../ffi/errno.ts";
import { blockOtherSignals, interrupt, threadId } from "../ffi/interrupt.ts";
import { errno, libc } from "../ffi/libc.ts";
import { allocate, type HostAddr, viewAt } from "../ffi/memory.ts";
import { POLLIN } from "../ffi/stat_layout.ts";
import { SLOTS } from "./requests.ts";
import { lock, locksHeld, unlock } from "./spin.ts";

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
/** A lock, held while the helper is sent a signal, or says that it is done. */
const SIGNALLING = 18;

/** Instead of a system call's number: the words behind it are a device and the address of the loop's chains. */
const REQUEST = -1;

/** There is no call. */
const NONE = 0;
const QUEUED = 1;
const RUNNING = 2;
const DONE = 3;
/** It is to be interrupted, whether it waits already or not yet. */
const CANCELLED = 4;

// Words of the head: the two lines of calls to make, and per loop a queue of calls made. Each has a lock, held for some stores.
const LOCK = 0;
const FIRST = 1;
const LAST = 2;
/** Helpers that wait for a call, less the calls in the first line. */
const WAITING = 16;
/** Helpers at work on the second line. */
const IN_LOCKS = 17;
const HEAD_WORDS = 32;
/** Queues: the two lines, and behind them those of the loops. */
const FIRST_LINE = 0;
const LOCK_LINE = 1;
const LOOPS = 2;
const QUEUE_HEAD = 3;

export interface CallsInit {
  addr: HostAddr;
  loops: number;
  /** An eventfd as semaphore: at least one for each call to make. */
  semaphore: number;
  /** Helpers that may be at work on the second line at once. */
  inLocks: number;
}

const queueWords = (capacity: number) => QUEUE_HEAD + capacity;
const headBytes = (loops: number) => {
  const words = HEAD_WORDS + LOOPS * queueWords(loops * SLOTS) + loops * queueWords(SLOTS);
  return Math.ceil(words * 4 / CALL_BYTES) * CALL_BYTES;
};
const totalBytes = (loops: number) => headBytes(loops) + loops * SLOTS * CALL_BYTES;

const EFD_SEMAPHORE = 1;
const EFD_CLOEXEC = 0o2000000;

/** Takes the memory and the semaphore, for the whole process, which has so many helpers at most. */
export function createCalls(loops: number, helpers = 2): CallsInit {
  const semaphore = libc.eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
  return { addr: allocate(totalBytes(loops)).addr, loops, semaphore, inLocks: Math.max(1, helpers >> 1) };
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

  /** Word at which a queue lies. */
  queue(index: number): number {
    const { loops } = this.init;
    const lines = Math.min(index, LOOPS) * queueWords(loops * SLOTS);
    return HEAD_WORDS + lines + Math.max(0, index - LOOPS) * queueWords(SLOTS);
  }

  capacity(index: number): number {
    return index < LOOPS ? this.init.loops * SLOTS : SLOTS;
  }

  put(index: number, call: number): void {
    const w = this.words;
    const queue = this.queue(index);
    const capacity = this.capacity(index);
    lock(w, queue + LOCK);
    w[queue + QUEUE_HEAD + w[queue + LAST] % capacity] = call;
    w[queue + LAST] = (w[queue + LAST] + 1) % (capacity * 2);
    unlock(w, queue + LOCK);
  }

  /** The oldest, or -1. */
  take(index: number): number {
    const w = this.words;
    const queue = this.queue(index);
    const capacity = this.capacity(index);
    lock(w, queue + LOCK);
    let call = -1;
    // Under the lock: who is refused here is followed by a helper that leaves the line, and looks again.
    const may = index !== LOCK_LINE || Atomics.load(w, IN_LOCKS) < this.init.inLocks;
    if (may && w[queue + FIRST] !== w[queue + LAST]) {
      call = w[queue + QUEUE_HEAD + w[queue + FIRST] % capacity];
      w[queue + FIRST] = (w[queue + FIRST] + 1) % (capacity * 2);
      if (index === LOCK_LINE) Atomics.add(w, IN_LOCKS, 1);
    }
    unlock(w, queue + LOCK);
    return call;
  }

  /** Takes one out that may be anywhere in the queue. False where it is not in it. */
  remove(index: number, call: number): boolean {
    const w = this.words;
    const queue = this.queue(index);
    const capacity = this.capacity(index);
    lock(w, queue + LOCK);
    let found = false;
    for (let i = w[queue + FIRST]; i !== w[queue + LAST]; i = (i + 1) % (capacity * 2)) {
      const at = queue + QUEUE_HEAD + i % capacity;
      if (found) w[queue + QUEUE_HEAD + (i + capacity * 2 - 1) % capacity] = w[at];
      else found = w[at] === call;
    }
    if (found) w[queue + LAST] = (w[queue + LAST] + capacity * 2 - 1) % (capacity * 2);
    unlock(w, queue + LOCK);
    return found;
  }
}

/** How many helpers wait for a call; below 0: how many calls wait for a helper. For the control plane. */
export function idleHelpers(init: CallsInit): () => number {
  const words = new Int32Array(viewAt(init.addr, HEAD_WORDS * 4));
  return () => Atomics.load(words, WAITING);
}

/** A loop's side. */
export class Calls {
  /** What was handed over so far, at counts[countAt]. */
  counts = new Float64Array(1);
  countAt = 0;
  /** Slots whose calls were not taken yet. */
  inFlight = 0;
  readonly #shared: Shared;
  readonly #loop: number;

  /** `wantHelper` is called when a call leaves no helper that waits for the next; `bell` is the loop's own eventfd. */
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
    this.#post(slot, FIRST_LINE, number, args);
  }

  /** The same for a call that waits for a lock. */
  makeLock(slot: number, number: number, ...args: number[]): void {
    this.#post(slot, LOCK_LINE, number, args);
  }

  /**
   * Has a helper serve the request of a slot by the device's service, as `Service.handle` does. `chains` is where the loop's chains
   * lie. The result is the number of bytes written, or -errno where there is no answer yet. `lock`: it waits for a lock, maybe.
   */
  serve(slot: number, device: number, chains: HostAddr, lock: boolean): void {
    this.#post(slot, lock ? LOCK_LINE : FIRST_LINE, REQUEST, [device, chains]);
  }

  #post(slot: number, line: number, number: number, args: readonly (number | bigint)[]): void {
    const { words, longs } = this.#shared;
    const call = this.#call(slot);
    const at = this.#shared.at(call);
    this.counts[this.countAt]++;
    this.inFlight++;
    longs[at / 8 + NUMBER] = BigInt(number);
    for (let i = 0; i < 6; i++) longs[at / 8 + 1 + i] = BigInt(args[i] ?? 0);
    words[at / 4 + THREAD] = 0;
    Atomics.store(words, at / 4 + STATE, QUEUED);
    this.#shared.put(line, call);
    // A helper at work on the second line is counted when it begins: those in that line may have to stand there for long.
    const waiting = line === FIRST_LINE ? Atomics.sub(words, WAITING, 1) : Atomics.load(words, WAITING);
    if (waiting <= 1) this.wantHelper();
    signal(this.#shared.init.semaphore);
  }

  /** The next slot whose call is done, or -1. */
  take(): number {
    const call = this.#shared.take(LOOPS + this.#loop);
    if (call < 0) return -1;
    this.inFlight--;
    Atomics.store(this.#shared.words, this.#shared.at(call) / 4 + STATE, NONE);
    return call % SLOTS;
  }

  /** Whether a slot has a call that was not taken yet. */
  outstanding(slot: number): boolean {
    return Atomics.load(this.#shared.words, this.#shared.at(this.#call(slot)) / 4 + STATE) !== NONE;
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
    const call = this.#call(slot);
    const at = this.#shared.at(call) / 4;
    const was = Atomics.compareExchange(words, at + STATE, QUEUED, CANCELLED);
    if (was === QUEUED) return !this.#withdraw(call);
    if (was !== RUNNING && was !== CANCELLED) return false;
    Atomics.compareExchange(words, at + STATE, RUNNING, CANCELLED);
    lock(words, at + SIGNALLING);
    const thread = Atomics.load(words, at + THREAD);
    if (thread > 0 && Atomics.load(words, at + STATE) === CANCELLED) interrupt(thread);
    unlock(words, at + SIGNALLING);
    return true;
  }

  /** Ends a call that no helper has taken, without waiting for one. False where one has taken it now: it ends it itself. */
  #withdraw(call: number): boolean {
    const { words, longs } = this.#shared;
    if (this.#shared.remove(FIRST_LINE, call)) Atomics.add(words, WAITING, 1);
    else if (!this.#shared.remove(LOCK_LINE, call)) return false;
    const at = this.#shared.at(call);
    longs[at / 8 + RESULT] = BigInt(-EINTR);
    Atomics.store(words, at / 4 + STATE, DONE);
    this.#shared.put(LOOPS + this.#loop, call);
    signal(this.bell);
    return true;
  }

  #call(slot: number): number {
    return this.#loop * SLOTS + slot;
  }
}

/** What a helper does besides system calls. */
export interface HelperWork {
  /**
   * Serves the request of a loop's slot. Returns the bytes written, or -errno where nothing was. `inLocks`: it came by the line of what
   * may wait for another request; one of the other line must not, whatever the guest has made of it meanwhile.
   */
  serve(device: number, chains: HostAddr, slot: number, inLocks: boolean): number;
  /** There is nothing to do. Returns true where it is to be called again soon, whether or not there is. */
  idle(): boolean;
  /** Something threw: a fault of our own, which costs that one call. */
  fault(error: unknown): void;
}

/** How long a helper sleeps that is to be idle() again. */
const IDLE_MS = 20;

/** A helper: makes one call after the other, and never returns. Its thread can do nothing else. */
export function runHelper(init: CallsInit, bellFds: readonly number[], work: HelperWork): never {
  blockOtherSignals();
  const shared = new Shared(init);
  const { words } = shared;
  const thread = threadId();
  const token = new Uint8Array(8);
  const pollfd = new Uint8Array(8);
  new Int32Array(pollfd.buffer, 0, 1)[0] = init.semaphore;
  Atomics.add(words, WAITING, 1);
  for (;;) {
    let call = shared.take(FIRST_LINE);
    const inLocks = call < 0 && (call = shared.take(LOCK_LINE)) >= 0;
    if (call < 0) {
      // It may wait in there, and is not to be counted on.
      Atomics.sub(words, WAITING, 1);
      const again = work.idle();
      Atomics.add(words, WAITING, 1);
      if (again) {
        new DataView(pollfd.buffer).setUint32(4, POLLIN, true);
        if (libc.poll(pollfd, 1, IDLE_MS) <= 0) continue;
      }
      // There are more tokens than calls to make at times: a call may be taken without one.
      libc.read(init.semaphore, token, 8);
      continue;
    }
    if (inLocks) Atomics.sub(words, WAITING, 1);
    makeCall(shared, call, thread, work, inLocks);
    if (inLocks) Atomics.sub(words, IN_LOCKS, 1);
    Atomics.add(words, WAITING, 1);
    const loop = Math.floor(call / SLOTS);
    shared.put(LOOPS + loop, call);
    signal(bellFds[loop]);
  }
}

function makeCall(shared: Shared, call: number, thread: number, work: HelperWork, inLocks: boolean): void {
  const { words, longs } = shared;
  const at = shared.at(call);
  const state = at / 4 + STATE;
  Atomics.store(words, at / 4 + THREAD, thread);
  let result = BigInt(-EINTR);
  if (Atomics.compareExchange(words, state, QUEUED, RUNNING) === QUEUED) {
    const w = longs.subarray(at / 8, at / 8 + 8);
    try {
      if (w[NUMBER] === BigInt(REQUEST)) {
        result = BigInt(work.serve(Number(w[1]), Number(w[2]) as HostAddr, call % SLOTS, inLocks));
      } else {
        do {
          result = libc.syscall6(w[0], w[1], w[2], w[3], w[4], w[5], w[6]);
          if (result < 0n) result = BigInt(-errno());
          // Only a cancellation ends the call.
        } while (result === BigInt(-EINTR) && Atomics.load(words, state) === RUNNING);
      }
    } catch (fault) {
      // Else the others would wait for the lock for ever: the process ends.
      if (locksHeld() > 0) throw fault;
      work.fault(fault);
      result = BigInt(-EIO);
    }
  }
  longs[at / 8 + RESULT] = result;
  lock(words, at / 4 + SIGNALLING);
  const cancelled = Atomics.exchange(words, state, DONE) === CANCELLED;
  Atomics.store(words, at / 4 + THREAD, 0);
  unlock(words, at / 4 + SIGNALLING);
  // A signal that was sent too late is taken here, at the end of a system call that it does not harm, and not by the next call.
  if (cancelled) libc.sched_yield();
}
