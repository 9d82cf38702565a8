/**
 * What a device may do in a second: requests, and bytes that they move. Two token buckets of the device lie in memory that all loops of
 * its queues share; a loop takes and pays by single atomics, once a batch, and there is no lock and nobody who fills them: whoever pays
 * looks at the clock first, and adds what has come since anybody last did.
 *
 * A queue pays for a batch when it has taken it. Where that leaves a debt, and the queue has had some milliseconds' worth since it last
 * waited (its turn), it waits until all that anybody took until then is paid. So queues take turns whatever their loops are, and wake
 * some 200 times a second. A queue that has nothing to do holds nothing, and one that is stopped has nothing to give back.
 *
 * Bytes are counted as the chain allows when it is taken (all that it lets the device write), and set right when it is finished. What a
 * chain's bytes mean is not known here: a few dozen of each request are its headers.
 */
import { nowMs } from "../ffi/clock.ts";
import type { Queue } from "./queue.ts";
import { type Requests, SLOTS } from "./requests.ts";

/** Requests and millions of bytes in a second; 0: any number. */
export interface Limit {
  iops: number;
  mbps: number;
}

export const UNLIMITED: Limit = { iops: 0, mbps: 0 };
/** Greatest limits, so that a bucket stays within 31 bits. */
export const IOPS_MAX = 10_000_000;
export const MBPS_MAX = 1_000_000;

/** Units of the buckets, so that a limit of 1 is a whole number of them in a millisecond. */
const REQUEST = 1000;
const BYTES = 100;
const UNITS_A_MS_AND_MBPS = 1e6 / 1000 / BYTES;

// Words of the shared memory: a line each.
const REQUESTS_LEFT = 0;
const BYTES_LEFT = 16;
/** When tokens were last added, in ms modulo 2^32. */
const ADDED_AT = 32;
const WORDS = 48;
export const LIMITER_BYTES = WORDS * 4;

/** A bucket holds as much as comes in this time, and at least one request. */
const BURST_MS = 100;
/** A queue's turn, in ms of the device's limit; one request at least. */
const TURN_MS = 5;
/** How far an urgent queue may go into debt, so that what is urgent does not stand behind what is not. */
const URGENT_MS = 1000;
const URGENT_REQUESTS = 128;
/** A clock of another loop that is so little ahead is ahead; further, it is a long time ago. */
const AHEAD_MS = 60_000;
/** A chain can claim to be larger than anything: it is counted as so many bytes, until it is known how many it moved. */
const CHAIN_BYTES_MAX = 2 ** 30;

/** One loop's side of a device's limit. */
export class Limiter {
  readonly #words: Int32Array;
  /** Units in a millisecond; 0: any number. */
  readonly #requestsMs: number;
  readonly #bytesMs: number;
  /** What each slot's chain was counted as, in bytes. */
  readonly #counted = new Float64Array(SLOTS);
  /** Of the batch that is being taken: the bytes that it may still move, what it owes, and whether there is one. */
  #room = 0;
  #requests = 0;
  #bytes = 0;
  #taking = false;

  constructor(shared: SharedArrayBuffer, { iops, mbps }: Limit) {
    this.#words = new Int32Array(shared);
    this.#requestsMs = iops * REQUEST / 1000;
    this.#bytesMs = mbps * UNITS_A_MS_AND_MBPS;
    this.#fill(nowMs());
  }

  /** Whether a queue has to wait. */
  holds(queue: Queue): boolean {
    if (queue.paidAt === 0) return false;
    if (nowMs() < queue.paidAt) return true;
    queue.paidAt = 0;
    return false;
  }

  /** How long it has to, in microseconds, for a queue that has. */
  waitUs(queue: Queue): number {
    return Math.max(1, Math.ceil((queue.paidAt - nowMs()) * 1000));
  }

  /** A batch begins, of a queue that need not wait. Returns how many chains it may have, of `most` that it could. */
  begin(most: number): number {
    this.#fill(nowMs());
    this.#taking = true;
    const w = this.#words;
    this.#room = this.#bytesMs === 0
      ? Infinity
      : Math.max(1, Atomics.load(w, BYTES_LEFT) * BYTES, this.#bytesMs * TURN_MS * BYTES);
    if (this.#requestsMs === 0) return most;
    const left = Math.floor(Atomics.load(w, REQUESTS_LEFT) / REQUEST);
    return Math.min(most, Math.max(1, left, Math.floor(this.#requestsMs * TURN_MS / REQUEST)));
  }

  /** A chain of the batch was taken. One of an urgent queue that wants no answer is free. */
  take(queue: Queue, slot: number, { readableBytes, writableBytes, writable }: Requests): void {
    if (queue.urgent && writable[slot] === 0) {
      this.#counted[slot] = 0;
      return;
    }
    const bytes = Math.min(CHAIN_BYTES_MAX, readableBytes[slot] + writableBytes[slot]);
    this.#counted[slot] = bytes;
    this.#requests++;
    this.#bytes += bytes;
  }

  /** Whether the batch has moved what it may. */
  get spent(): boolean {
    return this.#bytes >= this.#room;
  }

  /** A chain is finished, and has moved so many bytes. */
  finish(queue: Queue, slot: number, moved: number): void {
    const counted = this.#counted[slot];
    // It was free, or taken before there was a limit.
    if (counted === 0) return;
    this.#counted[slot] = 0;
    const surplus = counted - moved;
    if (this.#taking) {
      this.#bytes -= surplus;
      return;
    }
    const units = Math.round(surplus / BYTES);
    if (units === 0 || this.#bytesMs === 0) return;
    Atomics.add(this.#words, BYTES_LEFT, units);
    // Whichever bucket the queue waits for: the other's debt is small, and the next batch pays it.
    if (queue.paidAt !== 0 && this.#requestsMs === 0) queue.paidAt -= units / this.#bytesMs;
  }

  /** The batch has ended: it is paid, and the queue waits where that leaves a debt. */
  end(queue: Queue): void {
    this.#taking = false;
    const requests = this.#requests * REQUEST;
    const bytes = Math.round(this.#bytes / BYTES);
    this.#requests = this.#bytes = 0;
    const requestsLeft = this.#pay(REQUESTS_LEFT, this.#requestsMs, requests);
    const bytesLeft = this.#pay(BYTES_LEFT, this.#bytesMs, bytes);
    queue.turnMs += Math.max(
      this.#requestsMs === 0 ? 0 : requests / this.#requestsMs,
      this.#bytesMs === 0 ? 0 : bytes / this.#bytesMs,
    );
    if (requestsLeft >= 0 && bytesLeft >= 0) queue.turnMs = 0;
    else if (queue.turnMs >= TURN_MS) this.#wait(queue, requestsLeft, bytesLeft);
  }

  /** A queue waits for all that is owed: it is new, or the limit is. */
  join(queue: Queue): void {
    const w = this.#words;
    this.#wait(queue, Atomics.load(w, REQUESTS_LEFT), Atomics.load(w, BYTES_LEFT));
  }

  /** Returns what is left in a bucket. */
  #pay(bucket: number, unitsMs: number, units: number): number {
    return unitsMs === 0 ? 0 : Atomics.sub(this.#words, bucket, units) - units;
  }

  /** Has a queue wait while there is a debt. */
  #wait(queue: Queue, requests: number, bytes: number): void {
    queue.turnMs = 0;
    let ms = 0;
    if (this.#requestsMs > 0) {
      const may = queue.urgent ? Math.max(this.#requestsMs * URGENT_MS, URGENT_REQUESTS * REQUEST) : 0;
      ms = -(requests + may) / this.#requestsMs;
    }
    if (this.#bytesMs > 0) {
      const may = queue.urgent ? this.#bytesMs * URGENT_MS : 0;
      ms = Math.max(ms, -(bytes + may) / this.#bytesMs);
    }
    queue.paidAt = ms > 0 ? nowMs() + ms : 0;
  }

  /** Adds what has come since anybody last did. */
  #fill(ms: number): void {
    const w = this.#words;
    const now = ms | 0;
    const at = Atomics.load(w, ADDED_AT);
    const passed = (now - at) >>> 0;
    if (passed === 0 || passed > 2 ** 32 - AHEAD_MS) return;
    // Another loop has added it.
    if (Atomics.compareExchange(w, ADDED_AT, at, now) !== at) return;
    this.#add(REQUESTS_LEFT, this.#requestsMs, Math.max(this.#requestsMs * BURST_MS, REQUEST), passed);
    this.#add(BYTES_LEFT, this.#bytesMs, this.#bytesMs * BURST_MS, passed);
  }

  #add(bucket: number, unitsMs: number, most: number, passed: number): void {
    if (unitsMs === 0) return;
    // Less than nothing, where the limit was another and the bucket is too full for this one.
    const units = Math.min(unitsMs * passed, most - Atomics.load(this.#words, bucket));
    if (units !== 0) Atomics.add(this.#words, bucket, units);
  }
}
