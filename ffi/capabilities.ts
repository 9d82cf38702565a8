/** Capabilities, capabilities(7): what root may do is in pieces, and most of them are not needed. */
import { errno, libc, SystemError } from "./libc.ts";

/** Names by number, linux/capability.h, without CAP_. */
export const CAPABILITIES = [
  ...["chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap"],
  ...["linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner"],
  ...["sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice"],
  ...["sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap"],
  ...["mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf"],
  "checkpoint_restore",
];

/** A set: bit n is capability n. */
export type CapabilitySet = bigint;

/** The set of some names. Throws Error for one that there is not. */
export function capabilitySet(names: readonly string[]): CapabilitySet {
  return names.reduce((set, name) => {
    const number = CAPABILITIES.indexOf(name);
    if (number < 0) throw new Error(`there is no capability ${name}`);
    return set | 1n << BigInt(number);
  }, 0n);
}

const PR_CAPBSET_DROP = 24;
const PR_SET_SECUREBITS = 28;
const SECBIT_NO_SETUID_FIXUP = 1 << 2;
const PR_CAP_AMBIENT = 47;
const PR_CAP_AMBIENT_CLEAR_ALL = 4;
/** The highest number there may be. */
const LAST = 63;

const header = new Uint8Array(new Uint32Array([0x2008_0522, 0]).buffer);

/** The calling thread's permitted capabilities. */
export function permitted(): CapabilitySet {
  const words = new Uint32Array(6);
  if (libc.capget(header, new Uint8Array(words.buffer)) < 0) throw new SystemError("capget", errno());
  return BigInt(words[1]) | BigInt(words[4]) << 32n;
}

/** Takes all but `keep` from the calling thread, and so from threads that it makes later. What it lacks it does not get. Throws SystemError. */
export function keepCapabilities(keep: CapabilitySet): void {
  const set = permitted() & keep;
  const low = Number(set & 0xffff_ffffn);
  const high = Number(set >> 32n);
  const words = new Uint32Array([low, low, 0, high, high, 0]);
  libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  if (libc.capset(header, new Uint8Array(words.buffer)) < 0) throw new SystemError("capset", errno());
}

/**
 * The same for good: no program that the calling thread executes gets others, though it be root. Where that is not allowed (no
 * CAP_SETPCAP) they are only taken from the thread. Capabilities no longer come and go with the user of file-system calls, for
 * which CAP_SETPCAP would be needed later (fs/credentials.ts).
 */
export function boundCapabilities(keep: CapabilitySet): void {
  libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0);
  for (let number = 0; number <= LAST; number++) {
    if ((keep >> BigInt(number) & 1n) === 0n) libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0);
  }
  keepCapabilities(keep);
}
