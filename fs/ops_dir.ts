/** Operations on open directories. The host's d_off goes to the guest as it is, and comes back to resume from. */
import { O_DIRECTORY, O_RDONLY } from "../ffi/arch.ts";
import { EBADF, EINVAL, ENOENT, ENOTDIR } from "../ffi/errno.ts";
import { errno, libc } from "../ffi/libc.ts";
import { linux_dirent64, S_IFDIR, SEEK_SET } from "../ffi/stat_layout.ts";
import { ARG, BODY, lookupName, putEntry } from "./entry.ts";
import { KIND_DIR } from "./handles.ts";
import { putOpen, syncLater } from "./ops_file.ts";
import type { FsService } from "./service.ts";
import * as wire from "./wire.ts";
import {
  fuse_attr,
  fuse_dirent,
  fuse_entry_out,
  fuse_fsync_in,
  fuse_out_header,
  fuse_read_in,
  fuse_release_in,
} from "./wire.ts";

/** Host entries read at a time: at least one name of 255 bytes, at most this many bytes. */
const DIRENTS_MIN = 1024;
const DIRENTS_MAX = 64 * 1024;
const PLUS_FACTOR = 5;
const DOT = 0x2e;
/** Where a name stands in a direntry of the reply. */
const NAME = fuse_dirent.sizeof;

const dirents = new Uint8Array(DIRENTS_MAX);
const direntsView = new DataView(dirents.buffer);
const offset64 = new BigInt64Array(1);
const offset32 = new Uint32Array(offset64.buffer);

const align8 = (n: number) => (n + 7) & ~7;

export function opendir(fs: FsService): number {
  if (fs.nodes.type(fs.node) !== S_IFDIR) return -ENOTDIR;
  const short = fs.descriptors.room();
  if (short < 0) return short;
  const nodeFd = fs.nodeFd(fs.node);
  if (nodeFd < 0) return nodeFd;
  const fd = fs.proc.open(nodeFd, O_RDONLY | O_DIRECTORY);
  if (fd < 0) return fd;
  const { cache } = fs.config.options;
  const kept = cache === "always" || cache === "metadata";
  const flags = kept ? wire.FOPEN_KEEP_CACHE | wire.FOPEN_CACHE_DIR : 0;
  return putOpen(fs, BODY, fd, KIND_DIR, flags);
}

export function releasedir(fs: FsService): number {
  const { in32 } = fs.requests;
  const at = ARG + (fuse_release_in.fh >> 2);
  const fd = fs.handles.remove(in32[at], in32[at + 1], KIND_DIR);
  if (fd < 0) return -EBADF;
  fs.retire(fd);
  return 0;
}

export function fsyncdir(fs: FsService, slot: number): number {
  const { in32 } = fs.requests;
  const at = ARG + (fuse_fsync_in.fh >> 2);
  const fd = fs.handles.fd(in32[at], in32[at + 1], KIND_DIR);
  return fd < 0 ? -EBADF : syncLater(fs, slot, fd);
}

export function readdir(fs: FsService, slot: number): number {
  return readEntries(fs, slot, false);
}

export function readdirplus(fs: FsService, slot: number): number {
  return readEntries(fs, slot, true);
}

function readEntries(fs: FsService, slot: number, plus: boolean): number {
  const { requests } = fs;
  const { in32 } = requests;
  const at = ARG + (fuse_read_in.fh >> 2);
  const fh = in32[at];
  const fd = fs.handles.fd(fh, in32[at + 1], KIND_DIR);
  if (fd < 0) return -EBADF;
  if (plus && fs.node === 0) return -ENOENT;
  const from = ARG + (fuse_read_in.offset >> 2);
  const failed = seek(fs, fd, fh, in32[from], in32[from + 1]);
  if (failed < 0) return failed;
  // Until it is known how far the guest gets with what is read now.
  fs.handles.setPosition(fh, -1, -1);
  const room = Math.min(
    in32[ARG + (fuse_read_in.size >> 2)],
    requests.writableBytes[slot] - fuse_out_header.sizeof,
    requests.out.length - fuse_out_header.sizeof,
  );
  // With its attributes an entry takes about five times what it takes on the host.
  const wanted = plus ? room / PLUS_FACTOR >>> 0 : room;
  const bytes = libc.getdents64(fd, dirents, Math.max(DIRENTS_MIN, Math.min(wanted, DIRENTS_MAX)));
  if (bytes < 0) return -errno();
  return putEntries(fs, fh, bytes, room, plus);
}

/** Moves a directory's descriptor to an offset, where it does not stand there already. 0 or -errno. */
function seek(fs: FsService, fd: number, fh: number, lo: number, hi: number): number {
  if (fs.handles.standsAt(fh, lo, hi)) return 0;
  offset32[0] = lo;
  offset32[1] = hi;
  return libc.lseek(fd, offset64[0], SEEK_SET) < 0n ? -errno() : 0;
}

/** Turns what getdents64 gave into entries of the reply, as many as fit. Returns their bytes. */
function putEntries(fs: FsService, fh: number, bytes: number, room: number, plus: boolean): number {
  const head = plus ? fuse_entry_out.sizeof : 0;
  let done = 0;
  let at = 0;
  let last = 0;
  while (at < bytes) {
    const nameAt = at + linux_dirent64.d_name;
    const nameLen = dirents.indexOf(0, nameAt) - nameAt;
    const size = align8(head + NAME + nameLen);
    if (done + size > room) break;
    if (plus) putPlus(fs, done, at, nameAt, nameLen);
    putDirent(fs, BODY * 4 + done + head, at, nameAt, nameLen);
    done += size;
    last = at;
    at += direntsView.getUint16(at + linux_dirent64.d_reclen, true);
  }
  if (done === 0) return bytes === 0 ? 0 : -EINVAL;
  // The descriptor stands behind the last entry that was read: is that the last one that fits?
  if (at === bytes) {
    const offset = last + linux_dirent64.d_off;
    fs.handles.setPosition(fh, direntsView.getUint32(offset, true), direntsView.getUint32(offset + 4, true));
  }
  return done;
}

/** Writes struct fuse_dirent and its name at byte `to` of the reply; the host's entry is at `at`. */
function putDirent(fs: FsService, to: number, at: number, nameAt: number, nameLen: number): void {
  const { out, out32 } = fs.requests;
  const word = to >> 2;
  out32[word + (fuse_dirent.ino >> 2)] = direntsView.getUint32(at + linux_dirent64.d_ino, true);
  out32[word + (fuse_dirent.ino >> 2) + 1] = direntsView.getUint32(at + linux_dirent64.d_ino + 4, true);
  out32[word + (fuse_dirent.off >> 2)] = direntsView.getUint32(at + linux_dirent64.d_off, true);
  out32[word + (fuse_dirent.off >> 2) + 1] = direntsView.getUint32(at + linux_dirent64.d_off + 4, true);
  out32[word + (fuse_dirent.namelen >> 2)] = nameLen;
  out32[word + (fuse_dirent.type >> 2)] = dirents[at + linux_dirent64.d_type];
  const end = align8(NAME + nameLen);
  for (let i = 0; i < nameLen; i++) out[to + NAME + i] = dirents[nameAt + i];
  for (let i = NAME + nameLen; i < end; i++) out[to + i] = 0;
}

/** Writes the entry of READDIRPLUS: a looked-up node, or none for `.`, `..` and what went meanwhile. */
function putPlus(fs: FsService, done: number, at: number, nameAt: number, nameLen: number): void {
  const { out32 } = fs.requests;
  const word = BODY + (done >> 2);
  const dots = dirents[nameAt] === DOT && (nameLen === 1 || (nameLen === 2 && dirents[nameAt + 1] === DOT));
  const slot = dots ? -1 : lookupName(fs, fs.node, dirents.subarray(nameAt));
  if (slot > 0) {
    putEntry(fs, word, slot);
    return;
  }
  // nodeid 0: the client makes no inode of it, but reads its number and type.
  out32.fill(0, word, word + (fuse_entry_out.sizeof >> 2));
  const attr = word + (fuse_entry_out.attr >> 2);
  out32[attr + (fuse_attr.ino >> 2)] = direntsView.getUint32(at + linux_dirent64.d_ino, true);
  out32[attr + (fuse_attr.ino >> 2) + 1] = direntsView.getUint32(at + linux_dirent64.d_ino + 4, true);
  out32[attr + (fuse_attr.mode >> 2)] = dirents[at + linux_dirent64.d_type] << 12;
}
