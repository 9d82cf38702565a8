/**
 * Event descriptors, eventfd(2): a counter that one side adds to and the other waits for. Kick, call and error
 * descriptors of a virtqueue are such, and so are the wake-ups between our own threads.
 */
import { EAGAIN, EINTR } from "./errno.ts";
import { checked, errno, libc } from "./libc.ts";
import { setNonblock } from "./socket.ts";
import { AT_EMPTY_PATH, S_IFIFO, S_IFMT, S_IFSOCK, statx, STATX_BASIC_STATS } from "./stat_layout.ts";

const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;

// The kernel copies these eight bytes within the call, so the JS heap will do.
const one = new Uint8Array(new BigUint64Array([1n]).buffer);
const counter = new Uint8Array(8);
const nothing = new Uint8Array(8);

/** A new eventfd with counter 0, closed on exec. Throws SystemError. */
export function createEventfd(nonblock = true): number {
  return checked("eventfd", libc.eventfd(0, EFD_CLOEXEC | (nonblock ? EFD_NONBLOCK : 0)));
}

/**
 * Adds one to the counter and so wakes whoever waits. Returns 0 or -errno. A counter at its limit (EAGAIN) counts as
 * success: its reader is awake anyway. Allocates nothing: the data path calls it.
 */
export function signal(fd: number): number {
  while (libc.write(fd, one, 8) < 0) {
    const code = errno();
    if (code === EAGAIN) return 0;
    if (code !== EINTR) return -code;
  }
  return 0;
}

/** Sets a nonblocking eventfd's counter back to 0. Returns 0, or -errno; -EAGAIN where it was 0 already. */
export function drain(fd: number): number {
  while (libc.read(fd, counter, 8) < 0) {
    const code = errno();
    if (code !== EINTR) return -code;
  }
  return 0;
}

/**
 * Whether a descriptor that another process has passed is one to be called by: an eventfd, or a FIFO, which stands for one with some
 * front ends, with `sockets` a socket too. Anything else may do more than count: hold files open, be always ready, or wait in a write.
 */
export function isEvent(fd: number, sockets = false): boolean {
  const info = new Uint8Array(statx.sizeof);
  if (libc.statx(fd, new Uint8Array(1), AT_EMPTY_PATH, STATX_BASIC_STATS, info) < 0) return false;
  const type = new DataView(info.buffer).getUint16(statx.stx_mode, true) & S_IFMT;
  // An eventfd has no type, and is the only one of those that lets 0 be added to it: nothing changes by that.
  return type === S_IFIFO || (sockets && type === S_IFSOCK) ||
    (type === 0 && setNonblock(fd) === 0 && libc.write(fd, nothing, 8) === 8);
}
