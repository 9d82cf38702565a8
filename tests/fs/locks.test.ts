import assert from "node:assert/strict";
import { allocateLocks, LockTable } from "../../fs/locks.ts";

Deno.test("LockTable keeps a descriptor for each node, generation and owner", () => {
  const addr = allocateLocks();
  const table = new LockTable(addr);
  const other = new LockTable(addr);
  assert.equal(table.fd(7, 1, 10, 11), -1);
  assert.equal(table.insert(7, 1, 10, 11, 100, 50), 100);
  assert.equal(table.insert(7, 1, 10, 12, 101, 50), 101);
  assert.equal(table.insert(7, 2, 10, 11, 102, 50), 102);
  assert.equal(table.insert(8, 1, 10, 11, 103, 50), 103);
  assert.equal(other.fd(7, 1, 10, 11), 100);
  assert.equal(other.fd(7, 2, 10, 11), 102);
  assert.equal(other.insert(7, 1, 10, 11, 200, 50), 100, "the first stays");
  assert.equal(other.owners, 4);
});

Deno.test("LockTable.remove() takes out one owner and moves no other", () => {
  const table = new LockTable(allocateLocks());
  for (let i = 0; i < 10; i++) table.insert(i, 0, 0xffffffff, i, 100 + i, 50 + i);
  assert.equal(table.remove(3, 0, 0xffffffff, 3), 103);
  assert.equal(table.remove(3, 0, 0xffffffff, 3), -1);
  assert.equal(table.remove(9, 0, 0xffffffff, 9), 109);
  for (const i of [0, 1, 2, 4, 5, 6, 7, 8]) assert.equal(table.fd(i, 0, 0xffffffff, i), 100 + i);
  assert.equal(table.owners, 8);
});

Deno.test("LockTable.insert() says when it is full, and clear() empties it", () => {
  const table = new LockTable(allocateLocks());
  let inserted = 0;
  while (table.owners < 16384) assert.equal(table.insert(1, 0, inserted, 0, 5, 50), 5), inserted++;
  assert.equal(table.insert(2, 0, 0, 0, 6, 50), -1);
  let closed = 0;
  table.clear(() => closed++);
  assert.equal(closed, 16384);
  assert.equal(table.owners, 0);
});

Deno.test("LockTable.removeOf() takes out the owners that came by a handle, one a call", () => {
  const table = new LockTable(allocateLocks());
  const handle = 0xfff00003;
  for (let i = 0; i < 6; i++) table.insert(1, 0, i, 0, 100 + i, i % 2 === 0 ? handle : 9);
  const removed = [table.removeOf(handle), table.removeOf(handle), table.removeOf(handle)].sort();
  assert.deepEqual(removed, [100, 102, 104]);
  assert.equal(table.removeOf(handle), -1);
  for (const i of [1, 3, 5]) assert.equal(table.fd(1, 0, i, 0), 100 + i);
});
