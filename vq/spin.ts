/**
 * Spin locks in shared memory, for the few places where a table changes. They are held for some stores, never over a system
 * call, so a waiter spins shortly and then yields its CPU, to a holder that was preempted perhaps.
 *
 * Each thread counts the locks that it takes: a request of the usual kinds takes none, and a test can show it.
 */
import { libc } from "../ffi/libc.ts";

/** Words of a thread's counters: a cache line. */
const STRIDE = 16;
const TAKEN = 0;
const CONTENDED = 1;

/** This thread's counters. */
let counts: Int32Array = new Int32Array(STRIDE);

/** Locks that this thread holds now. */
let holding = 0;

/**
 * The same, to be asked after a fault. What a lock guards is changed by stores to typed arrays, which throw nothing; if one was held all the
 * same, the table under it may be half changed.
 */
export const locksHeld = (): number => holding;

/** What some threads have counted: locks taken, and those of them that somebody else held at first. */
export interface LockCounts {
  taken: number;
  contended: number;
}

/** Memory for the counters of so many threads. */
export const lockCountsBytes = (threads: number) => threads * STRIDE * 4;

/** Has this thread count where others can read it. */
export function countLocksIn(shared: SharedArrayBuffer, thread: number): void {
  counts = new Int32Array(shared, thread * STRIDE * 4, STRIDE);
}

/** The counts of all threads together, modulo 2^32. */
export function lockCounts(shared: SharedArrayBuffer): LockCounts {
  const words = new Int32Array(shared);
  const sum = { taken: 0, contended: 0 };
  for (let at = 0; at < words.length; at += STRIDE) {
    sum.taken = (sum.taken + Atomics.load(words, at + TAKEN)) >>> 0;
    sum.contended = (sum.contended + Atomics.load(words, at + CONTENDED)) >>> 0;
  }
  return sum;
}

/** Takes the lock at words[at]. Returns whether somebody else held it at first. */
export function lock(words: Int32Array, at: number): boolean {
  counts[TAKEN]++;
  holding++;
  if (Atomics.compareExchange(words, at, 0, 1) === 0) return false;
  counts[CONTENDED]++;
  for (let spins = 1; Atomics.compareExchange(words, at, 0, 1) !== 0; spins++) {
    if (spins % 64 === 0) libc.sched_yield();
  }
  return true;
}

export function unlock(words: Int32Array, at: number): void {
  holding--;
  Atomics.store(words, at, 0);
}
