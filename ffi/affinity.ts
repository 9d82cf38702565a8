/** The CPUs that threads may run on: sched_setaffinity(2). A thread starts with those of the thread that made it. */
import { checked, libc } from "./libc.ts";

/** cpu_set_t of 8192 CPUs, the most that Linux can be built for: the kernel refuses a set that is smaller than its own. */
const MASK_BYTES = 1024;

/** CPUs have numbers below this. */
export const CPUS_MAX = MASK_BYTES * 8;

/** The set of some CPUs: bit n of byte n >> 3 is CPU n. Throws RangeError where there cannot be such a CPU. */
export function cpuMask(cpus: readonly number[]): Uint8Array<ArrayBuffer> {
  const mask = new Uint8Array(MASK_BYTES);
  for (const cpu of cpus) {
    if (!Number.isInteger(cpu) || cpu < 0 || cpu >= CPUS_MAX) throw new RangeError(`there is no CPU ${cpu}`);
    mask[cpu >> 3] |= 1 << (cpu & 7);
  }
  return mask;
}

/** The CPUs that a thread may run on, in order; 0: the calling one. Throws SystemError where there is no such thread. */
export function allowedCpus(thread = 0): number[] {
  const mask = new Uint8Array(MASK_BYTES);
  checked("sched_getaffinity", libc.sched_getaffinity(thread, MASK_BYTES, mask));
  const cpus: number[] = [];
  for (let cpu = 0; cpu < CPUS_MAX; cpu++) {
    if ((mask[cpu >> 3] & 1 << (cpu & 7)) !== 0) cpus.push(cpu);
  }
  return cpus;
}

/**
 * Has a thread run on these CPUs only; 0: the calling one. Those that the machine lacks or the cpuset forbids are left out. Throws
 * SystemError where none is left, or there is no such thread.
 */
export function pinThread(cpus: readonly number[], thread = 0): void {
  checked("sched_setaffinity", libc.sched_setaffinity(thread, MASK_BYTES, cpuMask(cpus)));
}

/** The same for every thread that the process has, the runtime's own with them, and so for those that they will make. */
export function pinProcess(cpus: readonly number[]): void {
  pinThread(cpus);
  for (const { name } of Deno.readDirSync("/proc/self/task")) {
    try {
      pinThread(cpus, Number(name));
    } catch {
      // It has ended since.
    }
  }
}
