// A loop that meets a fault of our own: its requests are answered, its queues go on, and the other loops notice nothing.
import assert from "node:assert/strict";
import { createEventfd, signal } from "../../ffi/eventfd.ts";
import { libc } from "../../ffi/libc.ts";
import { type Bed, soon, startedBed, turn, until } from "../vq/bed.ts";
import { OP } from "../vq/echo_service.ts";

const FAULTS_MAX = 5;

const openDescriptors = () => [...Deno.readDirSync("/proc/self/fd")].length;
const restarts = (bed: Bed) => bed.logs.filter((line) => line.includes("met a fault of ringfsd's own")).length;

/** Waits until everything sent on the queue was answered, with a result or without. */
async function settled(bed: Bed, queue: number): Promise<number> {
  const traffic = bed.traffic[queue];
  const before = traffic.abandoned;
  traffic.mayBeAbandoned = true;
  await traffic.done();
  return traffic.abandoned - before;
}

Deno.test("a fault costs a loop the requests that it has in flight, wherever they are; its queues go on, others notice nothing", async () => {
  await using bed = await startedBed({ loops: 2, queues: 3, loopOf: (queue) => queue === 2 ? 1 : 0 });
  const fd = createEventfd();
  try {
    const [one, two, other] = bed.traffic;
    await one.roundTrip();
    const before = openDescriptors();
    for (
      const [op, from] of [[OP.THROW, one], [OP.THROW_LATER, one], [OP.THROW, two], [OP.THROW_LATER, two]] as const
    ) {
      const taken = bed.count("handled") + bed.count("handled", 1);
      // On the ring with nothing to end it; in the service's own hands; for when it is alone; and of the other loop.
      one.send(OP.READ_FD, fd);
      two.send(OP.READ_FD, fd);
      one.send(OP.WAIT);
      two.send(OP.ALONE);
      other.send(OP.WAIT);
      await until(() => bed.count("handled") + bed.count("handled", 1) === taken + 5, "all were taken");
      from.send(op);
      assert.equal(await settled(bed, 0) + await settled(bed, 1), 5);
      // The cancelled reads take nothing.
      signal(fd);
      one.send(OP.READ_FD, fd);
      two.send(OP.ECHO);
      assert.equal(await settled(bed, 0) + await settled(bed, 1), 0);
      other.send(OP.RING, 1);
      await other.done();
      assert.equal(other.abandoned, 0);
    }
    await until(() => restarts(bed) === 4, "it was said each time");
    assert.equal(bed.logs.filter((line) => /answered the 5 request.*asked to.*echo_service/s.test(line)).length, 4);
    await until(() => openDescriptors() <= before, "descriptors are given back");
    assert.deepEqual(bed.fatal, []);
  } finally {
    libc.close(fd);
  }
});

Deno.test("a fault while a queue is drained, while memory changes, or with many in flight: the control plane gets its answers", async () => {
  await using bed = await startedBed({ queues: 2, size: 256 });
  const fd = createEventfd();
  try {
    const [one, two] = bed.traffic;
    one.mayBeAbandoned = two.mayBeAbandoned = true;
    for (let i = 0; i < 60; i++) two.send(i % 2 ? OP.NOP : OP.WAIT, 0, i === 59);
    one.send(OP.READ_FD, fd);
    await until(() => bed.count("handled") === 61, "all were taken");
    // It waits for the read, which has no end.
    const stopped = bed.stopQueue(0);
    two.send(OP.THROW_LATER);
    const base = await stopped;
    assert.equal(base, 1);
    await one.done();
    await two.done();
    assert.ok(two.abandoned >= 31 && one.abandoned === 1, `${two.abandoned} and ${one.abandoned} were given up`);
    await bed.startQueue(0, base);
    one.send(OP.READ_FD, fd);
    two.send(OP.THROW_LATER);
    await soon(bed.control.setMemory(bed.memory.regions), "setMemory");
    await one.done();
    await two.done();
    one.mayBeAbandoned = two.mayBeAbandoned = false;
    await one.roundTrip();
    await two.roundTrip();
    await soon(bed.pool.ping(), "ping");
  } finally {
    libc.close(fd);
  }
});

Deno.test("faults again and again end the loop, which is said once; whoever asks it later is refused", async () => {
  await using bed = await startedBed();
  const [traffic] = bed.traffic;
  for (let i = 0; i < FAULTS_MAX; i++) {
    traffic.send(OP.THROW);
    assert.equal(await settled(bed, 0), 1);
  }
  await until(() => restarts(bed) === FAULTS_MAX, "it was said each time");
  traffic.send(OP.THROW);
  await until(() => bed.fatal.length > 0, "the fault was reported");
  await turn();
  await assert.rejects(bed.stopQueue(0), /loop 0 ended: .*asked to/s);
  await assert.rejects(soon(bed.control.reset(), "reset"), /loop 0 ended/);
  assert.equal(bed.fatal.length, 1);
});

Deno.test("a fault under a lock ends the loop at once: what the lock guards may be half changed, and nobody would let go of it", async () => {
  await using bed = await startedBed();
  bed.traffic[0].send(OP.THROW_LOCKED);
  await until(() => bed.fatal.length > 0, "the fault was reported");
  assert.equal(restarts(bed), 0);
});
