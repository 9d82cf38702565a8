import assert from "node:assert/strict";
import { SYS } from "../../ffi/arch.ts";
import { EBADF, EINTR } from "../../ffi/errno.ts";
import { createEventfd, drain } from "../../ffi/eventfd.ts";
import { installInterrupt, threadId } from "../../ffi/interrupt.ts";
import { LOCK_EX, LOCK_UN } from "../../ffi/stat_layout.ts";
import { cString, libc } from "../../ffi/libc.ts";
import type { HostAddr } from "../../ffi/memory.ts";
import { Calls, createCalls } from "../../vq/calls.ts";

installInterrupt();

/** A loop's side with two helper threads. They cannot end before the process does; Deno.test must not wait for them. */
const bell = createEventfd();
const init = createCalls(1);
let wanted = 0;
const calls = new Calls(init, 0, () => wanted++, bell);
const helpers: Worker[] = [];
function startHelper() {
  const helper = new Worker(new URL("./helper_worker.ts", import.meta.url), { type: "module" });
  helper.postMessage({ init, bellFds: [bell] });
  helpers.push(helper);
}

/** Waits for the next slot whose call is done. */
async function done(): Promise<number> {
  for (const end = Date.now() + 10_000; Date.now() < end;) {
    const slot = calls.take();
    if (slot >= 0) return slot;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  assert.fail("no call was done after 10 s");
}

function lockedFile() {
  const path = Deno.makeTempFileSync();
  const open = () => libc.openat(-100, cString(path), 2, 0);
  const holder = open();
  const waiter = open();
  assert.equal(libc.flock(holder, LOCK_EX), 0);
  return {
    holder,
    waiter,
    close() {
      libc.close(holder);
      libc.close(waiter);
      Deno.removeSync(path);
    },
  };
}

const options = { sanitizeOps: false, sanitizeResources: false };

Deno.test("Calls.make() asks for a helper where none waits, and one makes the call", options, async () => {
  calls.make(5, SYS.gettid);
  assert.equal(wanted, 1);
  startHelper();
  assert.equal(await done(), 5);
  assert.ok(calls.result(5) > 0 && calls.result(5) !== threadId(), "another thread made it");
  // It rings behind that.
  for (const end = Date.now() + 10_000; drain(bell) !== 0;) {
    assert.ok(Date.now() < end, "and rang");
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
});

Deno.test("Calls.cancel() ends a call that no helper takes, and leaves the others in their places", options, () => {
  const ring = createEventfd();
  const lonely = new Calls(createCalls(1), 0, () => {}, ring);
  for (const slot of [1, 2, 3]) lonely.make(slot, SYS.gettid);
  for (const slot of [2, 1]) {
    assert.equal(lonely.take(), -1);
    assert.equal(lonely.cancel(slot), false, "nothing is left to be interrupted");
    assert.equal(lonely.take(), slot);
    assert.equal(lonely.result(slot), -EINTR);
    assert.equal(drain(ring), 0, "and the loop is told");
  }
  lonely.make(2, SYS.gettid);
  for (const slot of [3, 2]) {
    assert.equal(lonely.cancel(slot), false);
    assert.equal(lonely.cancel(slot), false, "it has ended");
    assert.equal(lonely.take(), slot);
  }
  libc.close(ring);
});

Deno.test("Calls.result() is -errno of a call that failed", options, async () => {
  calls.make(6, SYS.flock, 9999, LOCK_EX);
  assert.equal(await done(), 6);
  assert.equal(calls.result(6), -EBADF);
});

Deno.test("Calls.make() passes 64-bit words and memory of the slot's room", options, async () => {
  const path = Deno.makeTempFileSync();
  const fd = libc.openat(-100, cString(path), 2, 0);
  Deno.writeTextFileSync(path, "0123456789");
  const room = calls.room(9);
  const offsets = new DataView(room.buffer, room.byteOffset);
  offsets.setBigInt64(0, 2n, true);
  offsets.setBigInt64(8, 2n ** 32n, true);
  calls.make(9, SYS.copy_file_range, fd, calls.roomAddr(9), fd, calls.roomAddr(9) + 8, 5, 0);
  assert.equal(await done(), 9);
  assert.equal(calls.result(9), 5);
  assert.equal(Deno.statSync(path).size, 2 ** 32 + 5);
  assert.equal(offsets.getBigInt64(0, true), 7n);
  libc.close(fd);
  Deno.removeSync(path);
});

Deno.test("Calls.cancel() ends a call that waits with EINTR, and no other", options, async () => {
  startHelper();
  const first = lockedFile();
  const second = lockedFile();
  calls.make(1, SYS.flock, first.waiter, LOCK_EX);
  calls.make(2, SYS.flock, second.waiter, LOCK_EX);
  // Asked until it is done, as the loop does: the call may be on its way into the kernel.
  const timer = setInterval(() => calls.cancel(1), 2);
  assert.equal(await done(), 1);
  clearInterval(timer);
  assert.equal(calls.result(1), -EINTR);
  assert.equal(calls.take(), -1);
  assert.equal(libc.flock(second.holder, LOCK_UN), 0);
  assert.equal(await done(), 2);
  assert.equal(calls.result(2), 0);
  assert.equal(calls.cancel(2), false, "what is done cannot be cancelled");
  first.close();
  second.close();
});

Deno.test("Calls.cancel() ends a call that no helper has taken yet", options, async () => {
  const files = [lockedFile(), lockedFile()];
  files.forEach((file, slot) => calls.make(10 + slot, SYS.flock, file.waiter, LOCK_EX));
  calls.make(20, SYS.gettid);
  calls.cancel(20);
  // Both helpers wait for locks: this one needs none of them.
  assert.equal(await done(), 20);
  for (const file of files) assert.equal(libc.flock(file.holder, LOCK_UN), 0);
  assert.deepEqual([await done(), await done()].sort((a, b) => a - b), [10, 11]);
  assert.ok(calls.result(20) === -EINTR || calls.result(20) > 0, "a helper may have been quicker");
  assert.deepEqual([calls.result(10), calls.result(11)], [0, 0]);
  for (const file of files) file.close();
});

Deno.test("Calls.take() gives back a thousand calls, each once", options, async () => {
  const seen = new Set<number>();
  for (let slot = 0; slot < 1000; slot++) calls.make(slot, SYS.gettid);
  while (seen.size < 1000) seen.add(await done());
  assert.equal(calls.take(), -1);
  for (let slot = 0; slot < 1000; slot++) assert.ok(calls.result(slot) > 0);
});

Deno.test("Calls.serve() has a helper serve the request of a slot", options, async () => {
  // The helper of these tests waits as many milliseconds as the device says, and returns the slot.
  calls.serve(33, 1, 4096 as HostAddr, false);
  assert.equal(await done(), 33);
  assert.equal(calls.result(33), 33);
});

Deno.test("Calls.cancel() ends a request that a helper serves, and the next one is not harmed", options, async () => {
  for (let round = 0; round < 20; round++) {
    calls.serve(34, 60_000, 4096 as HostAddr, false);
    const timer = setInterval(() => calls.cancel(34), 1);
    assert.equal(await done(), 34);
    clearInterval(timer);
    assert.equal(calls.result(34), -EINTR);
    calls.serve(35, 1, 4096 as HostAddr, false);
    assert.equal(await done(), 35);
    assert.equal(calls.result(35), 35, "a signal that came late");
  }
});

Deno.test("Calls.makeLock() takes half of the helpers at most", options, async () => {
  const files = [lockedFile(), lockedFile(), lockedFile()];
  files.forEach((file, slot) => calls.makeLock(40 + slot, SYS.flock, file.waiter, LOCK_EX));
  // Both helpers would wait for a lock by now.
  for (let i = 0; i < 100; i++) {
    calls.make(50, SYS.gettid);
    assert.equal(await done(), 50);
  }
  // One that stands in line ends without a helper's doing.
  assert.equal(calls.cancel(42), false, "nothing is left to be interrupted");
  assert.equal(await done(), 42);
  assert.equal(calls.result(42), -EINTR);
  assert.equal(libc.flock(files[0].holder, LOCK_UN), 0);
  assert.equal(await done(), 40);
  assert.equal(libc.flock(files[1].holder, LOCK_UN), 0);
  assert.equal(await done(), 41, "and then the next has its turn");
  for (const file of files) file.close();
});
