/**
 * Which system calls the process may make: seccomp(2), with a filter in classic BPF (linux/filter.h), made here byte by byte. It holds for
 * all threads, those that are made later too, and cannot be taken off.
 *
 * Calls that pass without a look at their arguments cost next to nothing: since Linux 5.11 the kernel knows them from a bitmap.
 */
import { checked, libc } from "./libc.ts";
import { EAFNOSUPPORT, ENOSYS } from "./errno.ts";
import { addressOf } from "./memory.ts";
import { allowed, building, conditional, listening, NEWEST, numberOf } from "./syscalls.ts";

/** What happens at a call that is not on the list: the process dies; the call is made and the audit log told; SIGSYS. */
export type SeccompAction = "kill" | "log" | "trap";

const SECCOMP_SET_MODE_FILTER = 1;
const SECCOMP_FILTER_FLAG_TSYNC = 1;
const RETURN: Readonly<Record<SeccompAction, number>> = { kill: 0x8000_0000, log: 0x7ffc_0000, trap: 0x0003_0000 };
const RETURN_ALLOW = 0x7fff_0000;
const RETURN_KILL = 0x8000_0000;
const RETURN_ERRNO = 0x0005_0000;

/** AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64: linux/audit.h */
const AUDIT_ARCH = Deno.build.arch === "x86_64" ? 0xc000_003e : 0xc000_00b7;
/** Calls of the x32 ABI have this bit. */
const X32 = 0x4000_0000;

// BPF: load a word, jump where it equals or is at least or has bits of K, return.
const LD = 0x20;
const JEQ = 0x15;
const JGE = 0x35;
const JSET = 0x45;
const RET = 0x06;
const INSTRUCTION_BYTES = 8;

// struct seccomp_data
const NUMBER = 0;
const ARCH = 4;
const argLow = (n: number) => 16 + n * 8;
const argHigh = (n: number) => 20 + n * 8;

const AF_UNIX = 1;
const CLONE_FS = 0x200;
/** CLONE_NEW*: no namespace is made. */
const CLONE_NEW = 0x7e02_0080;
/** PR_SET_NAME, PR_GET_NAME, PR_GET_DUMPABLE, PR_GET_SECUREBITS, PR_SET_SECUREBITS (credentials.ts), PR_CAPBSET_READ, PR_SET_VMA. */
const PRCTL = [15, 16, 3, 27, 28, 23, 0x5356_4d41];
/** TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX; what fs/ops_more.ts passes on for a guest. */
const IOCTL = [
  0x5401,
  0x5413,
  0x541b,
  0x5421,
  0x5450,
  0x5451,
  0x8008_6601,
  0x4008_6602,
  0x8004_6601,
  0x4004_6602,
  0x801c_581f,
  0x401c_5820,
];

/** Where a jump leads: an instruction's label; "": the next. */
type Target = "" | "allow" | "deny" | "nosys" | "kill" | "skip";
interface Instruction {
  code: number;
  k: number;
  yes: Target;
  no: Target;
}

const step = (code: number, k: number, yes: Target = "", no: Target = ""): Instruction => ({
  code,
  k: k >>> 0,
  yes,
  no,
});

/** Lets pass where the low half of an argument is one of `values`. */
function oneOf(arg: number, values: readonly number[]): Instruction[] {
  return [step(LD, argLow(arg)), ...values.map((value) => step(JEQ, value, "allow"))];
}

/** The conditions, each behind a jump over it for other calls. What they do not decide is denied. */
function conditions(pid: number): [number, Instruction[]][] {
  const of = (name: keyof typeof conditional) => numberOf(conditional[name]);
  return [
    [of("clone"), [step(LD, argLow(0)), step(JSET, CLONE_NEW, "deny", "allow")]],
    // Its flags are in memory, where no filter looks. C libraries then take clone.
    [of("clone3"), [step(JGE, 0, "nosys")]],
    [of("unshare"), oneOf(0, [CLONE_FS])],
    // To this process alone.
    [of("tgkill"), oneOf(0, [pid])],
    [of("prctl"), oneOf(0, PRCTL)],
    // Limits are read, not set: the new one is a null pointer.
    [of("prlimit64"), [step(LD, argLow(2)), step(JEQ, 0, "", "deny"), step(LD, argHigh(2)), step(JEQ, 0, "allow")]],
    [of("ioctl"), oneOf(1, IOCTL)],
    // The runtime may try the network, to look for its updates, and takes a refusal.
    [of("socket"), [...oneOf(0, [AF_UNIX]), step(RET, RETURN_ERRNO | EAFNOSUPPORT)]],
  ];
}

/** The filter, as an array of struct sock_filter. `pid` is the process's own number; with `sockets` it may make such that listen. */
export function seccompProgram(action: SeccompAction, pid: number, sockets = false): Uint8Array<ArrayBuffer> {
  const program = [
    step(LD, ARCH),
    step(JEQ, AUDIT_ARCH, "", "kill"),
    step(LD, NUMBER),
    step(JGE, X32, "deny"),
    step(JGE, NEWEST, "nosys"),
  ];
  const plain = Object.values(sockets ? { ...allowed, ...listening } : allowed).map(numberOf).filter((number) =>
    number >= 0
  );
  const starts: number[] = [];
  // What is asked of arguments comes first, for a jump reaches 255 instructions.
  for (const [number, block] of conditions(pid)) {
    starts.push(program.length);
    program.push(step(JEQ, number, "", "skip"), ...block, step(RET, RETURN[action]));
  }
  const ends = [...starts.slice(1), program.length];
  program.push(...plain.map((number) => step(JEQ, number, "allow")));
  const labels = new Map<Target, number>();
  const results: [Target, number][] = [
    ["deny", RETURN[action]],
    ["allow", RETURN_ALLOW],
    ["nosys", RETURN_ERRNO | ENOSYS],
    ["kill", RETURN_KILL],
  ];
  for (const [label, value] of results) {
    labels.set(label, program.length);
    program.push(step(RET, value));
  }
  const bytes = new Uint8Array(program.length * INSTRUCTION_BYTES);
  const view = new DataView(bytes.buffer);
  program.forEach(({ code, k, yes, no }, at) => {
    const offset = (target: Target) => {
      const skip = () => ends[starts.indexOf(at)];
      const distance = target === "" ? 0 : (target === "skip" ? skip() : labels.get(target)!) - at - 1;
      if (distance > 255) throw new Error("the seccomp filter has a jump that is too long");
      return distance;
    };
    view.setUint16(at * INSTRUCTION_BYTES, code, true);
    bytes[at * INSTRUCTION_BYTES + 2] = offset(yes);
    bytes[at * INSTRUCTION_BYTES + 3] = offset(no);
    view.setUint32(at * INSTRUCTION_BYTES + 4, k, true);
  });
  return bytes;
}

/**
 * Puts the filter on all threads, which may make sockets that listen only with `sockets`. The process gains no privileges from then on. Throws SystemError: EINVAL where the kernel lacks seccomp
 * or the action, ESRCH where a thread has another filter.
 */
export function installSeccomp(action: SeccompAction, sockets = false): void {
  noNewPrivileges();
  const program = seccompProgram(action, Deno.pid, sockets);
  // struct sock_fprog: u16 length, pointer.
  const descriptor = new BigUint64Array([BigInt(program.length / INSTRUCTION_BYTES), BigInt(addressOf(program))]);
  const number = numberOf(building.seccomp);
  const bytes = new Uint8Array(descriptor.buffer);
  checked("seccomp", libc.seccomp(number, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, bytes));
}

const PR_SET_NO_NEW_PRIVS = 38;

/** The calling thread and those that it makes gain no privileges by execve(2): prctl(2). Throws SystemError. */
export function noNewPrivileges(): void {
  checked("prctl(PR_SET_NO_NEW_PRIVS)", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}
