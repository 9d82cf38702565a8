// vq/grace.ts: descriptors are closed when nobody can mean them.
import assert from "node:assert/strict";
import { createEventfd } from "../../ffi/eventfd.ts";
import { libc } from "../../ffi/libc.ts";
import { Grace, graceBytes } from "../../vq/grace.ts";

const F_GETFD = 1;
const isOpen = (fd: number) => libc.fcntl(fd, F_GETFD, 0) >= 0;

function loops(count: number): Grace[] {
  const shared = new SharedArrayBuffer(graceBytes(count));
  return Array.from({ length: count }, (_, i) => new Grace(shared, i));
}

Deno.test("retire() keeps a descriptor open until the end of its own batch", () => {
  const [a] = loops(1);
  const fd = createEventfd();
  a.enter();
  assert.equal(a.inside, true);
  a.retire(fd);
  assert.ok(isOpen(fd));
  a.leave();
  assert.equal(a.inside, false);
  assert.ok(!isOpen(fd));
  assert.equal(a.waiting, false);
});

Deno.test("retire() outside a batch closes at the end of the next", () => {
  const [a] = loops(2);
  const fd = createEventfd();
  a.retire(fd);
  a.enter();
  a.leave();
  assert.ok(!isOpen(fd));
});

Deno.test("retire() waits for every loop that is inside a batch, and for no other", () => {
  const [a, b, c, d] = loops(4);
  const fd = createEventfd();
  b.enter();
  c.enter();
  a.enter();
  a.retire(fd);
  a.leave();
  d.enter(); // too late to have seen it
  assert.ok(isOpen(fd));
  assert.equal(a.waiting, true);
  b.leave();
  a.enter();
  a.leave();
  assert.ok(isOpen(fd), "one of two has left");
  c.leave();
  assert.ok(isOpen(fd), "it is a's to close");
  a.enter();
  a.leave();
  assert.ok(!isOpen(fd));
  assert.equal(a.waiting, false);
  d.leave();
});

Deno.test("retire() does not wait for a loop's next batch", () => {
  const [a, b] = loops(2);
  const fd = createEventfd();
  b.enter();
  a.enter();
  a.retire(fd);
  b.leave();
  b.enter();
  a.leave();
  assert.ok(!isOpen(fd));
  b.leave();
});

Deno.test("settle() closes what can be closed, and does not wait for ever for the rest", () => {
  const [a, b] = loops(2);
  const [first, second] = [createEventfd(), createEventfd()];
  b.enter();
  a.enter();
  a.retire(first);
  a.leave();
  a.settle();
  assert.ok(isOpen(first));
  b.leave();
  b.enter();
  a.enter();
  a.retire(second);
  a.leave();
  assert.ok(!isOpen(first));
  assert.ok(isOpen(second));
  b.leave();
  a.settle();
  assert.ok(!isOpen(second));
});

Deno.test("retire() keeps apart as many as come, and closes each once", () => {
  const [a, b, c] = loops(3);
  // The last ones share a moment, for there are more than are told apart.
  const first = createEventfd();
  libc.close(first);
  const open = new Set<number>();
  b.enter();
  for (let i = 0; i < 300; i++) {
    if (i % 3 === 0) c.enter();
    a.enter();
    for (let k = 0; k < 2; k++) {
      const fd = createEventfd();
      assert.ok(!open.has(fd), "a number that waits was not closed");
      open.add(fd);
      a.retire(fd);
    }
    a.leave();
    if (i % 3 === 1) c.leave();
  }
  assert.ok([...open].every(isOpen), "b never left");
  b.leave();
  b.enter();
  a.enter();
  a.leave();
  assert.ok(![...open].some(isOpen), "its next batch is another matter");
  assert.equal(a.waiting, false);
  assert.equal(createEventfd(), first, "nothing is left open");
  libc.close(first);
});

Deno.test("enter() and leave() count over 2^31", () => {
  const shared = new SharedArrayBuffer(graceBytes(2));
  const words = new Int32Array(shared);
  words[16] = 0x7fff_fffe;
  const [a, b] = [new Grace(shared, 0), new Grace(shared, 1)];
  for (let i = 0; i < 3; i++) {
    const fd = createEventfd();
    b.enter();
    a.enter();
    a.retire(fd);
    a.leave();
    assert.ok(isOpen(fd));
    b.leave();
    a.enter();
    a.leave();
    assert.ok(!isOpen(fd));
  }
  assert.ok(words[16] < 0);
});

Deno.test("retire() waits for a helper that is inside, and a loop that sleeps meanwhile is rung for", () => {
  const shared = new SharedArrayBuffer(graceBytes(2, 3));
  const [a, b] = [new Grace(shared, 0, 2), new Grace(shared, 1, 2)];
  const helper = new Grace(shared, 3, 2);
  const fd = createEventfd();
  helper.enter();
  a.enter();
  a.retire(fd);
  a.leave();
  a.settle();
  b.settle();
  assert.ok(isOpen(fd));
  helper.leave();
  const rung: number[] = [];
  helper.sleepers((loop) => rung.push(loop));
  assert.deepEqual(rung, [0], "b has nothing to close");
  a.collect();
  assert.ok(!isOpen(fd));
  helper.sleepers((loop) => rung.push(loop));
  assert.equal(rung.length, 1);
});

Deno.test("retire() keeps any number while a helper stays inside, and closes all of them then", () => {
  const shared = new SharedArrayBuffer(graceBytes(1, 1));
  const loop = new Grace(shared, 0, 1);
  const helper = new Grace(shared, 1, 1);
  helper.enter();
  const fds = Array.from({ length: 100 }, () => createEventfd());
  for (const fd of fds) {
    loop.enter();
    loop.retire(fd);
    loop.leave();
  }
  assert.ok(fds.every(isOpen));
  helper.leave();
  loop.enter();
  loop.leave();
  assert.ok(!fds.some(isOpen));
  assert.equal(loop.waiting, false);
});
