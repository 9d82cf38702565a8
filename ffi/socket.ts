/**
 * UNIX stream sockets that carry descriptors: unix(7), sendmsg(2), recvmsg(2), cmsg(3).
 *
 * For control planes. What the kernel follows pointers to (message header, iovec, control data, bytes) lies in one
 * mmapped page range of this isolate, so nothing moves under it; the caller's bytes are copied in and out.
 */
import { EACCES, EADDRINUSE, EAGAIN, ECONNREFUSED, EINTR, EINVAL, ENOENT, EPERM, EROFS } from "./errno.ts";
import { O_NONBLOCK } from "./arch.ts";
import { checked, cString, errno, errorText, libc, SystemError } from "./libc.ts";
import { allocate, type Mapping } from "./memory.ts";

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const SO_ACCEPTCONN = 30;
const SO_DOMAIN = 39;
const SCM_RIGHTS = 1;
const MSG_CTRUNC = 0x8;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x4000_0000;
const F_SETFD = 2;
const FD_CLOEXEC = 1;
const F_GETFL = 3;
const F_SETFL = 4;
const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
/** A user or group that chown(2) leaves as it is: -1. */
const UNCHANGED = 0xffff_ffff;
const STATX_TYPE = 0x1;
const S_IFMT = 0o170000;
const S_IFSOCK = 0o140000;

/** The longest path of a socket, in bytes: sun_path has 108 with the NUL. */
export const SOCKET_PATH_MAX = 107;
/** The most descriptors that the kernel passes with one message, SCM_MAX_FD of net/scm.h. */
export const DESCRIPTORS_MAX = 253;

/** struct sockaddr_un, sys/un.h. Byte offsets. */
const sockaddr_un = { sun_family: 0, sun_path: 2, sizeof: 110 } as const;
/** struct msghdr of 64-bit Linux, bits/socket.h. Byte offsets. */
const msghdr = { msg_iov: 16, msg_iovlen: 24, msg_control: 32, msg_controllen: 40, msg_flags: 48, sizeof: 56 } as const;
/** struct cmsghdr of 64-bit Linux. Byte offsets; entries start at multiples of 8. */
const cmsghdr = { cmsg_len: 0, cmsg_level: 8, cmsg_type: 12, data: 16 } as const;
/** struct statx, linux/stat.h. Byte offsets. */
const statx = { stx_mode: 28, sizeof: 256 } as const;

// Where the parts lie in the scratch mapping.
const IOVEC = 64;
const CONTROL = 128;
const CONTROL_SIZE = cmsghdr.data + DESCRIPTORS_MAX * 4 + 4;
const BYTES = 4096;
const BYTES_SIZE = 65536;

interface Scratch {
  mapping: Mapping;
  view: DataView<ArrayBuffer>;
  header: Uint8Array<ArrayBuffer>;
  bytes: Uint8Array<ArrayBuffer>;
}

let scratchMemory: Scratch | undefined;

/** This isolate's message header, with the pointers that never change set. It lives as long as the isolate. */
function scratch(): Scratch {
  if (scratchMemory === undefined) {
    const mapping = allocate(BYTES + BYTES_SIZE);
    const view = new DataView(mapping.buffer);
    view.setBigUint64(msghdr.msg_iov, BigInt(mapping.addr + IOVEC), true);
    view.setBigUint64(msghdr.msg_iovlen, 1n, true);
    view.setBigUint64(IOVEC, BigInt(mapping.addr + BYTES), true);
    const header = new Uint8Array(mapping.buffer, 0, msghdr.sizeof);
    scratchMemory = { mapping, view, header, bytes: new Uint8Array(mapping.buffer, BYTES, BYTES_SIZE) };
  }
  return scratchMemory;
}

/** Sets the lengths of the one iovec and of the control area; a control length of 0 means none. */
function prepare({ mapping, view }: Scratch, length: number, controlLength: number): void {
  view.setBigUint64(IOVEC + 8, BigInt(length), true);
  view.setBigUint64(msghdr.msg_control, BigInt(controlLength === 0 ? 0 : mapping.addr + CONTROL), true);
  view.setBigUint64(msghdr.msg_controllen, BigInt(controlLength), true);
  view.setInt32(msghdr.msg_flags, 0, true);
}

/** What `receive` got. */
export interface Received {
  /** Bytes put into the buffer, 0 at the end of the stream, or -errno. */
  n: number;
  /** Descriptors that came with them, now the caller's to close; closed on exec. */
  fds: number[];
  /** How many came beyond `maxFds`. They are closed already. */
  surplus: number;
  /** The kernel could not install all of them, as a rule because RLIMIT_NOFILE is reached. */
  truncated: boolean;
}

/**
 * recvmsg(2) with MSG_CMSG_CLOEXEC: takes at most `into.length` (and at most 64 KiB) bytes and the descriptors that
 * came with them. There is always room for as many as the kernel passes at once, so none is ever lost unseen.
 */
export function receive(fd: number, into: Uint8Array, maxFds: number): Received {
  const area = scratch();
  const length = Math.min(into.length, BYTES_SIZE);
  let n: number;
  do {
    prepare(area, length, CONTROL_SIZE);
    n = libc.recvmsg(fd, area.header, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno() === EINTR);
  if (n < 0) return { n: -errno(), fds: [], surplus: 0, truncated: false };
  into.set(area.bytes.subarray(0, n));
  const all = receivedDescriptors(area.view);
  for (const extra of all.slice(maxFds)) libc.close(extra);
  return {
    n,
    fds: all.slice(0, maxFds),
    surplus: Math.max(0, all.length - maxFds),
    truncated: (area.view.getInt32(msghdr.msg_flags, true) & MSG_CTRUNC) !== 0,
  };
}

/** All descriptors of the control data that recvmsg wrote: cmsg(3). */
function receivedDescriptors(view: DataView): number[] {
  const fds: number[] = [];
  const end = CONTROL + Number(view.getBigUint64(msghdr.msg_controllen, true));
  for (let at = CONTROL; at + cmsghdr.data <= end;) {
    const length = Number(view.getBigUint64(at + cmsghdr.cmsg_len, true));
    if (length < cmsghdr.data) break;
    const level = view.getInt32(at + cmsghdr.cmsg_level, true);
    const type = view.getInt32(at + cmsghdr.cmsg_type, true);
    if (level === SOL_SOCKET && type === SCM_RIGHTS) {
      const last = Math.min(at + length, end);
      for (let i = at + cmsghdr.data; i + 4 <= last; i += 4) fds.push(view.getInt32(i, true));
    }
    at += (length + 7) & ~7;
  }
  return fds;
}

/**
 * sendmsg(2) with MSG_NOSIGNAL: sends at most 64 KiB of `bytes`, and with them the descriptors, which stay the
 * caller's. Returns the count of bytes sent, maybe fewer than given, or -errno. Descriptors go with at least one
 * byte: a result above 0 means that they are on their way and must not be sent again.
 */
export function send(fd: number, bytes: Uint8Array, fds: readonly number[] = []): number {
  if (fds.length > DESCRIPTORS_MAX) throw new RangeError(`at most ${DESCRIPTORS_MAX} descriptors go with a message`);
  const area = scratch();
  const length = Math.min(bytes.length, BYTES_SIZE);
  area.bytes.set(bytes.subarray(0, length));
  area.view.setBigUint64(CONTROL + cmsghdr.cmsg_len, BigInt(cmsghdr.data + 4 * fds.length), true);
  area.view.setInt32(CONTROL + cmsghdr.cmsg_level, SOL_SOCKET, true);
  area.view.setInt32(CONTROL + cmsghdr.cmsg_type, SCM_RIGHTS, true);
  fds.forEach((each, i) => area.view.setInt32(CONTROL + cmsghdr.data + 4 * i, each, true));
  const controlLength = fds.length === 0 ? 0 : (cmsghdr.data + 4 * fds.length + 7) & ~7;
  let n: number;
  do {
    prepare(area, length, controlLength);
    n = libc.sendmsg(fd, area.header, MSG_NOSIGNAL);
  } while (n < 0 && errno() === EINTR);
  return n < 0 ? -errno() : n;
}

/** struct sockaddr_un for a path. Throws an Error where the path is too long or empty. */
function address(path: string): Uint8Array<ArrayBuffer> {
  const bytes = cString(path);
  if (bytes.length === 1) throw new Error("the path of the socket is empty");
  if (bytes.length - 1 > SOCKET_PATH_MAX) {
    throw new Error(
      `socket path ${path} has ${bytes.length - 1} bytes, UNIX sockets allow ${SOCKET_PATH_MAX}: choose a shorter one`,
    );
  }
  const result = new Uint8Array(sockaddr_un.sizeof);
  new DataView(result.buffer).setUint16(sockaddr_un.sun_family, AF_UNIX, true);
  result.set(bytes, sockaddr_un.sun_path);
  return result;
}

const AF_INET = 2;
const AF_INET6 = 10;
const SO_REUSEADDR = 2;

/**
 * Listens on a TCP port of this host: `hostname` is 127.x.y.z or ::1 (ip(7), ipv6(7)). Port 0 is any. Returns the descriptor,
 * nonblocking, and the port. Throws an Error that says what was asked and what went wrong.
 */
export function listenLoopback(hostname: string, port: number): { fd: number; port: number } {
  const six = hostname.includes(":");
  const where = new Uint8Array(six ? 28 : 16);
  const view = new DataView(where.buffer);
  view.setUint16(0, six ? AF_INET6 : AF_INET, true);
  view.setUint16(2, port);
  if (six) where[23] = 1;
  else where.set(hostname.split(".").map(Number), 4);
  const family = six ? AF_INET6 : AF_INET;
  const fd = checked("socket", libc.socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // Connections that have just ended do not keep the port.
  libc.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, new Uint8Array(new Int32Array([1]).buffer), 4);
  const length = new Uint8Array(new Int32Array([where.length]).buffer);
  if (
    libc.bind(fd, where, where.length) === 0 && libc.listen(fd, 16) === 0 && libc.getsockname(fd, where, length) === 0
  ) return { fd, port: view.getUint16(2) };
  const why = errorText(errno());
  libc.close(fd);
  throw new Error(`cannot listen on ${six ? `[${hostname}]` : hostname}:${port}: ${why}`);
}

export interface ListenOptions {
  /** Connections that may wait to be accepted. */
  backlog?: number;
  /** Permission bits of the socket file; the process's umask decides where it is not given. */
  mode?: number;
  /** Group of the socket file; the process's where it is not given. */
  group?: number;
}

const ADVICE: Record<number, string> = {
  [ENOENT]: "make the directory that it is to be in, or choose another path",
  [EACCES]: "this user may not make files there, choose another path",
  [EPERM]: "that file system has no sockets, choose another path",
  [EROFS]: "choose a path that can be written to",
};

/**
 * A listening socket at a path: nonblocking, closed on exec. The file of a socket whose owner is gone is replaced.
 * Throws an Error that says what to do where the path is too long, is no socket, or is in use by a live process.
 */
export function listenUnix(path: string, options: ListenOptions = {}): number {
  const where = address(path);
  const fd = checked("socket", libc.socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  try {
    let code = bindWithMode(fd, where, options.mode);
    if (code === EADDRINUSE) {
      removeStaleSocket(path);
      code = bindWithMode(fd, where, options.mode);
    }
    if (code !== 0) {
      const advice = ADVICE[code];
      throw new Error(`cannot listen on ${path}: ${errorText(code)}${advice ? `: ${advice}` : ""}`);
    }
    // Nobody can connect before it listens.
    if (options.group !== undefined) giveToGroup(path, options.group);
    if (libc.listen(fd, options.backlog ?? 16) < 0) throw new Error(`cannot listen on ${path}: ${errorText(errno())}`);
    return fd;
  } catch (error) {
    libc.close(fd);
    throw error;
  }
}

/** fchownat(2) of the group alone. Throws an Error that says what to do; the file is removed then. */
function giveToGroup(path: string, group: number): void {
  const name = cString(path);
  if (libc.fchownat(AT_FDCWD, name, UNCHANGED, group, AT_SYMLINK_NOFOLLOW) === 0) return;
  const why = errorText(errno());
  libc.unlinkat(AT_FDCWD, name, 0);
  throw new Error(`cannot give ${path} to group ${group}: ${why}: run as root, or as a member of that group`);
}

/** bind(2), with the file's mode set from the first moment. Returns 0 or an errno. */
function bindWithMode(fd: number, where: Uint8Array<ArrayBuffer>, mode: number | undefined): number {
  const before = mode === undefined ? undefined : libc.umask(~mode & 0o777);
  const code = libc.bind(fd, where, where.length) < 0 ? errno() : 0;
  if (before !== undefined) libc.umask(before);
  return code;
}

/**
 * Removes the file of a socket that nobody has open any more; does nothing where there is no file. Throws an Error
 * where the path is something else, or a socket in use.
 */
export function removeStaleSocket(path: string): void {
  const info = new Uint8Array(statx.sizeof);
  if (libc.statx(AT_FDCWD, cString(path), AT_SYMLINK_NOFOLLOW, STATX_TYPE, info) < 0) {
    const code = errno();
    if (code === ENOENT) return;
    throw new Error(`cannot look at ${path}: ${errorText(code)}`);
  }
  const mode = new DataView(info.buffer).getUint16(statx.stx_mode, true);
  if ((mode & S_IFMT) !== S_IFSOCK) {
    throw new Error(`${path} exists and is not a socket: remove it, or choose another path`);
  }
  const code = probe(path);
  if (code === ENOENT) return;
  if (code !== ECONNREFUSED) {
    const why = code === 0 ? "a process has it open" : errorText(code);
    throw new Error(`socket ${path} is in use (${why}): stop that process, or choose another path`);
  }
  if (libc.unlinkat(AT_FDCWD, cString(path), 0) < 0 && errno() !== ENOENT) {
    throw new Error(`cannot remove the stale socket ${path}: ${errorText(errno())}`);
  }
}

/**
 * Whether a process has the socket at a path open: ECONNREFUSED if not, 0 if so, else the errno that kept us from
 * learning it. A datagram socket asks, so a live stream socket answers EPROTOTYPE and its owner sees no connection.
 */
function probe(path: string): number {
  const EPROTOTYPE = 91;
  const where = address(path);
  const fd = checked("socket", libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const code = libc.connect(fd, where, where.length) < 0 ? errno() : 0;
  libc.close(fd);
  return code === EPROTOTYPE ? 0 : code;
}

/** Whether a process has the socket at a path open. It does not notice. */
export function isInUse(path: string): boolean {
  return probe(path) === 0;
}

/** Connects to the stream socket at a path; closed on exec. Throws an Error with the path and the reason. */
export function connectUnix(path: string, options: { nonblock?: boolean } = {}): number {
  const where = address(path);
  const fd = checked("socket", libc.socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  let code: number;
  do {
    code = libc.connect(fd, where, where.length) < 0 ? errno() : 0;
  } while (code === EINTR);
  if (code !== 0) {
    libc.close(fd);
    throw new Error(`cannot connect to ${path}: ${errorText(code)}`, { cause: new SystemError("connect", code) });
  }
  if (options.nonblock) setNonblock(fd);
  return fd;
}

/**
 * A datagram socket that sends to a path, or to an abstract name where it begins with "@" (unix(7)): nonblocking, closed on exec.
 * Returns the descriptor or -errno; a name that cannot be one is -EINVAL.
 */
export function connectDatagram(name: string): number {
  const bytes = new TextEncoder().encode(name);
  if (bytes.length < 2 || bytes.length > SOCKET_PATH_MAX || bytes.includes(0)) return -EINVAL;
  const where = new Uint8Array(sockaddr_un.sizeof);
  new DataView(where.buffer).setUint16(sockaddr_un.sun_family, AF_UNIX, true);
  where.set(bytes, sockaddr_un.sun_path);
  const abstract = name.startsWith("@");
  if (abstract) where[sockaddr_un.sun_path] = 0;
  const fd = libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -errno();
  // An abstract name ends where the address does, a path at its NUL.
  if (libc.connect(fd, where, sockaddr_un.sun_path + bytes.length + (abstract ? 0 : 1)) === 0) return fd;
  const code = errno();
  libc.close(fd);
  return -code;
}

/** Has a descriptor that was inherited closed on exec from now on. */
export function closeOnExec(fd: number): void {
  libc.fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/** accept4(2): a connection, closed on exec, nonblocking unless told otherwise; or -errno, -EAGAIN where none waits. */
export function accept(fd: number, options: { nonblock?: boolean } = {}): number {
  const flags = SOCK_CLOEXEC | (options.nonblock ?? true ? SOCK_NONBLOCK : 0);
  for (;;) {
    const connection = libc.accept4(fd, null, null, flags);
    if (connection >= 0) return connection;
    if (errno() !== EINTR) return -errno();
  }
}

/** Sets O_NONBLOCK on an open file description, whoever else has it too. Returns 0 or -errno. */
export function setNonblock(fd: number): number {
  const flags = libc.fcntl(fd, F_GETFL, 0);
  if (flags < 0) return -errno();
  if ((flags & O_NONBLOCK) !== 0) return 0;
  return libc.fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno() : 0;
}

/** getsockopt(2) of an int in SOL_SOCKET; or -errno. */
function socketOption(fd: number, name: number): number {
  const value = new Uint8Array(4);
  const length = new Uint8Array(Uint32Array.of(4).buffer);
  if (libc.getsockopt(fd, SOL_SOCKET, name, value, length) < 0) return -errno();
  return new DataView(value.buffer).getInt32(0, true);
}

/** What an inherited descriptor is: a UNIX socket that listens, one that does not, or neither. */
export function socketKind(fd: number): "listening" | "connected" | "other" {
  if (socketOption(fd, SO_DOMAIN) !== AF_UNIX) return "other";
  return socketOption(fd, SO_ACCEPTCONN) === 1 ? "listening" : "connected";
}

const SO_TYPE = 3;
const SHUT_RD = 0;

/**
 * Makes a UNIX stream socket that another process has passed one to be written to alone: what it could be told, descriptors among it,
 * is thrown away and refused. Returns false where it is none that is connected, or where its other end is this process's.
 */
export function onlyWrite(fd: number): boolean {
  if (socketOption(fd, SO_TYPE) !== SOCK_STREAM || peerCredentials(fd).pid === Deno.pid) return false;
  if (libc.shutdown(fd, SHUT_RD) < 0) return false;
  const rest = new Uint8Array(4096);
  let n: number;
  do n = receive(fd, rest, 0).n; while (n > 0);
  // One that listens, or is not connected yet, gives an error.
  return n === 0;
}

/** Who is at the other end, as of its connect(2): SO_PEERCRED, unix(7). Throws SystemError. */
export function peerCredentials(fd: number): { pid: number; uid: number; gid: number } {
  const value = new Uint8Array(12);
  const length = new Uint8Array(Uint32Array.of(12).buffer);
  checked("getsockopt(SO_PEERCRED)", libc.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, value, length));
  const view = new DataView(value.buffer);
  return { pid: view.getInt32(0, true), uid: view.getUint32(4, true), gid: view.getUint32(8, true) };
}

/** Whether a result of this module says "not now" of a nonblocking socket. */
export function wouldBlock(result: number): boolean {
  return result === -EAGAIN;
}
