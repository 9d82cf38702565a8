/**
 * Where a request is served: on its loop, as long as that delays no other, or by a helper. It is a matter of the operation and of
 * the kind of the shared file system; what is mounted below the share is taken for the same kind.
 */
import { O_CLOEXEC, O_NOFOLLOW, O_PATH, SYS } from "../ffi/arch.ts";
import { EAGAIN, EINTR } from "../ffi/errno.ts";
import { errno, libc } from "../ffi/libc.ts";
import { statfs } from "../ffi/stat_layout.ts";
import type { Operation } from "./opcodes.ts";

/** All is in memory: nothing waits. */
export const KIND_MEMORY = 0;
/** A disk is waited for, where something is not cached. */
export const KIND_LOCAL = 1;
/** Any call may wait for another machine, or another program; and what is not known is taken for such. */
export const KIND_REMOTE = 2;
export type Kind = typeof KIND_MEMORY | typeof KIND_LOCAL | typeof KIND_REMOTE;

/** f_type of statfs(2); linux/magic.h, and what the file systems outside of it say. */
const KINDS: ReadonlyMap<number, Kind> = new Map<number, Kind>([
  [0x01021994, KIND_MEMORY], // tmpfs
  [0x858458f6, KIND_MEMORY], // ramfs
  [0x958458f6, KIND_MEMORY], // hugetlbfs
  [0xef53, KIND_LOCAL], // ext2, ext3, ext4
  [0x58465342, KIND_LOCAL], // xfs
  [0x9123683e, KIND_LOCAL], // btrfs
  [0xf2f52010, KIND_LOCAL], // f2fs
  [0x794c7630, KIND_LOCAL], // overlayfs
  [0x2fc12fc1, KIND_LOCAL], // zfs
  [0xca451a4e, KIND_LOCAL], // bcachefs
  [0x2011bab0, KIND_LOCAL], // exfat
  [0x7366746e, KIND_LOCAL], // ntfs3
  [0x4d44, KIND_LOCAL], // fat
  [0x3434, KIND_LOCAL], // nilfs2
  [0x3153464a, KIND_LOCAL], // jfs
  [0x52654973, KIND_LOCAL], // reiserfs
  [0x9660, KIND_LOCAL], // iso9660
  [0x15013346, KIND_LOCAL], // udf
  [0x73717368, KIND_LOCAL], // squashfs
  [0xe0f5e1e2, KIND_LOCAL], // erofs
  [0x28cd3d45, KIND_LOCAL], // cramfs
  [0x4244, KIND_LOCAL], // hfs
  [0x482b, KIND_LOCAL], // hfsplus
]);

const statfsBytes = new Uint8Array(statfs.sizeof);
const statfs32 = new Uint32Array(statfsBytes.buffer);

/** f_type of statfs(2) for a descriptor, or 0. */
export function fileSystemType(fd: number): number {
  return libc.fstatfs(fd, statfsBytes) < 0 ? 0 : statfs32[statfs.f_type >> 2];
}

const PROC_SUPER_MAGIC = 0x9fa0;

/** Whether a descriptor's file is one of proc(5). */
export function isProc(fd: number): boolean {
  return fileSystemType(fd) === PROC_SUPER_MAGIC;
}

/** The kind of the file system of a descriptor. */
export function kindOf(fd: number): Kind {
  return KINDS.get(fileSystemType(fd)) ?? KIND_REMOTE;
}

/**
 * What an operation may wait for:
 * - "nothing": it waits for nothing, or by the ring or a helper's call, and is served by no helper;
 * - "remote": nothing on a local disk, but for whom a remote file system asks;
 * - "disk": a local disk too;
 * - "names": the same, and it can be told beforehand (LOOKUP);
 * - "listing": it reads a directory, long or from a disk;
 * - "lock": for another request of the guest;
 * - "decides": a disk, and its handler says ELSEWHERE where that is not left to the ring.
 *
 * On a remote file system not even the ring is used: FUSE says that it can do without waiting what it cannot (seen with Linux 6.18: it
 * waits within io_uring_enter, and a short read is read on from the same place), and to close the duplicate that the ring would
 * work on may wait as well.
 */
export type Waits = "nothing" | "remote" | "disk" | "names" | "listing" | "lock" | "decides";

// What a loop does with a request, by opcode.
export const ON_LOOP = 0;
/** Always at a helper. */
export const AWAY = 1;
export const AWAY_LOCK = 2;
/** On the loop, and timed: at helpers for a while after one that was slow. */
export const TIMED = 3;
/** The same, and on the loop only where nobody is delayed. */
export const WHEN_QUIET = 4;

const WAYS: Record<Kind, Partial<Record<Waits, number>>> = {
  [KIND_MEMORY]: {},
  [KIND_LOCAL]: { disk: TIMED, listing: WHEN_QUIET },
  [KIND_REMOTE]: { remote: AWAY, disk: AWAY, names: AWAY, listing: AWAY, decides: AWAY, lock: AWAY_LOCK },
};

/** By opcode, what a loop does with a request on a file system of that kind. `asks`: it can ask what is cached. */
export function waysOf(kind: Kind, operations: readonly (Operation | undefined)[], asks: boolean): Uint8Array {
  const ways = { ...WAYS[kind] };
  if (kind === KIND_LOCAL && !asks) ways.names = TIMED;
  return Uint8Array.from(
    operations,
    (operation) => operation === undefined ? ON_LOOP : ways[operation.waits] ?? ON_LOOP,
  );
}

/** One metadata request in so many is timed. */
export const TIMED_EVERY = 4;
/** A LOOKUP that took longer has read a disk. */
export const UNCACHED_SLOW_MS = 1;

/** struct open_how, openat2(2): flags, mode, resolve. */
const RESOLVE_CACHED = 0x20n;
const how = new Uint8Array(new BigUint64Array([BigInt(O_PATH | O_NOFOLLOW | O_CLOEXEC), 0n, RESOLVE_CACHED]).buffer);
const dot = new Uint8Array([0x2e, 0]);

/** Opens a name as O_PATH, where that needs no disk: else -EAGAIN. Returns a descriptor or -errno. */
export function openCached(dirFd: number, name: Uint8Array<ArrayBuffer>): number {
  const fd = libc.openat2(SYS.openat2, dirFd, name, how, how.length);
  if (fd >= 0) return fd;
  const failed = errno();
  // A rename went on meanwhile, perhaps: the helper finds out.
  return failed === EINTR ? -EAGAIN : -failed;
}

/** Whether this kernel can be asked so (5.12), and lets us. */
export function canOpenCached(dirFd: number): boolean {
  const fd = openCached(dirFd, dot);
  if (fd >= 0) libc.close(fd);
  return fd >= 0 || fd === -EAGAIN;
}
