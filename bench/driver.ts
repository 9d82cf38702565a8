/**
 * The driver's side of a split virtqueue (VIRTIO 1.2, 2.7): places descriptor chains in guest memory, publishes them, kicks,
 * and takes them back from the used ring. Chains may be placed once and offered again and again: that is how the load
 * generator keeps its hot path free of allocation. Nothing here is checked on behalf of the device: tests place rubbish.
 */
import { createEventfd } from "../ffi/eventfd.ts";
import { EINTR } from "../ffi/errno.ts";
import { checked, errno, libc } from "../ffi/libc.ts";
import type { GuestAddr } from "../vq/device.ts";
import type { GuestMemory } from "./guest_memory.ts";

export const VRING_DESC_F_NEXT = 1;
export const VRING_DESC_F_WRITE = 2;
export const VRING_DESC_F_INDIRECT = 4;
export const VRING_AVAIL_F_NO_INTERRUPT = 1;
export const VRING_USED_F_NO_NOTIFY = 1;

/** One buffer of a chain; `write` means that the device writes it. Length in bytes. */
export interface Segment {
  addr: GuestAddr;
  len: number;
  write?: boolean;
}

/** struct vring_desc, for raw tables. */
export interface Descriptor {
  addr: number | bigint;
  len: number;
  flags: number;
  next: number;
}

/** Where a queue is and where it stands. Survives structured clone, so that a Worker can take the queue over. */
export interface VirtqueueState {
  index: number;
  /** Number of descriptors, a power of two. */
  size: number;
  desc: GuestAddr;
  avail: GuestAddr;
  used: GuestAddr;
  /** Eventfds; this side writes the one and waits on the other. */
  kickFd: number;
  callFd: number;
  eventIdx: boolean;
  indirect: boolean;
  /** Look at the used ring in a loop instead of sleeping on the call eventfd; the device is asked for no calls. */
  busyPoll: boolean;
  nextAvail: number;
  lastUsed: number;
}

export interface VirtqueueOptions {
  size?: number;
  /** The index that both rings start at, as SET_VRING_BASE will tell the back end. Default 0. */
  base?: number;
  eventIdx?: boolean;
  /** Place chains in indirect tables unless `place` is told otherwise. */
  indirect?: boolean;
  busyPoll?: boolean;
  /** Region of the guest memory that holds the rings. */
  region?: number;
}

/** vring_need_event() of linux/virtio_ring.h: moving from `old` to `now` passes `event`. All are ring indices, 16 bits wide. */
export function needEvent(event: number, now: number, old: number): boolean {
  return ((now - event - 1) & 0xffff) < ((now - old) & 0xffff);
}

const AVAIL_FLAGS = 0, AVAIL_IDX = 1, AVAIL_RING = 2;
const USED_FLAGS = 0, USED_IDX = 1;
const POLLIN = 1;

const one = new Uint8Array(new BigUint64Array([1n]).buffer);

/** One virtqueue. Sizes in entries, times in milliseconds. */
export class Virtqueue {
  readonly state: Readonly<VirtqueueState>;
  readonly memory: GuestMemory;
  readonly index: number;
  readonly size: number;

  /** Eventfd writes made, and call signals taken, since the start. */
  kicks = 0;
  calls = 0;
  /** `len` of the element that `reap` returned last. */
  usedLength = 0;

  readonly #mask: number;
  readonly #desc: Uint32Array<ArrayBuffer>;
  /** avail: flags, idx, ring[size], used_event. used: flags, idx, then, as 32-bit words, ring[size] of id and len. */
  readonly #avail: Uint16Array<ArrayBuffer>;
  readonly #used16: Uint16Array<ArrayBuffer>;
  readonly #used32: Uint32Array<ArrayBuffer>;
  #nextAvail: number;
  #lastUsed: number;
  #lastKick: number;

  /** Free descriptors, as a stack. */
  readonly #free: Uint16Array;
  #freeCount: number;
  /** For each head in use: the descriptors of its chain. Kept here, as the device may be hostile to the table. */
  readonly #chains: (readonly number[] | undefined)[];
  /** Indirect tables, made when first needed, by head. */
  readonly #tables: { addr: GuestAddr; entries: number }[] = [];

  readonly #pollfd: Uint8Array<ArrayBuffer>;
  readonly #counter = new BigUint64Array(1);
  readonly #counterBytes = new Uint8Array(this.#counter.buffer);

  /** Takes a queue over as it stands, with no chain placed. */
  constructor(memory: GuestMemory, state: VirtqueueState) {
    const { size } = state;
    this.memory = memory;
    this.state = { ...state };
    this.index = state.index;
    this.size = size;
    this.#mask = size - 1;
    this.#desc = memory.words32(state.desc, size * 4);
    this.#avail = memory.words16(state.avail, size + 3);
    this.#used16 = memory.words16(state.used, size * 4 + 3);
    this.#used32 = memory.words32(state.used, size * 2 + 1);
    this.#nextAvail = this.#lastKick = state.nextAvail;
    this.#lastUsed = state.lastUsed;
    this.#free = Uint16Array.from({ length: size }, (_, i) => size - 1 - i);
    this.#freeCount = size;
    this.#chains = Array.from({ length: size });
    this.#pollfd = new Uint8Array(new Int32Array([state.callFd, POLLIN]).buffer);
    if (state.busyPoll && !state.eventIdx) this.#avail[AVAIL_FLAGS] = VRING_AVAIL_F_NO_INTERRUPT;
  }

  /** Makes rings in guest memory, both indices at `base`, and the two eventfds. */
  static create(memory: GuestMemory, index: number, options: VirtqueueOptions = {}): Virtqueue {
    const { size = 256, base = 0, region = 0, eventIdx = true, indirect = true, busyPoll = false } = options;
    const desc = memory.allocate(size * 16, 16, region);
    const avail = memory.allocate(size * 2 + 6, 2, region);
    const used = memory.allocate(size * 8 + 6, 4, region);
    memory.words16(avail, 2)[AVAIL_IDX] = base;
    memory.words16(used, 2)[USED_IDX] = base;
    // avail_event and used_event where the next entry concerns both sides
    memory.words16(avail, size + 3)[size + 2] = busyPoll ? (base - 1) & 0xffff : base;
    memory.words16(used, size * 4 + 3)[size * 4 + 2] = base;
    const [kickFd, callFd] = [createEventfd(), createEventfd()];
    const where = { index, size, desc, avail, used, kickFd, callFd };
    return new Virtqueue(memory, { ...where, eventIdx, indirect, busyPoll, nextAvail: base, lastUsed: base });
  }

  /** The queue's present state, for a Worker that goes on with it. */
  snapshot(): VirtqueueState {
    return { ...this.state, nextAvail: this.#nextAvail, lastUsed: this.#lastUsed };
  }

  /** The index of the next available entry, and of the next used one to be taken. */
  get nextAvail(): number {
    return this.#nextAvail;
  }
  get lastUsed(): number {
    return this.#lastUsed;
  }
  /** The used ring's idx, as the device has published it. */
  get usedIdx(): number {
    return Atomics.load(this.#used16, USED_IDX);
  }
  get freeDescriptors(): number {
    return this.#freeCount;
  }

  /** Writes one entry of the descriptor table. */
  setDescriptor(i: number, { addr, len, flags, next }: Descriptor): void {
    writeDescriptor(this.#desc, i, addr, len, flags, next);
  }

  /** Writes descriptors one after the other at a guest address: an indirect table, good or bad. */
  writeTable(addr: GuestAddr, table: readonly Descriptor[]): void {
    const words = this.memory.words32(addr, table.length * 4);
    table.forEach((d, i) => writeDescriptor(words, i, d.addr, d.len, d.flags, d.next));
  }

  /**
   * Places a chain for these segments and returns its head. It stays placed until `free(head)`, and may be offered many
   * times, once at a time. Throws RangeError where descriptors run out.
   */
  place(segments: readonly Segment[], indirect = this.state.indirect && segments.length > 1): number {
    const own = this.#take(indirect ? 1 : segments.length);
    const head = own[0];
    if (indirect) {
      const table = this.#table(head, segments.length);
      fillChain(this.memory.words32(table, segments.length * 4), segments, segments.map((_, i) => i));
      writeDescriptor(this.#desc, head, table, segments.length * 16, VRING_DESC_F_INDIRECT, 0);
    } else {
      fillChain(this.#desc, segments, own);
    }
    this.#chains[head] = own;
    return head;
  }

  /** Takes descriptors off the free list, to be written by `setDescriptor`; the first is the head that `free` wants. */
  takeDescriptors(count: number): readonly number[] {
    const own = this.#take(count);
    this.#chains[own[0]] = own;
    return own;
  }

  /** Gives a chain's descriptors back. */
  free(head: number): void {
    const own = this.#chains[head];
    if (own === undefined) throw new RangeError(`descriptor ${head} is not the head of a chain`);
    this.#chains[head] = undefined;
    for (const i of own) this.#free[this.#freeCount++] = i;
  }

  #take(count: number): number[] {
    if (count > this.#freeCount) {
      throw new RangeError(`queue ${this.index}: ${count} descriptors wanted, ${this.#freeCount} free`);
    }
    return Array.from({ length: count }, () => this.#free[--this.#freeCount]);
  }

  #table(head: number, entries: number): GuestAddr {
    let table = this.#tables[head];
    if (table === undefined || table.entries < entries) {
      const room = Math.max(16, entries);
      table = this.#tables[head] = { addr: this.memory.allocate(room * 16, 16), entries: room };
    }
    return table.addr;
  }

  /** Puts a head into the available ring; the device sees it after `publish`. Any number is taken, for tests of bad heads. */
  offer(head: number): void {
    this.#avail[AVAIL_RING + (this.#nextAvail & this.#mask)] = head;
    this.#nextAvail = (this.#nextAvail + 1) & 0xffff;
  }

  /** VIRTIO 2.7.13.3: the entries first, then idx. */
  publish(): void {
    Atomics.store(this.#avail, AVAIL_IDX, this.#nextAvail);
  }

  /** Sets avail idx to anything, for tests of a ring that cannot be. */
  publishIndex(idx: number): void {
    Atomics.store(this.#avail, AVAIL_IDX, idx & 0xffff);
  }

  /** Whether the device asks to be told of the next chain. */
  get wantsKick(): boolean {
    return this.#wantsKick((this.#nextAvail + 1) & 0xffff);
  }

  /** The same of all before an index. */
  #wantsKick(next: number): boolean {
    return this.state.eventIdx
      ? needEvent(Atomics.load(this.#used16, this.size * 4 + 2), next, this.#lastKick)
      : (Atomics.load(this.#used16, USED_FLAGS) & VRING_USED_F_NO_NOTIFY) === 0;
  }

  /** Tells the device of what was published since the last kick, if it asked to be told. Returns whether it did. */
  kick(force = false): boolean {
    // Atomics.store in `publish` and this load are sequentially consistent: the load does not pass the store (VIRTIO 2.7.10.1).
    const wanted = this.#wantsKick(this.#nextAvail);
    this.#lastKick = this.#nextAvail;
    if (!wanted && !force) return false;
    this.kicks++;
    while (libc.write(this.state.kickFd, one, 8) < 0) if (errno() !== EINTR) checked("write to the kick eventfd", -1);
    return true;
  }

  /** offer, publish and kick. */
  submit(head: number): void {
    this.offer(head);
    this.publish();
    this.kick();
  }

  /** Takes the next used element: its id, that is the chain's head, or -1 where there is none. `usedLength` is its len. */
  reap(): number {
    if (Atomics.load(this.#used16, USED_IDX) === this.#lastUsed) return -1;
    const at = 1 + (this.#lastUsed & this.#mask) * 2;
    const id = this.#used32[at];
    this.usedLength = this.#used32[at + 1];
    this.#lastUsed = (this.#lastUsed + 1) & 0xffff;
    return id;
  }

  /** Waits for a used element. Returns false where none came within `timeoutMs`. Blocks the isolate. */
  waitUsed(timeoutMs = 5000): boolean {
    if (Atomics.load(this.#used16, USED_IDX) !== this.#lastUsed) return true;
    return this.state.busyPoll ? this.#spin(timeoutMs) : this.#sleep(timeoutMs);
  }

  /** The same without blocking the isolate, for tests whose back end lives in it. Looks every millisecond. */
  async waitUsedAsync(timeoutMs = 5000): Promise<boolean> {
    const deadline = performance.now() + timeoutMs;
    while (this.usedIdx === this.#lastUsed) {
      if (performance.now() > deadline) return false;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    return true;
  }

  #spin(timeoutMs: number): boolean {
    // performance.now() costs as much as five looks: no time is taken before the first round.
    let deadline = 0;
    do {
      for (let i = 0; i < 4096; i++) if (Atomics.load(this.#used16, USED_IDX) !== this.#lastUsed) return true;
      if (deadline === 0) deadline = performance.now() + timeoutMs;
    } while (performance.now() < deadline);
    return false;
  }

  #sleep(timeoutMs: number): boolean {
    const { eventIdx, callFd } = this.state;
    let deadline = 0, leftMs = timeoutMs;
    for (;;) {
      // VIRTIO 2.7.7: ask for a call, then look once more, with a full barrier between.
      if (eventIdx) Atomics.store(this.#avail, AVAIL_RING + this.size, this.#lastUsed);
      else Atomics.store(this.#avail, AVAIL_FLAGS, 0);
      const arrived = Atomics.load(this.#used16, USED_IDX) !== this.#lastUsed;
      if (!arrived && leftMs > 0) libc.poll(this.#pollfd, 1, leftMs);
      if (!eventIdx) Atomics.store(this.#avail, AVAIL_FLAGS, VRING_AVAIL_F_NO_INTERRUPT);
      if (arrived) return true;
      if (libc.read(callFd, this.#counterBytes, 8) === 8) this.calls += Number(this.#counter[0]);
      if (Atomics.load(this.#used16, USED_IDX) !== this.#lastUsed) return true;
      if (leftMs <= 0) return false;
      // Woken for nothing: a call for elements taken before, or a signal.
      const now = performance.now();
      if (deadline === 0) deadline = now + leftMs;
      leftMs = Math.max(0, Math.ceil(deadline - now));
    }
  }

  /**
   * Places, submits, waits for and frees one chain while no other is in flight. Returns the used length, or -1 on timeout (the
   * chain then stays placed, as the device may still write to it).
   */
  run(segments: readonly Segment[], timeoutMs = 5000, indirect?: boolean): number {
    const head = this.place(segments, indirect);
    return this.runHead(head, timeoutMs);
  }

  /** The same for a chain that is placed already; any number is taken as its head. */
  runHead(head: number, timeoutMs = 5000): number {
    this.submit(head);
    if (!this.waitUsed(timeoutMs)) return -1;
    const id = this.reap();
    if (id !== head) throw new Error(`queue ${this.index}: used id ${id}, expected ${head}`);
    const length = this.usedLength;
    if (this.#chains[head] !== undefined) this.free(head);
    return length;
  }

  /** Closes the eventfds. */
  close(): void {
    libc.close(this.state.kickFd);
    libc.close(this.state.callFd);
  }
}

/** Writes entry `i` of a table of struct vring_desc: le64 addr, le32 len, le16 flags, le16 next. */
function writeDescriptor(
  words: Uint32Array,
  i: number,
  addr: number | bigint,
  len: number,
  flags: number,
  next: number,
) {
  const wide = BigInt.asUintN(64, BigInt(addr));
  words[i * 4] = Number(wide & 0xffff_ffffn);
  words[i * 4 + 1] = Number(wide >> 32n);
  words[i * 4 + 2] = len;
  words[i * 4 + 3] = (flags & 0xffff) | (next << 16);
}

/** Links the segments through the table entries `at`. */
function fillChain(words: Uint32Array, segments: readonly Segment[], at: readonly number[]): void {
  segments.forEach(({ addr, len, write }, i) => {
    const more = i + 1 < segments.length;
    const flags = (write ? VRING_DESC_F_WRITE : 0) | (more ? VRING_DESC_F_NEXT : 0);
    writeDescriptor(words, at[i], addr, len, flags, more ? at[i + 1] : 0);
  });
}
