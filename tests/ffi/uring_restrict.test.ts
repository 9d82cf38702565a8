import assert from "node:assert/strict";
import { EACCES } from "../../ffi/errno.ts";
import { cString, libc } from "../../ffi/libc.ts";
import { allocate, unmap } from "../../ffi/memory.ts";
import { AT_FDCWD } from "../../ffi/stat_layout.ts";
import { Ring } from "../../ffi/uring.ts";
import { IORING_SETUP_R_DISABLED, IOSQE_ASYNC, IOSQE_IO_LINK } from "../../ffi/uring_layout.ts";
import { register_files, register_iowq_max_workers } from "../../ffi/uring_register.ts";
import { restrictedRing } from "../../ffi/uring_restrict.ts";

/** The result of one entry. */
function result(ring: Ring, prepare: (sqe: number) => void): number {
  prepare(ring.get_sqe());
  while (ring.cq_ready() === 0) ring.submit_and_wait(1);
  const res = ring.cqe_res(0);
  ring.cq_advance(1);
  return res;
}

function withRing(body: (ring: Ring) => void): void {
  const ring = restrictedRing((flags) => Ring.queue_init_best(8, { flags }));
  try {
    body(ring);
  } finally {
    ring.queue_exit();
  }
}

Deno.test("restrictedRing() takes what a loop submits, and nothing else", () =>
  withRing((ring) => {
    assert.equal(ring.flags & IORING_SETUP_R_DISABLED, IORING_SETUP_R_DISABLED, "restrictions need Linux 5.10");
    const memory = allocate(4096);
    const path = cString("/dev/zero");
    new Uint8Array(memory.buffer).set(path);
    assert.equal(result(ring, (sqe) => ring.prep_nop(sqe)), 0);
    const open = (sqe: number, on = ring) => {
      on.prep_openat(sqe, AT_FDCWD, memory.addr >>> 0, Math.floor(memory.addr / 2 ** 32), 0, 0);
    };
    assert.equal(result(ring, (sqe) => open(sqe)), -EACCES);
    // Without restrictions the same entry opens the file.
    const free = Ring.queue_init_best(8);
    const fd = result(free, (sqe) => open(sqe, free));
    free.queue_exit();
    assert.ok(fd >= 0, `${fd}`);
    libc.close(fd);
    unmap(memory);
  }));

Deno.test("restrictedRing() allows the flags and registrations in use alone", () =>
  withRing((ring) => {
    const flagged = (flags: number) =>
      result(ring, (sqe) => {
        ring.prep_nop(sqe);
        ring.sqe_set_flags(sqe, flags);
      });
    assert.equal(flagged(IOSQE_ASYNC), 0);
    assert.equal(flagged(IOSQE_IO_LINK), -EACCES);
    assert.equal(register_files(ring, [0]), -EACCES);
    assert.ok(typeof register_iowq_max_workers(ring, 4, 4) !== "number");
  }));

Deno.test("restrictedRing() is an ordinary ring where the kernel has no restrictions", () => {
  let asked = 0;
  const ring = restrictedRing((flags) => {
    asked++;
    if (flags !== 0) {
      // As a kernel before 5.10 answers.
      return Ring.queue_init(8, { flags: 1 << 31 });
    }
    return Ring.queue_init_best(8);
  });
  assert.equal(asked, 2);
  assert.equal(ring.flags & IORING_SETUP_R_DISABLED, 0);
  ring.queue_exit();
});
