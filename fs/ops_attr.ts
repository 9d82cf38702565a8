/** Operations on attributes: of a node, and of the file system. */
import { O_NONBLOCK, O_WRONLY } from "../ffi/arch.ts";
import { EACCES, EBADF, EINVAL, EISDIR } from "../ffi/errno.ts";
import { errno, libc } from "../ffi/libc.ts";
import {
  AT_EMPTY_PATH,
  S_IFDIR,
  S_IFLNK,
  S_IFREG,
  statfs as struct_statfs,
  UTIME_NOW,
  UTIME_OMIT,
} from "../ffi/stat_layout.ts";
import { ARG, BODY } from "./entry.ts";
import { KIND_DIR, KIND_FILE } from "./handles.ts";
import { fdOf, typeOf } from "./nodes.ts";
import { dropMappedCapability } from "./ops_xattr.ts";
import type { FsService } from "./service.ts";
import * as wire from "./wire.ts";
import { fuse_access_in, fuse_attr_out, fuse_getattr_in, fuse_kstatfs, fuse_setattr_in } from "./wire.ts";

const noName = new Uint8Array(1);
const UNCHANGED = 0xffffffff;
/** S_ISUID and the like with the permissions: what chmod takes. */
const MODE_BITS = 0o7777;

const timespecs = new Uint8Array(32);
const times32 = new Uint32Array(timespecs.buffer);
const size64 = new BigInt64Array(1);
const size32 = new Uint32Array(size64.buffer);
const statfsBytes = new Uint8Array(struct_statfs.sizeof);
const statfs32 = new Uint32Array(statfsBytes.buffer);

/** The descriptor of a file's or directory's handle, or -1. */
function handleFd(fs: FsService, lo: number, hi: number): number {
  const fd = fs.handles.fd(lo, hi, KIND_FILE);
  return fd >= 0 ? fd : fs.handles.fd(lo, hi, KIND_DIR);
}

export function getattr(fs: FsService): number {
  const { in32 } = fs.requests;
  if (in32[ARG + (fuse_getattr_in.getattr_flags >> 2)] & wire.FUSE_GETATTR_FH) {
    const at = ARG + (fuse_getattr_in.fh >> 2);
    const open = handleFd(fs, in32[at], in32[at + 1]);
    return open < 0 ? -EBADF : answerAttr(fs, open);
  }
  const fd = fs.nodeFd(fs.node);
  return fd < 0 ? fd : answerAttr(fs, fd);
}

function answerAttr(fs: FsService, fd: number): number {
  const failed = fs.stat.of(fd);
  if (failed < 0) return failed;
  const { out32 } = fs.requests;
  out32[BODY + (fuse_attr_out.attr_valid >> 2)] = fs.timeout;
  out32[BODY + (fuse_attr_out.attr_valid >> 2) + 1] = 0;
  out32[BODY + (fuse_attr_out.attr_valid_nsec >> 2)] = 0;
  out32[BODY + (fuse_attr_out.dummy >> 2)] = 0;
  fs.stat.putAttr(out32, BODY + (fuse_attr_out.attr >> 2));
  return fuse_attr_out.sizeof;
}

export function setattr(fs: FsService): number {
  const { in32 } = fs.requests;
  const valid = in32[ARG + (fuse_setattr_in.valid >> 2)];
  const file = fs.files.held(fs.node);
  if (file < 0) return file;
  const nodeFd = fdOf(file);
  let open = -1;
  if (valid & wire.FATTR_FH) {
    const at = ARG + (fuse_setattr_in.fh >> 2);
    open = handleFd(fs, in32[at], in32[at + 1]);
    if (open < 0) return -EBADF;
  }
  let failed = 0;
  if (valid & wire.FATTR_MODE) failed = chmod(fs, nodeFd, open);
  if (failed === 0 && valid & (wire.FATTR_UID | wire.FATTR_GID)) failed = chown(fs, nodeFd, valid);
  if (failed === 0 && valid & wire.FATTR_SIZE) failed = truncate(fs, file, open);
  if (failed === 0 && valid & (wire.FATTR_ATIME | wire.FATTR_MTIME)) failed = utimens(fs, nodeFd, valid);
  return failed < 0 ? failed : answerAttr(fs, nodeFd);
}

function chmod(fs: FsService, nodeFd: number, open: number): number {
  const mode = fs.requests.in32[ARG + (fuse_setattr_in.mode >> 2)] & MODE_BITS;
  if (open >= 0) return libc.fchmod(open, mode) < 0 ? -errno() : 0;
  // O_PATH descriptors take no fchmod; their link under /proc does.
  return libc.fchmodat(fs.proc.dirFd, fs.proc.of(nodeFd), mode, 0) < 0 ? -errno() : 0;
}

function chown(fs: FsService, nodeFd: number, valid: number): number {
  const { in32 } = fs.requests;
  let uid = valid & wire.FATTR_UID ? in32[ARG + (fuse_setattr_in.uid >> 2)] : UNCHANGED;
  let gid = valid & wire.FATTR_GID ? in32[ARG + (fuse_setattr_in.gid >> 2)] : UNCHANGED;
  if (fs.ids !== null && valid & wire.FATTR_UID) uid = fs.ids.uid.toHost(uid);
  if (fs.ids !== null && valid & wire.FATTR_GID) gid = fs.ids.gid.toHost(gid);
  if (uid < 0 || gid < 0) return uid < 0 ? uid : gid;
  const failed = dropMappedCapability(fs, nodeFd);
  if (failed < 0) return failed;
  return libc.fchownat(nodeFd, noName, uid, gid, AT_EMPTY_PATH) < 0 ? -errno() : 0;
}

function truncate(fs: FsService, file: number, open: number): number {
  const { in32 } = fs.requests;
  const at = ARG + (fuse_setattr_in.size >> 2);
  size32[0] = in32[at];
  size32[1] = in32[at + 1];
  const kill = (in32[ARG + (fuse_setattr_in.valid >> 2)] & wire.FATTR_KILL_SUIDGID) !== 0;
  const bare = kill && fs.credentials.clearBits();
  const result = truncateTo(fs, file, open);
  if (bare) fs.credentials.keepBits();
  return result;
}

/** To the size in `size64`. */
function truncateTo(fs: FsService, file: number, open: number): number {
  const dropped = dropMappedCapability(fs, open >= 0 ? open : fdOf(file));
  if (dropped < 0) return dropped;
  if (open >= 0) return libc.ftruncate(open, size64[0]) < 0 ? -errno() : 0;
  const type = typeOf(file);
  if (type !== S_IFREG) return type === S_IFDIR ? -EISDIR : -EINVAL;
  const fd = fs.proc.open(fdOf(file), O_WRONLY | O_NONBLOCK);
  if (fd < 0) return fd;
  const failed = libc.ftruncate(fd, size64[0]) < 0 ? -errno() : 0;
  libc.close(fd);
  return failed;
}

function utimens(fs: FsService, nodeFd: number, valid: number): number {
  const { in32 } = fs.requests;
  const time = (to: number, set: number, now: number, secAt: number, nsecAt: number) => {
    const at = ARG + (secAt >> 2);
    times32[to] = in32[at];
    times32[to + 1] = in32[at + 1];
    times32[to + 2] = (valid & set) === 0 ? UTIME_OMIT : valid & now ? UTIME_NOW : in32[ARG + (nsecAt >> 2)];
    times32[to + 3] = 0;
  };
  time(0, wire.FATTR_ATIME, wire.FATTR_ATIME_NOW, fuse_setattr_in.atime, fuse_setattr_in.atimensec);
  time(4, wire.FATTR_MTIME, wire.FATTR_MTIME_NOW, fuse_setattr_in.mtime, fuse_setattr_in.mtimensec);
  return libc.utimensat(fs.proc.dirFd, fs.proc.of(nodeFd), timespecs, 0) < 0 ? -errno() : 0;
}

export function statfs(fs: FsService): number {
  const fd = fs.nodeFd(fs.node);
  if (fd < 0) return fd;
  if (libc.fstatfs(fd, statfsBytes) < 0) return -errno();
  const { out32 } = fs.requests;
  const from = (at: number) => statfs32[at >> 2];
  const put64 = (to: number, at: number) => {
    out32[BODY + (to >> 2)] = from(at);
    out32[BODY + (to >> 2) + 1] = from(at + 4);
  };
  out32.fill(0, BODY, BODY + (fuse_kstatfs.sizeof >> 2));
  put64(fuse_kstatfs.blocks, struct_statfs.f_blocks);
  put64(fuse_kstatfs.bfree, struct_statfs.f_bfree);
  put64(fuse_kstatfs.bavail, struct_statfs.f_bavail);
  put64(fuse_kstatfs.files, struct_statfs.f_files);
  put64(fuse_kstatfs.ffree, struct_statfs.f_ffree);
  out32[BODY + (fuse_kstatfs.bsize >> 2)] = from(struct_statfs.f_bsize);
  out32[BODY + (fuse_kstatfs.namelen >> 2)] = from(struct_statfs.f_namelen);
  out32[BODY + (fuse_kstatfs.frsize >> 2)] = from(struct_statfs.f_frsize);
  return fuse_kstatfs.sizeof;
}

/** Checks permission bits for the request's user. The client has `default_permissions` and asks only for what it cannot know. */
export function access(fs: FsService): number {
  const mask = fs.requests.in32[ARG + (fuse_access_in.mask >> 2)] & 7;
  const fd = fs.nodeFd(fs.node);
  const failed = fd < 0 ? fd : fs.stat.of(fd);
  if (failed < 0 || mask === 0) return failed;
  const { mode } = fs.stat;
  if (fs.uid === 0) {
    // Root may do all but run what nobody may run.
    const canRun = fs.stat.type === S_IFDIR || (mode & 0o111) !== 0 || fs.stat.type === S_IFLNK;
    return (mask & 1) === 0 || canRun ? 0 : -EACCES;
  }
  const shift = fs.uid === fs.stat.uid ? 6 : fs.gid === fs.stat.gid ? 3 : 0;
  return (mode >> shift & mask) === mask ? 0 : -EACCES;
}
