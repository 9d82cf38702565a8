/**
 * A ring without io_uring, for kernels and containers that have none: the entries that prep_* fills are carried out by plain system
 * calls when they are submitted. Polls become members of an epoll(7) set: edge-triggered, an eventfd that nobody reads is
 * reported at each write to it, as a multishot poll of io_uring does.
 *
 * A read of what is not ready yet (an eventfd, a pipe) waits in that set too. What may wait for a disk is offered to another thread, a
 * `Helper`, on a duplicate of its descriptor, since the file may be closed meanwhile; its result then comes by the helper's way and
 * not through this ring. Where no helper is free the call is made here, and all of the loop waits for it.
 *
 * It knows what a loop and its services use: NOP, READ, WRITE, READV, WRITEV, FSYNC, FALLOCATE, polls and their cancellation. Any
 * other entry ends with -EINVAL, as on a kernel that does not know it.
 */
import { SYS } from "./arch.ts";
import { EALREADY, EBUSY, ECANCELED, EINTR, EINVAL, ENOENT, ESPIPE, ETIME } from "./errno.ts";
import { checked, errno, libc } from "./libc.ts";
import { allocate, type Mapping, unmap } from "./memory.ts";
import { EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, epoll_event, EPOLLONESHOT } from "./reactor.ts";
import type { LoopRing } from "./ring.ts";
import { AT_EMPTY_PATH, F_DUPFD_CLOEXEC, POLLIN, POLLOUT, S_IFMT, S_IFREG, statx, STATX_TYPE } from "./stat_layout.ts";
import {
  IORING_CQE_F_MORE,
  IORING_FSYNC_DATASYNC,
  IORING_OP_ASYNC_CANCEL,
  IORING_OP_FALLOCATE,
  IORING_OP_FSYNC,
  IORING_OP_NOP,
  IORING_OP_POLL_ADD,
  IORING_OP_POLL_REMOVE,
  IORING_OP_READ,
  IORING_OP_READV,
  IORING_OP_WRITE,
  IORING_OP_WRITEV,
  IORING_POLL_ADD_MULTI,
} from "./uring_layout.ts";
import { SubmissionEntries } from "./uring_sqe.ts";

const EPOLLET = 0x8000_0000;
const EVENTS_MAX = 64;
/** CQEs that one entry may make at once: a cancellation's own and that of what it cancels. */
const CQES_EACH = 2;
/** Of so many looks whether there is anything to fetch one says yes: events are noticed while the loop has other work. */
const LOOKS = 16;
/** Calls that helpers may make at a time: beyond that they are made here. */
const ASIDE_MAX = 1024;
const IOVEC_BYTES = 16;

const noName = new Uint8Array(1);
const statxBytes = new Uint8Array(statx.sizeof);
const statx32 = new Uint32Array(statxBytes.buffer);
/** struct pollfd, poll(2) */
const pollfd = new Uint8Array(8);
const pollfd32 = new Int32Array(pollfd.buffer);

const long = (lo: number, hi: number) => BigInt(hi) << 32n | BigInt(lo);
const isRead = (w: Uint32Array) => w[0] === IORING_OP_READ || w[0] === IORING_OP_READV;
const transfers = (w: Uint32Array) => isRead(w) || w[0] === IORING_OP_WRITE || w[0] === IORING_OP_WRITEV;
const readiness = (w: Uint32Array) => isRead(w) ? POLLIN : POLLOUT;

/** A regular file is always ready, whatever poll(2) would say of it. */
function isRegular(fd: number): boolean {
  return libc.statx(fd, noName, AT_EMPTY_PATH, STATX_TYPE, statxBytes) === 0 &&
    (statx32[statx.stx_mode >> 2] & S_IFMT) === S_IFREG;
}

/** Another thread that makes calls which may wait. */
export interface Helper {
  /** Has it make a system call for the entry with that user_data. False where it cannot now: nothing is done then. */
  offer(dataLo: number, dataHi: number, number: number, ...args: (number | bigint)[]): boolean;
  /** Interrupts the call. False where there is none. */
  cancel(dataLo: number, dataHi: number): boolean;
}

/** A descriptor in the epoll set, and what to do when it is ready. */
interface Watch {
  fd: number;
  lo: number;
  hi: number;
  multishot: boolean;
  /** A read or write that waits, as its entry's words; null: a poll. Then `fd` is a duplicate of ours. */
  entry: Uint32Array | null;
}

/** A call that a helper makes. */
interface Aside {
  lo: number;
  hi: number;
  fd: number;
}

export class PlainRing extends SubmissionEntries implements LoopRing {
  readonly sqEntries: number;
  readonly cqEntries: number;
  #sqHead = 0;
  #sqTail = 0;
  #cqHead = 0;
  #cqTail = 0;
  /** CQEs: user_data, res, flags. */
  readonly #cqes: Int32Array;
  #epoll: number;
  readonly #watches: (Watch | null)[] = [];
  readonly #asides: (Aside | null)[] = [];
  /** An iovec for each call aside, and one for calls made here. */
  readonly #iovecs: Mapping;
  readonly #iovecs64: BigUint64Array<ArrayBuffer>;
  readonly #events = new Uint8Array(EVENTS_MAX * epoll_event.sizeof);
  readonly #eventView = new DataView(this.#events.buffer);
  readonly #event = new Uint8Array(epoll_event.sizeof);
  readonly #eventOut = new DataView(this.#event.buffer);
  #looks = 0;

  /** Sizes are powers of two. Throws SystemError where there is no descriptor for the epoll set. */
  constructor(entries: number, cqEntries: number, readonly helper: Helper | null = null) {
    super();
    this.sqEntries = entries;
    this.cqEntries = cqEntries;
    this.sqes = new Uint32Array(entries * 16);
    this.#cqes = new Int32Array(cqEntries * 4);
    this.#epoll = checked("epoll_create1", libc.epoll_create1(EPOLL_CLOEXEC));
    this.#iovecs = allocate((ASIDE_MAX + 1) * IOVEC_BYTES);
    this.#iovecs64 = new BigUint64Array(this.#iovecs.buffer);
  }

  /** Forgets all that waits. Calls that helpers make must have ended. */
  queue_exit(): void {
    if (this.#epoll < 0) return;
    for (const watch of this.#watches) if (watch !== null && watch.entry !== null) libc.close(watch.fd);
    this.#watches.length = 0;
    libc.close(this.#epoll);
    this.#epoll = -1;
    this.sqes = new Uint32Array(0);
    unmap(this.#iovecs);
  }

  get_sqe(): number {
    if (this.sq_space_left() === 0) return -1;
    const tail = this.#sqTail;
    this.#sqTail = (tail + 1) | 0;
    return (tail & (this.sqEntries - 1)) << 4;
  }

  discard(): void {
    this.#sqTail = this.#sqHead;
  }

  sq_ready(): number {
    return (this.#sqTail - this.#sqHead) | 0;
  }

  sq_space_left(): number {
    return this.sqEntries - this.sq_ready();
  }

  /** Carries out what is prepared and takes events that are there. How many entries, or -EBUSY where CQEs must be taken first. */
  submit(): number {
    const done = this.#carryOut();
    const failed = this.#gather(0);
    return done !== 0 ? done : failed;
  }

  submit_and_get_events(): number {
    return this.submit();
  }

  submit_and_wait(waitNr: number): number {
    const done = this.#carryOut();
    let failed = 0;
    do failed = this.#gather(this.cq_ready() >= waitNr ? 0 : -1); while (failed === 0 && this.cq_ready() < waitNr);
    return done !== 0 ? done : failed;
  }

  /** The time is taken in milliseconds, rounded up, and the wait may end before it with fewer CQEs. */
  submit_and_wait_timeout(waitNr: number, timeoutUs: number): number {
    const done = this.#carryOut();
    const failed = this.#gather(this.cq_ready() >= waitNr ? 0 : Math.ceil(timeoutUs / 1000));
    if (done !== 0 || failed !== 0) return done !== 0 ? done : failed;
    return this.cq_ready() >= waitNr ? 0 : -ETIME;
  }

  cq_ready(): number {
    return (this.#cqTail - this.#cqHead) | 0;
  }

  cq_needs_enter(): boolean {
    this.#looks = (this.#looks + 1) % LOOKS;
    return this.#looks === 0;
  }

  cqe_data_lo(i: number): number {
    return this.#cqes[this.#cqeAt(i)] >>> 0;
  }

  cqe_data_hi(i: number): number {
    return this.#cqes[this.#cqeAt(i) + 1] >>> 0;
  }

  cqe_res(i: number): number {
    return this.#cqes[this.#cqeAt(i) + 2];
  }

  cqe_flags(i: number): number {
    return this.#cqes[this.#cqeAt(i) + 3];
  }

  cq_advance(n: number): void {
    this.#cqHead = (this.#cqHead + n) | 0;
  }

  /** A helper has made the call of the entry with that user_data: what it worked on is given back. */
  ended(lo: number, hi: number): void {
    const at = this.#asides.findIndex((aside) => aside !== null && aside.lo === lo && aside.hi === hi);
    if (at < 0) return;
    libc.close(this.#asides[at]!.fd);
    this.#asides[at] = null;
  }

  // --- inside

  #cqeAt(i: number): number {
    return ((this.#cqHead + i) & (this.cqEntries - 1)) << 2;
  }

  #complete(lo: number, hi: number, res: number, flags = 0): void {
    const at = (this.#cqTail & (this.cqEntries - 1)) << 2;
    this.#cqes[at] = lo;
    this.#cqes[at + 1] = hi;
    this.#cqes[at + 2] = res;
    this.#cqes[at + 3] = flags;
    this.#cqTail = (this.#cqTail + 1) | 0;
  }

  /** Carries out what is prepared, as far as there is room for CQEs. How many entries, or -EBUSY where there is none for the first. */
  #carryOut(): number {
    let done = 0;
    for (; this.#sqHead !== this.#sqTail; done++) {
      if (this.cqEntries - this.cq_ready() < CQES_EACH) return done > 0 ? done : -EBUSY;
      const at = (this.#sqHead & (this.sqEntries - 1)) << 4;
      this.#sqHead = (this.#sqHead + 1) | 0;
      this.#begin(this.sqes.subarray(at, at + 16));
    }
    return done;
  }

  #begin(w: Uint32Array): void {
    const lo = w[8];
    const hi = w[9];
    switch (w[0]) { // with IOSQE_* bits it is no operation of ours
      case IORING_OP_NOP:
        return this.#complete(lo, hi, 0);
      case IORING_OP_POLL_ADD: {
        const multishot = (w[6] & IORING_POLL_ADD_MULTI) !== 0;
        const failed = this.#watch({ fd: w[1] | 0, lo, hi, multishot, entry: null }, w[7]);
        if (failed !== 0) this.#complete(lo, hi, failed);
        return;
      }
      case IORING_OP_ASYNC_CANCEL:
      case IORING_OP_POLL_REMOVE:
        return this.#complete(lo, hi, w[7] === 0 ? this.#cancel(w) : -EINVAL);
      case IORING_OP_READ:
      case IORING_OP_READV:
      case IORING_OP_WRITE:
      case IORING_OP_WRITEV:
      case IORING_OP_FSYNC:
      case IORING_OP_FALLOCATE:
        return this.#fileCall(w);
      default:
        return this.#complete(lo, hi, -EINVAL);
    }
  }

  /** 0, -ENOENT, or -EALREADY where a helper makes the call and may or may not end early. */
  #cancel(w: Uint32Array): number {
    const lo = w[4];
    const hi = w[5];
    const at = this.#watches.findIndex((watch) => watch !== null && watch.lo === lo && watch.hi === hi);
    if (at >= 0) {
      this.#unwatch(at);
      this.#complete(lo, hi, -ECANCELED);
      return 0;
    }
    return w[0] === IORING_OP_ASYNC_CANCEL && this.helper?.cancel(lo, hi) ? -EALREADY : -ENOENT;
  }

  /** Puts a descriptor into the epoll set. 0 or -errno: -EPERM for a file that is always ready. */
  #watch(watch: Watch, events: number): number {
    let at = this.#watches.indexOf(null);
    if (at < 0) at = this.#watches.length;
    this.#setEvent(at, (events & 0xffff) | (watch.multishot ? EPOLLET : EPOLLONESHOT));
    if (libc.epoll_ctl(this.#epoll, EPOLL_CTL_ADD, watch.fd, this.#event) < 0) return -errno();
    this.#watches[at] = watch;
    return 0;
  }

  #setEvent(at: number, events: number): void {
    this.#eventOut.setUint32(epoll_event.events, events >>> 0, true);
    this.#eventOut.setUint32(epoll_event.fd, at, true);
  }

  #unwatch(at: number): void {
    const { fd, entry } = this.#watches[at]!;
    this.#watches[at] = null;
    libc.epoll_ctl(this.#epoll, EPOLL_CTL_DEL, fd, this.#event);
    if (entry !== null) libc.close(fd);
  }

  /** Takes events, waiting up to `timeoutMs` (-1: for ever) for the first. 0 or -errno. */
  #gather(timeoutMs: number): number {
    const room = Math.min(EVENTS_MAX, this.cqEntries - this.cq_ready());
    if (room === 0) return -EBUSY;
    const count = libc.epoll_wait(this.#epoll, this.#events, room, timeoutMs);
    if (count < 0) return -errno();
    for (let i = 0; i < count; i++) {
      const at = this.#eventView.getUint32(i * epoll_event.sizeof + epoll_event.fd, true);
      const events = this.#eventView.getUint32(i * epoll_event.sizeof + epoll_event.events, true);
      const { lo, hi, multishot, entry } = this.#watches[at]!;
      if (entry !== null) this.#goOn(at, entry);
      else {
        if (!multishot) this.#unwatch(at);
        this.#complete(lo, hi, events & 0xffff, multishot ? IORING_CQE_F_MORE : 0);
      }
    }
    return 0;
  }

  /** A read or write that waited is made now, unless another has taken what was there. */
  #goOn(at: number, entry: Uint32Array): void {
    const { fd, lo, hi } = this.#watches[at]!;
    pollfd32[0] = fd;
    pollfd32[1] = readiness(entry);
    if (libc.poll(pollfd, 1, 0) === 0) {
      this.#setEvent(at, readiness(entry) | EPOLLONESHOT);
      libc.epoll_ctl(this.#epoll, EPOLL_CTL_MOD, fd, this.#event);
      return;
    }
    const result = this.#makeHere(entry, fd);
    this.#unwatch(at);
    this.#complete(lo, hi, result);
  }

  /** A call on a file: made when the descriptor is ready, or by a helper, or here and now. */
  #fileCall(w: Uint32Array): void {
    const fd = w[1] | 0;
    const copy = libc.fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy >= 0) {
      if (transfers(w) && !isRegular(copy)) {
        const watch = { fd: copy, lo: w[8], hi: w[9], multishot: false, entry: w.slice() };
        if (this.#watch(watch, readiness(w)) === 0) return;
      } else if (this.#offer(w, copy)) return;
      libc.close(copy);
    }
    this.#complete(w[8], w[9], this.#makeHere(w, fd));
  }

  #offer(w: Uint32Array, copy: number): boolean {
    if (this.helper === null) return false;
    let at = this.#asides.indexOf(null);
    if (at < 0) at = this.#asides.length;
    if (at === ASIDE_MAX) return false;
    const [number, ...args] = this.#call(w, copy, at);
    if (!this.helper.offer(w[8], w[9], Number(number), ...args)) return false;
    this.#asides[at] = { lo: w[8], hi: w[9], fd: copy };
    return true;
  }

  #makeHere(w: Uint32Array, fd: number): number {
    for (;;) {
      const [number, a, b, c, d, e, f] = this.#call(w, fd, ASIDE_MAX);
      const result = Number(libc.syscall6(number, a, b, c, d, e, f));
      if (result >= 0) return result;
      const failed = errno();
      // What has no position takes no offset; io_uring does not mind one.
      if (failed === ESPIPE && transfers(w) && (w[2] & w[3]) !== -1) w[2] = w[3] = 0xffff_ffff;
      else if (failed !== EINTR) return -failed;
    }
  }

  /** The system call of an entry: its number and six arguments. A transfer of one buffer uses the iovec of that number. */
  #call(w: Uint32Array, fd: number, iovec: number): [bigint, bigint, bigint, bigint, bigint, bigint, bigint] {
    const offset = BigInt.asIntN(64, long(w[2], w[3]));
    const descriptor = BigInt(fd);
    if (w[0] === IORING_OP_FSYNC) {
      return [BigInt(w[7] & IORING_FSYNC_DATASYNC ? SYS.fdatasync : SYS.fsync), descriptor, 0n, 0n, 0n, 0n, 0n];
    }
    if (w[0] === IORING_OP_FALLOCATE) {
      const length = BigInt.asIntN(64, long(w[4], w[5]));
      return [BigInt(SYS.fallocate), descriptor, BigInt(w[6] | 0), offset, length, 0n, 0n];
    }
    let address = long(w[4], w[5]);
    let count = BigInt(w[6]);
    if (w[0] === IORING_OP_READ || w[0] === IORING_OP_WRITE) {
      this.#iovecs64[iovec * 2] = address;
      this.#iovecs64[iovec * 2 + 1] = count;
      address = BigInt(this.#iovecs.addr + iovec * IOVEC_BYTES);
      count = 1n;
    }
    // preadv2(2): the offset's upper half is an argument of its own, which is not looked at where a word has 64 bits.
    return [BigInt(isRead(w) ? SYS.preadv2 : SYS.pwritev2), descriptor, address, count, offset, 0n, BigInt(w[7])];
  }
}
