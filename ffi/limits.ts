/** Limits of the process, getrlimit(2). */
import { libc } from "./libc.ts";
import { rlimit, RLIMIT_NOFILE } from "./stat_layout.ts";

/**
 * Raises the number of descriptors that the process may have open to `wanted`, or as near as it may (the hard limit, which root
 * raises up to fs.nr_open). Returns the limit in force.
 */
export function raiseOpenFiles(wanted: number): number {
  const bytes = new Uint8Array(rlimit.sizeof);
  const words = new BigUint64Array(bytes.buffer);
  if (libc.getrlimit(RLIMIT_NOFILE, bytes) < 0) return 0;
  const [soft, hard] = words;
  if (soft >= BigInt(wanted)) return Number(soft);
  words[0] = words[1] = BigInt(wanted);
  if (libc.setrlimit(RLIMIT_NOFILE, bytes) === 0) return wanted;
  words[0] = words[1] = hard;
  return libc.setrlimit(RLIMIT_NOFILE, bytes) === 0 ? Number(hard) : Number(soft);
}

/** Sets the number to `wanted`, or as near as it may be. Returns the limit in force. */
export function setOpenFiles(wanted: number): number {
  const bytes = new Uint8Array(rlimit.sizeof);
  const words = new BigUint64Array(bytes.buffer);
  if (libc.getrlimit(RLIMIT_NOFILE, bytes) < 0) return 0;
  if (words[0] <= BigInt(wanted)) return raiseOpenFiles(wanted);
  words[0] = BigInt(wanted);
  libc.setrlimit(RLIMIT_NOFILE, bytes);
  return raiseOpenFiles(0);
}
