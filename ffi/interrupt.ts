/**
 * Interrupting a system call that a thread of ours waits in. A signal does it, if its handler was installed without SA_RESTART; what
 * the handler does is of no matter, so it is a function of libc that does nothing. JavaScript can be no signal handler.
 */
import { SYS } from "./arch.ts";
import { checked, libc } from "./libc.ts";

/** A real-time signal that neither Deno, V8 nor glibc uses (glibc keeps 32 and 33). */
const SIGNAL = 40;

/** struct sigaction of glibc: handler, mask of 1024 bits, flags, restorer. The same on x86-64 and arm64. */
const SIGACTION_BYTES = 152;
const SIGACTION_FLAGS = 136;
const SA_RESTART = 0x1000_0000n;

/** Makes `interrupt` work, for the whole process. */
export function installInterrupt(): void {
  const action = new Uint8Array(SIGACTION_BYTES);
  new BigUint64Array(action.buffer)[0] = BigInt(Deno.UnsafePointer.value(libc.abs));
  checked("sigaction", libc.sigaction(SIGNAL, action, null));
}

/** Has a signal ignored, signal(7): SIG_IGN is the handler at address 1. */
export function ignoreSignal(number: number): void {
  const action = new Uint8Array(SIGACTION_BYTES);
  new BigUint64Array(action.buffer)[0] = 1n;
  checked("sigaction", libc.sigaction(number, action, null));
}

/** SIGXFSZ, raised by a write beyond RLIMIT_FSIZE, which then fails with EFBIG. */
export const SIGXFSZ = 25;

const SIG_BLOCK = 0;
/**
 * What a thread must not block: faults (SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS), SIGKILL, SIGSTOP, the two of
 * glibc, and the one above.
 */
const OPEN_SIGNALS = [4, 5, 6, 7, 8, 9, 11, 19, 31, 32, 33, SIGNAL];

/**
 * Leaves all signals but `interrupt`'s to the process's other threads, so that nothing else ends a system call of the calling thread
 * with EINTR: V8, the runtime and a terminal send signals too.
 */
export function blockOtherSignals(): void {
  let set = 2n ** 64n - 1n;
  for (const number of OPEN_SIGNALS) set &= ~(1n << BigInt(number - 1));
  const bytes = new Uint8Array(new BigUint64Array([set]).buffer);
  checked("rt_sigprocmask", libc.sigprocmask(SYS.rt_sigprocmask, SIG_BLOCK, bytes, null, bytes.length));
}

/** The calling thread's number, gettid(2). */
export function threadId(): number {
  return libc.syscall3(SYS.gettid, 0, 0, 0);
}

const SIGKILL = 9;

/** Ends this process at once, as it may under seccomp too. */
export function killSelf(): void {
  libc.syscall3(SYS.tgkill, Deno.pid, Deno.pid, SIGKILL);
}

/** Ends the system call that a thread of this process waits in with EINTR. One that it has yet to enter is not ended. */
export function interrupt(thread: number): void {
  libc.syscall3(SYS.tgkill, Deno.pid, thread, SIGNAL);
}

const SIGTERM = 15;

/**
 * Has SIGTERM not end the process, but be remembered over an execve(2): its handler is alarm(2) with the signal's number, a clock of 15 s
 * that goes on over it. Threads of the runtime's take signals too, which cannot be made to wait, and no handler can be JavaScript.
 */
export function rememberTermination(): void {
  const action = new Uint8Array(SIGACTION_BYTES);
  const words = new BigUint64Array(action.buffer);
  words[0] = BigInt(Deno.UnsafePointer.value(libc.alarm_address));
  words[SIGACTION_FLAGS / 8] = SA_RESTART;
  checked("sigaction", libc.sigaction(SIGTERM, action, null));
}

/** In the program that was executed, where SIGTERM is held: raises one that was remembered. */
export function recallTermination(): void {
  if (libc.alarm(0) > 0) Deno.kill(Deno.pid, "SIGTERM");
}

/** SIGHUP, SIGINT and SIGTERM, which tell the process to do something. */
const REQUESTS = [1, 2, 15];
/** SIG_BLOCK and SIG_UNBLOCK. */
const HOLD = 0;
const LET_GO = 1;

/**
 * Has signals to the process wait, as far as the calling thread goes, or has it take them again. Over an execve(2) those that came wait, and
 * all threads of the new program begin with the mask.
 */
export function holdSignals(hold: boolean): void {
  const set = new Uint8Array(128);
  for (const number of REQUESTS) set[(number - 1) >> 3] |= 1 << ((number - 1) & 7);
  libc.pthread_sigmask(hold ? HOLD : LET_GO, set, null);
}
