/**
 * The handle table: what the guest knows by an `fh`. In shared memory, as the node table. A handle is never a raw descriptor, which
 * would let a guest name our sockets: its lower 20 bits are a slot, the 12 above them count how often the slot was used.
 *
 * Looking a handle up is plain loads. That suffices for a handle that a guest was told: between its making and its use lie the used
 * ring's index and the available ring's, stored and loaded by Atomics. But a guest may guess the next fh and use it while another loop
 * makes it, and arm64 may load the descriptor before the key: it then finds what the slot held before. So a slot that is not in use
 * holds no descriptor, not even one of before, which may be a socket's number by now.
 */
import { allocate, type HostAddr, unmapAt, viewAt } from "../ffi/memory.ts";
import { Slots } from "./slots.ts";

const SLOT_MASK = 0xfffff;
/** Open files at most: the process's descriptors end before. Without the last slot, whose fh could be all ones, and its KEY so 0. */
const SLOTS = SLOT_MASK;
const WORDS = 8;

// Words of a handle.
/** The fh with all bits flipped while it is open, else 0. */
const KEY = 0;
/** The descriptor, flipped as well, else 0, which is -1 then. */
const FD = 1;
const KIND = 2;
/** Directories: the offset at which the descriptor stands, or both -1 where that is not known. */
const POSITION_LO = 3;
const POSITION_HI = 4;
/** Files: not 0 when O_NONBLOCK, with which they are opened, was taken off. */
const WAITS = 3;
/** How often the slot was used. */
const USES = 5;
/** Files: what is known of reading without waiting, see ops_file.ts; 0 at first. */
const READING = 6;
/** Of a free slot: the next one. */
const LINK = 7;

/** Words of the head. */
const SLOTS_HEAD = 0;
const OPEN = 16;
const WARNED = 17;
const HANDLES_AT = 32;
const BYTES = (HANDLES_AT + SLOTS * WORDS) * 4;

export const KIND_FILE = 1;
export const KIND_DIR = 2;

/** Takes the memory of a table. */
export function allocateHandles(): HostAddr {
  return allocate(BYTES).addr;
}

/** Gives it back. No loop may use the table any more. */
export function freeHandles(addr: HostAddr): void {
  unmapAt(addr, BYTES);
}

/** Handles that are open now. For whoever only looks. */
export function countHandles(addr: HostAddr): number {
  return Atomics.load(new Int32Array(viewAt(addr, (OPEN + 1) * 4)), OPEN);
}

export class HandleTable {
  readonly #words: Int32Array<ArrayBuffer>;
  readonly #slots: Slots;

  constructor(addr: HostAddr) {
    this.#words = new Int32Array(viewAt(addr, BYTES));
    const layout = { head: SLOTS_HEAD, first: HANDLES_AT, words: WORDS, link: LINK, count: SLOTS };
    this.#slots = new Slots(this.#words, layout);
  }

  /** Handles that are open now. */
  get open(): number {
    return Atomics.load(this.#words, OPEN);
  }

  /** Notes whether the log was told that descriptors run out, for all threads. Returns whether that is news. */
  setWarned(warned: boolean): boolean {
    const now = warned ? 1 : 0;
    return Atomics.load(this.#words, WARNED) !== now && Atomics.exchange(this.#words, WARNED, now) !== now;
  }

  /** Opens a handle for a descriptor, which is the table's from now on. Returns the fh, unsigned, or -1 where the table is full. */
  insert(fd: number, kind: number): number {
    const w = this.#words;
    const slot = this.#slots.take();
    if (slot < 0) return -1;
    const at = HANDLES_AT + slot * WORDS;
    const uses = w[at + USES] = (w[at + USES] + 1) & 0xfff;
    const fh = uses << 20 | slot;
    w[at + FD] = ~fd;
    w[at + KIND] = kind;
    w[at + POSITION_LO] = w[at + POSITION_HI] = w[at + READING] = 0;
    // Flipped, so that a slot never used (all zeros) is no handle 0.
    Atomics.store(w, at + KEY, ~fh);
    Atomics.add(w, OPEN, 1);
    return fh >>> 0;
  }

  /** The descriptor of an fh of that kind, or -1 where it names nothing. */
  fd(lo: number, hi: number, kind: number): number {
    const w = this.#words;
    const at = HANDLES_AT + (lo & SLOT_MASK) * WORDS;
    if (hi !== 0 || w[at + KEY] !== ~lo || w[at + KIND] !== kind) return -1;
    return ~w[at + FD];
  }

  /** Closes a handle. Returns its descriptor, which is the caller's to close, or -1 where the fh names nothing. */
  remove(lo: number, hi: number, kind: number): number {
    const fd = this.fd(lo, hi, kind);
    if (fd < 0) return -1;
    const w = this.#words;
    const slot = lo & SLOT_MASK;
    const key = HANDLES_AT + slot * WORDS + KEY;
    // Two loops may be told to release the same handle: one of them does.
    if (Atomics.compareExchange(w, key, ~lo, 0) !== ~lo) return -1;
    // Before the caller asks which loops may have seen it (vq/grace.ts): one whose batch begins later does not find it.
    Atomics.store(w, key + FD - KEY, 0);
    Atomics.sub(w, OPEN, 1);
    this.#slots.give(slot);
    return fd;
  }

  /** What was noted of reading a file. */
  reading(fh: number): number {
    return this.#words[HANDLES_AT + (fh & SLOT_MASK) * WORDS + READING];
  }

  setReading(fh: number, how: number): void {
    this.#words[HANDLES_AT + (fh & SLOT_MASK) * WORDS + READING] = how;
  }

  /** Notes that a file's descriptor is without O_NONBLOCK. False where that was noted before. */
  setWaits(fh: number): boolean {
    const at = HANDLES_AT + (fh & SLOT_MASK) * WORDS + WAITS;
    if (this.#words[at] !== 0) return false;
    this.#words[at] = 1;
    return true;
  }

  /** Whether a directory's descriptor stands at the offset. */
  standsAt(fh: number, lo: number, hi: number): boolean {
    const at = HANDLES_AT + (fh & SLOT_MASK) * WORDS;
    return this.#words[at + POSITION_LO] === (lo | 0) && this.#words[at + POSITION_HI] === (hi | 0);
  }

  /** Notes where a directory's descriptor stands; (-1, -1): unknown. */
  setPosition(fh: number, lo: number, hi: number): void {
    const at = HANDLES_AT + (fh & SLOT_MASK) * WORDS;
    this.#words[at + POSITION_LO] = lo;
    this.#words[at + POSITION_HI] = hi;
  }

  /** Closes every handle, and hands each descriptor to `close`. No other loop may use the table meanwhile. */
  clear(close: (fd: number) => void): void {
    const w = this.#words;
    const { used } = this.#slots;
    for (let slot = 0; slot < used; slot++) {
      const at = HANDLES_AT + slot * WORDS;
      if (w[at + KEY] !== 0) close(~w[at + FD]);
      w[at + KEY] = w[at + FD] = 0;
    }
    w[OPEN] = 0;
    // The uses stay, so that an fh of before the clearing names nothing after it.
    this.#slots.reset(0);
  }

  /** The table was cleared by another loop. */
  forgetFree(): void {
    this.#slots.forget();
  }
}
