/**
 * linux/io_uring.h as numbers: byte offsets of the structs that are shared with the kernel, and its constants.
 * The layouts are the same on x86-64 and arm64. tests/ffi/layout.test.ts compares them with the machine's header.
 */

/** struct io_uring_sqe, 64 bytes. Of each union the member that this shim writes. */
export const io_uring_sqe = {
  opcode: 0,
  flags: 1,
  ioprio: 2,
  fd: 4,
  off: 8,
  addr: 16,
  len: 24,
  rw_flags: 28,
  user_data: 32,
  buf_index: 40,
  personality: 42,
  file_index: 44,
  addr3: 48,
  sizeof: 64,
} as const;

/** struct io_uring_cqe, 16 bytes */
export const io_uring_cqe = { user_data: 0, res: 8, flags: 12, sizeof: 16 } as const;

/** struct io_sqring_offsets */
export const io_sqring_offsets = {
  head: 0,
  tail: 4,
  ring_mask: 8,
  ring_entries: 12,
  flags: 16,
  dropped: 20,
  array: 24,
  sizeof: 40,
} as const;

/** struct io_cqring_offsets */
export const io_cqring_offsets = {
  head: 0,
  tail: 4,
  ring_mask: 8,
  ring_entries: 12,
  overflow: 16,
  cqes: 20,
  flags: 24,
  sizeof: 40,
} as const;

/** struct io_uring_params */
export const io_uring_params = {
  sq_entries: 0,
  cq_entries: 4,
  flags: 8,
  sq_thread_cpu: 12,
  sq_thread_idle: 16,
  features: 20,
  wq_fd: 24,
  sq_off: 40,
  cq_off: 80,
  sizeof: 120,
} as const;

/** struct io_uring_getevents_arg, the argument of IORING_ENTER_EXT_ARG */
export const io_uring_getevents_arg = { sigmask: 0, sigmask_sz: 8, ts: 16, sizeof: 24 } as const;

/** struct io_uring_rsrc_update; io_uring_files_update has the same shape */
export const io_uring_rsrc_update = { offset: 0, data: 8, sizeof: 16 } as const;

/** struct io_uring_rsrc_register */
export const io_uring_rsrc_register = { nr: 0, flags: 4, data: 16, tags: 24, sizeof: 32 } as const;

/** struct io_uring_probe, without its array, and struct io_uring_probe_op */
export const io_uring_probe = { last_op: 0, ops_len: 1, ops: 16, sizeof: 16 } as const;
export const io_uring_probe_op = { op: 0, flags: 2, sizeof: 8 } as const;

/** struct io_uring_restriction; register_op, sqe_op and sqe_flags are one byte */
export const io_uring_restriction = { opcode: 0, register_op: 2, sqe_op: 2, sqe_flags: 2, sizeof: 16 } as const;

/** Offsets for mmap(2) on the ring's descriptor. */
export const IORING_OFF_SQ_RING = 0;
export const IORING_OFF_CQ_RING = 0x8000000;
export const IORING_OFF_SQES = 0x10000000;

// io_uring_setup(2) flags, with the kernel that brought them
export const IORING_SETUP_IOPOLL = 1 << 0;
export const IORING_SETUP_SQPOLL = 1 << 1;
export const IORING_SETUP_SQ_AFF = 1 << 2;
export const IORING_SETUP_CQSIZE = 1 << 3;
export const IORING_SETUP_CLAMP = 1 << 4; // 5.6
export const IORING_SETUP_ATTACH_WQ = 1 << 5; // 5.6
export const IORING_SETUP_R_DISABLED = 1 << 6; // 5.10
export const IORING_SETUP_SUBMIT_ALL = 1 << 7; // 5.18
export const IORING_SETUP_COOP_TASKRUN = 1 << 8; // 5.19
export const IORING_SETUP_TASKRUN_FLAG = 1 << 9; // 5.19
export const IORING_SETUP_SQE128 = 1 << 10; // 5.19
export const IORING_SETUP_CQE32 = 1 << 11; // 5.19
export const IORING_SETUP_SINGLE_ISSUER = 1 << 12; // 6.0
export const IORING_SETUP_DEFER_TASKRUN = 1 << 13; // 6.1
export const IORING_SETUP_NO_SQARRAY = 1 << 16; // 6.6

export const IORING_FEAT_SINGLE_MMAP = 1 << 0; // 5.4
export const IORING_FEAT_NODROP = 1 << 1; // 5.5
export const IORING_FEAT_EXT_ARG = 1 << 8; // 5.11
export const IORING_FEAT_RSRC_TAGS = 1 << 10; // 5.13
export const IORING_FEAT_NO_IOWAIT = 1 << 17; // 6.15

export const IORING_ENTER_GETEVENTS = 1 << 0;
export const IORING_ENTER_SQ_WAKEUP = 1 << 1;
export const IORING_ENTER_SQ_WAIT = 1 << 2;
export const IORING_ENTER_EXT_ARG = 1 << 3;
export const IORING_ENTER_REGISTERED_RING = 1 << 4;
export const IORING_ENTER_NO_IOWAIT = 1 << 7;

/** Bits of the submission ring's flags word, which the kernel sets. */
export const IORING_SQ_NEED_WAKEUP = 1 << 0;
export const IORING_SQ_CQ_OVERFLOW = 1 << 1;
export const IORING_SQ_TASKRUN = 1 << 2;

export const IORING_CQE_F_BUFFER = 1 << 0;
export const IORING_CQE_F_MORE = 1 << 1;
export const IORING_CQE_F_NOTIF = 1 << 3;

export const IOSQE_FIXED_FILE = 1 << 0;
export const IOSQE_IO_DRAIN = 1 << 1;
export const IOSQE_IO_LINK = 1 << 2;
export const IOSQE_IO_HARDLINK = 1 << 3;
export const IOSQE_ASYNC = 1 << 4;
export const IOSQE_BUFFER_SELECT = 1 << 5;
export const IOSQE_CQE_SKIP_SUCCESS = 1 << 6;

// enum io_uring_op: those with a prep_ function here, and some for restriction lists
export const IORING_OP_NOP = 0;
export const IORING_OP_READV = 1;
export const IORING_OP_WRITEV = 2;
export const IORING_OP_FSYNC = 3;
export const IORING_OP_READ_FIXED = 4;
export const IORING_OP_WRITE_FIXED = 5;
export const IORING_OP_POLL_ADD = 6;
export const IORING_OP_POLL_REMOVE = 7;
export const IORING_OP_TIMEOUT = 11;
export const IORING_OP_TIMEOUT_REMOVE = 12;
export const IORING_OP_ASYNC_CANCEL = 14;
export const IORING_OP_LINK_TIMEOUT = 15;
export const IORING_OP_FALLOCATE = 17;
export const IORING_OP_OPENAT = 18;
export const IORING_OP_CLOSE = 19;
export const IORING_OP_STATX = 21;
export const IORING_OP_READ = 22;
export const IORING_OP_WRITE = 23;
export const IORING_OP_MSG_RING = 40;

export const IORING_FSYNC_DATASYNC = 1 << 0;
export const IORING_POLL_ADD_MULTI = 1 << 0;
export const IORING_TIMEOUT_ABS = 1 << 0;
export const IORING_TIMEOUT_MULTISHOT = 1 << 6; // 6.4
export const IORING_ASYNC_CANCEL_ALL = 1 << 0; // 5.19
export const IORING_ASYNC_CANCEL_FD = 1 << 1; // 5.19
export const IORING_ASYNC_CANCEL_ANY = 1 << 2; // 5.19
export const IORING_MSG_DATA = 0;

// io_uring_register(2)
export const IORING_REGISTER_BUFFERS = 0;
export const IORING_UNREGISTER_BUFFERS = 1;
export const IORING_REGISTER_FILES = 2;
export const IORING_UNREGISTER_FILES = 3;
export const IORING_REGISTER_EVENTFD = 4;
export const IORING_UNREGISTER_EVENTFD = 5;
export const IORING_REGISTER_FILES_UPDATE = 6;
export const IORING_REGISTER_PROBE = 8;
export const IORING_REGISTER_PERSONALITY = 9;
export const IORING_UNREGISTER_PERSONALITY = 10;
export const IORING_REGISTER_RESTRICTIONS = 11;
export const IORING_REGISTER_ENABLE_RINGS = 12;
export const IORING_REGISTER_FILES2 = 13;
export const IORING_REGISTER_IOWQ_AFF = 17;
export const IORING_UNREGISTER_IOWQ_AFF = 18;
export const IORING_REGISTER_IOWQ_MAX_WORKERS = 19;
export const IORING_REGISTER_RING_FDS = 20;
export const IORING_UNREGISTER_RING_FDS = 21;

export const IORING_RSRC_REGISTER_SPARSE = 1 << 0;
export const IO_URING_OP_SUPPORTED = 1 << 0;

export const IORING_RESTRICTION_REGISTER_OP = 0;
export const IORING_RESTRICTION_SQE_OP = 1;
export const IORING_RESTRICTION_SQE_FLAGS_ALLOWED = 2;
export const IORING_RESTRICTION_SQE_FLAGS_REQUIRED = 3;
