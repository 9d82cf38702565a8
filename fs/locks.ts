/**
 * Who holds POSIX locks: for each (node, lock owner) of the guest a descriptor of the host, whose open file description owns the
 * locks there (F_OFD_SETLK, fcntl(2)). So owners exclude each other as processes do, in this guest, in others and on the host, and an
 * owner's locks go when its descriptor is closed. One table in shared memory for all loops, under one lock: locking is rare.
 */
import { allocate, type HostAddr, unmapAt, viewAt } from "../ffi/memory.ts";
import { lock, unlock } from "../vq/spin.ts";

/** Owners at most. */
const SLOTS = 16384;
const WORDS = 8;

const LOCK = 0;
const COUNT = 1;
const ENTRIES = 16;
const BYTES = (ENTRIES + SLOTS * WORDS) * 4;

// Words of an entry; the first `COUNT` entries are in use.
const NODE = 0;
const GENERATION = 1;
const OWNER_LO = 2;
const OWNER_HI = 3;
const FD = 4;
/** The handle through which the descriptor came to be. */
const HANDLE = 5;

export function allocateLocks(): HostAddr {
  return allocate(BYTES).addr;
}

/** Gives it back. No loop may use the table any more. */
export function freeLocks(addr: HostAddr): void {
  unmapAt(addr, BYTES);
}

/** Owners that have a descriptor. For whoever only looks. */
export function countOwners(addr: HostAddr): number {
  return Atomics.load(new Int32Array(viewAt(addr, (COUNT + 1) * 4)), COUNT);
}

export class LockTable {
  readonly #words: Int32Array<ArrayBuffer>;

  constructor(addr: HostAddr) {
    this.#words = new Int32Array(viewAt(addr, BYTES));
  }

  /** Owners that have a descriptor. */
  get owners(): number {
    return Atomics.load(this.#words, COUNT);
  }

  /** The descriptor of an owner, or -1. */
  fd(node: number, generation: number, ownerLo: number, ownerHi: number): number {
    lock(this.#words, LOCK);
    const at = this.#find(node, generation, ownerLo, ownerHi);
    const fd = at < 0 ? -1 : this.#words[at + FD];
    unlock(this.#words, LOCK);
    return fd;
  }

  /**
   * Gives an owner a descriptor, which is the table's from now on. Returns it, or the one that another loop gave it meanwhile (the
   * caller closes its own then), or -1 where the table is full.
   */
  insert(node: number, generation: number, ownerLo: number, ownerHi: number, fd: number, handle: number): number {
    const w = this.#words;
    lock(w, LOCK);
    let at = this.#find(node, generation, ownerLo, ownerHi);
    let result = -1;
    if (at >= 0) {
      result = w[at + FD];
    } else if (w[COUNT] < SLOTS) {
      at = ENTRIES + w[COUNT]++ * WORDS;
      w[at + NODE] = node;
      w[at + GENERATION] = generation;
      w[at + OWNER_LO] = ownerLo;
      w[at + OWNER_HI] = ownerHi;
      w[at + FD] = result = fd;
      w[at + HANDLE] = handle;
    }
    unlock(w, LOCK);
    return result;
  }

  /** Takes an owner's descriptor out: the caller closes it. -1 where it has none. */
  remove(node: number, generation: number, ownerLo: number, ownerHi: number): number {
    const w = this.#words;
    if (Atomics.load(w, COUNT) === 0) return -1;
    lock(w, LOCK);
    const at = this.#find(node, generation, ownerLo, ownerHi);
    const fd = at < 0 ? -1 : w[at + FD];
    if (at >= 0) this.#takeOut(at);
    unlock(w, LOCK);
    return fd;
  }

  /**
   * Takes out an owner that came by a handle, and returns its descriptor; -1: there is none (any more). When a handle is released its
   * processes have flushed, so the owners that are left are open files of the guest (F_OFD_SETLK there).
   */
  removeOf(handle: number): number {
    const w = this.#words;
    if (Atomics.load(w, COUNT) === 0) return -1;
    lock(w, LOCK);
    let fd = -1;
    for (let i = 0; i < w[COUNT] && fd < 0; i++) {
      const at = ENTRIES + i * WORDS;
      if (w[at + HANDLE] !== (handle | 0)) continue;
      fd = w[at + FD];
      this.#takeOut(at);
    }
    unlock(w, LOCK);
    return fd;
  }

  /** The last entry takes the place of one that goes. */
  #takeOut(at: number): void {
    const w = this.#words;
    const last = ENTRIES + --w[COUNT] * WORDS;
    w.copyWithin(at, last, last + WORDS);
  }

  /** Hands every descriptor to `close`. No other loop may use the table meanwhile. */
  clear(close: (fd: number) => void): void {
    const w = this.#words;
    for (let i = 0; i < w[COUNT]; i++) close(w[ENTRIES + i * WORDS + FD]);
    w[COUNT] = 0;
  }

  #find(node: number, generation: number, ownerLo: number, ownerHi: number): number {
    const w = this.#words;
    for (let i = 0; i < w[COUNT]; i++) {
      const at = ENTRIES + i * WORDS;
      if (
        w[at + NODE] === node && w[at + GENERATION] === generation && w[at + OWNER_LO] === (ownerLo | 0) &&
        w[at + OWNER_HI] === (ownerHi | 0)
      ) return at;
    }
    return -1;
  }
}
