/**
 * What a request that creates a file brings besides name and mode: who it is for, its umask, and extensions behind its names
 * (security label, a supplementary group). MKNOD, MKDIR, SYMLINK, CREATE and TMPFILE.
 */
import { EINVAL } from "../ffi/errno.ts";
import { errno, libc } from "../ffi/libc.ts";
import { O_CLOEXEC, O_NOFOLLOW, O_PATH } from "../ffi/arch.ts";
import { FLAGS2, FUSE_EXT_GROUPS, FUSE_POSIX_ACL } from "./wire_constants.ts";
import { fuse_ext_header, fuse_in_header, fuse_secctx, fuse_supp_groups } from "./wire.ts";
import { hostName } from "./ops_xattr.ts";
import type { FsService } from "./service.ts";

/** total_extlen and record sizes count in these. */
const UNIT = 8;
/** From this minor version on total_extlen says how long the extensions are; before, they were all that is behind the names. */
const MINOR_EXTLEN = 38;
const GROUPS_MAX = 65536;
const EXTLEN = fuse_in_header.total_extlen >> 2;
const PERMISSIONS = 0o777;
const noGroups = new Uint32Array(0);

/** The extensions of one request. */
export class Extensions {
  groups: Uint32Array<ArrayBuffer> = noGroups;
  /** Bytes of the request: the label's attribute name, its end behind the NUL, and the label; `labelSize` 0: none. */
  labelName = 0;
  labelAt = 0;
  labelSize = 0;

  /** Reads what is behind byte `at`, where the names end. 0 or -EINVAL. */
  read(fs: FsService, at: number): number {
    this.groups = noGroups;
    this.labelSize = 0;
    const wanted = fs.session.flags2 & (FLAGS2.FUSE_SECURITY_CTX | FLAGS2.FUSE_CREATE_SUPP_GROUP);
    if (wanted === 0) return 0;
    const { in32 } = fs.requests;
    const said = (in32[EXTLEN] & 0xffff) * UNIT;
    if (said === 0 && fs.session.minor >= MINOR_EXTLEN) return 0;
    if (said !== 0 && at + said !== fs.len) return -EINVAL;
    const { buffer, byteOffset } = fs.requests.in;
    const view = new DataView(buffer, byteOffset, fs.len);
    let seenLabel = false;
    while (at < fs.len) {
      if (fs.len - at < fuse_ext_header.sizeof) return -EINVAL;
      const size = view.getUint32(at + fuse_ext_header.size, true);
      const type = view.getUint32(at + fuse_ext_header.type, true);
      if (size < fuse_ext_header.sizeof || size % UNIT !== 0 || size > fs.len - at) return -EINVAL;
      const body = at + fuse_ext_header.sizeof;
      at += size;
      // What was not agreed on, or comes twice, is no client's doing.
      if (type === FUSE_EXT_GROUPS) {
        if ((wanted & FLAGS2.FUSE_CREATE_SUPP_GROUP) === 0 || this.groups !== noGroups) return -EINVAL;
        if (!this.#readGroups(view, body, at)) return -EINVAL;
      } else {
        if ((wanted & FLAGS2.FUSE_SECURITY_CTX) === 0 || seenLabel) return -EINVAL;
        seenLabel = true;
        // Where no security module of the guest has something to say, it sends none. It never sends more than one.
        if (type > 1 || (type === 1 && !this.#readLabel(view, fs.requests.in, body, at))) return -EINVAL;
      }
    }
    return 0;
  }

  #readGroups(view: DataView, at: number, end: number): boolean {
    if (end - at < fuse_supp_groups.sizeof) return false;
    const count = view.getUint32(at + fuse_supp_groups.nr_groups, true);
    const bytes = fuse_supp_groups.sizeof + count * 4;
    if (count > GROUPS_MAX || Math.ceil(bytes / UNIT) * UNIT !== end - at) return false;
    this.groups = new Uint32Array(count);
    for (let i = 0; i < count; i++) this.groups[i] = view.getUint32(at + fuse_supp_groups.groups + i * 4, true);
    return true;
  }

  #readLabel(view: DataView, bytes: Uint8Array, at: number, end: number): boolean {
    if (end - at < fuse_secctx.sizeof) return false;
    const size = view.getUint32(at + fuse_secctx.size, true);
    const nameAt = at + fuse_secctx.sizeof;
    const nul = bytes.indexOf(0, nameAt);
    if (size === 0 || nul <= nameAt || nul >= end || size > end - nul - 1) return false;
    this.labelName = nameAt;
    this.labelAt = nul + 1;
    this.labelSize = size;
    return true;
  }
}

/** The thread's umask, where it is its own: see ProcPath.enter. */
let umask = 0;

/**
 * Makes the thread act for the request's user and group, with `mask` as its umask where the client leaves that to us. The
 * request's names end at byte `at`. `opens`: the new file is opened too. Returns 1 or 0 for `endCreation`, or -errno.
 */
export function beginCreation(fs: FsService, at: number, mask: number, opens = false): number {
  const short = opens ? fs.descriptors.room() : fs.descriptors.roomForNode();
  if (short < 0) return short;
  const failed = fs.extensions.read(fs, at);
  if (failed < 0) return failed;
  let { uid, gid } = fs;
  const { groups } = fs.extensions;
  if (fs.ids !== null) {
    uid = fs.ids.uid.toHost(uid);
    gid = fs.ids.gid.toHost(gid);
    if (uid < 0 || gid < 0) return uid < 0 ? uid : gid;
    for (let i = 0; i < groups.length; i++) {
      const group = fs.ids.gid.toHost(groups[i]);
      if (group < 0) return group;
      groups[i] = group;
    }
  }
  const wanted = fs.session.flags & FUSE_POSIX_ACL ? mask & PERMISSIONS : 0;
  if (wanted !== umask) libc.umask(umask = wanted);
  return fs.credentials.putOn(uid, gid, groups);
}

export function endCreation(fs: FsService, dressed: number): void {
  if (dressed > 0) fs.credentials.takeOff();
}

/** Labels the file of an O_PATH or other descriptor as the request says. 0 or -errno. */
export function label(fs: FsService, fd: number): number {
  const { labelName, labelAt, labelSize } = fs.extensions;
  if (labelSize === 0) return 0;
  const name = hostName(fs, labelName, labelAt);
  if (typeof name === "number") return name;
  const value = fs.requests.in.subarray(labelAt);
  return libc.setxattr(fs.proc.of(fd), name, value, labelSize, 0) < 0 ? -errno() : 0;
}

/** Labels what was just made under a name, and takes it away again where that fails. `flags` are unlinkat's. 0 or -errno. */
export function labelName(fs: FsService, name: Uint8Array<ArrayBuffer>, flags: number): number {
  if (fs.extensions.labelSize === 0) return 0;
  const dirFd = fs.nodeFd(fs.node);
  if (dirFd < 0) return dirFd;
  const fd = libc.openat(dirFd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
  const failed = fd < 0 ? -errno() : label(fs, fd);
  if (fd >= 0) libc.close(fd);
  if (failed < 0) libc.unlinkat(dirFd, name, flags);
  return failed;
}
