// vq/inflight.ts: a queue whose process is killed between any two stores, and taken over by another, on rings in plain memory.
import assert from "node:assert/strict";
import { allocate, type Mapping, unmap } from "../../ffi/memory.ts";
import { libc } from "../../ffi/libc.ts";
import { createSealedMemfd } from "../../ffi/memfd.ts";
import type { InflightArea } from "../../vq/device.ts";
import * as I from "../../vq/inflight.ts";
import { TrackedQueue } from "../../vq/inflight.ts";
import type { Log } from "../../vq/log.ts";
import type { GuestMemory } from "../../vq/memory.ts";
import * as S from "../../vq/split.ts";
import { random } from "../fs/random.ts";
import { Bed, startedBed, until } from "./bed.ts";
import { OP } from "./echo_service.ts";

const SIZE = 8;
const RINGS_BYTES = 1024;
const at = { desc: 0, avail: S.descTableBytes(SIZE), used: S.descTableBytes(SIZE) + 32 };

/** Rings and region: what outlives a process. */
class Remains {
  readonly rings = new ArrayBuffer(RINGS_BYTES);
  readonly mapping: Mapping = allocate(4096);
  readonly avail = new Uint16Array(this.rings, at.avail, 3 + SIZE);
  readonly used16 = new Uint16Array(this.rings, at.used, 3 + 4 * SIZE);
  readonly used32 = new Uint32Array(this.rings, at.used + 4, 2 * SIZE);
  readonly region = new Uint8Array(this.mapping.buffer, 0, I.regionBytes(SIZE));
  readonly logs: string[] = [];

  constructor(base = 0) {
    this.avail[1] = this.used16[1] = base;
  }

  /** A process begins, believing that the next available index is `base`. */
  open(base = 0, size = SIZE): TrackedQueue {
    const say = (line: string) => void this.logs.push(line);
    const log: Log = { error: say, warn: say, info: say, debug: say };
    const layout = { ...at, size, base, eventIdx: false } as S.SplitLayout;
    // Each has views of its own, as it lets go of them.
    const region = { addr: this.mapping.addr, size: this.region.length };
    return new TrackedQueue({ buffer: this.rings } as GuestMemory, layout, region, log);
  }

  offer(...heads: number[]): void {
    for (const head of heads) {
      this.avail[2 + (this.avail[1] & (SIZE - 1))] = head;
      this.avail[1]++;
    }
  }

  copyFrom(rings: Uint8Array, region: Uint8Array): void {
    new Uint8Array(this.rings).set(rings);
    this.region.set(region);
  }

  [Symbol.dispose](): void {
    unmap(this.mapping);
  }
}

/** All that a queue will take, in order: what is left over, then what is new. */
function takes(queue: TrackedQueue): { again: number[]; fresh: number[] } {
  const [again, fresh]: number[][] = [[], []];
  for (let waiting = queue.available(); waiting > 0; waiting = queue.available()) {
    while (waiting-- > 0) {
      const head = queue.pop();
      (queue.again ? again : fresh).push(head);
    }
  }
  assert.equal(queue.broken, false);
  return { again, fresh };
}

Deno.test("queue_region and desc_state are the specification's, each queue in cache lines of its own", () => {
  const { features, version, desc_num, last_batch_head, used_idx, desc } = I.queue_region;
  assert.deepEqual([features, version, desc_num, last_batch_head, used_idx, desc], [0, 8, 10, 12, 14, 16]);
  assert.deepEqual(I.desc_state, { inflight: 0, next: 6, counter: 8, sizeof: 16 });
  assert.deepEqual([1, 3, 4, 128, 32768].map(I.regionBytes), [64, 64, 128, 2112, 524352]);
});

Deno.test("TrackedQueue serves as any queue does, and begins a region that nobody has used", () => {
  using remains = new Remains(65533);
  // Whatever was there.
  remains.region.fill(0xff, 16);
  const queue = remains.open(65533);
  assert.deepEqual([queue.leftovers, queue.lastAvail, queue.again], [0, 65533, false]);
  remains.offer(3, 1);
  assert.deepEqual(takes(queue), { again: [], fresh: [3, 1] });
  assert.deepEqual([remains.region[16 + 16 * 3], remains.region[16 + 16], remains.region[16]], [1, 1, 0]);
  queue.push(1, 10);
  assert.equal(queue.publish(), true);
  assert.deepEqual([remains.region[16 + 16 * 3], remains.region[16 + 16]], [1, 0]);
  assert.equal(remains.used16[1], 65534);
});

Deno.test("TrackedQueue takes up what was in flight in its order, before anything new, wherever the front end believes to be", () => {
  using remains = new Remains();
  const before = remains.open();
  remains.offer(5, 2, 7, 0);
  takes(before);
  before.push(2, 0);
  before.publish();
  remains.offer(2, 6);
  for (const base of [0, 1, 6, 40000]) {
    const after = remains.open(base);
    assert.equal(after.leftovers, 3);
    assert.ok(after.waiting);
    assert.ok(after.enableKicks(), "there is something to take before it sleeps");
    assert.equal(after.available(), 3);
    assert.deepEqual([5, 7].map(() => after.pop()), [5, 7]);
    // The process ends again: nothing was given back.
  }
  const last = remains.open();
  assert.deepEqual(takes(last), { again: [5, 7, 0], fresh: [2, 6] });
  for (const head of [6, 0, 2, 7, 5]) last.push(head, 0);
  last.publish();
  assert.deepEqual(takes(remains.open()), { again: [], fresh: [] });
  assert.match(remains.logs[0], /3 request\(s\) that were in flight/);
});

Deno.test("TrackedQueue leaves alone what is not of its rings", () => {
  using remains = new Remains();
  const before = remains.open();
  remains.offer(5, 2, 7);
  takes(before);
  const region = remains.region.slice();
  const check = (what: string, base: number, fresh: number[]) => {
    assert.deepEqual(takes(remains.open(base)), { again: [], fresh }, what);
    assert.match(remains.logs.pop()!, /3 request\(s\) in flight are not of these rings/, what);
    remains.region.set(region);
  };
  remains.avail[1] = 2;
  check("fewer offered than marked", 0, [5, 2]);
  remains.avail[1] = 3;
  remains.used16[1] = 0xffff;
  check("a used index that no batch leads to", 1, [2, 7]);
  remains.used16[1] = 0;
  assert.equal(remains.open(0, 4).leftovers, 0, "a queue of another size");
});

Deno.test("TrackedQueue takes any junk in a region for what it could be, and never reaches beyond it", () => {
  using remains = new Remains();
  const next = random(5);
  for (let i = 0; i < 2000; i++) {
    for (let k = 0; k < remains.region.length; k++) remains.region[k] = next(4) === 0 ? next(256) : next(3);
    remains.region.set([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, SIZE, 0]);
    remains.used16[1] = next(20);
    remains.avail[1] = remains.used16[1] + next(SIZE + 1);
    const queue = remains.open(remains.used16[1]);
    const { again } = takes(queue);
    assert.equal(new Set(again).size, again.length);
    assert.ok(again.every((head) => head < SIZE));
    for (const head of again) queue.push(head, 0);
    queue.publish();
  }
  for (const [where, value] of [[8, 2], [9, 1], [0, 1], [7, 1]]) {
    remains.region.fill(0);
    remains.region[8] = 1;
    remains.region[where] = value;
    assert.throws(() => remains.open(), /version \d+, and only version 1/);
  }
});

Deno.test("TrackedQueue counts what is taken beyond 2^32", () => {
  using remains = new Remains();
  const before = remains.open();
  remains.offer(5);
  takes(before);
  // The counter of head 5.
  new Uint32Array(remains.region.buffer)[(16 + 16 * 5 + 8) / 4] = 0xffff_fffe;
  const after = remains.open();
  remains.offer(2, 1);
  assert.deepEqual(takes(after), { again: [5], fresh: [2, 1] });
  assert.deepEqual(takes(remains.open()), { again: [5, 2, 1], fresh: [] });
});

/** What is to be seen at a moment at which the process is killed. */
interface Moment {
  rings: Uint8Array;
  region: Uint8Array;
}

/** Runs `body`, then hands over what memory held before and behind each `Atomics.store` in it. */
function watchingStores(remains: Remains, seen: (moment: Moment) => void, body: () => void): void {
  const { store } = Atomics;
  const moments: Moment[] = [];
  const look = () => void moments.push(momentOf(remains));
  // deno-lint-ignore no-explicit-any
  (Atomics as any).store = (array: any, index: number, value: any) => {
    look();
    const result = store(array, index, value);
    look();
    return result;
  };
  try {
    body();
  } finally {
    Atomics.store = store;
  }
  moments.forEach(seen);
}

const momentOf = ({ rings, region }: Remains): Moment => ({
  rings: new Uint8Array(rings.slice(0)),
  region: region.slice(),
});

Deno.test("TrackedQueue killed between any two stores, in any order of the plain ones: none is lost, none is taken twice", () => {
  const STEPS = 4000;
  const next = random(1);
  using remains = new Remains(65300);
  using other = new Remains();
  let queue = remains.open(65300);
  /** The driver's side: heads that are offered and not seen in the used ring, in the order of offering. */
  let outstanding: number[] = [];
  let seenIdx = 65300;
  let moments = 0, mixed = 0, withLeftovers = 0, inBatch = 0, inTakeOver = 0;

  const reap = (used16: Uint16Array, used32: Uint32Array): number[] => {
    const heads: number[] = [];
    for (let idx = seenIdx; idx !== used16[1]; idx = (idx + 1) & 0xffff) heads.push(used32[(idx & (SIZE - 1)) * 2]);
    return heads;
  };

  /** Kills here: what the driver waits for must be what the next process takes, each once. */
  const check = ({ rings, region }: Moment, inOrder: boolean, deeper: boolean) => {
    other.copyFrom(rings, region);
    const done = new Set(reap(other.used16, other.used32));
    const waited = outstanding.filter((head) => !done.has(head));
    let after: TrackedQueue | undefined;
    if (deeper) {
      // And the next process is killed while it takes over.
      watchingStores(other, (moment) => {
        using third = new Remains();
        third.copyFrom(moment.rings, moment.region);
        const { again, fresh } = takes(third.open(12345));
        assert.deepEqual([...again, ...fresh].sort(), [...waited].sort());
        inTakeOver++;
      }, () => after = other.open(12345));
    }
    other.copyFrom(rings, region);
    const { again, fresh } = takes(other.open(12345));
    assert.deepEqual([...again, ...fresh].sort(), [...waited].sort());
    if (inOrder) assert.deepEqual([...again, ...fresh], waited, "the order of taking is the order of offering");
    if (again.length > 0) withLeftovers++;
    if (done.size > 1) inBatch++;
    assert.ok(after === undefined || after.leftovers === again.length);
  };

  let last: Moment = momentOf(remains);
  const seen = (moment: Moment) => {
    moments++;
    check(moment, true, moments % 16 === 0);
    // Of the plain stores since the last atomic one, any may be done and any not: words of two bytes.
    const words = [];
    for (let i = 0; i < moment.region.length; i += 2) {
      if (moment.region[i] !== last.region[i] || moment.region[i + 1] !== last.region[i + 1]) words.push(i);
    }
    for (let i = 0; i < 3 && words.length > 1; i++) {
      const region = last.region.slice();
      for (const word of words) if (next(2)) region.set(moment.region.subarray(word, word + 2), word);
      mixed++;
      check({ rings: moment.rings, region }, false, false);
    }
    last = moment;
  };

  const taken: number[] = [];
  const steps: (() => void)[] = [
    () => {
      const free = Array.from({ length: SIZE }, (_, head) => head).filter((head) => !outstanding.includes(head));
      if (free.length === 0) return;
      const head = free[next(free.length)];
      outstanding.push(head);
      remains.offer(head);
    },
    () => {
      if (queue.available() > 0) taken.push(queue.pop());
    },
    () => {
      if (taken.length > 0) queue.push(taken.splice(next(taken.length), 1)[0], 0);
    },
    () => {
      if (next(2)) queue.show();
      else queue.publish();
    },
    () => {
      const heads = reap(remains.used16, remains.used32);
      outstanding = outstanding.filter((head) => !heads.includes(head));
      seenIdx = remains.used16[1];
    },
  ];
  const weights = [0, 0, 0, 1, 1, 1, 2, 2, 3, 4];
  for (let i = 0; i < STEPS; i++) {
    watchingStores(remains, seen, steps[weights[next(weights.length)]]);
    if (next(100) === 0) {
      // This one is killed as well, and the next goes on with what it finds.
      queue = remains.open(next(65536));
      taken.length = 0;
      last = momentOf(remains);
    }
  }
  assert.ok(seenIdx < 65300, "the indices came round");
  for (const count of [moments, mixed, withLeftovers, inBatch, inTakeOver]) assert.ok(count > 200, `${count} moments`);
  console.log(JSON.stringify({ moments, mixed, withLeftovers, inBatch, inTakeOver }));
});

/** An area for a bed's queues; the caller closes its descriptor. */
function areaFor(queues: number, queueSize: number): InflightArea {
  return { fd: createSealedMemfd("test", queues * I.regionBytes(queueSize)), offset: 0, queues, queueSize };
}

/** The region of queue 0. */
function regionOf({ fd, queueSize }: InflightArea): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(I.regionBytes(queueSize));
  assert.equal(libc.pread(fd, bytes, bytes.length, 0n), bytes.length);
  return bytes;
}

function markedIn(area: InflightArea): number {
  return regionOf(area).filter((byte, at) => at >= 16 && at % 16 === 0 && byte === 1).length;
}

Deno.test("setInflight() has a running queue keep its requests, and null has it keep none", async () => {
  await using bed = await startedBed({ size: 16 });
  const [traffic] = bed.traffic;
  const area = areaFor(1, 16);
  await traffic.roundTrip();
  await bed.control.setInflight(area);
  libc.close(area.fd);
  await traffic.roundTrip();
  const other = areaFor(1, 16);
  await bed.control.setInflight(other);
  for (let i = 0; i < 3; i++) traffic.send(OP.WAIT);
  await until(() => markedIn(other) === 3, "three are marked");
  traffic.send(OP.RING);
  await traffic.done();
  await until(() => markedIn(other) === 0, "none is");
  await bed.control.setInflight(null);
  const region = regionOf(other);
  await traffic.roundTrip();
  assert.deepEqual(regionOf(other), region);
  libc.close(other.fd);
});

/** A bed with memory and an area in which another process left requests; `left` are their heads. Nothing runs. */
async function bedWithLeftovers(size: number, count: number) {
  const base = 65500;
  const bed = new Bed({ size, base });
  const [traffic] = bed.traffic;
  for (let i = 0; i < count; i++) traffic.send(OP.ECHO);
  const left = [...traffic.sent.keys()];
  const area = areaFor(1, size);
  const region = new DataView(new ArrayBuffer(I.regionBytes(size)));
  region.setUint16(I.queue_region.version, 1, true);
  region.setUint16(I.queue_region.desc_num, size, true);
  region.setUint16(I.queue_region.used_idx, base, true);
  left.forEach((head, order) => {
    region.setUint8(16 + head * 16, 1);
    region.setUint32(16 + head * 16 + 8, count - order, true);
  });
  const file = Deno.openSync(`/proc/self/fd/${area.fd}`, { write: true });
  file.writeSync(new Uint8Array(region.buffer));
  file.close();
  await bed.control.setMemory(bed.memory.regions);
  await bed.control.setInflight(area);
  return { bed, traffic, left, area, base };
}

Deno.test("startQueue() takes up what another process left, and stopQueue() at once behind it waits for all of that", async () => {
  const LEFT = 40;
  const { bed, traffic, left, area, base } = await bedWithLeftovers(64, LEFT);
  await using _ = bed;
  // These nobody has taken.
  for (let i = 0; i < 10; i++) traffic.send(OP.ECHO);
  await bed.startQueue(0, 0);
  const next = await bed.stopQueue(0);
  const answered = traffic.collect();
  assert.ok(answered >= LEFT, `${answered} of ${LEFT}`);
  assert.ok(left.every((head) => !traffic.sent.has(head)));
  assert.equal(next, (base + answered) & 0xffff);
  assert.equal(markedIn(area), 0);
  await bed.startQueue(0, next);
  await traffic.done();
  libc.close(area.fd);
});

Deno.test("reset() leaves in the area what was not taken up, for whoever brings it again", async () => {
  const LEFT = 60;
  const { bed, traffic, area } = await bedWithLeftovers(64, LEFT);
  await using _ = bed;
  await bed.startQueue(0, 0);
  await bed.control.reset();
  traffic.collect();
  assert.equal(markedIn(area), traffic.sent.size);
  await bed.control.setMemory(bed.memory.regions);
  await bed.control.setInflight(area);
  await bed.startQueue(0, 0);
  await traffic.done();
  assert.equal(markedIn(area), 0);
  libc.close(area.fd);
});

Deno.test("startQueue() serves a queue for which the area has no room, and says that its requests are not kept", async () => {
  for (const [queues, queueSize] of [[1, 8], [0, 16]]) {
    await using bed = new Bed({ size: 16 });
    const area = areaFor(1, 16);
    await bed.control.setMemory(bed.memory.regions);
    await bed.control.setInflight({ ...area, queues: Math.max(1, queues), queueSize });
    if (queues === 0) bed.addQueue({ size: 16 });
    const index = queues === 0 ? 1 : 0;
    await bed.startQueue(index, 0);
    await bed.traffic[index].roundTrip();
    assert.match(bed.logs.join(), /the in-flight area has room for 1 queues of \d+; its requests are not kept/);
    assert.equal(markedIn(area), 0);
    libc.close(area.fd);
  }
});

Deno.test("setInflight() that cannot be mapped leaves no area, and startQueue() refuses one of an unknown version", async () => {
  await using bed = await startedBed({ size: 16 });
  const area = areaFor(1, 16);
  await assert.rejects(bed.control.setInflight({ ...area, fd: bed.errFd }), /mmap/);
  await bed.startQueue(0, 0);
  await bed.traffic[0].roundTrip();
  const file = Deno.openSync(`/proc/self/fd/${area.fd}`, { write: true });
  file.writeSync(new Uint8Array([0, 0, 0, 0, 0, 0, 0, 0, 2]));
  file.close();
  await assert.rejects(bed.control.setInflight(area), /in-flight region is of version 2/);
  libc.close(area.fd);
});
