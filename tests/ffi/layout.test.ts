// Layouts and constants under ffi/ against the machine's C headers.
import assert from "node:assert/strict";
import * as arch from "../../ffi/arch.ts";
import * as errnos from "../../ffi/errno.ts";
import * as memory from "../../ffi/memory.ts";
import * as stat from "../../ffi/stat_layout.ts";
import * as syscalls from "../../ffi/syscalls.ts";
import * as uring from "../../ffi/uring_layout.ts";
import { type Check, checksOf, compareWithC, missingForC, summary } from "./c_headers.ts";

/** Registers one comparison. `mayMiss` names what older headers lack; anything else unknown is a mistake of ours. */
function layoutTest(name: string, includes: string[], checks: Check[], mayMiss: string[] = []): void {
  const missing = missingForC(includes);
  const note = missing === null ? "" : ` (skipped: ${missing})`;
  Deno.test({
    name: `${name} match the C headers${note}`,
    ignore: missing !== null,
    fn: () => {
      const unknown = compareWithC(includes, checks);
      if (unknown.length > 0) console.log(`  not compared, the header is older: ${summary(unknown)}`);
      assert.deepEqual(unknown.filter((one) => !mayMiss.includes(one)), []);
    },
  });
}

layoutTest(
  "arch.ts: open flags",
  ["fcntl.h"],
  // glibc's O_LARGEFILE is 0 on 64-bit machines; the kernel's is in asm/fcntl.h, which cannot be included as well.
  checksOf(arch, { skip: ["SYS", "O_LARGEFILE"] }),
);

layoutTest("arch.ts: O_LARGEFILE and O_PATH of the kernel", ["asm/fcntl.h"], [
  { name: "O_LARGEFILE", expression: "O_LARGEFILE", value: arch.O_LARGEFILE },
  { name: "O_PATH", expression: "O_PATH", value: arch.O_PATH },
]);

layoutTest(
  "arch.ts: system call numbers",
  ["sys/syscall.h"],
  Object.entries(arch.SYS).map(([name, value]) => ({ name, expression: `SYS_${name}`, value })),
);

const numbers = Object.entries({
  ...syscalls.allowed,
  ...syscalls.conditional,
  ...syscalls.listening,
  ...syscalls.building,
});
layoutTest(
  "syscalls.ts: numbers",
  ["sys/syscall.h"],
  numbers.flatMap(([name, both]) => {
    const value = syscalls.numberOf(both);
    return value < 0 ? [] : [{ name, expression: `SYS_${name}`, value }];
  }),
  // Newer than some headers.
  numbers.map(([name, both]) => syscalls.numberOf(both) >= 435 ? name : ""),
);

Deno.test("syscalls.ts: the newest is newer than those that are named, and none is named twice", () => {
  for (const which of [0, 1] as const) {
    const values = numbers.map(([, both]) => both[which]).filter((value) => value >= 0);
    assert.ok(Math.max(...values) < syscalls.NEWEST);
    assert.equal(new Set(values).size, values.length);
  }
});

layoutTest("errno.ts: error numbers", ["errno.h"], checksOf(errnos));

layoutTest(
  "memory.ts: constants",
  ["sys/mman.h", "unistd.h"],
  checksOf(memory, { skip: ["PAGE"] }),
);

layoutTest(
  "uring_layout.ts: structs and constants",
  ["linux/io_uring.h"],
  checksOf(uring),
  ["IORING_SETUP_NO_SQARRAY", "IORING_TIMEOUT_MULTISHOT", "IORING_FEAT_NO_IOWAIT", "IORING_ENTER_NO_IOWAIT"],
);

const STAT_HEADERS = [
  "sys/stat.h",
  "sys/vfs.h",
  "sys/uio.h",
  "sys/un.h",
  "sys/socket.h",
  "sys/epoll.h",
  "sys/eventfd.h",
  "sys/file.h",
  "sys/mman.h",
  "sys/resource.h",
  "sys/xattr.h",
  "dirent.h",
  "fcntl.h",
  "poll.h",
  "time.h",
  "unistd.h",
];
layoutTest(
  "stat_layout.ts: structs and constants",
  STAT_HEADERS,
  checksOf(stat, { cName: { linux_dirent64: "struct dirent64" } }),
  ["STATX_MNT_ID_UNIQUE", "STATX_DIOALIGN", "statx.stx_dio_mem_align", "statx.stx_dio_offset_align"],
);
