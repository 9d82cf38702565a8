// Each function of ffi/libc.ts against a known value: no compiler checks the types of an FFI table.
import assert from "node:assert/strict";
import {
  O_CLOEXEC,
  O_CREAT,
  O_DIRECTORY,
  O_EXCL,
  O_PATH,
  O_RDONLY,
  O_RDWR,
  O_TRUNC,
  O_WRONLY,
  SYS,
} from "../../ffi/arch.ts";
import { EAGAIN, EBADF, EEXIST, ENOENT, ENOTDIR, EOPNOTSUPP, EPERM } from "../../ffi/errno.ts";
import { checked, cString, errno, errorText, libc, SystemError } from "../../ffi/libc.ts";
import * as L from "../../ffi/stat_layout.ts";
import { withDirectory, withEventFd, withFile, withMemory } from "./help.ts";

const { AT_FDCWD } = L;
const BAD_FD = 0x7fffffff;
const FAR = 5n * 2n ** 32n + 12345n;

function viewOf(bytes: Uint8Array<ArrayBuffer>): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** struct statx of a path, by the wrapper under test. */
function statOf(path: string, flags = L.AT_SYMLINK_NOFOLLOW): DataView {
  const bytes = new Uint8Array(L.statx.sizeof);
  checked("statx", libc.statx(AT_FDCWD, cString(path), flags, L.STATX_BASIC_STATS, bytes));
  return viewOf(bytes);
}

Deno.test("errno() is that of the call before", () => {
  assert.equal(libc.close(BAD_FD), -1);
  assert.equal(errno(), EBADF);
  assert.equal(libc.openat(AT_FDCWD, cString("/no such file"), O_RDONLY, 0), -1);
  assert.equal(errno(), ENOENT);
  for (let i = 0; i < 20_000; i++) {
    // Optimised code must not keep an old value.
    const [fd, expected] = i % 2 === 0 ? [BAD_FD, EBADF] : [AT_FDCWD, ENOENT];
    const result = i % 2 === 0 ? libc.close(fd) : libc.openat(fd, cString("/nowhere"), O_RDONLY, 0);
    if (result !== -1 || errno() !== expected) assert.fail(`round ${i}: ${result}, errno ${errno()}`);
  }
});

Deno.test("errorText() is strerror's", () => {
  assert.equal(errorText(ENOENT), "No such file or directory");
});

Deno.test("checked() passes results on and throws SystemError for failures", () => {
  assert.equal(checked("close", 0), 0);
  assert.throws(() => checked("close", libc.close(BAD_FD)), (error) => {
    assert.ok(error instanceof SystemError);
    assert.deepEqual([error.name, error.call, error.code], ["SystemError", "close", EBADF]);
    assert.equal(error.message, "close: Bad file descriptor");
    return true;
  });
});

Deno.test("cString() ends with a NUL and refuses one inside", () => {
  assert.deepEqual([...cString("é")], [0xc3, 0xa9, 0]);
  assert.throws(() => cString("a\0b"), TypeError);
});

Deno.test("read(), write(), readAt() and writeAt() return byte counts", () => {
  withFile((fd) =>
    withMemory(4096, (memory) => {
      assert.equal(libc.write(fd, new TextEncoder().encode("12345"), 5), 5);
      memory.bytes.set([0x36, 0x37]);
      assert.equal(libc.writeAt(fd, memory.pointer, 2), 2);
      assert.equal(libc.lseek(fd, 1n, L.SEEK_SET), 1n);
      const bytes = new Uint8Array(3);
      assert.equal(libc.read(fd, bytes, 3), 3);
      assert.deepEqual([...bytes], [0x32, 0x33, 0x34]);
      assert.equal(libc.readAt(fd, memory.pointer, 100), 3);
      assert.deepEqual([...memory.bytes.subarray(0, 4)], [0x35, 0x36, 0x37, 0]);
    })
  );
});

Deno.test("preadv() and pwritev() take iovecs in mmapped memory and offsets above 4 GiB", () => {
  withFile((fd, path) =>
    withMemory(4096, (memory) => {
      const iov = new BigUint64Array(memory.bytes.buffer, 0, 4);
      iov.set([BigInt(memory.addr + 1000), 2n, BigInt(memory.addr + 2000), 3n]);
      memory.bytes.set([1, 2], 1000);
      memory.bytes.set([3, 4, 5], 2000);
      assert.equal(libc.pwritev(fd, BigInt(memory.addr), 2, FAR), 5);
      assert.equal(Deno.statSync(path).size, Number(FAR) + 5);
      memory.bytes.fill(0, 1000);
      assert.equal(libc.preadv(fd, BigInt(memory.addr), 2, FAR + 1n), 4);
      assert.deepEqual([...memory.bytes.subarray(1000, 1002)], [2, 3]);
      assert.deepEqual([...memory.bytes.subarray(2000, 2003)], [4, 5, 0]);
      assert.equal(libc.preadv(BAD_FD, BigInt(memory.addr), 2, 0n), -1);
      assert.equal(errno(), EBADF);
    })
  );
});

Deno.test("ftruncate(), fallocate() and lseek() carry 64-bit offsets", () => {
  withFile((fd, path) => {
    assert.equal(libc.ftruncate(fd, FAR), 0);
    assert.equal(Deno.statSync(path).size, Number(FAR));
    assert.equal(libc.lseek(fd, 0n, L.SEEK_END), FAR);
    assert.equal(libc.lseek(fd, -FAR, L.SEEK_CUR), 0n);
    assert.equal(libc.lseek(fd, -1n, L.SEEK_SET), -1n);
    assert.equal(libc.fallocate(fd, 0, 2n ** 35n, 4096n), 0);
    assert.equal(Deno.statSync(path).size, 2 ** 35 + 4096);
    assert.equal(libc.lseek(fd, 2n ** 35n, L.SEEK_HOLE), 2n ** 35n);
    assert.equal(libc.fallocate(fd, L.FALLOC_FL_KEEP_SIZE | L.FALLOC_FL_PUNCH_HOLE, 2n ** 35n, 4096n), 0);
    assert.equal(libc.fsync(fd), 0);
    assert.equal(libc.fdatasync(fd), 0);
  });
});

Deno.test("statx() fills size, mode and link count", () => {
  withFile((fd, path) => {
    checked("ftruncate", libc.ftruncate(fd, FAR));
    const stat = statOf(path);
    assert.equal(stat.getBigUint64(L.statx.stx_size, true), FAR);
    assert.equal(stat.getUint16(L.statx.stx_mode, true), L.S_IFREG | 0o600);
    assert.equal(stat.getUint32(L.statx.stx_nlink, true), 1);
    const bytes = new Uint8Array(L.statx.sizeof);
    assert.equal(libc.statx(fd, cString(""), L.AT_EMPTY_PATH, L.STATX_SIZE, bytes), 0);
    assert.equal(viewOf(bytes).getBigUint64(L.statx.stx_size, true), FAR);
  });
});

Deno.test("fstatfs() knows tmpfs", () => {
  withFile((fd) => {
    const bytes = new Uint8Array(L.statfs.sizeof);
    assert.equal(libc.fstatfs(fd, bytes), 0);
    assert.equal(viewOf(bytes).getUint32(L.statfs.f_type, true), 0x01021994);
    assert.equal(viewOf(bytes).getBigUint64(L.statfs.f_namelen, true), 255n);
  });
});

Deno.test("name_to_handle_at() names a file, and open_by_handle_at() opens it where that is allowed", () => {
  withDirectory((dir) => {
    Deno.writeTextFileSync(`${dir}/file`, "text");
    const handle = new Uint8Array(L.file_handle.sizeof + 128);
    viewOf(handle).setUint32(L.file_handle.handle_bytes, 128, true);
    const mountId = new Uint8Array(4);
    const failed = libc.name_to_handle_at(AT_FDCWD, cString(`${dir}/file`), handle, mountId, 0);
    if (failed < 0) return assert.equal(errno(), EOPNOTSUPP, "its file system has none");
    const length = viewOf(handle).getUint32(L.file_handle.handle_bytes, true);
    assert.ok(length > 0 && length <= 128);
    const dirFd = checked("openat", libc.openat(AT_FDCWD, cString(dir), O_RDONLY | O_DIRECTORY, 0));
    const fd = libc.open_by_handle_at(dirFd, handle, O_PATH | O_CLOEXEC);
    if (fd < 0) assert.equal(errno(), EPERM, "CAP_DAC_READ_SEARCH");
    else assert.equal(Deno.readLinkSync(`/proc/self/fd/${fd}`), `${dir}/file`);
    for (const one of [fd, dirFd]) if (one >= 0) libc.close(one);
  });
});

Deno.test("openat(), dup() and fcntl() handle descriptors", () => {
  withDirectory((dir) => {
    const dirFd = checked("openat", libc.openat(AT_FDCWD, cString(dir), O_PATH | O_DIRECTORY | O_CLOEXEC, 0));
    const fd = checked("openat", libc.openat(dirFd, cString("new"), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o640));
    assert.equal(Deno.statSync(`${dir}/new`).mode! & 0o7777, 0o640 & ~currentUmask());
    assert.equal(libc.openat(dirFd, cString("new"), O_WRONLY | O_CREAT | O_EXCL, 0o640), -1);
    assert.equal(errno(), EEXIST);
    assert.equal(libc.openat(dirFd, cString("new"), O_RDONLY | O_DIRECTORY, 0), -1);
    assert.equal(errno(), ENOTDIR);
    const copy = checked("dup", libc.dup(fd));
    assert.notEqual(copy, fd);
    assert.equal(libc.fcntl(fd, L.F_GETFD, 0), L.FD_CLOEXEC);
    assert.equal(libc.fcntl(copy, L.F_GETFD, 0), 0);
    assert.equal(libc.fcntl(copy, L.F_SETFD, L.FD_CLOEXEC), 0);
    assert.equal(libc.fcntl(copy, L.F_GETFD, 0), L.FD_CLOEXEC);
    for (const one of [fd, copy, dirFd]) assert.equal(libc.close(one), 0);
  });
});

function currentUmask(): number {
  const mask = libc.umask(0o22);
  libc.umask(mask);
  return mask;
}

Deno.test("umask() returns the mask before", () => {
  const before = libc.umask(0o27);
  assert.equal(libc.umask(before), 0o27);
});

Deno.test("mkdirat(), mknodat(), symlinkat(), linkat(), readlinkat(), renameat2(), unlinkat() change names", () => {
  withDirectory((dir) => {
    const at = checked("openat", libc.openat(AT_FDCWD, cString(dir), O_PATH | O_DIRECTORY | O_CLOEXEC, 0));
    const name = cString;
    assert.equal(libc.mkdirat(at, name("d"), 0o700), 0);
    assert.ok(Deno.statSync(`${dir}/d`).isDirectory);
    assert.equal(libc.mkdirat(at, name("d"), 0o700), -1);
    assert.equal(errno(), EEXIST);
    assert.equal(libc.mknodat(at, name("fifo"), L.S_IFIFO | 0o600, 0n), 0);
    assert.equal(statOf(`${dir}/fifo`).getUint16(L.statx.stx_mode, true), L.S_IFIFO | 0o600);
    assert.equal(libc.symlinkat(name("target"), at, name("link")), 0);
    const target = new Uint8Array(100);
    assert.equal(libc.readlinkat(at, name("link"), target, 100), 6);
    assert.equal(new TextDecoder().decode(target.subarray(0, 7)), "target\0");
    assert.equal(libc.linkat(at, name("fifo"), at, name("second"), 0), 0);
    assert.equal(statOf(`${dir}/fifo`).getUint32(L.statx.stx_nlink, true), 2);
    assert.equal(libc.renameat2(at, name("fifo"), at, name("second"), L.RENAME_NOREPLACE), -1);
    assert.equal(errno(), EEXIST);
    assert.equal(libc.renameat2(at, name("link"), at, name("d"), L.RENAME_EXCHANGE), 0);
    assert.equal(Deno.readLinkSync(`${dir}/d`), "target");
    assert.equal(libc.unlinkat(at, name("link"), L.AT_REMOVEDIR), 0);
    assert.equal(libc.unlinkat(at, name("d"), 0), 0);
    assert.equal(libc.unlinkat(at, name("d"), 0), -1);
    assert.equal(errno(), ENOENT);
    libc.close(at);
  });
});

Deno.test("fchmodat(), fchmod(), fchownat(), utimensat() and futimens() change attributes", () => {
  withFile((fd, path) => {
    const name = cString(path);
    assert.equal(libc.fchmodat(AT_FDCWD, name, 0o4751, 0), 0);
    assert.equal(Deno.statSync(path).mode! & 0o7777, 0o4751);
    assert.equal(libc.fchmod(fd, 0o604), 0);
    assert.equal(Deno.statSync(path).mode! & 0o7777, 0o604);
    const [uid, gid] = [libc.geteuid(), libc.getegid()];
    assert.equal(libc.fchownat(AT_FDCWD, name, uid, gid, 0), 0);
    assert.equal(libc.fchownat(AT_FDCWD, name, 0xffffffff, 0xffffffff, 0), 0);
    assert.deepEqual([Deno.statSync(path).uid, Deno.statSync(path).gid], [uid, gid]);
    const times = BigInt64Array.of(1_000_000_000n, 0n, 5_000_000_000n, 123_000_000n);
    assert.equal(libc.utimensat(AT_FDCWD, name, new Uint8Array(times.buffer), 0), 0);
    assert.equal(Deno.statSync(path).mtime!.getTime(), 5_000_000_000_123);
    times[3] = BigInt(L.UTIME_OMIT);
    times[0] = 7n;
    assert.equal(libc.futimens(fd, new Uint8Array(times.buffer)), 0);
    assert.equal(Deno.statSync(path).mtime!.getTime(), 5_000_000_000_123);
    assert.equal(Deno.statSync(path).atime!.getTime(), 7000);
  });
});

Deno.test("getdents64() lists a directory", () => {
  withDirectory((dir) => {
    Deno.writeTextFileSync(`${dir}/a file`, "");
    Deno.mkdirSync(`${dir}/sub`);
    const fd = checked("openat", libc.openat(AT_FDCWD, cString(dir), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0));
    const bytes = new Uint8Array(4096);
    const length = libc.getdents64(fd, bytes, bytes.length);
    assert.ok(length > 0);
    const seen = new Map<string, number>();
    for (let at = 0; at < length; at += viewOf(bytes).getUint16(at + L.linux_dirent64.d_reclen, true)) {
      const start = at + L.linux_dirent64.d_name;
      const name = new TextDecoder().decode(bytes.subarray(start, bytes.indexOf(0, start)));
      seen.set(name, bytes[at + L.linux_dirent64.d_type]);
    }
    assert.deepEqual([...seen].sort(), [[".", L.DT_DIR], ["..", L.DT_DIR], ["a file", L.DT_REG], ["sub", L.DT_DIR]]);
    assert.equal(libc.getdents64(fd, bytes, bytes.length), 0);
    libc.close(fd);
  });
});

Deno.test("flock() excludes another open file", () => {
  withFile((fd, path) => {
    const other = checked("openat", libc.openat(AT_FDCWD, cString(path), O_RDWR | O_CLOEXEC, 0));
    assert.equal(libc.flock(fd, L.LOCK_EX), 0);
    assert.equal(libc.flock(other, L.LOCK_SH | L.LOCK_NB), -1);
    assert.equal(errno(), EAGAIN);
    assert.equal(libc.flock(fd, L.LOCK_UN), 0);
    assert.equal(libc.flock(other, L.LOCK_SH | L.LOCK_NB), 0);
    libc.close(other);
  });
});

Deno.test("eventfd() counts, and poll() says when it can be read", () => {
  withEventFd((fd) => {
    const value = BigUint64Array.of(3n);
    const bytes = new Uint8Array(value.buffer);
    const pollfd = new Uint8Array(L.pollfd.sizeof);
    viewOf(pollfd).setInt32(L.pollfd.fd, fd, true);
    viewOf(pollfd).setInt16(L.pollfd.events, L.POLLIN, true);
    assert.equal(libc.poll(pollfd, 1, 0), 0);
    assert.equal(libc.write(fd, bytes, 8), 8);
    assert.equal(libc.write(fd, bytes, 8), 8);
    assert.equal(libc.poll(pollfd, 1, 0), 1);
    assert.equal(viewOf(pollfd).getInt16(L.pollfd.revents, true), L.POLLIN);
    assert.equal(libc.read(fd, bytes, 8), 8);
    assert.equal(value[0], 6n);
    assert.equal(libc.read(fd, bytes, 8), -1);
    assert.equal(errno(), EAGAIN);
  });
});

Deno.test("epoll_create1(), epoll_ctl() and epollWaitAsync() report an event", async () => {
  const epoll = checked("epoll_create1", libc.epoll_create1(L.EPOLL_CLOEXEC));
  const fd = checked("eventfd", libc.eventfd(1, L.EFD_CLOEXEC));
  const event = new Uint8Array(L.epoll_event.sizeof);
  viewOf(event).setUint32(L.epoll_event.events, L.EPOLLIN, true);
  viewOf(event).setUint32(L.epoll_event.data, 4711, true);
  assert.equal(libc.epoll_ctl(epoll, L.EPOLL_CTL_ADD, fd, event), 0);
  assert.equal(libc.epoll_ctl(epoll, L.EPOLL_CTL_ADD, fd, event), -1);
  assert.equal(errno(), EEXIST);
  const events = new Uint8Array(L.epoll_event.sizeof * 2);
  assert.equal(await libc.epollWaitAsync(epoll, events, 2, 1000), 1);
  assert.equal(viewOf(events).getUint32(L.epoll_event.events, true), L.EPOLLIN);
  assert.equal(viewOf(events).getUint32(L.epoll_event.data, true), 4711);
  libc.close(fd);
  libc.close(epoll);
});

Deno.test("socket(), bind(), listen(), connect(), accept4(), getsockopt(), sendmsg() and recvmsg() talk", () => {
  withDirectory((dir) => {
    const kind = L.SOCK_STREAM | L.SOCK_CLOEXEC;
    const path = new TextEncoder().encode(`${dir}/socket`);
    const address = new Uint8Array(L.sockaddr_un.sun_path + path.length + 1);
    viewOf(address).setUint16(L.sockaddr_un.sun_family, L.AF_UNIX, true);
    address.set(path, L.sockaddr_un.sun_path);
    const server = checked("socket", libc.socket(L.AF_UNIX, kind, 0));
    const client = checked("socket", libc.socket(L.AF_UNIX, kind, 0));
    assert.equal(libc.connect(client, address, address.length), -1);
    assert.equal(errno(), ENOENT);
    assert.equal(libc.bind(server, address, address.length), 0);
    assert.equal(libc.listen(server, 1), 0);
    assert.equal(libc.connect(client, address, address.length), 0);
    const peer = checked("accept4", libc.accept4(server, null, null, L.SOCK_CLOEXEC));
    const cred = new Uint8Array(L.ucred.sizeof);
    const size = Uint32Array.of(cred.length);
    assert.equal(libc.getsockopt(peer, L.SOL_SOCKET, L.SO_PEERCRED, cred, new Uint8Array(size.buffer)), 0);
    assert.equal(viewOf(cred).getUint32(L.ucred.pid, true), Deno.pid);
    assert.equal(size[0], L.ucred.sizeof);
    exchange(client, peer);
    for (const fd of [server, client, peer]) libc.close(fd);
  });
});

/** Sends four bytes with sendmsg and takes them with recvmsg. */
function exchange(from: number, to: number): void {
  withMemory(4096, (memory) => {
    const iov = new BigUint64Array(memory.bytes.buffer, 0, 2);
    iov.set([BigInt(memory.addr + 100), 4n]);
    const header = new Uint8Array(L.msghdr.sizeof);
    viewOf(header).setBigUint64(L.msghdr.msg_iov, BigInt(memory.addr), true);
    viewOf(header).setBigUint64(L.msghdr.msg_iovlen, 1n, true);
    memory.bytes.set([9, 8, 7, 6], 100);
    assert.equal(libc.sendmsg(from, header, L.MSG_NOSIGNAL), 4);
    memory.bytes.fill(0, 100);
    assert.equal(libc.recvmsg(to, header, L.MSG_DONTWAIT), 4);
    assert.deepEqual([...memory.bytes.subarray(100, 104)], [9, 8, 7, 6]);
    assert.equal(libc.recvmsg(to, header, L.MSG_DONTWAIT), -1);
    assert.equal(errno(), EAGAIN);
  });
}

Deno.test("geteuid(), getegid(), gettid and setfsuid agree with /proc", () => {
  const status = Deno.readTextFileSync("/proc/thread-self/status");
  const field = (name: string) => new RegExp(`^${name}:\\s+(.*)$`, "m").exec(status)![1].split("\t").map(Number);
  assert.equal(libc.geteuid(), field("Uid")[1]);
  assert.equal(libc.getegid(), field("Gid")[1]);
  assert.equal(libc.syscall1(SYS.gettid, 0), field("Pid")[0]);
  // An id that does not exist changes nothing; the one in force is returned.
  assert.equal(libc.syscall1(SYS.setfsuid, 0xffffffff), field("Uid")[3]);
  assert.equal(libc.syscall1(SYS.setfsgid, 0xffffffff), field("Gid")[3]);
});

Deno.test("memfd_create() makes a file that can be sealed", () => {
  const fd = checked("memfd_create", libc.memfd_create(cString("test"), L.MFD_CLOEXEC | L.MFD_ALLOW_SEALING));
  assert.equal(libc.fcntl(fd, L.F_GET_SEALS, 0), 0);
  assert.match(Deno.readLinkSync(`/proc/self/fd/${fd}`), /memfd:test/);
  libc.close(fd);
});

Deno.test("prctl() reads a setting of the thread", () => {
  const PR_GET_NO_NEW_PRIVS = 39;
  const status = Deno.readTextFileSync("/proc/thread-self/status");
  assert.equal(libc.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), Number(/^NoNewPrivs:\s+(\d)/m.exec(status)![1]));
});

Deno.test("getrlimit() and setrlimit() carry 64-bit limits", () => {
  const limit = new BigUint64Array(2);
  const bytes = new Uint8Array(limit.buffer);
  assert.equal(libc.getrlimit(L.RLIMIT_NOFILE, bytes), 0);
  const line = /^Max open files\s+(\d+)\s+(\d+)/m.exec(Deno.readTextFileSync("/proc/self/limits"))!;
  assert.deepEqual([...limit].map(String), line.slice(1));
  assert.equal(libc.setrlimit(L.RLIMIT_NOFILE, bytes), 0);
});

Deno.test("clock_gettime() tells the time", () => {
  withMemory(4096, (memory) => {
    const CLOCK_REALTIME = 0;
    assert.equal(libc.clock_gettime(CLOCK_REALTIME, memory.pointer), 0);
    const seconds = viewOf(memory.bytes).getBigInt64(L.timespec.tv_sec, true);
    assert.ok(Math.abs(Number(seconds) - Date.now() / 1000) < 5);
  });
});

Deno.test("sched_yield() returns 0", () => {
  assert.equal(libc.sched_yield(), 0);
});

Deno.test("openat() with O_TRUNC empties a file", () => {
  withFile((_fd, path) => {
    Deno.writeTextFileSync(path, "text");
    libc.close(checked("openat", libc.openat(AT_FDCWD, cString(path), O_WRONLY | O_TRUNC | O_CLOEXEC, 0)));
    assert.equal(Deno.statSync(path).size, 0);
  });
});
