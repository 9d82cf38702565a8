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

/** The calling thread's number, gettid(2). */
export function threadId(): number {
  return libc.syscall3(SYS.gettid, 0, 0, 0);
}

/** Ends the system call that a thread of this process waits in with EINTR. One that it has yet to enter is not ended. */
export function interrupt(thread: number): void {
  libc.syscall3(SYS.tgkill, Deno.pid, thread, SIGNAL);
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
