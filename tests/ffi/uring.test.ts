// The queues of ffi/uring.ts: counters, flags, submission and waiting. What the operations do is in uring_sqe.test.ts.
import assert from "node:assert/strict";
import { EAGAIN, EBADF, EINVAL, ETIME } from "../../ffi/errno.ts";
import { allocate, type Mapping, unmap } from "../../ffi/memory.ts";
import { Ring } from "../../ffi/uring.ts";
import * as L from "../../ffi/uring_layout.ts";
import { complete, reap, withRing } from "./help.ts";

/** Fills the submission queue with nops numbered from `first` on. */
function nops(ring: Ring, count: number, first = 0): void {
  for (let i = 0; i < count; i++) {
    const sqe = ring.get_sqe();
    assert.notEqual(sqe, -1);
    ring.prep_nop(sqe);
    ring.sqe_set_data(sqe, first + i, 0);
  }
}

Deno.test("queue_init() rounds entries up and takes the size of the completion queue", () => {
  withRing(5, (ring) => {
    assert.equal(ring.sqEntries, 8);
    assert.equal(ring.cqEntries, 64);
    assert.ok(ring.ring_fd >= 0);
  }, { cqEntries: 50 });
});

Deno.test("queue_init() throws EINVAL for flags the kernel does not know", () => {
  assert.throws(() => Ring.queue_init(8, { flags: 1 << 31 }), { name: "SystemError", code: EINVAL });
});

Deno.test("queue_init() refuses entries of other sizes", () => {
  assert.throws(() => Ring.queue_init(8, { flags: L.IORING_SETUP_SQE128 }), TypeError);
  assert.throws(() => Ring.queue_init(8, { flags: L.IORING_SETUP_CQE32 }), TypeError);
});

Deno.test("queue_init_best() takes one of the known sets of flags", () => {
  withRing(8, (ring) => {
    const deferred = (ring.flags & L.IORING_SETUP_DEFER_TASKRUN) !== 0;
    assert.equal(deferred, (ring.flags & L.IORING_SETUP_SINGLE_ISSUER) !== 0);
    assert.ok(!deferred || (ring.flags & L.IORING_SETUP_COOP_TASKRUN) === 0);
  });
});

Deno.test("queue_init_best() falls back where the kernel refuses", () => {
  // DEFER_TASKRUN and COOP_TASKRUN both exclude SQPOLL.
  const ring = Ring.queue_init_best(8, { flags: L.IORING_SETUP_SQPOLL, sqThreadIdleMs: 1 });
  try {
    assert.equal(ring.flags & ~(L.IORING_SETUP_SUBMIT_ALL | L.IORING_SETUP_CLAMP), L.IORING_SETUP_SQPOLL);
  } finally {
    ring.queue_exit();
  }
});

Deno.test("queue_exit() may be called twice, and nothing is touched afterwards", () => {
  const ring = Ring.queue_init_best(8);
  ring.queue_exit();
  ring.queue_exit();
  assert.equal(ring.ring_fd, -1);
  assert.throws(() => ring.cq_ready());
  assert.throws(() => ring.submit_and_wait(0));
});

for (
  const [name, flags] of [
    ["plain", 0],
    ["COOP_TASKRUN", L.IORING_SETUP_COOP_TASKRUN | L.IORING_SETUP_TASKRUN_FLAG],
    ["SINGLE_ISSUER", L.IORING_SETUP_SINGLE_ISSUER],
    ["DEFER_TASKRUN", L.IORING_SETUP_SINGLE_ISSUER | L.IORING_SETUP_DEFER_TASKRUN],
    ["NO_SQARRAY", L.IORING_SETUP_NO_SQARRAY],
    ["SQPOLL", L.IORING_SETUP_SQPOLL],
  ] as const
) {
  Deno.test(`Ring completes nops in order with ${name}`, () => {
    withRing(4, (ring) => {
      for (let round = 0; round < 10; round++) {
        nops(ring, 3, round);
        assert.equal(ring.submit(), 3);
        assert.equal(ring.wait_cqe_nr(3), 0);
        assert.equal(ring.sqring_wait() >= 0, true);
        assert.deepEqual(reap(ring), [0, 1, 2].map((i) => ({ data: round + i, res: 0, flags: 0 })));
      }
    }, { flags, sqThreadIdleMs: 1 });
  });
}

Deno.test("get_sqe() returns -1 when the queue is full, and entries again after submit", () => {
  withRing(4, (ring) => {
    nops(ring, 4);
    assert.equal(ring.get_sqe(), -1);
    assert.equal(ring.sq_ready(), 4);
    assert.equal(ring.sq_space_left(), 0);
    assert.equal(ring.submit(), 4);
    assert.equal(ring.sq_ready(), 0);
    assert.equal(ring.sq_space_left(), 4);
    nops(ring, 4);
  });
});

Deno.test("submit() returns 0 with nothing prepared", () => {
  withRing(4, (ring) => {
    assert.equal(ring.submit(), 0);
    assert.equal(ring.submit_and_get_events(), 0);
    assert.equal(ring.get_events(), 0);
  });
});

Deno.test("submit() leaves what the kernel did not consume prepared", () => {
  // Without SUBMIT_ALL the kernel stops behind an entry that is in error.
  withRing(4, (ring) => {
    const sqe = ring.get_sqe();
    ring.prep_rw(255, sqe, -1, 0, 0, 0, 0, 0);
    nops(ring, 2, 1);
    assert.equal(ring.submit(), 1);
    assert.equal(ring.sq_ready(), 2);
    assert.equal(ring.submit(), 2);
    assert.deepEqual(reap(ring).map((cqe) => cqe.res), [-EINVAL, 0, 0]);
  }, { flags: 0 });
});

Deno.test("prep_nop() clears what the entry held before", () => {
  withRing(1, (ring) => {
    const first = ring.get_sqe();
    ring.prep_nop(first);
    ring.sqe_set_personality(first, 999);
    ring.sqe_set_data(first, 1, 2);
    ring.sqe_set_flags(first, L.IOSQE_IO_DRAIN);
    assert.deepEqual(complete(ring, 1), [{ data: 1, res: -EINVAL, flags: 0 }]);
    const second = ring.get_sqe();
    assert.equal(second, first);
    ring.prep_nop(second);
    assert.deepEqual(complete(ring, 1), [{ data: 0, res: 0, flags: 0 }]);
  });
});

Deno.test("cqe_data_lo() and cqe_data_hi() give back both halves unsigned", () => {
  withRing(4, (ring) => {
    const sqe = ring.get_sqe();
    ring.prep_nop(sqe);
    ring.sqe_set_data(sqe, 0xfedcba98, 0x87654321);
    assert.equal(ring.submit_and_wait(1), 1);
    assert.equal(ring.cqe_data_lo(0), 0xfedcba98);
    assert.equal(ring.cqe_data_hi(0), 0x87654321);
  });
});

Deno.test("Ring keeps order and count while its indices wrap the masks", () => {
  withRing(8, (ring) => {
    let sent = 0;
    let seen = 0;
    for (let round = 0; round < 20_000; round++) {
      const count = 1 + round % 7;
      nops(ring, count, sent);
      sent += count;
      assert.equal(ring.submit_and_wait(count), count);
      const n = ring.cq_ready();
      assert.equal(n, count);
      for (let i = 0; i < n; i++) assert.equal(ring.cqe_data_lo(i), seen++);
      ring.cq_advance(n);
    }
    assert.equal(seen, sent);
    assert.ok(sent > 65536);
  });
});

Deno.test("peek_cqe() gives -EAGAIN while there is none", () => {
  withRing(4, (ring) => {
    assert.equal(ring.peek_cqe(), -EAGAIN);
    nops(ring, 1);
    ring.submit();
    assert.equal(ring.peek_cqe(), 0);
    ring.cq_advance(0);
    assert.equal(ring.cq_ready(), 1);
    ring.cq_advance(1);
    assert.equal(ring.peek_cqe(), -EAGAIN);
  });
});

Deno.test("peek_batch_cqe() brings back what overflowed the completion queue", () => {
  withRing(4, (ring) => {
    for (let round = 0; round < 4; round++) {
      nops(ring, 4, round * 4);
      assert.equal(ring.submit(), 4);
    }
    assert.ok(ring.cq_has_overflow());
    assert.ok(ring.cq_needs_enter());
    const done = [];
    while (done.length < 16) {
      const batch = reap(ring);
      assert.notEqual(batch.length, 0);
      done.push(...batch.map((cqe) => cqe.data));
    }
    assert.deepEqual(done, Array.from({ length: 16 }, (_, i) => i));
    assert.equal(ring.cq_has_overflow(), false);
    assert.equal(ring.cq_overflow(), 0);
  }, { cqEntries: 4 });
});

Deno.test("submit_and_wait_timeout() gives -ETIME when nothing comes", () => {
  withRing(4, (ring) => {
    const start = performance.now();
    assert.equal(ring.submit_and_wait_timeout(1, 2500), -ETIME);
    assert.ok(performance.now() - start >= 2.4);
    nops(ring, 1);
    assert.equal(ring.submit_and_wait_timeout(1, 10e6), 1);
    assert.equal(ring.cq_ready(), 1);
  });
});

Deno.test("submit_and_wait_timeout() passes its arguments right on the optimised path too", () => {
  withRing(4, (ring) => {
    for (let i = 0; i < 20_000; i++) {
      nops(ring, 1);
      if (ring.submit_and_wait_timeout(1, 10e6) !== 1) assert.fail(`round ${i}`);
      ring.cq_advance(1);
    }
  });
});

Deno.test("useRegisteredRing() with an index that is not registered fails every call", () => {
  withRing(4, (ring) => {
    ring.useRegisteredRing(15);
    nops(ring, 1);
    assert.equal(ring.submit(), -EBADF);
    assert.equal(ring.sq_ready(), 1);
    ring.useRegisteredRing(-1);
    assert.equal(ring.submit(), 1);
  });
});

const NO_SUCH_FD = 0x7fffffff;

/** A Ring over memory of the test, whose counters start at `start`; the test plays the kernel. */
function fakeRing(start: number): { ring: Ring; word: (at: number, value?: number) => number; free: () => void } {
  const rings = allocate(4096);
  const sqes = allocate(4096);
  const scratch = allocate(4096);
  const params = new Uint32Array(L.io_uring_params.sizeof >> 2);
  const set = (at: number, value: number) => params[at >> 2] = value;
  set(L.io_uring_params.sq_entries, 4);
  set(L.io_uring_params.cq_entries, 8);
  set(L.io_uring_params.flags, L.IORING_SETUP_NO_SQARRAY);
  const { io_sqring_offsets: sq, io_cqring_offsets: cq, io_uring_params: p } = L;
  [sq.head, sq.tail, sq.ring_mask, sq.flags].forEach((member, i) => set(p.sq_off + member, i * 4));
  [cq.head, cq.tail, cq.ring_mask, cq.overflow].forEach((member, i) => set(p.cq_off + member, 64 + i * 4));
  set(p.cq_off + cq.cqes, 128);
  const words = new Uint32Array(rings.buffer);
  const word = (at: number, value?: number) => value === undefined ? words[at >> 2] : words[at >> 2] = value;
  for (const at of [0, 4, 64, 68]) word(at, start);
  word(8, 3);
  word(72, 7);
  type Construct = new (fd: number, params: Uint32Array, mappings: Mapping[]) => Ring;
  const ring = new (Ring as unknown as Construct)(NO_SUCH_FD, params, [rings, rings, sqes, scratch]);
  return { ring, word, free: () => [rings, sqes, scratch].forEach(unmap) };
}

for (const start of [0x7ffffffe, 0xfffffffe]) {
  Deno.test(`Ring counts right across 0x${(start + 2).toString(16)}`, () => {
    const { ring, word, free } = fakeRing(start);
    const slots = [0, 1, 2, 3].map(() => ring.get_sqe());
    assert.deepEqual(slots, [2, 3, 0, 1].map((slot) => slot * 16));
    assert.equal(ring.get_sqe(), -1);
    assert.equal(ring.sq_ready(), 4);
    assert.equal(ring.submit(), -EBADF); // there is no kernel, but the tail is published
    assert.equal(word(4), (start + 4) >>> 0);
    word(0, (start + 3) >>> 0);
    assert.equal(ring.sq_ready(), 1);
    assert.equal(ring.get_sqe(), 2 * 16);

    assert.equal(ring.cq_ready(), 0);
    for (let i = 0; i < 5; i++) word(128 + ((start + i) & 7) * 16 + L.io_uring_cqe.res, 100 + i);
    word(68, (start + 5) >>> 0);
    assert.equal(ring.cq_ready(), 5);
    assert.deepEqual([0, 1, 2, 3, 4].map((i) => ring.cqe_res(i)), [100, 101, 102, 103, 104]);
    ring.cq_advance(3);
    assert.equal(word(64), (start + 3) >>> 0);
    assert.deepEqual([0, 1].map((i) => ring.cqe_res(i)), [103, 104]);
    ring.cq_advance(2);
    assert.equal(ring.cq_ready(), 0);
    free();
  });
}
