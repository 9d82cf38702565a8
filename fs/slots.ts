/**
 * Which slots of a table in shared memory are free. Each loop keeps some for itself, so that taking and giving needs no lock in the
 * usual case; what a loop has too many of goes to a list that all share, for a slot is often taken on one loop and given back on
 * another: FORGET comes on the high-priority queue.
 */
import { lock, unlock } from "../vq/spin.ts";

/** Words of the head, side by side: how many slots were ever given out, the first of the shared list (number + 1, or 0), their lock. */
const USED = 0;
const FREE = 1;
const LOCK = 2;

/** Slots that move between a loop and the shared list at a time. */
const CHUNK = 64;
/** Free slots that a loop keeps at most. */
const KEPT = 2 * CHUNK;

/** Where the slots lie, in words. */
export interface SlotLayout {
  /** The head: three words. All zeros is a table of which nothing was given out. */
  readonly head: number;
  /** Slot 0. */
  readonly first: number;
  /** Words of a slot, and which of them the shared list may use while the slot is free. */
  readonly words: number;
  readonly link: number;
  readonly count: number;
}

/** One loop's view. */
export class Slots {
  readonly #words: Int32Array<ArrayBuffer>;
  readonly #layout: SlotLayout;
  readonly #own = new Int32Array(KEPT);
  #owned = 0;

  constructor(words: Int32Array<ArrayBuffer>, layout: SlotLayout) {
    this.#words = words;
    this.#layout = layout;
  }

  /** Slots below this number may be in use. */
  get used(): number {
    return Atomics.load(this.#words, this.#layout.head + USED);
  }

  /** A free slot, or -1 where there is none. */
  take(): number {
    if (this.#owned === 0) this.#refill();
    return this.#owned === 0 ? -1 : this.#own[--this.#owned];
  }

  give(slot: number): void {
    if (this.#owned === KEPT) this.#return();
    this.#own[this.#owned++] = slot;
  }

  /** Begins a table anew, with the first `reserved` slots in use. No other loop may use it meanwhile. */
  reset(reserved: number): void {
    this.#words[this.#layout.head + USED] = reserved;
    this.#words[this.#layout.head + FREE] = 0;
    this.#owned = 0;
  }

  /** The table was begun anew by another loop: the slots that this one kept are no longer its own. */
  forget(): void {
    this.#owned = 0;
  }

  #refill(): void {
    const w = this.#words;
    const { head, first, words, link, count } = this.#layout;
    lock(w, head + LOCK);
    let slot = w[head + FREE] - 1;
    while (slot >= 0 && this.#owned < CHUNK) {
      this.#own[this.#owned++] = slot;
      slot = w[first + slot * words + link] - 1;
    }
    w[head + FREE] = slot + 1;
    if (this.#owned === 0) {
      const from = w[head + USED];
      const to = Math.min(from + CHUNK, count);
      w[head + USED] = to;
      // The lowest is given out first.
      for (slot = to - 1; slot >= from; slot--) this.#own[this.#owned++] = slot;
    }
    unlock(w, head + LOCK);
  }

  #return(): void {
    const w = this.#words;
    const { head, first, words, link } = this.#layout;
    lock(w, head + LOCK);
    for (let i = 0; i < CHUNK; i++) {
      const slot = this.#own[--this.#owned];
      w[first + slot * words + link] = w[head + FREE];
      w[head + FREE] = slot + 1;
    }
    unlock(w, head + LOCK);
  }
}
