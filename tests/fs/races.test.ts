// Races of the control plane with requests in flight, against a real daemon: see race_guest.ts. Longer and with another seed by hand:
// RINGFSD_RACES_ROUNDS=20000 RINGFSD_RACES_KILLS=200 RINGFSD_RACES_SEED=7 RINGFSD_RACES_BASE=/var/tmp deno test -A tests/fs/races.test.ts
import assert from "node:assert/strict";
import { Frontend } from "../../bench/frontend.ts";
import { memoryUse } from "../../bench/process.ts";
import { Daemon } from "./daemon.ts";
import { Guest } from "./race_guest.ts";
import { round } from "./race_rounds.ts";
import { random } from "./random.ts";

const ROUNDS = Number(Deno.env.get("RINGFSD_RACES_ROUNDS") ?? 3000);
const SEED = Number(Deno.env.get("RINGFSD_RACES_SEED") ?? 1);
/** Where the share is: what waits for a disk goes other ways than what is in memory. */
const BASE = Deno.env.get("RINGFSD_RACES_BASE") ?? "/dev/shm";
const KILLS = Number(Deno.env.get("RINGFSD_RACES_KILLS") ?? 10);
const QUEUES = 2;
/** Growth of the daemon's memory in bytes that is no leak: what the heaps of its isolates come to. */
const GROWTH_MAX = 64 << 20;

/** A helper for each loop: more wait for locks than there are. */
const options = { base: BASE, requestQueues: QUEUES, args: ["--posix-lock", "--thread-pool-size", "2"] };

async function rounds(daemon: Daemon, guest: Guest, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    try {
      round(guest);
    } catch (error) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      const { message, stack } = error as Error;
      const log = daemon.log.split("\n").slice(-12).join("\n");
      const why = `seed ${guest.seed}, round ${i}: ${message}\nafter: ${guest.history.join("; ")}`;
      console.error(why);
      throw new Error(`${why}\n${stack}\nthe daemon said:\n${log}`);
    }
    // What the daemon says must be taken, or its pipe is full some day.
    if (i % 20 === 0) await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

/** What the daemon holds at the beginning of a session. */
function measure(daemon: Daemon, guest: Guest) {
  guest.reconnect(false, false);
  return {
    descriptors: daemon.descriptors - (guest.tracked ? 1 : 0),
    threads: threads(daemon.pid),
    memory: memoryUse([daemon.pid]).pssOwn,
  };
}

/** Threads, without those of io_uring, which come and go. */
function threads(pid: number): number {
  const tasks = [...Deno.readDirSync(`/proc/${pid}/task`)];
  return tasks.filter(({ name }) => !Deno.readTextFileSync(`/proc/${pid}/task/${name}/comm`).startsWith("iou-")).length;
}

Deno.test(`Races: ${ROUNDS} rounds of control messages with requests in flight`, async () => {
  const daemon = await Daemon.start(options);
  try {
    Guest.prepare(daemon.path());
    const guest = new Guest(daemon.socketPath, daemon.path(), SEED, QUEUES);
    guest.connect();
    // All threads that there will be have started then, and heaps have grown.
    const warm = Math.min(500, Math.floor(ROUNDS / 2));
    await rounds(daemon, guest, warm);
    const before = measure(daemon, guest);
    await rounds(daemon, guest, ROUNDS - warm);
    const after = measure(daemon, guest);
    guest.checkStill();
    guest.checkFiles();
    guest.close();
    console.log(JSON.stringify({ ...guest.counts, before, after }));
    assert.equal(after.descriptors, before.descriptors, "descriptors of the daemon");
    assert.ok(after.threads <= before.threads + 3, `${before.threads} threads became ${after.threads}`);
    assert.ok(after.memory <= before.memory + GROWTH_MAX, `${before.memory} bytes became ${after.memory}`);
    for (const [what, count] of Object.entries(guest.counts)) assert.ok(count > 0, `nothing was ${what}`);
  } finally {
    await daemon.stop();
  }
});

Deno.test(`Races: ${KILLS} front ends killed amid their requests, and the next one served`, async () => {
  const daemon = await Daemon.start({ ...options, base: "/tmp" });
  const next = random(SEED);
  const program = new URL("./race_rounds.ts", import.meta.url).pathname;
  try {
    const descriptors = new Set<number>();
    const memory: number[] = [];
    for (let i = 0; i < KILLS; i++) {
      Guest.prepare(daemon.path());
      const child = new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", "--no-check", program, daemon.socketPath, daemon.path(), `${SEED + i}`],
        stdout: "piped",
        stderr: "inherit",
      }).spawn();
      const reader = child.stdout.getReader();
      assert.equal((await reader.read()).done, false, "it has connected");
      await new Promise((resolve) => setTimeout(resolve, next(200)));
      child.kill("SIGKILL");
      assert.equal((await child.status).signal, "SIGKILL", "it went on until then");
      await reader.cancel();
      const frontend = Frontend.connect(daemon.socketPath);
      // Where that is answered, the daemon is done with the one before: what is in the files now stays.
      frontend.getFeatures();
      Guest.prepare(daemon.path());
      const guest = new Guest(daemon.socketPath, daemon.path(), SEED + i, QUEUES);
      guest.connect(frontend);
      await rounds(daemon, guest, 20);
      const held = measure(daemon, guest);
      // Helpers start when they are needed.
      if (i >= KILLS / 2) {
        descriptors.add(held.descriptors);
        memory.push(held.memory);
      }
      guest.settle();
      guest.checkFiles();
      guest.close();
    }
    console.log(JSON.stringify({ kills: KILLS, descriptors: [...descriptors], memory: [memory[0], memory.at(-1)] }));
    assert.equal(descriptors.size, 1, `descriptors of the daemon: ${[...descriptors]}`);
    assert.ok(memory.at(-1)! <= memory[0] + GROWTH_MAX, `${memory[0]} bytes became ${memory.at(-1)}`);
  } finally {
    await daemon.stop();
  }
});
