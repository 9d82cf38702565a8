/**
 * Keeps idle processors from halting for a moment, where that pays. A driver sleeps until it is called, and a processor that has halted takes
 * long to wake up: a virtual one leaves to its hypervisor and comes back, 14 µs for a request of 2, and sending the interrupt
 * keeps the loop for 6. Linux has a file for whoever cannot wait that long: while a process has written 0 µs to it, idle processors look
 * for work instead (Documentation/power/pm_qos_interface.rst). And where a hypervisor looks for a while before it gives a processor
 * away that halts, for as long as that helped lately (KVM's halt polling), some milliseconds of it last for a tenth of a second or more.
 *
 * All processors of the machine do that, so it is for small machines only. While a loop calls often, the requests that it takes in a
 * millisecond are compared before, while and after. Where more of them come afterwards it is done again, sooner and sooner; where only
 * meanwhile, it is kept up if that is so many more that none takes more of the machine, idle processors counted as used; else it is tried
 * later and later.
 */
import { O_CLOEXEC, O_WRONLY } from "../ffi/arch.ts";
import { nowMs } from "../ffi/clock.ts";
import { cString, libc } from "../ffi/libc.ts";
import { AT_FDCWD } from "../ffi/stat_layout.ts";

/** More processors than this would take more than can be gained. */
const CPUS_MAX = 4;
/** Of a loop that polls and its driver together, the part of two processors that they use without this. */
const USED_BEFORE = 1.25;
/** A window, in which requests are counted: at least so many calls and milliseconds. */
const WINDOW = 64;
const WINDOW_MS = 4;
/** Where so many calls take longer, their cost is none to speak of. */
const SLOW_MS = 12;
/** Calls after a change that are not counted. */
const SETTLE = 16;
/** So many times the requests are no accident. */
const MORE = 1.06;
/** So many times as many, or as few, are other requests, or processors have begun to halt again. */
const OTHER = 1.5;
/** It is done again after this time at the earliest, and after twice as long each time where it was in vain. */
const AGAIN_MS = 80;
const AGAIN_MAX_MS = 60_000;
/** What pays only as long as it is done is done for this time. */
const KEEP_MS = 5000;
/** So many windows one behind the other have to be slow: one may have been disturbed. */
const SLOW_WINDOWS = 4;

const MEASURING = 0;
const HOLDING = 1;
const AFTERWARDS = 2;
const KEEPING = 3;

/** Latencies in µs: none, and any, which is the kernel's PM_QOS_CPU_LATENCY_DEFAULT_VALUE. */
const NONE = new Uint8Array(Int32Array.of(0).buffer);
const ANY = new Uint8Array(Int32Array.of(2_000_000_000).buffer);

/** What loops are given for it: a descriptor each, and how many processors the machine has. */
export interface AwakeFiles {
  fds: readonly number[];
  cpus: number;
}

/** Opens the file once for each of so many loops; fewer or none where the machine has too many or too few `cpus`, or the file is root's. */
export function openAwake(loops: number, cpus: number): AwakeFiles {
  const fds: number[] = [];
  if (cpus < 2 || cpus > CPUS_MAX) return { fds, cpus };
  while (fds.length < Math.min(loops, cpus)) {
    const fd = libc.openat(AT_FDCWD, cString("/dev/cpu_dma_latency"), O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0) break;
    fds.push(fd);
  }
  return { fds, cpus };
}

/** One loop's. */
export class Awake {
  /** Requests that the loop has taken. */
  requests = 0;
  /** How many times as many requests have to come while it is kept up. */
  readonly #gain: number;
  #state = MEASURING;
  // The window: calls until its end, or until it begins, and what was so at its beginning.
  #left = SETTLE;
  #settling = true;
  #since = 0;
  #taken = 0;
  /** Requests in a millisecond before it was done last, and meanwhile. */
  #before = 0;
  #meanwhile = 0;
  /** Since when it was counted that processors are kept awake; 0: they are not. */
  #heldMs = 0;
  #keepUntil = 0;
  #slow = 0;
  #tryAt = 0;
  #doneAt = -Infinity;
  #againMs = AGAIN_MS;

  /** `fd` is one of `openAwake`'s; `counts[heldAt]` gets the milliseconds for which processors were kept awake. */
  constructor(
    readonly fd: number,
    cpus: number,
    readonly counts = new Float64Array(1),
    readonly heldAt = 0,
    readonly clock: () => number = nowMs,
  ) {
    this.#gain = cpus / USED_BEFORE;
  }

  /** Whether processors are kept awake now. */
  get held(): boolean {
    return this.#heldMs > 0;
  }

  /** The loop has called a driver. */
  called(): void {
    if (--this.#left > 0) return;
    const now = this.clock();
    const tookMs = now - this.#since;
    if (!this.#settling && tookMs < WINDOW_MS) {
      this.#left = SETTLE;
      return;
    }
    const rate = (this.requests - this.#taken) / tookMs;
    if (this.held) this.#count(now);
    if (!this.#settling) this.#look(now, tookMs, rate);
    else this.#settling = false;
    if (this.#settling) return;
    this.#left = WINDOW;
    this.#since = now;
    this.#taken = this.requests;
  }

  /** The loop goes to sleep: nobody waits for it. */
  sleeping(now = this.clock()): void {
    if (this.held) this.#release(now);
    // Nothing can be said of it, and a driver that comes in short bursts would have it done for each.
    if (this.#state === HOLDING || this.#state === AFTERWARDS) {
      this.#doneAt = now;
      this.#inVain(now);
    }
    this.#state = MEASURING;
  }

  /** It goes on. */
  woke(): void {
    this.#settle();
  }

  #look(now: number, tookMs: number, rate: number): void {
    switch (this.#state) {
      case MEASURING: {
        if (tookMs > SLOW_MS) return;
        const other = rate > this.#before * OTHER || rate * OTHER < this.#before;
        if (other && now - this.#doneAt > AGAIN_MS) this.#againMs = AGAIN_MS;
        else if (now < this.#tryAt) return;
        this.#before = rate;
        this.#hold(now);
        this.#state = HOLDING;
        return;
      }
      case HOLDING:
        this.#meanwhile = rate;
        this.#release(now);
        this.#state = AFTERWARDS;
        return;
      case AFTERWARDS:
        this.#decide(now, rate);
        return;
      case KEEPING:
        if (rate < this.#before * this.#gain) this.#slow++;
        else this.#slow = 0;
        if (this.#slow < SLOW_WINDOWS && now < this.#keepUntil) return;
        if (this.#slow > 0) this.#inVain(now);
        this.#release(now);
        this.#state = MEASURING;
    }
  }

  #decide(now: number, rate: number): void {
    this.#state = MEASURING;
    this.#doneAt = now;
    if (rate >= this.#before * MORE) {
      this.#againMs = Math.max(this.#againMs / 2, AGAIN_MS);
      this.#tryAt = now + this.#againMs;
    } else if (this.#meanwhile >= this.#before * this.#gain) {
      this.#slow = 0;
      this.#keepUntil = now + KEEP_MS;
      this.#hold(now);
      this.#state = KEEPING;
    } else {
      this.#inVain(now);
    }
  }

  #inVain(now: number): void {
    this.#againMs = Math.min(this.#againMs * 2, AGAIN_MAX_MS);
    this.#tryAt = now + this.#againMs;
  }

  #hold(now: number): void {
    this.#write(NONE);
    this.#heldMs = now;
    this.#settle();
  }

  #release(now: number): void {
    this.#count(now);
    this.#heldMs = 0;
    this.#write(ANY);
    this.#settle();
  }

  #settle(): void {
    this.#settling = true;
    this.#left = SETTLE;
  }

  #count(now: number): void {
    this.counts[this.heldAt] += now - this.#heldMs;
    this.#heldMs = now;
  }

  /** Where that fails, processors halt as ever. */
  #write(us: Uint8Array<ArrayBuffer>): void {
    libc.write(this.fd, us, us.length);
  }
}
