/**
 * Landlock: which files may be opened, made and removed at all, whatever the user and its capabilities. landlock(7). It binds the
 * calling thread, those that it makes later, and all of the process after an execve(2) of that thread.
 */
import { O_CLOEXEC, O_PATH } from "./arch.ts";
import { checked, cString, libc } from "./libc.ts";
import { AT_FDCWD } from "./stat_layout.ts";
import { building, numberOf } from "./syscalls.ts";

/** What may be done with a file, or with a directory and all beneath. */
export type Access = "read" | "run" | "device" | "share" | "share, read only";

/**
 * The first version that can be used: version 1 refuses every rename and link from one directory to another. 5.19.
 */
const ABI_MIN = 2;
const CREATE_RULESET_VERSION = 1;
const RULE_PATH_BENEATH = 1;

// LANDLOCK_ACCESS_FS_*, linux/landlock.h
const EXECUTE = 1 << 0;
const WRITE_FILE = 1 << 1;
const READ_FILE = 1 << 2;
const READ_DIR = 1 << 3;
/** REMOVE_DIR, REMOVE_FILE and MAKE_*. */
const NAMES = 0x1ff0;
const REFER = 1 << 13;
const TRUNCATE = 1 << 14; // version 3
const IOCTL_DEV = 1 << 15; // version 5

const ACCESS: Readonly<Record<Access, number>> = {
  read: READ_FILE | READ_DIR,
  run: READ_FILE | READ_DIR | EXECUTE,
  device: READ_FILE | WRITE_FILE,
  // Nothing of a share is executed, and no device in it opened.
  share: READ_FILE | READ_DIR | WRITE_FILE | NAMES | REFER | TRUNCATE,
  "share, read only": READ_FILE | READ_DIR,
};
/** What a rule for a file, not a directory, may have. */
const OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

/** LANDLOCK_ACCESS_NET_BIND_TCP and CONNECT_TCP, version 4; LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and SIGNAL, version 6. */
const NET = 3n;
const SCOPES = 3n;

/** The kernel's version of Landlock that can be used here; 0: none. */
export function landlockVersion(): number {
  const abi = libc.landlock_create_ruleset(numberOf(building.landlock_create_ruleset), null, 0, CREATE_RULESET_VERSION);
  return abi >= ABI_MIN ? abi : 0;
}

/** A file or directory that stays within reach. */
export interface Reach {
  path: string;
  access: Access;
  directory: boolean;
}

/**
 * What is handled where files are opened by file handle, open_by_handle_at(2): names and execution. Such a file may have no path that
 * the kernel knows of, and Landlock would refuse to open it wherever it is.
 */
const WITH_HANDLES = EXECUTE | NAMES | REFER | IOCTL_DEV;

/**
 * Leaves the calling thread what is listed, and no TCP, no abstract sockets and no signals to processes outside, as far as the kernel's
 * version goes; with `byHandle` files can be opened wherever they are. It must have given up new privileges. Throws SystemError.
 */
export function landlock(version: number, reaches: readonly Reach[], byHandle = false): void {
  const known = EXECUTE | WRITE_FILE | READ_FILE | READ_DIR | NAMES | REFER | (version >= 3 ? TRUNCATE : 0) |
    (version >= 5 ? IOCTL_DEV : 0);
  const handled = byHandle ? known & WITH_HANDLES : known;
  const attributes = new BigUint64Array([BigInt(handled), version >= 4 ? NET : 0n, version >= 6 ? SCOPES : 0n]);
  const bytes = version >= 6 ? 24 : version >= 4 ? 16 : 8;
  const ruleset = checked(
    "landlock_create_ruleset",
    libc.landlock_create_ruleset(
      numberOf(building.landlock_create_ruleset),
      new Uint8Array(attributes.buffer),
      bytes,
      0,
    ),
  );
  try {
    for (const reach of reaches) addRule(ruleset, handled, reach);
    checked("landlock_restrict_self", libc.syscall3(numberOf(building.landlock_restrict_self), ruleset, 0, 0));
  } finally {
    libc.close(ruleset);
  }
}

function addRule(ruleset: number, handled: number, { path, access, directory }: Reach): void {
  const allowed = ACCESS[access] & handled & (directory ? -1 : OF_FILES);
  // A rule that allows nothing is refused.
  if (allowed === 0) return;
  const fd = checked(`open ${path}`, libc.openat(AT_FDCWD, cString(path), O_PATH | O_CLOEXEC, 0));
  try {
    // struct landlock_path_beneath_attr, packed: u64 allowed_access, s32 parent_fd
    const rule = new DataView(new ArrayBuffer(12));
    rule.setBigUint64(0, BigInt(allowed), true);
    rule.setInt32(8, fd, true);
    const added = libc.landlock_add_rule(
      numberOf(building.landlock_add_rule),
      ruleset,
      RULE_PATH_BENEATH,
      new Uint8Array(rule.buffer),
      0,
    );
    checked(`landlock_add_rule for ${path}`, added);
  } finally {
    libc.close(fd);
  }
}
