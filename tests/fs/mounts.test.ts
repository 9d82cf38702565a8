// Descriptors of mounts, by which file handles are opened.
import assert from "node:assert/strict";
import { allocateMounts, MountTable } from "../../fs/mounts.ts";

const ROOT_MOUNT = 30;

Deno.test("MountTable keeps the share's own descriptor for good", () => {
  const mounts = new MountTable(allocateMounts(), ROOT_MOUNT, 5);
  assert.ok(mounts.use(ROOT_MOUNT));
  assert.equal(mounts.fd(ROOT_MOUNT), 5);
  assert.equal(mounts.release(ROOT_MOUNT), -1);
  assert.equal(mounts.fd(ROOT_MOUNT), 5);
  assert.equal(mounts.open, 0);
});

Deno.test("MountTable gives another mount's descriptor back with its last node, on any loop", () => {
  const addr = allocateMounts();
  const [one, two] = [new MountTable(addr, ROOT_MOUNT, 5), new MountTable(addr, ROOT_MOUNT, 5)];
  assert.ok(!one.use(31));
  assert.equal(one.fd(31), -1);
  assert.equal(one.add(31, 8), 8);
  assert.equal(two.add(31, 9), 8, "the other loop was faster");
  assert.equal(two.add(2 ** 32 - 1, 10), 10);
  assert.ok(two.use(31));
  assert.equal(one.open, 2);
  assert.deepEqual([one.release(31), two.release(31), two.fd(31), one.release(31)], [-1, -1, 8, 8]);
  assert.deepEqual([one.fd(31), one.fd(2 ** 32 - 1), one.open], [-1, 10, 1]);
  assert.equal(one.release(31), -1, "once");
});

Deno.test("MountTable is full at some time, and clear() hands out what there is", () => {
  const mounts = new MountTable(allocateMounts(), ROOT_MOUNT, 5);
  let count = 0;
  while (mounts.add(1000 + count, 100 + count) >= 0) count++;
  assert.ok(count >= 100);
  assert.ok(!mounts.use(1000 + count));
  const closed: number[] = [];
  mounts.clear((fd) => void closed.push(fd));
  assert.deepEqual(closed, Array.from({ length: count }, (_, i) => 100 + i));
  assert.equal(mounts.open, 0);
  assert.equal(mounts.fd(1000), -1);
});
