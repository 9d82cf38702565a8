/**
 * Namespaces, and a root of one's own: namespaces(7), mount_namespaces(7), pivot_root(2). What a thread unshares is its own; after an
 * execve(2) of that thread it is the whole process's.
 */
import { O_CLOEXEC, O_PATH } from "./arch.ts";
import { EINVAL, ENOSYS, EPERM } from "./errno.ts";
import { checked, cString, errno, libc, SystemError } from "./libc.ts";
import { AT_FDCWD } from "./stat_layout.ts";
import { building, numberOf } from "./syscalls.ts";

const CLONE_NEWNS = 0x0002_0000;
const CLONE_NEWUTS = 0x0400_0000;
const CLONE_NEWIPC = 0x0800_0000;
const CLONE_NEWNET = 0x4000_0000;

const MS_RDONLY = 1;
const MS_NOSUID = 2;
const MS_NODEV = 4;
const MS_NOEXEC = 8;
const MS_REMOUNT = 32;
const MS_BIND = 4096;
const MS_REC = 16384;
const MS_SLAVE = 1 << 19;
const MNT_DETACH = 2;

/** struct mount_attr: u64 attr_set, attr_clr, propagation, userns_fd. MOUNT_ATTR_* have the values of the four flags above. */
const MOUNT_ATTR_BYTES = 32;
const AT_RECURSIVE = 0x8000;

/** Unshares mounts, network, IPC and host name. Throws SystemError: EPERM without CAP_SYS_ADMIN. */
export function unshareNamespaces(): void {
  checked("unshare", libc.unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS));
}

/** Something of the old root that is in the new one. */
export interface Bind {
  source: string;
  /** Where it is seen, an absolute path. */
  target: string;
  directory: boolean;
  /** What is mounted beneath comes too. */
  recursive?: boolean;
  writable?: boolean;
  /** Programs in it can be executed, and mapped as code. */
  executable?: boolean;
  /** A device that may be opened. */
  device?: boolean;
}

/** A symbolic link in the new root. */
export interface Link {
  path: string;
  target: string;
}

/** Directories to put the new root over, while it is made. */
const BASES = ["/mnt", "/tmp", "/run", "/var"];

/**
 * Makes a root with nothing in it but `binds`, `links` and the directory `cwd`, and goes there. The mount namespace must be the thread's own. What is mounted on
 * the host later still appears in what was bound, and nothing that is done here appears on the host. Throws SystemError.
 */
export function enterNewRoot(binds: readonly Bind[], links: readonly Link[], cwd: string): void {
  checked("mount", libc.mount(null, cString("/"), null, MS_REC | MS_SLAVE, null));
  // The new root may be over them.
  const sources = binds.map(({ source }) => {
    return checked(`open ${source}`, libc.openat(AT_FDCWD, cString(source), O_PATH | O_CLOEXEC, 0));
  });
  const base = BASES.find(isDirectory);
  if (base === undefined) throw new Error(`there is none of the directories ${BASES.join(", ")}`);
  checked(
    `mount a tmpfs on ${base}`,
    libc.mount(cString("tmpfs"), cString(base), cString("tmpfs"), MS_NOSUID | MS_NODEV, cString("mode=755,size=1m")),
  );
  Deno.mkdirSync(base + cwd, { recursive: true });
  for (const { path, target } of links) Deno.symlinkSync(target, base + path);
  binds.forEach((bind, i) => place(bind, sources[i], base + bind.target));
  for (const fd of sources) libc.close(fd);
  // No more names in it: what is bound has its own flags.
  setFlags(base, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, false);
  checked("chdir", libc.chdir(cString(base)));
  const here = cString(".");
  checked("pivot_root", libc.pivot_root(numberOf(building.pivot_root), here, here));
  checked("umount", libc.umount2(here, MNT_DETACH));
  checked("chdir", libc.chdir(cString(cwd)));
}

function isDirectory(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}

function place(bind: Bind, source: number, target: string): void {
  const { directory, recursive = false, writable = false, executable = false, device = false } = bind;
  Deno.mkdirSync(directory ? target : target.slice(0, target.lastIndexOf("/")), { recursive: true });
  if (!directory) Deno.writeFileSync(target, new Uint8Array(0), { createNew: true });
  const flags = MS_BIND | (recursive ? MS_REC : 0);
  const name = cString(`/proc/self/fd/${source}`);
  checked(`bind ${bind.source}`, libc.mount(name, cString(target), null, flags, null));
  setFlags(
    target,
    MS_NOSUID | (writable ? 0 : MS_RDONLY) | (executable ? 0 : MS_NOEXEC) | (device ? 0 : MS_NODEV),
    recursive,
  );
}

/** Adds flags to a mount, and to those beneath. */
function setFlags(path: string, flags: number, recursive: boolean): void {
  const attributes = new BigUint64Array(MOUNT_ATTR_BYTES / 8);
  attributes[0] = BigInt(flags);
  const bytes = new Uint8Array(attributes.buffer);
  const number = numberOf(building.mount_setattr);
  if (libc.mount_setattr(number, AT_FDCWD, cString(path), recursive ? AT_RECURSIVE : 0, bytes, bytes.length) === 0) {
    return;
  }
  const code = errno();
  if (code !== ENOSYS && code !== EINVAL) throw new SystemError(`mount_setattr ${path}`, code);
  // Before Linux 5.12: the one mount, not those beneath.
  if (libc.mount(null, cString(path), null, flags | MS_REMOUNT | MS_BIND, null) === 0) return;
  // A user namespace cannot change a mount that has other flags of the host's; there the user's own rights must do.
  if (errno() !== EPERM) throw new SystemError(`remount ${path}`, errno());
}

/** A descriptor of an empty directory that has no name any more: nothing can be made in it. Throws SystemError. */
export function emptyDirectory(): number {
  const dir = Deno.makeTempDirSync({ prefix: "ringfsd-root-" });
  const fd = libc.openat(AT_FDCWD, cString(dir), O_PATH, 0);
  Deno.removeSync(dir);
  return checked(`open ${dir}`, fd);
}

/** Makes a directory the root of all threads, and closes its descriptor: chroot(2). Throws SystemError. */
export function enterRoot(fd: number): void {
  try {
    checked("fchdir", libc.fchdir(fd));
    checked("chroot", libc.chroot(cString(".")));
  } finally {
    libc.close(fd);
  }
}
