/** From names to nodes, and from nodes to the entries of a reply. */
import { O_CLOEXEC, O_NOFOLLOW, O_PATH } from "../ffi/arch.ts";
import { EACCES, EAGAIN, ENOENT } from "../ffi/errno.ts";
import { errno, libc } from "../ffi/libc.ts";
import { S_IFDIR } from "../ffi/stat_layout.ts";
import { ROOT } from "./nodes.ts";
import { ELSEWHERE } from "./results.ts";
import type { FsService } from "./service.ts";
import { isProc, openCached } from "./where.ts";
import {
  fuse_attr,
  FUSE_ATTR_SUBMOUNT,
  fuse_entry_out,
  fuse_in_header,
  fuse_out_header,
  FUSE_SUBMOUNTS,
} from "./wire.ts";

/** Word of a request's first argument, and of a reply's body. */
export const ARG = fuse_in_header.sizeof >> 2;
export const BODY = fuse_out_header.sizeof >> 2;
/** Byte of a request's first argument. */
export const ARG_BYTE = fuse_in_header.sizeof;

const DOT = 0x2e;
const dotDot = new Uint8Array([DOT, DOT, 0]);

const ENTRY_NODEID = fuse_entry_out.nodeid >> 2;
const ENTRY_GENERATION = fuse_entry_out.generation >> 2;
const ENTRY_VALID = fuse_entry_out.entry_valid >> 2;
const ATTR_VALID = fuse_entry_out.attr_valid >> 2;
const ENTRY_VALID_NSEC = fuse_entry_out.entry_valid_nsec >> 2;
const ATTR_VALID_NSEC = fuse_entry_out.attr_valid_nsec >> 2;
const ENTRY_ATTR_FLAGS = (fuse_entry_out.attr + fuse_attr.flags) >> 2;
const ENTRY_ATTR = fuse_entry_out.attr >> 2;

function isDotDot(name: Uint8Array): boolean {
  return name[0] === DOT && name[1] === DOT && name[2] === 0;
}

/**
 * Looks a name up in a directory. Returns the node's slot, its lookup count raised, with its attributes in `fs.stat`; or -errno.
 * One component, never through a symlink. `..` leads to a directory that the guest knows already or nowhere, so that a
 * directory which the host moves out of the share is no way out; of the root it is the root.
 */
export function lookupName(fs: FsService, dir: number, name: Uint8Array<ArrayBuffer>): number {
  if (isDotDot(name)) return lookupParent(fs, dir);
  const dirFd = fs.nodeFd(dir);
  if (dirFd < 0) return dirFd;
  const failed = fs.stat.at(dirFd, name);
  if (failed < 0) return failed;
  const known = fs.files.find(dirFd, name);
  if (known > 0) return known;
  const fd = libc.openat(dirFd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
  return fd < 0 ? -errno() : adopt(fs, fd);
}

/**
 * The same, and answers with the entry, where no disk is needed for that, or nobody is delayed by it and disks were quick lately: a
 * new name in a warm directory is not cached either. Else ELSEWHERE.
 */
export function answerCached(fs: FsService, dir: number, name: Uint8Array<ArrayBuffer>): number {
  if (isDotDot(name)) return answerEntry(fs, dir, name);
  const dirFd = fs.nodeFd(dir);
  if (dirFd < 0) return dirFd;
  const fd = openCached(dirFd, name);
  if (fd === -EAGAIN) {
    if (fs.uncached.throttled || !fs.loop.quiet) return ELSEWHERE;
    fs.uncached.before();
    const result = answerEntry(fs, dir, name);
    fs.uncached.after();
    return result;
  }
  if (fd < 0) return fd;
  const failed = fs.stat.of(fd);
  const known = failed < 0 ? failed : fs.nodes.acquire(fs.stat.identity, fs.retire);
  const found = known > 0 || failed < 0;
  if (found) libc.close(fd);
  const slot = found ? known : adopt(fs, fd);
  return slot < 0 ? slot : putEntry(fs, BODY, slot);
}

function lookupParent(fs: FsService, dir: number): number {
  const dirFd = fs.nodeFd(dir);
  if (dirFd < 0) return dirFd;
  const failed = dir === ROOT ? fs.stat.of(dirFd) : fs.stat.at(dirFd, dotDot);
  if (failed < 0) return failed;
  const known = fs.files.find(dirFd, dotDot);
  return known > 0 ? known : -ENOENT;
}

/** Makes the file of an O_PATH descriptor known, which is in the request's directory, and takes the descriptor over. Returns as `lookupName`. */
export function adopt(fs: FsService, fd: number): number {
  let failed = fs.stat.of(fd);
  // What proc(5) has of this process is the process: its memory, its descriptors, its root.
  if (failed === 0 && fs.stat.identity.dev !== fs.config.dev && isProc(fd)) failed = -EACCES;
  if (failed < 0) {
    libc.close(fd);
    return failed;
  }
  const slot = fs.files.insert(fd, fs.node);
  if (!fs.files.taken) libc.close(fd);
  return slot;
}

/** Writes struct fuse_entry_out at word `at` of the reply, with the attributes that are in `fs.stat`. Returns its bytes. */
export function putEntry(fs: FsService, at: number, slot: number): number {
  const { out32 } = fs.requests;
  out32[at + ENTRY_NODEID] = slot;
  out32[at + ENTRY_NODEID + 1] = fs.nodes.generation(slot);
  out32[at + ENTRY_GENERATION] = out32[at + ENTRY_GENERATION + 1] = 0;
  out32[at + ENTRY_VALID] = out32[at + ATTR_VALID] = fs.timeout;
  out32[at + ENTRY_VALID + 1] = out32[at + ATTR_VALID + 1] = 0;
  out32[at + ENTRY_VALID_NSEC] = out32[at + ATTR_VALID_NSEC] = 0;
  fs.stat.putAttr(out32, at + ENTRY_ATTR);
  // The client mounts it as a file system of its own, so that its inode numbers do not meet those of the share.
  if (slot !== ROOT && fs.stat.isMountRoot && fs.stat.type === S_IFDIR && fs.session.flags & FUSE_SUBMOUNTS) {
    out32[at + ENTRY_ATTR_FLAGS] = FUSE_ATTR_SUBMOUNT;
  }
  return fuse_entry_out.sizeof;
}

/** Looks a name up and answers with its entry: what LOOKUP and every operation that creates a name ends with. */
export function answerEntry(fs: FsService, dir: number, name: Uint8Array<ArrayBuffer>): number {
  const slot = lookupName(fs, dir, name);
  return slot < 0 ? slot : putEntry(fs, BODY, slot);
}
