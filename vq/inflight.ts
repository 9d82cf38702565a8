/**
 * Which requests of a queue are in flight, kept in memory that the front end holds: a back end that takes over from one that was
 * killed finds them there and takes them up again. Source: vhost-user specification, "Inflight I/O tracking", split virtqueue.
 *
 * A SIGKILL may come between any two stores. All stores of one thread that come before it are done then, those behind it are not:
 * what counts is the order in which they stand. Plain stores may trade places with each other, but not with an `Atomics.store`.
 * A chain's mark is set before its request is handed to the service. To give chains back, they are linked into a list, then the used
 * index is stored (the driver has them from here on), then their marks are taken off, then `used_idx` is made the used index.
 *
 * | killed                                        | what the next finds                           | what it does |
 * |---|---|---|
 * | before the mark                               | no mark; the driver's chain is still new      | takes it as any other |
 * | from the mark to the used index               | a mark, used_idx is the used index            | takes it up again, in order of the counters |
 * | with links made, and not shown                | the same: nobody looks at the list            | the same |
 * | from the used index to used_idx               | marks, some taken off; used_idx lags behind   | takes off those of the list's first (used index - used_idx) |
 * | behind used_idx                               | no mark                                       | nothing |
 *
 * Between the used index and `used_idx` nothing is taken or linked, so the list begins with exactly the chains that were shown last;
 * and a head that the driver offers anew meanwhile is not marked anew before its old mark is gone. Taking over changes nothing but
 * what stands in this table, so it may be killed itself. Of the chains taken, each is given back or marked; so the next available
 * index is the used index and the number of marks, whatever the front end believes.
 *
 * The guest cannot reach this memory, the front end can: what is read from it is a head or an order, and is checked for being one.
 */
import { type HostAddr, viewAt } from "../ffi/memory.ts";
import type { Log } from "./log.ts";
import type { GuestMemory } from "./memory.ts";
import { type SplitLayout, SplitQueue } from "./split.ts";

/** QueueRegionSplit of the specification. Byte offsets. */
export const queue_region = {
  features: 0,
  version: 8,
  desc_num: 10,
  last_batch_head: 12,
  used_idx: 14,
  desc: 16,
} as const;
/** DescStateSplit. Byte offsets. */
export const desc_state = { inflight: 0, next: 6, counter: 8, sizeof: 16 } as const;

const VERSION = 1;
/** Queues do not share a cache line. */
const REGION_ALIGN = 64;
const TWO32 = 2 ** 32;

const { desc: DESC } = queue_region;
const LAST_BATCH_HEAD = queue_region.last_batch_head / 2;
const USED_IDX = queue_region.used_idx / 2;

/** Bytes that one queue of so many descriptors takes in the area. */
export function regionBytes(queueSize: number): number {
  return Math.ceil((DESC + queueSize * desc_state.sizeof) / REGION_ALIGN) * REGION_ALIGN;
}

/** Where a queue's region is mapped. */
export interface InflightRegion {
  readonly addr: HostAddr;
  /** In bytes. */
  readonly size: number;
}

/** A queue that keeps account of its requests in flight. One without is a SplitQueue, and pays nothing for it. */
export class TrackedQueue extends SplitQueue {
  readonly #u8: Uint8Array<ArrayBuffer>;
  readonly #u16: Uint16Array<ArrayBuffer>;
  readonly #u32: Uint32Array<ArrayBuffer>;
  /** What was in flight when another process ended, in the order in which that had taken it. */
  #found: readonly number[] = [];
  /** The next counter. */
  #countLo = 0;
  #countHi = 0;
  /** Chains pushed and not shown, and the one that was pushed last. */
  #batch = 0;
  #last = 0;

  /**
   * Takes over what the region says; one that was never used begins at `layout.base`. Throws an Error where the region has a version
   * that is not known. The region must have room for the queue.
   */
  constructor(memory: GuestMemory, layout: SplitLayout, region: InflightRegion, log: Log) {
    super(memory, layout);
    const buffer = viewAt(region.addr, region.size);
    this.#u8 = new Uint8Array(buffer);
    this.#u16 = new Uint16Array(buffer);
    this.#u32 = new Uint32Array(buffer);
    const version = this.#u16[queue_region.version / 2];
    if (version === 0) this.#begin();
    else if (version !== VERSION || this.#u32[0] !== 0 || this.#u32[1] !== 0) {
      throw new Error(
        `its in-flight region is of version ${version}, and only version ${VERSION} without features is known`,
      );
    } else this.#takeOver(log);
  }

  /** A region that nobody has used. Its version comes last: killed before, it is still one that nobody has used. */
  #begin(): void {
    this.#forget();
    this.#u32[0] = this.#u32[1] = 0;
    this.#u16[queue_region.desc_num / 2] = this.size;
    Atomics.store(this.#u16, queue_region.version / 2, VERSION);
  }

  /** Nothing is in flight. */
  #forget(): void {
    for (let head = 0; head < this.size; head++) this.#u8[DESC + head * desc_state.sizeof] = 0;
    this.#u16[LAST_BATCH_HEAD] = this.#last = 0;
    Atomics.store(this.#u16, USED_IDX, this.used);
  }

  #takeOver(log: Log): void {
    const batch = (this.used - this.#u16[USED_IDX]) & 0xffff;
    // A batch has each head once. Where there are more, the rings were begun anew since.
    let ours = batch <= this.size && this.#u16[queue_region.desc_num / 2] === this.size;
    this.#last = this.#u16[LAST_BATCH_HEAD] & (this.size - 1);
    if (ours) this.#unmark(this.#last, batch);
    const found = this.#marked();
    ours &&= found.length <= this.offered;
    if (!ours) {
      if (found.length > 0) log.warn(`${found.length} request(s) in flight are not of these rings, and are left alone`);
      this.#forget();
      this.#u16[queue_region.desc_num / 2] = this.size;
      return;
    }
    this.#found = found;
    this.leftovers = found.length;
    this.lastAvail = (this.used + found.length) & 0xffff;
    if (found.length === 0) return;
    log.info(`${found.length} request(s) that were in flight when the last process ended are taken up again`);
    const next = this.#counter(found[found.length - 1]) + 1;
    this.#countLo = next % TWO32;
    this.#countHi = Math.floor(next / TWO32);
  }

  /** The marked heads in the order of their counters. */
  #marked(): number[] {
    const heads: number[] = [];
    for (let head = 0; head < this.size; head++) {
      if (this.#u8[DESC + head * desc_state.sizeof] === 1) heads.push(head);
    }
    return heads.sort((a, b) => this.#counter(a) - this.#counter(b));
  }

  #counter(head: number): number {
    const at = (DESC + head * desc_state.sizeof + desc_state.counter) / 4;
    return this.#u32[at + 1] * TWO32 + this.#u32[at];
  }

  /** Takes the marks of a list off, from `head` on, and says that this was done. */
  #unmark(head: number, count: number): void {
    const mask = this.size - 1;
    for (let i = 0; i < count; i++) {
      const at = DESC + head * desc_state.sizeof;
      this.#u8[at] = 0;
      head = this.#u16[(at + desc_state.next) >> 1] & mask;
    }
    Atomics.store(this.#u16, USED_IDX, this.used);
  }

  /** As of any queue; leftovers come before what is new, and are no news of the driver. */
  override available(): number {
    return this.leftovers > 0 ? this.leftovers : super.available();
  }

  override get waiting(): boolean {
    return this.leftovers > 0 || super.waiting;
  }

  override enableKicks(): boolean {
    return super.enableKicks() || this.leftovers > 0;
  }

  override pop(): number {
    if (this.leftovers > 0) {
      this.again = true;
      return this.#found[this.#found.length - this.leftovers--];
    }
    this.again = false;
    const head = super.pop();
    if (head < 0) return head;
    const at = DESC + head * desc_state.sizeof;
    const counter = (at + desc_state.counter) >> 2;
    this.#u32[counter] = this.#countLo;
    this.#u32[counter + 1] = this.#countHi;
    this.#countLo = (this.#countLo + 1) >>> 0;
    if (this.#countLo === 0) this.#countHi++;
    Atomics.store(this.#u8, at, 1);
    return head;
  }

  override push(head: number, written: number): void {
    super.push(head, written);
    this.#u16[(DESC + head * desc_state.sizeof + desc_state.next) >> 1] = this.#last;
    this.#u16[LAST_BATCH_HEAD] = this.#last = head;
    this.#batch++;
  }

  override show(): void {
    if (this.#batch === 0) return;
    super.show();
    this.#unmark(this.#last, this.#batch);
    this.#batch = 0;
  }

  override letGo(): void {
    this.#u8.buffer.transfer(0);
  }
}
