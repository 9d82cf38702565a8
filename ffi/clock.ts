/** The time, for whoever asks often: `performance.now()` costs three times the call that it makes. */
import { libc } from "./libc.ts";

const CLOCK_MONOTONIC = 1;
const timespec = new Uint8Array(16);
const words = new Uint32Array(timespec.buffer);
const at = Deno.UnsafePointer.of(timespec);

/** Milliseconds since some moment, clock_gettime(2). */
export function nowMs(): number {
  libc.clock_gettime(CLOCK_MONOTONIC, at);
  return words[0] * 1000 + words[2] / 1e6;
}

const CLOCK_PROCESS_CPUTIME_ID = 2;
/** CPUCLOCK_PERTHREAD_MASK and CPUCLOCK_SCHED of linux/posix-timers_types.h: what pthread_getcpuclockid(3) makes of a thread. */
const THREAD_CLOCK = 6;

/** CPU time of a clock in milliseconds; 0 where there is none (any more). */
function cpuMs(clock: number): number {
  return libc.clock_gettime(clock, at) === 0 ? words[0] * 1000 + words[2] / 1e6 : 0;
}

/** CPU time of this process, all its threads together, in milliseconds. */
export function processCpuMs(): number {
  return cpuMs(CLOCK_PROCESS_CPUTIME_ID);
}

/** CPU time of a thread of this process, by its id, in milliseconds; 0 where it is gone. */
export function threadCpuMs(thread: number): number {
  return cpuMs(~thread << 3 | THREAD_CLOCK);
}
