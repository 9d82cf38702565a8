import assert from "node:assert/strict";
import { EINVAL, EPERM } from "../../ffi/errno.ts";
import { createEventfd } from "../../ffi/eventfd.ts";
import { cString, errno, libc } from "../../ffi/libc.ts";
import { createSealedMemfd, sealAgainstShrinking } from "../../ffi/memfd.ts";

Deno.test("createSealedMemfd() makes zeroed memory of a size that nobody changes", () => {
  const fd = createSealedMemfd("test", 5000);
  const bytes = new Uint8Array(6000).fill(1);
  assert.equal(libc.pread(fd, bytes, 6000, 0n), 5000);
  assert.ok(bytes.subarray(0, 5000).every((byte) => byte === 0));
  for (const size of [0n, 4999n, 5001n]) {
    assert.equal(libc.ftruncate(fd, size), -1);
    assert.equal(errno(), EPERM);
  }
  assert.equal(sealAgainstShrinking(fd), 0);
  libc.close(fd);
});

Deno.test("sealAgainstShrinking() seals what can be sealed, and says why another cannot", () => {
  const [open, closed] = [2, 0].map((flags) => libc.memfd_create(cString("test"), flags | 1));
  assert.equal(libc.ftruncate(open, 4096n), 0);
  assert.equal(sealAgainstShrinking(open), 0);
  assert.equal(libc.ftruncate(open, 4095n), -1);
  assert.equal(libc.ftruncate(open, 8192n), 0);
  assert.equal(sealAgainstShrinking(closed), -EPERM);
  const event = createEventfd();
  assert.equal(sealAgainstShrinking(event), -EINVAL);
  for (const fd of [open, closed, event]) libc.close(fd);
});
