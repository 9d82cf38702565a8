/**
 * What differs between the two machines that ringfsd runs on: system call numbers and open flags.
 * Source: asm/unistd_64.h, asm-generic/unistd.h, asm/fcntl.h of x86 and arm64. tests/ffi/layout.test.ts compares
 * them with the headers of the machine.
 */

const x86 = Deno.build.arch === "x86_64";

/** System call numbers, for calls that glibc wraps process-wide or not at all. */
export const SYS = {
  setfsuid: x86 ? 122 : 151,
  setfsgid: x86 ? 123 : 152,
  gettid: x86 ? 186 : 178,
  tgkill: x86 ? 234 : 131,
  fcntl: x86 ? 72 : 25,
  flock: x86 ? 73 : 32,
  setgroups: x86 ? 116 : 159,
  syncfs: x86 ? 306 : 267,
  copy_file_range: x86 ? 326 : 285,
  getdents64: x86 ? 217 : 61,
  fsync: x86 ? 74 : 82,
  fdatasync: x86 ? 75 : 83,
  fallocate: x86 ? 285 : 47,
  preadv2: x86 ? 327 : 286,
  pwritev2: x86 ? 328 : 287,
  renameat2: x86 ? 316 : 276,
  rt_sigprocmask: x86 ? 14 : 135,
  openat2: 437,
  io_uring_setup: 425,
  io_uring_enter: 426,
  io_uring_register: 427,
} as const;

// open(2). The values that differ are the architecture's own.
export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_ACCMODE = 3;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_NOCTTY = 0o400;
export const O_TRUNC = 0o1000;
export const O_APPEND = 0o2000;
export const O_NONBLOCK = 0o4000;
export const O_DSYNC = 0o10000;
export const O_SYNC = 0o4010000;
export const O_NOATIME = 0o1000000;
export const O_CLOEXEC = 0o2000000;
export const O_PATH = 0o10000000;
export const O_TMPFILE = 0o20000000 | (x86 ? 0o200000 : 0o40000);
export const O_DIRECT = x86 ? 0o40000 : 0o200000;
export const O_LARGEFILE = x86 ? 0o100000 : 0o400000;
export const O_DIRECTORY = x86 ? 0o200000 : 0o40000;
export const O_NOFOLLOW = x86 ? 0o400000 : 0o100000;
