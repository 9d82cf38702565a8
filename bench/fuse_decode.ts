/** Replies of a FUSE server as objects. Where the reply is an error, every field is 0. */
import type { Reply } from "./fuse_client.ts";

/** struct fuse_attr. Times in seconds and nanoseconds. */
export interface Attr {
  ino: bigint;
  size: number;
  blocks: number;
  atime: bigint;
  mtime: bigint;
  ctime: bigint;
  atimensec: number;
  mtimensec: number;
  ctimensec: number;
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  rdev: number;
  blksize: number;
  flags: number;
}

/** struct fuse_entry_out; validity in seconds. */
export interface Entry {
  nodeid: bigint;
  generation: bigint;
  entryValid: number;
  attrValid: number;
  attr: Attr;
}

export interface DirectoryEntry {
  ino: bigint;
  /** What READDIR takes to go on after this entry. */
  offset: bigint;
  /** DT_* of dirent.h. */
  type: number;
  name: string;
  /** With READDIRPLUS. */
  entry?: Entry;
}

/** The reply's data, zero-filled to `size`, so that a field of an error reply reads as 0. */
function view(reply: Reply, size: number): DataView {
  const whole = new Uint8Array(Math.max(size, reply.data.length));
  whole.set(reply.data);
  return new DataView(whole.buffer);
}

/** A 32-bit field of the data, or 0 where the reply ends before it. */
export function u32At(reply: Reply, at: number): number {
  return view(reply, at + 4).getUint32(at, true);
}

/** A 64-bit field of the data, or 0 where the reply ends before it. */
export function u64At(reply: Reply, at: number): bigint {
  return view(reply, at + 8).getBigUint64(at, true);
}

function attrAt(v: DataView, at: number): Attr {
  const u32 = (i: number) => v.getUint32(at + i, true);
  const u64 = (i: number) => v.getBigUint64(at + i, true);
  return {
    ino: u64(0),
    size: Number(u64(8)),
    blocks: Number(u64(16)),
    atime: u64(24),
    mtime: u64(32),
    ctime: u64(40),
    atimensec: u32(48),
    mtimensec: u32(52),
    ctimensec: u32(56),
    mode: u32(60),
    nlink: u32(64),
    uid: u32(68),
    gid: u32(72),
    rdev: u32(76),
    blksize: u32(80),
    flags: u32(84),
  };
}

function seconds(v: DataView, at: number, atNsec: number): number {
  return Number(v.getBigUint64(at, true)) + v.getUint32(atNsec, true) / 1e9;
}

function entryAt(v: DataView, at: number): Entry {
  return {
    nodeid: v.getBigUint64(at, true),
    generation: v.getBigUint64(at + 8, true),
    entryValid: seconds(v, at + 16, at + 32),
    attrValid: seconds(v, at + 24, at + 36),
    attr: attrAt(v, at + 40),
  };
}

/** LOOKUP, MKNOD, MKDIR, SYMLINK, LINK. */
export function entry(reply: Reply): Reply & Entry {
  return { ...reply, ...entryAt(view(reply, 128), 0) };
}

/** GETATTR, SETATTR. */
export function attrOut(reply: Reply): Reply & { attrValid: number; attr: Attr } {
  const v = view(reply, 104);
  return { ...reply, attrValid: seconds(v, 0, 8), attr: attrAt(v, 16) };
}

/** OPEN, OPENDIR. `openFlags` are FOPEN_* bits. */
export function open(reply: Reply): Reply & { fh: bigint; openFlags: number } {
  return { ...reply, fh: u64At(reply, 0), openFlags: u32At(reply, 8) };
}

/** CREATE: an entry and an open file. */
export function create(reply: Reply): Reply & Entry & { fh: bigint; openFlags: number } {
  return { ...entry(reply), fh: u64At(reply, 128), openFlags: u32At(reply, 136) };
}

/** INIT. `flags` are all 64 bits. */
export function init(reply: Reply) {
  const v = view(reply, 64);
  const low = v.getUint32(12, true);
  return {
    ...reply,
    major: v.getUint32(0, true),
    minor: v.getUint32(4, true),
    maxReadahead: v.getUint32(8, true),
    flags: BigInt(low) | BigInt(v.getUint32(32, true)) << 32n,
    maxBackground: v.getUint16(16, true),
    congestionThreshold: v.getUint16(18, true),
    maxWrite: v.getUint32(20, true),
    timeGran: v.getUint32(24, true),
    maxPages: v.getUint16(28, true),
    mapAlignment: v.getUint16(30, true),
  };
}

/** STATFS: struct fuse_kstatfs. */
export function statfs(reply: Reply) {
  const v = view(reply, 80);
  const [blocks, bfree, bavail, files, ffree] = [0, 8, 16, 24, 32].map((at) => v.getBigUint64(at, true));
  const [bsize, namelen, frsize] = [40, 44, 48].map((at) => v.getUint32(at, true));
  return { ...reply, blocks, bfree, bavail, files, ffree, bsize, namelen, frsize };
}

/** READDIR and READDIRPLUS: struct fuse_dirent, each padded to 8 bytes, behind a struct fuse_entry_out with `plus`. */
export function dirents(reply: Reply, plus: boolean): Reply & { entries: DirectoryEntry[] } {
  const v = new DataView(reply.data.buffer);
  const entries: DirectoryEntry[] = [];
  const skip = plus ? 128 : 0;
  for (let at = 0; reply.error === 0 && at + skip + 24 <= v.byteLength;) {
    const d = at + skip, nameBytes = v.getUint32(d + 16, true);
    entries.push({
      ino: v.getBigUint64(d, true),
      offset: v.getBigUint64(d + 8, true),
      type: v.getUint32(d + 20, true),
      name: new TextDecoder().decode(reply.data.subarray(d + 24, d + 24 + nameBytes)),
      ...(plus ? { entry: entryAt(v, at) } : {}),
    });
    at = d + Math.ceil((24 + nameBytes) / 8) * 8;
  }
  return { ...reply, entries };
}
