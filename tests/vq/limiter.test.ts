// vq/limiter.ts: what a device may do in a second, on one loop and on several.
import assert from "node:assert/strict";
import { type Limit, Limiter, LIMITER_BYTES } from "../../vq/limiter.ts";
import type { Queue } from "../../vq/queue.ts";
import type { Requests } from "../../vq/requests.ts";
import { type Bed, cpuNs, soon, startedBed, type Traffic, turn, until } from "./bed.ts";
import { OP } from "./echo_service.ts";

const MIB = 1 << 20;

/** What the first moment gives: a tenth of a second's worth, and a turn of each queue. */
const burst = (rate: number, queues = 1) => rate / 10 + queues * (rate / 200 + 16);

/** Keeps queues full for a time. Returns how many requests of each were answered, and the seconds that it took. */
async function drive(queues: readonly Traffic[], timeMs: number): Promise<{ answered: number[]; seconds: number }> {
  const before = queues.map((one) => one.answered);
  const start = performance.now();
  while (performance.now() - start < timeMs) {
    for (const one of queues) {
      one.collect();
      // As many as fit well: this thread may not come round often.
      while (one.sent.size < one.queue.state.size / 4) one.send(OP.ECHO);
    }
    await turn();
  }
  return { answered: queues.map((one, i) => one.answered - before[i]), seconds: (performance.now() - start) / 1000 };
}

/** Has all that waits answered, without a limit. */
async function settle(bed: Bed): Promise<void> {
  await soon(bed.control.setLimit({ iops: 0, mbps: 0 }), "setLimit");
  for (const one of bed.traffic) await one.done();
}

const limited = (bed: Bed, limit: Partial<Limit>) =>
  soon(bed.control.setLimit({ iops: 0, mbps: 0, ...limit }), "setLimit");

Deno.test("Limiter: no more requests than the limit and its burst, and not many fewer", async () => {
  await using bed = await startedBed({ size: 256 });
  for (const iops of [200, 2000]) {
    await limited(bed, { iops });
    const { answered: [count], seconds } = await drive(bed.traffic, 1000);
    assert.ok(count <= iops * seconds + burst(iops), `${count} at ${iops} in ${seconds} s`);
    assert.ok(count > iops * seconds / 2, `${count} at ${iops} in ${seconds} s`);
  }
  await settle(bed);
});

/** A limit with a queue of its own, and chains that allow an answer of `room` bytes and move `moved`. */
function alone(limit: Partial<Limit>) {
  const limiter = new Limiter(new SharedArrayBuffer(LIMITER_BYTES), { iops: 0, mbps: 0, ...limit });
  const queue = { paidAt: 0, turnMs: 0, urgent: false } as Queue;
  const requests = { readableBytes: [0, 0], writableBytes: [0, 0], writable: [1, 1] } as unknown as Requests;
  const take = (room: number, moved: number | null) => {
    limiter.begin(1);
    requests.writableBytes[1] = room;
    limiter.take(queue, 1, requests);
    if (moved !== null) limiter.finish(queue, 1, moved);
    limiter.end(queue);
    return limiter.holds(queue);
  };
  return { limiter, queue, take };
}

Deno.test("Limiter: bytes are those that were moved, not the room that there was, in the batch or later", () => {
  const { limiter, queue, take } = alone({ mbps: 1 });
  for (let i = 0; i < 500; i++) assert.equal(take(MIB, 100), false, `after ${i}`);
  assert.equal(take(MIB, null), true);
  limiter.finish(queue, 1, 100);
  assert.equal(limiter.holds(queue), false);
  assert.equal(take(MIB, MIB), true);
  assert.ok(limiter.waitUs(queue) < 1.1e6);
});

Deno.test("Limiter: a chain that claims to be huge is counted once, and what was taken before the limit not at all", () => {
  const { limiter, queue, take } = alone({ mbps: 1000 });
  limiter.finish(queue, 0, 2 ** 30);
  assert.equal(take(2 ** 52, null), true);
  limiter.finish(queue, 1, 0);
  assert.equal(limiter.holds(queue), false);
});

Deno.test("Limiter: a chain larger than the burst is taken, and paid for", () => {
  const { limiter, queue, take } = alone({ mbps: 1 });
  assert.equal(take(10 * MIB, 10 * MIB), true);
  assert.ok(limiter.waitUs(queue) > 9e6);
});

Deno.test("Limiter: two queues on two loops share a limit evenly, and one alone has all of it", async () => {
  await using bed = await startedBed({ loops: 2, queues: 2, size: 256 });
  const iops = 2000;
  await limited(bed, { iops });
  const { answered: [first, second], seconds } = await drive(bed.traffic, 1500);
  const sum = first + second;
  assert.ok(sum <= iops * seconds + burst(iops, 2), `${sum} in ${seconds} s`);
  assert.ok(sum > iops * seconds / 2, `${sum} in ${seconds} s`);
  assert.ok(Math.min(first, second) > sum / 4, `${first} and ${second}`);
  const alone = await drive([bed.traffic[0]], 1000);
  assert.ok(alone.answered[0] > iops * alone.seconds / 2, `${alone.answered[0]} in ${alone.seconds} s`);
  await settle(bed);
});

Deno.test("Limiter: another device of the loop goes on while one waits", async () => {
  await using bed = await startedBed({ queues: 2 });
  // The second queue is that of another device.
  await bed.stopQueue(1);
  const other = bed.device(1, { loopOf: () => 0 });
  await other.setMemory(bed.memory.regions);
  await other.startQueue(1, bed.setup(1));
  await limited(bed, { iops: 1 });
  for (let i = 0; i < 8; i++) bed.traffic[0].send(OP.ECHO);
  for (let i = 0; i < 2000; i++) await bed.traffic[1].roundTrip();
  bed.traffic[0].collect();
  assert.ok(bed.traffic[0].sent.size > 0, "the first device waits");
  await settle(bed);
  await soon(other.close(), "close");
});

Deno.test("Limiter: who waits costs no CPU, and is answered when the limit is raised or goes", async () => {
  await using bed = await startedBed();
  const [traffic] = bed.traffic;
  await limited(bed, { iops: 1 });
  for (let i = 0; i < 8; i++) traffic.send(OP.ECHO);
  await until(() => (traffic.collect(), traffic.answered >= 1), "the first was answered");
  const tid = bed.count("tid");
  const before = cpuNs(tid);
  const start = performance.now();
  while (performance.now() - start < 500) await turn();
  const share = (cpuNs(tid) - before) / 1e6 / (performance.now() - start);
  // A loop that asked again and again would have a tenth at least, however loaded the machine is.
  assert.ok(share < 0.05, `the loop used ${share} of a CPU`);
  assert.ok((traffic.collect(), traffic.sent.size) > 0, "it waits");
  await limited(bed, { iops: 1000 });
  await traffic.done();
  await limited(bed, { iops: 1 });
  for (let i = 0; i < 8; i++) traffic.send(OP.ECHO);
  await settle(bed);
});

Deno.test("Limiter: a request that comes while the queue waits is answered, kick or none", async () => {
  await using bed = await startedBed();
  const [traffic] = bed.traffic;
  await limited(bed, { iops: 20 });
  for (let i = 0; i < 3; i++) traffic.send(OP.ECHO);
  await turn();
  traffic.send(OP.ECHO);
  await turn();
  traffic.send(OP.ECHO);
  await traffic.done();
  await settle(bed);
});

Deno.test("Limiter: a queue that waits stops at once, and goes on from there", async () => {
  await using bed = await startedBed();
  const [traffic] = bed.traffic;
  await limited(bed, { iops: 1 });
  for (let i = 0; i < 8; i++) traffic.send(OP.ECHO);
  await until(() => (traffic.collect(), traffic.answered >= 1), "the first was answered");
  const base = await bed.stopQueue(0);
  traffic.collect();
  const left = traffic.sent.size;
  assert.equal(base, 8 - left);
  assert.ok(left > 0);
  await bed.startQueue(0, base);
  await turn();
  traffic.collect();
  // A queue that is new has no more than the old one had.
  assert.ok(traffic.sent.size >= left - 1);
  await settle(bed);
});

Deno.test("Limiter: a device goes away while its requests wait, and memory moves under them", async () => {
  await using bed = await startedBed({ queues: 2, loops: 2 });
  await limited(bed, { iops: 1 });
  for (const traffic of bed.traffic) for (let i = 0; i < 8; i++) traffic.send(OP.ECHO);
  await turn();
  await soon(bed.control.setMemory(bed.memory.regions), "setMemory");
  await soon(bed.control.drain(), "drain");
  await soon(bed.control.close(), "close");
});

Deno.test("Limiter: an urgent queue does not wait behind the others", async () => {
  await using bed = await startedBed({ queues: 2, urgent: (queue) => queue === 0 });
  const [urgent, other] = bed.traffic;
  await limited(bed, { iops: 1 });
  for (let i = 0; i < 8; i++) other.send(OP.ECHO);
  await turn();
  for (let i = 0; i < 50; i++) await urgent.roundTrip();
  other.collect();
  assert.ok(other.sent.size > 0, "the other queue waits");
  // But it is no way round the limit: what wants an answer is counted, and kept when it is too much.
  const { answered: [count], seconds } = await drive([urgent], 500);
  assert.ok(count + 50 <= 128 + 16 + seconds + 8, `${count} more`);
  await settle(bed);
});
