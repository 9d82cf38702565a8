/**
 * The files of nodes, one loop's view. A node that holds a descriptor has it at hand; one that is known by its file handle is opened
 * for the time of a request, once, and closed behind the handler. What goes on after the handler, on the ring or in a helper, works
 * on duplicates.
 */
import { O_DIRECTORY, O_NONBLOCK, O_RDONLY } from "../ffi/arch.ts";
import { EMFILE, ENFILE, EOPNOTSUPP, ESTALE } from "../ffi/errno.ts";
import { libc } from "../ffi/libc.ts";
import { S_IFDIR, S_IFREG, statfs } from "../ffi/stat_layout.ts";
import type { FsConfig } from "./config.ts";
import type { Descriptors } from "./descriptors.ts";
import { FileHandle } from "./file_handle.ts";
import type { MountTable } from "./mounts.ts";
import { fdOf, hasFd, NEEDS_HANDLE, type NodeTable, type Retire, withFd } from "./nodes.ts";
import type { ProcPath } from "./proc_path.ts";
import { StatBuffer } from "./stat.ts";

/** Nodes of one request: RENAME and LINK name two. */
const OPENED_MAX = 4;

/**
 * A file system in user space gives handles for files that it may not find by them once the kernel has forgotten them, and does not
 * tell whether it does. linux/magic.h.
 */
export const FUSE_SUPER_MAGIC = 0x65735546;

const statfsBytes = new Uint8Array(statfs.sizeof);
const statfs32 = new Uint32Array(statfsBytes.buffer);

export class NodeFiles {
  /** The handle of the file that is being looked up. */
  readonly wanted = new FileHandle();
  /** Of a node that is being opened. */
  readonly #handle = new FileHandle();
  // What was opened for the request: slots, and each one's `held`.
  readonly #slots = new Int32Array(OPENED_MAX);
  readonly #held = new Int32Array(OPENED_MAX);
  #opened = 0;
  /** For a look at a second file. */
  readonly #stat = new StatBuffer();

  constructor(
    readonly config: FsConfig,
    readonly nodes: NodeTable,
    readonly mounts: MountTable,
    readonly descriptors: Descriptors,
    readonly stat: StatBuffer,
    readonly proc: ProcPath,
    /** As in NodeTable. */
    readonly retire: Retire,
  ) {}

  /** Descriptor and type of a node, as NodeTable.held, or -errno: ESTALE where its file is gone. */
  held(slot: number): number {
    const file = this.nodes.held(slot);
    return hasFd(file) ? file : this.#open(slot);
  }

  #open(slot: number): number {
    for (let i = 0; i < this.#opened; i++) if (this.#slots[i] === slot) return this.#held[i];
    if (this.#opened === OPENED_MAX) return -EMFILE;
    const file = this.nodes.handle(slot, this.#handle);
    if (file === 0) return -ESTALE;
    // Another loop has given the slot to a file that it holds.
    if (hasFd(file)) return file;
    const mountFd = this.mounts.fd(this.nodes.mount);
    const fd = mountFd < 0 ? -ESTALE : this.#handle.open(mountFd);
    if (fd < 0) return fd;
    this.#slots[this.#opened] = slot;
    return this.#held[this.#opened++] = withFd(file, fd);
  }

  /** Whether `close` has something to do. */
  get opened(): boolean {
    return this.#opened > 0;
  }

  /** Closes what was opened for the request. */
  close(): void {
    while (this.#opened > 0) libc.close(fdOf(this.#held[--this.#opened]));
  }

  /**
   * The node of the name in a directory that `stat` describes, its lookup count raised, or 0 where it is not known. Where the node holds a
   * descriptor, its inode number is no other file's; else the handle is asked for.
   */
  find(dirFd: number, name: Uint8Array<ArrayBuffer>): number {
    const { nodes, stat, wanted, retire } = this;
    const found = nodes.acquire(stat.identity, retire);
    if (found !== NEEDS_HANDLE) return found;
    if (wanted.at(dirFd, name) < 0) return 0;
    const slot = nodes.acquire(stat.identity, retire, wanted);
    if (slot === 0 || nodes.type(slot) === stat.type) return slot;
    // The name came to another file between the two looks.
    nodes.forget(slot, nodes.generation(slot), 1, retire);
    return 0;
  }

  /**
   * Makes the file that `stat` describes known, by its O_PATH descriptor or by its handle. Returns the slot, or -errno. The descriptor
   * stays the caller's where the node holds none of it: see `taken`. `dir` is the node of a directory that the file is in.
   */
  insert(fd: number, dir: number): number {
    this.taken = false;
    let slot = this.descriptors.hold(this.stat.type === S_IFDIR) ? this.#insertHeld(fd, null) : NEEDS_HANDLE;
    if (slot === NEEDS_HANDLE) slot = this.#insertByHandle(fd, dir);
    return slot === 0 ? -ENFILE : slot;
  }

  /** Whether the descriptor given to `insert` is the table's now. */
  taken = false;

  #insertHeld(fd: number, handle: FileHandle | null): number {
    const slot = this.nodes.insert(this.stat.identity, fd, this.stat.type, handle);
    this.taken = this.nodes.inserted;
    return slot;
  }

  #insertByHandle(fd: number, dir: number): number {
    const { descriptors, nodes, stat, wanted } = this;
    const { fileHandles } = this.config;
    if (fileHandles === "never") return -ENFILE;
    const failed = wanted.of(fd);
    if (descriptors.hold(stat.type === S_IFDIR)) return this.#insertHeld(fd, wanted);
    const { mount } = stat.identity;
    if (wanted.known && this.#useMount(fd, dir, mount)) {
      const slot = nodes.insert(stat.identity, -1, stat.type, wanted);
      if (!nodes.inserted) this.retire(-1, mount);
      return slot;
    }
    if (fileHandles === "mandatory") return failed < 0 ? failed : -EOPNOTSUPP;
    return descriptors.lastResort ? this.#insertHeld(fd, wanted) : -ENFILE;
  }

  /** Sees to it that handles of a mount can be opened, and counts a node for it. `fd` is a file of that mount, whose handle is `wanted`. */
  #useMount(fd: number, dir: number, mount: number): boolean {
    if (this.mounts.use(mount)) return true;
    if (this.config.fileHandles === "prefer" && this.#isFuse(fd)) return false;
    const mountFd = this.#openMount(fd, dir, mount);
    if (mountFd < 0) return false;
    // Not every file system that gives handles takes them.
    const again = this.wanted.open(mountFd);
    const kept = again < 0 ? -1 : this.mounts.add(mount, mountFd);
    if (again >= 0) libc.close(again);
    if (kept !== mountFd) libc.close(mountFd);
    return kept >= 0;
  }

  /** Opens a file of the mount that opening does nothing to: the new one, if it is a directory, or the directory that it is in. */
  #openMount(fd: number, dir: number, mount: number): number {
    const { isMountRoot, type } = this.stat;
    if (type === S_IFDIR) return this.proc.open(fd, O_RDONLY | O_DIRECTORY);
    if (isMountRoot) return type === S_IFREG ? this.proc.open(fd, O_RDONLY | O_NONBLOCK) : -EOPNOTSUPP;
    const file = this.held(dir);
    if (file < 0 || this.#stat.of(fdOf(file)) < 0 || this.#stat.identity.mount !== mount) return -EOPNOTSUPP;
    return this.proc.open(fdOf(file), O_RDONLY | O_DIRECTORY);
  }

  #isFuse(fd: number): boolean {
    return libc.fstatfs(fd, statfsBytes) < 0 || statfs32[statfs.f_type >> 2] === FUSE_SUPER_MAGIC;
  }
}
