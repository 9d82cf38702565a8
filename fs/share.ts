/** A shared directory: opened once, with the shared memory that its loops work on. For the control plane. */
import { O_CLOEXEC, O_DIRECTORY, O_PATH, O_RDONLY } from "../ffi/arch.ts";
import { EACCES, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EOPNOTSUPP, EOVERFLOW, EPERM } from "../ffi/errno.ts";
import { checked, cString, errno, errorText, libc } from "../ffi/libc.ts";
import type { Log } from "../vq/log.ts";
import type { FileHandles, FsConfig, FsOptions } from "./config.ts";
import { KEPT } from "./descriptors.ts";
import { raiseOpenFiles } from "../ffi/limits.ts";
import { FileHandle } from "./file_handle.ts";
import { allocateHandles, freeHandles } from "./handles.ts";
import { allocateLocks, freeLocks } from "./locks.ts";
import { allocateMounts, freeMounts } from "./mounts.ts";
import { FUSE_SUPER_MAGIC } from "./node_files.ts";
import { allocateNodes, freeNodes, NodeTable } from "./nodes.ts";
import { allocateSession, freeSession, setDescriptors } from "./session.ts";
import { StatBuffer } from "./stat.ts";
import { fileSystemType, type Kind, KIND_LOCAL, KIND_MEMORY, kindOf } from "./where.ts";
import { virtio_fs_config } from "./wire.ts";

/** Throws an Error that says what is wrong with a directory, where it cannot be shared. */
export function checkDirectory(dir: string): void {
  libc.close(openDirectory(dir));
}

/**
 * Opens a directory to be shared, and takes the memory of its tables. `loops` is how many may serve it. Throws an Error that says
 * what is wrong with the directory, which it calls `shown`, or why its files cannot be known by file handle where they must.
 */
export function openShare(dir: string, options: FsOptions, loops: number, log: Log, shown = dir): FsConfig {
  const rootFd = openDirectory(dir, shown);
  const stat = new StatBuffer();
  const failed = stat.of(rootFd);
  if (failed < 0) {
    libc.close(rootFd);
    throw new Error(`cannot share ${shown}: ${errorText(-failed)}`);
  }
  const missing = whatIsMissing(rootFd);
  if (missing !== "") log.warn(`${shown}: ${missing}`);
  if (options.xattr && !hasXattrs(rootFd)) {
    log.warn(
      `${shown}: its file system has no extended attributes, the guest gets EOPNOTSUPP: leave --xattr out, or share another`,
    );
  }
  const wanted = options.inodeFileHandles;
  let mountFd: number;
  try {
    mountFd = wanted === "never" ? -1 : openMount(shown, rootFd, wanted, log);
  } catch (error) {
    libc.close(rootFd);
    throw error;
  }
  const procFd = checked("open /proc/self/fd", libc.openat(-100, cString("/proc/self/fd"), O_PATH | O_CLOEXEC, 0));
  const session = allocateSession(loops);
  setDescriptors(session, raiseOpenFiles(0));
  const nodes = allocateNodes();
  new NodeTable(nodes).setRoot(rootFd, stat.identity, stat.type);
  return {
    rootFd,
    procFd,
    mount: stat.identity.mount,
    mountFd,
    dev: stat.identity.dev,
    fileHandles: mountFd < 0 ? "never" : wanted,
    options,
    kind: kindOf(rootFd),
    privileged: libc.geteuid() === 0,
    loops,
    session,
    nodes,
    handles: allocateHandles(),
    locks: allocateLocks(),
    mounts: allocateMounts(),
  };
}

function hasXattrs(rootFd: number): boolean {
  const path = cString(`/proc/self/fd/${rootFd}`);
  return libc.getxattr(path, cString("user.ringfsd"), new Uint8Array(1), 0) >= 0 || errno() !== EOPNOTSUPP;
}

const ADVICE: Record<number, string> = {
  [ENOENT]: "make the directory, or give another",
  [ENOTDIR]: "give the directory that it is in",
  [EACCES]: "this user needs the right to search (x) all directories above it",
  [ENAMETOOLONG]: "give a shorter path, such as a link's",
  [ELOOP]: "its symbolic links go in a circle",
};

/** Opens a directory with O_PATH. Throws an Error that says why it cannot be shared and what to do. */
export function openDirectory(dir: string, shown = dir): number {
  const fd = libc.openat(-100, cString(dir), O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
  if (fd >= 0) return fd;
  const code = errno();
  const advice = ADVICE[code];
  throw new Error(`cannot share ${shown}: ${errorText(code)}${advice ? `: ${advice}` : ""}`);
}

/** What the process cannot do with an open directory, or "". The guest meets it as errors that it cannot explain. */
export function whatIsMissing(rootFd: number): string {
  const fd = libc.openat(rootFd, cString("."), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (fd >= 0) {
    libc.close(fd);
    return "";
  }
  return errno() === EACCES
    ? "this user may not read it, and the guest cannot list it: give the user the right to read and search it (r-x), or start as its owner"
    : "";
}

/** Has the share count on its part of the process's limit of open files, where so many share it. At any time. */
export function divideDescriptors({ session }: FsConfig, parts: number): void {
  setDescriptors(session, KEPT + Math.floor((raiseOpenFiles(0) - KEPT) / parts));
}

/** Gives back what `openShare` took. No loop may use any of it any more. */
export function closeShare(config: FsConfig): void {
  const { rootFd, procFd, mountFd, session, loops, nodes, handles, locks, mounts } = config;
  libc.close(rootFd);
  libc.close(procFd);
  if (mountFd >= 0) libc.close(mountFd);
  freeSession(session, loops);
  freeNodes(nodes);
  freeHandles(handles);
  freeLocks(locks);
  freeMounts(mounts);
}

/** Opens the descriptor by which file handles are opened, and tries them. Returns -1 where they cannot be used, but need not. */
function openMount(dir: string, rootFd: number, wanted: FileHandles, log: Log): number {
  const dot = cString(".");
  const mountFd = libc.openat(rootFd, dot, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  const why = mountFd < 0 ? errorText(errno()) : tryHandles(rootFd, mountFd, wanted);
  if (why === "") return mountFd;
  if (mountFd >= 0) libc.close(mountFd);
  if (wanted === "mandatory") {
    throw new Error(`cannot share ${dir} with --inode-file-handles mandatory: ${why}: give prefer`);
  }
  log.debug(`files are known by descriptor alone: ${why}`);
  return -1;
}

/** Why the files of an open directory cannot be known by file handle, or "". */
export function whyNoHandles(rootFd: number): string {
  const mountFd = libc.openat(rootFd, cString("."), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (mountFd < 0) return errorText(errno());
  const why = tryHandles(rootFd, mountFd, "prefer");
  libc.close(mountFd);
  return why;
}

/** Why file handles cannot be used, or "". */
function tryHandles(rootFd: number, mountFd: number, wanted: FileHandles): string {
  const handle = new FileHandle();
  const failed = handle.of(rootFd);
  if (failed === -EOPNOTSUPP) return "its file system has no file handles";
  if (failed === -EOVERFLOW) return "the handles of its file system are too long";
  if (failed < 0) return `its file handle cannot be had, ${errorText(-failed)}`;
  if (fileSystemType(rootFd) === FUSE_SUPER_MAGIC && wanted === "prefer") {
    return "a file system in user space may not find them again";
  }
  const fd = handle.open(mountFd);
  if (fd === -EPERM) return "opening file handles needs CAP_DAC_READ_SEARCH";
  if (fd < 0) return `its file handles cannot be opened, ${errorText(-fd)}`;
  libc.close(fd);
  return "";
}

/** Helper threads that requests on such a file system need soon. */
export function helpersAtStart(kind: Kind): number {
  return kind === KIND_MEMORY ? 0 : kind === KIND_LOCAL ? 1 : 2;
}

/** struct virtio_fs_config (VIRTIO 1.3, 5.11.4) with a tag and the number of request queues. */
export function configSpace(tag: string, requestQueues: number): Uint8Array {
  const bytes = new Uint8Array(virtio_fs_config.sizeof);
  bytes.set(new TextEncoder().encode(tag));
  new DataView(bytes.buffer).setUint32(virtio_fs_config.num_request_queues, requestQueues, true);
  return bytes;
}
