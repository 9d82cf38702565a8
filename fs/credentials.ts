/**
 * The guest's user, put on for operations that create. Raw setfsuid and setfsgid change the calling thread alone (glibc's
 * set*id functions change all), and only how it meets the file system: credentials(7), setfsuid(2).
 */
import { SYS } from "../ffi/arch.ts";
import { EPERM } from "../ffi/errno.ts";
import { libc } from "../ffi/libc.ts";

const PR_SET_SECUREBITS = 28;
/** The thread keeps its capabilities when its file-system user is not root: the guest's kernel has checked permissions already. */
const SECBIT_NO_SETUID_FIXUP = 1 << 2;
const NO_ID = 0xffffffff;
const noGroups = new Uint32Array(0);

/** capset(2): _LINUX_CAPABILITY_VERSION_3, for two words each of effective, permitted and inheritable capabilities. */
const CAPABILITY_VERSION = 0x20080522;
const EFFECTIVE_LOW = 0;
const CAP_FSETID = 1 << 4;

export class Credentials {
  readonly #privileged: boolean;
  readonly #uid = libc.geteuid();
  readonly #gid = libc.getegid();
  /** The last user and group that the kernel was seen to accept. */
  #goodUid = this.#uid;
  #goodGid = this.#gid;
  /** The daemon's own supplementary groups, and whether the guest's are on instead. */
  readonly #groups: Uint32Array<ArrayBuffer>;
  #groupsOn = false;
  // The thread's capabilities, and the same without CAP_FSETID.
  readonly #capHeader = new Uint8Array(new Uint32Array([CAPABILITY_VERSION, 0]).buffer);
  readonly #capabilities = new Uint32Array(6);
  readonly #lessFsetid = new Uint32Array(6);
  readonly #full = new Uint8Array(this.#capabilities.buffer);
  readonly #less = new Uint8Array(this.#lessFsetid.buffer);

  /** For the calling thread. An unprivileged daemon acts as itself, whatever the guest says. */
  constructor(privileged: boolean) {
    this.#privileged = privileged;
    this.#groups = new Uint32Array(Math.max(0, libc.getgroups(0, new Uint8Array(4))));
    libc.getgroups(this.#groups.length, new Uint8Array(this.#groups.buffer));
    // Where it is refused (no CAP_SETPCAP), creating in a directory that the user may not write fails with EACCES.
    if (privileged) libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0);
    libc.capget(this.#capHeader, this.#full);
    this.#lessFsetid.set(this.#capabilities);
    this.#lessFsetid[EFFECTIVE_LOW] &= ~CAP_FSETID;
  }

  /**
   * Acts as a user and group of the guest, with supplementary groups where there are some, until `takeOff`. Returns 1, or 0 where there is nothing to take off, or -EPERM where the
   * kernel refuses them (not mapped in this user namespace, no CAP_SETUID): what would be created then would be root's.
   */
  putOn(uid: number, gid: number, groups: Uint32Array<ArrayBuffer> = noGroups): number {
    if (!this.#privileged) return 0;
    if (groups.length > 0) {
      // Where they are refused (a user namespace that denies setgroups), less is allowed, not more.
      this.#groupsOn = this.#setGroups(groups);
    } else if (uid === this.#uid && gid === this.#gid) {
      return 0;
    }
    libc.syscall1(SYS.setfsgid, gid);
    libc.syscall1(SYS.setfsuid, uid);
    if (uid === this.#goodUid && gid === this.#goodGid) return 1;
    // Neither call reports an error; asked for an impossible id, both say which one is in force.
    if (libc.syscall1(SYS.setfsgid, NO_ID) !== (gid | 0) || libc.syscall1(SYS.setfsuid, NO_ID) !== (uid | 0)) {
      this.takeOff();
      return -EPERM;
    }
    this.#goodUid = uid;
    this.#goodGid = gid;
    return 1;
  }

  /**
   * Acts without CAP_FSETID until `keepBits`: what writes, truncates or opens to truncate meanwhile clears set-user-ID and
   * set-group-ID bits and capabilities of the file, as it does for an ordinary user. Returns whether there is something to undo.
   */
  clearBits(): boolean {
    if ((this.#capabilities[EFFECTIVE_LOW] & CAP_FSETID) === 0) return false;
    return libc.capset(this.#capHeader, this.#less) === 0;
  }

  keepBits(): void {
    libc.capset(this.#capHeader, this.#full);
  }

  takeOff(): void {
    libc.syscall1(SYS.setfsuid, this.#uid);
    libc.syscall1(SYS.setfsgid, this.#gid);
    if (this.#groupsOn) this.#groupsOn = !this.#setGroups(this.#groups);
  }

  #setGroups(groups: Uint32Array<ArrayBuffer>): boolean {
    return libc.setgroups(SYS.setgroups, groups.length, new Uint8Array(groups.buffer)) === 0;
  }
}
