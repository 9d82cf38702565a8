/** statx(2) into a buffer of the loop's own, and out of it into a reply. */
import { errno, libc } from "../ffi/libc.ts";
import {
  AT_EMPTY_PATH,
  AT_NO_AUTOMOUNT,
  AT_SYMLINK_NOFOLLOW,
  S_IFMT,
  statx,
  STATX_ATTR_MOUNT_ROOT,
  STATX_BASIC_STATS,
  STATX_MNT_ID,
} from "../ffi/stat_layout.ts";
import type { Ids } from "./idmap.ts";
import type { Identity } from "./nodes.ts";
import { fuse_attr } from "./wire.ts";

const MASK = STATX_BASIC_STATS | STATX_MNT_ID;
const noName = new Uint8Array(1);

// Word indices.
const X_ATTRIBUTES = statx.stx_attributes >> 2;
const X_INO = statx.stx_ino >> 2;
const X_SIZE = statx.stx_size >> 2;
const X_BLOCKS = statx.stx_blocks >> 2;
const X_ATIME = statx.stx_atime >> 2;
const X_MTIME = statx.stx_mtime >> 2;
const X_CTIME = statx.stx_ctime >> 2;
const X_DEV_MAJOR = statx.stx_dev_major >> 2;
const X_DEV_MINOR = statx.stx_dev_minor >> 2;
const X_RDEV_MAJOR = statx.stx_rdev_major >> 2;
const X_RDEV_MINOR = statx.stx_rdev_minor >> 2;
const X_MODE = statx.stx_mode >> 2; // u16, and the u16 behind it is unused
const X_NLINK = statx.stx_nlink >> 2;
const X_UID = statx.stx_uid >> 2;
const X_GID = statx.stx_gid >> 2;
const X_BLKSIZE = statx.stx_blksize >> 2;
const X_MNT_ID = statx.stx_mnt_id >> 2;
const NSEC = 2;

const A_INO = fuse_attr.ino >> 2;
const A_SIZE = fuse_attr.size >> 2;
const A_BLOCKS = fuse_attr.blocks >> 2;
const A_ATIME = fuse_attr.atime >> 2;
const A_MTIME = fuse_attr.mtime >> 2;
const A_CTIME = fuse_attr.ctime >> 2;
const A_ATIMENSEC = fuse_attr.atimensec >> 2;
const A_MTIMENSEC = fuse_attr.mtimensec >> 2;
const A_CTIMENSEC = fuse_attr.ctimensec >> 2;
const A_MODE = fuse_attr.mode >> 2;
const A_NLINK = fuse_attr.nlink >> 2;
const A_UID = fuse_attr.uid >> 2;
const A_GID = fuse_attr.gid >> 2;
const A_RDEV = fuse_attr.rdev >> 2;
const A_BLKSIZE = fuse_attr.blksize >> 2;
const A_FLAGS = fuse_attr.flags >> 2;

export class StatBuffer {
  /** How users and groups are shown to the guest; null: as they are. */
  readonly #ids: Ids | null;
  readonly #bytes = new Uint8Array(statx.sizeof);
  readonly #words = new Uint32Array(this.#bytes.buffer);
  readonly #id: Identity = { inoLo: 0, inoHi: 0, dev: 0, mount: 0 };

  constructor(ids: Ids | null = null) {
    this.#ids = ids;
  }

  /** Looks at a name in a directory, never through a symlink. 0 or -errno. */
  at(dirFd: number, name: Uint8Array<ArrayBuffer>): number {
    const flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
    return libc.statx(dirFd, name, flags, MASK, this.#bytes) < 0 ? -errno() : 0;
  }

  /** Looks at a descriptor, O_PATH or not. 0 or -errno. */
  of(fd: number): number {
    return libc.statx(fd, noName, AT_EMPTY_PATH, MASK, this.#bytes) < 0 ? -errno() : 0;
  }

  /** Looks at a descriptor for what statx(2) of the mask says, birth time and attributes included. 0 or -errno. */
  all(fd: number, mask: number): number {
    return libc.statx(fd, noName, AT_EMPTY_PATH, mask & 0x7fffffff, this.#bytes) < 0 ? -errno() : 0;
  }

  /** Writes struct fuse_statx, which is struct statx up to the device numbers, at word `at` of a reply. */
  putStatx(out: Uint32Array, at: number): void {
    out.set(this.#words.subarray(0, X_MNT_ID), at);
    if (this.#ids === null) return;
    out[at + X_UID] = this.uid;
    out[at + X_GID] = this.gid;
  }

  /** Which file it was. The same object each time. */
  get identity(): Identity {
    const w = this.#words;
    const id = this.#id;
    id.inoLo = w[X_INO];
    id.inoHi = w[X_INO + 1];
    id.dev = w[X_DEV_MAJOR] << 20 | w[X_DEV_MINOR];
    id.mount = w[X_MNT_ID];
    return id;
  }

  /** st_mode, type and permissions. */
  get mode(): number {
    return this.#words[X_MODE] & 0xffff;
  }

  get type(): number {
    return this.#words[X_MODE] & S_IFMT;
  }

  /** Owner and group, as the guest sees them. */
  get uid(): number {
    const uid = this.#words[X_UID];
    return this.#ids === null ? uid : this.#ids.uid.toGuest(uid);
  }

  get gid(): number {
    const gid = this.#words[X_GID];
    return this.#ids === null ? gid : this.#ids.gid.toGuest(gid);
  }

  /** Whether something is mounted there, which the file is the root of. */
  get isMountRoot(): boolean {
    return (this.#words[X_ATTRIBUTES] & STATX_ATTR_MOUNT_ROOT) !== 0;
  }

  /** Writes struct fuse_attr at word `at` of a reply. */
  putAttr(out: Uint32Array, at: number): void {
    const w = this.#words;
    out[at + A_INO] = w[X_INO];
    out[at + A_INO + 1] = w[X_INO + 1];
    out[at + A_SIZE] = w[X_SIZE];
    out[at + A_SIZE + 1] = w[X_SIZE + 1];
    out[at + A_BLOCKS] = w[X_BLOCKS];
    out[at + A_BLOCKS + 1] = w[X_BLOCKS + 1];
    out[at + A_ATIME] = w[X_ATIME];
    out[at + A_ATIME + 1] = w[X_ATIME + 1];
    out[at + A_MTIME] = w[X_MTIME];
    out[at + A_MTIME + 1] = w[X_MTIME + 1];
    out[at + A_CTIME] = w[X_CTIME];
    out[at + A_CTIME + 1] = w[X_CTIME + 1];
    out[at + A_ATIMENSEC] = w[X_ATIME + NSEC];
    out[at + A_MTIMENSEC] = w[X_MTIME + NSEC];
    out[at + A_CTIMENSEC] = w[X_CTIME + NSEC];
    out[at + A_MODE] = w[X_MODE] & 0xffff;
    out[at + A_NLINK] = w[X_NLINK];
    out[at + A_UID] = this.uid;
    out[at + A_GID] = this.gid;
    const major = w[X_RDEV_MAJOR];
    const minor = w[X_RDEV_MINOR];
    // new_encode_dev() of the kernel: 12 bits of major in the middle of 20 bits of minor.
    out[at + A_RDEV] = (minor & 0xff) | (major << 8) | ((minor & 0xfff00) << 12);
    out[at + A_BLKSIZE] = w[X_BLKSIZE];
    out[at + A_FLAGS] = 0;
  }
}
