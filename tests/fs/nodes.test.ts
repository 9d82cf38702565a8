// The node table: what the guest knows by a nodeid.
import assert from "node:assert/strict";
import { type HostAddr, viewAt } from "../../ffi/memory.ts";
import { S_IFCHR, S_IFDIR, S_IFREG, S_IFSOCK } from "../../ffi/stat_layout.ts";
import { FileHandle } from "../../fs/file_handle.ts";
import { allocateNodes, fdOf, hasFd, type Identity, NEEDS_HANDLE, NodeTable, ROOT, typeOf } from "../../fs/nodes.ts";
import { handleOf, inode, type Job, type Seen } from "./node_worker.ts";

const ROOT_FD = 3;
const CARRY = 2 ** 30;

const id = (ino: number, more: Partial<Identity> = {}): Identity => ({
  inoLo: ino,
  inoHi: 0,
  dev: 5,
  mount: 7,
  ...more,
});

const fdAt = (nodes: NodeTable, slot: number) => fdOf(nodes.held(slot));

/** A table with a root, and the descriptors that it gave back. */
function table() {
  const addr = allocateNodes();
  const nodes = new NodeTable(addr);
  nodes.setRoot(ROOT_FD, id(2), S_IFDIR);
  const retired: number[] = [];
  return { addr, nodes, retired, retire: (fd: number) => void retired.push(fd) };
}

/** The lookup count of the node with a certain inode number, as a word in memory: too many lookups to make them. */
function countOf(addr: HostAddr, ino: number): { words: Int32Array; at: number } {
  const words = new Int32Array(viewAt(addr, 8 << 20));
  const at = words.indexOf(ino);
  assert.ok(at > 0 && words.indexOf(ino, at + 1) < 0, "the inode number is there once");
  return { words, at: at - 4 };
}

Deno.test("NodeTable.setRoot() makes nodeid 1 known, whatever is forgotten", () => {
  const { nodes, retired, retire } = table();
  assert.equal(nodes.find(1, 0), ROOT);
  assert.equal(fdAt(nodes, ROOT), ROOT_FD);
  assert.equal(nodes.type(ROOT), S_IFDIR);
  nodes.forget(1, 0, 2 ** 64, retire);
  assert.equal(nodes.find(1, 0), ROOT);
  for (let i = 0; i < 10; i++) assert.equal(nodes.acquire(id(2), retire), ROOT);
  nodes.forget(1, 0, 10, retire);
  assert.equal(nodes.find(1, 0), ROOT);
  assert.equal(nodes.known, 0);
  assert.deepEqual(retired, []);
});

Deno.test("NodeTable.find() refuses what names nothing", () => {
  const { nodes } = table();
  const slot = nodes.insert(id(10), 20, S_IFREG);
  const generation = nodes.generation(slot);
  assert.equal(nodes.find(slot, generation), slot);
  // As in a request: unsigned.
  assert.equal(nodes.find(slot, generation >>> 0), slot);
  for (
    const [lo, hi] of [[0, 0], [1, 1], [slot, 0], [slot, generation + 1], [slot + 1, 0], [2 ** 24, 0], [2 ** 32 - 1, 0]]
  ) {
    assert.equal(nodes.find(lo, hi), 0, `${lo}, ${hi}`);
  }
});

Deno.test("NodeTable.insert() makes one node of one inode, and counts the lookups", () => {
  const { nodes, retired, retire } = table();
  const slot = nodes.insert(id(10), 20, S_IFREG);
  assert.ok(nodes.inserted);
  assert.equal(nodes.insert(id(10), 21, S_IFREG), slot);
  assert.ok(!nodes.inserted, "the second descriptor stays the caller's");
  assert.equal(nodes.acquire(id(10), retire), slot);
  assert.equal(nodes.known, 1);
  assert.equal(fdAt(nodes, slot), 20);
  const hi = nodes.generation(slot);
  nodes.forget(slot, hi, 1, retire);
  nodes.forget(slot, hi, 1, retire);
  assert.deepEqual(retired, []);
  assert.equal(nodes.find(slot, hi), slot);
  nodes.forget(slot, hi, 1, retire);
  assert.deepEqual(retired, [20]);
  assert.equal(nodes.find(slot, hi), 0);
  assert.equal(nodes.acquire(id(10), retire), 0);
  assert.equal(nodes.known, 0);
});

Deno.test("NodeTable.acquire() tells files by inode, device and mount", () => {
  const { nodes, retire } = table();
  const ids = [id(10), id(11), id(10, { inoHi: 1 }), id(10, { dev: 6 }), id(10, { mount: 8 }), id(0xffff_ffff)];
  const slots = ids.map((one, i) => nodes.insert(one, 20 + i, S_IFREG));
  assert.equal(new Set(slots).size, ids.length);
  ids.forEach((one, i) => assert.equal(nodes.acquire(one, retire), slots[i]));
});

Deno.test("NodeTable.held() keeps descriptor and type of any kind of file", () => {
  const { nodes } = table();
  for (const [ino, fd, type] of [[10, 0, S_IFSOCK], [11, 2 ** 27 - 2, S_IFCHR], [12, 1_000_000, S_IFREG]]) {
    const file = nodes.held(nodes.insert(id(ino), fd, type));
    assert.deepEqual([fdOf(file), typeOf(file)], [fd, type]);
  }
  assert.equal(nodes.insert(id(13), 2 ** 27 - 1, S_IFREG), 0, "a descriptor that does not fit is refused");
});

Deno.test("NodeTable.forget() of more than the count is the count", () => {
  for (const count of [2, 2 ** 31, 2 ** 32, 2 ** 64]) {
    const { nodes, retired, retire } = table();
    const slot = nodes.insert(id(10), 20, S_IFREG);
    const hi = nodes.generation(slot);
    nodes.forget(slot, hi, count, retire);
    assert.deepEqual(retired, [20]);
    nodes.forget(slot, hi, 1, retire);
    assert.deepEqual(retired, [20], "a node is forgotten once");
  }
});

Deno.test("NodeTable.forget() of 0 lookups changes nothing", () => {
  const { nodes, retired, retire } = table();
  const slot = nodes.insert(id(10), 20, S_IFREG);
  nodes.forget(slot, nodes.generation(slot), 0, retire);
  assert.equal(nodes.find(slot, nodes.generation(slot)), slot);
  assert.deepEqual(retired, []);
});

Deno.test("NodeTable.forget() leaves alone what a nodeid does not name", () => {
  const { nodes, retired, retire } = table();
  const slot = nodes.insert(id(10), 20, S_IFREG);
  const hi = nodes.generation(slot);
  for (
    const [lo, high] of [[0, 0], [1, 0], [slot, hi + 1], [slot, 0], [slot + 1, 0], [2 ** 24, 0], [2 ** 32 - 1, hi]]
  ) {
    nodes.forget(lo, high, 1, retire);
  }
  assert.deepEqual(retired, []);
  assert.equal(nodes.find(slot, hi), slot);
});

Deno.test("NodeTable.find() of a stale generation names nothing when the slot serves another file", () => {
  const { nodes, retire } = table();
  const first = nodes.insert(id(10), 20, S_IFREG);
  const stale = nodes.generation(first);
  nodes.forget(first, stale, 1, retire);
  const second = nodes.insert(id(11), 21, S_IFDIR);
  assert.equal(second, first, "the slot is used again");
  assert.equal(nodes.find(first, stale), 0);
  assert.equal(nodes.find(second, nodes.generation(second)), second);
  nodes.forget(first, stale, 1, retire);
  assert.equal(nodes.find(second, nodes.generation(second)), second);
});

Deno.test("NodeTable counts lookups beyond 2^30 and forgets them in parts", () => {
  const { addr, nodes, retired, retire } = table();
  const ino = 0x1234567;
  const slot = nodes.insert(id(ino), 20, S_IFREG);
  const hi = nodes.generation(slot);
  const { words, at } = countOf(addr, ino);
  assert.equal(words[at], 1);
  // Just below where part of it is moved up, then across.
  words[at] = CARRY * 1.5 - 2;
  for (let i = 0; i < 10; i++) assert.equal(nodes.acquire(id(ino), retire), slot);
  assert.ok(words[at] < CARRY, "part of the count was moved");
  words[at] = CARRY * 1.5;
  nodes.acquire(id(ino), retire);
  // The count is now 2 CARRY and these.
  const low = words[at];
  assert.equal(low, CARRY / 2 + 1);
  nodes.forget(slot, hi, CARRY / 2, retire);
  nodes.forget(slot, hi, CARRY, retire);
  assert.equal(nodes.find(slot, hi), slot);
  // One lookup above CARRY is left: all but one go, by borrowing.
  nodes.forget(slot, hi, CARRY - 1, retire);
  assert.equal(nodes.find(slot, hi), slot);
  nodes.forget(slot, hi, 1, retire);
  assert.equal(nodes.find(slot, hi), slot);
  nodes.forget(slot, hi, 1, retire);
  assert.equal(nodes.find(slot, hi), 0);
  assert.deepEqual(retired, [20]);
});

Deno.test("NodeTable.clear() closes every node's descriptor but the root's, and old nodeids name nothing", () => {
  const { nodes, retire } = table();
  const slots = Array.from({ length: 1000 }, (_, i) => nodes.insert(id(100 + i), 100 + i, S_IFREG));
  const ids = slots.map((slot) => [slot, nodes.generation(slot)]);
  nodes.forget(slots[5], nodes.generation(slots[5]), 1, retire);
  const closed: number[] = [];
  nodes.clear((fd) => void closed.push(fd));
  assert.deepEqual(closed.sort((a, b) => a - b), slots.map((_, i) => 100 + i).filter((fd) => fd !== 105));
  assert.equal(nodes.known, 0);
  for (const [lo, hi] of ids) assert.equal(nodes.find(lo, hi), 0);
  assert.equal(nodes.find(1, 0), ROOT);
  assert.equal(fdAt(nodes, ROOT), ROOT_FD);
  assert.equal(nodes.acquire(id(2), retire), ROOT);
  // New nodes in the same slots have other nodeids.
  for (let i = 0; i < 1000; i++) nodes.insert(id(5000 + i), 3000 + i, S_IFREG);
  for (const [lo, hi] of ids) assert.equal(nodes.find(lo, hi), 0);
});

Deno.test("NodeTable is one table for two loops", () => {
  const { addr, nodes, retired, retire } = table();
  const other = new NodeTable(addr);
  const slot = nodes.insert(id(10), 20, S_IFREG);
  assert.equal(other.acquire(id(10), retire), slot);
  assert.equal(other.find(slot, nodes.generation(slot)), slot);
  const theirs = other.insert(id(11), 21, S_IFREG);
  assert.notEqual(theirs, slot);
  nodes.forget(theirs, nodes.generation(theirs), 1, retire);
  assert.deepEqual(retired, [21]);
  assert.equal(other.acquire(id(11), retire), 0);
  nodes.clear(() => {});
  other.forgetFree();
  assert.notEqual(other.insert(id(12), 22, S_IFREG), nodes.insert(id(13), 23, S_IFREG));
});

Deno.test("NodeTable.acquire() tells files of one inode number by their handles, where no descriptor is held", () => {
  for (const long of [false, true]) {
    const { nodes, retire } = table();
    const [first, second] = [handleOf(1, long), handleOf(2, long)];
    const old = nodes.insert(id(10), -1, S_IFREG, first);
    assert.deepEqual([nodes.inserted, hasFd(nodes.held(old)), typeOf(nodes.held(old))], [true, false, S_IFREG]);
    assert.deepEqual([nodes.known, nodes.holding], [1, 0]);
    assert.equal(nodes.acquire(id(11), retire), 0, "another number is another file");
    assert.equal(nodes.acquire(id(10), retire), NEEDS_HANDLE);
    assert.equal(nodes.acquire(id(10), retire, first), old);
    assert.equal(nodes.acquire(id(10), retire, second), 0);
    assert.equal(nodes.acquire(id(10), retire, new FileHandle()), 0, "a handle that is not known is none");
    assert.equal(nodes.insert(id(10), 20, S_IFREG), NEEDS_HANDLE);
    assert.equal(nodes.insert(id(10), -1, S_IFREG, first), old);
    const fresh = nodes.insert(id(10), -1, S_IFDIR, second);
    assert.notEqual(fresh, old);
    assert.equal(nodes.acquire(id(10), retire, first), old);
    assert.equal(nodes.acquire(id(10), retire, second), fresh);
    assert.equal(nodes.known, 2);
    const copy = new FileHandle();
    nodes.handle(fresh, copy);
    assert.equal(nodes.acquire(id(10), retire, copy), fresh);
    nodes.clear(() => assert.fail("no descriptor is held"));
    assert.equal(nodes.acquire(id(10), retire, copy), 0);
  }
});

Deno.test("NodeTable.acquire() needs no handle where a descriptor pins the inode", () => {
  const { nodes, retired, retire } = table();
  const old = nodes.insert(id(10), -1, S_IFREG, handleOf(1));
  const held = nodes.insert(id(10), 20, S_IFREG, handleOf(2));
  assert.ok(nodes.inserted && held !== old);
  assert.deepEqual([nodes.known, nodes.holding], [2, 1]);
  assert.equal(nodes.acquire(id(10), retire), held);
  const mounts: number[] = [];
  nodes.forget(held, nodes.generation(held), 9, retire);
  nodes.forget(old, nodes.generation(old), 9, (fd, mount) => void mounts.push(fd, mount));
  assert.deepEqual([retired, mounts], [[20], [-1, 7]]);
  assert.deepEqual([nodes.known, nodes.holding], [0, 0]);
  assert.equal(nodes.acquire(id(10), retire), 0);
});

Deno.test("NodeTable.handle() copies what was put, and nothing from a slot that names nothing", () => {
  const { nodes, retire } = table();
  const slot = nodes.insert(id(10, { mount: 77 }), -1, S_IFDIR, handleOf(5));
  const copy = new FileHandle();
  assert.equal(nodes.handle(slot, copy), nodes.held(slot));
  assert.equal(nodes.mount, 77);
  assert.equal(nodes.acquire(id(10, { mount: 77 }), retire, copy), slot, "it is the same handle");
  nodes.forget(slot, nodes.generation(slot), 9, retire);
  assert.equal(nodes.handle(slot, copy), 0);
});

/** Lets two Workers at the same table, and returns what they saw. */
async function race(hostile: boolean, inodes: number, rounds: number, handles = false) {
  const { addr, nodes } = table();
  const gate = new Int32Array(new SharedArrayBuffer(4));
  const loops = 2;
  const seen = await Promise.all([1, 2].map((seed) => {
    const worker = new Worker(new URL("./node_worker.ts", import.meta.url), { type: "module" });
    return new Promise<Seen>((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = (event) => reject(new Error(event.message));
      worker.postMessage({ addr, seed, rounds, inodes, gate, loops, hostile, handles } satisfies Job);
    }).finally(() => worker.terminate());
  }));
  const taken = seen.flatMap((one) => one.taken).sort((a, b) => a - b);
  const retired = seen.flatMap((one) => one.retired).sort((a, b) => a - b);
  const byHandle = seen.reduce((sum, one) => sum + one.byHandle, 0);
  return { nodes, taken, retired, byHandle, complaints: seen.flatMap((one) => one.complaints) };
}

Deno.test("NodeTable loses no node and closes each descriptor once when two Workers look up and forget", async () => {
  const { nodes, taken, retired, complaints } = await race(false, 12, 400_000);
  assert.deepEqual(complaints, []);
  assert.equal(nodes.known, 0);
  assert.ok(taken.length > 1000, `${taken.length} nodes came and went`);
  assert.deepEqual(retired, taken);
});

Deno.test("NodeTable loses no node when two Workers make some by descriptor and some by handle", async () => {
  const { nodes, taken, retired, byHandle, complaints } = await race(false, 12, 400_000, true);
  assert.deepEqual(complaints, []);
  assert.deepEqual([nodes.known, nodes.holding, byHandle], [0, 0, 0]);
  assert.ok(taken.length > 500, `${taken.length} nodes held a descriptor`);
  assert.deepEqual(retired, taken);
});

Deno.test("NodeTable stays whole when two Workers forget what is not theirs", async () => {
  const { nodes, taken, retired } = await race(true, 2, 1_000_000);
  const left: number[] = [];
  for (let n = 0; n < 2; n++) {
    const slot = nodes.acquire(inode(n), () => {});
    if (slot !== 0) left.push(fdAt(nodes, slot));
  }
  assert.equal(nodes.known, left.length);
  assert.deepEqual([...retired, ...left].sort((a, b) => a - b), taken);
});
