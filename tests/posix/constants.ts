/** Numbers of the Linux system-call interface on x86-64 that the suite uses. asm/unistd_64.h, asm-generic/fcntl.h, errno.h and others. */

export const SYS = {
  read: 0,
  write: 1,
  close: 3,
  lseek: 8,
  mmap: 9,
  munmap: 11,
  ioctl: 16,
  pread64: 17,
  pwrite64: 18,
  readv: 19,
  writev: 20,
  msync: 26,
  dup: 32,
  sendfile: 40,
  fcntl: 72,
  flock: 73,
  fsync: 74,
  fdatasync: 75,
  truncate: 76,
  ftruncate: 77,
  fchmod: 91,
  fchown: 93,
  umask: 95,
  setgroups: 116,
  setresuid: 117,
  setresgid: 119,
  statfs: 137,
  fstatfs: 138,
  mount: 165,
  umount2: 166,
  lsetxattr: 189,
  fsetxattr: 190,
  lgetxattr: 192,
  fgetxattr: 193,
  llistxattr: 195,
  flistxattr: 196,
  lremovexattr: 198,
  fremovexattr: 199,
  getdents64: 217,
  fadvise64: 221,
  openat: 257,
  mkdirat: 258,
  mknodat: 259,
  fchownat: 260,
  newfstatat: 262,
  unlinkat: 263,
  linkat: 265,
  symlinkat: 266,
  readlinkat: 267,
  fchmodat: 268,
  unshare: 272,
  utimensat: 280,
  fallocate: 285,
  preadv: 295,
  pwritev: 296,
  syncfs: 306,
  renameat2: 316,
  copy_file_range: 326,
  statx: 332,
  faccessat2: 439,
} as const;

export const EPERM = 1, ENOENT = 2, EINTR = 4, ENXIO = 6, EBADF = 9, EAGAIN = 11, EACCES = 13, EBUSY = 16, EEXIST = 17;
export const EXDEV = 18, ENOTDIR = 20, EISDIR = 21, EINVAL = 22, ENOTTY = 25, ETXTBSY = 26, EFBIG = 27, ENOSPC = 28;
export const ESPIPE = 29, EROFS = 30, ERANGE = 34, EDEADLK = 35, ENAMETOOLONG = 36, ENOSYS = 38, ENOTEMPTY = 39;
export const ELOOP = 40, ENODATA = 61, EOVERFLOW = 75, EOPNOTSUPP = 95;

/** By number, for messages. */
export const ERRNO_NAMES: Record<number, string> = {
  1: "EPERM",
  2: "ENOENT",
  4: "EINTR",
  5: "EIO",
  6: "ENXIO",
  7: "E2BIG",
  9: "EBADF",
  11: "EAGAIN",
  12: "ENOMEM",
  13: "EACCES",
  14: "EFAULT",
  16: "EBUSY",
  17: "EEXIST",
  18: "EXDEV",
  19: "ENODEV",
  20: "ENOTDIR",
  21: "EISDIR",
  22: "EINVAL",
  24: "EMFILE",
  25: "ENOTTY",
  26: "ETXTBSY",
  27: "EFBIG",
  28: "ENOSPC",
  29: "ESPIPE",
  30: "EROFS",
  31: "EMLINK",
  34: "ERANGE",
  35: "EDEADLK",
  36: "ENAMETOOLONG",
  37: "ENOLCK",
  38: "ENOSYS",
  39: "ENOTEMPTY",
  40: "ELOOP",
  61: "ENODATA",
  75: "EOVERFLOW",
  95: "EOPNOTSUPP",
  107: "ENOTCONN",
  116: "ESTALE",
};

export const O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_CREAT = 0o100, O_EXCL = 0o200, O_TRUNC = 0o1000;
export const O_APPEND = 0o2000, O_NONBLOCK = 0o4000, O_DSYNC = 0o10000, O_DIRECT = 0o40000, O_DIRECTORY = 0o200000;
export const O_NOFOLLOW = 0o400000, O_NOATIME = 0o1000000, O_PATH = 0o10000000, O_TMPFILE = 0o20200000;

export const AT_FDCWD = -100, AT_SYMLINK_NOFOLLOW = 0x100, AT_REMOVEDIR = 0x200, AT_EACCESS = 0x200;
export const AT_SYMLINK_FOLLOW = 0x400, AT_EMPTY_PATH = 0x1000;
export const R_OK = 4, W_OK = 2, X_OK = 1, F_OK = 0;

export const S_IFMT = 0o170000, S_IFREG = 0o100000, S_IFDIR = 0o040000, S_IFLNK = 0o120000, S_IFIFO = 0o010000;
export const S_IFSOCK = 0o140000, S_IFCHR = 0o020000, S_IFBLK = 0o060000;

export const RENAME_NOREPLACE = 1, RENAME_EXCHANGE = 2, RENAME_WHITEOUT = 4;
export const SEEK_SET = 0, SEEK_CUR = 1, SEEK_END = 2, SEEK_DATA = 3, SEEK_HOLE = 4;
export const FALLOC_FL_KEEP_SIZE = 1, FALLOC_FL_PUNCH_HOLE = 2, FALLOC_FL_ZERO_RANGE = 16;
export const UTIME_NOW = 0x3fffffff, UTIME_OMIT = 0x3ffffffe;
export const XATTR_CREATE = 1, XATTR_REPLACE = 2;
export const LOCK_SH = 1, LOCK_EX = 2, LOCK_NB = 4, LOCK_UN = 8;
export const F_DUPFD = 0, F_GETFL = 3, F_SETFL = 4, F_GETLK = 5, F_SETLK = 6, F_SETLKW = 7;
export const F_OFD_GETLK = 36, F_OFD_SETLK = 37, F_OFD_SETLKW = 38, F_RDLCK = 0, F_WRLCK = 1, F_UNLCK = 2;
export const PROT_READ = 1, PROT_WRITE = 2, MAP_SHARED = 1, MAP_PRIVATE = 2, MS_SYNC = 4;
export const CLONE_FS = 0x200, CLONE_NEWNS = 0x20000;
export const MS_RDONLY = 1, MS_REMOUNT = 32, MS_BIND = 4096, MS_REC = 16384, MS_PRIVATE = 1 << 18;
export const DT_FIFO = 1, DT_CHR = 2, DT_DIR = 4, DT_REG = 8, DT_LNK = 10, DT_SOCK = 12;
export const FS_IOC_GETFLAGS = 0x80086601, FS_IOC_SETFLAGS = 0x40086602, FS_NOATIME_FL = 0x80, FS_APPEND_FL = 0x20;
