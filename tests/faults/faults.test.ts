// Faults of our own in the daemon as a whole: see faulty_main.ts. What the guest had in flight is answered with EIO, by its own unique.
import assert from "node:assert/strict";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { Session } from "../../bench/session.ts";
import { EIO, ENOENT } from "../../ffi/errno.ts";
import { Place, Started } from "../cli/started.ts";
import { Daemon } from "../fs/daemon.ts";
import { cannotMount, SlowHost } from "../fs/slow_host.ts";
import { BusyGuest } from "./busy_guest.ts";
import { FAULTS } from "./faulty_names.ts";

const ROOT = 1;
const program = new URL("./faulty_main.ts", import.meta.url).pathname;
const RESTARTED = /loop \d+ met a fault of ringfsd's own/g;
const count = (daemon: Daemon, what: RegExp) => daemon.log.match(what)?.length ?? 0;

/** One session's work, to see that it works; files that were open stay so. */
function works({ client }: Session): void {
  const { error, nodeid, fh } = client.create(ROOT, "works", 2);
  assert.equal(error, 0);
  assert.equal(client.write(nodeid, fh, 0, new Uint8Array(5000).fill(3)).size, 5000);
  assert.ok(client.read(nodeid, fh, 0, 5000).data.every((byte) => byte === 3));
  assert.equal(client.fsync(nodeid, fh).error, 0);
  assert.equal(client.release(nodeid, fh).error, 0);
  assert.equal(client.unlink(ROOT, "works").error, 0);
  client.forget(nodeid);
}

const fsync = (session: Session, nodeid: bigint, fh: bigint) =>
  session.client.start(op.FUSE_FSYNC, nodeid, bytes(u64(fh), u32(0, 0)));

Deno.test("a handler that throws answers EIO, and is logged a few times however often it does", async () => {
  const daemon = await Daemon.start({ program });
  try {
    const session = daemon.session();
    for (let i = 0; i < 300; i++) assert.equal(session.client.lookup(ROOT, FAULTS.handler).error, -EIO);
    works(session);
    session.close();
    await daemon.until(() => /256 so far/.test(daemon.log), "the last line");
    assert.equal(count(daemon, /LOOKUP met a fault/g), 9);
    assert.equal(count(daemon, RESTARTED), 0);
  } finally {
    await daemon.stop();
  }
});

Deno.test("a loop that throws answers what it had with EIO and goes on, with nodes, handles and descriptors as they were", async () => {
  const daemon = await Daemon.start({ program, base: "/var/tmp", requestQueues: 2, args: ["--xattr"] });
  try {
    const session = daemon.session({ requestQueues: 2, queue: { size: 256 }, memory: 256 << 20 });
    const { client } = session;
    const { nodeid, fh } = client.create(ROOT, "kept", 2);
    assert.equal(client.write(nodeid, fh, 0, new Uint8Array(100_000).fill(9)).size, 100_000);
    works(session);
    // Helpers that start meanwhile have descriptors of their own.
    const { files } = daemon;
    for (const name of [FAULTS.loop, FAULTS.later, FAULTS.loop, FAULTS.later]) {
      const before = count(daemon, RESTARTED);
      const sent = Array.from({ length: 40 }, () => fsync(session, nodeid, fh));
      sent.push(client.start(op.FUSE_LOOKUP, ROOT, names(name), { outSize: 128 }));
      for (let i = 0; i < 5; i++) sent.push(fsync(session, nodeid, fh));
      // `finish` compares the uniques.
      const errors = sent.map((one) => client.finish(one).error);
      assert.ok(errors.every((error) => [0, -EIO, -ENOENT].includes(error)), `${errors}`);
      assert.ok(errors.includes(-EIO));
      await daemon.until(() => count(daemon, RESTARTED) === before + 1, "the log");
      assert.ok(client.read(nodeid, fh, 0, 100_000).data.every((byte) => byte === 9));
      works(session);
    }
    await daemon.filesAre(files);
    // Sessions end and begin as ever, though nothing was in order on one of the loops.
    assert.equal(client.destroy().error, 0);
    assert.equal(client.init().error, 0);
    works(session);
    session.close();
    using next = daemon.session();
    works(next);
  } finally {
    await daemon.stop();
  }
});

Deno.test("a loop's fault leaves another loop's guest alone, and again and again it ends the process", async () => {
  const daemon = await Daemon.start({ program, requestQueues: 2 });
  let stopped = false;
  try {
    const session = daemon.session({ requestQueues: 2 });
    for (let i = 0; i < 5; i++) {
      assert.equal(session.client.lookup(ROOT, FAULTS.loop).error, -EIO);
      works(session);
    }
    session.client.start(op.FUSE_LOOKUP, ROOT, names(FAULTS.loop), { outSize: 128 });
    const { code, signal } = await daemon.child.status;
    stopped = true;
    assert.deepEqual({ code, signal }, { code: 1, signal: null });
    session.close();
  } finally {
    await daemon.stop().catch((error) => {
      if (!stopped) throw error;
    });
  }
  assert.match(daemon.log, /error: loop 0 met a fault.*a loop's fault/s);
});

Deno.test({
  name: "a helper that throws answers EIO; what a helper does for a loop that throws is ended" +
    (cannotMount() && ` (skipped: ${cannotMount()})`),
  ignore: cannotMount() !== "",
  fn: async () => {
    let host!: SlowHost;
    const daemon = await Daemon.start({
      program,
      prepare: async (share) => {
        host = new SlowHost(share);
        await host.ready();
        return () => host.close();
      },
    });
    try {
      const session = daemon.session();
      const { client } = session;
      for (let i = 0; i < 100; i++) assert.equal(client.lookup(ROOT, FAULTS.helper).error, -EIO);
      assert.equal(count(daemon, /a helper met a fault/g) <= 16, true, daemon.log);
      assert.equal(client.lookup(ROOT, "none").error, -ENOENT);
      const { nodeid, fh } = client.create(ROOT, "slow", 2);
      assert.equal(client.write(nodeid, fh, 0, new Uint8Array(10)).size, 10);
      for (const opcode of [op.FUSE_READ, op.FUSE_LOOKUP]) {
        host.hold(opcode);
        const read = bytes(u64(fh, 0), u32(10, 0), u64(0), u32(0, 0));
        const held = opcode === op.FUSE_READ
          ? client.start(opcode, nodeid, read, { dataOut: 10 })
          : client.start(opcode, ROOT, names("slow"), { outSize: 128 });
        host.untilHeld(1);
        assert.equal(client.lookup(ROOT, FAULTS.loop).error, -EIO);
        assert.equal(client.finish(held).error, -EIO);
        host.hold(0);
        works(session);
      }
      // DESTROY that waits for what is held is given up as well; whoever comes next finds a session that can begin.
      host.hold(op.FUSE_LOOKUP);
      const held = client.start(op.FUSE_LOOKUP, ROOT, names("slow"), { outSize: 128 });
      host.untilHeld(1);
      const destroy = client.start(op.FUSE_DESTROY, 0, bytes());
      const fault = client.start(op.FUSE_LOOKUP, ROOT, names(FAULTS.loop), { outSize: 128 });
      assert.deepEqual([held, destroy, fault].map((one) => client.finish(one).error), [-EIO, -EIO, -EIO]);
      host.hold(0);
      assert.equal(client.getattr(ROOT).error, -EIO, "before INIT");
      assert.equal(client.init().error, 0);
      works(session);
      session.close();
      await daemon.until(() => count(daemon, RESTARTED) === 3, "the log");
    } finally {
      await daemon.stop();
    }
  },
});

Deno.test("a guest on another loop goes on without an error while a loop throws", async () => {
  using mine = new Place();
  using other = new Place();
  const share = ({ share, socket }: Place) => ["--share", `dir=${share},socket=${socket}`];
  const args = [...share(mine), ...share(other), "--num-request-queues", "2", "--sandbox", "none"];
  await using daemon = Started.start(args, { program });
  await daemon.socket(mine.socket);
  await daemon.socket(other.socket);
  using session = Session.open(mine.socket);
  // Devices spread over the loops as their guests come.
  const busy = new BusyGuest(other.socket);
  await busy.goesOn();
  for (let i = 0; i < 5; i++) {
    assert.equal(session.client.lookup(ROOT, FAULTS.loop).error, -EIO);
    await busy.goesOn();
    works(session);
  }
  await busy.close();
});
