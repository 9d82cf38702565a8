/**
 * Runs a command without some system calls: `deno run -A tests/ffi/deny.ts ERRNO NUMBER[,NUMBER…] COMMAND…`. They fail with ERRNO in
 * the command and all its children, by a seccomp(2) filter as a container's profile sets one up. execve(2) leaves of this process
 * only the thread that called it, which is the one that has the filter.
 */
import { cString, errno, errorText, libc } from "../../ffi/libc.ts";
import { addressOf, allocate } from "../../ffi/memory.ts";

const x86 = Deno.build.arch === "x86_64";
const SYS_execve = x86 ? 59 : 221;
const SYS_prctl = x86 ? 157 : 167;
const PR_SET_SECCOMP = 22;
const PR_SET_NO_NEW_PRIVS = 38;
const SECCOMP_MODE_FILTER = 2;

// struct seccomp_data begins with the call's number. linux/bpf_common.h: load word, jump if equal, return.
const BPF_LD_W_ABS = 0x20;
const BPF_JEQ_K = 0x15;
const BPF_RET_K = 0x06;
const SECCOMP_RET_ERRNO = 0x0005_0000;
const SECCOMP_RET_ALLOW = 0x7fff_0000;

const memory = allocate(1 << 20);
const bytes = new Uint8Array(memory.buffer);
let used = 0;

/** Copies something to memory that does not move. Returns its address. */
function put(data: Uint8Array): bigint {
  const at = used;
  bytes.set(data, at);
  used = (at + data.length + 7) & ~7;
  return BigInt(addressOf(bytes) + at);
}

const pointers = (list: bigint[]) => put(new Uint8Array(BigUint64Array.from([...list, 0n]).buffer));
const strings = (list: string[]) => pointers(list.map((text) => put(cString(text))));

function call(name: string, number: number, ...args: bigint[]): void {
  const [a = 0n, b = 0n, c = 0n, d = 0n, e = 0n, f = 0n] = args;
  if (libc.syscall6(BigInt(number), a, b, c, d, e, f) < 0n) throw new Error(`${name}: ${errorText(errno())}`);
}

if (import.meta.main) {
  const [code, numbers, program, ...args] = Deno.args;
  const denied = numbers.split(",").map(Number);
  const environment = strings(Object.entries(Deno.env.toObject()).map(([name, value]) => `${name}=${value}`));
  const argv = strings([program, ...args]);
  const path = put(cString(program));
  // struct sock_filter: code, jump if true, jump if false, operand.
  const filter = [[BPF_LD_W_ABS, 0, 0, 0]];
  denied.forEach((number, i) => filter.push([BPF_JEQ_K, denied.length - i, 0, number]));
  filter.push([BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW], [BPF_RET_K, 0, 0, SECCOMP_RET_ERRNO | Number(code)]);
  const words = filter.flatMap(([op, ifTrue, ifFalse, k]) => [op | ifTrue << 16 | ifFalse << 24, k]);
  const at = put(new Uint8Array(Uint32Array.from(words).buffer));
  // struct sock_fprog: length, pointer.
  const fprog = put(new Uint8Array(BigUint64Array.of(BigInt(filter.length), at).buffer));
  call("prctl", SYS_prctl, BigInt(PR_SET_NO_NEW_PRIVS), 1n);
  call("prctl", SYS_prctl, BigInt(PR_SET_SECCOMP), BigInt(SECCOMP_MODE_FILTER), fprog);
  call("execve", SYS_execve, path, argv, environment);
}
