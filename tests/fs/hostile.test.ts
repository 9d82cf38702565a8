// What a guest or a front end should not do: it harms itself at most, and the next is served. tests/fuzz has the rest.
import assert from "node:assert/strict";
import { Frontend } from "../../bench/frontend.ts";
import { bytes, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { malformed } from "../../bench/malformed.ts";
import type { Session } from "../../bench/session.ts";
import { Daemon, withDaemon } from "./daemon.ts";
import { random } from "./random.ts";

const ROOT = 1;

/** One session's work, to see that it works. */
function works({ client }: Session, name: string) {
  const { error, nodeid, fh } = client.create(ROOT, name, 2);
  assert.equal(error, 0);
  const data = new Uint8Array(100_000).map((_, i) => i * 7);
  assert.equal(client.write(nodeid, fh, 5, data).size, data.length);
  assert.deepEqual(client.read(nodeid, fh, 5, data.length).data, data);
  assert.ok(client.list(ROOT, true).entries.some((one) => one.name === name));
  assert.equal(client.release(nodeid, fh).error, 0);
  assert.equal(client.unlink(ROOT, name).error, 0);
  client.forget(nodeid, 1000);
}

withDaemon("Malformed chains", { session: { queue: { size: 256 } } }, async (daemon, session, step) => {
  const request = session.memory.allocate(4096, 16);
  session.memory.bytes(request, 56).set(
    bytes(u32(56, op.FUSE_GETATTR), u64(1, ROOT), u32(0, 0, 0, 0), u32(0, 0), u64(0)),
  );
  for (const [name, place] of Object.entries(malformed)) {
    await step(`Requests.readChain() completes with length 0, and goes on: ${name}`, () => {
      for (const queue of session.queues) {
        const head = place(queue, request, 56);
        assert.equal(queue.runHead(head), 0);
      }
      assert.equal(session.client.getattr(ROOT).error, 0);
    });
  }
  await step("Loop says so in the log, but not for each", async () => {
    await daemon.until(() => daemon.log.includes("malformed"), "the log");
    const lines = daemon.log.split("\n").filter((line) => line.includes("malformed"));
    assert.ok(lines.length < 20, `${lines.length} lines`);
    works(session, "after");
  });
});

Deno.test("Server throws out a front end that sends rubbish, and serves the next", async (t) => {
  const daemon = await Daemon.start();
  try {
    daemon.session().close();
    const next = random(7);
    const rubbish: [string, (front: Frontend) => void][] = [
      ["bytes that are no message", (front) => void front.sendRaw(Uint8Array.from({ length: 300 }, () => next(256)))],
      ["a request that does not exist", (front) => front.send(9999)],
      ["a payload far too large", (front) => void front.sendRaw(u32(5, 1, 2 ** 31))],
      ["half a header", (front) => (front.sendRaw(u32(1, 1)), front.close())],
      ["a ring outside of memory", (front) => {
        front.negotiate();
        front.setVringNum(0, 256);
        front.setVringAddr(0, 0x1000, 0x2000, 0x3000);
        front.setVringFd("KICK", 0, -1);
        front.setVringEnable(0);
      }],
    ];
    for (const [name, send] of rubbish) {
      await t.step(name, () => {
        const front = Frontend.connect(daemon.socketPath);
        try {
          send(front);
        } catch { /* a refusal is as good as a closed connection */ }
        front.close();
        using session = daemon.session();
        works(session, "after");
      });
    }
  } finally {
    await daemon.stop();
  }
});
