// fs/wire.ts against linux/fuse.h and linux/virtio_fs.h of the machine.
import assert from "node:assert/strict";
import * as wire from "../../fs/wire.ts";
import { type Check, checksOf, compareWithC, missingForC, summary, valueInC } from "../ffi/c_headers.ts";

const HEADERS = ["linux/fuse.h", "linux/virtio_fs.h"];
const missing = missingForC(HEADERS);
const note = missing === null ? "" : ` (skipped: ${missing})`;

/** Names and the minor version that brought them, for headers that are older than 7.45. By prefix. */
const SINCE: readonly (readonly [string, number])[] = [
  ["FATTR_KILL_SUIDGID", 33],
  ["FUSE_HANDLE_KILLPRIV_V2", 33],
  ["FUSE_OPEN_KILL_SUIDGID", 33],
  ["FUSE_WRITE_KILL_SUIDGID", 33],
  ["FUSE_SETXATTR_", 33],
  ["FUSE_COMPAT_SETXATTR_IN_SIZE", 33],
  ["fuse_setxattr_in.", 33],
  ["fuse_open_in.open_flags", 33],
  ["fuse_create_in.open_flags", 33],
  ["FUSE_SYNCFS", 34],
  ["fuse_syncfs_in.", 34],
  ["FOPEN_NOFLUSH", 35],
  ["FUSE_INIT_EXT", 36],
  ["FUSE_SECURITY_CTX", 36],
  ["FUSE_HAS_INODE_DAX", 36],
  ["FUSE_ATTR_DAX", 36],
  ["fuse_secctx", 36],
  ["fuse_init_in.", 36],
  ["fuse_init_out.flags2", 36],
  ["FUSE_TMPFILE", 37],
  ["FUSE_EXPIRE_ONLY", 38],
  ["fuse_notify_inval_entry_out.flags", 38],
  ["FOPEN_PARALLEL_DIRECT_WRITES", 38],
  ["fuse_in_header.total_extlen", 38],
  ["FUSE_MAX_NR_SECCTX", 38],
  ["fuse_ext_header.", 38],
  // They belong to 7.38, but not all headers of that number have them.
  ["FUSE_EXT_GROUPS", 39],
  ["fuse_supp_groups.", 39],
  ["FUSE_CREATE_SUPP_GROUP", 39],
  ["FUSE_HAS_EXPIRE_ONLY", 38],
  ["FUSE_DIRECT_IO_ALLOW_MMAP", 39],
  ["FUSE_STATX", 39],
  ["fuse_statx", 39],
  ["fuse_sx_time.", 39],
  ["fuse_init_out.max_stack_depth", 40],
  ["FUSE_PASSTHROUGH", 40],
  ["fuse_open_out.backing_id", 40],
  ["FOPEN_PASSTHROUGH", 40],
  ["FUSE_NO_EXPORT_SUPPORT", 40],
  ["FUSE_NOTIFY_RESEND", 40],
  ["FUSE_HAS_RESEND", 40],
  ["FUSE_UNIQUE_RESEND", 40],
  ["FUSE_ALLOW_IDMAP", 41],
  ["FUSE_INVALID_UIDGID", 41],
  ["FUSE_OVER_IO_URING", 42],
  ["FUSE_REQUEST_TIMEOUT", 43],
  ["fuse_init_out.request_timeout", 43],
  ["FUSE_NOTIFY_INC_EPOCH", 44],
  ["FUSE_COPY_FILE_RANGE_64", 45],
  ["fuse_copy_file_range_out.", 45],
  ["FUSE_NOTIFY_PRUNE", 45],
];

/** The padding that later versions turned into members moves; its end is the same. */
const MOVED = ["fuse_init_in.unused", "fuse_init_out.unused"];

function allChecks(): Check[] {
  const skip = ["FUSE_KERNEL_MINOR_VERSION", "FLAGS2", "FUSE_UNIQUE_RESEND_HI"];
  const checks = checksOf({ ...wire }, { skip }).filter((check) => !MOVED.includes(check.name));
  for (const [name, value] of Object.entries(wire.FLAGS2)) {
    checks.push({ name, expression: `${name} >> 32`, value });
  }
  checks.push({
    name: "FUSE_UNIQUE_RESEND",
    expression: "FUSE_UNIQUE_RESEND >> 32",
    value: wire.FUSE_UNIQUE_RESEND_HI,
  });
  return checks;
}

Deno.test({
  name: `wire.ts: structs and constants match the C headers${note}`,
  ignore: missing !== null,
  fn: () => {
    const unknown = compareWithC(HEADERS, allChecks());
    if (unknown.length > 0) console.log(`  not compared, the header is older: ${summary(unknown)}`);
    const minor = unknown.length > 0 ? valueInC(HEADERS, "FUSE_KERNEL_MINOR_VERSION")! : wire.FUSE_KERNEL_MINOR_VERSION;
    const since = (name: string) => SINCE.find(([prefix]) => name.startsWith(prefix))?.[1] ?? 0;
    assert.deepEqual(unknown.filter((name) => since(name) <= minor), []);
  },
});

Deno.test("direntSize() and direntplusSize() round up to eight bytes", () => {
  assert.deepEqual([1, 7, 8, 9, 255].map(wire.direntSize), [32, 32, 32, 40, 280]);
  assert.deepEqual([1, 8, 9, 255].map(wire.direntplusSize), [160, 160, 168, 408]);
});
