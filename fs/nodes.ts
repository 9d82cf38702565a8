/**
 * The node table: what the guest knows by a nodeid. It lies in shared memory, and all loops of a device use it at once.
 *
 * A nodeid is the slot's number, with the slot's generation in the upper half, so that one that was forgotten names nothing
 * when its slot serves another file. The root is slot 1 of generation 0: FUSE_ROOT_ID. A node holds an O_PATH descriptor,
 * which pins its inode, so (device, inode, mount) finds it again for as long as the guest knows it. Or it has a file handle, and
 * is opened when it is needed: then its file may go, and the number be another's, which the handle tells.
 *
 * Finding a known node takes no lock: the bucket's chain is walked, the lookup count is raised unless it is zero, and only then is
 * it checked that this is still the node that was wanted. Insertion and removal take the bucket's lock.
 */
import { allocate, discard, type HostAddr, PAGE, unmapAt, viewAt } from "../ffi/memory.ts";
import { lock, unlock } from "../vq/spin.ts";
import { type FileHandle, HANDLE_WORDS, MORE_WORDS } from "./file_handle.ts";
import { Slots } from "./slots.ts";

export const ROOT = 1;

/** Known nodes at most. The memory is taken page by page as nodes come. */
const SLOTS = 1 << 24;
/** A cache line. */
const WORDS = 16;
const BUCKETS = 1 << 18;

// Words of a node.
const GENERATION = 0;
/** The lookup count's lower part, below 2^31; 0 is a node that nobody knows. */
const COUNT = 1;
/** Its upper part, in units of CARRY. */
const COUNT_HIGH = 2;
/** The descriptor, or NO_FD, and above its FD_BITS the type. */
const FILE = 3;
/** The next slot in the bucket's chain. */
const NEXT = 4;
const INO_LO = 5;
const INO_HI = 6;
const DEV = 7;
const MOUNT = 8;
/** The file handle, of a node without a descriptor. */
const HANDLE = 9;
/** Of a free slot: the next one. */
const LINK = 9;
if (HANDLE + HANDLE_WORDS !== WORDS) throw new Error("a file handle does not fit a node");

const PAGE_WORDS = PAGE / 4;
const FD_BITS = 27;
const FD_MAX = 2 ** FD_BITS - 1;
/** In place of a descriptor. */
const NO_FD = FD_MAX;
const CARRY = 2 ** 30;

// Words of the head.
const SLOTS_HEAD = 0;
const GENERATIONS = 16;
const KNOWN = 48;
const HOLDING = 49;
const BUCKETS_AT = 64;
const NODES_AT = BUCKETS_AT + BUCKETS * 2;
/** What is behind the first bytes of long file handles: it takes memory where there are some. */
const MORE_AT = NODES_AT + SLOTS * WORDS;
const BYTES = (MORE_AT + SLOTS * MORE_WORDS) * 4;

/** A walker whose chain was changed under it may stray; behind this many steps it takes the lock. */
const MAX_STEPS = 1000;

/** What identifies a file on the host: statx's stx_ino, stx_dev and stx_mnt_id, in words. */
export interface Identity {
  inoLo: number;
  inoHi: number;
  dev: number;
  mount: number;
}

/** Bytes of shared table for each known node, with a long handle, the share of the buckets (2 MiB in all) not counted. */
export const NODE_BYTES = (WORDS + MORE_WORDS) * 4;

/** Takes the memory of a table. The address is given to all loops. */
export function allocateNodes(): HostAddr {
  return allocate(BYTES).addr;
}

/** Gives it back. No loop may use the table any more. */
export function freeNodes(addr: HostAddr): void {
  unmapAt(addr, BYTES);
}

/** Nodes that are known, the root not counted, and how many of them hold a descriptor. For whoever only looks. */
export function countNodes(addr: HostAddr): { known: number; holding: number } {
  const words = new Int32Array(viewAt(addr, BUCKETS_AT * 4));
  return { known: Atomics.load(words, KNOWN), holding: Atomics.load(words, HOLDING) };
}

/** Lets go of what a node had that is in the table no more: its descriptor, or, where that is -1, the descriptor of its mount. */
export type Retire = (fd: number, mount: number) => void;

/** What `acquire` and `insert` say where a node of that inode number may be the one, and only the file's handle can tell. */
export const NEEDS_HANDLE = -1;

/** The descriptor in what `held` returned. */
export const fdOf = (file: number): number => file & FD_MAX;
/** Whether there is one. */
export const hasFd = (file: number): boolean => (file & FD_MAX) !== NO_FD;
/** The same file with a descriptor. */
export const withFd = (file: number, fd: number): number => file & ~FD_MAX | fd;
/** S_IFMT of the file, which never changes. */
export const typeOf = (file: number): number => file >>> FD_BITS << 12;

export class NodeTable {
  readonly #words: Int32Array<ArrayBuffer>;
  readonly #addr: HostAddr;
  readonly #slots: Slots;
  /** Whether the last `insert` made a node, which then has its descriptor. */
  inserted = false;
  /** See `handle`. */
  mount = 0;

  constructor(addr: HostAddr) {
    this.#addr = addr;
    this.#words = new Int32Array(viewAt(addr, BYTES));
    const layout = { head: SLOTS_HEAD, first: NODES_AT, words: WORDS, link: LINK, count: SLOTS };
    this.#slots = new Slots(this.#words, layout);
  }

  /** Makes the root known, in a table that is new or was cleared. `fd` stays the caller's. */
  setRoot(fd: number, id: Identity, type: number): void {
    const w = this.#words;
    const at = NODES_AT + ROOT * WORDS;
    // Slot 0 stands for "none".
    this.#slots.reset(ROOT + 1);
    this.#fill(ROOT, fd, id, type, null, 0);
    w[at + COUNT] = 1;
    const bucket = this.#bucket(id.inoLo, id.inoHi, id.dev, id.mount);
    w[at + NEXT] = w[bucket];
    Atomics.store(w, bucket, ROOT);
  }

  /** The slot of a nodeid, or 0 where it names nothing. */
  find(lo: number, hi: number): number {
    if (lo === 0 || lo >= SLOTS) return 0;
    const w = this.#words;
    const at = NODES_AT + lo * WORDS;
    // In this order, as in #lockNode.
    return w[at + COUNT] > 0 && w[at + GENERATION] === (hi | 0) ? lo : 0;
  }

  /**
   * Descriptor and type of a slot, of the same file: see hasFd, fdOf, typeOf. Asked for one after the other they may be those of two,
   * for another loop may give the slot away meanwhile, and what one found to be a regular file would be a device.
   */
  held(slot: number): number {
    return this.#words[NODES_AT + slot * WORDS + FILE];
  }

  /**
   * Copies the handle of a slot that holds no descriptor. Returns the `held` that it belongs to, with the file's mount in `mount`; or 0
   * where the slot changed hands meanwhile.
   */
  handle(slot: number, handle: FileHandle): number {
    const w = this.#words;
    const at = NODES_AT + slot * WORDS;
    // A slot that is given away gets a generation when it is freed and one when it is filled, and is filled while its count is zero.
    const generation = Atomics.load(w, at + GENERATION);
    if (Atomics.load(w, at + COUNT) <= 0) return 0;
    const file = Atomics.load(w, at + FILE);
    this.mount = Atomics.load(w, at + MOUNT);
    handle.get(w, at + HANDLE, MORE_AT + slot * MORE_WORDS);
    return Atomics.load(w, at + GENERATION) === generation ? file : 0;
  }

  /** The upper half of a slot's nodeid. */
  generation(slot: number): number {
    return this.#words[NODES_AT + slot * WORDS + GENERATION];
  }

  /** The mount of a slot's file, as statx(2) numbers it. */
  mountOf(slot: number): number {
    return this.#words[NODES_AT + slot * WORDS + MOUNT];
  }

  /** S_IFMT of a slot's file. */
  type(slot: number): number {
    return typeOf(this.held(slot));
  }

  /** Nodes that are known now, the root not counted. */
  get known(): number {
    return Atomics.load(this.#words, KNOWN);
  }

  /** How many of them hold a descriptor. */
  get holding(): number {
    return Atomics.load(this.#words, HOLDING);
  }

  /**
   * Raises the lookup count of a known node and returns its slot, or 0 where it is not known. Takes no lock, in the usual case.
   * NEEDS_HANDLE where the file's handle is not given and has to be. `retire` as for `forget`.
   */
  acquire(id: Identity, retire: Retire, handle: FileHandle | null = null): number {
    const w = this.#words;
    let slot = Atomics.load(w, this.#bucket(id.inoLo, id.inoHi, id.dev, id.mount));
    for (let steps = 0; slot !== 0 && steps < MAX_STEPS; steps++) {
      const at = NODES_AT + slot * WORDS;
      if (this.#is(at, id)) {
        // The handle, where there is one, is compared apart, so that this stays short.
        if (!hasFd(w[at + FILE])) return handle === null ? NEEDS_HANDLE : this.#acquireFrom(slot, id, retire, handle);
        if (this.#raise(slot)) {
          if (this.#is(at, id) && hasFd(w[at + FILE])) return this.#raised(slot);
          // The slot was given to another file between the two looks.
          this.forget(slot, this.generation(slot), 1, retire);
        }
      }
      slot = w[at + NEXT];
    }
    return 0;
  }

  /** The rest of `acquire`, from a slot of the bucket on, with the file's handle. */
  #acquireFrom(slot: number, id: Identity, retire: Retire, handle: FileHandle): number {
    const w = this.#words;
    for (let steps = 0; slot !== 0 && steps < MAX_STEPS; steps++) {
      const at = NODES_AT + slot * WORDS;
      if (this.#compare(slot, id, handle) > 0 && this.#raise(slot)) {
        if (this.#compare(slot, id, handle) > 0) return this.#raised(slot);
        this.forget(slot, this.generation(slot), 1, retire);
      }
      slot = w[at + NEXT];
    }
    return 0;
  }

  #raised(slot: number): number {
    if (this.#words[NODES_AT + slot * WORDS + COUNT] > CARRY * 1.5) this.#carry(slot);
    return slot;
  }

  /**
   * Makes a node known with lookup count 1, or raises that of the node which another loop made of the same file meanwhile;
   * `inserted` tells, and where it is false the descriptor is still the caller's. The node holds the descriptor, or has the
   * handle where that is -1. Returns 0 where the table is full; NEEDS_HANDLE where no handle is given and there has to be one, which
   * may be a handle that is not known.
   */
  insert(id: Identity, fd: number, type: number, handle: FileHandle | null = null): number {
    this.inserted = false;
    const w = this.#words;
    const fresh = fd >= NO_FD ? -1 : this.#slots.take();
    if (fresh < 0) return 0;
    const bucket = this.#bucket(id.inoLo, id.inoHi, id.dev, id.mount);
    lock(w, bucket + 1);
    try {
      for (let slot = w[bucket]; slot !== 0; slot = w[NODES_AT + slot * WORDS + NEXT]) {
        const same = this.#compare(slot, id, handle);
        if (same === 0 || (same > 0 && !this.#raise(slot))) continue;
        this.#slots.give(fresh);
        return same < 0 ? NEEDS_HANDLE : slot;
      }
      const at = NODES_AT + fresh * WORDS;
      this.#fill(fresh, fd, id, type, handle, this.#nextGeneration());
      w[at + NEXT] = w[bucket];
      Atomics.store(w, at + COUNT, 1);
      Atomics.store(w, bucket, fresh);
      Atomics.add(w, KNOWN, 1);
      if (fd >= 0) Atomics.add(w, HOLDING, 1);
      this.inserted = true;
      return fresh;
    } finally {
      unlock(w, bucket + 1);
    }
  }

  /**
   * Lowers the lookup count of a nodeid by `count`, a number of the guest's. At zero the node is forgotten, and what it had handed to
   * `retire`. More than the count is the count. The root stays, and a nodeid that names nothing is left alone.
   */
  forget(lo: number, hi: number, count: number, retire: Retire): void {
    if (lo <= ROOT || lo >= SLOTS) return;
    const w = this.#words;
    const at = NODES_AT + lo * WORDS;
    const bucket = this.#lockNode(lo, hi);
    if (bucket === 0) return;
    let file = 0;
    let mount = 0;
    try {
      while (count > w[at + COUNT] - 1 && w[at + COUNT_HIGH] > 0) {
        w[at + COUNT_HIGH]--;
        if (count >= CARRY) count -= CARRY;
        else Atomics.add(w, at + COUNT, CARRY);
      }
      // `acquire` raises a count without the lock, but never from zero: who finds zero has not got it.
      for (;;) {
        const had = Atomics.load(w, at + COUNT);
        if (had <= 0) return;
        const left = Math.max(0, had - count);
        if (Atomics.compareExchange(w, at + COUNT, had, left) !== had) continue;
        if (left > 0) return;
        break;
      }
      file = this.held(lo);
      mount = w[at + MOUNT];
      // A guest may guess the slot's next nodeid, and arm64 load this before the generation: it must not find a number of before.
      Atomics.store(w, at + FILE, NO_FD);
      this.#unlink(bucket, lo);
      Atomics.store(w, at + GENERATION, this.#nextGeneration());
      Atomics.sub(w, KNOWN, 1);
      if (hasFd(file)) Atomics.sub(w, HOLDING, 1);
    } finally {
      unlock(w, bucket + 1);
    }
    this.#slots.give(lo);
    retire(hasFd(file) ? fdOf(file) : -1, mount);
  }

  /** Forgets every node but the root, and hands each descriptor to `close`. No other loop may use the table meanwhile. */
  clear(close: (fd: number) => void): void {
    const w = this.#words;
    const root = NODES_AT + ROOT * WORDS;
    const id = { inoLo: w[root + INO_LO], inoHi: w[root + INO_HI], dev: w[root + DEV], mount: w[root + MOUNT] };
    const rootFile = this.held(ROOT);
    const { used } = this.#slots;
    for (let slot = ROOT + 1; slot < used; slot++) {
      const file = this.held(slot);
      if (w[NODES_AT + slot * WORDS + COUNT] > 0 && hasFd(file)) close(fdOf(file));
    }
    const generations = w[GENERATIONS];
    discard(this.#addr, Math.ceil((NODES_AT + used * WORDS) / PAGE_WORDS) * PAGE);
    const more = Math.ceil(MORE_AT / PAGE_WORDS);
    const moreEnd = Math.floor((MORE_AT + used * MORE_WORDS) / PAGE_WORDS);
    if (moreEnd > more) discard(this.#addr + more * PAGE as HostAddr, (moreEnd - more) * PAGE);
    w[GENERATIONS] = generations;
    this.setRoot(fdOf(rootFile), id, typeOf(rootFile));
  }

  /** The table was cleared by another loop: the slots that this one kept for itself are no longer its own. */
  forgetFree(): void {
    this.#slots.forget();
  }

  #fill(slot: number, fd: number, id: Identity, type: number, handle: FileHandle | null, generation: number): void {
    const w = this.#words;
    const at = NODES_AT + slot * WORDS;
    w[at + COUNT_HIGH] = 0;
    w[at + FILE] = (fd < 0 ? NO_FD : fd) | type >> 12 << FD_BITS;
    if (fd < 0) handle!.put(w, at + HANDLE, MORE_AT + slot * MORE_WORDS);
    w[at + INO_LO] = id.inoLo;
    w[at + INO_HI] = id.inoHi;
    w[at + DEV] = id.dev;
    w[at + MOUNT] = id.mount;
    Atomics.store(w, at + GENERATION, generation);
  }

  #is(at: number, id: Identity): boolean {
    const w = this.#words;
    return w[at + INO_LO] === (id.inoLo | 0) && w[at + INO_HI] === (id.inoHi | 0) && w[at + DEV] === (id.dev | 0) &&
      w[at + MOUNT] === (id.mount | 0);
  }

  /** Whether a node is of that file: 1, 0, or NEEDS_HANDLE where it is not known without a handle. */
  #compare(slot: number, id: Identity, handle: FileHandle | null): number {
    const w = this.#words;
    const at = NODES_AT + slot * WORDS;
    if (!this.#is(at, id)) return 0;
    if (hasFd(w[at + FILE])) return 1;
    if (handle === null) return NEEDS_HANDLE;
    return handle.is(w, at + HANDLE, MORE_AT + slot * MORE_WORDS) ? 1 : 0;
  }

  /** Raises a count that is not zero, of the root in name only. False where it is zero. */
  #raise(slot: number): boolean {
    const w = this.#words;
    const at = NODES_AT + slot * WORDS + COUNT;
    for (;;) {
      const had = Atomics.load(w, at);
      if (had <= 0) return false;
      if (slot === ROOT || Atomics.compareExchange(w, at, had, had + 1) === had) return true;
    }
  }

  /** Moves part of a large count to its upper word, before it overflows. */
  #carry(slot: number): void {
    const w = this.#words;
    const at = NODES_AT + slot * WORDS;
    const bucket = this.#lockNode(slot, this.generation(slot));
    if (bucket === 0) return;
    if (w[at + COUNT] > CARRY * 1.5) {
      Atomics.sub(w, at + COUNT, CARRY);
      w[at + COUNT_HIGH]++;
    }
    unlock(w, bucket + 1);
  }

  /**
   * Takes the lock of the bucket that a known node is in, and returns the bucket; or 0 where there is no such node any more. Until
   * the lock is there, another loop may forget the node and give its slot to another file, in another bucket: the identity that
   * was read is the node's own only if its generation still stands behind the lock.
   */
  #lockNode(slot: number, generation: number): number {
    const w = this.#words;
    const at = NODES_AT + slot * WORDS;
    if (Atomics.load(w, at + GENERATION) !== (generation | 0)) return 0;
    const bucket = this.#bucket(w[at + INO_LO], w[at + INO_HI], w[at + DEV], w[at + MOUNT]);
    lock(w, bucket + 1);
    // The count first: a slot that is being filled gets its generation before its count. The other way round, the generation of
    // before, which a guest may guess, and the count of after would pass for a node, of which the identity was half written.
    if (Atomics.load(w, at + COUNT) > 0 && Atomics.load(w, at + GENERATION) === (generation | 0)) return bucket;
    unlock(w, bucket + 1);
    return 0;
  }

  #unlink(bucket: number, slot: number): void {
    const w = this.#words;
    let link = bucket;
    while (w[link] !== slot) link = NODES_AT + w[link] * WORDS + NEXT;
    Atomics.store(w, link, w[NODES_AT + slot * WORDS + NEXT]);
  }

  /** The word of an identity's bucket; its lock is the next one. */
  #bucket(inoLo: number, inoHi: number, dev: number, mount: number): number {
    let h = Math.imul(inoLo, 0x9e3779b1) ^ Math.imul(inoHi, 0x85ebca6b) ^ Math.imul(dev, 0xc2b2ae35) ^ mount;
    h ^= h >>> 15;
    return BUCKETS_AT + (h & (BUCKETS - 1)) * 2;
  }

  /** Never 0, which is the root's, nor used twice before 2^31 others. */
  #nextGeneration(): number {
    return (Atomics.add(this.#words, GENERATIONS, 1) & 0x7fffffff) + 1;
  }
}
