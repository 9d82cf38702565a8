/**
 * The FUSE protocol up to 7.45 as a server sees it: struct layouts here, opcodes and flags in wire_constants.ts.
 *
 * Source: linux/fuse.h, linux/virtio_fs.h. Byte offsets, little-endian, in the kernel's spelling; a member that is itself a
 * struct has its own table, whose offsets are added. tests/fs/wire.test.ts compares everything with the machine's header.
 */
export * from "./wire_constants.ts";

// --- every request and reply

/** `total_extlen` is u16 and counts 8-byte units. */
export const fuse_in_header = {
  len: 0,
  opcode: 4,
  unique: 8,
  nodeid: 16,
  uid: 24,
  gid: 28,
  pid: 32,
  total_extlen: 36,
  padding: 38,
  sizeof: 40,
} as const;

/** `error` is 0 or -errno, as i32. */
export const fuse_out_header = { len: 0, error: 4, unique: 8, sizeof: 16 } as const;

// --- the session: FUSE_INIT, FUSE_INTERRUPT

/** Before 7.36 it ended at `flags2` (16 bytes). */
export const fuse_init_in = {
  major: 0,
  minor: 4,
  max_readahead: 8,
  flags: 12,
  flags2: 16,
  unused: 20,
  sizeof: 64,
} as const;

/** `max_background`, `congestion_threshold`, `max_pages`, `map_alignment` and `request_timeout` are u16. */
export const fuse_init_out = {
  major: 0,
  minor: 4,
  max_readahead: 8,
  flags: 12,
  max_background: 16,
  congestion_threshold: 18,
  max_write: 20,
  time_gran: 24,
  max_pages: 28,
  map_alignment: 30,
  flags2: 32,
  max_stack_depth: 36,
  request_timeout: 40,
  unused: 42,
  sizeof: 64,
} as const;

export const fuse_interrupt_in = { unique: 0, sizeof: 8 } as const;

// --- attributes

export const fuse_attr = {
  ino: 0,
  size: 8,
  blocks: 16,
  atime: 24,
  mtime: 32,
  ctime: 40,
  atimensec: 48,
  mtimensec: 52,
  ctimensec: 56,
  mode: 60,
  nlink: 64,
  uid: 68,
  gid: 72,
  rdev: 76,
  blksize: 80,
  flags: 84,
  sizeof: 88,
} as const;

export const fuse_getattr_in = { getattr_flags: 0, dummy: 4, fh: 8, sizeof: 16 } as const;

/** `attr` is a fuse_attr. */
export const fuse_attr_out = { attr_valid: 0, attr_valid_nsec: 8, dummy: 12, attr: 16, sizeof: 104 } as const;

export const fuse_setattr_in = {
  valid: 0,
  padding: 4,
  fh: 8,
  size: 16,
  lock_owner: 24,
  atime: 32,
  mtime: 40,
  ctime: 48,
  atimensec: 56,
  mtimensec: 60,
  ctimensec: 64,
  mode: 68,
  unused4: 72,
  uid: 76,
  gid: 80,
  unused5: 84,
  sizeof: 88,
} as const;

/** 7.39. `tv_nsec` is u32. */
export const fuse_sx_time = { tv_sec: 0, tv_nsec: 8, sizeof: 16 } as const;

/** 7.39. Bit for bit struct statx; the times are fuse_sx_time, `mode` is u16. */
export const fuse_statx = {
  mask: 0,
  blksize: 4,
  attributes: 8,
  nlink: 16,
  uid: 20,
  gid: 24,
  mode: 28,
  ino: 32,
  size: 40,
  blocks: 48,
  attributes_mask: 56,
  atime: 64,
  btime: 80,
  ctime: 96,
  mtime: 112,
  rdev_major: 128,
  rdev_minor: 132,
  dev_major: 136,
  dev_minor: 140,
  sizeof: 256,
} as const;

export const fuse_statx_in = { getattr_flags: 0, reserved: 4, fh: 8, sx_flags: 16, sx_mask: 20, sizeof: 24 } as const;

/** `stat` is a fuse_statx. */
export const fuse_statx_out = {
  attr_valid: 0,
  attr_valid_nsec: 8,
  flags: 12,
  spare: 16,
  stat: 32,
  sizeof: 288,
} as const;

export const fuse_access_in = { mask: 0, padding: 4, sizeof: 8 } as const;

// --- names: look-up, creation, removal. The names follow, NUL-terminated.

/** `attr` is a fuse_attr. */
export const fuse_entry_out = {
  nodeid: 0,
  generation: 8,
  entry_valid: 16,
  attr_valid: 24,
  entry_valid_nsec: 32,
  attr_valid_nsec: 36,
  attr: 40,
  sizeof: 128,
} as const;

export const fuse_forget_in = { nlookup: 0, sizeof: 8 } as const;
/** `count` of fuse_forget_one follow. */
export const fuse_batch_forget_in = { count: 0, dummy: 4, sizeof: 8 } as const;
export const fuse_forget_one = { nodeid: 0, nlookup: 8, sizeof: 16 } as const;

export const fuse_mknod_in = { mode: 0, rdev: 4, umask: 8, padding: 12, sizeof: 16 } as const;
export const fuse_mkdir_in = { mode: 0, umask: 4, sizeof: 8 } as const;
/** Two names follow: old, new. */
export const fuse_rename_in = { newdir: 0, sizeof: 8 } as const;
/** Two names follow: old, new. */
export const fuse_rename2_in = { newdir: 0, flags: 8, padding: 12, sizeof: 16 } as const;
export const fuse_link_in = { oldnodeid: 0, sizeof: 8 } as const;

// --- open files

/** `flags` are those of open(2), `open_flags` FUSE_OPEN_*. */
export const fuse_open_in = { flags: 0, open_flags: 4, sizeof: 8 } as const;
export const fuse_create_in = { flags: 0, mode: 4, umask: 8, open_flags: 12, sizeof: 16 } as const;
/** `open_flags` are FOPEN_*. `backing_id` (7.40) was padding. */
export const fuse_open_out = { fh: 0, open_flags: 8, backing_id: 12, sizeof: 16 } as const;
export const fuse_release_in = { fh: 0, flags: 8, release_flags: 12, lock_owner: 16, sizeof: 24 } as const;
export const fuse_flush_in = { fh: 0, unused: 8, padding: 12, lock_owner: 16, sizeof: 24 } as const;
export const fuse_fsync_in = { fh: 0, fsync_flags: 8, padding: 12, sizeof: 16 } as const;

/** READ, READDIR, READDIRPLUS */
export const fuse_read_in = {
  fh: 0,
  offset: 8,
  size: 16,
  read_flags: 20,
  lock_owner: 24,
  flags: 32,
  padding: 36,
  sizeof: 40,
} as const;

/** The data follow. */
export const fuse_write_in = {
  fh: 0,
  offset: 8,
  size: 16,
  write_flags: 20,
  lock_owner: 24,
  flags: 32,
  padding: 36,
  sizeof: 40,
} as const;

/** WRITE, COPY_FILE_RANGE */
export const fuse_write_out = { size: 0, padding: 4, sizeof: 8 } as const;

export const fuse_fallocate_in = { fh: 0, offset: 8, length: 16, mode: 24, padding: 28, sizeof: 32 } as const;
export const fuse_lseek_in = { fh: 0, offset: 8, whence: 16, padding: 20, sizeof: 24 } as const;
export const fuse_lseek_out = { offset: 0, sizeof: 8 } as const;

/** The source file is the request's nodeid and `fh_in`. */
export const fuse_copy_file_range_in = {
  fh_in: 0,
  off_in: 8,
  nodeid_out: 16,
  fh_out: 24,
  off_out: 32,
  len: 40,
  flags: 48,
  sizeof: 56,
} as const;

/** The reply to COPY_FILE_RANGE_64, 7.45. */
export const fuse_copy_file_range_out = { bytes_copied: 0, sizeof: 8 } as const;

export const fuse_bmap_in = { block: 0, blocksize: 8, padding: 12, sizeof: 16 } as const;
export const fuse_bmap_out = { block: 0, sizeof: 8 } as const;

export const fuse_ioctl_in = { fh: 0, flags: 8, cmd: 12, arg: 16, in_size: 24, out_size: 28, sizeof: 32 } as const;
export const fuse_ioctl_iovec = { base: 0, len: 8, sizeof: 16 } as const;
export const fuse_ioctl_out = { result: 0, flags: 4, in_iovs: 8, out_iovs: 12, sizeof: 16 } as const;

export const fuse_poll_in = { fh: 0, kh: 8, flags: 16, events: 20, sizeof: 24 } as const;
export const fuse_poll_out = { revents: 0, padding: 4, sizeof: 8 } as const;

// --- directories

/** `name` is not terminated; the next record begins at a multiple of 8 (direntSize). */
export const fuse_dirent = { ino: 0, off: 8, namelen: 16, type: 20, name: 24, sizeof: 24 } as const;

/** `entry_out` is a fuse_entry_out, `dirent` a fuse_dirent. */
export const fuse_direntplus = { entry_out: 0, dirent: 128, sizeof: 152 } as const;

/** FUSE_DIRENT_SIZE: bytes of one record of a READDIR reply. */
export function direntSize(nameBytes: number): number {
  return (fuse_dirent.name + nameBytes + 7) & ~7;
}

/** FUSE_DIRENTPLUS_SIZE: bytes of one record of a READDIRPLUS reply. */
export function direntplusSize(nameBytes: number): number {
  return fuse_direntplus.dirent + direntSize(nameBytes);
}

// --- locks

export const fuse_file_lock = { start: 0, end: 8, type: 16, pid: 20, sizeof: 24 } as const;
/** `lk` is a fuse_file_lock. */
export const fuse_lk_in = { fh: 0, owner: 8, lk: 16, lk_flags: 40, padding: 44, sizeof: 48 } as const;
export const fuse_lk_out = { lk: 0, sizeof: 24 } as const;

// --- extended attributes

/** Only with FUSE_SETXATTR_EXT it is of this size, else FUSE_COMPAT_SETXATTR_IN_SIZE. Name and value follow. */
export const fuse_setxattr_in = { size: 0, flags: 4, setxattr_flags: 8, padding: 12, sizeof: 16 } as const;
/** GETXATTR and LISTXATTR; `size` 0 asks for the size. */
export const fuse_getxattr_in = { size: 0, padding: 4, sizeof: 8 } as const;
export const fuse_getxattr_out = { size: 0, padding: 4, sizeof: 8 } as const;

// --- the file system

export const fuse_kstatfs = {
  blocks: 0,
  bfree: 8,
  bavail: 16,
  files: 24,
  ffree: 32,
  bsize: 40,
  namelen: 44,
  frsize: 48,
  padding: 52,
  spare: 56,
  sizeof: 80,
} as const;

/** `st` is a fuse_kstatfs. */
export const fuse_statfs_out = { st: 0, sizeof: 80 } as const;

export const fuse_syncfs_in = { padding: 0, sizeof: 8 } as const;

// --- DAX

export const fuse_setupmapping_in = { fh: 0, foffset: 8, len: 16, flags: 24, moffset: 32, sizeof: 40 } as const;
/** `count` of fuse_removemapping_one follow. */
export const fuse_removemapping_in = { count: 0, sizeof: 4 } as const;
export const fuse_removemapping_one = { moffset: 0, len: 8, sizeof: 16 } as const;

// --- extensions behind MKNOD, MKDIR, SYMLINK, CREATE and TMPFILE

/** With FUSE_SECURITY_CTX: `size` covers the header and all contexts. */
export const fuse_secctx_header = { size: 0, nr_secctx: 4, sizeof: 8 } as const;
/** The NUL-terminated name of the attribute and `size` bytes of label follow. */
export const fuse_secctx = { size: 0, padding: 4, sizeof: 8 } as const;
/** 7.38. `type` above FUSE_MAX_NR_SECCTX tells it from a fuse_secctx_header. */
export const fuse_ext_header = { size: 0, type: 4, sizeof: 8 } as const;
/** 7.38. Body of FUSE_EXT_GROUPS: `nr_groups` of u32. */
export const fuse_supp_groups = { nr_groups: 0, groups: 4, sizeof: 4 } as const;

// --- notifications, for a device with VIRTIO_FS_F_NOTIFICATION

export const fuse_notify_poll_wakeup_out = { kh: 0, sizeof: 8 } as const;
export const fuse_notify_inval_inode_out = { ino: 0, off: 8, len: 16, sizeof: 24 } as const;
export const fuse_notify_inval_entry_out = { parent: 0, namelen: 8, flags: 12, sizeof: 16 } as const;
export const fuse_notify_delete_out = { parent: 0, child: 8, namelen: 16, padding: 20, sizeof: 24 } as const;
export const fuse_notify_store_out = { nodeid: 0, offset: 8, size: 16, padding: 20, sizeof: 24 } as const;

// --- the device

/** struct virtio_fs_config, VIRTIO 5.11.4. `tag` is 36 bytes of UTF-8, filled up with NULs. */
export const virtio_fs_config = { tag: 0, num_request_queues: 36, sizeof: 40 } as const;
