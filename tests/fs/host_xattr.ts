/** Extended attributes as the host has them, by path, symlinks not followed. */
import { O_CLOEXEC, O_NOFOLLOW, O_PATH } from "../../ffi/arch.ts";
import { cString, errno, libc } from "../../ffi/libc.ts";

const bytes = new Uint8Array(65536);

function withPath<T>(path: string, body: (proc: Uint8Array<ArrayBuffer>) => T): T {
  const fd = libc.openat(-100, cString(path), O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
  if (fd < 0) throw new Error(`cannot open ${path}: ${errno()}`);
  try {
    return body(cString(`/proc/self/fd/${fd}`));
  } finally {
    libc.close(fd);
  }
}

/** The value as text, or -errno. */
export function hostGet(path: string, name: string): string | number {
  return withPath(path, (proc) => {
    const size = libc.getxattr(proc, cString(name), bytes, bytes.length);
    return size < 0 ? -errno() : new TextDecoder().decode(bytes.subarray(0, size));
  });
}

/** 0 or -errno. */
export function hostSet(path: string, name: string, value: string | Uint8Array<ArrayBuffer>): number {
  const data = typeof value === "string" ? new TextEncoder().encode(value) : value;
  return withPath(path, (proc) => libc.setxattr(proc, cString(name), data, data.length, 0) < 0 ? -errno() : 0);
}

/** The names, sorted. */
export function hostList(path: string): string[] {
  return withPath(path, (proc) => {
    const size = libc.listxattr(proc, bytes, bytes.length);
    return new TextDecoder().decode(bytes.subarray(0, Math.max(0, size))).split("\0").slice(0, -1).sort();
  });
}

/** Why tests of extended attributes cannot run in a directory, or "". */
export function noXattrs(dir: string): string {
  if (Deno.uid() !== 0) return "needs root for trusted attributes";
  const path = Deno.makeTempFileSync({ dir });
  try {
    const failed = ["user.a", "trusted.a"].some((name) => hostSet(path, name, "a") < 0);
    return failed ? `${dir} takes no extended attributes` : "";
  } finally {
    Deno.removeSync(path);
  }
}
