/**
 * Adaptive polling: after work, a loop looks at its rings for a while before it sleeps. The while grows when looking a little
 * longer would have spared a sleep, and shrinks to nothing when it would not, as QEMU's AioContext does it.
 */

import { nowMs } from "../ffi/clock.ts";

/** The first while, in microseconds, when polling starts to pay. */
const START_US = 4;
/** Looks at the rings between two looks at the clock, which costs as much as several of them. */
const LOOKS = 8;

export class Poller {
  #whileMs = 0;
  readonly #maxMs: number;
  #since = 0;
  #looks = 0;
  #spinning = false;

  /** `maxUs` bounds the while in microseconds; 0 turns polling off. `counts[polledAt]` gets the milliseconds that it takes. */
  constructor(maxUs: number, readonly counts = new Float64Array(1), readonly polledAt = 0) {
    this.#maxMs = maxUs / 1000;
  }

  /** How long it polls at present, in microseconds. */
  get whileUs(): number {
    return this.#whileMs * 1000;
  }

  /** There was something to do, since `now`; 0: that is not known. */
  worked(now = 0): void {
    if (this.#spinning && now > this.#since) this.counts[this.polledAt] += now - this.#since;
    this.#spinning = false;
  }

  /** There was nothing to do: true where it pays to look again. */
  spin(): boolean {
    if (this.#whileMs === 0) return false;
    if (!this.#spinning) {
      this.#spinning = true;
      this.#since = nowMs();
      this.#looks = 0;
      return true;
    }
    if (++this.#looks % LOOKS !== 0) return true;
    const tookMs = nowMs() - this.#since;
    if (tookMs < this.#whileMs) return true;
    this.counts[this.polledAt] += tookMs;
    this.#spinning = false;
    return false;
  }

  /** It goes to sleep now. */
  sleeping(now = nowMs()): void {
    this.#since = now;
  }

  /** It was woken: adapts to how long it slept. */
  woke(now = nowMs()): void {
    if (this.#maxMs === 0) return;
    const sleptMs = now - this.#since;
    if (sleptMs > this.#maxMs) this.#whileMs = 0;
    else this.#whileMs = Math.min(this.#maxMs, Math.max(START_US / 1000, this.#whileMs * 2));
  }
}
