/**
 * The device's side of a split virtqueue (VIRTIO 1.3, 2.7). It belongs to one loop; nobody else touches its indices.
 *
 * All ring counters are u16 and compared modulo 2^16. A word that the driver writes is loaded once, then checked, then used.
 */
import type { GuestMemory, WindowOffset } from "./memory.ts";

export const VRING_AVAIL_F_NO_INTERRUPT = 1;
export const VRING_USED_F_NO_NOTIFY = 1;

/** Indices into the u16 views of the available and used rings. */
const FLAGS = 0;
const IDX = 1;
const RING = 2;

/** Bytes of each part of a queue of `size` descriptors, the event index included (VIRTIO 2.7). */
export const descTableBytes = (size: number) => 16 * size;
export const availRingBytes = (size: number) => 6 + 2 * size;
export const usedRingBytes = (size: number) => 6 + 8 * size;

/** vring_need_event() of VIRTIO 2.7.10: whether moving an index from `old` to `next` passes `event`. */
export function needEvent(event: number, next: number, old: number): boolean {
  return ((next - event - 1) & 0xffff) < ((next - old) & 0xffff);
}

/** Where the parts of a queue lie; checked by whoever makes the queue. */
export interface SplitLayout {
  size: number;
  desc: WindowOffset;
  avail: WindowOffset;
  used: WindowOffset;
  base: number;
  eventIdx: boolean;
}

/** Says what is wrong with a layout, or null. Table 2.7: desc 16, avail 2, used 4 bytes aligned; ours is an aligned window. */
export function layoutFault(layout: SplitLayout): string | null {
  const { size } = layout;
  if (size < 1 || size > 32768 || (size & (size - 1)) !== 0) return `queue size ${size} is no power of two up to 32768`;
  if (layout.desc % 16 !== 0) return "the descriptor table is not aligned to 16 bytes";
  if (layout.avail % 2 !== 0) return "the available ring is not aligned to 2 bytes";
  if (layout.used % 4 !== 0) return "the used ring is not aligned to 4 bytes";
  return null;
}

export class SplitQueue {
  readonly size: number;
  readonly eventIdx: boolean;
  /** Descriptor table: four words a descriptor (addr lo, addr hi, len, flags | next << 16). */
  readonly desc: Uint32Array<ArrayBuffer>;
  /** The next available index to take. */
  lastAvail: number;
  /** The driver broke the ring; the queue is stopped until it is set up again. */
  broken = false;
  /** Chains that `pop` returns before any new one, and whether it was one of them last: another process had taken them, see inflight.ts. */
  leftovers = 0;
  again = false;

  readonly #mask: number;
  readonly #avail: Uint16Array<ArrayBuffer>;
  readonly #used: Uint16Array<ArrayBuffer>;
  readonly #usedRing: Uint32Array<ArrayBuffer>;
  readonly #usedEvent: number;
  readonly #availEvent: number;
  #availIdx: number;
  #usedIdx: number;
  /** What the driver sees of it, and up to where it was called or found not to want that. */
  #shownIdx: number;
  #calledIdx: number;

  constructor(memory: GuestMemory, layout: SplitLayout) {
    const { size } = layout;
    this.size = size;
    this.eventIdx = layout.eventIdx;
    this.#mask = size - 1;
    this.desc = new Uint32Array(memory.buffer, layout.desc, size * 4);
    this.#avail = new Uint16Array(memory.buffer, layout.avail, 3 + size);
    this.#used = new Uint16Array(memory.buffer, layout.used, 3 + 4 * size);
    this.#usedRing = new Uint32Array(memory.buffer, layout.used + 4, 2 * size);
    this.#usedEvent = RING + size;
    this.#availEvent = RING + 4 * size;
    this.lastAvail = this.#availIdx = layout.base & 0xffff;
    this.#usedIdx = this.#shownIdx = this.#calledIdx = Atomics.load(this.#used, IDX);
  }

  /** Reads the driver's index. Returns how many chains wait, and marks the queue broken where that is impossible. */
  available(): number {
    this.#availIdx = Atomics.load(this.#avail, IDX);
    const waiting = (this.#availIdx - this.lastAvail) & 0xffff;
    if (waiting > this.size) {
      this.broken = true;
      return 0;
    }
    return waiting;
  }

  /** Whether the driver's index has moved on, to wherever. */
  get waiting(): boolean {
    return Atomics.load(this.#avail, IDX) !== this.lastAvail;
  }

  /** Takes the head of the next chain; only after `available()` said that there is one. -1, and broken, for a head beyond the table. */
  pop(): number {
    const head = this.#avail[RING + (this.lastAvail & this.#mask)];
    if (head >= this.size) {
      this.broken = true;
      return -1;
    }
    this.lastAvail = (this.lastAvail + 1) & 0xffff;
    return head;
  }

  /** Puts a finished chain into the used ring. The driver sees it at `show()` or `publish()`. `written` is in bytes. */
  push(head: number, written: number): void {
    const at = (this.#usedIdx & this.#mask) * 2;
    this.#usedRing[at] = head;
    this.#usedRing[at + 1] = written;
    this.#usedIdx = (this.#usedIdx + 1) & 0xffff;
  }

  /** The used index, with what is not shown yet. */
  get used(): number {
    return this.#usedIdx;
  }

  /** Chains that were offered and not given back, as the driver's index has it: maybe more than there can be. */
  get offered(): number {
    return (Atomics.load(this.#avail, IDX) - this.#usedIdx) & 0xffff;
  }

  /** Chains that were pushed since the last `publish()`. */
  get owed(): number {
    return (this.#usedIdx - this.#calledIdx) & 0xffff;
  }

  /** Shows the driver all pushed chains at once, for when it looks. It is not called for them before `publish()`. */
  show(): void {
    if (this.#usedIdx === this.#shownIdx) return;
    this.#shownIdx = this.#usedIdx;
    // The elements first, then idx.
    Atomics.store(this.#used, IDX, this.#usedIdx);
  }

  /** The same, and says whether the driver wants to be called for what was shown since the last time (VIRTIO 2.7.7, 2.7.8). */
  publish(): boolean {
    this.show();
    const old = this.#calledIdx;
    const next = this.#usedIdx;
    if (next === old) return false;
    this.#calledIdx = next;
    // The store of idx and this load are sequentially consistent, so the load cannot pass the store.
    if (this.eventIdx) return needEvent(Atomics.load(this.#avail, this.#usedEvent), next, old);
    return (Atomics.load(this.#avail, FLAGS) & VRING_AVAIL_F_NO_INTERRUPT) === 0;
  }

  /**
   * Asks the driver to kick for the next chain. Returns true where one came meanwhile: the index is read again after the
   * request is visible, with a full barrier between (VIRTIO 2.7.10).
   */
  enableKicks(): boolean {
    if (this.eventIdx) Atomics.store(this.#used, this.#availEvent, this.lastAvail);
    else Atomics.store(this.#used, FLAGS, 0);
    return Atomics.load(this.#avail, IDX) !== this.lastAvail;
  }

  /** Asks the driver not to kick. With EVENT_IDX there is nothing to do: an event index that was passed asks for nothing. */
  disableKicks(): void {
    if (!this.eventIdx) Atomics.store(this.#used, FLAGS, VRING_USED_F_NO_NOTIFY);
  }

  /** The queue is stopped: touches no memory any more but the guest's. */
  letGo(): void {}
}
