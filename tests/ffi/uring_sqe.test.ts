// Each prep_ function of ffi/uring_sqe.ts against a known result.
import assert from "node:assert/strict";
import { O_CLOEXEC, O_RDONLY } from "../../ffi/arch.ts";
import { EBADF, ECANCELED, EINTR, EINVAL, ENOENT, ETIME } from "../../ffi/errno.ts";
import { checked, cString, libc } from "../../ffi/libc.ts";
import { AT_FDCWD, FALLOC_FL_KEEP_SIZE, POLLIN, RWF_APPEND, statx, STATX_BASIC_STATS } from "../../ffi/stat_layout.ts";
import type { Ring } from "../../ffi/uring.ts";
import * as L from "../../ffi/uring_layout.ts";
import { register_buffers } from "../../ffi/uring_register.ts";
import {
  complete,
  halves,
  type Memory,
  one,
  reap,
  signalEvent,
  takeEvent,
  withEventFd,
  withFile,
  withMemory,
  withRing,
} from "./help.ts";

const encoder = new TextEncoder();

/** A ring, a file in memory and 64 KiB that the kernel may write to. */
function withAll(body: (ring: Ring, fd: number, memory: Memory, path: string) => void): void {
  withRing(8, (ring) => withFile((fd, path) => withMemory(65536, (memory) => body(ring, fd, memory, path))));
}

function textAt(memory: Memory, offset: number, length: number): string {
  return new TextDecoder().decode(memory.bytes.slice(offset, offset + length));
}

/** A struct __kernel_timespec at the memory's start. */
function setTimespec(memory: Memory, ms: number): void {
  const value = new DataView(memory.bytes.buffer);
  value.setBigInt64(0, BigInt(Math.floor(ms / 1000)), true);
  value.setBigInt64(8, BigInt((ms % 1000) * 1e6), true);
}

Deno.test("prep_write() and prep_read() carry bytes to and from a file", () => {
  withAll((ring, fd, memory, path) => {
    memory.bytes.set(encoder.encode("ringfsd"));
    assert.equal(one(ring, (sqe) => ring.prep_write(sqe, fd, memory.lo, memory.hi, 7, 0, 0)), 7);
    assert.equal(Deno.readTextFileSync(path), "ringfsd");
    assert.equal(one(ring, (sqe) => ring.prep_read(sqe, fd, memory.lo + 100, memory.hi, 50, 4, 0)), 3);
    assert.equal(textAt(memory, 100, 4), "fsd\0");
  });
});

Deno.test("prep_read() and prep_write() take offsets above 4 GiB", () => {
  withAll((ring, fd, memory, path) => {
    const at = halves(5 * 2 ** 32 + 12345);
    memory.bytes.set(encoder.encode("far away"));
    assert.equal(one(ring, (sqe) => ring.prep_write(sqe, fd, memory.lo, memory.hi, 8, at.lo, at.hi)), 8);
    assert.equal(Deno.statSync(path).size, 5 * 2 ** 32 + 12345 + 8);
    assert.equal(one(ring, (sqe) => ring.prep_read(sqe, fd, memory.lo + 64, memory.hi, 8, at.lo, at.hi)), 8);
    assert.equal(textAt(memory, 64, 8), "far away");
    assert.equal(one(ring, (sqe) => ring.prep_read(sqe, fd, memory.lo + 64, memory.hi, 8, at.lo, 0)), 8);
    assert.equal(textAt(memory, 64, 8), "\0".repeat(8));
  });
});

Deno.test("prep_read() of a bad descriptor completes with -EBADF", () => {
  withAll((ring, _fd, memory) => {
    assert.equal(one(ring, (sqe) => ring.prep_read(sqe, -1, memory.lo, memory.hi, 8, 0, 0)), -EBADF);
  });
});

Deno.test("prep_writev() and prep_readv() take iovecs from mmapped memory", () => {
  withAll((ring, fd, memory, path) => {
    const iovecs = new BigUint64Array(memory.bytes.buffer, 0, 6);
    const put = (i: number, offset: number, length: number) => {
      iovecs[i * 2] = BigInt(memory.addr + offset);
      iovecs[i * 2 + 1] = BigInt(length);
    };
    const at = halves(2 ** 32 + 1);
    memory.bytes.set(encoder.encode("abcdefghij"), 1000);
    [[1007, 3], [1000, 2], [1004, 1]].forEach(([offset, length], i) => put(i, offset, length));
    assert.equal(one(ring, (sqe) => ring.prep_writev(sqe, fd, memory.lo, memory.hi, 3, at.lo, at.hi)), 6);
    assert.equal(Deno.statSync(path).size, 2 ** 32 + 7);
    [[2000, 1], [3000, 4], [4000, 100]].forEach(([offset, length], i) => put(i, offset, length));
    assert.equal(one(ring, (sqe) => ring.prep_readv(sqe, fd, memory.lo, memory.hi, 3, at.lo, at.hi)), 6);
    assert.deepEqual([textAt(memory, 2000, 1), textAt(memory, 3000, 4), textAt(memory, 4000, 2)], ["h", "ijab", "e\0"]);
  });
});

Deno.test("sqe_set_rw_flags() reaches pwritev2", () => {
  withAll((ring, fd, memory, path) => {
    Deno.writeTextFileSync(path, "head ");
    memory.bytes.set(encoder.encode("tail"));
    const prep = (sqe: number) => {
      ring.prep_write(sqe, fd, memory.lo, memory.hi, 4, 0, 0);
      ring.sqe_set_rw_flags(sqe, RWF_APPEND);
    };
    assert.equal(one(ring, prep), 4);
    assert.equal(Deno.readTextFileSync(path), "head tail");
  });
});

Deno.test("prep_write_fixed() and prep_read_fixed() use registered buffers", () => {
  withAll((ring, fd, memory, path) => {
    const buffers = [{ addr: memory.addr, size: 4096 }, { addr: memory.addr + 8192, size: 4096 }];
    assert.equal(register_buffers(ring, buffers), 0);
    const { lo, hi } = halves(memory.addr + 8192);
    memory.bytes.set(encoder.encode("pinned"), 8192);
    assert.equal(one(ring, (sqe) => ring.prep_write_fixed(sqe, fd, lo, hi, 6, 0, 0, 1)), 6);
    assert.equal(Deno.readTextFileSync(path), "pinned");
    assert.equal(one(ring, (sqe) => ring.prep_read_fixed(sqe, fd, memory.lo, memory.hi, 9, 3, 0, 0)), 3);
    assert.equal(textAt(memory, 0, 4), "ned\0");
    assert.ok(one(ring, (sqe) => ring.prep_read_fixed(sqe, fd, memory.lo, memory.hi, 9, 3, 0, 1)) < 0);
  });
});

Deno.test("prep_fsync() syncs a file and refuses flags it does not know", () => {
  withAll((ring, fd) => {
    assert.equal(one(ring, (sqe) => ring.prep_fsync(sqe, fd, 0)), 0);
    assert.equal(one(ring, (sqe) => ring.prep_fsync(sqe, fd, L.IORING_FSYNC_DATASYNC)), 0);
    assert.equal(one(ring, (sqe) => ring.prep_fsync(sqe, fd, 0x80)), -EINVAL);
  });
});

Deno.test("prep_fallocate() takes mode, 64-bit offset and length", () => {
  withAll((ring, fd, _memory, path) => {
    assert.equal(one(ring, (sqe) => ring.prep_fallocate(sqe, fd, 0, 4096, 1, 8192, 0)), 0);
    const { size, blocks } = Deno.statSync(path);
    assert.deepEqual([size, blocks], [2 ** 32 + 12288, 16]);
    assert.equal(one(ring, (sqe) => ring.prep_fallocate(sqe, fd, FALLOC_FL_KEEP_SIZE, 0, 2, 4096, 0)), 0);
    assert.equal(Deno.statSync(path).size, 2 ** 32 + 12288);
  });
});

Deno.test("prep_poll_add() completes once with the events", () => {
  withRing(8, (ring) =>
    withEventFd((fd) => {
      const sqe = ring.get_sqe();
      ring.prep_poll_add(sqe, fd, POLLIN);
      ring.sqe_set_data(sqe, 5, 0);
      assert.equal(ring.submit(), 1);
      assert.deepEqual(reap(ring), []);
      signalEvent(fd);
      assert.deepEqual(complete(ring, 1), [{ data: 5, res: POLLIN, flags: 0 }]);
      signalEvent(fd);
      ring.get_events();
      assert.deepEqual(reap(ring), []);
    }));
});

Deno.test("prep_poll_multishot() completes for each event until prep_poll_remove() ends it", () => {
  withRing(8, (ring) =>
    withEventFd((fd) => {
      const sqe = ring.get_sqe();
      ring.prep_poll_multishot(sqe, fd, POLLIN);
      ring.sqe_set_data(sqe, 6, 9);
      assert.equal(ring.submit(), 1);
      for (let i = 0; i < 3; i++) {
        signalEvent(fd);
        assert.deepEqual(complete(ring, 1), [{ data: 6, res: POLLIN, flags: L.IORING_CQE_F_MORE }]);
        assert.equal(takeEvent(fd), 1n);
      }
      const remove = ring.get_sqe();
      ring.prep_poll_remove(remove, 6, 9);
      ring.sqe_set_data(remove, 7, 0);
      const done = complete(ring, 2).sort((a, b) => a.data - b.data);
      assert.deepEqual(done, [{ data: 6, res: -ECANCELED, flags: 0 }, { data: 7, res: 0, flags: 0 }]);
      assert.equal(one(ring, (again) => ring.prep_poll_remove(again, 6, 9)), -ENOENT);
    }));
});

Deno.test("prep_cancel64() and prep_cancel_fd() end a waiting request", () => {
  withRing(8, (ring) =>
    withEventFd((fd) => {
      for (const byFd of [false, true]) {
        const poll = ring.get_sqe();
        ring.prep_poll_add(poll, fd, POLLIN);
        ring.sqe_set_data(poll, 1, 0xffffffff);
        const cancel = ring.get_sqe();
        if (byFd) ring.prep_cancel_fd(cancel, fd, 0);
        else ring.prep_cancel64(cancel, 1, 0xffffffff, 0);
        ring.sqe_set_data(cancel, 2, 0);
        const done = complete(ring, 2).sort((a, b) => a.data - b.data);
        assert.deepEqual(done.map((cqe) => cqe.res), [-ECANCELED, 0]);
      }
      assert.equal(one(ring, (sqe) => ring.prep_cancel64(sqe, 1, 0, 0)), -ENOENT);
    }));
});

Deno.test("prep_msg_ring() posts to another ring", () => {
  withRing(4, (target) =>
    withRing(4, (ring) => {
      assert.equal(one(ring, (sqe) => ring.prep_msg_ring(sqe, target.ring_fd, 42, 0xdeadbeef, 3, 0)), 0);
      assert.equal(target.submit_and_wait(1), 0);
      assert.equal(target.cq_ready(), 1);
      assert.deepEqual([target.cqe_res(0), target.cqe_data_lo(0), target.cqe_data_hi(0)], [42, 0xdeadbeef, 3]);
      assert.ok(one(ring, (sqe) => ring.prep_msg_ring(sqe, 0x7fffffff, 0, 0, 0, 0)) < 0);
    }));
});

Deno.test("prep_timeout() ends with -ETIME, or with 0 after the count", () => {
  withRing(8, (ring) =>
    withMemory(4096, (memory) => {
      setTimespec(memory, 1);
      assert.equal(one(ring, (sqe) => ring.prep_timeout(sqe, memory.lo, memory.hi, 0, 0)), -ETIME);
      setTimespec(memory, 10_000);
      const timeout = ring.get_sqe();
      ring.prep_timeout(timeout, memory.lo, memory.hi, 1, 0);
      ring.sqe_set_data(timeout, 1, 0);
      ring.prep_nop(ring.get_sqe());
      const done = complete(ring, 2).sort((a, b) => a.data - b.data);
      assert.deepEqual(done.map(({ data, res }) => [data, res]), [[0, 0], [1, 0]]);
    }));
});

Deno.test("prep_timeout_remove() cancels a timeout", () => {
  withRing(8, (ring) =>
    withMemory(4096, (memory) => {
      setTimespec(memory, 10_000);
      const timeout = ring.get_sqe();
      ring.prep_timeout(timeout, memory.lo, memory.hi, 0, 0);
      ring.sqe_set_data(timeout, 1, 1);
      const remove = ring.get_sqe();
      ring.prep_timeout_remove(remove, 1, 1, 0);
      ring.sqe_set_data(remove, 2, 0);
      const done = complete(ring, 2).sort((a, b) => a.data - b.data);
      assert.deepEqual(done.map((cqe) => cqe.res), [-ECANCELED, 0]);
    }));
});

Deno.test("prep_link_timeout() bounds the request before it", () => {
  withRing(8, (ring) =>
    withEventFd((fd) =>
      withMemory(4096, (memory) => {
        setTimespec(memory, 1);
        const poll = ring.get_sqe();
        ring.prep_poll_add(poll, fd, POLLIN);
        ring.sqe_set_flags(poll, L.IOSQE_IO_LINK);
        ring.sqe_set_data(poll, 1, 0);
        const timeout = ring.get_sqe();
        ring.prep_link_timeout(timeout, memory.lo, memory.hi, 0);
        ring.sqe_set_data(timeout, 2, 0);
        const done = complete(ring, 2).sort((a, b) => a.data - b.data);
        assert.ok([-ECANCELED, -EINTR].includes(done[0].res));
        assert.equal(done[1].res, -ETIME);
      })
    ));
});

Deno.test("sqe_set_flags() links requests, and the rest of a chain is cancelled after a failure", () => {
  withRing(8, (ring) => {
    for (const [i, fd] of [-1, 0].entries()) {
      const sqe = ring.get_sqe();
      if (fd < 0) ring.prep_close(sqe, 0x7fffffff);
      else ring.prep_nop(sqe);
      ring.sqe_set_flags(sqe, fd < 0 ? L.IOSQE_IO_LINK : 0);
      ring.sqe_set_data(sqe, i, 0);
    }
    assert.deepEqual(complete(ring, 2).map((cqe) => cqe.res), [-EBADF, -ECANCELED]);
  });
});

Deno.test("prep_openat() and prep_close() open and close a descriptor", () => {
  withAll((ring, _fd, memory, path) => {
    memory.bytes.set(cString(path));
    const open = (sqe: number) => ring.prep_openat(sqe, AT_FDCWD, memory.lo, memory.hi, O_RDONLY | O_CLOEXEC, 0);
    const fd = one(ring, open);
    assert.ok(fd > 2);
    assert.equal(checked("fcntl", libc.fcntl(fd, 1, 0)), 1); // F_GETFD: FD_CLOEXEC
    assert.equal(one(ring, (sqe) => ring.prep_close(sqe, fd)), 0);
    assert.equal(libc.fcntl(fd, 1, 0), -1);
    memory.bytes.set(cString("/dev/shm/no such file"));
    assert.equal(one(ring, open), -ENOENT);
  });
});

Deno.test("prep_statx() fills a struct statx", () => {
  withAll((ring, fd, memory, path) => {
    checked("ftruncate", libc.ftruncate(fd, 5_000_000_000n));
    memory.bytes.set(cString(path));
    const { lo, hi } = halves(memory.addr + 4096);
    const stat = (sqe: number) => ring.prep_statx(sqe, AT_FDCWD, memory.lo, memory.hi, 0, STATX_BASIC_STATS, lo, hi);
    assert.equal(one(ring, stat), 0);
    const view = new DataView(memory.bytes.buffer, 4096);
    assert.equal(view.getBigUint64(statx.stx_size, true), 5_000_000_000n);
    assert.equal(view.getBigUint64(statx.stx_ino, true), BigInt(Deno.statSync(path).ino!));
  });
});
