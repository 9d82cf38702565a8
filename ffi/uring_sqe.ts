/**
 * The prep_* half of liburing: what goes into one submission queue entry. io_uring_enter(2) describes each operation.
 *
 * An SQE is named by its word offset in `sqes`, as get_sqe() returned it. Every prep_* writes all of its words, so that
 * nothing of the entry's last use is left over. 64-bit arguments are two u32 halves, low half first; an address is
 * that of memory which stays mapped until the CQE, and comes from mmap. The file position of a file without a
 * position, or "the current one", is offLo = offHi = 0xffffffff.
 */
import * as op from "./uring_layout.ts";

const NO_FD = -1;

export class SubmissionEntries {
  /** The SQEs, 16 words each. */
  protected sqes = new Uint32Array(0);

  /** The common form, as io_uring_prep_rw: opcode, descriptor, address, length, offset; everything else zero. */
  prep_rw(
    opcode: number,
    sqe: number,
    fd: number,
    addrLo: number,
    addrHi: number,
    len: number,
    offLo: number,
    offHi: number,
  ): void {
    const w = this.sqes;
    w[sqe] = opcode; // flags and ioprio are zero
    w[sqe + 1] = fd;
    w[sqe + 2] = offLo;
    w[sqe + 3] = offHi;
    w[sqe + 4] = addrLo;
    w[sqe + 5] = addrHi;
    w[sqe + 6] = len;
    w[sqe + 7] = 0; // the operation's own flags
    w[sqe + 8] = 0; // user_data
    w[sqe + 9] = 0;
    w[sqe + 10] = 0; // buf_index, personality
    w[sqe + 11] = 0; // file_index
    w[sqe + 12] = 0;
    w[sqe + 13] = 0;
    w[sqe + 14] = 0;
    w[sqe + 15] = 0;
  }

  /** io_uring_sqe_set_data64: what the CQE gives back. Call it after prep_*, which clears it. */
  sqe_set_data(sqe: number, lo: number, hi: number): void {
    this.sqes[sqe + 8] = lo;
    this.sqes[sqe + 9] = hi;
  }

  /** io_uring_sqe_set_flags: IOSQE_* bits, in place of those set before. */
  sqe_set_flags(sqe: number, flags: number): void {
    this.sqes[sqe] = (this.sqes[sqe] & 0xffff00ff) | (flags << 8);
  }

  /** sqe->personality: an id of register_personality; 0 stands for the issuing thread's credentials. */
  sqe_set_personality(sqe: number, id: number): void {
    this.sqes[sqe + 10] = (this.sqes[sqe + 10] & 0xffff) | (id << 16);
  }

  /** Does nothing; res 0. */
  prep_nop(sqe: number): void {
    this.prep_rw(op.IORING_OP_NOP, sqe, NO_FD, 0, 0, 0, 0, 0);
  }

  /**
   * pread(2): res is the number of bytes or -errno. Linux 5.6. Cached data are copied during submit where the file system
   * knows RWF_NOWAIT (ext4, XFS, btrfs); where it does not (tmpfs), every read goes to an io-wq thread.
   */
  prep_read(
    sqe: number,
    fd: number,
    addrLo: number,
    addrHi: number,
    nbytes: number,
    offLo: number,
    offHi: number,
  ): void {
    this.prep_rw(op.IORING_OP_READ, sqe, fd, addrLo, addrHi, nbytes, offLo, offHi);
  }

  /** pwrite(2). To an io-wq thread as prep_read, and on ext4 always. */
  prep_write(
    sqe: number,
    fd: number,
    addrLo: number,
    addrHi: number,
    nbytes: number,
    offLo: number,
    offHi: number,
  ): void {
    this.prep_rw(op.IORING_OP_WRITE, sqe, fd, addrLo, addrHi, nbytes, offLo, offHi);
  }

  /** preadv(2). The kernel copies the iovecs (`nr` of 16 bytes each) during submit; the buffers must stay. */
  prep_readv(
    sqe: number,
    fd: number,
    iovAddrLo: number,
    iovAddrHi: number,
    nr: number,
    offLo: number,
    offHi: number,
  ): void {
    this.prep_rw(op.IORING_OP_READV, sqe, fd, iovAddrLo, iovAddrHi, nr, offLo, offHi);
  }

  /** pwritev(2) */
  prep_writev(
    sqe: number,
    fd: number,
    iovAddrLo: number,
    iovAddrHi: number,
    nr: number,
    offLo: number,
    offHi: number,
  ): void {
    this.prep_rw(op.IORING_OP_WRITEV, sqe, fd, iovAddrLo, iovAddrHi, nr, offLo, offHi);
  }

  /** The last argument of preadv2(2) and pwritev2(2): RWF_* bits, on a read or write that is prepared already. */
  sqe_set_rw_flags(sqe: number, rwFlags: number): void {
    this.sqes[sqe + 7] = rwFlags;
  }

  /** A read into a buffer of register_buffers; address and length must lie in that buffer. */
  prep_read_fixed(
    sqe: number,
    fd: number,
    addrLo: number,
    addrHi: number,
    nbytes: number,
    offLo: number,
    offHi: number,
    bufIndex: number,
  ): void {
    this.prep_rw(op.IORING_OP_READ_FIXED, sqe, fd, addrLo, addrHi, nbytes, offLo, offHi);
    this.sqes[sqe + 10] = bufIndex;
  }

  prep_write_fixed(
    sqe: number,
    fd: number,
    addrLo: number,
    addrHi: number,
    nbytes: number,
    offLo: number,
    offHi: number,
    bufIndex: number,
  ): void {
    this.prep_rw(op.IORING_OP_WRITE_FIXED, sqe, fd, addrLo, addrHi, nbytes, offLo, offHi);
    this.sqes[sqe + 10] = bufIndex;
  }

  /** fsync(2); with IORING_FSYNC_DATASYNC fdatasync(2). Runs in io-wq. */
  prep_fsync(sqe: number, fd: number, fsyncFlags: number): void {
    this.prep_rw(op.IORING_OP_FSYNC, sqe, fd, 0, 0, 0, 0, 0);
    this.sqes[sqe + 7] = fsyncFlags;
  }

  /** fallocate(2): mode FALLOC_FL_*. Runs in io-wq. */
  prep_fallocate(
    sqe: number,
    fd: number,
    mode: number,
    offLo: number,
    offHi: number,
    lenLo: number,
    lenHi: number,
  ): void {
    this.prep_rw(op.IORING_OP_FALLOCATE, sqe, fd, lenLo, lenHi, mode, offLo, offHi);
  }

  /** poll(2) on one descriptor, once: res is the mask of POLL* bits that hold. */
  prep_poll_add(sqe: number, fd: number, pollMask: number): void {
    this.prep_rw(op.IORING_OP_POLL_ADD, sqe, fd, 0, 0, 0, 0, 0);
    this.sqes[sqe + 7] = pollMask;
  }

  /** A CQE for each wake-up, with IORING_CQE_F_MORE as long as the poll stays armed. Linux 5.13. */
  prep_poll_multishot(sqe: number, fd: number, pollMask: number): void {
    this.prep_poll_add(sqe, fd, pollMask);
    this.sqes[sqe + 6] = op.IORING_POLL_ADD_MULTI;
  }

  /** Ends the poll with that user_data: res 0, -ENOENT or -EALREADY; the poll itself ends with -ECANCELED. */
  prep_poll_remove(sqe: number, dataLo: number, dataHi: number): void {
    this.prep_rw(op.IORING_OP_POLL_REMOVE, sqe, NO_FD, dataLo, dataHi, 0, 0, 0);
  }

  /**
   * io_uring_prep_cancel64: cancels the request with that user_data. flags: IORING_ASYNC_CANCEL_*.
   * res 0, -ENOENT, or -EALREADY where it runs and may or may not end early; with CANCEL_ALL the number cancelled.
   */
  prep_cancel64(sqe: number, dataLo: number, dataHi: number, flags: number): void {
    this.prep_rw(op.IORING_OP_ASYNC_CANCEL, sqe, NO_FD, dataLo, dataHi, 0, 0, 0);
    this.sqes[sqe + 7] = flags;
  }

  /** Cancels the requests on a descriptor. Linux 5.19. */
  prep_cancel_fd(sqe: number, fd: number, flags: number): void {
    this.prep_rw(op.IORING_OP_ASYNC_CANCEL, sqe, fd, 0, 0, 0, 0, 0);
    this.sqes[sqe + 7] = flags | op.IORING_ASYNC_CANCEL_FD;
  }

  /** Posts a CQE to another ring, with res = `res` (u32) and that user_data. Linux 5.18. res here: 0 or -errno. */
  prep_msg_ring(sqe: number, ringFd: number, res: number, dataLo: number, dataHi: number, flags: number): void {
    this.prep_rw(op.IORING_OP_MSG_RING, sqe, ringFd, op.IORING_MSG_DATA, 0, res, dataLo, dataHi);
    this.sqes[sqe + 7] = flags;
  }

  /** Ends with -ETIME after the struct __kernel_timespec at that address, or with 0 after `count` CQEs (0: never). */
  prep_timeout(sqe: number, tsLo: number, tsHi: number, count: number, flags: number): void {
    this.prep_rw(op.IORING_OP_TIMEOUT, sqe, NO_FD, tsLo, tsHi, 1, count, 0);
    this.sqes[sqe + 7] = flags;
  }

  /** Ends the timeout with that user_data, which completes with -ECANCELED: res 0, -ENOENT or -EBUSY. */
  prep_timeout_remove(sqe: number, dataLo: number, dataHi: number, flags: number): void {
    this.prep_rw(op.IORING_OP_TIMEOUT_REMOVE, sqe, NO_FD, dataLo, dataHi, 0, 0, 0);
    this.sqes[sqe + 7] = flags;
  }

  /** Bounds the time of the request before it in the chain, which has IOSQE_IO_LINK. */
  prep_link_timeout(sqe: number, tsLo: number, tsHi: number, flags: number): void {
    this.prep_rw(op.IORING_OP_LINK_TIMEOUT, sqe, NO_FD, tsLo, tsHi, 1, 0, 0);
    this.sqes[sqe + 7] = flags;
  }

  /** openat(2): res is a descriptor or -errno. The path is copied during submit. */
  prep_openat(sqe: number, dirFd: number, pathLo: number, pathHi: number, flags: number, mode: number): void {
    this.prep_rw(op.IORING_OP_OPENAT, sqe, dirFd, pathLo, pathHi, mode, 0, 0);
    this.sqes[sqe + 7] = flags;
  }

  /** close(2) */
  prep_close(sqe: number, fd: number): void {
    this.prep_rw(op.IORING_OP_CLOSE, sqe, fd, 0, 0, 0, 0, 0);
  }

  /** statx(2) into the struct statx at bufLo, bufHi. Runs in io-wq. */
  prep_statx(
    sqe: number,
    dirFd: number,
    pathLo: number,
    pathHi: number,
    flags: number,
    mask: number,
    bufLo: number,
    bufHi: number,
  ): void {
    this.prep_rw(op.IORING_OP_STATX, sqe, dirFd, pathLo, pathHi, mask, bufLo, bufHi);
    this.sqes[sqe + 7] = flags;
  }
}
