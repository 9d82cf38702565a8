/**
 * io_uring in the words of liburing: one `Ring` per loop, set up by raw system calls, its queues read and written
 * through typed arrays over the kernel's mapping.
 *
 * Where liburing passes a pointer, a small integer stands: an SQE is its word offset (get_sqe), a CQE its distance from the
 * completion queue's head (0 is the oldest). A turn of a loop:
 *
 *     const sqe = ring.get_sqe();                 // -1: submit first
 *     ring.prep_read(sqe, fd, addrLo, addrHi, len, offLo, offHi);
 *     ring.sqe_set_data(sqe, slot, 0);
 *     ring.submit_and_wait(1);
 *     const n = ring.peek_batch_cqe();
 *     for (let i = 0; i < n; i++) done(ring.cqe_data_lo(i), ring.cqe_res(i));
 *     ring.cq_advance(n);
 *
 * A ring belongs to one thread. Nothing here but set-up allocates. Linux 5.13 is the oldest kernel with
 * what is needed; ring.ts has what to use on others.
 * Sources: io_uring(7), io_uring_setup(2), io_uring_enter(2); liburing for the order of loads and stores.
 */
import { SYS } from "./arch.ts";
import { EAGAIN, EINVAL } from "./errno.ts";
import { errno, libc } from "./libc.ts";
import type { Mapping } from "./memory.ts";
import {
  io_cqring_offsets as cqOff,
  io_sqring_offsets as sqOff,
  io_uring_getevents_arg,
  io_uring_params,
  IORING_ENTER_EXT_ARG,
  IORING_ENTER_GETEVENTS,
  IORING_ENTER_NO_IOWAIT,
  IORING_ENTER_REGISTERED_RING,
  IORING_ENTER_SQ_WAIT,
  IORING_ENTER_SQ_WAKEUP,
  IORING_FEAT_NO_IOWAIT,
  IORING_SETUP_CLAMP,
  IORING_SETUP_IOPOLL,
  IORING_SETUP_NO_SQARRAY,
  IORING_SETUP_SQPOLL,
  IORING_SQ_CQ_OVERFLOW,
  IORING_SQ_NEED_WAKEUP,
  IORING_SQ_TASKRUN,
} from "./uring_layout.ts";
import type { LoopRing } from "./ring.ts";
import { BEST_FLAGS, type RingOptions, setUpRing, unmapRing } from "./uring_setup.ts";
import { SubmissionEntries } from "./uring_sqe.ts";

export type { RingOptions };

// The ring's own page: what IORING_ENTER_EXT_ARG points to.
const SCRATCH_ARG = 0;
const SCRATCH_TIMESPEC = 32;
const ARG_SIZE = BigInt(io_uring_getevents_arg.sizeof);

/** One io_uring. */
export class Ring extends SubmissionEntries implements LoopRing {
  /** IORING_SETUP_* bits that the ring was made with. */
  readonly flags: number;
  /** IORING_FEAT_* bits that the kernel said. */
  readonly features: number;
  readonly sqEntries: number;
  readonly cqEntries: number;

  #fd: number;
  #enterFd: number; // the descriptor, or its index after register_ring_fd
  #enterFlags = 0;
  readonly #mappings: Mapping[];

  // Both rings as i32: their counters run over 2^32, and i32 differences with `| 0` come out right.
  readonly #sq: Int32Array<ArrayBuffer>;
  readonly #cq: Int32Array<ArrayBuffer>;
  readonly #sqHeadAt: number;
  readonly #sqTailAt: number;
  readonly #sqFlagsAt: number;
  readonly #sqMask: number;
  readonly #cqHeadAt: number;
  readonly #cqTailAt: number;
  readonly #cqOverflowAt: number;
  readonly #cqMask: number;
  readonly #cqesAt: number;
  readonly #sqpoll: boolean;
  readonly #noIowait: number;
  /** SQEs handed out by get_sqe; the kernel's tail is set to it by submit. */
  #sqTail: number;
  /** The kernel's cqHead, which only we write. */
  #cqHead: number;

  readonly #scratch32: Int32Array<ArrayBuffer>;
  readonly #argAddr: bigint;

  private constructor(fd: number, params: Uint32Array, mappings: Mapping[]) {
    super();
    const field = (at: number) => params[at >> 2];
    const { sq_off, cq_off } = io_uring_params;
    const [sqRing, cqRing, sqes, scratch] = mappings;
    this.#fd = this.#enterFd = fd;
    this.#mappings = mappings;
    this.flags = field(io_uring_params.flags);
    this.features = field(io_uring_params.features);
    this.sqEntries = field(io_uring_params.sq_entries);
    this.cqEntries = field(io_uring_params.cq_entries);
    this.#sq = new Int32Array(sqRing.buffer);
    this.#cq = new Int32Array(cqRing.buffer);
    this.sqes = new Uint32Array(sqes.buffer);
    this.#sqHeadAt = field(sq_off + sqOff.head) >> 2;
    this.#sqTailAt = field(sq_off + sqOff.tail) >> 2;
    this.#sqFlagsAt = field(sq_off + sqOff.flags) >> 2;
    this.#sqMask = this.#sq[field(sq_off + sqOff.ring_mask) >> 2];
    this.#cqHeadAt = field(cq_off + cqOff.head) >> 2;
    this.#cqTailAt = field(cq_off + cqOff.tail) >> 2;
    this.#cqOverflowAt = field(cq_off + cqOff.overflow) >> 2;
    this.#cqMask = this.#cq[field(cq_off + cqOff.ring_mask) >> 2];
    this.#cqesAt = field(cq_off + cqOff.cqes) >> 2;
    this.#sqpoll = (this.flags & IORING_SETUP_SQPOLL) !== 0;
    this.#noIowait = (this.features & IORING_FEAT_NO_IOWAIT) === 0 ? 0 : IORING_ENTER_NO_IOWAIT;
    this.#sqTail = this.#sq[this.#sqTailAt];
    this.#cqHead = this.#cq[this.#cqHeadAt];
    if ((this.flags & IORING_SETUP_NO_SQARRAY) === 0) {
      // Slot i of the index array always names SQE i, as in liburing.
      const array = field(sq_off + sqOff.array) >> 2;
      for (let i = 0; i < this.sqEntries; i++) this.#sq[array + i] = i;
    }
    this.#scratch32 = new Int32Array(scratch.buffer);
    this.#argAddr = BigInt(scratch.addr + SCRATCH_ARG);
    const arg64 = new BigUint64Array(scratch.buffer);
    arg64[(SCRATCH_ARG + io_uring_getevents_arg.ts) >> 3] = BigInt(scratch.addr + SCRATCH_TIMESPEC);
  }

  /**
   * int io_uring_setup(u32 entries, struct io_uring_params *), and the mappings.
   * `entries` is rounded up to a power of two. Throws SystemError: EINVAL for flags the kernel does not know, EPERM
   * where io_uring is switched off (kernel.io_uring_disabled), ENOSYS where the kernel or seccomp lacks it, ENOMEM, EMFILE. Throws
   * RingUnfit where the kernel's is too old.
   */
  static queue_init(entries: number, options: RingOptions = {}): Ring {
    const { fd, params, mappings } = setUpRing(entries, options);
    return new Ring(fd, params, mappings);
  }

  /**
   * queue_init with the first set of flags that the kernel takes; `flags` of the ring says which. `options.flags` are added
   * to each attempt (IORING_SETUP_R_DISABLED, say). With SINGLE_ISSUER the thread that calls this is the only one that may
   * submit; with R_DISABLED as well it is the one that calls enable_rings.
   */
  static queue_init_best(entries: number, options: RingOptions = {}, sets: readonly number[] = BEST_FLAGS): Ring {
    for (const [i, best] of sets.entries()) {
      try {
        const flags = (options.flags ?? 0) | IORING_SETUP_CLAMP | best;
        return Ring.queue_init(entries, { ...options, flags });
      } catch (error) {
        if ((error as { code?: number }).code !== EINVAL || i === sets.length - 1) throw error;
      }
    }
    throw new TypeError("no set of flags was given");
  }

  /** io_uring_queue_exit: cancels what is in flight, unmaps the rings and closes the descriptor. */
  queue_exit(): void {
    if (this.#fd < 0) return;
    this.sqes = new Uint32Array(0);
    unmapRing(this.#mappings);
    libc.close(this.#fd);
    this.#fd = this.#enterFd = -1;
  }

  /** The descriptor: pollable, and the target of prep_msg_ring. */
  get ring_fd(): number {
    return this.#fd;
  }

  /** For register_ring_fd: enters through this index from now on; -1 goes back to the descriptor. */
  useRegisteredRing(index: number): void {
    this.#enterFd = index < 0 ? this.#fd : index;
    this.#enterFlags = index < 0 ? 0 : IORING_ENTER_REGISTERED_RING;
  }

  /** The index that register_ring_fd took, or -1. */
  get registered_index(): number {
    return this.#enterFlags === 0 ? -1 : this.#enterFd;
  }

  // --- submission

  /** io_uring_get_sqe: the next SQE as its word offset, to be filled by a prep_*; -1 when the queue is full. */
  get_sqe(): number {
    const tail = this.#sqTail;
    if (((tail - this.#loadSqHead()) | 0) >= this.sqEntries) return -1;
    this.#sqTail = (tail + 1) | 0;
    return (tail & this.#sqMask) << 4;
  }

  /** Takes back all SQEs that the kernel has not consumed. Without SQPOLL it looks at them in our own calls only. */
  discard(): void {
    this.#sqTail = this.#loadSqHead();
    this.#flushSq();
  }

  /** io_uring_sq_ready: SQEs prepared and not yet consumed by the kernel. */
  sq_ready(): number {
    return (this.#sqTail - this.#loadSqHead()) | 0;
  }

  /** io_uring_sq_space_left */
  sq_space_left(): number {
    return this.sqEntries - this.sq_ready();
  }

  /**
   * io_uring_submit: hands all prepared SQEs to the kernel. Returns how many it consumed, or -errno: -EINTR, -EAGAIN and
   * -EBUSY are for the caller to try again. What was not consumed stays prepared and counts in sq_ready.
   */
  submit(): number {
    const count = this.#flushSq();
    const flags = this.cq_needs_enter() ? IORING_ENTER_GETEVENTS : 0;
    return this.#submit(count, 0, flags);
  }

  /**
   * io_uring_submit_and_wait: and waits until `waitNr` CQEs are there. A signal ends the wait early (see submit). The kernel takes a
   * wait on a ring with anything in it for one on a disk, a poll that waits for a guest too, and counts the processor as waiting
   * for I/O; `noIo` says that it is none (io_uring_set_iowait), which kernels before 6.15 do not hear.
   */
  submit_and_wait(waitNr: number, noIo = false): number {
    const flags = noIo ? IORING_ENTER_GETEVENTS | this.#noIowait : IORING_ENTER_GETEVENTS;
    return this.#submit(this.#flushSq(), waitNr, flags);
  }

  /** io_uring_submit_and_get_events: and runs pending task work (DEFER_TASKRUN), without waiting. */
  submit_and_get_events(): number {
    return this.#submit(this.#flushSq(), 0, IORING_ENTER_GETEVENTS);
  }

  /** io_uring_get_events: runs pending task work and flushes an overflown completion queue. 0 or -errno. */
  get_events(): number {
    return this.#enter(0, 0, IORING_ENTER_GETEVENTS);
  }

  /**
   * io_uring_submit_and_wait_timeout: as submit_and_wait, but for `timeoutUs` microseconds at most.
   * -ETIME where the time ran out and nothing was submitted; look at cq_ready whatever is returned.
   */
  submit_and_wait_timeout(waitNr: number, timeoutUs: number, noIo = false): number {
    const count = this.#flushSq();
    const sec = Math.floor(timeoutUs / 1e6);
    const s = this.#scratch32;
    s[SCRATCH_TIMESPEC >> 2] = sec; // tv_sec's upper half stays zero
    s[(SCRATCH_TIMESPEC >> 2) + 2] = (timeoutUs - sec * 1e6) * 1e3;
    const flags = this.#sqWakeup(IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG);
    const result = libc.io_uring_enter(
      SYS.io_uring_enter,
      this.#enterFd,
      count,
      waitNr,
      flags | this.#enterFlags | (noIo ? this.#noIowait : 0),
      this.#argAddr,
      ARG_SIZE,
    );
    return result < 0 ? -errno() : result;
  }

  /** io_uring_sqring_wait: with SQPOLL, waits for room in the submission queue. */
  sqring_wait(): number {
    if (!this.#sqpoll || this.sq_space_left() > 0) return 0;
    return this.#enter(0, 0, IORING_ENTER_SQ_WAIT);
  }

  // --- completion

  /** io_uring_cq_ready: CQEs that can be read now. One atomic load; it does not enter the kernel. */
  cq_ready(): number {
    return (Atomics.load(this.#cq, this.#cqTailAt) - this.#cqHead) | 0;
  }

  /** io_uring_peek_batch_cqe: as cq_ready, but where there are none and the kernel holds some back, it fetches them. */
  peek_batch_cqe(): number {
    const ready = this.cq_ready();
    if (ready !== 0 || !this.cq_needs_enter()) return ready;
    this.get_events();
    return this.cq_ready();
  }

  /** io_uring_peek_cqe: 0 when CQE 0 can be read, else -EAGAIN. */
  peek_cqe(): number {
    return this.peek_batch_cqe() > 0 ? 0 : -EAGAIN;
  }

  /** io_uring_wait_cqe_nr: waits without submitting. 0 or -errno (-EINTR). */
  wait_cqe_nr(waitNr: number): number {
    return this.cq_ready() >= waitNr ? 0 : this.#enter(0, waitNr, IORING_ENTER_GETEVENTS);
  }

  /** res of the i-th CQE from the head: the call's result or -errno. */
  cqe_res(i: number): number {
    return this.#cq[this.#cqesAt + (((this.#cqHead + i) & this.#cqMask) << 2) + 2];
  }

  /** The low half of user_data, unsigned. */
  cqe_data_lo(i: number): number {
    return this.#cq[this.#cqesAt + (((this.#cqHead + i) & this.#cqMask) << 2)] >>> 0;
  }

  /** The high half of user_data, unsigned. */
  cqe_data_hi(i: number): number {
    return this.#cq[this.#cqesAt + (((this.#cqHead + i) & this.#cqMask) << 2) + 1] >>> 0;
  }

  /** IORING_CQE_F_* bits */
  cqe_flags(i: number): number {
    return this.#cq[this.#cqesAt + (((this.#cqHead + i) & this.#cqMask) << 2) + 3];
  }

  /** io_uring_cq_advance: gives n CQEs back to the kernel; those behind them become 0, 1, … */
  cq_advance(n: number): void {
    if (n === 0) return;
    this.#cqHead = (this.#cqHead + n) | 0;
    Atomics.store(this.#cq, this.#cqHeadAt, this.#cqHead);
  }

  /** io_uring_cq_has_overflow: CQEs wait in the kernel because the queue was full. The next submit or peek fetches them. */
  cq_has_overflow(): boolean {
    return (Atomics.load(this.#sq, this.#sqFlagsAt) & IORING_SQ_CQ_OVERFLOW) !== 0;
  }

  /** The kernel's count of CQEs that it had no memory for and lost; 0 on a sound ring. */
  cq_overflow(): number {
    return Atomics.load(this.#cq, this.#cqOverflowAt) >>> 0;
  }

  /** CQEs or task work wait in the kernel for us to enter it. Always right with TASKRUN_FLAG, which queue_init_best sets. */
  cq_needs_enter(): boolean {
    return (this.flags & IORING_SETUP_IOPOLL) !== 0 ||
      (Atomics.load(this.#sq, this.#sqFlagsAt) & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN)) !== 0;
  }

  // --- inside

  // Without SQPOLL the kernel moves the head inside our own io_uring_enter only: a plain load sees it.
  #loadSqHead(): number {
    return this.#sqpoll ? Atomics.load(this.#sq, this.#sqHeadAt) : this.#sq[this.#sqHeadAt];
  }

  // Publishes the tail: SQEs first, then the tail. Without SQPOLL the reader is this thread, inside the system call.
  #flushSq(): number {
    if (this.#sqpoll) Atomics.store(this.#sq, this.#sqTailAt, this.#sqTail);
    else this.#sq[this.#sqTailAt] = this.#sqTail;
    return (this.#sqTail - this.#loadSqHead()) | 0;
  }

  #sqWakeup(flags: number): number {
    if (!this.#sqpoll) return flags;
    // The tail's store must be seen before the flag is read; Atomics is sequentially consistent.
    const asleep = (Atomics.load(this.#sq, this.#sqFlagsAt) & IORING_SQ_NEED_WAKEUP) !== 0;
    return asleep ? flags | IORING_ENTER_SQ_WAKEUP : flags;
  }

  #submit(count: number, waitNr: number, flags: number): number {
    if (this.#sqpoll) {
      flags = this.#sqWakeup(flags);
      if (flags === 0) return count;
    } else if (count === 0 && flags === 0) return 0;
    return this.#enter(count, waitNr, flags);
  }

  /** int io_uring_enter(unsigned fd, unsigned to_submit, unsigned min_complete, unsigned flags, NULL, 0) or -errno */
  #enter(toSubmit: number, minComplete: number, flags: number): number {
    const result = libc.io_uring_enter_plain(
      SYS.io_uring_enter,
      this.#enterFd,
      toSubmit,
      minComplete,
      flags | this.#enterFlags,
      0,
    );
    return result < 0 ? -errno() : result;
  }
}
