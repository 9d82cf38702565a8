/**
 * Processors that nobody uses. A large transfer is a copy, and one loop copies with one processor: where others are idle, workers of
 * the ring may copy at the same time; where none is, they would only take turns with the loop. How many threads want a processor is
 * what /proc/loadavg says (proc(5), the fourth field).
 */
import { O_CLOEXEC, O_RDONLY } from "../ffi/arch.ts";
import { nowMs } from "../ffi/clock.ts";
import { cString, libc } from "../ffi/libc.ts";
import { AT_FDCWD } from "../ffi/stat_layout.ts";

/** The count is a moment's, so it is averaged: one look in so many milliseconds, each with that weight. */
const LOOK_EVERY_MS = 1;
const WEIGHT = 1 / 8;
const SLASH = 0x2f;
const ZERO = 0x30;
const SPACE = 0x20;

/** Opens what says how many threads want a processor: one descriptor for all loops. -1 where it cannot be had. */
export function openLoad(): number {
  return libc.openat(AT_FDCWD, cString("/proc/loadavg"), O_RDONLY | O_CLOEXEC, 0);
}

export class Spare {
  readonly #text = new Uint8Array(128);
  #lookedAt = 0;
  /** Threads of others that want a processor, on average. */
  #others: number;
  #inUse = 0;

  /** `cpus` are how many there are for the loop and its workers; `load` is what `openLoad` returned, or -1: nothing is given. */
  constructor(readonly cpus: number, readonly load: number) {
    this.#others = cpus;
  }

  /** Transfers that workers make now. */
  get inUse(): number {
    return this.#inUse;
  }

  /** Takes a processor that is idle for one transfer, until `give`. False where there is none. */
  take(): boolean {
    if (this.load < 0 || this.cpus < 2) return false;
    const now = nowMs();
    if (now - this.#lookedAt >= LOOK_EVERY_MS) {
      this.#lookedAt = now;
      this.#look();
    }
    // A quarter of a processor is worth a worker: the scheduler gives it the rest of the time.
    const idle = Math.ceil(this.cpus - 1 - this.#others - 0.25);
    // Some more wait, so that a worker that is done has something to do before the loop comes round, and need not be woken.
    if (idle < 1 || this.#inUse > idle + 1) return false;
    this.#inUse++;
    return true;
  }

  give(): void {
    this.#inUse--;
  }

  /** "0.20 0.18 0.12 2/345 11206": runnable threads, this one among them. */
  #look(): void {
    const n = libc.pread(this.load, this.#text, this.#text.length, 0n);
    let at = n > 0 ? this.#text.indexOf(SLASH) : -1;
    if (at < 0) return;
    let runnable = 0;
    for (let unit = 1; this.#text[--at] !== SPACE && at > 0; unit *= 10) runnable += (this.#text[at] - ZERO) * unit;
    const others = Math.max(0, runnable - 1 - this.#inUse);
    this.#others += (others - this.#others) * WEIGHT;
  }
}
