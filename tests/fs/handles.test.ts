// The handle table: what the guest knows by an fh.
import assert from "node:assert/strict";
import { viewAt } from "../../ffi/memory.ts";
import { allocateHandles, HandleTable, KIND_DIR, KIND_FILE } from "../../fs/handles.ts";

const table = () => new HandleTable(allocateHandles());

Deno.test("HandleTable.fd() finds what insert() took, by kind", () => {
  const handles = table();
  const file = handles.insert(20, KIND_FILE);
  const dir = handles.insert(21, KIND_DIR);
  assert.notEqual(file, dir);
  assert.equal(handles.open, 2);
  assert.equal(handles.fd(file, 0, KIND_FILE), 20);
  assert.equal(handles.fd(dir, 0, KIND_DIR), 21);
  assert.equal(handles.fd(file, 0, KIND_DIR), -1);
  assert.equal(handles.fd(dir, 0, KIND_FILE), -1);
});

Deno.test("HandleTable.fd() refuses an fh that names nothing", () => {
  const handles = table();
  for (const lo of [0, 1, 20, 0x100000, 0xfffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) {
    for (const hi of [0, 1, 0xffff_ffff]) {
      for (const kind of [KIND_FILE, KIND_DIR, 0]) assert.equal(handles.fd(lo, hi, kind), -1);
      assert.equal(handles.remove(lo, hi, KIND_FILE), -1);
    }
  }
  const fh = handles.insert(20, KIND_FILE);
  assert.equal(handles.fd(fh, 1, KIND_FILE), -1, "the upper half counts");
  assert.equal(handles.fd(20, 0, KIND_FILE), -1, "it is no descriptor");
});

Deno.test("HandleTable.remove() works once, and the fh is stale from then on", () => {
  const handles = table();
  const fh = handles.insert(20, KIND_FILE);
  assert.equal(handles.remove(fh, 0, KIND_DIR), -1);
  assert.equal(handles.remove(fh, 0, KIND_FILE), 20);
  assert.equal(handles.remove(fh, 0, KIND_FILE), -1);
  assert.equal(handles.fd(fh, 0, KIND_FILE), -1);
  assert.equal(handles.open, 0);
});

Deno.test("HandleTable.remove() and clear() leave no descriptor in the slot: a load that comes too early finds none", () => {
  const addr = allocateHandles();
  const handles = new HandleTable(addr);
  const words = new Int32Array(viewAt(addr, 4096));
  const fresh = words.slice();
  const holds = (fd: number) => words.some((word, i) => word !== fresh[i] && (word === fd || word === ~fd));
  const fh = handles.insert(2000, KIND_FILE);
  assert.ok(holds(2000));
  assert.equal(handles.remove(fh, 0, KIND_FILE), 2000);
  assert.ok(!holds(2000));
  handles.insert(3000, KIND_DIR);
  assert.ok(holds(3000));
  handles.clear(() => {});
  assert.ok(!holds(3000));
});

Deno.test("HandleTable.insert() into a slot used before gives another fh, 4096 times over", () => {
  const handles = table();
  const seen = new Set<number>();
  let last = -1;
  for (let i = 0; i < 4096; i++) {
    const fh = handles.insert(20 + i, KIND_FILE);
    assert.ok(fh >= 0 && fh <= 0xffff_ffff && !seen.has(fh));
    seen.add(fh);
    assert.equal(handles.fd(fh, 0, KIND_FILE), 20 + i);
    if (last >= 0) assert.equal(handles.fd(last, 0, KIND_FILE), -1);
    assert.equal(handles.remove(fh, 0, KIND_FILE), 20 + i);
    last = fh;
  }
  assert.equal(new Set([...seen].map((fh) => fh & 0xfffff)).size, 1, "it is one slot");
  const again = handles.insert(9, KIND_FILE);
  assert.ok(seen.has(again), "then the numbers begin again");
  assert.equal(handles.fd(again, 0, KIND_FILE), 9);
});

Deno.test("HandleTable.insert() forgets what was noted of the handle before", () => {
  const handles = table();
  const fh = handles.insert(20, KIND_FILE);
  assert.equal(handles.reading(fh), 0);
  handles.setReading(fh, 2);
  handles.setPosition(fh, 5, 6);
  assert.equal(handles.reading(fh), 2);
  assert.ok(handles.standsAt(fh, 5, 6));
  handles.setPosition(fh, 0xffff_fff0, 0x8000_0000);
  assert.ok(handles.standsAt(fh, 0xffff_fff0, 0x8000_0000));
  handles.remove(fh, 0, KIND_FILE);
  const next = handles.insert(21, KIND_FILE);
  assert.equal(handles.reading(next), 0);
  assert.ok(handles.standsAt(next, 0, 0));
});

Deno.test("HandleTable.clear() closes all, and old fhs name nothing afterwards", () => {
  const addr = allocateHandles();
  const handles = new HandleTable(addr);
  const other = new HandleTable(addr);
  const fhs = Array.from({ length: 300 }, (_, i) => (i % 2 ? handles : other).insert(100 + i, KIND_FILE));
  assert.equal(handles.remove(fhs[7], 0, KIND_FILE), 107);
  const closed: number[] = [];
  handles.clear((fd) => void closed.push(fd));
  other.forgetFree();
  assert.deepEqual(closed.sort((a, b) => a - b), fhs.map((_, i) => 100 + i).filter((fd) => fd !== 107));
  assert.equal(other.open, 0);
  for (let i = 0; i < 300; i++) (i % 2 ? handles : other).insert(500 + i, KIND_FILE);
  for (const fh of fhs) assert.equal(handles.fd(fh, 0, KIND_FILE), -1);
});

Deno.test("HandleTable is one table for two loops", () => {
  const addr = allocateHandles();
  const [here, there] = [new HandleTable(addr), new HandleTable(addr)];
  const fh = here.insert(20, KIND_FILE);
  assert.equal(there.fd(fh, 0, KIND_FILE), 20);
  assert.equal(there.remove(fh, 0, KIND_FILE), 20);
  assert.equal(here.fd(fh, 0, KIND_FILE), -1);
  assert.equal(here.remove(fh, 0, KIND_FILE), -1);
});
