/** Opcodes and flags of linux/fuse.h up to 7.45, in the kernel's spelling. */

export const FUSE_KERNEL_VERSION = 7;
/** The newest minor version that ringfsd speaks. */
export const FUSE_KERNEL_MINOR_VERSION = 45;

export const FUSE_ROOT_ID = 1;
/** uid and gid of a request that cannot be mapped, with FUSE_ALLOW_IDMAP. */
export const FUSE_INVALID_UIDGID = 0xffffffff;

// enum fuse_opcode
export const FUSE_LOOKUP = 1;
export const FUSE_FORGET = 2; // no reply
export const FUSE_GETATTR = 3;
export const FUSE_SETATTR = 4;
export const FUSE_READLINK = 5;
export const FUSE_SYMLINK = 6;
export const FUSE_MKNOD = 8;
export const FUSE_MKDIR = 9;
export const FUSE_UNLINK = 10;
export const FUSE_RMDIR = 11;
export const FUSE_RENAME = 12;
export const FUSE_LINK = 13;
export const FUSE_OPEN = 14;
export const FUSE_READ = 15;
export const FUSE_WRITE = 16;
export const FUSE_STATFS = 17;
export const FUSE_RELEASE = 18;
export const FUSE_FSYNC = 20;
export const FUSE_SETXATTR = 21;
export const FUSE_GETXATTR = 22;
export const FUSE_LISTXATTR = 23;
export const FUSE_REMOVEXATTR = 24;
export const FUSE_FLUSH = 25;
export const FUSE_INIT = 26;
export const FUSE_OPENDIR = 27;
export const FUSE_READDIR = 28;
export const FUSE_RELEASEDIR = 29;
export const FUSE_FSYNCDIR = 30;
export const FUSE_GETLK = 31;
export const FUSE_SETLK = 32;
export const FUSE_SETLKW = 33;
export const FUSE_ACCESS = 34;
export const FUSE_CREATE = 35;
export const FUSE_INTERRUPT = 36; // no reply, unless it is -EAGAIN
export const FUSE_BMAP = 37;
export const FUSE_DESTROY = 38;
export const FUSE_IOCTL = 39;
export const FUSE_POLL = 40;
export const FUSE_NOTIFY_REPLY = 41;
export const FUSE_BATCH_FORGET = 42; // no reply
export const FUSE_FALLOCATE = 43;
export const FUSE_READDIRPLUS = 44;
export const FUSE_RENAME2 = 45;
export const FUSE_LSEEK = 46;
export const FUSE_COPY_FILE_RANGE = 47;
export const FUSE_SETUPMAPPING = 48;
export const FUSE_REMOVEMAPPING = 49;
export const FUSE_SYNCFS = 50;
export const FUSE_TMPFILE = 51;
export const FUSE_STATX = 52;
export const FUSE_COPY_FILE_RANGE_64 = 53;

// fuse_init_in.flags, fuse_init_out.flags
export const FUSE_ASYNC_READ = 0x1;
export const FUSE_POSIX_LOCKS = 0x2;
export const FUSE_FILE_OPS = 0x4;
export const FUSE_ATOMIC_O_TRUNC = 0x8;
export const FUSE_EXPORT_SUPPORT = 0x10;
export const FUSE_BIG_WRITES = 0x20;
export const FUSE_DONT_MASK = 0x40;
export const FUSE_SPLICE_WRITE = 0x80;
export const FUSE_SPLICE_MOVE = 0x100;
export const FUSE_SPLICE_READ = 0x200;
export const FUSE_FLOCK_LOCKS = 0x400;
export const FUSE_HAS_IOCTL_DIR = 0x800;
export const FUSE_AUTO_INVAL_DATA = 0x1000;
export const FUSE_DO_READDIRPLUS = 0x2000;
export const FUSE_READDIRPLUS_AUTO = 0x4000;
export const FUSE_ASYNC_DIO = 0x8000;
export const FUSE_WRITEBACK_CACHE = 0x10000;
export const FUSE_NO_OPEN_SUPPORT = 0x20000;
export const FUSE_PARALLEL_DIROPS = 0x40000;
export const FUSE_HANDLE_KILLPRIV = 0x80000;
export const FUSE_POSIX_ACL = 0x100000;
export const FUSE_ABORT_ERROR = 0x200000;
export const FUSE_MAX_PAGES = 0x400000;
export const FUSE_CACHE_SYMLINKS = 0x800000;
export const FUSE_NO_OPENDIR_SUPPORT = 0x1000000;
export const FUSE_EXPLICIT_INVAL_DATA = 0x2000000;
export const FUSE_MAP_ALIGNMENT = 0x4000000;
export const FUSE_SUBMOUNTS = 0x8000000;
export const FUSE_HANDLE_KILLPRIV_V2 = 0x10000000;
export const FUSE_SETXATTR_EXT = 0x20000000;
/** flags2 is valid. */
export const FUSE_INIT_EXT = 0x40000000;

/** Bits of flags2: the kernel's 64-bit constants of these names, shifted down by 32. */
export const FLAGS2 = {
  FUSE_SECURITY_CTX: 0x1,
  FUSE_HAS_INODE_DAX: 0x2,
  FUSE_CREATE_SUPP_GROUP: 0x4,
  FUSE_HAS_EXPIRE_ONLY: 0x8,
  FUSE_DIRECT_IO_ALLOW_MMAP: 0x10,
  FUSE_PASSTHROUGH: 0x20,
  FUSE_NO_EXPORT_SUPPORT: 0x40,
  FUSE_HAS_RESEND: 0x80,
  FUSE_ALLOW_IDMAP: 0x100,
  FUSE_OVER_IO_URING: 0x200,
  FUSE_REQUEST_TIMEOUT: 0x400,
} as const;

/** The bit of unique's upper half that marks a request sent again (FUSE_UNIQUE_RESEND >> 32). */
export const FUSE_UNIQUE_RESEND_HI = 0x80000000;

// fuse_setattr_in.valid
export const FATTR_MODE = 0x1;
export const FATTR_UID = 0x2;
export const FATTR_GID = 0x4;
export const FATTR_SIZE = 0x8;
export const FATTR_ATIME = 0x10;
export const FATTR_MTIME = 0x20;
export const FATTR_FH = 0x40;
export const FATTR_ATIME_NOW = 0x80;
export const FATTR_MTIME_NOW = 0x100;
export const FATTR_LOCKOWNER = 0x200;
export const FATTR_CTIME = 0x400;
export const FATTR_KILL_SUIDGID = 0x800;

// fuse_open_out.open_flags
export const FOPEN_DIRECT_IO = 0x1;
export const FOPEN_KEEP_CACHE = 0x2;
export const FOPEN_NONSEEKABLE = 0x4;
export const FOPEN_CACHE_DIR = 0x8;
export const FOPEN_STREAM = 0x10;
export const FOPEN_NOFLUSH = 0x20;
export const FOPEN_PARALLEL_DIRECT_WRITES = 0x40;
export const FOPEN_PASSTHROUGH = 0x80;

/** fuse_open_in.open_flags, fuse_create_in.open_flags */
export const FUSE_OPEN_KILL_SUIDGID = 0x1;
// fuse_release_in.release_flags
export const FUSE_RELEASE_FLUSH = 0x1;
export const FUSE_RELEASE_FLOCK_UNLOCK = 0x2;
/** fuse_getattr_in.getattr_flags: fh is valid. */
export const FUSE_GETATTR_FH = 0x1;
/** fuse_lk_in.lk_flags: flock(2) instead of fcntl(2). */
export const FUSE_LK_FLOCK = 0x1;
// fuse_write_in.write_flags
export const FUSE_WRITE_CACHE = 0x1;
export const FUSE_WRITE_LOCKOWNER = 0x2;
export const FUSE_WRITE_KILL_SUIDGID = 0x4;
/** fuse_read_in.read_flags */
export const FUSE_READ_LOCKOWNER = 0x2;
/** fuse_fsync_in.fsync_flags */
export const FUSE_FSYNC_FDATASYNC = 0x1;
// fuse_attr.flags
export const FUSE_ATTR_SUBMOUNT = 0x1;
export const FUSE_ATTR_DAX = 0x2;
/** fuse_setxattr_in.setxattr_flags */
export const FUSE_SETXATTR_ACL_KILL_SGID = 0x1;
// fuse_ioctl_in.flags, fuse_ioctl_out.flags
export const FUSE_IOCTL_COMPAT = 0x1;
export const FUSE_IOCTL_UNRESTRICTED = 0x2;
export const FUSE_IOCTL_RETRY = 0x4;
export const FUSE_IOCTL_32BIT = 0x8;
export const FUSE_IOCTL_DIR = 0x10;
export const FUSE_IOCTL_COMPAT_X32 = 0x20;
export const FUSE_IOCTL_MAX_IOV = 256;
/** fuse_poll_in.flags */
export const FUSE_POLL_SCHEDULE_NOTIFY = 0x1;
// fuse_setupmapping_in.flags, u64
export const FUSE_SETUPMAPPING_FLAG_WRITE = 0x1;
export const FUSE_SETUPMAPPING_FLAG_READ = 0x2;

// enum fuse_ext_type
export const FUSE_MAX_NR_SECCTX = 31;
export const FUSE_EXT_GROUPS = 32;

// enum fuse_notify_code: `error` of a fuse_out_header whose `unique` is 0
export const FUSE_NOTIFY_POLL = 1;
export const FUSE_NOTIFY_INVAL_INODE = 2;
export const FUSE_NOTIFY_INVAL_ENTRY = 3;
export const FUSE_NOTIFY_STORE = 4;
export const FUSE_NOTIFY_RETRIEVE = 5;
export const FUSE_NOTIFY_DELETE = 6;
export const FUSE_NOTIFY_RESEND = 7;
export const FUSE_NOTIFY_INC_EPOCH = 8;
export const FUSE_NOTIFY_PRUNE = 9;
/** fuse_notify_inval_entry_out.flags */
export const FUSE_EXPIRE_ONLY = 0x1;

/** The smallest buffer that a server must offer for a request, in bytes. */
export const FUSE_MIN_READ_BUFFER = 8192;

// Sizes of structs in older minor versions of the protocol.
export const FUSE_COMPAT_ENTRY_OUT_SIZE = 120; // before 7.9
export const FUSE_COMPAT_ATTR_OUT_SIZE = 96; // before 7.9
export const FUSE_COMPAT_MKNOD_IN_SIZE = 8; // before 7.12
export const FUSE_COMPAT_WRITE_IN_SIZE = 24; // before 7.9
export const FUSE_COMPAT_STATFS_SIZE = 48; // before 7.4
export const FUSE_COMPAT_SETXATTR_IN_SIZE = 8; // without FUSE_SETXATTR_EXT
export const FUSE_COMPAT_INIT_OUT_SIZE = 8; // before 7.5
export const FUSE_COMPAT_22_INIT_OUT_SIZE = 24; // before 7.23
