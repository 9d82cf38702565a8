/**
 * Descriptors are closed only when no thread can still mean them. A loop that found a descriptor in a shared table may use its
 * number until the end of its batch, so a number that another loop takes out of the table must not be given to something else
 * before: a guest could reach our sockets, or another guest's files, by it. This is the grace period of RCU: each loop counts
 * its batches in shared memory, odd while it is in one, and a descriptor is closed when every loop that was inside a batch when it
 * was retired has left that batch. A helper that serves a request is inside a batch of its own.
 *
 * A request may keep a helper for long, and then nothing that is retired meanwhile is closed. Nobody waits for that: what is retired
 * is kept, a number each, and bounded as descriptors are.
 *
 * An operation that the kernel hands to a worker thread at once (fsync, fallocate, statx, …) looks its descriptor up there, maybe
 * after the batch: it needs a descriptor of its own, which lives until its completion.
 */
import { libc } from "../ffi/libc.ts";

/** Words from one thread's counter to the next: a cache line. */
const STRIDE = 16;
/** Words of a thread's line: its counter, and whether it sleeps until a helper leaves its batch. */
const SLEEPS = 1;
/** In the first line: helpers that were ever there. */
const HELPERS = 2;

/** Moments at which descriptors were retired that are told apart at most. */
const GROUPS = 16;

/** Shared memory for the counters of `loops` loops and so many helpers. */
export const graceBytes = (loops: number, helpers = 0) => (loops + helpers) * STRIDE * 4;

export class Grace {
  readonly #counters: Int32Array;
  readonly #own: number;
  readonly #loops: number;
  /** Retired descriptors, oldest first, with the counters of all threads when the last of each group was retired. */
  readonly #retired: { fds: number[]; seen: Int32Array }[] = [];
  /** Retired within this batch, while nobody else was inside one. */
  readonly #ours: number[] = [];

  /** `own` is the loop's number; a helper's comes behind those of the `loops` loops. */
  constructor(shared: SharedArrayBuffer, own: number, loops = shared.byteLength / 4 / STRIDE) {
    this.#counters = new Int32Array(shared);
    this.#loops = loops;
    this.#own = own * STRIDE;
    // Helpers are numbered as they start.
    for (const helpers = own - loops + 1; this.#helpers < helpers;) {
      Atomics.compareExchange(this.#counters, HELPERS, this.#helpers, helpers);
    }
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
    if (this.#retired.length > 0) this.collect();
  }

  /** Whether this thread is in a batch. */
  get inside(): boolean {
    return (this.#counters[this.#own] & 1) !== 0;
  }

  get waiting(): boolean {
    return this.#retired.length > 0;
  }

  /** Closes a descriptor that is in no shared table any more, as soon as nobody can mean it. */
  retire(fd: number): void {
    if (!this.#othersInside(this.#members)) {
      this.#ours.push(fd);
      return;
    }
    const seen = this.#counters.slice();
    if (this.#retired.length < GROUPS) {
      this.#retired.push({ fds: [fd], seen });
    } else {
      // Those that were there wait a little longer than they need.
      const last = this.#retired[GROUPS - 1];
      last.fds.push(fd);
      last.seen = seen;
    }
  }

  /** Gives loops that are about to leave their batches the time to, and closes; before a sleep. A helper will ring: see `sleepers`. */
  settle(): void {
    for (let i = 0; i < 64 && this.#retired.length > 0 && this.#othersInside(this.#loops); i++) {
      libc.sched_yield();
      this.collect();
    }
    if (this.#retired.length === 0) return;
    // Said first, then looked at once more: a helper that leaves does it the other way round.
    Atomics.store(this.#counters, this.#own + SLEEPS, 1);
    this.collect();
  }

  /** For a helper that has left its batch: calls `ring` with each loop that sleeps while it has something to close. */
  sleepers(ring: (loop: number) => void): void {
    for (let i = 0; i < this.#loops; i++) {
      const at = i * STRIDE + SLEEPS;
      if (Atomics.load(this.#counters, at) === 1 && Atomics.exchange(this.#counters, at, 0) === 1) ring(i);
    }
  }

  /** Closes what can be closed by now. */
  collect(): void {
    while (this.#retired.length > 0 && this.#passed(this.#retired[0].seen)) {
      for (const fd of this.#retired.shift()!.fds) libc.close(fd);
    }
  }

  get #helpers(): number {
    return Atomics.load(this.#counters, HELPERS);
  }

  get #members(): number {
    return this.#loops + this.#helpers;
  }

  /** Whether one of the first `members` threads is in a batch, this one not counted. */
  #othersInside(members: number): boolean {
    for (let i = 0; i < members; i++) {
      const at = i * STRIDE;
      if (at !== this.#own && (Atomics.load(this.#counters, at) & 1) !== 0) return true;
    }
    return false;
  }

  /** Whether every thread that was inside a batch at `seen` has left it. */
  #passed(seen: Int32Array): boolean {
    const members = this.#members;
    for (let i = 0; i < members; i++) {
      const at = i * STRIDE;
      if (at === this.#own || (seen[at] & 1) === 0) continue;
      if (Atomics.load(this.#counters, at) === seen[at]) return false;
    }
    return true;
  }
}
