/** SET_MEM_TABLE, GET_MAX_MEM_SLOTS, ADD_MEM_REG, REM_MEM_REG. */
import assert from "node:assert/strict";
import { libc } from "../../ffi/libc.ts";
import * as W from "../../vhost/wire.ts";
import {
  type Bench,
  isOpen,
  memTable,
  message,
  openDescriptors,
  prepareQueue,
  REGION_SIZE,
  type RegionFields,
  singleRegion,
  u32,
  withRunningQueue,
  withServer,
} from "./harness.ts";

const SECOND = { guest: 0x100000, user: 0x7f00_0000_0000, size: 0x4000, offset: 0x8000 };

Deno.test("SET_MEM_TABLE hands over several regions with their descriptors in order", () =>
  withServer(async ({ negotiated, device, memory }) => {
    const end = await negotiated();
    const fds = [memory(), memory(0xc000)];
    assert.equal(await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable([{}, SECOND]), fds), 0);
    const [first, second] = device.regions;
    assert.deepEqual({ ...first, fd: 0 }, { guestAddr: 0, size: REGION_SIZE, userAddr: 0, mmapOffset: 0, fd: 0 });
    assert.deepEqual(
      { ...second, fd: 0 },
      { guestAddr: 0x100000, size: 0x4000, userAddr: 0x7f00_0000_0000, mmapOffset: 0x8000, fd: 0 },
    );
    const sizes = device.regions.map(({ fd }) => libc.lseek(fd, 0n, 2));
    assert.deepEqual(sizes.map(Number), [REGION_SIZE, 0xc000]);
  }));

Deno.test("SET_MEM_TABLE accepts room for two regions with one, as User-Mode Linux sends it", () =>
  withServer(async ({ negotiated, device, memory }) => {
    const end = await negotiated();
    assert.equal(await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable([{}], 1, 2), [memory()]), 0);
    assert.equal(device.regions.length, 1);
  }));

Deno.test("SET_MEM_TABLE accepts 32 regions", () =>
  withServer(async ({ negotiated, device, memory }) => {
    const end = await negotiated();
    const regions = Array.from({ length: 32 }, (_, i) => ({ guest: (31 - i) * REGION_SIZE, user: i * REGION_SIZE }));
    assert.equal(await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable(regions), new Array(32).fill(memory())), 0);
    assert.equal(device.regions.length, 32);
  }));

Deno.test("SET_MEM_TABLE closes the table before", () =>
  withServer(async ({ negotiated, device, memory }) => {
    const end = await negotiated();
    const fd = memory();
    const before = openDescriptors();
    for (let i = 0; i < 5; i++) {
      assert.equal(await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]), [fd]), 0);
      assert.equal(openDescriptors(), before + 1);
      assert.ok(isOpen(device.regions[0].fd));
    }
  }));

Deno.test("SET_MEM_TABLE leaves running queues to the device", () =>
  withServer(async (bench) => {
    const end = await withRunningQueue(bench);
    assert.equal(await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]), [bench.memory()]), 0);
    assert.deepEqual(bench.device.calls, ["setMemory 1"]);
  }));

Deno.test("SET_MEM_TABLE starts queues that waited for memory", () =>
  withServer(async (bench) => {
    const end = await bench.negotiated();
    await prepareQueue(bench, end, 0);
    assert.equal(await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(0, 1)), 0);
    assert.deepEqual(bench.device.calls, []);
    assert.equal(await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]), [bench.memory()]), 0);
    assert.deepEqual(bench.device.calls, ["setMemory 1", "startQueue 0"]);
  }));

Deno.test("SET_MEM_TABLE that the device rejects gets a NACK and leaves the old table", () =>
  withServer(async ({ negotiated, device, memory, log }) => {
    const end = await negotiated();
    assert.equal(await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]), [memory()]), 0);
    const { fd } = device.regions[0];
    const before = openDescriptors();
    device.reject.setMemory = "out of address space";
    assert.equal(await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable([SECOND]), [memory()]), 1);
    assert.equal(openDescriptors(), before + 1, "the new descriptor is closed, the test's own is open");
    assert.deepEqual(device.regions.map((each) => each.fd), [fd]);
    assert.match(log.take("warn").join(), /SET_MEM_TABLE: the memory cannot be used: out of address space/);
  }));

Deno.test("SET_MEM_TABLE that the device rejects ends a session that did not ask, or whose queues ran", () =>
  withServer(async (bench) => {
    const { device, log, memory } = bench;
    for (const running of [false, true]) {
      const end = running ? await withRunningQueue(bench) : await bench.negotiated();
      device.reject.setMemory = "no";
      await end.raw(message(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]), running ? 9 : 1), [memory()]);
      await end.closed();
      const lines = log.take("error");
      assert.equal(lines.length, 1);
      assert.match(lines[0], /SET_MEM_TABLE: the memory cannot be used: no/);
    }
  }));

Deno.test("GET_MAX_MEM_SLOTS is 509", () =>
  withServer(async ({ negotiated }) => {
    assert.equal(await (await negotiated()).ask64(W.VHOST_USER_GET_MAX_MEM_SLOTS), 509n);
  }));

Deno.test("ADD_MEM_REG and REM_MEM_REG change the table, the latter by addresses and size", () =>
  withServer(async ({ negotiated, device, memory }) => {
    const end = await negotiated();
    const fd = memory();
    const before = openDescriptors();
    assert.equal(await end.tell(W.VHOST_USER_ADD_MEM_REG, singleRegion(), [fd]), 0);
    assert.equal(await end.tell(W.VHOST_USER_ADD_MEM_REG, singleRegion(SECOND), [fd]), 0);
    assert.deepEqual(device.regions.map((each) => each.guestAddr), [0, 0x100000]);
    assert.equal(openDescriptors(), before + 2);
    // QEMU sends a descriptor and no offset.
    assert.equal(await end.tell(W.VHOST_USER_REM_MEM_REG, singleRegion({ ...SECOND, offset: 0 }), [fd]), 0);
    assert.deepEqual(device.regions.map((each) => each.guestAddr), [0]);
    assert.equal(openDescriptors(), before + 1);
    assert.equal(await end.tell(W.VHOST_USER_REM_MEM_REG, singleRegion()), 0);
    assert.equal(device.regions.length, 0);
    assert.equal(openDescriptors(), before);
  }));

Deno.test("ADD_MEM_REG starts queues that waited for memory", () =>
  withServer(async (bench) => {
    const end = await bench.negotiated();
    await prepareQueue(bench, end, 0);
    await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(0, 1));
    assert.equal(await end.tell(W.VHOST_USER_ADD_MEM_REG, singleRegion(), [bench.memory()]), 0);
    assert.deepEqual(bench.device.calls, ["setMemory 1", "startQueue 0"]);
  }));

Deno.test("ADD_MEM_REG that the device rejects gives it the old table back", () =>
  withServer(async ({ negotiated, device, memory }) => {
    const end = await negotiated();
    assert.equal(await end.tell(W.VHOST_USER_ADD_MEM_REG, singleRegion(), [memory()]), 0);
    device.reject.setMemory = "no";
    assert.equal(await end.tell(W.VHOST_USER_ADD_MEM_REG, singleRegion(SECOND), [memory()]), 1);
    assert.deepEqual(device.calls, ["setMemory 1", "setMemory 2", "setMemory 1"]);
    assert.ok(isOpen(device.regions[0].fd));
  }));

Deno.test("REM_MEM_REG of an unknown region is refused, and the descriptor with it closed", () =>
  withServer(async ({ negotiated, memory, log }) => {
    const end = await negotiated();
    const fd = memory();
    assert.equal(await end.tell(W.VHOST_USER_ADD_MEM_REG, singleRegion(), [fd]), 0);
    const before = openDescriptors();
    for (const wrong of [{ guest: 1 }, { user: 1 }, { size: 1 }]) {
      assert.equal(await end.tell(W.VHOST_USER_REM_MEM_REG, singleRegion(wrong), [fd]), 1);
      assert.match(log.take("warn").join(), /REM_MEM_REG: region at .* is not in the memory table/);
    }
    assert.equal(openDescriptors(), before);
  }));

Deno.test("REM_MEM_REG that the device rejects keeps the region", () =>
  withServer(async ({ negotiated, device, memory }) => {
    const end = await negotiated();
    assert.equal(await end.tell(W.VHOST_USER_ADD_MEM_REG, singleRegion(), [memory()]), 0);
    device.reject.setMemory = "busy";
    assert.equal(await end.tell(W.VHOST_USER_REM_MEM_REG, singleRegion()), 1);
    assert.ok(isOpen(device.regions[0].fd));
  }));

const EDGE = 2n ** 53n;

/** What a region must not be, and what the log then says. */
const badRegions: [RegionFields, RegExp][] = [
  [{ size: 0 }, /has size 0/],
  [{ guest: EDGE }, /guest address 0x20000000000000 is beyond/],
  [{ user: EDGE }, /user address .* is beyond/],
  [{ size: EDGE }, /region size .* is beyond/],
  [{ offset: EDGE }, /mmap offset .* is beyond/],
  [{ guest: 2n ** 64n - 1n }, /guest address 0xffffffffffffffff is beyond/],
  [{ guest: EDGE - 1n }, /ends beyond/],
  [{ user: EDGE - BigInt(REGION_SIZE) + 1n }, /ends beyond/],
  [{ offset: EDGE - 1n }, /ends beyond/],
  [{ size: REGION_SIZE + 1 }, /from offset 0x0 reaches beyond its file of 0x10000 bytes/],
  [{ offset: 1 }, /reaches beyond its file/],
  [{ offset: REGION_SIZE * 2 }, /reaches beyond its file/],
];

/** Sends something that must end the session with one line that matches; the next front end is served. */
async function thrownOut(bench: Bench, request: number, payload: Uint8Array, fds: number[], why: RegExp) {
  const before = openDescriptors();
  const end = await bench.negotiated();
  await end.raw(message(request, payload, 9), fds);
  await end.closed();
  const lines = bench.log.take("error");
  assert.equal(lines.length, 1, lines.join("\n"));
  assert.match(lines[0], why);
  assert.match(lines[0], new RegExp(W.shapes.get(request)!.name));
  assert.equal(openDescriptors(), before + 1, "only the test's end of the connection is open");
  assert.deepEqual(bench.device.calls, ["reset"]);
  bench.device.calls = [];
}

Deno.test("SET_MEM_TABLE and ADD_MEM_REG throw a front end out for a bad region", () =>
  withServer(async (bench) => {
    const fd = bench.memory();
    for (const [bad, why] of badRegions) {
      await thrownOut(bench, W.VHOST_USER_SET_MEM_TABLE, memTable([bad]), [fd], why);
      const good = { guest: 0x200000 };
      await thrownOut(bench, W.VHOST_USER_SET_MEM_TABLE, memTable([good, bad]), [fd, fd], why);
      await thrownOut(bench, W.VHOST_USER_ADD_MEM_REG, singleRegion(bad), [fd], why);
    }
  }));

Deno.test("SET_MEM_TABLE throws a front end out for wrong counts", () =>
  withServer(async (bench) => {
    const fd = bench.memory();
    const two = [{}, SECOND];
    const send = (payload: Uint8Array, fds: number[], why: RegExp) =>
      thrownOut(bench, W.VHOST_USER_SET_MEM_TABLE, payload, fds, why);
    await send(memTable([{}], 0), [fd], /the front end has shared no memory: .*share=on/);
    await send(memTable([{}], 2), [fd, fd], /2 regions in a payload with room for 1/);
    await send(memTable([{}], 0xffffffff), [fd], /4294967295 regions/);
    await send(memTable(two), [fd], /2 regions with 1 descriptors/);
    await send(memTable([{}]), [fd, fd], /1 regions with 2 descriptors/);
    await send(memTable([{}]), [], /came with 0 descriptors, expected 1 to 32/);
    await send(memTable([{}]), new Array(33).fill(fd), /came with 33 descriptors/);
    await send(memTable(new Array(33).fill({})), new Array(32).fill(fd), /payload of 1064 bytes/);
    await send(new Uint8Array(39), [fd], /payload of 39 bytes, expected 40 to 1032/);
  }));

Deno.test("SET_MEM_TABLE and ADD_MEM_REG throw a front end out for guest ranges that overlap", () =>
  withServer(async (bench) => {
    const fd = bench.memory();
    for (const guest of [0x1000, 0x1000 + REGION_SIZE - 1, 0x1001, 2]) {
      const table = memTable([{ guest: 0x1000 }, { guest, user: 0x800000 }]);
      await thrownOut(bench, W.VHOST_USER_SET_MEM_TABLE, table, [fd, fd], /overlaps another/);
    }
    const end = await bench.negotiated();
    assert.equal(await end.tell(W.VHOST_USER_ADD_MEM_REG, singleRegion(), [fd]), 0);
    assert.equal(await end.tell(W.VHOST_USER_ADD_MEM_REG, singleRegion({ guest: REGION_SIZE }), [fd]), 0);
    await end.raw(message(W.VHOST_USER_ADD_MEM_REG, singleRegion({ guest: 1 })), [fd]);
    await end.closed();
    assert.match(bench.log.take("error").join(), /ADD_MEM_REG: .*overlaps another/);
  }));

Deno.test("ADD_MEM_REG throws a front end out for too many regions", () =>
  withServer(async (bench) => {
    const fd = bench.memory();
    const end = await bench.negotiated();
    for (let i = 0; i < W.MEM_SLOTS_MAX; i++) {
      assert.equal(await end.tell(W.VHOST_USER_ADD_MEM_REG, singleRegion({ guest: i * REGION_SIZE }), [fd]), 0);
    }
    await end.raw(message(W.VHOST_USER_ADD_MEM_REG, singleRegion({ guest: REGION_SIZE * 600 })), [fd]);
    await end.closed();
    assert.match(bench.log.take("error").join(), /more than 509 regions/);
  }));
