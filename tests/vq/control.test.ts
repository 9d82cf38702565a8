// Several devices on the same loops.
import assert from "node:assert/strict";
import { allowedCpus } from "../../ffi/affinity.ts";
import { Bed, soon, startedBed } from "./bed.ts";

/** Gives another device of a bed the bed's memory and starts queues of it. */
async function startOther(bed: Bed, id: number, queues: readonly number[], base = 0) {
  const device = bed.device(id);
  await soon(device.setMemory(bed.memory.regions), "setMemory");
  for (const index of queues) await soon(device.startQueue(index, bed.setup(index, base)), "startQueue");
  return device;
}

const requestsOn = (bed: Bed, loops: number) => Array.from({ length: loops }, (_, i) => bed.count("handled", i));

Deno.test("startQueue() a device's queues go to loops one after the other, from the one with the fewest", async () => {
  await using bed = new Bed({ loops: 3, queues: 3 });
  const one = await startOther(bed, 1, [0, 1]);
  const other = await startOther(bed, 2, [2]);
  for (const traffic of bed.traffic) await soon(traffic.roundTrip(), "roundTrip");
  // Loop 2 was the only one without a queue; queue 2 of a device is two loops further.
  assert.deepEqual(requestsOn(bed, 3), [1, 2, 0]);
  assert.equal(bed.pool.lightest, 2);
  await soon(one.reset(), "reset");
  assert.equal(bed.pool.lightest, 0);
  await soon(other.reset(), "reset");
  await soon(one.close(), "close");
  await soon(other.close(), "close");
});

Deno.test("startQueue() that fails leaves no queue behind in what is counted", async () => {
  await using bed = new Bed({ loops: 2 });
  const refused = bed.device(1, { refuse: "no such share" });
  await soon(refused.setMemory(bed.memory.regions), "setMemory");
  for (let i = 0; i < 2; i++) {
    await assert.rejects(soon(refused.startQueue(0, bed.setup(0)), "startQueue"), /no such share/);
    assert.equal(bed.pool.lightest, 0);
  }
  // It was never on the loop, so there is nothing to be undone there.
  await soon(refused.close(), "close");
  await bed.start();
  await soon(bed.traffic[0].roundTrip(), "roundTrip");
});

Deno.test("close() takes a device off its loops while others are served; its number can be used again", async () => {
  await using bed = await startedBed({ loops: 2, queues: 3, loopOf: (queue) => queue });
  await bed.stopQueue(2);
  for (let round = 0; round < 3; round++) {
    const device = await startOther(bed, 1, [2], round);
    await soon(bed.traffic[2].roundTrip(), "roundTrip");
    await soon(device.close(), "close");
    await assert.rejects(
      soon(bed.pool.loop(0).ask({ op: "reset", device: 1 }), "ask"),
      /loop 0 does not serve device 1/,
    );
    await soon(bed.traffic[0].roundTrip(), "roundTrip");
    await soon(bed.traffic[1].roundTrip(), "roundTrip");
  }
  await soon(bed.control.close(), "close");
  await soon(bed.control.close(), "close");
});

Deno.test("LoopPool pins each loop where it is told to", async () => {
  const cpu = allowedCpus().at(-1)!;
  await using bed = new Bed({ loops: 2, queues: 2, placements: [{ loop: [cpu], workers: [cpu] }] });
  await bed.start();
  const [first, second] = [0, 1].map((loop) => bed.count("tid", loop));
  assert.deepEqual(allowedCpus(first), [cpu]);
  assert.deepEqual(allowedCpus(second), allowedCpus());
});
