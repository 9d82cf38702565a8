/**
 * Spin locks in shared memory, for the few places where a table changes. They are held for some stores, never over a system
 * call, so a waiter spins shortly and then yields its CPU, to a holder that was preempted perhaps.
 */
import { libc } from "../ffi/libc.ts";

/** Takes the lock at words[at]. Returns whether somebody else held it at first. */
export function lock(words: Int32Array, at: number): boolean {
  if (Atomics.compareExchange(words, at, 0, 1) === 0) return false;
  for (let spins = 1; Atomics.compareExchange(words, at, 0, 1) !== 0; spins++) {
    if (spins % 64 === 0) libc.sched_yield();
  }
  return true;
}

export function unlock(words: Int32Array, at: number): void {
  Atomics.store(words, at, 0);
}
