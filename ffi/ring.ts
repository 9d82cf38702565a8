/**
 * The ring of a loop: io_uring where the kernel has it and lets us, plain calls where not. What is used of io_uring is tried
 * before the ring is taken, for a version number says little: distributions port features back, and seccomp takes calls away.
 */
import { EACCES, ECANCELED, EINTR, EMFILE, ENFILE, ENOMEM, ENOSYS, EPERM } from "./errno.ts";
import { createEventfd, signal } from "./eventfd.ts";
import { libc, SystemError } from "./libc.ts";
import { type Helper, PlainRing } from "./plain_ring.ts";
import { POLLIN } from "./stat_layout.ts";
import { Ring } from "./uring.ts";
import { restrictedRing } from "./uring_restrict.ts";
import {
  IORING_CQE_F_MORE,
  IORING_OP_ASYNC_CANCEL,
  IORING_OP_FALLOCATE,
  IORING_OP_FSYNC,
  IORING_OP_POLL_ADD,
  IORING_OP_READ,
  IORING_OP_READV,
  IORING_OP_WRITE,
  IORING_OP_WRITEV,
} from "./uring_layout.ts";
import { register_probe } from "./uring_register.ts";
import { RingUnfit } from "./uring_setup.ts";
import type { SubmissionEntries } from "./uring_sqe.ts";

/** What a loop and its services use of a ring, as `Ring` describes it. A thread has one kind only, so that its calls stay direct. */
export interface LoopRing extends SubmissionEntries {
  get_sqe(): number;
  discard(): void;
  sq_ready(): number;
  sq_space_left(): number;
  submit(): number;
  submit_and_get_events(): number;
  submit_and_wait(waitNr: number, noIo?: boolean): number;
  submit_and_wait_timeout(waitNr: number, timeoutUs: number, noIo?: boolean): number;
  cq_ready(): number;
  cq_needs_enter(): boolean;
  cqe_res(i: number): number;
  cqe_data_lo(i: number): number;
  cqe_data_hi(i: number): number;
  cqe_flags(i: number): number;
  cq_advance(n: number): void;
  queue_exit(): void;
}

export interface LoopRingOptions {
  entries: number;
  cqEntries: number;
  /** Sets of IORING_SETUP_* to try, the best first; none: io_uring is not to be used. Left out: those of queue_init_best. */
  flags?: readonly number[] | undefined;
  /** Makes calls that wait, where there is no io_uring. */
  helper: Helper;
}

export type OpenedRing =
  | { ring: Ring; plain: null }
  /** `reason`: why there is no io_uring, and what can be done. `perThread`: another thread may have one. */
  | { ring: PlainRing; plain: PlainRing; reason: string; perThread: boolean };

const OPERATIONS = [
  IORING_OP_READ,
  IORING_OP_READV,
  IORING_OP_WRITE,
  IORING_OP_WRITEV,
  IORING_OP_FSYNC,
  IORING_OP_FALLOCATE,
  IORING_OP_POLL_ADD,
  IORING_OP_ASYNC_CANCEL,
];

const SECCOMP = "the container's seccomp profile must allow io_uring_setup, io_uring_enter and io_uring_register";
const ADVICE: Record<number, string> = {
  [ENOSYS]: `it takes a kernel with CONFIG_IO_URING, and ${SECCOMP}`,
  [EPERM]: `the sysctl kernel.io_uring_disabled must be 0, and ${SECCOMP}`,
  [EACCES]: "the security policy (SELinux, AppArmor) must allow it",
  [ENOMEM]: "before Linux 5.12 it counts as locked memory: raise RLIMIT_MEMLOCK (ulimit -l)",
};

/**
 * A ring for the calling thread. Throws SystemError for want of descriptors (EMFILE, ENFILE), which no kind of ring can do without. Any
 * other failure of io_uring leads to a plain ring: a security policy may refuse with whatever error it likes.
 */
export function openRing(options: LoopRingOptions): OpenedRing {
  const { entries, cqEntries, flags, helper } = options;
  const plainly = (reason: string, perThread = false): OpenedRing => {
    const plain = new PlainRing(entries, cqEntries, helper);
    return { ring: plain, plain, reason, perThread };
  };
  if (flags?.length === 0) return plainly("it is not to be used");
  let ring: Ring | null = null;
  try {
    ring = restrictedRing((more) => Ring.queue_init_best(entries, { cqEntries, flags: more }, flags));
    tryOut(ring);
    return { ring, plain: null };
  } catch (error) {
    ring?.queue_exit();
    if (error instanceof RingUnfit) return plainly(`${error.message}: it takes Linux 5.13 or later`);
    if (!(error instanceof SystemError) || error.code === EMFILE || error.code === ENFILE) throw error;
    const advice = ADVICE[error.code];
    return plainly(advice ? `${error.message}: ${advice}` : error.message, error.code === ENOMEM);
  }
}

/** Throws where the ring cannot do what a loop asks of it: enter, watch an eventfd on and on, cancel that, and the files' calls. */
function tryOut(ring: Ring): void {
  const operations = register_probe(ring);
  // Where seccomp forbids the probe, the features have told enough: all of these are older than those.
  if (typeof operations !== "number") {
    const lacking = OPERATIONS.filter((operation) => !operations.has(operation));
    if (lacking.length > 0) throw new RingUnfit(`this kernel's io_uring lacks operation ${lacking.join(", ")}`);
  }
  const fd = createEventfd();
  try {
    signal(fd);
    ring.prep_poll_multishot(ring.get_sqe(), fd, POLLIN);
    const [result, flags] = completion(ring);
    if (result < 0 || !(flags & IORING_CQE_F_MORE)) throw new RingUnfit("this kernel's io_uring has no multishot poll");
    ring.prep_cancel64(ring.get_sqe(), 0, 0, 0);
    // Two completions, in either order: the cancellation's own, 0, and the poll's.
    for (let ended = 0; ended !== -ECANCELED;) {
      ended = completion(ring)[0];
      if (ended !== 0 && ended !== -ECANCELED) throw new SystemError("cancellation of a poll by io_uring", -ended);
    }
    ring.cq_advance(ring.peek_batch_cqe());
  } finally {
    libc.close(fd);
  }
}

/** The next completion's result and flags. */
function completion(ring: Ring): [number, number] {
  while (ring.cq_ready() === 0) {
    const result = ring.submit_and_wait(1);
    if (result < 0 && result !== -EINTR) throw new SystemError("io_uring_enter", -result);
  }
  const taken: [number, number] = [ring.cqe_res(0), ring.cqe_flags(0)];
  ring.cq_advance(1);
  return taken;
}
