/** Executing a program in place of this one, execve(2): threads end, descriptors without FD_CLOEXEC and the process's number stay. */
import { checked, cString, errno, libc, SystemError } from "./libc.ts";
import { addressOf } from "./memory.ts";
import { F_SETFD, FD_CLOEXEC } from "./stat_layout.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** What execve is given points to these: they stay until it has them. */
const alive: Bytes[] = [];

/** A list of strings as execve takes it. */
function list(strings: readonly Bytes[]): Bytes {
  const addresses = new BigUint64Array(strings.length + 1);
  strings.forEach((string, i) => {
    const ended = new Uint8Array(string.length + 1);
    ended.set(string);
    alive.push(ended);
    addresses[i] = BigInt(addressOf(ended));
  });
  return new Uint8Array(addresses.buffer);
}

/** Does not return. Throws SystemError where the program cannot be executed. */
export function execute(path: string, args: readonly Bytes[], environment: readonly Bytes[]): never {
  libc.execve(cString(path), list(args), list(environment));
  throw new SystemError(`execve ${path}`, errno());
}

/** The strings of a file of NUL-terminated ones: /proc/self/cmdline and environ, which are as execve was given them. */
export function readStrings(path: string): Bytes[] {
  const bytes = Deno.readFileSync(path);
  const strings: Bytes[] = [];
  for (let at = 0; at < bytes.length;) {
    let end = bytes.indexOf(0, at);
    if (end < 0) end = bytes.length;
    strings.push(bytes.slice(at, end));
    at = end + 1;
  }
  return strings;
}

/** Has a descriptor stay open over an execve, or not. */
export function inherit(fd: number, on = true): void {
  checked("fcntl", libc.fcntl(fd, F_SETFD, on ? 0 : FD_CLOEXEC));
}

/** A descriptor whose file holds a text and has no name; it is inherited. */
export function textDescriptor(text: string): number {
  const fd = checked("memfd_create", libc.memfd_create(cString("ringfsd"), 0));
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length;) {
    at += checked("write", libc.write(fd, bytes.subarray(at), bytes.length - at));
  }
  return fd;
}

/** The text, and closes the descriptor. */
export function takeText(fd: number): string {
  const parts: Bytes[] = [];
  try {
    for (let offset = 0;;) {
      const part = new Uint8Array(65536);
      const n = checked("read", libc.pread(fd, part, part.length, BigInt(offset)));
      if (n === 0) break;
      parts.push(part.subarray(0, n));
      offset += n;
    }
  } finally {
    libc.close(fd);
  }
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return new TextDecoder().decode(all);
}

/** Whether there is such a descriptor. */
export function isOpen(fd: number): boolean {
  return libc.fcntl(fd, 1, 0) >= 0;
}
