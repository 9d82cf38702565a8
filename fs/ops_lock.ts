/** Locks, on the host's files: POSIX ones by an open file description for each owner, flock by the handle's own. */
import { O_NONBLOCK, O_RDONLY, O_RDWR, SYS } from "../ffi/arch.ts";
import { EACCES, EAGAIN, EBADF, EINVAL, EISDIR, ENOLCK, ENOSYS, EROFS } from "../ffi/errno.ts";
import { errno, libc } from "../ffi/libc.ts";
import {
  F_OFD_GETLK,
  F_OFD_SETLK,
  F_OFD_SETLKW,
  F_RDLCK,
  F_UNLCK,
  F_WRLCK,
  flock as struct_flock,
  LOCK_EX,
  LOCK_NB,
  LOCK_SH,
  LOCK_UN,
  S_IFREG,
} from "../ffi/stat_layout.ts";
import { ARG, BODY } from "./entry.ts";
import { KIND_DIR, KIND_FILE } from "./handles.ts";
import { fdOf, typeOf } from "./nodes.ts";
import { duplicate } from "./ops_file.ts";
import { type FsService, WAITS_LOCK } from "./service.ts";
import { fuse_file_lock, FUSE_LK_FLOCK, fuse_lk_in, fuse_lk_out } from "./wire.ts";

const LK = ARG + (fuse_lk_in.lk >> 2);
const START = LK + (fuse_file_lock.start >> 2);
const END = LK + (fuse_file_lock.end >> 2);
const TYPE = LK + (fuse_file_lock.type >> 2);
const OWNER = ARG + (fuse_lk_in.owner >> 2);
const FH = ARG + (fuse_lk_in.fh >> 2);
/** The last byte that a file can have, which stands for "to the end". */
const OFFSET_MAX = 0x7fff_ffff_ffff_ffffn;

const flockBytes = new Uint8Array(struct_flock.sizeof);
const flockView = new DataView(flockBytes.buffer);

/** The descriptor whose open file description owns the locks of the request's owner on its node; opened where `make`. */
function ownerFd(fs: FsService, make: boolean): number {
  const { in32 } = fs.requests;
  const generation = fs.nodes.generation(fs.node);
  const known = fs.locks.fd(fs.node, generation, in32[OWNER], in32[OWNER + 1]);
  if (known >= 0 || !make) return known >= 0 ? known : -EBADF;
  const file = fs.files.held(fs.node);
  if (file < 0) return file;
  if (typeOf(file) !== S_IFREG) return -EISDIR;
  const nodeFd = fdOf(file);
  const short = fs.descriptors.room();
  if (short < 0) return short;
  // Not to wait for the holder of a lease, fcntl(2).
  let fd = fs.proc.open(nodeFd, O_RDWR | O_NONBLOCK);
  if (fd === -EACCES || fd === -EROFS) fd = fs.proc.open(nodeFd, O_RDONLY | O_NONBLOCK);
  if (fd < 0) return fd;
  const kept = fs.locks.insert(fs.node, generation, in32[OWNER], in32[OWNER + 1], fd, in32[FH]);
  if (kept !== fd) libc.close(fd);
  return kept < 0 ? -ENOLCK : kept;
}

/** Makes struct flock of the request's struct fuse_file_lock. Returns 0 or -EINVAL. */
function readLock(fs: FsService): number {
  const { in32 } = fs.requests;
  const start = BigInt(in32[START]) | BigInt(in32[START + 1]) << 32n;
  const end = BigInt(in32[END]) | BigInt(in32[END + 1]) << 32n;
  if (start > OFFSET_MAX || end > OFFSET_MAX || start > end || in32[TYPE] > F_UNLCK) return -EINVAL;
  flockBytes.fill(0);
  flockView.setInt16(struct_flock.l_type, in32[TYPE], true);
  flockView.setBigInt64(struct_flock.l_start, start, true);
  flockView.setBigInt64(struct_flock.l_len, end === OFFSET_MAX ? 0n : end - start + 1n, true);
  return 0;
}

/** Closes an owner's descriptor; its locks are gone when this returns, though the close may come later. */
export function dropOwner(fs: FsService, fd: number): void {
  flockBytes.fill(0);
  flockView.setInt16(struct_flock.l_type, F_UNLCK, true);
  libc.fcntlLock(fd, F_OFD_SETLK, flockBytes);
  fs.retire(fd);
}

export function getlk(fs: FsService): number {
  if (!fs.config.options.posixLock) return -ENOSYS;
  const invalid = readLock(fs);
  if (invalid < 0) return invalid;
  const fd = ownerFd(fs, true);
  if (fd < 0) return fd;
  if (libc.fcntlLock(fd, F_OFD_GETLK, flockBytes) < 0) return -errno();
  putLock(fs);
  return fuse_lk_out.sizeof;
}

/** Answers with the lock that is in the way, or with F_UNLCK. */
function putLock(fs: FsService): void {
  const { out32 } = fs.requests;
  const type = flockView.getInt16(struct_flock.l_type, true);
  const start = flockView.getBigInt64(struct_flock.l_start, true);
  const length = flockView.getBigInt64(struct_flock.l_len, true);
  const end = length === 0n ? OFFSET_MAX : start + length - 1n;
  out32[BODY + (fuse_file_lock.start >> 2)] = Number(start & 0xffffffffn);
  out32[BODY + (fuse_file_lock.start >> 2) + 1] = Number(start >> 32n);
  out32[BODY + (fuse_file_lock.end >> 2)] = Number(end & 0xffffffffn);
  out32[BODY + (fuse_file_lock.end >> 2) + 1] = Number(end >> 32n);
  out32[BODY + (fuse_file_lock.type >> 2)] = type;
  // The host says -1 for an open file description's lock, whose process the guest could not name anyway.
  out32[BODY + (fuse_file_lock.pid >> 2)] = 0;
}

export function setlk(fs: FsService, slot: number): number {
  return isFlock(fs) ? flock(fs, slot, false) : posixLock(fs, slot, false);
}

export function setlkw(fs: FsService, slot: number): number {
  return isFlock(fs) ? flock(fs, slot, true) : posixLock(fs, slot, true);
}

function isFlock(fs: FsService): boolean {
  return (fs.requests.in32[ARG + (fuse_lk_in.lk_flags >> 2)] & FUSE_LK_FLOCK) !== 0;
}

function posixLock(fs: FsService, slot: number, wait: boolean): number {
  if (!fs.config.options.posixLock) return -ENOSYS;
  const invalid = readLock(fs);
  if (invalid < 0) return invalid;
  const fd = ownerFd(fs, fs.requests.in32[TYPE] !== F_UNLCK);
  // Without a descriptor the owner has no locks to give up.
  if (fd === -EBADF) return 0;
  if (fd < 0) return fd;
  if (libc.fcntlLock(fd, F_OFD_SETLK, flockBytes) === 0) return 0;
  const failed = errno();
  if (!wait || (failed !== EAGAIN && failed !== EACCES)) return failed === EACCES ? -EAGAIN : -failed;
  if (fs.isHelper) return waitHere(fs, fd, (copy) => libc.fcntlLock(copy, F_OFD_SETLKW, flockBytes));
  fs.loop.calls.room(slot).set(flockBytes);
  return waitOn(fs, slot, fd, SYS.fcntl, F_OFD_SETLKW, fs.loop.calls.roomAddr(slot));
}

function flock(fs: FsService, slot: number, wait: boolean): number {
  if (!fs.config.options.flock) return -ENOSYS;
  const { in32 } = fs.requests;
  let fd = fs.handles.fd(in32[FH], in32[FH + 1], KIND_FILE);
  if (fd < 0) fd = fs.handles.fd(in32[FH], in32[FH + 1], KIND_DIR);
  if (fd < 0) return -EBADF;
  const type = in32[TYPE];
  if (type > F_UNLCK) return -EINVAL;
  const operation = type === F_RDLCK ? LOCK_SH : type === F_WRLCK ? LOCK_EX : LOCK_UN;
  if (libc.flock(fd, operation | LOCK_NB) === 0) return 0;
  const failed = errno();
  if (!wait || failed !== EAGAIN) return -failed;
  if (fs.isHelper) return waitHere(fs, fd, (copy) => libc.flock(copy, operation));
  return waitOn(fs, slot, fd, SYS.flock, operation, 0);
}

/** Has a helper wait for a lock, on a duplicate: the guest may close the file meanwhile. */
function waitOn(fs: FsService, slot: number, fd: number, call: number, operation: number, arg: number): number {
  const copy = duplicate(fd);
  if (copy < 0) return copy;
  fs.loop.calls.makeLock(slot, call, copy, operation, arg);
  return fs.laterOn(slot, WAITS_LOCK, copy, -1);
}

/** Waits for a lock on a helper, on a duplicate too: it may last long, and nobody's descriptors are to wait with it (vq/grace.ts). */
function waitHere(fs: FsService, fd: number, lock: (copy: number) => number): number {
  const copy = duplicate(fd);
  if (copy < 0) return copy;
  fs.host.grace.leave();
  const failed = lock(copy) < 0 ? -errno() : 0;
  libc.close(copy);
  return failed;
}
