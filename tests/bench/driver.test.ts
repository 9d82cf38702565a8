// bench/driver.ts: the driver's side of a split virtqueue, against a device of a few lines.
import assert from "node:assert/strict";
import { needEvent, type Segment, Virtqueue, type VirtqueueOptions } from "../../bench/driver.ts";
import { GuestMemory } from "../../bench/guest_memory.ts";
import { malformed } from "../../bench/malformed.ts";
import { signal } from "../../ffi/eventfd.ts";
import { libc } from "../../ffi/libc.ts";
import type { GuestAddr } from "../../vq/device.ts";

interface Seen {
  addr: number;
  len: number;
  flags: number;
}

/** A device that completes each chain with the number of its descriptors. */
class Device {
  readonly #desc: DataView;
  readonly #avail: Uint16Array;
  readonly #used16: Uint16Array;
  readonly #used32: Uint32Array;
  chains: Seen[][] = [];

  constructor(readonly queue: Virtqueue, readonly memory: GuestMemory, public next: number) {
    const { desc, avail, used, size } = queue.state;
    this.#desc = memory.view(desc, size * 16);
    this.#avail = memory.words16(avail, size + 3);
    this.#used16 = memory.words16(used, size * 4 + 3);
    this.#used32 = memory.words32(used, size * 2 + 1);
  }

  /** Serves all that is available; returns how many chains. */
  serve(): number {
    const { size } = this.queue;
    let count = 0;
    for (; this.next !== this.#avail[1]; this.next = (this.next + 1) & 0xffff, count++) {
      const head = this.#avail[2 + this.next % size];
      const chain = this.#chain(head);
      this.chains.push(chain);
      this.#used32.set([head, chain.length], 1 + (this.next % size) * 2);
      this.#used16[1] = (this.next + 1) & 0xffff;
    }
    return count;
  }

  /** The avail_event or used_event word. */
  set availEvent(index: number) {
    this.#used16[this.queue.size * 4 + 2] = index;
  }
  get usedEvent(): number {
    return this.#avail[this.queue.size + 2];
  }
  set usedFlags(flags: number) {
    this.#used16[0] = flags;
  }

  #chain(head: number, table = this.#desc): Seen[] {
    const list: Seen[] = [];
    for (let i = head;;) {
      const addr = Number(table.getBigUint64(i * 16, true)), len = table.getUint32(i * 16 + 8, true);
      const flags = table.getUint16(i * 16 + 12, true);
      if (flags & 4) return this.#chain(0, this.memory.view(addr as GuestAddr, len));
      list.push({ addr, len, flags });
      if ((flags & 1) === 0) return list;
      i = table.getUint16(i * 16 + 14, true);
    }
  }
}

function withQueue(
  options: VirtqueueOptions,
  use: (queue: Virtqueue, device: Device, memory: GuestMemory) => void,
): void {
  const memory = GuestMemory.create(4 << 20);
  const queue = Virtqueue.create(memory, 1, { size: 16, ...options });
  try {
    use(queue, new Device(queue, memory, options.base ?? 0), memory);
  } finally {
    queue.close();
    memory.close();
  }
}

const SEGMENTS: Segment[] = [
  { addr: 0x11_0000 as GuestAddr, len: 40 },
  { addr: 0x11_1000 as GuestAddr, len: 16, write: true },
  { addr: 0x11_2000 as GuestAddr, len: 4096, write: true },
];

Deno.test("needEvent() agrees with its definition on every distance, across 65535", () => {
  // The event is passed when it is one of old, old + 1, … now - 1.
  for (const old of [0, 1, 40_000, 65_533, 65_535]) {
    for (const step of [0, 1, 2, 5, 32_768, 65_535]) {
      const now = (old + step) & 0xffff;
      for (const ahead of [-2, -1, 0, 1, 2, 4, 5, 6]) {
        const event = (old + ahead) & 0xffff;
        const passed = ((event - old) & 0xffff) < step;
        assert.equal(needEvent(event, now, old), passed, `event ${event}, now ${now}, old ${old}`);
      }
    }
  }
});

for (const indirect of [false, true]) {
  Deno.test(`place() with indirect ${indirect} gives the device the segments in order`, () =>
    withQueue({ indirect }, (queue, device) => {
      const head = queue.place(SEGMENTS);
      queue.submit(head);
      device.serve();
      assert.deepEqual(device.chains, [SEGMENTS.map(({ addr, len, write }, i) => (
        { addr, len, flags: (write ? 2 : 0) | (i < 2 ? 1 : 0) }
      ))]);
      assert.equal(queue.freeDescriptors, indirect ? 15 : 13);
      assert.equal(queue.reap(), head);
      assert.equal(queue.usedLength, 3);
      queue.free(head);
      assert.equal(queue.freeDescriptors, 16);
    }));
}

Deno.test("reap() takes every element once, in order, across 65535", () =>
  withQueue({ base: 65_530 }, (queue, device) => {
    const heads = Array.from({ length: 4 }, () => queue.place(SEGMENTS));
    for (let round = 0; round < 5; round++) {
      for (const head of heads) queue.offer(head);
      queue.publish();
      assert.equal(device.serve(), 4);
      assert.deepEqual(heads.map(() => queue.reap()), heads);
      assert.equal(queue.reap(), -1);
    }
    assert.equal(queue.nextAvail, 14);
    assert.equal(queue.lastUsed, 14);
  }));

Deno.test("kick() with EVENT_IDX signals only when avail_event is passed, across 65535", () =>
  withQueue({ base: 65_534, eventIdx: true }, (queue, device) => {
    const head = queue.place(SEGMENTS);
    const step = () => {
      queue.offer(head);
      queue.publish();
      return queue.kick();
    };
    assert.equal(step(), true, "the device waits for the first entry");
    assert.equal(step(), false, "avail_event is behind");
    device.availEvent = 1;
    assert.equal(step(), false, "65536 is not yet 1");
    assert.equal(step(), true, "entry 1 is published");
    assert.equal(step(), false);
    assert.equal(queue.kicks, 2);
  }));

Deno.test("kick() without EVENT_IDX obeys VRING_USED_F_NO_NOTIFY", () =>
  withQueue({ eventIdx: false }, (queue, device) => {
    const head = queue.place(SEGMENTS);
    device.usedFlags = 1;
    queue.submit(head);
    assert.equal(queue.kicks, 0);
    assert.equal(queue.kick(true), true);
    device.usedFlags = 0;
    queue.submit(head);
    assert.equal(queue.kicks, 2);
  }));

Deno.test("waitUsed() times out, asks for a call at the right index, and wakes on the call eventfd", () =>
  withQueue({ base: 65_535 }, (queue, device) => {
    const head = queue.place(SEGMENTS);
    assert.equal(queue.waitUsed(5), false);
    queue.submit(head);
    device.serve();
    assert.equal(queue.waitUsed(0), true);
    queue.reap();
    assert.equal(queue.waitUsed(1), false);
    assert.equal(device.usedEvent, 0);
    signal(queue.state.callFd);
    assert.equal(queue.waitUsed(5), false, "a call without an element");
    assert.equal(queue.calls, 1);
  }));

Deno.test("run() returns -1 without an answer and keeps the chain", () =>
  withQueue({}, (queue) => {
    assert.equal(queue.run(SEGMENTS, 5), -1);
    assert.equal(queue.freeDescriptors, 15);
  }));

Deno.test("place() throws when descriptors run out, and takes none", () =>
  withQueue({ indirect: false }, (queue) => {
    for (let i = 0; i < 5; i++) queue.place(SEGMENTS);
    assert.throws(() => queue.place(SEGMENTS), RangeError);
    assert.equal(queue.freeDescriptors, 1);
  }));

Deno.test("snapshot() hands a queue over in the middle, past 65535", () =>
  withQueue({ base: 65_535 }, (queue, device, memory) => {
    const head = queue.place(SEGMENTS);
    queue.submit(head);
    device.serve();
    assert.equal(queue.reap(), head);
    const arena = { addr: memory.allocate(4096, 16), size: 4096 };
    const other = new Virtqueue(GuestMemory.attach(memory.share(), arena), queue.snapshot());
    assert.equal(other.nextAvail, 0);
    const second = other.place(SEGMENTS);
    other.submit(second);
    device.serve();
    assert.equal(other.reap(), second);
    assert.equal(device.chains.length, 2);
  }));

Deno.test("malformed: each entry places a chain and can be freed again", () =>
  withQueue({}, (queue, _, memory) => {
    const addr = memory.allocate(64);
    for (const [name, place] of Object.entries(malformed)) {
      queue.free(place(queue, addr, 56));
      assert.equal(queue.freeDescriptors, 16, name);
    }
  }));

Deno.test("GuestMemory: regions at chosen addresses do not reach into each other", () => {
  const memory = GuestMemory.create([
    { guestAddr: 0, size: 8192 },
    { guestAddr: 8192, size: 4096, mmapOffset: 4096, userAddr: 0x7000_0000 },
    { guestAddr: 2 ** 40, size: 4096 },
  ]);
  memory.bytes(8192 as GuestAddr, 4).set([1, 2, 3, 4]);
  assert.throws(() => memory.bytes(8190 as GuestAddr, 4), RangeError);
  assert.throws(() => memory.bytes(2 ** 40 + 4093 as GuestAddr, 4), RangeError);
  assert.equal(memory.userAddr(8200 as GuestAddr), 0x7000_0008);
  assert.equal(memory.allocate(4096, 4096, 2), 2 ** 40);
  assert.throws(() => memory.allocate(1, 1, 2), RangeError);
  // The bytes lie in the memfd where the back end will look for them.
  const bytes = new Uint8Array(8192);
  assert.equal(libc.read(memory.regions[1].fd, bytes, 8192), 8192);
  assert.deepEqual([...bytes.subarray(4096, 4100)], [1, 2, 3, 4]);
  memory.close();
});
