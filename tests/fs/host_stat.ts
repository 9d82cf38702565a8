/** What the host says of a file, by stat(1): Deno and node:fs round times to milliseconds. */
import assert from "node:assert/strict";
import type { Attr } from "../../bench/fuse_decode.ts";
import type { fuse_attr } from "../../fs/wire.ts";

/** The fields of struct fuse_attr. */
export type HostAttr = Record<Exclude<keyof typeof fuse_attr, "sizeof" | "flags">, number>;

/** Seconds and nanoseconds out of "123.456789012", which may be negative. */
function time(text: string): [number, number] {
  const [seconds, fraction] = text.split(".");
  const nanoseconds = Number(fraction);
  // stat(1) rounds to minus infinity, and prints the distance from zero.
  if (!text.startsWith("-") || nanoseconds === 0) return [Number(seconds), nanoseconds];
  return [Number(seconds) - 1, 1e9 - nanoseconds];
}

/** lstat(2) of a path. Throws where there is no such file. */
export function hostStat(path: string): HostAttr {
  const format = "%i %s %b %.9X %.9Y %.9Z %f %h %u %g %r %o";
  const { success, stdout, stderr } = new Deno.Command("stat", { args: ["-c", format, path] }).outputSync();
  if (!success) throw new Error(new TextDecoder().decode(stderr).trim());
  const [ino, size, blocks, a, m, c, mode, nlink, uid, gid, rdev, blksize] = new TextDecoder().decode(stdout).trim()
    .split(" ");
  const [[atime, atimensec], [mtime, mtimensec], [ctime, ctimensec]] = [time(a), time(m), time(c)];
  return {
    ino: Number(ino),
    size: Number(size),
    blocks: Number(blocks),
    atime,
    mtime,
    ctime,
    atimensec,
    mtimensec,
    ctimensec,
    mode: parseInt(mode, 16),
    nlink: Number(nlink),
    uid: Number(uid),
    gid: Number(gid),
    rdev: Number(BigInt.asUintN(32, BigInt(rdev))),
    blksize: Number(blksize),
  };
}

/** Fails unless a reply's attributes are what the host says of the file, but for fields left out. */
export function assertAttr(attr: Attr, path: string, ...but: (keyof HostAttr)[]): void {
  const host = hostStat(path);
  const told = Object.fromEntries(Object.keys(host).map((name) => [name, Number(asSigned(attr[name as keyof Attr]))]));
  for (const name of but) told[name] = host[name];
  assert.deepEqual(told, host, path);
}

const asSigned = (value: number | bigint) => typeof value === "bigint" ? BigInt.asIntN(64, value) : value;
