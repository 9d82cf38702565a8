/** Operations that newer clients send: copying within the host, files without a name, statx, file-system flags. */
import { O_CLOEXEC, O_DIRECTORY, O_EXCL, O_RDONLY, O_TMPFILE, SYS } from "../ffi/arch.ts";
import { EBADF, EINVAL, ENOTTY } from "../ffi/errno.ts";
import { errno, libc } from "../ffi/libc.ts";
import { allocate, type Mapping } from "../ffi/memory.ts";
import { ROOM_BYTES } from "../vq/calls.ts";
import { beginCreation, endCreation, label } from "./creation.ts";
import { ARG, BODY } from "./entry.ts";
import { KIND_DIR, KIND_FILE } from "./handles.ts";
import { answerCreated, duplicate, hostFlags } from "./ops_file.ts";
import { dropMappedCapability } from "./ops_xattr.ts";
import { ELSEWHERE } from "./results.ts";
import { type FsService, WAITS_COPY, WAITS_COPY_64, WAITS_SYNC } from "./service.ts";
import {
  fuse_copy_file_range_in,
  fuse_create_in,
  FUSE_GETATTR_FH,
  fuse_in_header,
  fuse_ioctl_in,
  fuse_ioctl_out,
  fuse_statx_in,
  fuse_statx_out,
  fuse_write_out,
} from "./wire.ts";

/** What one copy_file_range(2) does at most: MAX_RW_COUNT of the kernel. */
const COPY_MAX = 0x7ffff000;
const TWO32 = 2 ** 32;
const dot = new Uint8Array([0x2e, 0]);

/** ioctl(2) numbers that are passed on, with the bytes that each moves. linux/fs.h. */
const IOCTLS: ReadonlyMap<number, { in: number; out: number }> = new Map([
  [0x80086601, { in: 0, out: 4 }], // FS_IOC_GETFLAGS: long by its number, int in fact
  [0x40086602, { in: 4, out: 0 }], // FS_IOC_SETFLAGS
  [0x80046601, { in: 0, out: 4 }], // FS_IOC32_GETFLAGS
  [0x40046602, { in: 4, out: 0 }], // FS_IOC32_SETFLAGS
  [0x801c581f, { in: 0, out: 28 }], // FS_IOC_FSGETXATTR
  [0x401c5820, { in: 28, out: 0 }], // FS_IOC_FSSETXATTR
]);
/** The 32-bit numbers stand for these on a 64-bit host. */
const IOCTL_64: ReadonlyMap<number, number> = new Map([[0x80046601, 0x80086601], [0x40046602, 0x40086602]]);
const ioctlBytes = new Uint8Array(64);

export function tmpfile(fs: FsService): number {
  const { in32 } = fs.requests;
  const flags = in32[ARG + (fuse_create_in.flags >> 2)];
  const mode = in32[ARG + (fuse_create_in.mode >> 2)];
  const dirFd = fs.nodeFd(fs.node);
  if (dirFd < 0) return dirFd;
  // The client gives it a name that is none.
  const behind = fs.requests.in.indexOf(0, fuse_in_header.sizeof + fuse_create_in.sizeof) + 1;
  if (behind === 0 || behind > fs.len) return -EINVAL;
  const dressed = beginCreation(fs, behind, in32[ARG + (fuse_create_in.umask >> 2)], true);
  if (dressed < 0) return dressed;
  // O_EXCL means here that the file shall never get a name.
  let fd = libc.openat(dirFd, dot, hostFlags(fs, flags) | (flags & O_EXCL) | O_TMPFILE | O_CLOEXEC, mode);
  if (fd < 0) fd = -errno();
  endCreation(fs, dressed);
  if (fd < 0) return fd;
  const failed = label(fs, fd);
  if (failed === 0) return answerCreated(fs, fd);
  libc.close(fd);
  return failed;
}

export function copyFileRange(fs: FsService, slot: number): number {
  return copy(fs, slot, WAITS_COPY);
}

/** The same with a reply of 64 bits. */
export function copyFileRange64(fs: FsService, slot: number): number {
  return copy(fs, slot, WAITS_COPY_64);
}

/** Room for offsets that a call points to, on a helper. */
let helperRoom: Mapping | undefined;

/** The reply of a copy: struct fuse_write_out, and fuse_copy_file_range_out, which is as long. */
function answerSize(fs: FsService, size: number): number {
  const { out32 } = fs.requests;
  out32[BODY] = size;
  out32[BODY + 1] = 0;
  return fuse_write_out.sizeof;
}

function copy(fs: FsService, slot: number, waits: number): number {
  const { in32 } = fs.requests;
  const at = (field: number) => ARG + (field >> 2);
  const { fh_in, off_in, fh_out, off_out, len, flags } = fuse_copy_file_range_in;
  const from = fs.handles.fd(in32[at(fh_in)], in32[at(fh_in) + 1], KIND_FILE);
  const to = fs.handles.fd(in32[at(fh_out)], in32[at(fh_out) + 1], KIND_FILE);
  if (from < 0 || to < 0) return -EBADF;
  if (in32[at(off_in) + 1] > 0x7fffffff || in32[at(off_out) + 1] > 0x7fffffff) return -EINVAL;
  if (fs.elsewhere && fs.capability !== null) return ELSEWHERE;
  dropMappedCapability(fs, to);
  const fdIn = duplicate(from);
  if (fdIn < 0) return fdIn;
  const fdOut = duplicate(to);
  if (fdOut < 0) {
    libc.close(fdIn);
    return fdOut;
  }
  const here = fs.isHelper ? helperRoom ??= allocate(ROOM_BYTES) : null;
  const bytes = here === null ? fs.loop.calls.room(slot) : new Uint8Array(here.buffer);
  const room = here === null ? fs.loop.calls.roomAddr(slot) : here.addr;
  const offsets = new DataView(bytes.buffer, bytes.byteOffset, 16);
  offsets.setUint32(0, in32[at(off_in)], true);
  offsets.setUint32(4, in32[at(off_in) + 1], true);
  offsets.setUint32(8, in32[at(off_out)], true);
  offsets.setUint32(12, in32[at(off_out) + 1], true);
  const most = Math.min(in32[at(len)] + in32[at(len) + 1] * TWO32, COPY_MAX);
  if (here === null) {
    fs.loop.calls.make(slot, SYS.copy_file_range, fdIn, room, fdOut, room + 8, most, in32[at(flags)]);
    return fs.laterOn(slot, waits, fdIn, fdOut);
  }
  const words = [SYS.copy_file_range, fdIn, room, fdOut, room + 8, most, in32[at(flags)]].map(BigInt);
  const copied = libc.syscall6(words[0], words[1], words[2], words[3], words[4], words[5], words[6]);
  const failed = copied < 0n ? -errno() : 0;
  libc.close(fdIn);
  libc.close(fdOut);
  return failed < 0 ? failed : answerSize(fs, Number(copied));
}

export function syncfs(fs: FsService, slot: number): number {
  const nodeFd = fs.nodeFd(fs.node);
  if (nodeFd < 0) return nodeFd;
  const fd = fs.proc.open(nodeFd, O_RDONLY | O_DIRECTORY);
  if (fd < 0) return fd;
  if (fs.isHelper) {
    const failed = libc.syscall1(SYS.syncfs, fd) < 0 ? -errno() : 0;
    libc.close(fd);
    return failed;
  }
  fs.loop.calls.make(slot, SYS.syncfs, fd);
  return fs.laterOn(slot, WAITS_SYNC, fd, -1);
}

export function statx(fs: FsService): number {
  const { in32, out32 } = fs.requests;
  let fd = 0;
  if (in32[ARG + (fuse_statx_in.getattr_flags >> 2)] & FUSE_GETATTR_FH) {
    const at = ARG + (fuse_statx_in.fh >> 2);
    fd = fs.handles.fd(in32[at], in32[at + 1], KIND_FILE);
    if (fd < 0) return -EBADF;
  } else {
    fd = fs.nodeFd(fs.node);
    if (fd < 0) return fd;
  }
  const failed = fs.stat.all(fd, in32[ARG + (fuse_statx_in.sx_mask >> 2)]);
  if (failed < 0) return failed;
  out32.fill(0, BODY, BODY + (fuse_statx_out.sizeof >> 2));
  out32[BODY + (fuse_statx_out.attr_valid >> 2)] = fs.timeout;
  fs.stat.putStatx(out32, BODY + (fuse_statx_out.stat >> 2));
  return fuse_statx_out.sizeof;
}

export function ioctl(fs: FsService): number {
  const { in32, out, out32 } = fs.requests;
  const word = (at: number) => in32[ARG + (at >> 2)];
  const moves = IOCTLS.get(word(fuse_ioctl_in.cmd));
  if (!moves) return -ENOTTY;
  const inSize = word(fuse_ioctl_in.in_size);
  const dataAt = fuse_in_header.sizeof + fuse_ioctl_in.sizeof;
  if (inSize < moves.in || word(fuse_ioctl_in.out_size) < moves.out || fs.len < dataAt + moves.in) return -EINVAL;
  const fh = ARG + (fuse_ioctl_in.fh >> 2);
  let fd = fs.handles.fd(in32[fh], in32[fh + 1], KIND_FILE);
  if (fd < 0) fd = fs.handles.fd(in32[fh], in32[fh + 1], KIND_DIR);
  if (fd < 0) return -EBADF;
  ioctlBytes.fill(0);
  ioctlBytes.set(fs.requests.in.subarray(dataAt, dataAt + moves.in));
  const number = word(fuse_ioctl_in.cmd);
  if (libc.ioctl(fd, BigInt(IOCTL_64.get(number) ?? number), ioctlBytes) < 0) return -errno();
  out32.fill(0, BODY, BODY + (fuse_ioctl_out.sizeof >> 2));
  out.set(ioctlBytes.subarray(0, moves.out), BODY * 4 + fuse_ioctl_out.sizeof);
  // As much as was asked for: the client reads a long where the host wrote an int.
  const outSize = Math.min(word(fuse_ioctl_in.out_size), ioctlBytes.length);
  out.set(ioctlBytes.subarray(0, outSize), BODY * 4 + fuse_ioctl_out.sizeof);
  return fuse_ioctl_out.sizeof + outSize;
}
