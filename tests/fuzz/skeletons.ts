/**
 * For each opcode the arguments of a request that is right in its form, as pieces (pieces.ts): structs of linux/fuse.h, with values that
 * are likely to matter. What a generator changes about them afterwards is its own affair.
 */
import * as op from "../../bench/fuse_opcodes.ts";

export type Next = (below: number) => number;

export const pick = <T>(next: Next, list: readonly T[]): T => list[next(list.length)];

/** Names that are there, that are not, and that must lead nowhere; `%2f` is a slash, `%00` an end before the end. */
const NAMES = [
  ..."a b c d e dir sub fifo null disk out up abs twice magic entry-3 entry-39".split(" "),
  ..."a b c d".split(" "),
];
const BAD_NAMES = [
  "..",
  ".",
  "",
  "..%2fcanary",
  "%2fetc%2fpasswd",
  "a%2fb",
  "%2f",
  "a%2f",
  "a%00%2f..%2fcanary",
  "%ff%fe",
  "canary",
  "cage",
  "n".repeat(255),
  "n".repeat(256),
  "proc",
];

export function name(next: Next): string {
  return `name:${next(5) === 0 ? pick(next, BAD_NAMES) : pick(next, NAMES)}`;
}

const MODES = [
  0o100644,
  0o40755,
  0o10600,
  0o20666,
  0o60666,
  0o140755,
  0o120777,
  0o777,
  0o7777,
  0o102755,
  0xffffffff,
  0,
];
const OPEN_FLAGS = [
  0,
  1,
  2,
  3,
  0o1001,
  0o2001,
  0o1002,
  0o10002,
  0o4010002,
  0o40002,
  0o40000,
  0o200000,
  0o400000,
  0xffffffff,
];
const OFFSETS = ["0", "1", "5", "4095", "4096", "65536", "0x3ffffff", "0x4000000", "0x7fffffff", "0x80000000"];
const FAR = [
  "0xffffffff",
  "0x100000000",
  "0x1fffffffffffff",
  "0x20000000000000",
  "0x7fffffffffffffff",
  "0x8000000000000000",
  "-1",
  "-4096",
];
const SIZES = [
  0,
  1,
  15,
  16,
  100,
  4095,
  4096,
  4097,
  5000,
  65536,
  65537,
  0x100000,
  0x1000000,
  0x1000001,
  0x7fffffff,
  0x80000000,
  0xffffffff,
];

const mode = (next: Next) => `u32:${pick(next, MODES)}`;
const small = (next: Next) => `u32:${next(8)}`;
const word = (next: Next) => `u32:${next(4) > 0 ? next(64) : pick(next, SIZES)}`;
export const offset = (next: Next) => `u64:${next(4) > 0 ? pick(next, OFFSETS) : pick(next, FAR)}`;
const size = (next: Next) => `u32:${pick(next, SIZES)}`;

/** A nodeid: one of the guest's for the most part, and else what a guesser would try. */
export function node(next: Next): string {
  const kind = next(16);
  if (kind < 5) return "node:0";
  if (kind < 14) return `node:${next(64)}`;
  if (kind < 15) {
    return pick(next, ["0", "1", "2", "3", "4", "0xffffff", "0x1000000", "0x100000001", "-1", "0x20000000000000"]);
  }
  return `0x${(1 + next(8)).toString(16)}${next(64).toString(16).padStart(8, "0")}`;
}

const nodePiece = (next: Next) => {
  const text = node(next);
  return text.startsWith("node:") ? text : `u64:${text}`;
};

export function fh(next: Next): string {
  return next(10) > 0
    ? `fh:${next(64)}`
    : `u64:${pick(next, ["0", "1", "5", "0x100000", "0xfffff", "0xffffffff", "0x100000000", "-1"])}`;
}

/** Extensions behind the names of what creates: a label, groups, both, and rubbish. */
export function extensions(next: Next): string {
  const label = (size: number | string, length: number | string) =>
    `u32:${size} u32:1 u32:${length} u32:0 name:user.fuzz hex:6c00 zeros:4`;
  const groups = (size: number | string, count: number | string) => `u32:${size} u32:32 u32:${count} u32:100`;
  switch (next(12)) {
    case 0:
      return `${label(32, 2)} ${groups(16, 1)}`;
    case 1:
      return "u32:8 u32:0";
    case 2:
      return groups(pick(next, SIZES), 1);
    case 3:
      return groups(16, pick(next, SIZES));
    case 4:
      return label(pick(next, SIZES), 2);
    case 5:
      return label(32, pick(next, SIZES));
    case 6:
      return `${groups(16, 1)} ${groups(16, 1)}`;
    case 7:
    case 8:
      return groups(16, 1);
    default:
      return label(32, 2);
  }
}

const XATTRS = [
  "user.a",
  "user.b",
  "security.capability",
  "system.posix_acl_access",
  "system.posix_acl_default",
  "trusted.x",
  "user.virtiofs.x",
  "x",
  "",
];
const xattr = (next: Next) => `name:${next(12) === 0 ? "user." + "x".repeat(next(300)) : pick(next, XATTRS)}`;

const lock = (next: Next) =>
  `${fh(next)} u64:${next(4)} ${offset(next)} ${next(2) ? "u64:0x7fffffffffffffff" : offset(next)} u32:${
    next(4)
  } u32:0 u32:${next(3)} u32:0`;
const times = (next: Next) => `u64:${pick(next, ["0", "1000000000", "-1", "0x7fffffffffffffff"])}`;
const nsec = (next: Next) => `u32:${pick(next, [0, 999999999, 1000000000, 0x3fffffff, 0x3ffffffe, 0xffffffff])}`;
const read = (next: Next) =>
  `${fh(next)} ${offset(next)} ${size(next)} u32:0 u64:0 u32:${pick(next, OPEN_FLAGS)} u32:0`;
const copy = (next: Next) =>
  `${fh(next)} ${offset(next)} ${nodePiece(next)} ${fh(next)} ${offset(next)} u64:${pick(next, SIZES)} u64:${
    next(4) === 0 ? 1 : 0
  }`;

/** By opcode, the arguments behind the header. */
export const skeletons: Readonly<Record<number, (next: Next) => string>> = {
  [op.FUSE_LOOKUP]: name,
  [op.FUSE_FORGET]: (next) => `u64:${next(4) === 0 ? pick(next, FAR) : 1}`,
  [op.FUSE_GETATTR]: (next) => `u32:${next(2)} u32:0 ${fh(next)}`,
  [op.FUSE_SETATTR]: (next) =>
    `u32:${next(3) ? 1 << next(11) : next(2048)} u32:0 ${fh(next)} ${offset(next)} u64:0 ${times(next)} ${
      times(next)
    } ` +
    `${times(next)} ${nsec(next)} ${nsec(next)} ${nsec(next)} ${mode(next)} u32:0 u32:${
      pick(next, [0, 1000, 0xffffffff])
    } ` +
    `u32:${pick(next, [0, 1000, 0xffffffff])} u32:0`,
  [op.FUSE_READLINK]: () => "",
  [op.FUSE_SYMLINK]: (next) => `${name(next)} ${next(3) ? name(next) : "name:" + "x%2f".repeat(next(300))}`,
  [op.FUSE_MKNOD]: (next) =>
    `${mode(next)} u32:${pick(next, [0, 0x103, 0x7c8, 0xffffffff])} u32:18 u32:0 ${name(next)}`,
  [op.FUSE_MKDIR]: (next) => `${mode(next)} u32:18 ${name(next)}`,
  [op.FUSE_UNLINK]: name,
  [op.FUSE_RMDIR]: name,
  [op.FUSE_RENAME]: (next) => `${nodePiece(next)} ${name(next)} ${name(next)}`,
  [op.FUSE_RENAME2]: (next) => `${nodePiece(next)} u32:${next(9)} u32:0 ${name(next)} ${name(next)}`,
  [op.FUSE_LINK]: (next) => `${nodePiece(next)} ${name(next)}`,
  [op.FUSE_OPEN]: (next) => `u32:${pick(next, OPEN_FLAGS)} ${small(next)}`,
  [op.FUSE_READ]: read,
  [op.FUSE_WRITE]: (next) => {
    const bytes = pick(next, [0, 1, 10, 100, 4096, 5000]);
    return `${fh(next)} ${offset(next)} u32:${next(8) ? bytes : pick(next, SIZES)} u32:${next(8)} u64:0 ` +
      `u32:${pick(next, OPEN_FLAGS)} u32:0 zeros:${bytes}`;
  },
  [op.FUSE_STATFS]: () => "",
  [op.FUSE_RELEASE]: (next) => `${fh(next)} u32:0 u32:${next(4)} u64:${next(4)}`,
  [op.FUSE_FSYNC]: (next) => `${fh(next)} u32:${next(2)} u32:0`,
  [op.FUSE_SETXATTR]: (next) => {
    const bytes = pick(next, [0, 1, 20, 300, 5000]);
    const value = next(3) ? `zeros:${bytes}` : "hex:0200000001000600ffffffff04000600ffffffff20000600ffffffff";
    const length = value.startsWith("zeros") ? bytes : 28;
    return `u32:${next(8) ? length : pick(next, SIZES)} ${small(next)} ${next(2) ? `u32:${next(2)} u32:0 ` : ""}${
      xattr(next)
    } ${value}`;
  },
  [op.FUSE_GETXATTR]: (next) => `${size(next)} u32:0 ${xattr(next)}`,
  [op.FUSE_LISTXATTR]: (next) => `${size(next)} u32:0`,
  [op.FUSE_REMOVEXATTR]: xattr,
  [op.FUSE_FLUSH]: (next) => `${fh(next)} u32:0 u32:0 u64:${next(4)}`,
  [op.FUSE_INIT]: (next) =>
    `u32:${next(6) ? 7 : next(9)} u32:${next(4) ? 38 : next(64)} u32:131072 u32:${next(2 ** 32)} u32:${
      next(2 ** 32)
    } zeros:44`,
  [op.FUSE_OPENDIR]: (next) => `u32:${pick(next, OPEN_FLAGS)} u32:0`,
  [op.FUSE_READDIR]: read,
  [op.FUSE_RELEASEDIR]: (next) => `${fh(next)} u32:0 u32:0 u64:0`,
  [op.FUSE_FSYNCDIR]: (next) => `${fh(next)} u32:${next(2)} u32:0`,
  [op.FUSE_GETLK]: lock,
  [op.FUSE_SETLK]: lock,
  [op.FUSE_SETLKW]: lock,
  [op.FUSE_ACCESS]: (next) => `u32:${next(9)} u32:0`,
  [op.FUSE_CREATE]: (next) => `u32:${pick(next, OPEN_FLAGS)} ${mode(next)} u32:18 ${small(next)} ${name(next)}`,
  [op.FUSE_INTERRUPT]: (next) => `u64:${next(4) ? next(60) : pick(next, FAR)}`,
  [op.FUSE_BMAP]: () => "u64:0 u32:512 u32:0",
  [op.FUSE_DESTROY]: () => "",
  [op.FUSE_IOCTL]: (next) => {
    const command = pick(next, [0x80086601, 0x80046601, 0x801c581f, 0x40086602, 0x401c5820, 0x5413, next(2 ** 32)]);
    return `${fh(next)} u32:${next(8)} u32:${command} u64:0 u32:${next(64)} ${next(2) ? "u32:28" : size(next)} zeros:${
      next(64)
    }`;
  },
  [op.FUSE_POLL]: (next) => `${fh(next)} u64:1 u32:0 u32:1`,
  [op.FUSE_BATCH_FORGET]: (next) =>
    `u32:${next(4) ? 2 : pick(next, SIZES)} u32:0 ${nodePiece(next)} u64:1 ${nodePiece(next)} u64:${
      next(3) ? 1 : pick(next, FAR)
    }`,
  // Reserves what it is told to: not much, or more than any disk has.
  [op.FUSE_FALLOCATE]: (next) =>
    `${fh(next)} u64:${next(4) ? next(1 << 20) : "0x7ffffffffffff000"} u64:${
      next(4) ? next(1 << 20) : "0x7fffffffffffffff"
    } u32:${next(4) ? next(128) : 0xffffffff} u32:0`,
  [op.FUSE_READDIRPLUS]: read,
  [op.FUSE_LSEEK]: (next) => `${fh(next)} ${offset(next)} u32:${next(8) ? next(6) : 0xffffffff} u32:0`,
  [op.FUSE_COPY_FILE_RANGE]: copy,
  [op.FUSE_SETUPMAPPING]: (next) => `${fh(next)} ${offset(next)} u64:4096 u64:3 u64:0`,
  [op.FUSE_REMOVEMAPPING]: (next) => `u32:1 u64:0 ${word(next)}`,
  [op.FUSE_SYNCFS]: () => "u64:0",
  [op.FUSE_TMPFILE]: (next) => `u32:${pick(next, OPEN_FLAGS)} ${mode(next)} u32:18 ${small(next)} ${name(next)}`,
  [op.FUSE_STATX]: (next) =>
    `u32:${next(2)} u32:0 ${fh(next)} u32:${next(2 ** 16)} u32:${next(3) ? 0x7ff : 0xffffffff}`,
  /** COPY_FILE_RANGE_64 */
  53: copy,
};
