// A back end is killed (SIGKILL) with requests in flight and another takes its place, again and again. More rounds, another seed:
// RINGFSD_KILLS=500 RINGFSD_KILLS_SEED=7 deno test -A tests/vhost/restart.test.ts
import assert from "node:assert/strict";
import { random } from "../fs/random.ts";
import { OP } from "../vq/echo_service.ts";
import { turn } from "../vq/bed.ts";
import { BackEnd } from "./back_end.ts";
import { BASE_INDEX, Survivor } from "./survivor.ts";

const KILLS = Number(Deno.env.get("RINGFSD_KILLS") ?? 8);
const SEED = Number(Deno.env.get("RINGFSD_KILLS_SEED") ?? 1);
const QUEUES = 3, LOOPS = 2;
const program = new URL("./echo_daemon.ts", import.meta.url).pathname;

const start = (socket: string) => new BackEnd(program, [socket], socket, "listens");

const text = new TextEncoder();

Deno.test(`back ends killed ${KILLS} times: every request is answered once, by one or the next`, async () => {
  const dir = Deno.makeTempDirSync();
  const next = random(SEED);
  const guest = new Survivor(QUEUES);
  let serial = 0, takenUp = 0;
  const send = (index: number, op: number, argument: number) => {
    const number = ++serial;
    const words = Uint32Array.of(op, argument, index, number);
    // Echoed is what was asked, so an answer is its own request's.
    const request = new Uint8Array([...new Uint8Array(words.buffer), ...text.encode(`request ${number}`)]);
    guest.send(index, `request ${number} on queue ${index}`, request, (reply, used) => {
      assert.equal(used, request.length);
      assert.deepEqual(new Uint8Array(reply.buffer, reply.byteOffset, used), request);
    });
  };
  /** Ends what waits for a bell. */
  const ring = () => {
    const index = next(QUEUES);
    for (let loop = 0; loop < LOOPS; loop++) if (guest.hasRoom(index, 60)) send(index, OP.RING, loop);
  };
  const ops = [OP.ECHO, OP.ECHO, OP.NOP, OP.WORK, OP.WAIT, OP.WAIT];
  const sendSome = () => {
    for (let i = next(12); i > 0; i--) {
      const index = next(QUEUES);
      if (guest.hasRoom(index)) send(index, ops[next(ops.length)], next(60));
    }
  };
  let backEnd = start(`${dir}/0`);
  try {
    for (let i = 1; i <= KILLS + 1; i++) {
      await backEnd.ready();
      // What the front end believes: QEMU's, which knows the used index, and Cloud Hypervisor's, which knows nothing.
      const knows = next(2) === 0;
      guest.connect(backEnd.socketPath, (queue) => knows ? queue.snapshot().lastUsed : BASE_INDEX);
      // The one that serves is killed while the next starts.
      const following = i <= KILLS ? start(`${dir}/${i}`) : null;
      const answered = guest.counts.answered + next(i % 4 === 0 ? 3 : 3000);
      const deadline = performance.now() + 10_000;
      while (guest.counts.answered < answered) {
        if (guest.collect() === 0 && next(20) === 0) ring();
        sendSome();
        assert.ok(performance.now() < deadline, "it serves");
      }
      if (following === null) break;
      // Full queues, and a moment anywhere in the work on them.
      for (let i = 0; i < 12; i++) sendSome();
      for (let i = next(200); i > 0; i--) guest.collect();
      backEnd.child.kill("SIGKILL");
      guest.lose();
      // Answers that were given before are there, and requests that nobody has seen.
      guest.collect();
      sendSome();
      await backEnd.ended();
      takenUp += backEnd.takenUp;
      backEnd = following;
      await turn();
    }
    guest.settle(ring);
    assert.equal(guest.counts.answered, guest.counts.sent);
    console.log(JSON.stringify({ kills: KILLS, ...guest.counts, takenUp }));
    assert.ok(takenUp >= KILLS, `${takenUp} were in flight`);
    assert.ok(guest.counts.answeredLater >= KILLS, `${guest.counts.answeredLater} were answered by a later back end`);
  } finally {
    await backEnd[Symbol.asyncDispose]();
    guest.close();
    Deno.removeSync(dir, { recursive: true });
  }
});
