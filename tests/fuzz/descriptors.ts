/** Descriptors of every kind that a front end could pass where another is wanted. */
import { createEventfd, signal } from "../../ffi/eventfd.ts";
import { checked, cString, libc } from "../../ffi/libc.ts";

const MFD_CLOEXEC = 1, MFD_ALLOW_SEALING = 2;
const F_ADD_SEALS = 1033, F_SEAL_SHRINK = 2, F_SEAL_GROW = 4;
const O_WRONLY = 1, O_RDWR = 2, O_NONBLOCK = 0o4000, O_PATH = 0o10000000, O_DIRECTORY = 0o200000;
const F_SETFL = 4;
const AT_FDCWD = -100;

const open = (path: string, flags: number) => checked(`open ${path}`, libc.openat(AT_FDCWD, cString(path), flags, 0));

function memfd(size: number, flags = 0): number {
  const fd = checked("memfd_create", libc.memfd_create(cString("fuzz"), MFD_CLOEXEC | flags));
  checked("ftruncate", libc.ftruncate(fd, BigInt(size)));
  return fd;
}

/** Opened through /proc, which makes an open file description of its own. */
function reopened(fd: number, flags: number): number {
  const other = open(`/proc/self/fd/${fd}`, flags);
  libc.close(fd);
  return other;
}

/** Both ends of a pipe; and of a pair of sockets, which is a pipe with two names here. */
function fifo(): { read: number; write: number; close: () => void } {
  const dir = Deno.makeTempDirSync();
  new Deno.Command("mkfifo", { args: [`${dir}/fifo`] }).outputSync();
  const read = open(`${dir}/fifo`, O_NONBLOCK);
  const write = open(`${dir}/fifo`, O_WRONLY | O_NONBLOCK);
  Deno.removeSync(dir, { recursive: true });
  return { read, write, close: () => (libc.close(read), libc.close(write)) };
}

const block = new Uint8Array(65536);

/** By name: a descriptor, and others that must stay open for as long as the front end is there. `size` is in bytes. */
export const makers: Readonly<Record<string, (size: number, own: number) => { fd: number; kept?: number[] }>> = {
  memfd: (size) => ({ fd: memfd(size) }),
  short: (size) => ({ fd: memfd(Math.floor(size / 2)) }),
  empty: () => ({ fd: memfd(0) }),
  sealed: (size) => {
    const fd = memfd(size, MFD_ALLOW_SEALING);
    checked("seals", libc.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
    return { fd };
  },
  readonly: (size) => ({ fd: reopened(memfd(size), 0) }),
  path: (size) => ({ fd: reopened(memfd(size), O_PATH) }),
  file: (size) => {
    const path = Deno.makeTempFileSync();
    Deno.truncateSync(path, size);
    const fd = open(path, O_RDWR);
    Deno.removeSync(path);
    return { fd };
  },
  directory: () => ({ fd: open("/", O_DIRECTORY) }),
  null: () => ({ fd: open("/dev/null", O_RDWR) }),
  zero: () => ({ fd: open("/dev/zero", O_RDWR) }),
  eventfd: () => ({ fd: createEventfd() }),
  signalled: () => {
    const fd = createEventfd();
    signal(fd);
    return { fd };
  },
  /** Its counter is at the limit: who writes to it without O_NONBLOCK waits. */
  full: () => {
    const fd = createEventfd();
    libc.write(fd, new Uint8Array(new BigUint64Array([2n ** 64n - 2n]).buffer), 8);
    return { fd };
  },
  reader: () => {
    const { read, write } = fifo();
    return { fd: read, kept: [write] };
  },
  writer: () => {
    const { read, write } = fifo();
    return { fd: write, kept: [read] };
  },
  /** Nobody is at the other end. */
  "hung-up-reader": () => {
    const { read, write } = fifo();
    libc.close(write);
    return { fd: read };
  },
  "hung-up-writer": () => {
    const { read, write } = fifo();
    libc.close(read);
    return { fd: write };
  },
  /** A pipe without room. */
  "full-writer": () => {
    const { read, write } = fifo();
    while (libc.write(write, block, block.length) > 0);
    libc.fcntl(write, F_SETFL, 0);
    return { fd: write, kept: [read] };
  },
  epoll: () => ({ fd: checked("epoll_create1", libc.epoll_create1(0)) }),
  /** The front end's own end of the connection. */
  own: (_, own) => ({ fd: checked("dup", libc.dup(own)) }),
};
