/**
 * Keeps idle processors from halting, where that pays. A driver that sends one request at a time sleeps until it is called, and a processor
 * that has halted takes long to wake up: a virtual one leaves to its hypervisor and comes back, 14 µs for a request of 2, and it takes
 * the loop that calls half as long to send the interrupt. Linux has a file for whoever cannot wait that long: while a process has
 * written 0 µs to it, idle processors look for work instead (Documentation/power/pm_qos_interface.rst).
 *
 * All of the machine do, so this is for small machines only. It is tried out while a loop polls with success, for some hundred requests,
 * and pays where they come so much faster that, idle processors included, none takes more of the machine than before. It is done again when
 * they have become slow, and kept up where they do so at once. What does not pay is tried again later and later.
 */
import { O_CLOEXEC, O_WRONLY } from "../ffi/arch.ts";
import { nowMs } from "../ffi/clock.ts";
import { cString, libc } from "../ffi/libc.ts";
import { AT_FDCWD } from "../ffi/stat_layout.ts";

/** More processors than this would take more than can be gained. */
const CPUS_MAX = 4;
/** Of a loop that polls and its driver together, the part of two processors that they use without this. */
const USED_BEFORE = 1.25;
/** Requests that looking has found, between two looks at the clock. */
const WINDOW = 256;
/** Milliseconds for that many, above which the driver has something else to do than to wait for answers. */
const SLOW_MS = WINDOW * 0.1;
/** What did not pay is tried again after this time, then after twice as long each time. */
const AGAIN_MS = 50;
const AGAIN_MAX_MS = 60_000;
/** What pays, and only as long as it is done, is done for this time, and then compared anew; what has paid is compared after it at the latest. */
const KEEP_MS = 5000;
/** So many windows one behind the other have to be slow: one may have been disturbed. */
const SLOW_WINDOWS = 4;

/** Latencies in µs: none, and any, which is the kernel's PM_QOS_CPU_LATENCY_DEFAULT_VALUE. */
const NONE = new Int32Array([0]);
const ANY = new Int32Array([2_000_000_000]);

/** What loops are given for it: a descriptor each, and how many processors the machine has. */
export interface AwakeFiles {
  fds: readonly number[];
  cpus: number;
}

/** Processors that are online: "0-1,4" (/sys/devices/system/cpu/online). 0 where that is not known. */
export function countCpus(text: string): number {
  let count = 0;
  for (const range of text.trim().split(",")) {
    const [first, last = first] = range.split("-");
    count += Number(last) - Number(first) + 1;
  }
  return Number.isInteger(count) && text.trim() !== "" ? count : 0;
}

/** Opens the file once for each of so many loops; fewer or none where there may not be so many, the machine is large or it is root's. */
export function openAwake(loops: number): AwakeFiles {
  let cpus = 0;
  try {
    cpus = countCpus(Deno.readTextFileSync("/sys/devices/system/cpu/online"));
  } catch {
    // No sysfs.
  }
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
  /** How many times as fast requests have to be. */
  readonly #gain: number;
  #left = WINDOW;
  #since: number;
  /** The window that has begun is no measure: something was changed in it. */
  #settling = false;
  /** How long a window took without it; and with it, when that paid last. */
  #baseMs = 0;
  #quickMs = 0;
  /** Since when it was counted that processors are kept awake; 0: they are not. */
  #heldMs = 0;
  #keepUntil = 0;
  #slow = 0;
  /** Windows since processors were let go. */
  #lasted = 0;
  #tryAt = 0;
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
    this.#since = clock();
  }

  /** Whether processors are kept awake now. */
  get held(): boolean {
    return this.#heldMs > 0;
  }

  /** Looking at the rings has found something. */
  found(): void {
    if (--this.#left > 0) return;
    this.#left = WINDOW;
    const now = this.clock();
    const tookMs = now - this.#since;
    this.#since = now;
    if (this.#settling) this.#settling = false;
    else if (this.held) this.#judge(now, tookMs);
    else this.#measure(now, tookMs);
  }

  /** The loop goes to sleep: nobody waits for it. */
  sleeping(now = this.clock()): void {
    if (!this.held) return;
    if (this.#quickMs === 0) this.#tryAt = now + AGAIN_MS;
    this.#release(now);
  }

  /** It goes on. */
  woke(now = this.clock()): void {
    this.#left = WINDOW;
    this.#since = now;
  }

  #measure(now: number, tookMs: number): void {
    this.#lasted++;
    if (tookMs > SLOW_MS) return;
    const known = this.#quickMs > 0 && tookMs >= this.#quickMs * this.#gain;
    if (!known && now < this.#tryAt) return;
    this.#baseMs = tookMs;
    this.#write(NONE);
    this.#heldMs = now;
    this.#settling = true;
    this.#slow = 0;
    // Hypervisors look for a while before a processor that halts is given away, where it was short the last time: then it lasts.
    this.#keepUntil = known && this.#lasted <= SLOW_WINDOWS ? now + KEEP_MS : now;
  }

  #judge(now: number, tookMs: number): void {
    this.#count(now);
    if (tookMs * this.#gain <= this.#baseMs) {
      this.#quickMs = tookMs;
      this.#againMs = AGAIN_MS;
      this.#slow = 0;
      if (now < this.#keepUntil) return;
      this.#tryAt = now + KEEP_MS;
      this.#release(now);
      return;
    }
    if (this.#quickMs > 0 && ++this.#slow < SLOW_WINDOWS) return;
    this.#quickMs = 0;
    this.#tryAt = now + this.#againMs;
    this.#againMs = Math.min(this.#againMs * 2, AGAIN_MAX_MS);
    this.#release(now);
  }

  #release(now: number): void {
    this.#count(now);
    this.#heldMs = 0;
    this.#lasted = 0;
    this.#settling = true;
    this.#write(ANY);
  }

  #count(now: number): void {
    this.counts[this.heldAt] += now - this.#heldMs;
    this.#heldMs = now;
  }

  /** Where that fails, processors halt as ever. */
  #write(us: Int32Array<ArrayBuffer>): void {
    libc.write(this.fd, new Uint8Array(us.buffer), 4);
  }
}
