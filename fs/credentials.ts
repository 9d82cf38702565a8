/**
 * The guest's user, put on for operations that create. Raw setfsuid and setfsgid change the calling thread alone (glibc's
 * set*id functions change all), and only how it meets the file system: credentials(7), setfsuid(2).
 */
import { SYS } from "../ffi/arch.ts";
import { libc } from "../ffi/libc.ts";

const PR_SET_SECUREBITS = 28;
/** The thread keeps its capabilities when its file-system user is not root: the guest's kernel has checked permissions already. */
const SECBIT_NO_SETUID_FIXUP = 1 << 2;

export class Credentials {
  readonly #privileged: boolean;
  readonly #uid = libc.geteuid();
  readonly #gid = libc.getegid();

  /** For the calling thread. An unprivileged daemon acts as itself, whatever the guest says. */
  constructor(privileged: boolean) {
    this.#privileged = privileged;
    // Where it is refused (no CAP_SETPCAP), creating in a directory that the user may not write fails with EACCES.
    if (privileged) libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0);
  }

  /** Acts as a user and group of the guest until `takeOff`. Returns whether there is something to take off. */
  putOn(uid: number, gid: number): boolean {
    if (!this.#privileged || (uid === this.#uid && gid === this.#gid)) return false;
    libc.syscall1(SYS.setfsgid, gid);
    libc.syscall1(SYS.setfsuid, uid);
    return true;
  }

  takeOff(): void {
    libc.syscall1(SYS.setfsuid, this.#uid);
    libc.syscall1(SYS.setfsgid, this.#gid);
  }
}
