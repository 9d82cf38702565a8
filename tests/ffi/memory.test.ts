// ffi/memory.ts: mappings, their addresses and views.
import assert from "node:assert/strict";
import { EINVAL } from "../../ffi/errno.ts";
import { cString, libc } from "../../ffi/libc.ts";
import * as M from "../../ffi/memory.ts";

const RW = M.PROT_READ | M.PROT_WRITE;

Deno.test("allocate() gives zeroed memory, whose address pointerTo(), addressOf() and viewAt() agree on", () => {
  const memory = M.allocate(3 * M.PAGE);
  const bytes = new Uint8Array(memory.buffer);
  assert.equal(bytes.length, 3 * M.PAGE);
  assert.ok(bytes.every((byte) => byte === 0));
  assert.equal(memory.addr % M.PAGE, 0);
  assert.equal(Deno.UnsafePointer.value(M.pointerTo(memory.addr)), Deno.UnsafePointer.value(memory.pointer));
  assert.equal(M.addressOf(bytes.subarray(5)), memory.addr + 5);
  bytes[M.PAGE] = 42;
  assert.equal(new Uint8Array(M.viewAt((memory.addr + M.PAGE) as M.HostAddr, 1))[0], 42);
  M.unmap(memory);
});

Deno.test("unmap() detaches the views", () => {
  const memory = M.allocate(M.PAGE);
  const bytes = new Uint8Array(memory.buffer);
  M.unmap(memory);
  assert.equal(memory.buffer.byteLength, 0);
  assert.equal(bytes.length, 0);
});

Deno.test("map() of a file with an offset above 4 GiB shows the file", () => {
  const fd = libc.memfd_create(cString("map"), 1);
  const offset = 2 ** 32 + M.PAGE;
  assert.equal(libc.ftruncate(fd, BigInt(offset + M.PAGE)), 0);
  const one = M.map(M.PAGE, RW, M.MAP_SHARED, fd, offset);
  const two = M.map(M.PAGE, M.PROT_READ, M.MAP_SHARED, fd, offset);
  const first = M.map(M.PAGE, M.PROT_READ, M.MAP_SHARED, fd, 0);
  new Uint8Array(one.buffer)[7] = 9;
  assert.equal(new Uint8Array(two.buffer)[7], 9);
  assert.equal(new Uint8Array(first.buffer)[7], 0);
  for (const mapping of [one, two, first]) M.unmap(mapping);
  libc.close(fd);
});

Deno.test("map() throws what mmap says", () => {
  assert.throws(() => M.map(0, RW, M.MAP_PRIVATE | M.MAP_ANONYMOUS), { name: "SystemError", code: EINVAL });
});

Deno.test("reserve() takes address space for MAP_FIXED to fill", () => {
  const space = M.reserve(2 ** 36);
  assert.equal(space.buffer.byteLength, 0);
  const at = space.addr + 2 ** 35;
  const page = M.map(M.PAGE, RW, M.MAP_PRIVATE | M.MAP_ANONYMOUS | M.MAP_FIXED, -1, 0, at);
  assert.equal(page.addr, at);
  new Uint8Array(page.buffer)[0] = 1;
  M.unmap(space); // takes the page with it
  page.buffer.transfer(0);
});

Deno.test("discard() gives pages back", () => {
  const memory = M.allocate(2 * M.PAGE);
  const bytes = new Uint8Array(memory.buffer).fill(1);
  M.discard((memory.addr + M.PAGE) as M.HostAddr, M.PAGE);
  assert.deepEqual([bytes[0], bytes[M.PAGE - 1], bytes[M.PAGE], bytes[2 * M.PAGE - 1]], [1, 1, 0, 0]);
  M.unmap(memory);
});

Deno.test("Atomics work on mapped memory", () => {
  const memory = M.allocate(M.PAGE);
  const words = new Uint16Array(memory.buffer);
  assert.equal(Atomics.store(words, 3, 65535), 65535);
  assert.equal(Atomics.add(words, 3, 1), 65535);
  assert.equal(Atomics.load(words, 3), 0);
  M.unmap(memory);
});
