/** Operations on names: finding, making, removing, moving. Each takes one component below a known node. */
import { EINVAL, ENOENT } from "../ffi/errno.ts";
import { errno, libc } from "../ffi/libc.ts";
import { AT_REMOVEDIR, AT_SYMLINK_FOLLOW, S_IFLNK } from "../ffi/stat_layout.ts";
import { beginCreation, endCreation, labelName } from "./creation.ts";
import { answerCached, answerEntry, ARG, ARG_BYTE, BODY } from "./entry.ts";
import { fdOf, typeOf } from "./nodes.ts";
import { NO_REPLY } from "./results.ts";
import type { FsService } from "./service.ts";
import {
  fuse_batch_forget_in,
  fuse_forget_in,
  fuse_forget_one,
  fuse_in_header,
  fuse_link_in,
  fuse_mkdir_in,
  fuse_mknod_in,
  fuse_rename2_in,
  fuse_rename_in,
} from "./wire.ts";

const NODEID = fuse_in_header.nodeid >> 2;
const TWO32 = 2 ** 32;
const PATH_MAX = 4096;
const noName = new Uint8Array(1);
const dev64 = new BigUint64Array(1);
const dev32 = new Uint32Array(dev64.buffer);
const linkTarget = new Uint8Array(PATH_MAX);

export function lookup(fs: FsService): number {
  const name = fs.name(ARG_BYTE);
  if (typeof name === "number") return name;
  return fs.asksCached ? answerCached(fs, fs.node, name) : answerEntry(fs, fs.node, name);
}

export function forget(fs: FsService): number {
  const { in32 } = fs.requests;
  const at = ARG + (fuse_forget_in.nlookup >> 2);
  fs.nodes.forget(in32[NODEID], in32[NODEID + 1], in32[at] + in32[at + 1] * TWO32, fs.retire);
  return NO_REPLY;
}

export function batchForget(fs: FsService): number {
  const { in32 } = fs.requests;
  const first = ARG_BYTE + fuse_batch_forget_in.sizeof;
  // The guest's count, and what there is room for.
  const count = Math.min(
    in32[ARG + (fuse_batch_forget_in.count >> 2)],
    Math.floor((fs.len - first) / fuse_forget_one.sizeof),
  );
  for (let i = 0; i < count; i++) {
    const at = (first + i * fuse_forget_one.sizeof) >> 2;
    fs.nodes.forget(in32[at], in32[at + 1], in32[at + 2] + in32[at + 3] * TWO32, fs.retire);
  }
  return NO_REPLY;
}

/** What creating a name ends with: its label, and the answer. `flags` are what unlinkat(2) wants for taking it back. */
function answerCreated(fs: FsService, name: Uint8Array<ArrayBuffer>, flags: number): number {
  const failed = labelName(fs, name, flags);
  return failed < 0 ? failed : answerEntry(fs, fs.node, name);
}

export function mkdir(fs: FsService): number {
  const name = fs.name(ARG_BYTE + fuse_mkdir_in.sizeof);
  if (typeof name === "number") return name;
  const { in32 } = fs.requests;
  const mode = in32[ARG + (fuse_mkdir_in.mode >> 2)];
  const dirFd = fs.nodeFd(fs.node);
  if (dirFd < 0) return dirFd;
  const behind = fs.nameEnd(ARG_BYTE + fuse_mkdir_in.sizeof) + 1;
  const dressed = beginCreation(fs, behind, in32[ARG + (fuse_mkdir_in.umask >> 2)]);
  if (dressed < 0) return dressed;
  const failed = libc.mkdirat(dirFd, name, mode) < 0 ? -errno() : 0;
  endCreation(fs, dressed);
  return failed < 0 ? failed : answerCreated(fs, name, AT_REMOVEDIR);
}

export function mknod(fs: FsService): number {
  const name = fs.name(ARG_BYTE + fuse_mknod_in.sizeof);
  if (typeof name === "number") return name;
  const { in32 } = fs.requests;
  const mode = in32[ARG + (fuse_mknod_in.mode >> 2)];
  // The kernel's 32-bit encoding is the lower half of glibc's dev_t.
  dev32[0] = in32[ARG + (fuse_mknod_in.rdev >> 2)];
  const dirFd = fs.nodeFd(fs.node);
  if (dirFd < 0) return dirFd;
  const behind = fs.nameEnd(ARG_BYTE + fuse_mknod_in.sizeof) + 1;
  const dressed = beginCreation(fs, behind, in32[ARG + (fuse_mknod_in.umask >> 2)]);
  if (dressed < 0) return dressed;
  const failed = libc.mknodat(dirFd, name, mode, dev64[0]) < 0 ? -errno() : 0;
  endCreation(fs, dressed);
  return failed < 0 ? failed : answerCreated(fs, name, 0);
}

export function symlink(fs: FsService): number {
  const name = fs.name(ARG_BYTE);
  if (typeof name === "number") return name;
  const { requests } = fs;
  const at = fs.nameEnd(ARG_BYTE) + 1;
  // The target may hold slashes; it needs an end, and must not be empty.
  const end = requests.in.indexOf(0, at);
  if (end < 0 || end >= fs.len) return -EINVAL;
  if (end === at) return -ENOENT;
  const target = requests.in.subarray(at);
  const dirFd = fs.nodeFd(fs.node);
  if (dirFd < 0) return dirFd;
  const dressed = beginCreation(fs, end + 1, 0);
  if (dressed < 0) return dressed;
  const failed = libc.symlinkat(target, dirFd, name) < 0 ? -errno() : 0;
  endCreation(fs, dressed);
  return failed < 0 ? failed : answerCreated(fs, name, 0);
}

export function readlink(fs: FsService): number {
  const { requests } = fs;
  const file = fs.files.held(fs.node);
  if (file < 0) return file;
  // The call would say ENOENT of an empty name.
  if (typeOf(file) !== S_IFLNK) return -EINVAL;
  const n = libc.readlinkat(fdOf(file), noName, linkTarget, PATH_MAX);
  if (n < 0) return -errno();
  requests.out.set(linkTarget.subarray(0, n), BODY * 4);
  return n;
}

export function unlink(fs: FsService): number {
  return remove(fs, 0);
}

export function rmdir(fs: FsService): number {
  return remove(fs, AT_REMOVEDIR);
}

function remove(fs: FsService, flags: number): number {
  const name = fs.name(ARG_BYTE);
  if (typeof name === "number") return name;
  const dirFd = fs.nodeFd(fs.node);
  if (dirFd < 0) return dirFd;
  return libc.unlinkat(dirFd, name, flags) < 0 ? -errno() : 0;
}

export function rename(fs: FsService): number {
  return move(fs, fuse_rename_in.newdir, 0, fuse_rename_in.sizeof);
}

export function rename2(fs: FsService): number {
  const flags = fs.requests.in32[ARG + (fuse_rename2_in.flags >> 2)];
  return move(fs, fuse_rename2_in.newdir, flags, fuse_rename2_in.sizeof);
}

function move(fs: FsService, newdirAt: number, flags: number, argBytes: number): number {
  const { in32 } = fs.requests;
  const at = ARG + (newdirAt >> 2);
  const newDir = fs.nodes.find(in32[at], in32[at + 1]);
  if (newDir === 0) return -ENOENT;
  const from = fs.name(ARG_BYTE + argBytes);
  if (typeof from === "number") return from;
  const to = fs.name(fs.nameEnd(ARG_BYTE + argBytes) + 1);
  if (typeof to === "number") return to;
  const fromFd = fs.nodeFd(fs.node);
  if (fromFd < 0) return fromFd;
  const toFd = fs.nodeFd(newDir);
  if (toFd < 0) return toFd;
  return libc.renameat2(fromFd, from, toFd, to, flags) < 0 ? -errno() : 0;
}

export function link(fs: FsService): number {
  const { in32 } = fs.requests;
  const at = ARG + (fuse_link_in.oldnodeid >> 2);
  const old = fs.nodes.find(in32[at], in32[at + 1]);
  if (old === 0) return -ENOENT;
  const name = fs.name(ARG_BYTE + fuse_link_in.sizeof);
  if (typeof name === "number") return name;
  const oldFd = fs.nodeFd(old);
  if (oldFd < 0) return oldFd;
  const dirFd = fs.nodeFd(fs.node);
  if (dirFd < 0) return dirFd;
  // Through /proc, for AT_EMPTY_PATH wants CAP_DAC_READ_SEARCH.
  if (libc.linkat(fs.proc.dirFd, fs.proc.of(oldFd), dirFd, name, AT_SYMLINK_FOLLOW) < 0) return -errno();
  return answerEntry(fs, fs.node, name);
}
