/**
 * Operations on extended attributes. They go through /proc/self/fd/N of a node's O_PATH descriptor, so that they work for every
 * type of file, symlinks too, and nothing is opened for them: neither a FIFO nor a device notices.
 */
import { E2BIG, EINVAL, ENODATA, ENOSYS, EOPNOTSUPP, EPERM, ERANGE } from "../ffi/errno.ts";
import { cString, errno, libc } from "../ffi/libc.ts";
import { ARG, ARG_BYTE, BODY } from "./entry.ts";
import type { FsService } from "./service.ts";
import * as wire from "./wire.ts";
import { fuse_getxattr_in, fuse_getxattr_out, fuse_setxattr_in } from "./wire.ts";
import { XATTR_NAME_MAX, type XattrMap } from "./xattrmap.ts";

/** linux/limits.h */
const XATTR_SIZE_MAX = 65536;
const XATTR_LIST_MAX = 65536;
const S_ISGID = 0o2000;
const MODE_BITS = 0o7777;

const ACL_ACCESS = cString("system.posix_acl_access");
const ACL_DEFAULT = cString("system.posix_acl_default");
const CAPABILITY = cString("security.capability");
const list = new Uint8Array(XATTR_LIST_MAX);

/** Whether the NUL-terminated name at byte `at` is `wanted`, which has its NUL. */
function isName(bytes: Uint8Array, at: number, wanted: Uint8Array): boolean {
  for (let i = 0; i < wanted.length; i++) if (bytes[at + i] !== wanted[i]) return false;
  return true;
}

/** Without FUSE_POSIX_ACL the client neither checks ACLs nor keeps them true to the mode: it is not to see any. */
function isHiddenAcl(fs: FsService, bytes: Uint8Array, at: number): boolean {
  if (fs.session.flags & wire.FUSE_POSIX_ACL) return false;
  return isName(bytes, at, ACL_ACCESS) || isName(bytes, at, ACL_DEFAULT);
}

/** Byte behind the NUL of the attribute's name at byte `at` of the request, or -errno. A slash is a character like others here. */
function nameEnd(fs: FsService, at: number): number {
  const end = fs.requests.in.indexOf(0, at);
  if (end < 0 || end >= fs.len) return -EINVAL;
  return end === at || end - at > XATTR_NAME_MAX ? -ERANGE : end + 1;
}

/** The host's name for the name at byte `at` of the request, which ends before byte `end`; or -errno. */
export function hostName(fs: FsService, at: number, end: number): Uint8Array<ArrayBuffer> | number {
  if (isHiddenAcl(fs, fs.requests.in, at)) return -EOPNOTSUPP;
  const name = fs.view(at);
  return fs.xattrMap === null ? name : fs.xattrMap.toHost(name, end - 1 - at);
}

export function setxattr(fs: FsService): number {
  if (!fs.config.options.xattr) return -ENOSYS;
  const { in32 } = fs.requests;
  const extended = (fs.session.flags & wire.FUSE_SETXATTR_EXT) !== 0;
  const at = ARG_BYTE + (extended ? fuse_setxattr_in.sizeof : wire.FUSE_COMPAT_SETXATTR_IN_SIZE);
  const end = nameEnd(fs, at);
  if (end < 0) return end;
  const size = in32[ARG + (fuse_setxattr_in.size >> 2)];
  if (size > XATTR_SIZE_MAX) return -E2BIG;
  if (end + size !== fs.len) return -EINVAL;
  const name = hostName(fs, at, end);
  if (typeof name === "number") return name;
  const flags = in32[ARG + (fuse_setxattr_in.flags >> 2)];
  const fd = fs.nodeFd(fs.node);
  if (fd < 0) return fd;
  if (libc.setxattr(fs.proc.of(fd), name, fs.requests.in.subarray(end), size, flags) < 0) return -errno();
  const more = extended ? in32[ARG + (fuse_setxattr_in.setxattr_flags >> 2)] : 0;
  return more & wire.FUSE_SETXATTR_ACL_KILL_SGID && isName(name, 0, ACL_ACCESS) ? clearSgid(fs, fd) : 0;
}

/** The client's caller is not in the file's group; the host's kernel sees root, and leaves the bit. */
function clearSgid(fs: FsService, fd: number): number {
  const failed = fs.stat.of(fd);
  if (failed < 0 || (fs.stat.mode & S_ISGID) === 0) return failed;
  return libc.fchmodat(fs.proc.dirFd, fs.proc.of(fd), fs.stat.mode & MODE_BITS & ~S_ISGID, 0) < 0 ? -errno() : 0;
}

export function getxattr(fs: FsService): number {
  if (!fs.config.options.xattr) return -ENOSYS;
  const at = ARG_BYTE + fuse_getxattr_in.sizeof;
  const end = nameEnd(fs, at);
  if (end < 0) return end;
  const name = hostName(fs, at, end);
  // What the guest may not have is not there.
  if (typeof name === "number") return name === -EPERM ? -ENODATA : name;
  const room = Math.min(fs.requests.in32[ARG + (fuse_getxattr_in.size >> 2)], XATTR_SIZE_MAX);
  const fd = fs.nodeFd(fs.node);
  if (fd < 0) return fd;
  const size = libc.getxattr(fs.proc.of(fd), name, fs.body, room);
  if (size < 0) return -errno();
  return room === 0 ? answerSize(fs, size) : size;
}

export function listxattr(fs: FsService): number {
  if (!fs.config.options.xattr) return -ENOSYS;
  const fd = fs.nodeFd(fs.node);
  if (fd < 0) return fd;
  const host = libc.listxattr(fs.proc.of(fd), list, XATTR_LIST_MAX);
  if (host < 0) return -errno();
  const shown = withoutAcls(fs, fs.xattrMap === null ? host : fs.xattrMap.toGuest(list, host));
  const room = fs.requests.in32[ARG + (fuse_getxattr_in.size >> 2)];
  if (room === 0) return answerSize(fs, shown);
  if (shown > room) return -ERANGE;
  fs.body.set(list.subarray(0, shown));
  return shown;
}

/** Takes the names that the client must not see out of the first bytes of the list. Returns the bytes left. */
function withoutAcls(fs: FsService, bytes: number): number {
  for (let at = 0; at < bytes;) {
    const end = list.indexOf(0, at) + 1;
    if (isHiddenAcl(fs, list, at)) {
      list.copyWithin(at, end, bytes);
      bytes -= end - at;
    } else {
      at = end;
    }
  }
  return bytes;
}

function answerSize(fs: FsService, size: number): number {
  fs.requests.out32[BODY + (fuse_getxattr_out.size >> 2)] = size;
  fs.requests.out32[BODY + (fuse_getxattr_out.padding >> 2)] = 0;
  return fuse_getxattr_out.sizeof;
}

export function removexattr(fs: FsService): number {
  if (!fs.config.options.xattr) return -ENOSYS;
  const end = nameEnd(fs, ARG_BYTE);
  if (end < 0) return end;
  const name = hostName(fs, ARG_BYTE, end);
  if (typeof name === "number") return name;
  const fd = fs.nodeFd(fs.node);
  if (fd < 0) return fd;
  return libc.removexattr(fs.proc.of(fd), name) < 0 ? -errno() : 0;
}

/** What the map makes of security.capability, or null where it leaves it as it is or the guest cannot have it. */
export function mappedCapability(map: XattrMap | null): Uint8Array<ArrayBuffer> | null {
  const name = map?.toHost(CAPABILITY, CAPABILITY.length - 1) ?? CAPABILITY;
  return typeof name === "number" || isName(name, 0, CAPABILITY) ? null : name.slice(0, name.indexOf(0) + 1);
}

/**
 * A file that is written, cut or given away loses its capabilities. The host's kernel sees to that where they have their own name;
 * where the map gave them another, this does. 0 or -errno.
 */
export function dropMappedCapability(fs: FsService, fd: number): number {
  if (fs.capability === null || libc.removexattr(fs.proc.of(fd), fs.capability) === 0) return 0;
  const failed = errno();
  return failed === ENODATA || failed === EOPNOTSUPP ? 0 : -failed;
}
