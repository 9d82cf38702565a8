// vq/loop.ts, loop_worker.ts, pool.ts and control.ts end to end: real loops, driven through guest memory.
import assert from "node:assert/strict";
import { malformed } from "../../bench/malformed.ts";
import { createEventfd, signal } from "../../ffi/eventfd.ts";
import { libc } from "../../ffi/libc.ts";
import { Ring } from "../../ffi/uring.ts";
import { IORING_FEAT_NO_IOWAIT } from "../../ffi/uring_layout.ts";
import type { GuestAddr } from "../../vq/device.ts";
import { SLOTS } from "../../vq/requests.ts";
import { type Bed, cpuNs, DEADLINE_MS, soon, startedBed, Traffic, turn, until } from "./bed.ts";
import { OP } from "./echo_service.ts";

/** An eventfd for OP.READ_FD: a read of it waits. */
async function withGate(body: (gate: number) => Promise<void>): Promise<void> {
  const gate = createEventfd(false);
  try {
    await body(gate);
  } finally {
    libc.close(gate);
  }
}

/** Whether a promise is settled after everything else had its turn. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  promise.then(() => settled = true, () => settled = true);
  for (let i = 0; i < 5; i++) await turn();
  return settled;
}

/** Sends one request at a time, blocking this isolate, as a guest's processor would. */
function roundTrips(traffic: Traffic, count: number, op: number = OP.ECHO): void {
  for (let i = 0; i < count; i++) {
    traffic.send(op);
    assert.ok(traffic.queue.waitUsed(DEADLINE_MS), `request ${i} of ${count} was not answered`);
    assert.equal(traffic.collect(), 1);
  }
}

Deno.test("loop answers requests, direct and indirect, with and without EVENT_IDX", async () => {
  for (const [eventIdx, indirect] of [[false, false], [false, true], [true, false], [true, true]]) {
    await using bed = await startedBed({ eventIdx, indirect });
    const [traffic] = bed.traffic;
    for (const op of [OP.ECHO, OP.NOP]) roundTrips(traffic, 100, op);
    for (let round = 0; round < 10; round++) {
      for (let i = 0; i < 7; i++) traffic.send(i % 2 === 0 ? OP.ECHO : OP.NOP);
      await traffic.done();
    }
    assert.equal(bed.count("handled"), 270);
    assert.equal(bed.count("begins"), bed.count("ends"));
    assert.deepEqual(bed.logs, []);
  }
});

Deno.test("loop loses no wake-up, asleep or polling", async () => {
  for (const pollMaxUs of [0, 20, 2000]) {
    for (const eventIdx of [false, true]) {
      await using bed = await startedBed({ pollMaxUs, eventIdx });
      roundTrips(bed.traffic[0], 1500);
    }
  }
});

/** Whether the kernel lets a wait on a ring be none for I/O. */
function knowsNoIowait(): boolean {
  try {
    const ring = Ring.queue_init(8);
    ring.queue_exit();
    return (ring.features & IORING_FEAT_NO_IOWAIT) !== 0;
  } catch {
    return false;
  }
}

Deno.test({
  name: "loop that waits for guests does not wait for I/O, as the kernel counts it",
  ignore: !knowsNoIowait(),
  fn: async () => {
    await using bed = await startedBed({ loops: 2, queues: 2, loopOf: (queue) => queue });
    for (const traffic of bed.traffic) roundTrips(traffic, 10);
    // Others may wait for a disk now and then, but not all the time (proc(5), /proc/stat).
    let least = Infinity;
    for (const end = performance.now() + DEADLINE_MS; least > 0 && performance.now() < end;) {
      least = Math.min(least, Number(/^procs_blocked (\d+)$/m.exec(Deno.readTextFileSync("/proc/stat"))![1]));
      await turn();
    }
    assert.equal(least, 0, `${least} threads wait for I/O at any time`);
  },
});

Deno.test("loop calls once for several large requests while more wait, and at the last at the latest", async () => {
  const LARGE = 64 * 1024;
  const WORK_US = 30;
  const ROUNDS = 40;
  const DEPTH = 8;
  await using bed = await startedBed({ memory: 8 << 20, eventIdx: true });
  const { queue } = bed.traffic[0];
  const place = () => {
    const request = bed.memory.allocate(8);
    bed.memory.words32(request, 2).set([OP.WORK, WORK_US]);
    const data = bed.memory.allocate(LARGE);
    return queue.place([{ addr: request, len: 8 }, { addr: data, len: LARGE }, {
      addr: bed.memory.allocate(8),
      len: 8,
      write: true,
    }]);
  };
  const heads = Array.from({ length: DEPTH }, place);
  for (let round = 0; round < ROUNDS; round++) {
    heads.forEach((head) => queue.offer(head));
    queue.publish();
    queue.kick();
    for (let answered = 0; answered < DEPTH;) {
      assert.ok(queue.waitUsed(DEADLINE_MS), `round ${round}: no call, and ${answered} of ${DEPTH} answered`);
      while (queue.reap() >= 0) answered++;
    }
  }
  assert.ok(
    queue.calls >= 1 && queue.calls < ROUNDS * DEPTH * 0.75,
    `${queue.calls} calls for ${ROUNDS * DEPTH} requests`,
  );
});

Deno.test("loop serves rings whose indices run over 65535 -> 0", async () => {
  for (const size of [2, 4]) {
    for (const eventIdx of [false, true]) {
      await using bed = await startedBed({ size, eventIdx, base: 65480 });
      const [traffic] = bed.traffic;
      for (let i = 0; i < 60; i++) {
        for (let k = 0; k < size; k++) traffic.send(i % 2 === 0 ? OP.ECHO : OP.NOP);
        await traffic.done();
      }
      assert.equal(traffic.queue.lastUsed, (65480 + 60 * size) & 0xffff);
      assert.equal(await bed.stopQueue(0), traffic.queue.nextAvail);
    }
  }
});

Deno.test("loop takes a whole ring of 32768 at once", async () => {
  await using bed = await startedBed({ size: 32768, memory: 32 << 20, base: 50_000, indirect: true });
  const [traffic] = bed.traffic;
  for (let i = 0; i < 32768; i++) traffic.send(i % 16 === 0 ? OP.NOP : OP.ECHO, 0, i === 32767);
  await traffic.done();
  assert.equal(traffic.answered, 32768);
});

Deno.test("startQueue() does not lose a kick that came before it, nor chains that were never kicked", async () => {
  await using bed = await startedBed({ queues: 0 });
  for (const kick of [true, false]) {
    const traffic = bed.addQueue({ size: 16 });
    for (let i = 0; i < 5; i++) traffic.send(OP.ECHO, 0, kick);
    await bed.startQueue(traffic.queue.index, 0);
    await traffic.done();
  }
});

Deno.test("stopQueue() waits for requests in flight, takes no more, and says where to go on", async () => {
  await withGate(async (gate) => {
    await using bed = await startedBed({ base: 65534 });
    const [traffic] = bed.traffic;
    for (let i = 0; i < 3; i++) traffic.send(OP.READ_FD, gate);
    await until(() => bed.count("handled") === 3, "three requests taken");
    const stopped = bed.stopQueue(0);
    assert.equal(await isSettled(stopped), false);
    for (let i = 0; i < 4; i++) traffic.send(OP.ECHO);
    for (let i = 0; i < 3; i++) {
      assert.equal(await isSettled(stopped), false);
      signal(gate);
      await until(() => traffic.answered + traffic.collect() > i && traffic.answered === i + 1, "one was answered");
    }
    assert.equal(await stopped, 1);
    for (let i = 0; i < 5; i++) await turn();
    assert.equal(traffic.collect(), 0);
    assert.equal(bed.count("handled"), 3);
    await bed.startQueue(0, 1);
    await traffic.done();
    assert.equal(bed.count("handled"), 7);
  });
});

Deno.test("stopQueue() does not wait for ever: what has not ended after a time is cancelled", async () => {
  await withGate(async (gate) => {
    // On two loops: neither may wait for the other.
    await using bed = await startedBed({ loops: 2, queues: 2 });
    for (const traffic of bed.traffic) for (let i = 0; i < 3; i++) traffic.send(OP.READ_FD, gate);
    await until(() => bed.count("handled", 0) === 3 && bed.count("handled", 1) === 3, "all taken");
    await soon(bed.control.setMemory(bed.memory.regions), "the end of all requests");
    for (const traffic of bed.traffic) await traffic.done();
    const said = bed.logs.filter((line) => line.includes("3 request(s) do not end and are cancelled"));
    assert.equal(said.length, 2, bed.logs.join("\n"));
    for (const traffic of bed.traffic) await traffic.roundTrip();
  });
});

Deno.test("reset() that is to finish requests does not wait for those of each queue of a loop anew", async () => {
  await withGate(async (gate) => {
    await using bed = await startedBed({ queues: 4, loopOf: () => 0 });
    for (const traffic of bed.traffic) traffic.send(OP.READ_FD, gate);
    await until(() => bed.count("handled") === 4, "all taken");
    const begun = performance.now();
    await soon(bed.control.reset(true), "the end of all requests");
    for (const traffic of bed.traffic) await traffic.done();
    assert.equal(
      bed.logs.filter((line) => line.includes("do not end and are cancelled")).length,
      4,
      bed.logs.join("\n"),
    );
    // One queue is waited for two seconds, the end of the process for four.
    const tookMs = performance.now() - begun;
    assert.ok(tookMs >= 2000 && tookMs < 4000, `${tookMs} ms`);
  });
});

Deno.test("stopQueue() lets other queues of the loop go on while it waits", async () => {
  await withGate(async (gate) => {
    await using bed = await startedBed({ queues: 3, loopOf: () => 0 });
    const [slow, quick, other] = bed.traffic;
    slow.send(OP.READ_FD, gate);
    await until(() => bed.count("handled") === 1, "the request was taken");
    const stopped = bed.stopQueue(0);
    assert.equal(await isSettled(stopped), false);
    for (const op of [OP.ECHO, OP.NOP]) {
      roundTrips(quick, 50, op);
      roundTrips(other, 50, op);
    }
    assert.equal(await isSettled(stopped), false);
    signal(gate);
    assert.equal(await stopped, 1);
    await slow.done();
  });
});

Deno.test("stopQueue() does not swallow the wake-up for a message of another device", async () => {
  for (let round = 0; round < 5; round++) {
    await withGate(async (gate) => {
      await using bed = await startedBed();
      const [traffic] = bed.traffic;
      traffic.send(OP.READ_FD, gate);
      await until(() => bed.count("handled") === 1, "the request was taken");
      const stopped = bed.stopQueue(0);
      assert.equal(await isSettled(stopped), false);
      // The loop learns of this while it waits for the queue.
      const prepared = bed.device(1).prepare();
      traffic.queue.kick(true);
      signal(gate);
      assert.equal(await stopped, 1);
      await soon(prepared, "prepare");
      await traffic.done();
    });
  }
});

Deno.test("stopQueue() is heard while a queue never runs dry", async () => {
  await using bed = await startedBed({ size: 4096 });
  const [traffic] = bed.traffic;
  for (let i = 0; i < 2000; i++) traffic.send(OP.WORK, 200, i === 1999);
  const base = await bed.stopQueue(0);
  assert.ok(base < 1500, `${base} requests were served first`);
  await bed.startQueue(0, base);
  await traffic.done();
});

Deno.test("requests on the ring are answered while a queue never runs dry", async () => {
  await using bed = await startedBed({ queues: 2, size: 4096, loopOf: () => 0 });
  const [busy, other] = bed.traffic;
  await withGate(async (gate) => {
    other.send(OP.READ_FD, gate);
    await until(() => bed.count("handled") === 1, "the request was taken");
    for (let i = 0; i < 2000; i++) busy.send(OP.WORK, 200, i === 1999);
    signal(gate);
    await other.done();
    busy.collect();
    assert.ok(busy.answered < 1500, `${busy.answered} requests were served first`);
    await busy.done();
  });
});

/** Polls that wait in the process's rings, two a loop for its own eventfds; -1 where the kernel does not say. */
function polls(): number {
  let found = -1;
  for (const { name } of Deno.readDirSync("/proc/self/fdinfo")) {
    try {
      if (!Deno.readLinkSync(`/proc/self/fd/${name}`).includes("io_uring")) continue;
      const text = Deno.readTextFileSync(`/proc/self/fdinfo/${name}`);
      if (text.includes("PollList:")) found = Math.max(found, 0) + text.split("PollList:")[1].split("op=6,").length - 1;
    } catch (error) {
      // Descriptors come and go.
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  return found;
}

Deno.test("startQueue() and stopQueue() leave no watch behind, kicked at any moment", async () => {
  await using bed = await startedBed({ queues: 2, loopOf: () => 0 });
  const [traffic, steady] = bed.traffic;
  for (let i = 0; i < 150; i++) {
    traffic.send(i % 2 === 0 ? OP.ECHO : OP.NOP);
    const stopped = bed.stopQueue(0);
    for (let k = 0; k < 3; k++) {
      traffic.queue.kick(true);
      await turn();
    }
    const base = await stopped;
    traffic.queue.kick(true);
    await bed.startQueue(0, base);
    await traffic.done();
  }
  roundTrips(steady, 10);
  assert.deepEqual(bed.logs, []);
  const own = 2;
  if (polls() >= 0) await until(() => polls() === own + 2, "a poll for each queue, and the loop's own");
  await bed.stopQueue(0);
  await bed.stopQueue(1);
  if (polls() >= 0) await until(() => polls() === own, "the loop's own polls only");
});

Deno.test("many queues on one loop are all served, stopped and started again", async () => {
  const queues = 150;
  await using bed = await startedBed({ queues, size: 4, loopOf: () => 0 });
  for (const order of [(i: number) => i, (i: number) => queues - 1 - i]) {
    for (const traffic of bed.traffic) {
      for (let i = 0; i < 3; i++) traffic.send(i === 1 ? OP.NOP : OP.ECHO);
    }
    for (const traffic of bed.traffic) await traffic.done();
    for (let i = 0; i < queues; i++) assert.equal(await bed.stopQueue(order(i)), bed.traffic[order(i)].queue.nextAvail);
    for (let i = 0; i < queues; i++) await bed.startQueue(i, bed.traffic[i].queue.nextAvail);
  }
  for (const traffic of bed.traffic) roundTrips(traffic, 1);
  assert.deepEqual(bed.logs, []);
});

Deno.test("several queues on several loops serve side by side", async () => {
  await using bed = await startedBed({ loops: 3, queues: 6, loopOf: (queue) => queue % 3 });
  for (let round = 0; round < 100; round++) {
    bed.traffic.forEach((traffic, i) => {
      for (let k = (round + i) % 4; k > 0; k--) traffic.send((round + k) % 3 === 0 ? OP.NOP : OP.ECHO);
    });
    for (const traffic of bed.traffic) await traffic.done();
  }
  const tids = [0, 1, 2].map((loop) => bed.count("tid", loop));
  assert.equal(new Set(tids).size, 3);
  for (let loop = 0; loop < 3; loop++) {
    const sent = bed.traffic.filter((_, i) => i % 3 === loop).reduce((sum, { answered }) => sum + answered, 0);
    assert.equal(bed.count("handled", loop), sent);
  }
});

/** Keeps queues busy until `work` is done. Every request must be answered once. */
async function underLoad(bed: Bed, work: () => Promise<void>): Promise<void> {
  let over = false;
  const worked = work().finally(() => over = true);
  for (let i = 0; !over; i++) {
    for (const traffic of bed.traffic) {
      while (traffic.queue.freeDescriptors > 0 && traffic.sent.size < 12) traffic.send(i % 3 === 0 ? OP.NOP : OP.ECHO);
      traffic.collect();
    }
    await turn();
  }
  await worked;
  for (const traffic of bed.traffic) await traffic.done();
}

Deno.test("setMemory() under load loses no request and answers none twice", async () => {
  const memory = [{ guestAddr: 0x10_0000, size: 2 << 20 }, { guestAddr: 2 ** 32, size: 1 << 20 }];
  await using bed = await startedBed({ loops: 2, queues: 3, memory, loopOf: (queue) => queue % 2 });
  await underLoad(bed, async () => {
    for (let i = 0; i < 60; i++) {
      // The rings and buffers are in the first region; it moves within the window.
      const [first, second] = bed.memory.regions;
      const tables = [[first, second], [second, first], [first]];
      await soon(bed.control.setMemory(tables[i % 3]), "setMemory");
    }
  });
  for (const { answered } of bed.traffic) assert.ok(answered > 60, `${answered} requests`);
  assert.deepEqual(bed.logs, []);
});

Deno.test("stopQueue() and startQueue() under load lose no request and answer none twice", async () => {
  await using bed = await startedBed({ queues: 2, loopOf: () => 0, base: 65000 });
  await underLoad(bed, async () => {
    for (let i = 0; i < 150; i++) {
      const base = await bed.stopQueue(i % 2);
      await bed.startQueue(i % 2, base);
    }
  });
});

Deno.test("setMemory() waits for requests in flight", async () => {
  await withGate(async (gate) => {
    await using bed = await startedBed();
    const [traffic] = bed.traffic;
    traffic.send(OP.READ_FD, gate);
    await until(() => bed.count("handled") === 1, "the request was taken");
    const moved = bed.control.setMemory(bed.memory.regions);
    assert.equal(await isSettled(moved), false);
    signal(gate);
    await soon(moved, "setMemory");
    await traffic.done();
    roundTrips(traffic, 3);
  });
});

Deno.test("malformed chains are completed with length 0, and the queue goes on", async () => {
  await using bed = await startedBed({ size: 64, queues: 2, loopOf: () => 0 });
  const [{ queue }, steady] = bed.traffic;
  const addr = bed.memory.allocate(64);
  for (const [name, place] of Object.entries(malformed)) {
    const head = place(queue, addr, 64);
    assert.equal(queue.runHead(head, DEADLINE_MS), 0, name);
    roundTrips(bed.traffic[0], 1);
  }
  roundTrips(steady, 1);
  await until(() => bed.logs.length > 0, "a line in the log");
  for (const line of bed.logs) assert.match(line, /queue 0: \d+ malformed/);
  assert.equal(bed.errorSignalled, false);
});

Deno.test("malformed chains do not flood the log", async () => {
  await using bed = await startedBed();
  const [{ queue }] = bed.traffic;
  for (let i = 0; i < 100; i++) assert.equal(queue.runHead(malformed["loop on itself"](queue, 0 as GuestAddr, 1)), 0);
  await until(() => bed.logs.length >= 7, "lines for 1, 2, 4, … 64");
  assert.equal(bed.logs.length, 7);
});

Deno.test("an impossible avail index stops that queue only, and signals the error eventfd", async () => {
  await using bed = await startedBed({ queues: 3, loops: 2, loopOf: (queue) => queue >> 1, size: 8 });
  const [broken, sound, elsewhere] = bed.traffic;
  for (const traffic of bed.traffic) roundTrips(traffic, 3);
  assert.equal(bed.errorSignalled, false);
  broken.queue.publishIndex(3 + 9);
  broken.queue.kick(true);
  await until(() => bed.errorSignalled, "the error eventfd");
  for (const traffic of [sound, elsewhere]) roundTrips(traffic, 20);
  assert.equal(broken.queue.usedIdx, 3);
  await until(() => bed.logs.length > 0, "a line in the log");
  assert.match(bed.logs.join(), /^queue 0: [^,]*impossible[^,]*; queue stopped$/);
  // The driver resets the queue: it goes on where it stopped.
  assert.equal(await bed.stopQueue(0), 3);
  broken.queue.publish();
  await bed.startQueue(0, 3);
  roundTrips(broken, 3);
  assert.equal(bed.errorSignalled, false);
});

Deno.test("a head beyond the table stops the queue, when the chains before it are answered", async () => {
  await using bed = await startedBed({ size: 8 });
  const [traffic] = bed.traffic;
  traffic.send(OP.ECHO, 0, false);
  traffic.queue.offer(8);
  traffic.queue.publish();
  traffic.queue.kick(true);
  await traffic.done();
  await until(() => bed.errorSignalled, "the error eventfd");
  assert.equal(await bed.stopQueue(0), 1);
});

Deno.test("an idle loop uses no CPU", async () => {
  await using bed = await startedBed({ loops: 2, queues: 20, pollMaxUs: 50, loopOf: (queue) => queue % 2 });
  for (const traffic of bed.traffic) roundTrips(traffic, 50);
  const used = () => [0, 1].map((loop) => cpuNs(bed.count("tid", loop)) / 1e6);
  const before = used();
  await new Promise((resolve) => setTimeout(resolve, 300));
  const after = used();
  after.forEach((ms, i) => assert.ok(ms - before[i] < 15, `loop ${i}: ${ms - before[i]} ms of CPU in 300 ms`));
});

Deno.test("requests that hang shut no other queue out, and the loop sleeps meanwhile", async () => {
  await using bed = await startedBed({ queues: 2, size: 4096, memory: 8 << 20, loopOf: () => 0 });
  const [hanging, other] = bed.traffic;
  for (let i = 0; i < SLOTS + 500; i++) hanging.send(OP.WAIT);
  const handled = () => bed.count("handled");
  await until(() => handled() > SLOTS / 2, "requests were taken");
  roundTrips(other, 50);
  const taken = handled() - 50;
  assert.ok(taken < SLOTS, `${taken} taken`);
  const before = cpuNs(bed.count("tid"));
  await new Promise((resolve) => setTimeout(resolve, 100));
  const ms = (cpuNs(bed.count("tid")) - before) / 1e6;
  assert.ok(ms < 30, `${ms} ms of CPU in 100 ms`);
  await until(() => {
    if (other.sent.size === 0) other.send(OP.RING, 0);
    other.collect();
    hanging.collect();
    return hanging.sent.size === 0;
  }, "all were answered in the end");
  await other.done();
});

Deno.test("a queue with nothing to do is left alone beside a busy one, and woken by its kick", async () => {
  for (const eventIdx of [false, true]) {
    await using bed = await startedBed({ queues: 3, loopOf: () => 0, eventIdx });
    const [busy, ...quiet] = bed.traffic;
    const goOn = () => {
      while (busy.sent.size < 12) busy.send(OP.NOP);
      busy.collect();
    };
    for (let round = 0; round < 20; round++) {
      for (const traffic of quiet) traffic.send(OP.ECHO);
      const deadline = performance.now() + DEADLINE_MS;
      while (quiet.some(({ sent }) => sent.size > 0)) {
        goOn();
        for (const traffic of quiet) traffic.collect();
        assert.ok(performance.now() < deadline, `round ${round}: a kicked queue is not served`);
      }
      // Kept busy, the loop does not sleep; meanwhile it comes to leave the others, and their drivers are asked to kick.
      while (!quiet.every(({ queue }) => queue.wantsKick)) {
        goOn();
        assert.ok(
          performance.now() < deadline,
          `round ${round}: the loop goes on looking at queues with nothing to do`,
        );
      }
    }
    await busy.done();
    // The first found it looking, perhaps.
    for (const { queue } of quiet) assert.ok(queue.kicks >= 19);
  }
});

Deno.test("calls are put off while many chains wait, and none is left owing", async () => {
  await using bed = await startedBed({ size: 256, eventIdx: true });
  const [traffic] = bed.traffic;
  for (let round = 0; round < 200; round++) {
    // Sent unseen, so that all of them wait when the loop wakes up.
    for (let i = 0; i < 100; i++) traffic.send(OP.NOP, 0, false);
    traffic.queue.kick();
    while (traffic.sent.size > 0) {
      assert.ok(
        traffic.queue.waitUsed(DEADLINE_MS),
        `round ${round}: ${traffic.sent.size} requests were answered without a call`,
      );
      traffic.collect();
    }
  }
  assert.equal(traffic.answered, 20_000);
});

Deno.test("bell() is called on the loop that was rung, from whichever", async () => {
  await using bed = await startedBed({ loops: 2, queues: 2 });
  const [first, second] = bed.traffic;
  for (const [waiting, ringing, loop] of [[first, second, 0], [second, first, 1], [first, second, 0]] as const) {
    const bells = bed.count("bells", 1 - loop);
    const handled = bed.count("handled", loop);
    waiting.send(OP.WAIT);
    waiting.send(OP.WAIT);
    await until(() => bed.count("handled", loop) === handled + 2, "both were taken");
    roundTrips(ringing, 1, OP.ECHO);
    ringing.send(OP.RING, loop);
    await ringing.done();
    await waiting.done();
    assert.equal(bed.count("bells", 1 - loop), bells);
    roundTrips(waiting, 1 + waiting.answered % 2);
    if (bed.count("handled", 1 - loop) % 2 === 1) roundTrips(ringing, 1);
  }
});

Deno.test("bell() is called as requests end while the device waits to be alone", async () => {
  await withGate(async (gate) => {
    await using bed = await startedBed({ queues: 2, loopOf: () => 0 });
    const [one, two] = bed.traffic;
    one.send(OP.READ_FD, gate);
    two.send(OP.READ_FD, gate);
    await until(() => bed.count("handled") === 2, "both were taken");
    one.send(OP.ALONE);
    await until(() => bed.count("handled") === 3, "the third was taken");
    // A queue that is stopped meanwhile waits for it.
    const stopped = bed.stopQueue(0);
    signal(gate);
    await until(() => {
      one.collect();
      two.collect();
      return one.answered + two.answered === 1;
    }, "one ended");
    assert.equal(await isSettled(stopped), false);
    signal(gate);
    await one.done();
    await two.done();
    assert.equal(await stopped, 2);
    assert.equal(bed.count("begins"), bed.count("ends"));
  });
});

Deno.test("queues without a kick or a call eventfd are served", async () => {
  await using bed = await startedBed({ queues: 0 });
  const traffic = bed.addQueue({ size: 16 });
  const { index } = traffic.queue;
  await soon(bed.control.startQueue(index, { ...bed.setup(index), kickFd: -1, callFd: -1, errFd: -1 }), "startQueue");
  for (let i = 0; i < 20; i++) await traffic.roundTrip(i % 2 === 0 ? OP.ECHO : OP.NOP);
  traffic.queue.publishIndex(1000);
  assert.equal(await bed.stopQueue(index), 20);
  const tid = bed.count("tid");
  const before = cpuNs(tid);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.ok(cpuNs(tid) - before < 10e6, "stopped, it is not looked at any more");
});

Deno.test("startQueue() says why it cannot", async () => {
  await using bed = await startedBed({ size: 8 });
  const setup = bed.setup(0);
  const rejects = (change: object, reason: RegExp) =>
    assert.rejects(soon(bed.control.startQueue(0, { ...setup, ...change }), "startQueue"), reason);
  await rejects({}, /queue 0 runs already/);
  await bed.stopQueue(0);
  const [region] = bed.memory.regions;
  await rejects({ desc: region.userAddr - 16 }, /queue 0: the descriptor table is not within guest memory/);
  await rejects({ avail: region.userAddr + region.size - 21 }, /available ring is not within guest memory/);
  await rejects({ used: region.userAddr + region.size - 68 }, /used ring is not within guest memory/);
  await rejects({ used: setup.used + 2 }, /used ring is not aligned/);
  await rejects({ size: 5 }, /queue size 5/);
  await soon(bed.control.reset(), "reset");
  await rejects({}, /before there was guest memory/);
});

Deno.test("setMemory() says why it cannot, and then no queue runs", async () => {
  await using bed = await startedBed();
  const [region] = bed.memory.regions;
  const longer = { ...region, size: region.size + 1 };
  await assert.rejects(soon(bed.control.setMemory([longer]), "setMemory"), /ends behind its file/);
  await assert.rejects(bed.stopQueue(0), /queue 0 does not run/);
  await bed.start(0);
  roundTrips(bed.traffic[0], 3);
});

Deno.test("reset() stops all queues, forgets memory and has the service forget once", async () => {
  const mapped = () => Deno.readTextFileSync("/proc/self/maps").split("memfd:guest").length - 1;
  const before = mapped();
  await using bed = await startedBed({ loops: 2, queues: 2 });
  for (const traffic of bed.traffic) roundTrips(traffic, 2);
  await soon(bed.control.reset(), "reset");
  assert.equal(bed.count("resets", 0) + bed.count("resets", 1), 1);
  assert.equal(mapped(), before + bed.memory.regions.length, "the driver's own mappings remain");
  await bed.start(2);
  for (const traffic of bed.traffic) roundTrips(traffic, 2);
});

Deno.test("a service that cannot be made rejects prepare() with its reason", async () => {
  await using bed = await startedBed();
  await assert.rejects(soon(bed.device(7, { refuse: "no such share" }).prepare(), "prepare"), /no such share/);
  roundTrips(bed.traffic[0], 1);
});

Deno.test("exit() ends every loop and gives its descriptors back", async () => {
  const open = () => [...Deno.readDirSync("/proc/self/fd")].length;
  // The runtime keeps some of the first Worker.
  for (let before = Infinity, round = 0; round < 2; round++) {
    {
      await using bed = await startedBed({ loops: 3, queues: 3 });
      for (const traffic of bed.traffic) roundTrips(traffic, 5);
    }
    await until(() => open() <= before, `${open() - before} descriptors more than before`);
    before = open();
  }
});
