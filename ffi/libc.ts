/**
 * libc, through the one `Deno.dlopen` of the program, and errno.
 *
 * Parameter types are chosen for FFI's fast path: a size below 2^32 is declared u32, a length result i32, an address or
 * file offset u64/i64 and passed as a bigint that comes out of a BigUint64Array. A number passed for a 64-bit parameter
 * takes the slow path, thirty times as long. A u32 reaches a 64-bit callee zero-extended only among the first six arguments:
 * later ones are on the stack, and must be declared u64.
 * Every symbol is declared with the C prototype it stands for; the caller keeps buffers alive during the call.
 */

export type Pointer = Deno.PointerValue;

const lib = Deno.dlopen("libc.so.6", {
  /** int *__errno_location(void) */
  __errno_location: { parameters: [], result: "pointer" },
  /** char *strerror(int) */
  strerror: { parameters: ["i32"], result: "pointer" },

  // --- memory: mmap(2), munmap(2), madvise(2)
  /** void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset) */
  mmap: { parameters: ["u64", "u64", "i32", "i32", "i32", "i64"], result: "pointer" },
  munmap: { parameters: ["u64", "u64"], result: "i32" },
  /** int mprotect(void *addr, size_t length, int prot) */
  mprotect: { parameters: ["u64", "u64", "i32"], result: "i32" },
  madvise: { parameters: ["u64", "u64", "i32"], result: "i32" },

  // --- descriptors
  /** int openat(int dirfd, const char *path, int flags, mode_t mode) */
  openat: { parameters: ["i32", "buffer", "i32", "u32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  dup: { parameters: ["i32"], result: "i32" },
  /** int fcntl(int fd, int cmd, long arg), with a small argument */
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  /** int fcntl(int fd, int cmd, struct flock *) */
  fcntlLock: { name: "fcntl", parameters: ["i32", "i32", "buffer"], result: "i32" },
  /** int ioctl(int fd, unsigned long request, void *) */
  ioctl: { parameters: ["i32", "u64", "buffer"], result: "i32" },
  /** ssize_t read(int fd, void *buf, size_t count), count below 2 GiB */
  read: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  write: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  /** The same, for memory at an address that was made a pointer once. */
  readAt: { name: "read", parameters: ["i32", "pointer", "u32"], result: "i32" },
  writeAt: { name: "write", parameters: ["i32", "pointer", "u32"], result: "i32" },
  /** ssize_t preadv(int fd, const struct iovec *iov, int iovcnt, off_t offset) */
  preadv: { parameters: ["i32", "u64", "i32", "i64"], result: "i32" },
  pwritev: { parameters: ["i32", "u64", "i32", "i64"], result: "i32" },
  /** ssize_t preadv2(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags): RWF_* */
  preadv2: { parameters: ["i32", "u64", "i32", "i64", "i32"], result: "i32" },
  pwritev2: { parameters: ["i32", "u64", "i32", "i64", "i32"], result: "i32" },
  /** ssize_t pread(int fd, void *buf, size_t count, off_t offset), count below 2 GiB */
  pread: { name: "pread64", parameters: ["i32", "buffer", "u32", "i64"], result: "i32" },
  /** The same, and pwrite, for memory at an address. */
  preadAt: { name: "pread64", parameters: ["i32", "u64", "u32", "i64"], result: "i32" },
  pwriteAt: { name: "pwrite64", parameters: ["i32", "u64", "u32", "i64"], result: "i32" },
  eventfd: { parameters: ["u32", "i32"], result: "i32" },

  // --- files
  /** int statx(int dirfd, const char *path, int flags, unsigned mask, struct statx *) */
  statx: { parameters: ["i32", "buffer", "i32", "u32", "buffer"], result: "i32" },
  /** int fstatfs(int fd, struct statfs *) */
  fstatfs: { parameters: ["i32", "buffer"], result: "i32" },
  /** int name_to_handle_at(int dirfd, const char *path, struct file_handle *, int *mount_id, int flags) */
  name_to_handle_at: { parameters: ["i32", "buffer", "buffer", "buffer", "i32"], result: "i32" },
  /** int open_by_handle_at(int mount_fd, struct file_handle *, int flags) */
  open_by_handle_at: { parameters: ["i32", "buffer", "i32"], result: "i32" },
  ftruncate: { parameters: ["i32", "i64"], result: "i32" },
  fallocate: { parameters: ["i32", "i32", "i64", "i64"], result: "i32" },
  /** off_t lseek(int fd, off_t offset, int whence); the result is -1 or an offset */
  lseek: { parameters: ["i32", "i64", "i32"], result: "i64" },
  fsync: { parameters: ["i32"], result: "i32" },
  fdatasync: { parameters: ["i32"], result: "i32" },
  mkdirat: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  /** int mknodat(int dirfd, const char *path, mode_t mode, dev_t dev) */
  mknodat: { parameters: ["i32", "buffer", "u32", "u64"], result: "i32" },
  unlinkat: { parameters: ["i32", "buffer", "i32"], result: "i32" },
  /** int linkat(int olddirfd, const char *old, int newdirfd, const char *new, int flags) */
  linkat: { parameters: ["i32", "buffer", "i32", "buffer", "i32"], result: "i32" },
  /** int symlinkat(const char *target, int newdirfd, const char *linkpath) */
  symlinkat: { parameters: ["buffer", "i32", "buffer"], result: "i32" },
  readlinkat: { parameters: ["i32", "buffer", "buffer", "u32"], result: "i32" },
  /** int renameat2(int olddirfd, const char *old, int newdirfd, const char *new, unsigned flags) */
  renameat2: { parameters: ["i32", "buffer", "i32", "buffer", "u32"], result: "i32" },
  fchmodat: { parameters: ["i32", "buffer", "u32", "i32"], result: "i32" },
  fchmod: { parameters: ["i32", "u32"], result: "i32" },
  /** int fchownat(int dirfd, const char *path, uid_t, gid_t, int flags) */
  fchownat: { parameters: ["i32", "buffer", "u32", "u32", "i32"], result: "i32" },
  /** int utimensat(int dirfd, const char *path, const struct timespec[2], int flags) */
  utimensat: { parameters: ["i32", "buffer", "buffer", "i32"], result: "i32" },
  futimens: { parameters: ["i32", "buffer"], result: "i32" },
  /** ssize_t getdents64(int fd, void *dirp, size_t count) */
  getdents64: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  umask: { parameters: ["u32"], result: "u32" },
  /** int setxattr(const char *path, const char *name, const void *value, size_t size, int flags) */
  setxattr: { parameters: ["buffer", "buffer", "buffer", "u32", "u32"], result: "i32" },
  /** ssize_t getxattr(const char *path, const char *name, void *value, size_t size) */
  getxattr: { parameters: ["buffer", "buffer", "buffer", "u32"], result: "i32" },
  /** ssize_t listxattr(const char *path, char *list, size_t size) */
  listxattr: { parameters: ["buffer", "buffer", "u32"], result: "i32" },
  removexattr: { parameters: ["buffer", "buffer"], result: "i32" },
  fchdir: { parameters: ["i32"], result: "i32" },
  flock: { parameters: ["i32", "i32"], result: "i32" },

  // --- sockets: unix(7)
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  shutdown: { parameters: ["i32", "i32"], result: "i32" },
  setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  listen: { parameters: ["i32", "i32"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  /** int accept4(int fd, struct sockaddr *, socklen_t *, int flags) */
  accept4: { parameters: ["i32", "pointer", "pointer", "i32"], result: "i32" },
  /** int getsockopt(int fd, int level, int name, void *value, socklen_t *len) */
  getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
  /** ssize_t recvmsg(int fd, struct msghdr *, int flags) */
  recvmsg: { parameters: ["i32", "buffer", "i32"], result: "i32" },
  sendmsg: { parameters: ["i32", "buffer", "i32"], result: "i32" },

  // --- waiting
  epoll_create1: { parameters: ["i32"], result: "i32" },
  epoll_ctl: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  /** int epoll_wait(int epfd, struct epoll_event *, int maxevents, int timeout), in milliseconds */
  epoll_wait: { parameters: ["i32", "buffer", "i32", "i32"], result: "i32" },
  /** On a thread of Deno's pool, so that the event loop goes on; errno is lost. */
  epollWaitAsync: { name: "epoll_wait", parameters: ["i32", "buffer", "i32", "i32"], result: "i32", nonblocking: true },
  /** int poll(struct pollfd *, nfds_t, int timeout) */
  poll: { parameters: ["buffer", "u32", "i32"], result: "i32" },
  /** int clock_gettime(clockid_t, struct timespec *), for memory at an address that was made a pointer once */
  clock_gettime: { parameters: ["i32", "pointer"], result: "i32" },
  sched_yield: { parameters: [], result: "i32" },
  /** int sched_setaffinity(pid_t thread, size_t size, const cpu_set_t *), and sched_getaffinity */
  sched_setaffinity: { parameters: ["i32", "u32", "buffer"], result: "i32" },
  sched_getaffinity: { parameters: ["i32", "u32", "buffer"], result: "i32" },

  // --- this process
  getpagesize: { parameters: [], result: "i32" },
  geteuid: { parameters: [], result: "u32" },
  getegid: { parameters: [], result: "u32" },
  /** int getgroups(int size, gid_t list[]) */
  getgroups: { parameters: ["i32", "buffer"], result: "i32" },
  /** struct group *getgrnam(const char *name): static memory, NULL where there is none */
  getgrnam: { parameters: ["buffer"], result: "pointer" },
  /** int unshare(int flags), of the calling thread */
  unshare: { parameters: ["i32"], result: "i32" },
  /** int execve(const char *path, char *const argv[], char *const envp[]): arrays of addresses that end with 0 */
  execve: { parameters: ["buffer", "buffer", "buffer"], result: "i32" },
  /** int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data) */
  mount: { parameters: ["buffer", "buffer", "buffer", "u32", "buffer"], result: "i32" },
  umount2: { parameters: ["buffer", "i32"], result: "i32" },
  chdir: { parameters: ["buffer"], result: "i32" },
  chroot: { parameters: ["buffer"], result: "i32" },
  memfd_create: { parameters: ["buffer", "u32"], result: "i32" },
  /** int prctl(int option, unsigned long, unsigned long, unsigned long, unsigned long) */
  prctl: { parameters: ["i32", "u32", "u32", "u32", "u32"], result: "i32" },
  /** int capget(cap_user_header_t, cap_user_data_t), and capset: the calling thread's capabilities */
  capget: { parameters: ["buffer", "buffer"], result: "i32" },
  capset: { parameters: ["buffer", "buffer"], result: "i32" },
  /** int getrlimit(int resource, struct rlimit *), and setrlimit */
  getrlimit: { parameters: ["i32", "buffer"], result: "i32" },
  setrlimit: { parameters: ["i32", "buffer"], result: "i32" },

  /** int sigaction(int signum, const struct sigaction *act, struct sigaction *oldact) */
  sigaction: { parameters: ["i32", "buffer", "pointer"], result: "i32" },
  /** int pthread_sigmask(int how, const sigset_t *set, sigset_t *old), of the calling thread */
  pthread_sigmask: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  /** int abs(int): never called, but a handler that does nothing; see ffi/interrupt.ts. */
  abs: { type: "pointer" },
  /** unsigned alarm(unsigned seconds): a handler too, of SIGTERM; see ffi/interrupt.ts. It returns the seconds that were left of the last. */
  alarm: { parameters: ["u32"], result: "u32" },
  alarm_address: { name: "alarm", type: "pointer" },

  // --- raw system calls: syscall(2). One symbol for each shape of arguments.
  /** Any call, with all of its six arguments as words: for helper threads. The result is the call's, or -1 and errno. */
  syscall6: { name: "syscall", parameters: ["i64", "i64", "i64", "i64", "i64", "i64", "i64"], result: "i64" },
  /** int tgkill(pid_t tgid, pid_t tid, int sig); long gettid(void) */
  syscall3: { name: "syscall", parameters: ["i32", "i32", "i32", "i32"], result: "i32" },
  /** int setgroups(size_t size, const gid_t *list), of the calling thread: glibc would change every one. */
  setgroups: { name: "syscall", parameters: ["i32", "u32", "buffer"], result: "i32" },
  /** int pivot_root(const char *new_root, const char *put_old) */
  pivot_root: { name: "syscall", parameters: ["i32", "buffer", "buffer"], result: "i32" },
  /** int mount_setattr(int dirfd, const char *path, unsigned flags, struct mount_attr *, size_t) */
  mount_setattr: { name: "syscall", parameters: ["i32", "i32", "buffer", "u32", "buffer", "u32"], result: "i32" },
  /** int landlock_create_ruleset(const struct landlock_ruleset_attr *, size_t, u32 flags) */
  landlock_create_ruleset: { name: "syscall", parameters: ["i32", "buffer", "u32", "u32"], result: "i32" },
  /** int landlock_add_rule(int ruleset, int type, const void *attr, u32 flags) */
  landlock_add_rule: { name: "syscall", parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  /** int seccomp(unsigned operation, unsigned flags, void *args) */
  seccomp: { name: "syscall", parameters: ["i32", "u32", "u32", "buffer"], result: "i32" },
  /** int rt_sigprocmask(int how, const sigset_t *set, sigset_t *old, size_t), of the calling thread */
  sigprocmask: { name: "syscall", parameters: ["i32", "i32", "buffer", "pointer", "u32"], result: "i32" },
  /** int openat2(int dirfd, const char *path, const struct open_how *how, size_t size) */
  openat2: { name: "syscall", parameters: ["i32", "i32", "buffer", "buffer", "u32"], result: "i32" },
  /** setfsuid and its like: glibc would change every thread. */
  syscall1: { name: "syscall", parameters: ["i32", "u32"], result: "i32" },
  /**
   * int io_uring_enter(unsigned fd, unsigned to_submit, unsigned min_complete, unsigned flags, void *arg, size_t). The
   * size is the seventh argument, which x86-64 passes on the stack: there a u32 would leave its upper half undefined.
   */
  io_uring_enter: { name: "syscall", parameters: ["i32", "u32", "u32", "u32", "u32", "u64", "u64"], result: "i32" },
  /** The same without IORING_ENTER_EXT_ARG: `arg` is 0, and the kernel does not look at the size. */
  io_uring_enter_plain: { name: "syscall", parameters: ["i32", "u32", "u32", "u32", "u32", "u32"], result: "i32" },
  /** int io_uring_setup(unsigned entries, struct io_uring_params *) */
  io_uring_setup: { name: "syscall", parameters: ["i32", "u32", "buffer"], result: "i32" },
  /** int io_uring_register(unsigned fd, unsigned opcode, void *arg, unsigned nr_args) */
  io_uring_register: { name: "syscall", parameters: ["i32", "u32", "u32", "buffer", "u32"], result: "i32" },
});

/** The functions of libc, named as in C. */
export const libc = lib.symbols;

// errno has one address per thread; this module is loaded once per isolate, that is, once per thread.
const errnoCell = new Int32Array(Deno.UnsafePointerView.getArrayBuffer(libc.__errno_location()!, 4));

/** The calling thread's errno. Valid only right after a libc call that failed. */
export function errno(): number {
  return errnoCell[0];
}

/** What strerror(3) says of an error number. */
export function errorText(code: number): string {
  const text = libc.strerror(code);
  return text === null ? `error ${code}` : Deno.UnsafePointerView.getCString(text);
}

/** A failed system call, for start-up and control; request code returns -errno instead. */
export class SystemError extends Error {
  override name = "SystemError";
  constructor(readonly call: string, readonly code: number) {
    super(`${call}: ${errorText(code)}`);
  }
}

/** Returns a result that is not negative, else throws a SystemError with the call's name and errno. */
export function checked(call: string, result: number): number {
  if (result < 0) throw new SystemError(call, errno());
  return result;
}

const encoder = new TextEncoder();

/** A NUL-terminated copy of a string, for `const char *`. Throws where the text itself has a NUL. */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  if (text.includes("\0")) throw new TypeError("a path cannot hold a NUL");
  return encoder.encode(text + "\0");
}
