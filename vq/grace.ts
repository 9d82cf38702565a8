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
/** Moments of retirement that are told apart at most. */
const GROUPS = 64;

/** Shared memory for the counters of `loops` loops. */
export const graceBytes = (loops: number) => loops * STRIDE * 4;

export class Grace {
  readonly #counters: Int32Array;
  readonly #own: number;
  readonly #loops: number;
  /** Retired descriptors, oldest first. */
  readonly #retired = new Descriptors();
  /** Retired within this batch, while no other loop was inside one. */
  readonly #ours = new Descriptors();
  /**
   * Those of `#retired` come in groups, each with the counters of the loops that were inside a batch when its last was retired (the
   * others' are 0). A ring: group g at g % GROUPS. `#ends` counts all descriptors up to the group's last.
   */
  readonly #seen: Int32Array;
  readonly #ends = new Float64Array(GROUPS);
  #firstGroup = 0;
  #groups = 0;

  constructor(shared: SharedArrayBuffer, own: number) {
    this.#counters = new Int32Array(shared);
    this.#loops = this.#counters.length / STRIDE;
    this.#seen = new Int32Array(GROUPS * this.#loops);
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
    while (this.#ours.count > 0) libc.close(this.#ours.shift());
    if (this.#groups > 0) this.#collect();
  }

  /** Whether this loop is in a batch. */
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
    if (this.#groups > 0 && this.#unchanged(last * this.#loops)) {
      this.#retired.push(fd);
      this.#ends[last] = this.#retired.pushed;
      return;
    }
    // Where there is no room for one more group, those in the last one wait longer than they need.
    const group = this.#groups < GROUPS ? (this.#firstGroup + this.#groups) % GROUPS : last;
    if (!this.#look(group * this.#loops)) {
      this.#ours.push(fd);
      return;
    }
    if (this.#groups < GROUPS) this.#groups++;
    this.#retired.push(fd);
    this.#ends[group] = this.#retired.pushed;
  }

  /** Gives loops that are about to leave their batches the time to, and closes; before a sleep. */
  settle(): void {
    for (let i = 0; i < 64 && this.#groups > 0; i++) {
      libc.sched_yield();
      this.#collect();
    }
  }

  /** The counter of a loop that is inside a batch, else 0. */
  #inside(loop: number): number {
    const at = loop * STRIDE;
    if (at === this.#own) return 0;
    const counter = Atomics.load(this.#counters, at);
    return (counter & 1) !== 0 ? counter : 0;
  }

  /** Notes who is inside a batch. False where nobody is. */
  #look(at: number): boolean {
    let any = 0;
    for (let i = 0; i < this.#loops; i++) any |= this.#seen[at + i] = this.#inside(i);
    return any !== 0;
  }

  #unchanged(at: number): boolean {
    for (let i = 0; i < this.#loops; i++) if (this.#seen[at + i] !== this.#inside(i)) return false;
    return true;
  }

  #collect(): void {
    while (this.#groups > 0 && this.#passed(this.#firstGroup * this.#loops)) {
      const end = this.#ends[this.#firstGroup];
      while (this.#retired.shifted < end) libc.close(this.#retired.shift());
      this.#firstGroup = (this.#firstGroup + 1) % GROUPS;
      this.#groups--;
    }
  }

  /** Whether every loop that was inside a batch has left it. */
  #passed(at: number): boolean {
    for (let i = 0; i < this.#loops; i++) {
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
