/**
 * Descriptors are closed only when no loop can still mean them. A loop that found a descriptor in a shared table may use its
 * number until the end of its batch, so a number that another loop takes out of the table must not be given to something else
 * before: a guest could reach our sockets, or another guest's files, by it. This is the grace period of RCU: each loop counts
 * its batches in shared memory, odd while it is in one, and a descriptor is closed when every loop that was inside a batch when it
 * was retired has left that batch.
 *
 * An operation that the kernel hands to a worker thread at once (fsync, fallocate, statx, …) looks its descriptor up there, maybe
 * after the batch: it needs a descriptor of its own, which lives until its completion.
 */
import { libc } from "../ffi/libc.ts";

/** Words from one loop's counter to the next: a cache line. */
const STRIDE = 16;

/** Shared memory for the counters of `loops` loops. */
export const graceBytes = (loops: number) => loops * STRIDE * 4;

export class Grace {
  readonly #counters: Int32Array;
  readonly #own: number;
  readonly #loops: number;
  /** Retired descriptors, oldest first, each with the counters of all loops when it was retired. */
  readonly #retired: { fd: number; seen: Int32Array }[] = [];
  /** Retired within this batch, while no other loop was inside one. */
  readonly #ours: number[] = [];

  constructor(shared: SharedArrayBuffer, own: number) {
    this.#counters = new Int32Array(shared);
    this.#loops = this.#counters.length / STRIDE;
    this.#own = own * STRIDE;
  }

  /** A batch begins: what is read from shared tables from now on may be used until `leave`. */
  enter(): void {
    Atomics.store(this.#counters, this.#own, (this.#counters[this.#own] + 1) | 0);
    // The tables are read by plain loads, which arm64 may do before the store; but not before a load that comes between.
    Atomics.load(this.#counters, this.#own);
  }

  /** A batch ended, and all that it prepared was submitted. Closes what can be closed. */
  leave(): void {
    Atomics.store(this.#counters, this.#own, (this.#counters[this.#own] + 1) | 0);
    while (this.#ours.length > 0) libc.close(this.#ours.pop()!);
    if (this.#retired.length > 0) this.#collect();
  }

  /** Whether this loop is in a batch. */
  get inside(): boolean {
    return (this.#counters[this.#own] & 1) !== 0;
  }

  get waiting(): boolean {
    return this.#retired.length > 0;
  }

  /** Closes a descriptor that is in no shared table any more, as soon as nobody can mean it. */
  retire(fd: number): void {
    if (this.#othersInside()) this.#retired.push({ fd, seen: this.#counters.slice() });
    else this.#ours.push(fd);
  }

  /** Gives loops that are about to leave their batches the time to, and closes; before a sleep. */
  settle(): void {
    for (let i = 0; i < 64 && this.#retired.length > 0; i++) {
      libc.sched_yield();
      this.#collect();
    }
  }

  #othersInside(): boolean {
    for (let i = 0; i < this.#loops; i++) {
      const at = i * STRIDE;
      if (at !== this.#own && (Atomics.load(this.#counters, at) & 1) !== 0) return true;
    }
    return false;
  }

  #collect(): void {
    while (this.#retired.length > 0 && this.#passed(this.#retired[0].seen)) libc.close(this.#retired.shift()!.fd);
  }

  /** Whether every loop that was inside a batch at `seen` has left it. */
  #passed(seen: Int32Array): boolean {
    for (let i = 0; i < this.#loops; i++) {
      const at = i * STRIDE;
      if (at === this.#own || (seen[at] & 1) === 0) continue;
      if (Atomics.load(this.#counters, at) === seen[at]) return false;
    }
    return true;
  }
}
