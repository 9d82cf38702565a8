/**
 * Descriptors by which file handles are opened: one for each mount that has nodes without a descriptor of their own. The share's own
 * mount has its descriptor for good; that of a mount below it goes when its last such node does, so that the host can
 * unmount it. In shared memory, under one lock: only mounts below the share come here.
 */
import { allocate, type HostAddr, unmapAt, viewAt } from "../ffi/memory.ts";
import { lock, unlock } from "../vq/spin.ts";

/** Mounts below the share at most; the files of others keep descriptors. */
const SLOTS = 1024;
const WORDS = 4;

const LOCK = 0;
const COUNT = 1;
const ENTRIES = 16;
const BYTES = (ENTRIES + SLOTS * WORDS) * 4;

// Words of an entry; the first `COUNT` entries are in use.
const MOUNT = 0;
const FD = 1;
/** Nodes that are opened by it. */
const NODES = 2;

export function allocateMounts(): HostAddr {
  return allocate(BYTES).addr;
}

/** Gives it back. No loop may use the table any more. */
export function freeMounts(addr: HostAddr): void {
  unmapAt(addr, BYTES);
}

/** Mounts that have a descriptor. For whoever only looks. */
export function countMounts(addr: HostAddr): number {
  return Atomics.load(new Int32Array(viewAt(addr, (COUNT + 1) * 4)), COUNT);
}

export class MountTable {
  readonly #words: Int32Array<ArrayBuffer>;
  readonly #root: number;
  readonly #rootFd: number;

  /** `root` is the share's own mount, as statx(2) numbers it, and `rootFd` a descriptor of it that is not O_PATH; -1: none. */
  constructor(addr: HostAddr, root: number, rootFd: number) {
    this.#words = new Int32Array(viewAt(addr, BYTES));
    this.#root = root | 0;
    this.#rootFd = rootFd;
  }

  /** Descriptors in the table. */
  get open(): number {
    return Atomics.load(this.#words, COUNT);
  }

  /** The descriptor of a mount, or -1. */
  fd(mount: number): number {
    if ((mount | 0) === this.#root) return this.#rootFd;
    lock(this.#words, LOCK);
    const at = this.#find(mount);
    const fd = at < 0 ? -1 : this.#words[at + FD];
    unlock(this.#words, LOCK);
    return fd;
  }

  /** Counts a node that a mount's descriptor is kept for. False where the mount has none yet. */
  use(mount: number): boolean {
    if ((mount | 0) === this.#root) return this.#rootFd >= 0;
    lock(this.#words, LOCK);
    const at = this.#find(mount);
    if (at >= 0) this.#words[at + NODES]++;
    unlock(this.#words, LOCK);
    return at >= 0;
  }

  /**
   * Gives a mount a descriptor, and counts the node it is for. Returns the one that the table has: another where a loop was faster
   * (the caller then closes its own), -1 where the table is full.
   */
  add(mount: number, fd: number): number {
    const w = this.#words;
    lock(w, LOCK);
    let at = this.#find(mount);
    if (at < 0 && w[COUNT] < SLOTS) {
      at = ENTRIES + w[COUNT]++ * WORDS;
      w[at + MOUNT] = mount;
      w[at + FD] = fd;
      w[at + NODES] = 0;
    }
    const kept = at < 0 ? -1 : w[at + FD];
    if (at >= 0) w[at + NODES]++;
    unlock(w, LOCK);
    return kept;
  }

  /** Counts a node less. Returns a descriptor that the caller is to retire, or -1. */
  release(mount: number): number {
    if ((mount | 0) === this.#root) return -1;
    const w = this.#words;
    lock(w, LOCK);
    const at = this.#find(mount);
    let fd = -1;
    if (at >= 0 && --w[at + NODES] === 0) {
      fd = w[at + FD];
      // The last entry takes the place of one that goes.
      const last = ENTRIES + --w[COUNT] * WORDS;
      w.copyWithin(at, last, last + WORDS);
    }
    unlock(w, LOCK);
    return fd;
  }

  /** Hands every descriptor but the share's own to `close`. No other loop may use the table meanwhile. */
  clear(close: (fd: number) => void): void {
    const w = this.#words;
    for (let i = 0; i < w[COUNT]; i++) close(w[ENTRIES + i * WORDS + FD]);
    w[COUNT] = 0;
  }

  #find(mount: number): number {
    const w = this.#words;
    for (let i = 0; i < w[COUNT]; i++) {
      if (w[ENTRIES + i * WORDS + MOUNT] === (mount | 0)) return ENTRIES + i * WORDS;
    }
    return -1;
  }
}
