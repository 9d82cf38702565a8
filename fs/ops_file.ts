/** Operations on open files. READ and WRITE give the kernel an iovec that points into guest memory: no data comes through here. */
import {
  O_ACCMODE,
  O_APPEND,
  O_CLOEXEC,
  O_CREAT,
  O_DIRECT,
  O_DSYNC,
  O_EXCL,
  O_LARGEFILE,
  O_NOATIME,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_PATH,
  O_RDWR,
  O_SYNC,
  O_TRUNC,
  O_WRONLY,
} from "../ffi/arch.ts";
import { EAGAIN, EBADF, EEXIST, EINTR, EINVAL, EISDIR, ELOOP, ENFILE, ENXIO, EOPNOTSUPP } from "../ffi/errno.ts";
import { errno, libc } from "../ffi/libc.ts";
import {
  F_DUPFD_CLOEXEC,
  F_GETFL,
  F_SETFL,
  LOCK_UN,
  RWF_APPEND,
  RWF_NOWAIT,
  S_IFDIR,
  S_IFLNK,
  S_IFREG,
} from "../ffi/stat_layout.ts";
import { IORING_FSYNC_DATASYNC, IOSQE_ASYNC } from "../ffi/uring_layout.ts";
import type { FsOptions } from "./config.ts";
import { beginCreation, endCreation, label } from "./creation.ts";
import { adopt, ARG, ARG_BYTE, BODY, lookupName, putEntry } from "./entry.ts";
import { KIND_FILE } from "./handles.ts";
import { fdOf, typeOf } from "./nodes.ts";
import { MAX_SEGMENTS } from "../vq/requests.ts";
import { dropOwner } from "./ops_lock.ts";
import { dropMappedCapability } from "./ops_xattr.ts";
import { DATA, ELSEWHERE } from "./results.ts";
import { type FsService, WAITS_PLAIN, WAITS_READ, WAITS_WRITE } from "./service.ts";
import { KIND_MEMORY, kindOf } from "./where.ts";
import * as wire from "./wire.ts";
import {
  fuse_create_in,
  fuse_entry_out,
  fuse_fallocate_in,
  fuse_flush_in,
  fuse_fsync_in,
  fuse_in_header,
  fuse_lseek_in,
  fuse_lseek_out,
  fuse_open_in,
  fuse_open_out,
  fuse_out_header,
  fuse_read_in,
  fuse_release_in,
  fuse_write_in,
} from "./wire.ts";

/**
 * What a guest may ask of open(2): how it reads, writes and syncs, and nothing that names or waits. O_APPEND is a matter of each
 * write: the client may change it on the open file, and it writes mapped and cached pages to their places through any handle.
 */
const OPEN_FLAGS = O_ACCMODE | O_DSYNC | O_SYNC | O_TRUNC | O_LARGEFILE;
const HEADER = fuse_in_header.sizeof;
const OUT_HEADER = fuse_out_header.sizeof;
const WRITE_DATA = HEADER + fuse_write_in.sizeof;

const NODEID = fuse_in_header.nodeid >> 2;
const OPEN_WORD = ARG + (fuse_open_in.flags >> 2);
const READ_FH = ARG + (fuse_read_in.fh >> 2);
const READ_OFFSET = ARG + (fuse_read_in.offset >> 2);
const READ_SIZE = ARG + (fuse_read_in.size >> 2);
const WRITE_FH = ARG + (fuse_write_in.fh >> 2);
const WRITE_OFFSET = ARG + (fuse_write_in.offset >> 2);
const WRITE_FLAGS = ARG + (fuse_write_in.write_flags >> 2);
const WRITE_OPEN_FLAGS = ARG + (fuse_write_in.flags >> 2);
const WRITE_SIZE = ARG + (fuse_write_in.size >> 2);

/** How a handle is read: tried without waiting first, by plain calls, or on the ring. */
const READ_PLAIN = 1;
const READ_ON_RING = 2;
/** Opened with O_DIRECT: read and written on the ring, past the page cache. */
const DIRECT = 3;
/**
 * What one READ or WRITE may move: 256 pages, as INIT says, of 64 KiB, which is the largest that a client's kernel has. A chain has room
 * for far more, if its descriptors all name the same memory, and the loop would copy for seconds.
 */
const TRANSFER_MAX = 256 * 64 * 1024;
/** A read of so many bytes takes longer than it takes to wake a worker. */
const ASIDE_BYTES = 64 * 1024;
const long64 = new BigInt64Array(2);
const long32 = new Uint32Array(long64.buffer);
const offset64 = new BigInt64Array(1);
const offset32 = new Uint32Array(offset64.buffer);

/** The flags that the options let pass. */
export function openMask(options: FsOptions): number {
  return OPEN_FLAGS | (options.preserveNoatime ? O_NOATIME : 0) | (options.allowDirectIo ? O_DIRECT : 0);
}

/** Flags for open(2), from the guest's. With a write-back cache the client reads what it is to write a part of. */
export function hostFlags(fs: FsService, flags: number): number {
  const cached = (fs.session.flags & wire.FUSE_WRITEBACK_CACHE) !== 0;
  if (cached && (flags & O_ACCMODE) === O_WRONLY) flags = (flags & ~O_ACCMODE) | O_RDWR;
  return flags & fs.openMask;
}

/** FOPEN_* bits of a file, by the cache policy. */
function openFlags(fs: FsService): number {
  if (fs.config.options.cache === "never" || fs.config.options.cache === "metadata") return wire.FOPEN_DIRECT_IO;
  return fs.config.options.cache === "always" ? wire.FOPEN_KEEP_CACHE : 0;
}

/** Writes struct fuse_open_out at word `at`, for a descriptor that the table takes over. Returns its bytes, or -errno. */
export function putOpen(fs: FsService, at: number, fd: number, kind: number, flags: number): number {
  const fh = fs.handles.insert(fd, kind);
  if (fh < 0) {
    libc.close(fd);
    return -ENFILE;
  }
  const { out32 } = fs.requests;
  out32[at + (fuse_open_out.fh >> 2)] = fh;
  out32[at + (fuse_open_out.fh >> 2) + 1] = 0;
  out32[at + (fuse_open_out.open_flags >> 2)] = flags;
  out32[at + (fuse_open_out.open_flags >> 2) + 1] = 0;
  return fuse_open_out.sizeof;
}

/** The same for a file, by a request that begins with its flags: OPEN, CREATE, TMPFILE. */
function putFile(fs: FsService, at: number, fd: number): number {
  const bytes = putOpen(fs, at, fd, KIND_FILE, openFlags(fs));
  if (bytes > 0 && fs.requests.in32[OPEN_WORD] & fs.openMask & O_DIRECT) {
    fs.handles.setReading(fs.requests.out32[at + (fuse_open_out.fh >> 2)], DIRECT);
  }
  return bytes;
}

/**
 * Opens a node's file, which must be a regular one: a device or a FIFO is never opened here. Returns a descriptor or -errno. With
 * HANDLE_KILLPRIV_V2 it is the client that knows whether who opens to truncate may keep the bits: `fuseFlags` are its FUSE_OPEN_*.
 */
function openNode(fs: FsService, node: number, generation: number, flags: number, fuseFlags: number): number {
  const file = fs.files.held(node);
  if (file < 0) return file;
  const type = typeOf(file);
  if (type !== S_IFREG) return type === S_IFDIR ? -EISDIR : type === S_IFLNK ? -ELOOP : -ENXIO;
  const short = fs.descriptors.room();
  if (short < 0) return short;
  // Not to wait for the holder of a lease, fcntl(2).
  const wanted = hostFlags(fs, flags);
  const bare = (fuseFlags & wire.FUSE_OPEN_KILL_SUIDGID) !== 0 && fs.credentials.clearBits();
  const kept = fs.nodes.mountOf(node) === (fs.config.mount | 0) ? node : 0;
  const fd = fs.reopener.open(fdOf(file), kept, generation, wanted | O_NONBLOCK);
  if (bare) fs.credentials.keepBits();
  if (fd >= 0 && wanted & O_TRUNC) dropMappedCapability(fs, fd);
  return fd;
}

export function open(fs: FsService): number {
  const { in32 } = fs.requests;
  const flags = in32[ARG + (fuse_open_in.flags >> 2)];
  // The generation of the request's own: by now another loop may have given the slot away.
  const fd = openNode(fs, fs.node, in32[NODEID + 1], flags, in32[ARG + (fuse_open_in.open_flags >> 2)]);
  return fd < 0 ? fd : putFile(fs, BODY, fd);
}

export function create(fs: FsService): number {
  const name = fs.name(ARG_BYTE + fuse_create_in.sizeof);
  if (typeof name === "number") return name;
  const { in32 } = fs.requests;
  const flags = in32[ARG + (fuse_create_in.flags >> 2)];
  const mode = in32[ARG + (fuse_create_in.mode >> 2)];
  // Exclusively, so that what is opened is ours: a FIFO or a symlink of that name would wait or lead away.
  const wanted = hostFlags(fs, flags) | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  const dirFd = fs.nodeFd(fs.node);
  if (dirFd < 0) return dirFd;
  const behind = fs.nameEnd(ARG_BYTE + fuse_create_in.sizeof) + 1;
  const dressed = beginCreation(fs, behind, in32[ARG + (fuse_create_in.umask >> 2)], true);
  if (dressed < 0) return dressed;
  let fd = libc.openat(dirFd, name, wanted, mode);
  if (fd < 0) fd = -errno();
  endCreation(fs, dressed);
  if (fd === -EEXIST && (flags & O_EXCL) === 0) return openExisting(fs, name, flags);
  if (fd < 0) return fd;
  const failed = label(fs, fd);
  if (failed === 0) return answerCreated(fs, fd);
  libc.close(fd);
  libc.unlinkat(dirFd, name, 0);
  return failed;
}

/** CREATE of a name that exists, or that another made meanwhile. */
export function openExisting(fs: FsService, name: Uint8Array<ArrayBuffer>, flags: number): number {
  const node = lookupName(fs, fs.node, name);
  if (node < 0) return node;
  const fuseFlags = fs.requests.in32[ARG + (fuse_create_in.open_flags >> 2)];
  const fd = openNode(fs, node, fs.nodes.generation(node), flags, fuseFlags);
  if (fd < 0) {
    fs.nodes.forget(node, fs.nodes.generation(node), 1, fs.retire);
    return fd;
  }
  if (flags & O_TRUNC) fs.stat.of(fd);
  return answerOpen(fs, node, fd);
}

/** The node of a file that was just made comes from its descriptor: the name may lead elsewhere by now. */
export function answerCreated(fs: FsService, fd: number): number {
  const pathFd = fs.proc.open(fd, O_PATH);
  const node = pathFd < 0 ? pathFd : adopt(fs, pathFd);
  if (node > 0) return answerOpen(fs, node, fd);
  libc.close(fd);
  return node;
}

function answerOpen(fs: FsService, node: number, fd: number): number {
  putEntry(fs, BODY, node);
  const opened = putFile(fs, BODY + (fuse_entry_out.sizeof >> 2), fd);
  if (opened > 0) return fuse_entry_out.sizeof + opened;
  fs.nodes.forget(node, fs.nodes.generation(node), 1, fs.retire);
  return opened;
}

/**
 * Reads without waiting, by a plain call, what is in the page cache; what is not is left to the ring. Either goes straight to the
 * guest's memory. A plain call costs less than an SQE and its CQE even in a batch, and a tmpfs does nothing on the ring without a
 * worker thread: docs/ARCHITECTURE.md has the figures.
 */
export function read(fs: FsService, slot: number): number {
  const { requests } = fs;
  const { in32 } = requests;
  const fh = in32[READ_FH];
  const fd = fs.handles.fd(fh, in32[READ_FH + 1], KIND_FILE);
  if (fd < 0) return -EBADF;
  // A negative offset; and all ones would mean "where the file stands" to the ring.
  if (in32[READ_OFFSET + 1] > 0x7fffffff) return -EINVAL;
  const room = requests.writableBytes[slot] - OUT_HEADER;
  const size = in32[READ_SIZE] < room ? in32[READ_SIZE] : room;
  if (size <= 0) return 0;
  if (size > TRANSFER_MAX) return -EINVAL;
  const count = requests.iovecs(slot, fs.device.memory, true, OUT_HEADER, size);
  const how = fs.isHelper ? READ_PLAIN : fs.handles.reading(fh);
  if (how >= READ_ON_RING) return readLater(fs, slot, fd, count);
  if (size >= ASIDE_BYTES && !fs.isHelper && fs.loop.spare.take()) return readAside(fs, slot, fd, count);
  offset32[0] = in32[READ_OFFSET];
  offset32[1] = in32[READ_OFFSET + 1];
  const n = how !== READ_PLAIN
    ? libc.preadv2(fd, requests.iovAddr[slot], count, offset64[0], RWF_NOWAIT)
    : count === 1
    ? libc.preadAt(fd, requests.iov64[slot * MAX_SEGMENTS * 2], size, offset64[0])
    : libc.preadv2(fd, requests.iovAddr[slot], count, offset64[0], 0);
  // Less than asked for may be the file's end, or the end of what is cached.
  if (n === size || (n >= 0 && how === READ_PLAIN)) {
    fs.dataBytes = n;
    return DATA;
  }
  if (n >= 0) return readLater(fs, slot, fd, count);
  const failed = errno();
  if (fs.isHelper) return -failed;
  if (failed === EAGAIN || failed === EINTR) return readLater(fs, slot, fd, count);
  if (failed !== EOPNOTSUPP) return -failed;
  // A file system without a "do not wait", whose files may be in memory anyway.
  const memory = kindOf(fd) === KIND_MEMORY;
  fs.handles.setReading(fh, memory ? READ_PLAIN : READ_ON_RING);
  return memory ? read(fs, slot) : readLater(fs, slot, fd, count);
}

function readLater(fs: FsService, slot: number, fd: number, count: number): number {
  letWait(fs, READ_FH, fd);
  prepareRead(fs, slot, fd, count);
  return fs.later(slot, WAITS_READ);
}

/** Has a worker of the ring read on a processor that is idle, while this loop reads the next one. */
function readAside(fs: FsService, slot: number, fd: number, count: number): number {
  letWait(fs, READ_FH, fd);
  const copy = duplicate(fd);
  if (copy < 0) {
    fs.loop.spare.give();
    return readLater(fs, slot, fd, count);
  }
  const sqe = prepareRead(fs, slot, copy, count);
  fs.loop.ring.sqe_set_flags(sqe, IOSQE_ASYNC);
  return fs.laterAside(slot, copy);
}

/** Prepares the SQE of a READ, with all but how its completion is to be understood. */
function prepareRead(fs: FsService, slot: number, fd: number, count: number): number {
  const { requests, loop } = fs;
  const { in32, iov32 } = requests;
  const { ring } = loop;
  const offLo = in32[READ_OFFSET];
  const offHi = in32[READ_OFFSET + 1];
  const sqe = loop.sqe();
  const at = slot * MAX_SEGMENTS * 4;
  if (count === 1) ring.prep_read(sqe, fd, iov32[at], iov32[at + 1], iov32[at + 2], offLo, offHi);
  else ring.prep_readv(sqe, fd, requests.iovAddrLo(slot), requests.iovAddrHi(slot), count, offLo, offHi);
  loop.forSlot(sqe, slot);
  return sqe;
}

/**
 * Takes O_NONBLOCK, with which files are opened, off the handle at word `at` of the request, before the ring has its descriptor: it takes
 * that for a file that never waits, and would read from a slow file system itself instead of in a worker.
 */
function letWait(fs: FsService, at: number, fd: number): void {
  if (!fs.handles.setWaits(fs.requests.in32[at])) return;
  libc.fcntl(fd, F_SETFL, libc.fcntl(fd, F_GETFL, 0) & ~O_NONBLOCK);
}

/** Writes by a plain call, which is a copy to the page cache in the usual case; on the ring while the disk makes writers wait. */
export function write(fs: FsService, slot: number): number {
  const { requests } = fs;
  const { in32, out32 } = requests;
  const fd = fs.handles.fd(in32[WRITE_FH], in32[WRITE_FH + 1], KIND_FILE);
  if (fd < 0) return -EBADF;
  if (in32[WRITE_OFFSET + 1] > 0x7fffffff) return -EINVAL;
  const size = in32[WRITE_SIZE];
  if (size > requests.readableBytes[slot] - WRITE_DATA || size > TRANSFER_MAX) return -EINVAL;
  const count = requests.iovecs(slot, fs.device.memory, false, WRITE_DATA, size);
  const kill = (in32[WRITE_FLAGS] & wire.FUSE_WRITE_KILL_SUIDGID) !== 0;
  const direct = (fs.openMask & O_DIRECT) !== 0 && fs.handles.reading(in32[WRITE_FH]) === DIRECT;
  const synced = fs.elsewhere && (in32[WRITE_OPEN_FLAGS] & O_SYNC) !== 0;
  const waits = !fs.isHelper && (direct || synced || fs.writes.throttled);
  // The ring's workers act as us, and know of no attribute map.
  if (waits && fs.elsewhere && (kill || fs.capability !== null)) return ELSEWHERE;
  if (fs.capability !== null) dropMappedCapability(fs, fd);
  if (waits && !kill) return writeLater(fs, slot, fd, count);
  offset32[0] = in32[WRITE_OFFSET];
  offset32[1] = in32[WRITE_OFFSET + 1];
  const bare = kill && fs.credentials.clearBits();
  fs.writes.before();
  const n = count === 1 && !appends(in32)
    ? libc.pwriteAt(fd, requests.iov64[slot * MAX_SEGMENTS * 2], size, offset64[0])
    : libc.pwritev2(fd, requests.iovAddr[slot], count, offset64[0], appends(in32) ? RWF_APPEND : 0);
  const failed = n < 0 ? errno() : 0;
  fs.writes.after();
  if (bare) fs.credentials.keepBits();
  if (n < 0) {
    return failed === EINTR && !fs.isHelper ? writeLater(fs, slot, fd, count) : -failed;
  }
  out32[BODY] = n;
  out32[BODY + 1] = 0;
  return wire.fuse_write_out.sizeof;
}

function writeLater(fs: FsService, slot: number, fd: number, count: number): number {
  const { requests, loop } = fs;
  const { in32, iov32 } = requests;
  const { ring } = loop;
  letWait(fs, WRITE_FH, fd);
  const offLo = in32[WRITE_OFFSET];
  const offHi = in32[WRITE_OFFSET + 1];
  const sqe = loop.sqe();
  const at = slot * MAX_SEGMENTS * 4;
  if (count === 1) ring.prep_write(sqe, fd, iov32[at], iov32[at + 1], iov32[at + 2], offLo, offHi);
  else ring.prep_writev(sqe, fd, requests.iovAddrLo(slot), requests.iovAddrHi(slot), count, offLo, offHi);
  if (appends(in32)) ring.sqe_set_rw_flags(sqe, RWF_APPEND);
  loop.forSlot(sqe, slot);
  return fs.later(slot, WAITS_WRITE);
}

/** Whether a WRITE goes to the file's end, wherever others have moved that. What comes out of the client's cache has its place. */
function appends(in32: Uint32Array): boolean {
  return (in32[WRITE_OPEN_FLAGS] & O_APPEND) !== 0 && (in32[WRITE_FLAGS] & wire.FUSE_WRITE_CACHE) === 0;
}

/** The descriptor of the file handle at word `at` of the request, or -1. */
function fileFd(fs: FsService, at: number): number {
  const { in32 } = fs.requests;
  return fs.handles.fd(in32[ARG + (at >> 2)], in32[ARG + (at >> 2) + 1], KIND_FILE);
}

export function release(fs: FsService): number {
  const { in32 } = fs.requests;
  const at = ARG + (fuse_release_in.fh >> 2);
  const fd = fs.handles.remove(in32[at], in32[at + 1], KIND_FILE);
  if (fd < 0) return -EBADF;
  const { flock, posixLock } = fs.config.options;
  // The descriptor is closed later; who asks for its locks next must have them.
  if (flock) libc.flock(fd, LOCK_UN);
  if (posixLock) {
    for (let owner = fs.locks.removeOf(in32[at]); owner >= 0; owner = fs.locks.removeOf(in32[at])) dropOwner(fs, owner);
  }
  fs.retire(fd);
  return 0;
}

/** A close by one of the file's users: what close(2) of a duplicate reports, so that a network file system's errors arrive. */
export function flush(fs: FsService): number {
  const fd = fileFd(fs, fuse_flush_in.fh);
  if (fd < 0) return -EBADF;
  dropLocks(fs);
  const copy = libc.dup(fd);
  if (copy < 0) return -errno();
  return libc.close(copy) < 0 ? -errno() : 0;
}

/** POSIX locks of an owner go with any close of the file, fcntl(2). */
function dropLocks(fs: FsService): void {
  if (!fs.config.options.posixLock || fs.node === 0) return;
  const { in32 } = fs.requests;
  const owner = ARG + (fuse_flush_in.lock_owner >> 2);
  const fd = fs.locks.remove(fs.node, fs.nodes.generation(fs.node), in32[owner], in32[owner + 1]);
  if (fd >= 0) dropOwner(fs, fd);
}

export function fsync(fs: FsService, slot: number): number {
  const fd = fileFd(fs, fuse_fsync_in.fh);
  if (fd < 0) return -EBADF;
  return syncLater(fs, slot, fd);
}

/** A descriptor of its own for what another thread does with a file. Or -errno. */
export function duplicate(fd: number): number {
  const copy = libc.fcntl(fd, F_DUPFD_CLOEXEC, 0);
  return copy < 0 ? -errno() : copy;
}

/** fsync or fdatasync of a descriptor on the ring, or here on a helper, as the request's flags say. */
export function syncLater(fs: FsService, slot: number, fd: number): number {
  const flags = fs.requests.in32[ARG + (fuse_fsync_in.fsync_flags >> 2)];
  const dataOnly = (flags & wire.FUSE_FSYNC_FDATASYNC) !== 0;
  if (fs.isHelper) return (dataOnly ? libc.fdatasync(fd) : libc.fsync(fd)) < 0 ? -errno() : 0;
  const copy = duplicate(fd);
  if (copy < 0) return copy;
  const sqe = fs.loop.sqe();
  fs.loop.ring.prep_fsync(sqe, copy, dataOnly ? IORING_FSYNC_DATASYNC : 0);
  fs.loop.forSlot(sqe, slot);
  return fs.laterOn(slot, WAITS_PLAIN, copy, -1);
}

export function fallocate(fs: FsService, slot: number): number {
  const fd = fileFd(fs, fuse_fallocate_in.fh);
  if (fd < 0) return -EBADF;
  const kill = (fs.session.flags & wire.FUSE_HANDLE_KILLPRIV_V2) !== 0 && fs.uid !== 0;
  if (fs.elsewhere && (kill || fs.capability !== null)) return ELSEWHERE;
  dropMappedCapability(fs, fd);
  const { in32 } = fs.requests;
  const word = (at: number) => in32[ARG + (at >> 2)];
  const { offset, length, mode } = fuse_fallocate_in;
  if (kill || fs.isHelper) {
    // The request cannot say so, but an ordinary user's clears set-user-ID bits. By a plain call, for the ring's workers act as us.
    long32[0] = word(offset), long32[1] = word(offset + 4), long32[2] = word(length), long32[3] = word(length + 4);
    const bare = kill && fs.credentials.clearBits();
    const failed = libc.fallocate(fd, word(mode) | 0, long64[0], long64[1]) < 0 ? -errno() : 0;
    if (bare) fs.credentials.keepBits();
    return failed;
  }
  const copy = duplicate(fd);
  if (copy < 0) return copy;
  const sqe = fs.loop.sqe();
  const { ring } = fs.loop;
  ring.prep_fallocate(sqe, copy, word(mode), word(offset), word(offset + 4), word(length), word(length + 4));
  fs.loop.forSlot(sqe, slot);
  return fs.laterOn(slot, WAITS_PLAIN, copy, -1);
}

export function lseek(fs: FsService): number {
  const fd = fileFd(fs, fuse_lseek_in.fh);
  if (fd < 0) return -EBADF;
  const { in32, out32 } = fs.requests;
  const at = ARG + (fuse_lseek_in.offset >> 2);
  offset32[0] = in32[at];
  offset32[1] = in32[at + 1];
  // As an int: FFI takes no number above it, and throws.
  const found = libc.lseek(fd, offset64[0], in32[ARG + (fuse_lseek_in.whence >> 2)] | 0);
  if (found < 0n) return -errno();
  offset64[0] = found;
  out32[BODY + (fuse_lseek_out.offset >> 2)] = offset32[0];
  out32[BODY + (fuse_lseek_out.offset >> 2) + 1] = offset32[1];
  return fuse_lseek_out.sizeof;
}
