/**
 * The FUSE session of a device: one for all its loops, in shared memory. Its state is a word that each request reads.
 *
 * INIT and DESTROY need the session for themselves: they set the state to draining, which makes every loop refuse new requests,
 * and wait until no loop has one in flight. There is no reader-writer lock: a loop that becomes busy says so in a word of its own
 * before it reads the state.
 */
import { allocate, type HostAddr, unmapAt, viewAt } from "../ffi/memory.ts";
import { lock, unlock } from "../vq/spin.ts";

/** Before INIT, and after DESTROY. */
export const STATE_NEW = 0;
export const STATE_RUNNING = 1;
/** INIT or DESTROY waits for the requests in flight. */
export const STATE_DRAINING = 2;

const STATE = 0;
/** Raised when all nodes and handles were forgotten. */
const EPOCH = 1;
/** The loop on which INIT or DESTROY waits. */
const WAITER = 2;
/** The client's minor version and what was agreed on. */
const MINOR = 3;
const FLAGS = 4;
const FLAGS2 = 5;
/** Open files that the process may have for this share: its part of the limit. */
const DESCRIPTORS = 6;
/** Per loop, a cache line each: whether it has requests in flight. */
const BUSY = 16;
const LINE = 16;

/** Per loop behind that: a lock, a count, and the uniques of requests to be interrupted that may be the loop's. */
const MAILBOX_ROOM = 31;
const MAILBOX = 2 + 2 * MAILBOX_ROOM;

const bytes = (loops: number) => (BUSY + loops * (LINE + MAILBOX)) * 4;

export function allocateSession(loops: number): HostAddr {
  return allocate(bytes(loops)).addr;
}

/** Sets how many descriptors the share may count on, at any time. */
export function setDescriptors(addr: HostAddr, descriptors: number): void {
  new Int32Array(viewAt(addr, BUSY * 4))[DESCRIPTORS] = Math.min(descriptors, 2 ** 31 - 1);
}

/** What was set. */
export function descriptorsOf(addr: HostAddr): number {
  return new Int32Array(viewAt(addr, BUSY * 4))[DESCRIPTORS];
}

/** Gives it back. No loop may use the session any more. */
export function freeSession(addr: HostAddr, loops: number): void {
  unmapAt(addr, bytes(loops));
}

export class Session {
  readonly #words: Int32Array<ArrayBuffer>;
  readonly #loops: number;
  readonly #own: number;
  readonly #index: number;
  /** The state in which this loop became busy. */
  #begun = STATE_NEW;

  /** A loop's view of the session. */
  constructor(addr: HostAddr, loops: number, index: number) {
    this.#words = new Int32Array(viewAt(addr, bytes(loops)));
    this.#loops = loops;
    this.#index = index;
    this.#own = BUSY + index * LINE;
  }

  /**
   * What is read behind a state of RUNNING, such as the epoch, is of that session or later: on arm64 a plain load may be done after one
   * that follows. Where this loop became busy in a running session it needs no more than that, for no other session begins before it
   * is idle.
   */
  get state(): number {
    return this.#begun === STATE_RUNNING ? this.#words[STATE] : Atomics.load(this.#words, STATE);
  }

  get epoch(): number {
    return this.#words[EPOCH];
  }

  get minor(): number {
    return this.#words[MINOR];
  }

  get flags(): number {
    return this.#words[FLAGS];
  }

  get flags2(): number {
    return this.#words[FLAGS2];
  }

  get descriptors(): number {
    return this.#words[DESCRIPTORS];
  }

  /** This loop has requests in flight from now on. */
  begin(): void {
    Atomics.store(this.#words, this.#own, 1);
    // The store is visible before any later read of the state: both accesses are sequentially consistent.
    this.#begun = Atomics.load(this.#words, STATE);
  }

  /** It has none any more. Returns the loop that waits for this, or -1. */
  end(): number {
    this.#begun = STATE_NEW;
    Atomics.store(this.#words, this.#own, 0);
    return Atomics.load(this.#words, STATE) === STATE_DRAINING ? Atomics.load(this.#words, WAITER) : -1;
  }

  /** Asks for the session. False where INIT or DESTROY of another loop has asked already. */
  drain(): boolean {
    const w = this.#words;
    const state = Atomics.load(w, STATE);
    if (state === STATE_DRAINING || Atomics.compareExchange(w, STATE, state, STATE_DRAINING) !== state) return false;
    // Only the winner, and before it looks whether the others are idle: who ends after that look sees who waits.
    Atomics.store(w, WAITER, this.#index);
    return true;
  }

  /** Leaves a loop the unique of a request to interrupt. False where its mailbox is full: an interrupt is a wish. */
  postInterrupt(loop: number, lo: number, hi: number): boolean {
    const w = this.#words;
    const at = this.#mailbox(loop);
    lock(w, at);
    const count = w[at + 1];
    if (count < MAILBOX_ROOM) {
      w[at + 2 + count * 2] = lo;
      w[at + 3 + count * 2] = hi;
      w[at + 1]++;
    }
    unlock(w, at);
    return count < MAILBOX_ROOM;
  }

  /** Calls `found` with each unique that was left for this loop. */
  takeInterrupts(found: (lo: number, hi: number) => void): void {
    const w = this.#words;
    const at = this.#mailbox(this.#index);
    if (Atomics.load(w, at + 1) === 0) return;
    lock(w, at);
    const taken = w.slice(at + 2, at + 2 + w[at + 1] * 2);
    w[at + 1] = 0;
    unlock(w, at);
    for (let i = 0; i < taken.length; i += 2) found(taken[i] >>> 0, taken[i + 1] >>> 0);
  }

  #mailbox(loop: number): number {
    return BUSY + this.#loops * LINE + loop * MAILBOX;
  }

  /** Whether no other loop has requests in flight. */
  get othersIdle(): boolean {
    for (let i = 0; i < this.#loops; i++) {
      const at = BUSY + i * LINE;
      if (at !== this.#own && Atomics.load(this.#words, at) !== 0) return false;
    }
    return true;
  }

  /** All nodes and handles are gone. The state stays: draining, until `start` or `close`. */
  forget(): void {
    const w = this.#words;
    Atomics.add(w, EPOCH, 1);
    w[MINOR] = w[FLAGS] = w[FLAGS2] = 0;
  }

  /** DESTROY was answered, or the guest is gone. */
  close(): void {
    Atomics.store(this.#words, STATE, STATE_NEW);
  }

  /** INIT was answered. */
  start(minor: number, flags: number, flags2: number): void {
    const w = this.#words;
    w[MINOR] = minor;
    w[FLAGS] = flags;
    w[FLAGS2] = flags2;
    Atomics.store(w, STATE, STATE_RUNNING);
  }
}
