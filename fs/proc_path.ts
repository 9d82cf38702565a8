/** O_PATH descriptors opened for real, and named to calls that take a path: through /proc/self/fd, proc(5). */
import { O_CLOEXEC, O_NOFOLLOW } from "../ffi/arch.ts";
import { errno, errorText, libc } from "../ffi/libc.ts";

const ZERO = 0x30;
const CLONE_FS = 0x200;

export class ProcPath {
  /** "N\0", relative to `dirFd`. */
  readonly name = new Uint8Array(16);

  /** `dirFd` is an O_PATH descriptor of /proc/self/fd. */
  constructor(readonly dirFd: number) {}

  /** Writes a descriptor's name. Returns it, valid until the next call. */
  of(fd: number): Uint8Array<ArrayBuffer> {
    const { name } = this;
    let digits = 1;
    for (let rest = fd; rest >= 10; rest = Math.floor(rest / 10)) digits++;
    name[digits] = 0;
    for (let rest = fd; digits > 0; rest = Math.floor(rest / 10)) name[--digits] = ZERO + (rest % 10);
    return name;
  }

  /**
   * Puts the calling thread into /proc/self/fd, so that calls without a directory argument take the names of `of`: the *xattr
   * calls have such an argument since Linux 6.13 only. Its working directory and its umask are its own from then on. It
   * shares a later chroot(2) of the process no more. Throws an Error where the system refuses.
   */
  enter(): void {
    if (libc.unshare(CLONE_FS) < 0 || libc.fchdir(this.dirFd) < 0) {
      throw new Error(
        `cannot give a thread a working directory of its own, as --xattr needs it: ${errorText(errno())}`,
      );
    }
  }

  /**
   * Opens the file of an O_PATH descriptor. The link under /proc goes to that very file, whatever its name is now. Returns a
   * descriptor or -errno. The caller has seen to it that this is a regular file or a directory.
   */
  open(fd: number, flags: number): number {
    const opened = libc.openat(this.dirFd, this.of(fd), (flags & ~O_NOFOLLOW) | O_CLOEXEC, 0);
    return opened < 0 ? -errno() : opened;
  }
}
