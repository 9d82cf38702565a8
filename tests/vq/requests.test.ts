// vq/requests.ts: slots, descriptor chains, and the copies and iovecs made of them.
import assert from "node:assert/strict";
import { cString, libc } from "../../ffi/libc.ts";
import type { GuestAddr, UserAddr } from "../../vq/device.ts";
import { GuestMemory, mapGuestMemory } from "../../vq/memory.ts";
import type { Queue } from "../../vq/queue.ts";
import * as R from "../../vq/requests.ts";

const NEXT = R.VRING_DESC_F_NEXT;
const WRITE = R.VRING_DESC_F_WRITE;
const INDIRECT = R.VRING_DESC_F_INDIRECT;

// Guest memory of three regions: the first two touch in the guest, the third is far away.
const START = 0x10_0000;
const REGION = 0x4_0000;
const BORDER = START + REGION;
const FAR = 2 ** 40;
const NOWHERE = 2 ** 46;
/** Where the tests' indirect tables lie. */
const TABLE = FAR;
const DATA = START;

const fd = libc.memfd_create(cString("guest"), 1);
libc.ftruncate(fd, BigInt(3 * REGION));
const window = mapGuestMemory([START, BORDER, FAR].map((guestAddr, i) => ({
  guestAddr: guestAddr as GuestAddr,
  userAddr: guestAddr as UserAddr,
  size: REGION,
  // Not in the guest's order: what touches there is apart here.
  mmapOffset: [2, 0, 1][i] * REGION,
  fd,
})));
const memory = new GuestMemory(window.layout);
const requests = new R.Requests();
const queue = {} as Queue;

/** [address, length, flags, next] */
type Descriptor = readonly [addr: number | bigint, len: number, flags: number, next?: number];

function words(table: readonly Descriptor[], size = table.length): Uint32Array<ArrayBuffer> {
  const desc = new Uint32Array(size * 4);
  table.forEach(([addr, len, flags, next = 0], i) => {
    const wide = BigInt(addr);
    desc.set([Number(wide & 0xffff_ffffn), Number(wide >> 32n), len, flags | (next << 16)], i * 4);
  });
  return desc;
}

/** Reads a direct chain that begins at descriptor 0. */
function direct(table: readonly Descriptor[], options: { size?: number; indirect?: boolean; head?: number } = {}) {
  const size = options.size ?? table.length;
  const slot = requests.take(queue, options.head ?? 0);
  const sound = requests.readChain(slot, memory, words(table, size), size, options.indirect ?? true);
  return { slot, sound };
}

/** Reads a chain in an indirect table. */
function indirect(table: readonly Descriptor[], bytes = table.length * 16, flags = INDIRECT) {
  memory.u32.set(words(table), memory.translate(TABLE, table.length * 16) / 4);
  return direct([[TABLE, bytes, flags]]);
}

const isSound = ({ slot, sound }: { slot: number; sound: boolean }) => {
  requests.release(slot);
  return sound;
};

/** What a chain became: readable and writable segments as [window offset, length]. */
function segments(slot: number) {
  const all = Array.from({ length: requests.readable[slot] + requests.writable[slot] }, (_, k) => {
    const at = slot * R.MAX_SEGMENTS + k;
    return [requests.segOffset[at], requests.segLen[at]];
  });
  return { readable: all.slice(0, requests.readable[slot]), writable: all.slice(requests.readable[slot]) };
}

const at = (addr: number) => memory.translate(addr, 1);

Deno.test("take() gives each slot once, release() gives it back", () => {
  const own = new R.Requests();
  const seen = new Set<number>();
  for (let i = 0; i < R.SLOTS; i++) seen.add(own.take(queue, i));
  assert.equal(seen.size, R.SLOTS);
  assert.equal(own.inFlight, R.SLOTS);
  own.release(17);
  assert.equal(own.queue[17], null);
  assert.equal(own.inFlight, R.SLOTS - 1);
  assert.equal(own.take(queue, 32767), 17);
  assert.equal(own.head[17], 32767);
  assert.equal(own.queue[17], queue);
});

Deno.test("readChain() reads direct chains from any head", () => {
  const { slot, sound } = direct([
    [DATA + 7, 0, 0],
    [DATA + 300, 4000, WRITE],
    [DATA, 40, NEXT, 3],
    [FAR + 5, 11, NEXT, 1],
  ], { head: 2 });
  assert.equal(sound, true);
  assert.deepEqual(segments(slot), {
    readable: [[at(DATA), 40], [at(FAR + 5), 11]],
    writable: [[at(DATA + 300), 4000]],
  });
  assert.deepEqual([requests.readableBytes[slot], requests.writableBytes[slot]], [51, 4000]);
  requests.release(slot);
});

Deno.test("readChain() reads indirect tables, at any address, and chains that end in one (VIRTIO 2.7.5.3.2)", () => {
  const whole = indirect([[DATA, 1, NEXT, 2], [DATA + 9, 3, WRITE], [DATA + 4, 2, NEXT, 1]]);
  assert.equal(whole.sound, true);
  assert.deepEqual(segments(whole.slot), {
    readable: [[at(DATA), 1], [at(DATA + 4), 2]],
    writable: [[at(DATA + 9), 3]],
  });
  requests.release(whole.slot);

  const odd = TABLE + 3;
  new Uint8Array(memory.buffer, at(odd), 16).set(new Uint8Array(words([[DATA, 5, WRITE]]).buffer));
  const mixed = direct([[DATA + 1, 6, NEXT, 1], [odd, 16, INDIRECT]]);
  assert.equal(mixed.sound, true);
  assert.deepEqual(segments(mixed.slot), { readable: [[at(DATA + 1), 6]], writable: [[at(DATA), 5]] });
  requests.release(mixed.slot);

  // The write flag of the descriptor that names the table is to be ignored.
  const flagged = indirect([[DATA, 5, 0]], 16, INDIRECT | WRITE);
  assert.equal(flagged.sound, true);
  assert.deepEqual([requests.readable[flagged.slot], requests.writable[flagged.slot]], [1, 0]);
  requests.release(flagged.slot);
});

Deno.test("readChain() ignores next where NEXT is not set", () => {
  assert.ok(isSound(direct([[DATA, 1, 0, 65535]])));
  assert.ok(isSound(indirect([[DATA, 1, WRITE, 65535]])));
});

Deno.test("readChain() splits a buffer that straddles regions", () => {
  const { slot, sound } = direct([[BORDER - 10, 30, NEXT, 1], [BORDER - 1, REGION + 1, WRITE]]);
  assert.equal(sound, true);
  assert.deepEqual(segments(slot), {
    readable: [[at(BORDER - 10), 10], [at(BORDER), 20]],
    writable: [[at(BORDER - 1), 1], [at(BORDER), REGION]],
  });
  assert.deepEqual([requests.readableBytes[slot], requests.writableBytes[slot]], [30, REGION + 1]);
  requests.release(slot);
});

Deno.test("readChain() refuses buffers that are not all in guest memory", () => {
  for (
    const [addr, len] of [
      [NOWHERE, 1],
      [START - 1, 2],
      [START - 1, REGION],
      [BORDER + REGION - 1, 2],
      [BORDER - 1, REGION + 2],
      [START, 0xffff_fff0],
      [FAR + REGION, 1],
      [2n ** 64n - 16n, 16],
      [2n ** 64n - 16n, 0xffff_ffff],
      [2n ** 63n, 4096],
      [2n ** 53n, 1],
      // Only the address's lower half would be in memory.
      [2n ** 48n + BigInt(START), 1],
    ] as const
  ) {
    assert.ok(!isSound(direct([[addr, len, 0]])), `readable ${addr}, ${len}`);
    assert.ok(!isSound(direct([[DATA, 1, NEXT, 1], [addr, len, WRITE]])), `writable ${addr}, ${len}`);
    assert.ok(!isSound(indirect([[addr, len, 0]])), `in a table: ${addr}, ${len}`);
    const bytes = Math.ceil(len / 16) * 16;
    assert.ok(!isSound(direct([[addr, bytes, INDIRECT]])), `a table: ${addr}, ${bytes}`);
  }
});

Deno.test("readChain() refuses a table that straddles regions, or is as long as no memory", () => {
  assert.ok(!isSound(direct([[BORDER - 16, 32, INDIRECT]])));
  assert.ok(!isSound(direct([[TABLE, 0xffff_fff0, INDIRECT]])));
});

Deno.test("readChain() refuses loops", () => {
  assert.ok(!isSound(direct([[DATA, 1, NEXT, 0]])));
  assert.ok(!isSound(direct([[DATA, 1, NEXT, 1], [DATA, 1, NEXT, 2], [DATA, 1, NEXT, 1]])));
  assert.ok(!isSound(direct([[DATA, 0, NEXT, 0]])), "of nothing");
  assert.ok(!isSound(direct([[DATA, 1, NEXT, 1], [DATA, 1, NEXT, 0]], { size: 32768 })));
  assert.ok(!isSound(indirect([[DATA, 1, NEXT, 0]])));
  assert.ok(!isSound(indirect([[DATA, 1, NEXT, 1], [DATA, 0, NEXT, 0]])));
});

Deno.test("readChain() refuses an index beyond the table", () => {
  assert.ok(!isSound(direct([[DATA, 1, NEXT, 2], [DATA, 1, 0]])));
  assert.ok(!isSound(direct([[DATA, 1, NEXT, 65535]])));
  assert.ok(!isSound(indirect([[DATA, 1, NEXT, 2], [DATA, 1, 0]])));
  assert.ok(!isSound(indirect([[DATA, 1, NEXT, 65535], [DATA, 1, 0]])));
});

/** One readable segment after the other, `count` in all. */
const chainOf = (count: number, flags = 0) =>
  Array.from({ length: count }, (_, i): Descriptor => [DATA + i, 1, flags | (i + 1 < count ? NEXT : 0), i + 1]);

Deno.test("readChain() takes MAX_SEGMENTS segments and no more", () => {
  assert.ok(isSound(direct(chainOf(R.MAX_SEGMENTS))));
  assert.ok(!isSound(direct(chainOf(R.MAX_SEGMENTS + 1))));
  assert.ok(isSound(indirect(chainOf(R.MAX_SEGMENTS, WRITE))));
  assert.ok(!isSound(indirect(chainOf(R.MAX_SEGMENTS + 1))));
  // Direct ones, then a table, count together; and a straddling buffer is two.
  memory.u32.set(words(chainOf(R.MAX_SEGMENTS - 1)), at(TABLE) / 4);
  const table = (bytes: number): Descriptor => [TABLE, bytes, INDIRECT];
  const bytes = (R.MAX_SEGMENTS - 1) * 16;
  assert.ok(isSound(direct([[DATA, 1, NEXT, 1], table(bytes)])));
  assert.ok(!isSound(direct([[DATA, 1, NEXT, 1], [DATA, 1, NEXT, 2], table(bytes)])));
  assert.ok(!isSound(direct([[BORDER - 1, 2, NEXT, 1], table(bytes)])));
});

Deno.test("readChain() does not write beside its slot", () => {
  const first = requests.take(queue, 0);
  const second = requests.take(queue, 0);
  const marks = [requests.segOffset, requests.segLen].map((list) => {
    for (const slot of [first, second]) list.fill(77, slot * R.MAX_SEGMENTS, (slot + 1) * R.MAX_SEGMENTS);
    return list;
  });
  const between = requests.take(queue, 0);
  assert.ok(!requests.readChain(between, memory, words(chainOf(2000)), 2000, false));
  for (const list of marks) {
    for (const slot of [first, second]) {
      assert.ok(list.subarray(slot * R.MAX_SEGMENTS, (slot + 1) * R.MAX_SEGMENTS).every((value) => value === 77));
    }
  }
  for (const slot of [between, second, first]) requests.release(slot);
});

Deno.test("readChain() refuses a readable segment behind a writable one (VIRTIO 2.7.4.2)", () => {
  assert.ok(!isSound(direct([[DATA, 1, WRITE | NEXT, 1], [DATA, 1, 0]])));
  assert.ok(!isSound(direct([[DATA, 0, WRITE | NEXT, 1], [DATA, 1, 0]])), "empty ones count");
  assert.ok(!isSound(indirect([[DATA, 1, NEXT, 1], [DATA, 1, WRITE | NEXT, 2], [DATA, 1, 0]])));
  memory.u32.set(words([[DATA, 1, 0]]), at(TABLE) / 4);
  assert.ok(!isSound(direct([[DATA, 1, WRITE | NEXT, 1], [TABLE, 16, INDIRECT]])));
});

Deno.test("readChain() refuses indirect tables that VIRTIO 2.7.5.3 forbids", () => {
  const one: Descriptor[] = [[DATA, 1, 0], [DATA, 1, 0]];
  assert.ok(isSound(indirect(one, 16)));
  for (const bytes of [0, 1, 15, 17, 31]) assert.ok(!isSound(indirect(one, bytes)), `${bytes} bytes`);
  assert.ok(!isSound(indirect([[TABLE, 16, INDIRECT]])), "nested");
  assert.ok(!isSound(indirect([[DATA, 1, NEXT, 1], [TABLE, 16, INDIRECT]])), "nested at the end");
  assert.ok(!isSound(indirect([[DATA, 1, INDIRECT | NEXT | WRITE, 1], [DATA, 1, WRITE]])));
  memory.u32.set(words(one), at(TABLE) / 4);
  assert.ok(!isSound(direct([[TABLE, 16, INDIRECT | NEXT, 1], [DATA, 1, 0]])), "INDIRECT with NEXT");
  assert.ok(!isSound(direct([[TABLE, 16, INDIRECT]], { indirect: false })), "not offered");
});

Deno.test("readChain() starts afresh after a chain that it refused", () => {
  const slot = requests.take(queue, 0);
  assert.ok(!requests.readChain(slot, memory, words([[DATA, 9, NEXT, 1], [DATA, 9, WRITE | NEXT, 0]]), 2, true));
  assert.ok(requests.readChain(slot, memory, words([[DATA, 5, NEXT, 1], [DATA + 8, 6, 0]]), 2, true));
  assert.deepEqual(segments(slot), { readable: [[at(DATA), 5], [at(DATA + 8), 6]], writable: [] });
  assert.deepEqual([requests.readableBytes[slot], requests.writableBytes[slot]], [11, 0]);
  requests.release(slot);
});

/** Small numbers that are the same at each run (xorshift32). */
function random(seed: number): (below: number) => number {
  return (below) => {
    seed ^= seed << 13;
    seed ^= seed >>> 17;
    seed ^= seed << 5;
    return (seed >>> 0) % below;
  };
}

/** A chain of segments of these lengths at these addresses, all readable or all writable, and their bytes in order. */
function chainAt(parts: readonly (readonly [addr: number, len: number])[], write: boolean) {
  const flags = write ? WRITE : 0;
  const { slot, sound } = direct(
    parts.map(([addr, len], i) => [addr, len, flags | (i + 1 < parts.length ? NEXT : 0), i + 1]),
  );
  assert.equal(sound, true);
  const places = parts.flatMap(([addr, len]) => Array.from({ length: len }, (_, i) => memory.translate(addr + i, 1)));
  return { slot, places };
}

/** Fills all of guest memory that tests copy from and to. */
function fill(seed: number): void {
  const next = random(seed);
  for (const start of [at(START), at(BORDER - 1) - 4095, at(BORDER), at(FAR)]) {
    for (let i = 0; i < 4096; i++) memory.u8[start + i] = next(256);
  }
}

/** Segments that do not overlap, some of them empty, some at the border of two regions. */
function randomParts(next: (below: number) => number): [number, number][] {
  const parts: [number, number][] = [];
  let cursor = START + next(8);
  if (next(4) === 0) cursor = BORDER - 1 - next(200);
  for (let i = 1 + next(8); i > 0; i--) {
    const len = [0, 1, 3, 4, 8, 24, 40, 56, 65, 256, 300][next(11)] + next(4) * next(2);
    parts.push([cursor, len]);
    cursor += len + next(3) * next(4);
  }
  return parts;
}

Deno.test("copyIn() gathers bytes at every small alignment and split", () => {
  fill(1);
  for (let a = 0; a < 5; a++) {
    for (let n = 0; n < 12; n++) {
      for (let b = 0; b < 5; b++) {
        const { slot, places } = chainAt([[START + a, n], [FAR + b, 70]], false);
        for (const bytes of [0, 1, n, n + 1, n + 4, n + 70, n + 100]) {
          requests.in.fill(0xee, 0, 256);
          const want = Math.min(bytes, n + 70);
          assert.equal(requests.copyIn(slot, memory, bytes), want);
          const model = places.slice(0, want).map((place) => memory.u8[place]);
          assert.deepEqual([...requests.in.subarray(0, want)], model, `${a} ${n} ${b} ${bytes}`);
          assert.ok(requests.in.subarray(want, 256).every((byte) => byte === 0xee), "nothing behind");
        }
        requests.release(slot);
      }
    }
  }
});

Deno.test("copyIn() gathers what a plain model gathers, for random segments", () => {
  const next = random(2);
  fill(3);
  for (let round = 0; round < 2000; round++) {
    const parts = randomParts(next);
    const { slot, places } = chainAt(parts, false);
    const bytes = next(places.length + 20);
    const want = Math.min(bytes, places.length);
    requests.in.fill(0xee, 0, want + 8);
    assert.equal(requests.copyIn(slot, memory, bytes), want);
    const model = places.slice(0, want).map((place) => memory.u8[place]);
    assert.deepEqual([...requests.in.subarray(0, want)], model, JSON.stringify(parts));
    assert.equal(requests.in[want], 0xee);
    requests.release(slot);
  }
});

Deno.test("copyIn() of what is behind bytes that were copied before leaves those alone, wherever they end", () => {
  const next = random(6);
  fill(7);
  for (let round = 0; round < 2000; round++) {
    const { slot, places } = chainAt(randomParts(next), false);
    const had = next(places.length + 1);
    const bytes = had + next(places.length + 20 - had);
    const want = Math.min(bytes, places.length);
    requests.in.fill(0xee, 0, want + 8);
    assert.equal(requests.copyIn(slot, memory, bytes, had), want);
    const model = places.slice(0, want).map((place, i) => i < had ? 0xee : memory.u8[place]);
    assert.deepEqual([...requests.in.subarray(0, want)], model, `${had} of ${want}`);
    assert.equal(requests.in[want], 0xee);
    requests.release(slot);
  }
});

Deno.test("copyOut() scatters what a plain model scatters, and touches nothing else", () => {
  const next = random(4);
  for (let i = 0; i < 4096; i++) requests.out[i] = next(256);
  const ranges = [at(START), at(BORDER), at(BORDER - 1) - 4095, at(FAR)];
  for (let round = 0; round < 1000; round++) {
    const parts = randomParts(next);
    const { slot, places } = chainAt(parts, true);
    const bytes = next(places.length + 1);
    for (const start of ranges) memory.u8.fill(0xee, start, start + 4096);
    requests.copyOut(slot, memory, bytes);
    for (let i = 0; i < bytes; i++) assert.equal(memory.u8[places[i]], requests.out[i], JSON.stringify(parts));
    const untouched = places.slice(bytes);
    assert.ok(untouched.every((place) => memory.u8[place] === 0xee));
    const before = memory.translate(parts[0][0] - 1, 1);
    if (before >= 0) assert.equal(memory.u8[before], 0xee);
    const touched = ranges.reduce(
      (sum, start) => sum + memory.u8.subarray(start, start + 4096).reduce((n, byte) => n + (byte === 0xee ? 0 : 1), 0),
      0,
    );
    const written = [...requests.out.subarray(0, bytes)].filter((byte) => byte !== 0xee).length;
    assert.equal(touched, written);
    requests.release(slot);
  }
});

/** The bytes that a slot's iovecs name, as offsets in the window. */
function iovecPlaces(slot: number, count: number): number[] {
  const places: number[] = [];
  for (let i = 0; i < count; i++) {
    const word = (slot * R.MAX_SEGMENTS + i) * 4;
    const [lo, hi, len, zero] = requests.iov32.subarray(word, word + 4);
    assert.equal(zero, 0);
    const offset = hi * 2 ** 32 + lo - memory.addr;
    for (let k = 0; k < len; k++) places.push(offset + k);
  }
  return places;
}

Deno.test("iovecs() names the bytes behind `skip`, at most `bytes` of them, for random segments", () => {
  const next = random(5);
  for (let round = 0; round < 2000; round++) {
    const write = next(2) === 1;
    const { slot, places } = chainAt(randomParts(next), write);
    const skip = next(places.length + 1);
    const bytes = next(places.length - skip + 1);
    const count = requests.iovecs(slot, memory, write, skip, bytes);
    assert.ok(count <= R.MAX_SEGMENTS);
    assert.deepEqual(iovecPlaces(slot, count), places.slice(skip, skip + bytes));
    requests.release(slot);
  }
});

Deno.test("iovecs() takes the readable or the writable part of a chain, and lies where iovAddr says", () => {
  const { slot, sound } = direct([[DATA, 40, NEXT, 1], [DATA + 64, 100, NEXT, 2], [FAR, 16, WRITE | NEXT, 3], [
    FAR + 32,
    4096,
    WRITE,
  ]]);
  assert.equal(sound, true);
  assert.equal(requests.iovecs(slot, memory, false, 40, 100), 1);
  assert.deepEqual(iovecPlaces(slot, 1), Array.from({ length: 100 }, (_, i) => at(DATA + 64 + i)));
  assert.equal(requests.iovecs(slot, memory, true, 16, 4096), 1);
  assert.deepEqual(iovecPlaces(slot, 1), Array.from({ length: 4096 }, (_, i) => at(FAR + 32 + i)));
  assert.equal(requests.iovecs(slot, memory, true, 0, 20), 2);
  assert.deepEqual(iovecPlaces(slot, 2).length, 20);
  assert.equal(requests.iovecs(slot, memory, true, 0, 0), 0);
  const address = BigInt(requests.iovAddrHi(slot)) << 32n | BigInt(requests.iovAddrLo(slot));
  assert.equal(address, requests.iovAddr[slot]);
  requests.release(slot);
});

Deno.test("iovecs() are what preadv(2) fills, across a border of regions", () => {
  const file = libc.memfd_create(cString("data"), 1);
  const data = new Uint8Array(300).map((_, i) => i);
  assert.equal(libc.write(file, data, data.length), data.length);
  const { slot, places } = chainAt([[START + 3, 16], [BORDER - 100, 200], [FAR + 1, 100]], true);
  const count = requests.iovecs(slot, memory, true, 16, 300);
  assert.equal(libc.preadv(file, requests.iovAddr[slot], count, 0n), 300);
  assert.deepEqual(places.slice(16).map((place) => memory.u8[place]), [...data]);
  libc.close(file);
  requests.release(slot);
});
