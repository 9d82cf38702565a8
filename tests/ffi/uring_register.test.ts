// Each function of ffi/uring_register.ts against a known result.
import assert from "node:assert/strict";
import { EACCES, EBADF, EBUSY, EFAULT, EINVAL, ENXIO } from "../../ffi/errno.ts";
import { Ring } from "../../ffi/uring.ts";
import * as L from "../../ffi/uring_layout.ts";
import * as R from "../../ffi/uring_register.ts";
import { complete, one, takeEvent, withEventFd, withFile, withMemory, withRing } from "./help.ts";

const EBADFD = 77;

/** Reads the file's first byte through a slot of the ring's file table. */
function readSlot(ring: Ring, slot: number): number {
  let result = 0;
  withMemory(4096, (memory) => {
    const prep = (sqe: number) => {
      ring.prep_read(sqe, slot, memory.lo, memory.hi, 1, 0, 0);
      ring.sqe_set_flags(sqe, L.IOSQE_FIXED_FILE);
    };
    result = one(ring, prep);
    if (result === 1) result = memory.bytes[0];
  });
  return result;
}

Deno.test("register_files() makes a table for IOSQE_FIXED_FILE", () => {
  withFile((fd, path) =>
    withRing(4, (ring) => {
      Deno.writeTextFileSync(path, "A");
      assert.equal(R.register_files(ring, [-1, fd]), 0);
      assert.equal(readSlot(ring, 1), 65);
      assert.equal(readSlot(ring, 0), -EBADF);
      assert.equal(readSlot(ring, 2), -EBADF);
      assert.equal(R.register_files(ring, [fd]), -EBUSY);
      assert.equal(R.unregister_files(ring), 0);
      assert.equal(R.unregister_files(ring), -ENXIO);
    })
  );
});

Deno.test("register_files_update() fills and empties slots", () => {
  withFile((fd, path) =>
    withRing(4, (ring) => {
      Deno.writeTextFileSync(path, "B");
      assert.equal(R.register_files_sparse(ring, 16), 0);
      assert.equal(readSlot(ring, 9), -EBADF);
      assert.equal(R.register_files_update(ring, 8, [fd, fd]), 2);
      assert.equal(readSlot(ring, 9), 66);
      assert.equal(R.register_files_update(ring, 9, [-1]), 1);
      assert.equal(readSlot(ring, 9), -EBADF);
      assert.equal(readSlot(ring, 8), 66);
      assert.equal(R.register_files_update(ring, 16, [fd]), -EINVAL);
    })
  );
});

Deno.test("register_buffers() refuses memory that is not mapped", () => {
  withRing(4, (ring) =>
    withMemory(8192, (memory) => {
      assert.equal(R.register_buffers(ring, [{ addr: 4096, size: 4096 }]), -EFAULT);
      assert.equal(R.register_buffers(ring, [{ addr: memory.addr, size: 8192 }]), 0);
      assert.equal(R.unregister_buffers(ring), 0);
      assert.equal(R.unregister_buffers(ring), -ENXIO);
    }));
});

Deno.test("register_eventfd() signals each completion", () => {
  withRing(4, (ring) =>
    withEventFd((fd) => {
      assert.equal(R.register_eventfd(ring, fd), 0);
      assert.equal(R.register_eventfd(ring, fd), -EBUSY);
      assert.equal(one(ring, (sqe) => ring.prep_nop(sqe)), 0);
      assert.equal(takeEvent(fd), 1n);
      assert.equal(R.unregister_eventfd(ring), 0);
      assert.equal(one(ring, (sqe) => ring.prep_nop(sqe)), 0);
      assert.equal(takeEvent(fd), 0n);
    }));
});

Deno.test("register_iowq_max_workers() returns the bounds before", () => {
  withRing(4, (ring) => {
    const before = R.register_iowq_max_workers(ring, 3, 5);
    assert.ok(typeof before === "object" && before[0] > 0 && before[1] > 0);
    assert.deepEqual(R.register_iowq_max_workers(ring, 0, 0), [3, 5]);
  });
});

Deno.test("register_iowq_aff() takes a CPU mask", () => {
  withRing(4, (ring) => {
    const first = new Uint8Array(128).fill(1, 0, 1);
    assert.equal(R.register_iowq_aff(ring, first), 0);
    assert.equal(R.unregister_iowq_aff(ring), 0);
  });
});

Deno.test("register_probe() lists the operations that ringfsd uses", () => {
  withRing(4, (ring) => {
    const ops = R.register_probe(ring);
    assert.ok(typeof ops === "object");
    for (const op of [L.IORING_OP_NOP, L.IORING_OP_READ, L.IORING_OP_WRITEV, L.IORING_OP_STATX]) assert.ok(ops.has(op));
    assert.equal(ops.has(255), false);
  });
});

Deno.test("register_ring_fd() enters through an index", () => {
  withRing(4, (ring) => {
    assert.equal(R.unregister_ring_fd(ring), -EINVAL);
    assert.equal(R.register_ring_fd(ring), 1);
    assert.ok(ring.registered_index >= 0 && ring.registered_index < 16);
    assert.equal(one(ring, (sqe) => ring.prep_nop(sqe)), 0);
    assert.equal(ring.submit_and_wait_timeout(0, 1), 0);
    assert.equal(R.unregister_ring_fd(ring), 1);
    assert.equal(ring.registered_index, -1);
    assert.equal(one(ring, (sqe) => ring.prep_nop(sqe)), 0);
  });
});

Deno.test("register_personality() gives an id for sqe_set_personality()", () => {
  withRing(4, (ring) => {
    const id = R.register_personality(ring);
    assert.ok(id > 0);
    const prep = (sqe: number) => {
      ring.prep_nop(sqe);
      ring.sqe_set_personality(sqe, id);
    };
    assert.equal(one(ring, prep), 0);
    assert.equal(R.unregister_personality(ring, id), 0);
    assert.equal(one(ring, prep), -EINVAL);
    assert.equal(R.unregister_personality(ring, id), -EINVAL);
  });
});

Deno.test("register_restrictions() and enable_rings() allow what is listed and nothing else", () => {
  const ring = Ring.queue_init_best(4, { flags: L.IORING_SETUP_R_DISABLED });
  try {
    const allowed = [
      { opcode: L.IORING_RESTRICTION_SQE_OP, value: L.IORING_OP_NOP },
      { opcode: L.IORING_RESTRICTION_REGISTER_OP, value: L.IORING_UNREGISTER_FILES },
    ];
    assert.equal(R.register_restrictions(ring, allowed), 0);
    ring.prep_nop(ring.get_sqe());
    assert.equal(ring.submit(), -EBADFD);
    assert.equal(R.enable_rings(ring), 0);
    assert.deepEqual(complete(ring, 1).map((cqe) => cqe.res), [0]);
    assert.equal(one(ring, (sqe) => ring.prep_close(sqe, 0x7fffffff)), -EACCES);
    assert.equal(R.unregister_files(ring), -ENXIO);
    assert.equal(R.register_files(ring, [-1]), -EACCES);
  } finally {
    ring.queue_exit();
  }
});

Deno.test("register_restrictions() needs a ring that is not yet enabled", () => {
  withRing(4, (ring) => {
    const all = [{ opcode: L.IORING_RESTRICTION_SQE_OP, value: L.IORING_OP_NOP }];
    assert.equal(R.register_restrictions(ring, all), -EBADFD);
  });
});
