// vq/directory.ts: what helpers know of devices.
import assert from "node:assert/strict";
import { DEVICES, Directory } from "../../vq/directory.ts";
import { GuestMemory, mapGuestMemory, type MemoryLayout, unmapGuestMemory } from "../../vq/memory.ts";
import { GuestMemory as Guest } from "../../bench/guest_memory.ts";

Deno.test("Directory.read() gives what was published, to another view of it", () => {
  const guest = Guest.create(1 << 20);
  const window = mapGuestMemory(guest.regions);
  const owner = new Directory();
  const helper = new Directory(owner.addr);
  const before = helper.generation(3);
  owner.publish(3, { serial: 0, config: { text: "ä".repeat(10_000), n: 2 ** 47 }, memory: window.layout });
  assert.notEqual(helper.generation(3), before);
  const { config, memory } = helper.read(3);
  assert.deepEqual(config, { text: "ä".repeat(10_000), n: 2 ** 47 });
  assert.deepEqual(memory, window.layout);
  new GuestMemory(memory).u8[0] = 7;
  assert.equal(new GuestMemory(window.layout).u8[0], 7);
  unmapGuestMemory(window);
  guest.close();
});

Deno.test("Directory.publish() raises the generation at each change, and null is no record", () => {
  const owner = new Directory();
  const layout: MemoryLayout = { addr: 0 as MemoryLayout["addr"], size: 0, regions: [] };
  const seen = new Set([owner.generation(0)]);
  for (let i = 0; i < 10; i++) {
    owner.publish(0, i % 3 ? { serial: 0, config: i, memory: layout } : null);
    seen.add(owner.generation(0));
    if (i % 3) assert.equal(owner.read(0).config, i);
    else assert.throws(() => owner.read(0), /device 0/);
  }
  assert.equal(seen.size, 11);
  assert.equal(owner.generation(1), 0, "another device's is left alone");
  assert.throws(() => owner.publish(DEVICES, null), /there may be/);
});

Deno.test("Directory.take() gives the least number that is free, and no more than there may be", () => {
  const directory = new Directory();
  assert.deepEqual([directory.take(), directory.take(), directory.take()], [0, 1, 2]);
  directory.give(1);
  assert.equal(directory.take(), 1);
  for (let i = 3; i < DEVICES; i++) directory.take();
  assert.throws(() => directory.take(), /may be no more/);
  directory.give(7);
  assert.equal(directory.take(), 7);
});
