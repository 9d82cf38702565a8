// ffi/ring.ts and ffi/plain_ring.ts: what a loop uses of a ring is the same with and without io_uring.
import assert from "node:assert/strict";
import { O_RDONLY, SYS } from "../../ffi/arch.ts";
import {
  EALREADY,
  EBADF,
  EBUSY,
  ECANCELED,
  EINTR,
  EINVAL,
  EISDIR,
  EMFILE,
  ENOENT,
  ENOMEM,
  EPERM,
  ETIME,
} from "../../ffi/errno.ts";
import { createEventfd, signal } from "../../ffi/eventfd.ts";
import { checked, cString, libc } from "../../ffi/libc.ts";
import { type Helper, PlainRing } from "../../ffi/plain_ring.ts";
import { type LoopRing, openRing } from "../../ffi/ring.ts";
import { AT_FDCWD, POLLIN, RWF_APPEND } from "../../ffi/stat_layout.ts";
import * as L from "../../ffi/uring_layout.ts";
import { halves, type Memory, signalEvent, takeEvent, withEventFd, withFile, withMemory } from "./help.ts";

const noHelper: Helper = { offer: () => false, cancel: () => false };
const encoder = new TextEncoder();
const POLL = 5;

interface Done {
  data: number;
  res: number;
  more: boolean;
}

/** The result of a wait that V8 has not interrupted with a signal of its own. */
function uninterrupted(wait: () => number): number {
  for (;;) {
    const result = wait();
    if (result !== -EINTR) return result;
  }
}

/** Waits for `count` completions. */
function take(ring: LoopRing, count: number): Done[] {
  const done: Done[] = [];
  while (done.length < count) {
    if (ring.cq_ready() === 0) assert.ok(uninterrupted(() => ring.submit_and_wait(1)) >= 0);
    done.push(...present(ring));
  }
  return done;
}

/** The completions that are there. */
function present(ring: LoopRing): Done[] {
  const done = Array.from({ length: ring.cq_ready() }, (_, i) => {
    assert.equal(ring.cqe_data_hi(i), 9);
    const more = (ring.cqe_flags(i) & L.IORING_CQE_F_MORE) !== 0;
    return { data: ring.cqe_data_lo(i), res: ring.cqe_res(i), more };
  });
  ring.cq_advance(done.length);
  return done;
}

function prepare(ring: LoopRing, data: number, prep: (sqe: number) => void): void {
  const sqe = ring.get_sqe();
  assert.ok(sqe >= 0);
  prep(sqe);
  ring.sqe_set_data(sqe, data, 9);
}

function one(ring: LoopRing, prep: (sqe: number) => void): number {
  prepare(ring, 77, prep);
  const [{ data, res }] = take(ring, 1);
  assert.equal(data, 77);
  return res;
}

/** Registers a test for a ring of either kind. */
function both(name: string, body: (ring: LoopRing) => void): void {
  for (const kind of ["io_uring", "plain calls"]) {
    Deno.test(`LoopRing with ${kind}: ${name}`, () => {
      const flags = kind === "io_uring" ? {} : { flags: [] };
      const { ring } = openRing({ entries: 8, cqEntries: 32, helper: noHelper, ...flags });
      try {
        body(ring);
      } finally {
        ring.queue_exit();
      }
    });
  }
}

function withAll(ring: LoopRing, body: (fd: number, memory: Memory, path: string) => void): void {
  assert.ok(ring.sq_space_left() === 8);
  withFile((fd, path) => withMemory(8192, (memory) => body(fd, memory, path)));
}

both("get_sqe() gives as many entries as there are, and again after submit()", (ring) => {
  for (let round = 0; round < 5; round++) {
    for (let i = 0; i < 8; i++) prepare(ring, i, (sqe) => ring.prep_nop(sqe));
    assert.equal(ring.get_sqe(), -1);
    assert.deepEqual([ring.sq_ready(), ring.sq_space_left()], [8, 0]);
    assert.equal(ring.submit(), 8);
    assert.equal(ring.sq_ready(), 0);
    assert.deepEqual(take(ring, 8).map(({ data, res }) => [data, res]), [0, 1, 2, 3, 4, 5, 6, 7].map((i) => [i, 0]));
  }
  assert.equal(ring.submit(), 0);
  assert.equal(ring.submit_and_get_events(), 0);
});

both("reads and writes carry bytes, at offsets above 4 GiB too", (ring) => {
  withAll(ring, (fd, memory, path) => {
    const at = halves(5 * 2 ** 32 + 12345);
    memory.bytes.set(encoder.encode("far away"));
    assert.equal(one(ring, (sqe) => ring.prep_write(sqe, fd, memory.lo, memory.hi, 8, at.lo, at.hi)), 8);
    assert.equal(Deno.statSync(path).size, 5 * 2 ** 32 + 12345 + 8);
    assert.equal(one(ring, (sqe) => ring.prep_read(sqe, fd, memory.lo + 64, memory.hi, 50, at.lo + 4, at.hi)), 4);
    assert.deepEqual(memory.bytes.slice(64, 69), encoder.encode("away\0"));
    const iovecs = new BigUint64Array(memory.bytes.buffer, 1024, 4);
    iovecs.set([BigInt(memory.addr + 4), 4n, BigInt(memory.addr), 3n]);
    const vector = (sqe: number) => ring.prep_writev(sqe, fd, memory.lo + 1024, memory.hi, 2, 0, 0);
    assert.equal(one(ring, vector), 7);
    iovecs.set([BigInt(memory.addr + 200), 1n, BigInt(memory.addr + 300), 6n]);
    assert.equal(one(ring, (sqe) => ring.prep_readv(sqe, fd, memory.lo + 1024, memory.hi, 2, 0, 0)), 7);
    assert.deepEqual(memory.bytes.slice(300, 306), encoder.encode("wayfar"));
  });
});

both("RWF_APPEND is heeded, and an unknown RWF_* refused", (ring) => {
  withAll(ring, (fd, memory, path) => {
    Deno.writeTextFileSync(path, "head ");
    memory.bytes.set(encoder.encode("tail"));
    const write = (flags: number) => (sqe: number) => {
      ring.prep_write(sqe, fd, memory.lo, memory.hi, 4, 0, 0);
      ring.sqe_set_rw_flags(sqe, flags);
    };
    assert.equal(one(ring, write(RWF_APPEND)), 4);
    assert.equal(Deno.readTextFileSync(path), "head tail");
    assert.ok(one(ring, write(1 << 30)) < 0);
  });
});

both("fsync and fallocate say what the calls say", (ring) => {
  withAll(ring, (fd, memory, path) => {
    for (const flags of [0, L.IORING_FSYNC_DATASYNC]) {
      assert.equal(one(ring, (sqe) => ring.prep_fsync(sqe, fd, flags)), 0);
    }
    assert.equal(one(ring, (sqe) => ring.prep_fallocate(sqe, fd, 0, 0, 1, 4096, 0)), 0);
    assert.equal(Deno.statSync(path).size, 2 ** 32 + 4096);
    assert.equal(one(ring, (sqe) => ring.prep_fallocate(sqe, fd, 0, 0, 0, 0, 0)), -EINVAL);
    assert.equal(one(ring, (sqe) => ring.prep_fallocate(sqe, fd, 0, 0, 0x8000_0000, 1, 0)), -EINVAL);
    assert.equal(one(ring, (sqe) => ring.prep_fsync(sqe, -1, 0)), -EBADF);
    assert.equal(one(ring, (sqe) => ring.prep_read(sqe, -1, memory.lo, memory.hi, 1, 0, 0)), -EBADF);
    const dir = checked("openat", libc.openat(AT_FDCWD, cString("/"), O_RDONLY, 0));
    assert.equal(one(ring, (sqe) => ring.prep_read(sqe, dir, memory.lo, memory.hi, 1, 0, 0)), -EISDIR);
    libc.close(dir);
  });
});

both("a multishot poll completes at every write to an eventfd that nobody reads", (ring) => {
  withEventFd((fd) => {
    prepare(ring, POLL, (sqe) => ring.prep_poll_multishot(sqe, fd, POLLIN));
    assert.equal(ring.submit(), 1);
    assert.equal(ring.cq_ready(), 0);
    for (let i = 0; i < 5; i++) {
      signalEvent(fd);
      assert.deepEqual(take(ring, 1), [{ data: POLL, res: POLLIN, more: true }]);
      ring.submit_and_get_events();
      assert.equal(ring.cq_ready(), 0, "and once only");
    }
    assert.equal(takeEvent(fd), 5n);
  });
});

both("a poll is cancelled by its user_data, and another watch of its descriptor stays", (ring) => {
  withEventFd((fd) => {
    const same = libc.dup(fd);
    prepare(ring, POLL, (sqe) => ring.prep_poll_multishot(sqe, fd, POLLIN));
    prepare(ring, POLL + 1, (sqe) => ring.prep_poll_multishot(sqe, same, POLLIN));
    prepare(ring, 1, (sqe) => ring.prep_cancel64(sqe, POLL, 9, 0));
    const ends = take(ring, 2).sort((a, b) => a.data - b.data);
    assert.deepEqual(ends, [{ data: 1, res: 0, more: false }, { data: POLL, res: -ECANCELED, more: false }]);
    assert.equal(one(ring, (sqe) => ring.prep_cancel64(sqe, POLL, 9, 0)), -ENOENT);
    assert.equal(one(ring, (sqe) => ring.prep_cancel64(sqe, POLL + 1, 8, 0)), -ENOENT);
    signalEvent(fd);
    assert.deepEqual(take(ring, 1), [{ data: POLL + 1, res: POLLIN, more: true }]);
    libc.close(same);
  });
});

both("a poll once completes once", (ring) => {
  withEventFd((fd) => {
    signalEvent(fd);
    assert.equal(one(ring, (sqe) => ring.prep_poll_add(sqe, fd, POLLIN)), POLLIN);
    signalEvent(fd);
    ring.submit_and_get_events();
    assert.equal(ring.cq_ready(), 0);
  });
});

both("reads of what is not ready wait, are answered one for one, and are cancelled", (ring) => {
  withMemory(4096, (memory) => {
    const fd = createEventfd(false);
    for (let i = 0; i < 4; i++) prepare(ring, i, (sqe) => ring.prep_read(sqe, fd, memory.lo, memory.hi, 8, 0, 0));
    ring.submit();
    assert.equal(ring.cq_ready(), 0);
    for (let i = 0; i < 3; i++) {
      signal(fd);
      const [{ res }] = take(ring, 1);
      assert.equal(res, 8);
      ring.submit_and_get_events();
      assert.equal(ring.cq_ready(), 0);
    }
    for (let i = 0; i < 4; i++) prepare(ring, 10 + i, (sqe) => ring.prep_cancel64(sqe, i, 9, 0));
    const ends = take(ring, 5);
    assert.deepEqual(ends.map(({ res }) => res).sort((a, b) => a - b), [-ECANCELED, -ENOENT, -ENOENT, -ENOENT, 0]);
    libc.close(fd);
  });
});

both("submit_and_wait_timeout() ends with -ETIME, or before with what completes", (ring) => {
  withEventFd((fd) => {
    assert.equal(uninterrupted(() => ring.submit_and_wait_timeout(1, 500)), -ETIME);
    prepare(ring, POLL, (sqe) => ring.prep_poll_multishot(sqe, fd, POLLIN));
    signalEvent(fd);
    assert.equal(uninterrupted(() => ring.submit_and_wait_timeout(1, 10e6)), 1);
    assert.deepEqual(present(ring), [{ data: POLL, res: POLLIN, more: true }]);
    assert.equal(uninterrupted(() => ring.submit_and_wait_timeout(1, 500)), -ETIME);
  });
});

both("queue_exit() may be called twice and leaves no descriptor behind", (ring) => {
  const open = () => [...Deno.readDirSync("/proc/self/fd")].length;
  withMemory(4096, (memory) => {
    const fd = createEventfd();
    const before = open();
    prepare(ring, 1, (sqe) => ring.prep_read(sqe, fd, memory.lo, memory.hi, 8, 0, 0));
    ring.submit();
    ring.queue_exit();
    ring.queue_exit();
    assert.equal(open(), before - 1);
    libc.close(fd);
  });
});

Deno.test("PlainRing ends what it does not know with -EINVAL", () => {
  const ring = new PlainRing(8, 32);
  assert.equal(one(ring, (sqe) => ring.prep_close(sqe, 0)), -EINVAL);
  const linked = (sqe: number) => {
    ring.prep_nop(sqe);
    ring.sqe_set_flags(sqe, L.IOSQE_IO_LINK);
  };
  assert.equal(one(ring, linked), -EINVAL);
  assert.equal(one(ring, (sqe) => ring.prep_cancel64(sqe, 1, 9, L.IORING_ASYNC_CANCEL_ALL)), -EINVAL);
  withFile((fd) => assert.equal(one(ring, (sqe) => ring.prep_poll_multishot(sqe, fd, POLLIN)), -EPERM));
  ring.queue_exit();
});

Deno.test("PlainRing keeps entries and events back where completions have no room, and loses none", () => {
  const ring = new PlainRing(8, 8);
  withEventFd((fd) => {
    prepare(ring, POLL, (sqe) => ring.prep_poll_multishot(sqe, fd, POLLIN));
    ring.submit();
    signalEvent(fd);
    const sent: number[] = [];
    const fill = () => {
      for (let i = 100 + sent.length; ring.sq_space_left() > 0; i++) {
        prepare(ring, i, (sqe) => ring.prep_nop(sqe));
        sent.push(i);
      }
    };
    fill();
    assert.equal(ring.submit(), 7, "a cancellation may need two");
    assert.equal(ring.cq_ready(), 8);
    fill();
    for (let i = 0; i < 3; i++) assert.equal(ring.submit(), -EBUSY);
    assert.equal(ring.get_sqe(), -1);
    const seen = present(ring);
    while (seen.length < sent.length + 1) seen.push(...take(ring, 1));
    assert.deepEqual(seen.map(({ data }) => data).filter((data) => data !== POLL), sent);
    assert.equal(seen.filter(({ data }) => data === POLL).length, 1);
  });
  ring.queue_exit();
});

Deno.test("PlainRing offers calls on files to its helper, on a duplicate that `ended` closes", () => {
  const offered: (number | bigint)[][] = [];
  let free = true;
  const helper: Helper = {
    offer: (lo, hi, ...call) => {
      if (free) offered.push([lo, hi, ...call]);
      return free;
    },
    cancel: (lo) => lo === 1,
  };
  const ring = new PlainRing(8, 32, helper);
  const isOpen = (fd: number | bigint) => libc.fcntl(Number(fd), 1, 0) >= 0;
  withFile((fd, path) =>
    withMemory(4096, (memory) => {
      memory.bytes.set(encoder.encode("by hand"));
      prepare(ring, 1, (sqe) => ring.prep_write(sqe, fd, memory.lo, memory.hi, 7, 0xffff_fff0, 0x7fff_ffff));
      prepare(ring, 2, (sqe) => ring.prep_fallocate(sqe, fd, 1, 2, 3, 4, 5));
      prepare(ring, 3, (sqe) => ring.prep_fsync(sqe, fd, L.IORING_FSYNC_DATASYNC));
      assert.equal(ring.submit(), 3);
      assert.equal(ring.cq_ready(), 0);
      const [write, allocate, sync] = offered;
      // The iovec is made for it. An offset is exact.
      assert.deepEqual([...write.slice(0, 3), ...write.slice(5)], [
        1,
        9,
        SYS.pwritev2,
        1n,
        0x7fff_ffff_ffff_fff0n,
        0n,
        0n,
      ]);
      assert.deepEqual([allocate[2], ...allocate.slice(4, 7)], [SYS.fallocate, 1n, 2n + (3n << 32n), 4n + (5n << 32n)]);
      assert.equal(sync[2], SYS.fdatasync);
      for (const call of offered) {
        assert.notEqual(Number(call[3]), fd);
        assert.ok(isOpen(call[3]));
      }
      const [, , number, copy, iovec, count] = write as bigint[];
      assert.equal(libc.syscall6(BigInt(number), copy, iovec, count, 0n, 0n, 0n), 7n);
      assert.equal(Deno.readTextFileSync(path), "by hand");
      assert.equal(one(ring, (sqe) => ring.prep_cancel64(sqe, 1, 9, 0)), -EALREADY);
      assert.equal(one(ring, (sqe) => ring.prep_cancel64(sqe, 2, 9, 0)), -ENOENT);
      ring.ended(2, 9);
      assert.deepEqual(offered.map((call) => isOpen(call[3])), [true, false, true]);
      ring.ended(1, 9);
      ring.ended(3, 9);
      ring.ended(4, 9);
      assert.deepEqual(offered.map((call) => isOpen(call[3])), [false, false, false]);
      free = false;
      assert.equal(one(ring, (sqe) => ring.prep_write(sqe, fd, memory.lo, memory.hi, 2, 0, 0)), 2);
      assert.equal(offered.length, 3);
    })
  );
  ring.queue_exit();
});

Deno.test("openRing() takes the first of the sets of flags that the kernel knows", () => {
  const used = (...flags: number[]) => {
    const opened = openRing({ entries: 8, cqEntries: 32, helper: noHelper, flags });
    assert.equal(opened.ring.cq_ready(), 0, "what was tried out leaves nothing behind");
    assert.equal(opened.ring.sq_ready(), 0);
    opened.ring.queue_exit();
    return opened.plain === null
      ? opened.ring.flags & ~(L.IORING_SETUP_CLAMP | L.IORING_SETUP_CQSIZE | L.IORING_SETUP_R_DISABLED)
      : -1;
  };
  const plain = used(0) < 0;
  assert.equal(used(), -1);
  assert.equal(used(0, L.IORING_SETUP_SUBMIT_ALL), plain ? -1 : 0);
  assert.equal(used(1 << 31, 0), plain ? -1 : 0);
});

/** What openRing() makes of io_uring calls that fail with an error, in a process of its own. */
function denied(code: number, ...numbers: number[]): string {
  const deny = new URL("deny.ts", import.meta.url).pathname;
  const script = `
    const { openRing } = await import(${JSON.stringify(new URL("../../ffi/ring.ts", import.meta.url).href)});
    const helper = { offer: () => false, cancel: () => false };
    try {
      const opened = openRing({ entries: 8, cqEntries: 32, helper });
      console.log(opened.plain === null ? "io_uring" : "plain " + opened.perThread + " " + opened.reason);
    } catch (error) {
      console.log("error", error.code);
    }`;
  const { stdout, stderr, success } = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", deny, `${code}`, numbers.join(), Deno.execPath(), "eval", script],
  }).outputSync();
  assert.ok(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout).trim();
}

const { io_uring_setup, io_uring_enter, io_uring_register } = SYS;

Deno.test("openRing() falls back where io_uring is refused, and says why and what to do", () => {
  assert.match(
    denied(EPERM, io_uring_setup),
    /^plain false io_uring_setup: .*not permitted.*io_uring_disabled.*seccomp/,
  );
  assert.match(denied(38, io_uring_setup, io_uring_enter, io_uring_register), /^plain false .*not implemented.*CONFIG/);
  assert.match(denied(13, io_uring_setup), /^plain false .*denied.*policy/);
  assert.match(denied(ENOMEM, io_uring_setup), /^plain true .*RLIMIT_MEMLOCK/);
  assert.match(denied(EINVAL, io_uring_setup), /^plain false io_uring_setup: Invalid argument$/);
  assert.match(denied(EPERM, io_uring_enter), /^plain false io_uring_enter: /);
});

Deno.test("openRing() does without the probe of operations, and not without descriptors", () => {
  const allowed = denied(EPERM, 999);
  assert.equal(denied(EPERM, io_uring_register), allowed);
  assert.equal(denied(EMFILE, io_uring_setup), `error ${EMFILE}`);
});
