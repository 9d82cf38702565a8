/** Where a loop's thread runs, and how many threads the kernel runs for its ring. */
import { cpuMask, pinThread } from "../ffi/affinity.ts";
import { errorText } from "../ffi/libc.ts";
import { Ring } from "../ffi/uring.ts";
import { register_iowq_aff, register_iowq_max_workers } from "../ffi/uring_register.ts";
import type { Log } from "./log.ts";

/** The CPUs of one loop; null: those of the process. */
export interface Placement {
  loop: readonly number[] | null;
  /** Of io-wq's threads, which take over what the kernel cannot do at once (an fsync, say). They do not go with the loop's thread. */
  workers: readonly number[] | null;
}

/**
 * io-wq's threads at most, for each loop: for regular files, and for all else (of ours, the fsync of a directory). The kernel's own
 * bounds are four a CPU and as many as the user may have processes.
 */
const WORKERS = 32;

/** Pins the calling thread. Before it takes memory, which then comes from the CPUs' own NUMA node. Throws SystemError. */
export function placeThread({ loop }: Placement): void {
  if (loop !== null) pinThread(loop);
}

/** Pins and bounds the threads that the kernel runs for the calling thread's ring, where it is an io_uring. */
export function placeWorkers(ring: object, { workers }: Placement, log: Log): void {
  if (!(ring instanceof Ring)) return;
  if (workers !== null) {
    const pinned = register_iowq_aff(ring, cpuMask(workers));
    if (pinned < 0) log.warn(`the kernel does not pin io_uring's threads: ${errorText(-pinned)}`);
  }
  const bounded = register_iowq_max_workers(ring, WORKERS, WORKERS);
  if (typeof bounded === "number") log.debug(`io_uring's threads keep the kernel's bounds: ${errorText(-bounded)}`);
}
