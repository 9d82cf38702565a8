/**
 * Processors that nobody uses. A large transfer is a copy, and one loop copies with one processor: where others are idle, workers of
 * the ring may copy at the same time; where none is, they would only take turns with the loop. How many threads want a processor is
 * what /proc/loadavg says (proc(5), the fourth field).
 */
import { O_CLOEXEC, O_RDONLY } from "../ffi/arch.ts";
import { nowMs } from "../ffi/clock.ts";
import { libc } from "../ffi/libc.ts";
import { AT_FDCWD } from "../ffi/stat_layout.ts";

/** The count is a moment's, so it is averaged: one look in so many milliseconds, each with that weight. */
const LOOK_EVERY_MS = 1;
const WEIGHT = 1 / 8;
const SLASH = 0x2f;
const ZERO = 0x30;
const SPACE = 0x20;

export class Spare {
  readonly #fd: number;
  readonly #text = new Uint8Array(128);
  #lookedAt = 0;
  /** Threads of others that want a processor, on average. */
  #others: number;
  #inUse = 0;

  /** `cpus` are what this process may use. */
  constructor(readonly cpus: number) {
    this.#others = cpus;
    this.#fd = cpus > 1
      ? libc.openat(AT_FDCWD, new TextEncoder().encode("/proc/loadavg\0"), O_RDONLY | O_CLOEXEC, 0)
      : -1;
  }

  /** Transfers that workers make now. */
  get inUse(): number {
    return this.#inUse;
  }

  /** Takes a processor that is idle for one transfer, until `give`. False where there is none. */
  take(): boolean {
    if (this.#fd < 0) return false;
    const now = nowMs();
    if (now - this.#lookedAt >= LOOK_EVERY_MS) {
      this.#lookedAt = now;
      this.#look();
    }
    // A quarter of a processor is worth a worker: the scheduler gives it the rest of the time.
    const idle = Math.ceil(this.cpus - 1 - this.#others - 0.25);
    // One more waits, so that a worker that is done has something to do before the loop comes round.
    if (idle < 1 || this.#inUse > idle) return false;
    this.#inUse++;
    return true;
  }

  give(): void {
    this.#inUse--;
  }

  close(): void {
    if (this.#fd >= 0) libc.close(this.#fd);
  }

  /** "0.20 0.18 0.12 2/345 11206": runnable threads, this one among them. */
  #look(): void {
    const n = libc.pread(this.#fd, this.#text, this.#text.length, 0n);
    let at = n > 0 ? this.#text.indexOf(SLASH) : -1;
    if (at < 0) return;
    let runnable = 0;
    for (let unit = 1; this.#text[--at] !== SPACE && at > 0; unit *= 10) runnable += (this.#text[at] - ZERO) * unit;
    const others = Math.max(0, runnable - 1 - this.#inUse);
    this.#others += (others - this.#others) * WEIGHT;
  }
}
