/**
 * Structs and constants of libc and the kernel that file and socket calls share: byte offsets, in the spelling of C.
 * They are those of 64-bit Linux; where x86-64 and arm64 differ it is said. tests/ffi/layout.test.ts compares them with the
 * headers of the machine.
 */

/** struct statx, linux/stat.h. The four times are struct statx_timestamp. */
export const statx = {
  stx_mask: 0,
  stx_blksize: 4,
  stx_attributes: 8,
  stx_nlink: 16,
  stx_uid: 20,
  stx_gid: 24,
  stx_mode: 28,
  stx_ino: 32,
  stx_size: 40,
  stx_blocks: 48,
  stx_attributes_mask: 56,
  stx_atime: 64,
  stx_btime: 80,
  stx_ctime: 96,
  stx_mtime: 112,
  stx_rdev_major: 128,
  stx_rdev_minor: 132,
  stx_dev_major: 136,
  stx_dev_minor: 140,
  stx_mnt_id: 144,
  stx_dio_mem_align: 152,
  stx_dio_offset_align: 156,
  sizeof: 256,
} as const;

export const statx_timestamp = { tv_sec: 0, tv_nsec: 8, sizeof: 16 } as const;

/** struct statfs, as fstatfs(2) of glibc fills it. All members up to f_flags are 64-bit, f_fsid being two i32. */
export const statfs = {
  f_type: 0,
  f_bsize: 8,
  f_blocks: 16,
  f_bfree: 24,
  f_bavail: 32,
  f_files: 40,
  f_ffree: 48,
  f_fsid: 56,
  f_namelen: 64,
  f_frsize: 72,
  f_flags: 80,
  sizeof: 120,
} as const;

/** struct linux_dirent64 of getdents64(2): the NUL-terminated name follows; d_reclen leads to the next record. */
export const linux_dirent64 = { d_ino: 0, d_off: 8, d_reclen: 16, d_type: 18, d_name: 19 } as const;

export const iovec = { iov_base: 0, iov_len: 8, sizeof: 16 } as const;

export const timespec = { tv_sec: 0, tv_nsec: 8, sizeof: 16 } as const;

export const msghdr = {
  msg_name: 0,
  msg_namelen: 8,
  msg_iov: 16,
  msg_iovlen: 24,
  msg_control: 32,
  msg_controllen: 40,
  msg_flags: 48,
  sizeof: 56,
} as const;

/** struct cmsghdr; data follows, and the next header at a multiple of 8. */
export const cmsghdr = { cmsg_len: 0, cmsg_level: 8, cmsg_type: 12, sizeof: 16 } as const;

export const sockaddr_un = { sun_family: 0, sun_path: 2, sizeof: 110 } as const;

/** struct ucred of SO_PEERCRED */
export const ucred = { pid: 0, uid: 4, gid: 8, sizeof: 12 } as const;

/** struct epoll_event: packed on x86-64 alone. */
export const epoll_event = Deno.build.arch === "x86_64"
  ? { events: 0, data: 4, sizeof: 12 } as const
  : { events: 0, data: 8, sizeof: 16 } as const;

export const pollfd = { fd: 0, events: 4, revents: 6, sizeof: 8 } as const;

/** struct flock of F_OFD_SETLK, which wants l_pid to be zero. */
export const flock = { l_type: 0, l_whence: 2, l_start: 8, l_len: 16, l_pid: 24, sizeof: 32 } as const;

/** struct file_handle of name_to_handle_at(2); handle_bytes bytes follow at f_handle. */
export const file_handle = { handle_bytes: 0, handle_type: 4, f_handle: 8, sizeof: 8 } as const;

/** struct rlimit */
export const rlimit = { rlim_cur: 0, rlim_max: 8, sizeof: 16 } as const;

// statx(2)
export const STATX_TYPE = 0x1;
export const STATX_MODE = 0x2;
export const STATX_NLINK = 0x4;
export const STATX_UID = 0x8;
export const STATX_GID = 0x10;
export const STATX_ATIME = 0x20;
export const STATX_MTIME = 0x40;
export const STATX_CTIME = 0x80;
export const STATX_INO = 0x100;
export const STATX_SIZE = 0x200;
export const STATX_BLOCKS = 0x400;
export const STATX_BASIC_STATS = 0x7ff;
export const STATX_BTIME = 0x800;
export const STATX_MNT_ID = 0x1000; // Linux 5.8
export const STATX_DIOALIGN = 0x2000; // Linux 6.1
export const STATX_MNT_ID_UNIQUE = 0x4000; // Linux 6.8

export const STATX_ATTR_IMMUTABLE = 0x10;
export const STATX_ATTR_APPEND = 0x20;
export const STATX_ATTR_AUTOMOUNT = 0x1000;
export const STATX_ATTR_MOUNT_ROOT = 0x2000; // Linux 5.8

// The *at calls
export const AT_FDCWD = -100;
export const AT_SYMLINK_NOFOLLOW = 0x100;
export const AT_EACCESS = 0x200;
export const AT_REMOVEDIR = 0x200;
export const AT_SYMLINK_FOLLOW = 0x400;
export const AT_NO_AUTOMOUNT = 0x800;
export const AT_EMPTY_PATH = 0x1000;
export const AT_STATX_SYNC_TYPE = 0x6000;
export const AT_STATX_SYNC_AS_STAT = 0;
export const AT_STATX_FORCE_SYNC = 0x2000;
export const AT_STATX_DONT_SYNC = 0x4000;

// st_mode: inode(7)
export const S_IFMT = 0o170000;
export const S_IFSOCK = 0o140000;
export const S_IFLNK = 0o120000;
export const S_IFREG = 0o100000;
export const S_IFBLK = 0o060000;
export const S_IFDIR = 0o040000;
export const S_IFCHR = 0o020000;
export const S_IFIFO = 0o010000;
export const S_ISUID = 0o4000;
export const S_ISGID = 0o2000;
export const S_ISVTX = 0o1000;
export const S_IXGRP = 0o010;

// d_type; it is S_IF* >> 12
export const DT_UNKNOWN = 0;
export const DT_FIFO = 1;
export const DT_CHR = 2;
export const DT_DIR = 4;
export const DT_BLK = 6;
export const DT_REG = 8;
export const DT_LNK = 10;
export const DT_SOCK = 12;

// renameat2(2)
export const RENAME_NOREPLACE = 1 << 0;
export const RENAME_EXCHANGE = 1 << 1;
export const RENAME_WHITEOUT = 1 << 2;

// fallocate(2)
export const FALLOC_FL_KEEP_SIZE = 0x01;
export const FALLOC_FL_PUNCH_HOLE = 0x02;
export const FALLOC_FL_COLLAPSE_RANGE = 0x08;
export const FALLOC_FL_ZERO_RANGE = 0x10;
export const FALLOC_FL_INSERT_RANGE = 0x20;
export const FALLOC_FL_UNSHARE_RANGE = 0x40;

// utimensat(2): values of tv_nsec
export const UTIME_NOW = 0x3fffffff;
export const UTIME_OMIT = 0x3ffffffe;

// lseek(2)
export const SEEK_SET = 0;
export const SEEK_CUR = 1;
export const SEEK_END = 2;
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

// preadv2(2), pwritev2(2)
export const RWF_HIPRI = 0x1;
export const RWF_DSYNC = 0x2;
export const RWF_SYNC = 0x4;
export const RWF_NOWAIT = 0x8;
export const RWF_APPEND = 0x10;

// setxattr(2)
export const XATTR_CREATE = 1;
export const XATTR_REPLACE = 2;

// access(2)
export const F_OK = 0;
export const X_OK = 1;
export const W_OK = 2;
export const R_OK = 4;

// flock(2)
export const LOCK_SH = 1;
export const LOCK_EX = 2;
export const LOCK_NB = 4;
export const LOCK_UN = 8;

// fcntl(2)
export const F_GETFD = 1;
export const F_SETFD = 2;
export const F_GETFL = 3;
export const F_SETFL = 4;
export const F_OFD_GETLK = 36;
export const F_OFD_SETLK = 37;
export const F_OFD_SETLKW = 38;
export const F_DUPFD_CLOEXEC = 1030;
export const F_ADD_SEALS = 1033;
export const F_GET_SEALS = 1034;
export const FD_CLOEXEC = 1;
export const F_RDLCK = 0;
export const F_WRLCK = 1;
export const F_UNLCK = 2;

// poll(2), epoll(7)
export const POLLIN = 0x1;
export const POLLPRI = 0x2;
export const POLLOUT = 0x4;
export const POLLERR = 0x8;
export const POLLHUP = 0x10;
export const POLLNVAL = 0x20;
export const POLLRDHUP = 0x2000;
export const EPOLLIN = 0x1;
export const EPOLLOUT = 0x4;
export const EPOLLERR = 0x8;
export const EPOLLHUP = 0x10;
export const EPOLLRDHUP = 0x2000;
export const EPOLL_CTL_ADD = 1;
export const EPOLL_CTL_DEL = 2;
export const EPOLL_CTL_MOD = 3;
export const EPOLL_CLOEXEC = 0o2000000;

// eventfd(2), memfd_create(2)
export const EFD_SEMAPHORE = 1;
export const EFD_NONBLOCK = 0o4000;
export const EFD_CLOEXEC = 0o2000000;
export const MFD_CLOEXEC = 1;
export const MFD_ALLOW_SEALING = 2;

// unix(7), socket(7)
export const AF_UNIX = 1;
export const SOCK_STREAM = 1;
export const SOCK_SEQPACKET = 5;
export const SOCK_NONBLOCK = 0o4000;
export const SOCK_CLOEXEC = 0o2000000;
export const SOL_SOCKET = 1;
export const SO_ERROR = 4;
export const SO_PEERCRED = 17;
export const SCM_RIGHTS = 1;
export const MSG_CTRUNC = 0x8;
export const MSG_DONTWAIT = 0x40;
export const MSG_NOSIGNAL = 0x4000;
export const MSG_CMSG_CLOEXEC = 0x40000000;

// getrlimit(2)
export const RLIMIT_NOFILE = 7;
