// What is counted of queues, kinds and loops, by itself and on real loops.
import assert from "node:assert/strict";
import { malformed } from "../../bench/malformed.ts";
import { EIO, ENOENT, EPERM } from "../../ffi/errno.ts";
import type { GuestAddr } from "../../vq/device.ts";
import { Flight, ownerOf } from "../../vq/flight.ts";
import {
  allocateLoopMeter,
  allocateQueueMeters,
  ASLEEP,
  bucketOf,
  BUCKETS,
  bucketUs,
  ERRORS,
  KINDS,
  loopMeter,
  POLLED_MS,
  QueueMeter,
  readLoopMeter,
  readQueueMeters,
  SLEEPS,
  SLEPT_MS,
  STARTED_MS,
} from "../../vq/meter.ts";
import { type Bed, startedBed, until } from "./bed.ts";
import { OP } from "./echo_service.ts";

const sum = (values: readonly number[]) => values.reduce((all, one) => all + one, 0);

Deno.test("bucketOf() is the bucket whose bounds a time is within, of all times", () => {
  for (let us = 0.01; us < 2 ** 27; us *= 1.003) {
    const bucket = bucketOf(us / 1000);
    assert.ok(us <= bucketUs(bucket + 1) * (1 + 1e-12), `${us} µs in bucket ${bucket}`);
    if (bucket > 0) assert.ok(us > bucketUs(bucket) * (1 - 1e-12), `${us} µs in bucket ${bucket}`);
  }
  // What is shown at a bound ("le") is within it.
  for (let bucket = 1; bucket < BUCKETS; bucket++) assert.equal(bucketOf(bucketUs(bucket) / 1000), bucket - 1);
});

Deno.test("bucketOf() takes any time: none, a negative one of two clocks, and an endless one", () => {
  assert.equal(bucketOf(0), 0);
  assert.equal(bucketOf(-1), 0);
  assert.equal(bucketOf(1e300), BUCKETS - 1);
  assert.equal(bucketOf(Infinity), BUCKETS - 1);
});

Deno.test("bucketUs() are a quarter of an octave at most apart", () => {
  for (let bucket = 4; bucket < BUCKETS; bucket++) {
    const ratio = bucketUs(bucket + 1) / bucketUs(bucket);
    assert.ok(ratio > 1 && ratio <= 1.25, `bucket ${bucket}: ${ratio}`);
  }
});

Deno.test("QueueMeter counts each kind, error and batch apart, and queues do not touch each other", () => {
  const { addr } = allocateQueueMeters(3);
  const [first, , last] = [0, 1, 2].map((queue) => new QueueMeter(addr, queue));
  first.served(7);
  for (const chains of [1, 2, 3, 4, 5, 8, 9, 16]) first.batch(chains);
  first.moved(1, 10, 20, 0);
  first.moved(1, 10, 16, ENOENT);
  first.moved(KINDS - 1, 5, 16, EPERM);
  first.moved(KINDS - 1, 5, 16, EIO);
  first.moved(KINDS - 1, 5, 16, 255);
  first.took(1, 0.5, bucketOf(0.5));
  first.took(1, 1.5, bucketOf(1.5));
  for (let i = 0; i < 3; i++) first.took(KINDS - 1, 0.001, bucketOf(0.001));
  last.served(1);
  last.served(-1);
  last.malformed();
  last.broke();
  last.kicked();
  last.called();
  const [a, b, c] = readQueueMeters(addr, 3);
  assert.deepEqual([a.loop, a.chains, a.batches], [7, 48, [1, 1, 2, 2, 2]]);
  assert.deepEqual(
    a.kinds.map(({ kind, count, seconds, bytesIn, bytesOut }) => [kind, count, seconds, bytesIn, bytesOut]),
    [
      [1, 2, 0.002, 20, 36],
      [KINDS - 1, 3, 0.003 / 1000, 15, 48],
    ],
  );
  const errors = (index: number) => ERRORS.filter((_, i) => a.kinds[index].errors[i] === 1);
  assert.deepEqual([errors(0), errors(1)], [["not_found"], ["denied", "io", "other"]]);
  for (const { count, buckets } of a.kinds) assert.equal(sum(buckets), count);
  assert.deepEqual([b.loop, b.chains, b.kinds], [-1, 0, []]);
  assert.deepEqual([c.loop, c.kicks, c.calls, c.malformed, c.broken], [-1, 1, 1, 1, 1]);
});

Deno.test("counts pass 2^32 without a wrap", () => {
  const { addr } = allocateQueueMeters(1);
  const meter = new QueueMeter(addr, 0);
  meter.served(0);
  meter.took(1, 1, 0);
  for (const bytes of [2 ** 31, 2 ** 31, 2 ** 40, 1]) meter.moved(1, bytes, 0, 0);
  assert.equal(readQueueMeters(addr, 1)[0].kinds[0].bytesIn, 2 ** 40 + 2 ** 32 + 1);
});

Deno.test("readLoopMeter() counts a sleep that goes on", () => {
  const words = loopMeter(allocateLoopMeter());
  words[STARTED_MS] = 1000;
  words[SLEPT_MS] = 100;
  words[POLLED_MS] = 50;
  words[SLEEPS] = 3;
  words[ASLEEP] = 1900;
  const { upMs, sleptMs, polledMs, sleeps } = readLoopMeter(words, 2000);
  assert.deepEqual([upMs, sleptMs, polledMs, sleeps], [1000, 200, 50, 3]);
  words[ASLEEP] = 0;
  assert.equal(readLoopMeter(words, 2000).sleptMs, 100);
});

Deno.test("Flight.read() has what is in flight, the oldest first, through another view of the memory", () => {
  const flight = new Flight();
  flight.since.set([5, 0, 3, 4]);
  flight.owner.set([ownerOf(1023, 65), 0, ownerOf(0, 0), ownerOf(2, 1)]);
  flight.kind.set([9, 9, 15, 63]);
  flight.waits.set([1, 1, 0, 10]);
  flight.notes.set([1, 2, 3, 4, 9, 9, 9, 9, 5, 6, 7, 8]);
  assert.deepEqual(new Flight(flight.addr).read(10), [
    { device: 0, queue: 0, kind: 15, waits: 0, notes: [5, 6, 7, 8], ageMs: 7 },
    { device: 2, queue: 1, kind: 63, waits: 10, notes: [0, 0, 0, 0], ageMs: 6 },
    { device: 1023, queue: 65, kind: 9, waits: 1, notes: [1, 2, 3, 4], ageMs: 5 },
  ]);
});

/** Requests of all kinds that a queue's counts have. */
const counted = (bed: Bed, queue: number) => sum(bed.control.counts[queue].kinds.map(({ count }) => count));

Deno.test("a loop counts every request once, done at once or later, with its bytes, before its driver sees it", async () => {
  await using bed = await startedBed({ loops: 1, queues: 2, size: 64 });
  const [a, b] = bed.traffic;
  for (let i = 0; i < 50; i++) a.send(OP.ECHO, 0, false);
  a.queue.kick();
  await a.done();
  assert.equal(counted(bed, 0), 50);
  for (let i = 0; i < 10; i++) b.send(OP.NOP);
  await b.done();
  await b.roundTrip(OP.ALONE);
  const [first, second] = bed.control.counts;
  assert.equal(counted(bed, 1), 11);
  // A request and its answer are four words.
  assert.deepEqual(first.kinds.map(({ kind, bytesIn, bytesOut }) => [kind, bytesIn, bytesOut]), [[
    0,
    50 * 16,
    50 * 16,
  ]]);
  assert.deepEqual([first.chains, second.chains], [50, 11]);
  assert.ok(sum(first.batches) >= Math.ceil(50 / 16) && sum(first.batches) <= 50);
  assert.ok(first.kicks >= 1);
  assert.deepEqual([first.loop, second.loop], [0, 0]);
});

Deno.test("what waits is in flight until it is done, and its time is counted", async () => {
  await using bed = await startedBed({ loops: 2, queues: 2 });
  const { traffic, pool, control } = bed;
  traffic[1].send(OP.WAIT);
  await until(() => pool.views[1]?.inFlight.length === 1, "the request in flight");
  const [one] = pool.views[1]!.inFlight;
  assert.deepEqual([one.device, one.queue], [0, 1]);
  await new Promise((resolve) => setTimeout(resolve, 30));
  await traffic[0].roundTrip(OP.RING, 1);
  await traffic[1].done();
  assert.deepEqual(pool.views[1]!.inFlight, []);
  const [kind] = control.counts[1].kinds;
  assert.equal(kind.count, 1);
  assert.ok(kind.seconds >= 0.03, `${kind.seconds} s`);
  assert.equal(kind.buckets.findIndex((n) => n > 0), bucketOf(kind.seconds * 1000));
});

Deno.test("malformed chains are counted, each as a request of kind 0", async () => {
  await using bed = await startedBed();
  const { queue } = bed.traffic[0];
  for (let i = 0; i < 5; i++) assert.equal(queue.runHead(malformed["loop on itself"](queue, 0 as GuestAddr, 1)), 0);
  const [counts] = bed.control.counts;
  assert.deepEqual([counts.malformed, counts.kinds.map(({ kind, count }) => [kind, count])], [5, [[0, 5]]]);
});

Deno.test("counts go on when a queue stops and starts, on another loop too, and are each device's own", async () => {
  await using bed = await startedBed({ loops: 2, queues: 1 });
  const other = bed.device(1);
  await bed.traffic[0].roundTrip();
  const base = await bed.stopQueue(0);
  assert.equal(bed.control.counts[0].loop, -1);
  assert.equal(counted(bed, 0), 1);
  await bed.startQueue(0, base);
  await bed.traffic[0].roundTrip();
  assert.equal(counted(bed, 0), 2);
  assert.equal(sum(other.counts.map(({ chains }) => chains)), 0);
  await other.close();
  assert.deepEqual(other.counts, [], "a closed device has no counts to look at");
});

Deno.test("a loop's time is what it sleeps, polls and works, and helpers' calls are counted", async () => {
  await using bed = await startedBed({ pollMaxUs: 2000 });
  for (let i = 0; i < 200; i++) await bed.traffic[0].roundTrip();
  await bed.traffic[0].roundTrip(OP.WORK, 20_000);
  const { upMs, sleptMs, polledMs, sleeps, thread } = bed.pool.views[0]!.counts;
  assert.ok(sleeps > 0 && sleptMs > 0, `${sleeps} sleeps, ${sleptMs} ms`);
  assert.ok(polledMs >= 0 && sleptMs + polledMs + 20 <= upMs, `${sleptMs} + ${polledMs} + 20 of ${upMs} ms`);
  assert.equal(Deno.statSync(`/proc/self/task/${thread}`).isDirectory, true);
});
