/** System calls on files by name. Each returns what the kernel returned, errors as -errno. */
import { address, type Call, call, memory } from "./call.ts";
import * as c from "./constants.ts";
import { SYS } from "./constants.ts";

/** Text is UTF-8; bytes are taken as they are. */
export type Path = string | Uint8Array<ArrayBuffer>;

const encoder = new TextEncoder();
const latin1 = new TextDecoder("latin1");

export function bytes(text: string): Uint8Array<ArrayBuffer> {
  const copy = memory(text.length);
  for (let i = 0; i < text.length; i++) copy[i] = text.charCodeAt(i);
  return copy;
}

/** The bytes as text, one character each; zeros stay. */
export function text(data: Uint8Array): string {
  return Array.from(data, (byte) => String.fromCharCode(byte)).join("");
}

/** With the zero at its end. */
function cString(path: Path): Uint8Array<ArrayBuffer> {
  const name = typeof path === "string" ? encoder.encode(path) : path;
  const copy = memory(name.length + 1);
  copy.set(name);
  return copy;
}

export interface Stat {
  dev: bigint;
  ino: bigint;
  nlink: number;
  mode: number;
  /** The permission bits with suid, sgid and sticky. */
  perm: number;
  type: number;
  uid: number;
  gid: number;
  rdev: number;
  size: number;
  blocks: number;
  /** Nanoseconds. */
  atime: bigint;
  mtime: bigint;
  ctime: bigint;
}

/** struct stat, asm/stat.h. */
function decodeStat(buffer: Uint8Array<ArrayBuffer>): Stat {
  const view = new DataView(buffer.buffer);
  const u64 = (offset: number) => view.getBigUint64(offset, true);
  const time = (offset: number) => view.getBigInt64(offset, true) * 1000000000n + u64(offset + 8);
  const mode = view.getUint32(24, true);
  return {
    dev: u64(0),
    ino: u64(8),
    nlink: Number(u64(16)),
    mode,
    perm: mode & 0o7777,
    type: mode & c.S_IFMT,
    uid: view.getUint32(28, true),
    gid: view.getUint32(32, true),
    rdev: Number(u64(40)),
    size: Number(u64(48)),
    blocks: Number(u64(64)),
    atime: time(72),
    mtime: time(88),
    ctime: time(104),
  };
}

export interface Dirent {
  ino: bigint;
  /** Where to seek to go on behind this entry. */
  off: bigint;
  type: number;
  /** One character a byte. */
  name: string;
}

/** struct linux_dirent64, getdents64(2). */
function decodeDirents(buffer: Uint8Array<ArrayBuffer>, length: number): Dirent[] {
  const view = new DataView(buffer.buffer);
  const entries: Dirent[] = [];
  for (let at = 0; at < length; at += view.getUint16(at + 16, true)) {
    const end = buffer.indexOf(0, at + 19);
    entries.push({
      ino: view.getBigUint64(at, true),
      off: view.getBigInt64(at + 8, true),
      type: buffer[at + 18],
      name: text(buffer.subarray(at + 19, end)),
    });
  }
  return entries;
}

/** struct flock, asm-generic/fcntl.h. */
export interface Lock {
  type: number;
  whence?: number;
  start?: number;
  len?: number;
}

function encodeLock(lock: Lock): Uint8Array<ArrayBuffer> {
  const buffer = memory(32);
  const view = new DataView(buffer.buffer);
  view.setInt16(0, lock.type, true);
  view.setInt16(2, lock.whence ?? 0, true);
  view.setBigInt64(8, BigInt(lock.start ?? 0), true);
  view.setBigInt64(16, BigInt(lock.len ?? 0), true);
  return buffer;
}

/** Seconds and nanoseconds, or UTIME_NOW / UTIME_OMIT in the nanoseconds. */
export type Time = [sec: number, nsec: number];

export class Sys {
  readonly call: Call;

  constructor(how: Call = call) {
    this.call = how;
  }

  open(path: Path, flags: number, mode = 0o644, dir = c.AT_FDCWD): number {
    return this.call(SYS.openat, dir, cString(path), flags, mode);
  }
  close(fd: number): number {
    return this.call(SYS.close, fd);
  }
  mkdir(path: Path, mode = 0o755): number {
    return this.call(SYS.mkdirat, c.AT_FDCWD, cString(path), mode);
  }
  mknod(path: Path, mode: number, dev = 0): number {
    return this.call(SYS.mknodat, c.AT_FDCWD, cString(path), mode, dev);
  }
  unlink(path: Path): number {
    return this.call(SYS.unlinkat, c.AT_FDCWD, cString(path), 0);
  }
  rmdir(path: Path): number {
    return this.call(SYS.unlinkat, c.AT_FDCWD, cString(path), c.AT_REMOVEDIR);
  }
  rename(from: Path, to: Path, flags = 0): number {
    return this.call(SYS.renameat2, c.AT_FDCWD, cString(from), c.AT_FDCWD, cString(to), flags);
  }
  link(from: Path, to: Path, flags = 0, fromDir = c.AT_FDCWD): number {
    return this.call(SYS.linkat, fromDir, cString(from), c.AT_FDCWD, cString(to), flags);
  }
  symlink(target: Path, path: Path): number {
    return this.call(SYS.symlinkat, cString(target), c.AT_FDCWD, cString(path));
  }
  /** The target, or -errno. */
  readlink(path: Path, size = 4096): string | number {
    const buffer = memory(size);
    const result = this.call(SYS.readlinkat, c.AT_FDCWD, cString(path), buffer, size);
    return result < 0 ? result : latin1.decode(buffer.subarray(0, result));
  }
  chmod(path: Path, mode: number): number {
    return this.call(SYS.fchmodat, c.AT_FDCWD, cString(path), mode);
  }
  fchmod(fd: number, mode: number): number {
    return this.call(SYS.fchmod, fd, mode);
  }
  /** Does not follow symbolic links. */
  chown(path: Path, uid: number, gid: number): number {
    return this.call(SYS.fchownat, c.AT_FDCWD, cString(path), uid, gid, c.AT_SYMLINK_NOFOLLOW);
  }
  fchown(fd: number, uid: number, gid: number): number {
    return this.call(SYS.fchown, fd, uid, gid);
  }
  access(path: Path, mode: number, flags = 0): number {
    // faccessat2 has the flags; without any it is what access(2) is.
    return this.call(SYS.faccessat2, c.AT_FDCWD, cString(path), mode, flags);
  }
  /** Like lstat(2); the second form throws on errors. */
  lstatErrno(path: Path, flags = c.AT_SYMLINK_NOFOLLOW): number {
    return this.call(SYS.newfstatat, c.AT_FDCWD, cString(path), memory(144), flags);
  }
  stat(path: Path, flags = c.AT_SYMLINK_NOFOLLOW, dir = c.AT_FDCWD): Stat {
    const buffer = memory(144);
    const result = this.call(SYS.newfstatat, dir, cString(path), buffer, flags);
    if (result < 0) throw new Error(`stat ${path}: ${describe(result)}`);
    return decodeStat(buffer);
  }
  fstat(fd: number): Stat {
    return this.stat("", c.AT_EMPTY_PATH, fd);
  }
  truncate(path: Path, size: number): number {
    return this.call(SYS.truncate, cString(path), size);
  }
  ftruncate(fd: number, size: number): number {
    return this.call(SYS.ftruncate, fd, size);
  }
  fallocate(fd: number, mode: number, offset: number, length: number): number {
    return this.call(SYS.fallocate, fd, mode, offset, length);
  }
  lseek(fd: number, offset: number | bigint, whence = c.SEEK_SET): number {
    return this.call(SYS.lseek, fd, offset, whence);
  }
  /** What was read as text, one character a byte, or -errno. */
  read(fd: number, size: number): string | number {
    const buffer = memory(size);
    const result = this.call(SYS.read, fd, buffer, size);
    return result < 0 ? result : text(buffer.subarray(0, result));
  }
  pread(fd: number, size: number, offset: number): string | number {
    const buffer = memory(size);
    const result = this.call(SYS.pread64, fd, buffer, size, offset);
    return result < 0 ? result : text(buffer.subarray(0, result));
  }
  write(fd: number, data: string | Uint8Array<ArrayBuffer>): number {
    const buffer = typeof data === "string" ? bytes(data) : data;
    return this.call(SYS.write, fd, buffer, buffer.length);
  }
  pwrite(fd: number, data: string | Uint8Array<ArrayBuffer>, offset: number): number {
    const buffer = typeof data === "string" ? bytes(data) : data;
    return this.call(SYS.pwrite64, fd, buffer, buffer.length, offset);
  }
  /** readv, writev, preadv, pwritev: the last two want an offset. */
  vector(number: number, fd: number, buffers: Uint8Array<ArrayBuffer>[], offset = 0): number {
    const iovec = memory(buffers.length * 16);
    const view = new DataView(iovec.buffer);
    buffers.forEach((buffer, i) => {
      view.setBigUint64(i * 16, buffer.length ? address(buffer) : 0n, true);
      view.setBigUint64(i * 16 + 8, BigInt(buffer.length), true);
    });
    return this.call(number, fd, iovec, buffers.length, offset, 0);
  }
  fsync(fd: number): number {
    return this.call(SYS.fsync, fd);
  }
  utimens(path: Path | null, atime: Time, mtime: Time, flags = c.AT_SYMLINK_NOFOLLOW, dir = c.AT_FDCWD): number {
    const times = new BigInt64Array([...atime, ...mtime].map(BigInt));
    const buffer = new Uint8Array(times.buffer);
    return this.call(SYS.utimensat, dir, path === null ? null : cString(path), buffer, flags);
  }
  /** The entries of one getdents64(2), or -errno. */
  getdents(fd: number, size = 32768): Dirent[] | number {
    const buffer = memory(size);
    const result = this.call(SYS.getdents64, fd, buffer, size);
    return result < 0 ? result : decodeDirents(buffer, result);
  }
  /** All entries from here to the end. */
  entries(fd: number, size?: number): Dirent[] {
    const all: Dirent[] = [];
    while (true) {
      const some = this.getdents(fd, size);
      if (typeof some === "number") throw new Error(`getdents64: ${describe(some)}`);
      if (!some.length) return all;
      all.push(...some);
    }
  }
  setxattr(path: Path | number, name: string, value: string | Uint8Array<ArrayBuffer>, flags = 0): number {
    const data = typeof value === "string" ? bytes(value) : value;
    const [number, file] = typeof path === "number" ? [SYS.fsetxattr, path] : [SYS.lsetxattr, cString(path)];
    return this.call(number, file, cString(name), data, data.length, flags);
  }
  /** The value as text, or the size when `size` is 0, or -errno. */
  getxattr(path: Path | number, name: string, size = 65536): string | number {
    const buffer = memory(size);
    const [number, file] = typeof path === "number" ? [SYS.fgetxattr, path] : [SYS.lgetxattr, cString(path)];
    const result = this.call(number, file, cString(name), buffer, size);
    return result < 0 || !size ? result : text(buffer.subarray(0, result));
  }
  listxattr(path: Path | number, size = 65536): string[] | number {
    const buffer = memory(size);
    const [number, file] = typeof path === "number" ? [SYS.flistxattr, path] : [SYS.llistxattr, cString(path)];
    const result = this.call(number, file, buffer, size);
    return result < 0 || !size ? result : text(buffer.subarray(0, result)).split("\0").slice(0, -1);
  }
  removexattr(path: Path | number, name: string): number {
    const [number, file] = typeof path === "number" ? [SYS.fremovexattr, path] : [SYS.lremovexattr, cString(path)];
    return this.call(number, file, cString(name));
  }
  fcntl(fd: number, command: number, arg = 0): number {
    return this.call(SYS.fcntl, fd, command, arg);
  }
  lock(fd: number, command: number, lock: Lock): number {
    return this.call(SYS.fcntl, fd, command, encodeLock(lock));
  }
  /** The lock in the way, its type F_UNLCK when there is none; or -errno. */
  getLock(fd: number, command: number, lock: Lock): Lock | number {
    const buffer = encodeLock(lock);
    const result = this.call(SYS.fcntl, fd, command, buffer);
    const view = new DataView(buffer.buffer);
    if (result < 0) return result;
    return {
      type: view.getInt16(0, true),
      start: Number(view.getBigInt64(8, true)),
      len: Number(view.getBigInt64(16, true)),
    };
  }
  flock(fd: number, operation: number): number {
    return this.call(SYS.flock, fd, operation);
  }
  copyRange(from: number, fromAt: number | null, to: number, toAt: number | null, length: number, flags = 0): number {
    const off = (at: number | null) => at === null ? null : new Uint8Array(new BigInt64Array([BigInt(at)]).buffer);
    return this.call(SYS.copy_file_range, from, off(fromAt), to, off(toAt), length, flags);
  }
  umask(mask: number): number {
    return this.call(SYS.umask, mask);
  }
}

/** A result for people: "17", "-EEXIST". */
export function describe(result: unknown): string {
  if (typeof result === "number" && result < 0 && result > -4096) {
    return c.ERRNO_NAMES[-result] ? `-${c.ERRNO_NAMES[-result]}` : String(result);
  }
  if (typeof result === "bigint") return String(result);
  return JSON.stringify(result, (_, value) => typeof value === "bigint" ? String(value) : value) ?? "undefined";
}
