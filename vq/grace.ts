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

/** Moments of retirement that are told apart at most. */
const GROUPS = 64;

/** Shared memory for the counters of `loops` loops and so many helpers. */
export const graceBytes = (loops: number, helpers = 0) => (loops + helpers) * STRIDE * 4;

export class Grace {
  readonly #counters: Int32Array;
  readonly #own: number;
  readonly #loops: number;
  /** Lines that there are: of loops, and of helpers that may come. */
  readonly #lines: number;
  /** Retired descriptors, oldest first. */
  readonly #retired = new Descriptors();
  /** Retired within this batch, while nobody else was inside one. */
  readonly #ours = new Descriptors();
  /**
   * Those of `#retired` come in groups, each with the counters of the threads that were inside a batch when its last was retired (the
   * others' are 0). A ring: group g at g % GROUPS. `#ends` counts all descriptors up to the group's last.
   */
  readonly #seen: Int32Array;
  readonly #ends = new Float64Array(GROUPS);
  #firstGroup = 0;
  #groups = 0;

  /** `own` is the loop's number; a helper's comes behind those of the `loops` loops. */
  constructor(shared: SharedArrayBuffer, own: number, loops = shared.byteLength / 4 / STRIDE) {
    this.#counters = new Int32Array(shared);
    this.#lines = this.#counters.length / STRIDE;
    this.#loops = loops;
    this.#seen = new Int32Array(GROUPS * this.#lines);
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
    if (this.owes) this.close();
    if (this.#groups > 0) this.collect();
  }

  /** Whether something waits for this batch alone. */
  get owes(): boolean {
    return this.#ours.count > 0;
  }

  /** Closes that within the batch, when all that it has prepared so far was submitted. */
  close(): void {
    while (this.#ours.count > 0) libc.close(this.#ours.shift());
  }

  /** Whether this thread is in a batch. */
  get inside(): boolean {
    return (this.#counters[this.#own] & 1) !== 0;
  }

  get waiting(): boolean {
    return this.#groups > 0;
  }

  /** Closes a descriptor that is in no shared table any more, as soon as nobody can mean it. */
  retire(fd: number): void {
    const last = (this.#firstGroup + this.#groups - 1) % GROUPS;
    // Usually the others are where they were at the last look, and the descriptor joins that group.
    if (this.#groups > 0 && this.#unchanged(last * this.#lines)) {
      this.#retired.push(fd);
      this.#ends[last] = this.#retired.pushed;
      return;
    }
    // Where there is no room for one more group, those in the last one wait longer than they need.
    const group = this.#groups < GROUPS ? (this.#firstGroup + this.#groups) % GROUPS : last;
    if (!this.#look(group * this.#lines)) {
      this.#ours.push(fd);
      return;
    }
    if (this.#groups < GROUPS) this.#groups++;
    this.#retired.push(fd);
    this.#ends[group] = this.#retired.pushed;
  }

  /** Gives loops that are about to leave their batches the time to, and closes; before a sleep. A helper will ring: see `sleepers`. */
  settle(): void {
    for (let i = 0; i < 64 && this.#groups > 0 && this.#loopsInside(); i++) {
      libc.sched_yield();
      this.collect();
    }
    if (this.#groups === 0) return;
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
    while (this.#groups > 0 && this.#passed(this.#firstGroup * this.#lines)) {
      const end = this.#ends[this.#firstGroup];
      while (this.#retired.shifted < end) libc.close(this.#retired.shift());
      this.#firstGroup = (this.#firstGroup + 1) % GROUPS;
      this.#groups--;
    }
  }

  get #helpers(): number {
    return Atomics.load(this.#counters, HELPERS);
  }

  get #members(): number {
    return this.#loops + this.#helpers;
  }

  /** The counter of a thread that is inside a batch, else 0; of this one always 0. */
  #inside(member: number): number {
    const at = member * STRIDE;
    if (at === this.#own) return 0;
    const counter = Atomics.load(this.#counters, at);
    return (counter & 1) !== 0 ? counter : 0;
  }

  #loopsInside(): boolean {
    for (let i = 0; i < this.#loops; i++) if (this.#inside(i) !== 0) return true;
    return false;
  }

  /** Notes who is inside a batch. False where nobody is. */
  #look(at: number): boolean {
    const members = this.#members;
    let any = 0;
    for (let i = 0; i < members; i++) any |= this.#seen[at + i] = this.#inside(i);
    // Who comes later finds nothing that was retired before.
    for (let i = members; i < this.#lines; i++) this.#seen[at + i] = 0;
    return any !== 0;
  }

  #unchanged(at: number): boolean {
    const members = this.#members;
    for (let i = 0; i < members; i++) if (this.#seen[at + i] !== this.#inside(i)) return false;
    return true;
  }

  /** Whether every thread that was inside a batch has left it. */
  #passed(at: number): boolean {
    for (let i = 0; i < this.#lines; i++) {
      const counter = this.#seen[at + i];
      if (counter !== 0 && Atomics.load(this.#counters, i * STRIDE) === counter) return false;
    }
    return true;
  }
}

/** A queue of descriptors that allocates only when it becomes longer than ever. Its room is a power of two. */
class Descriptors {
  /** How many were ever pushed, and shifted. */
  pushed = 0;
  shifted = 0;
  #ring = new Int32Array(64);

  get count(): number {
    return this.pushed - this.shifted;
  }

  push(fd: number): void {
    if (this.count === this.#ring.length) this.#grow();
    this.#ring[this.pushed++ & (this.#ring.length - 1)] = fd;
  }

  /** The oldest; there must be one. */
  shift(): number {
    return this.#ring[this.shifted++ & (this.#ring.length - 1)];
  }

  #grow(): void {
    const old = this.#ring;
    this.#ring = new Int32Array(old.length * 2);
    for (let i = this.shifted; i < this.pushed; i++) {
      this.#ring[i & (this.#ring.length - 1)] = old[i & (old.length - 1)];
    }
  }
}
