/**
 * Whether plain calls wait, writes above all. A write to the page cache is a copy, and cheaper by a plain call than through one of the ring's
 * worker threads; but when the disk cannot follow, the kernel makes writers wait (balance_dirty_pages), and then a plain write
 * would hold up every other request of the queue. So some writes are timed, and after a slow one all go to the ring for a while.
 */

import { nowMs } from "../ffi/clock.ts";

/** One write in so many is timed; the clock is a tenth of a write. */
const WRITES_EVERY = 8;
const SLOW_MS = 2;
const PAUSE_MS = 500;
/** While slow, the clock is read at one call in this times as many. */
const LOOK_TIMES = 8;

export class WriteWatch {
  #count = 0;
  #since = -1;
  #until = 0;

  /** `every`: one call in so many is timed. `slowMs`: what is slow. `now`: the clock, in milliseconds. */
  constructor(readonly every = WRITES_EVERY, readonly slowMs = SLOW_MS, readonly now: () => number = nowMs) {}

  /** Plain calls were slow lately. */
  get throttled(): boolean {
    if (this.#until === 0) return false;
    if (++this.#count % (this.every * LOOK_TIMES) === 0 && this.now() > this.#until) this.#until = 0;
    return this.#until !== 0;
  }

  before(): void {
    this.#since = ++this.#count % this.every === 0 ? this.now() : -1;
  }

  after(): void {
    if (this.#since < 0) return;
    const now = this.now();
    if (now - this.#since > this.slowMs) this.#until = now + PAUSE_MS;
  }
}
