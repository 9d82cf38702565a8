// The session: INIT, DESTROY, and what holds between them. The guest's end, and what the daemon keeps open.
import assert from "node:assert/strict";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import { FuseClient } from "../../bench/fuse_client.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { EBADF, EBUSY, EIO, ENOENT, ENOSYS, EPROTO } from "../../ffi/errno.ts";
import { Daemon, withDaemon } from "./daemon.ts";
import { random } from "./random.ts";

const ROOT = 1;
const MAX_PAGES = 1n << 22n, INIT_EXT = 1n << 30n;
/** Opcodes that linux/fuse.h does not have. */
const UNKNOWN = [0, 7, 19, 59, 60, 63, 64, 100, 4096, 2 ** 31, 2 ** 32 - 1];

withDaemon("INIT and DESTROY", { session: { init: false, requestQueues: 2 } }, async (daemon, session, step) => {
  const { client } = session;
  const second = new FuseClient(session.queues[2]);
  Deno.writeTextFileSync(daemon.path("file"), "text");

  await step("FsService.handle() answers EIO before INIT", () => {
    assert.equal(client.getattr(ROOT).error, -EIO);
    assert.equal(client.lookup(ROOT, "file").error, -EIO);
    assert.equal(second.statfs().error, -EIO);
    assert.equal(client.forget(ROOT).error, 0);
  });
  await step("FsService.handle() answers ENOSYS to an unknown opcode, before INIT too", () => {
    for (const opcode of UNKNOWN) assert.equal(client.request(opcode, ROOT, bytes(), 100).error, -ENOSYS, `${opcode}`);
  });
  await step("INIT refuses a client that is too old with EPROTO", () => {
    for (const minor of [0, 8, 26]) assert.equal(client.init(minor).error, -EPROTO, `7.${minor}`);
    assert.equal(client.request(op.FUSE_INIT, 0, bytes(u32(6, 40, 0, 0)), 64).error, -EPROTO);
    assert.equal(client.getattr(ROOT).error, -EIO);
  });
  await step("INIT tells a client of a newer major version ours, and begins nothing", () => {
    const { error, data } = client.request(op.FUSE_INIT, 0, bytes(u32(8, 0, 0, 0)), 64);
    assert.deepEqual([error, data[0]], [0, 7]);
    assert.equal(client.getattr(ROOT).error, -EIO);
  });
  await step("INIT agrees with clients from 7.27 to the newest, and newer", () => {
    for (const minor of [27, 31, 35, 36, 45, 46, 1000]) {
      const { error, major, maxWrite, timeGran, maxReadahead } = client.init(minor);
      assert.deepEqual([error, major, timeGran, maxReadahead], [0, 7, 1, 1 << 17]);
      assert.ok(maxWrite >= 65536);
      assert.equal(client.getattr(ROOT).error, 0);
    }
  });
  await step("INIT grants what was asked for and nothing else", () => {
    assert.equal(client.init(38, 0n).flags, 0n);
    assert.equal(client.init(38, MAX_PAGES).flags, MAX_PAGES);
    const all = client.init(45, 2n ** 64n - 1n).flags;
    assert.notEqual(all & INIT_EXT, 0n);
    const some = client.init(45, INIT_EXT | 0x2aaa_aaaa_aaaa_aaaan).flags;
    assert.equal(some & ~(INIT_EXT | 0x2aaa_aaaa_aaaa_aaaan), 0n);
    const low = client.init(45, (2n ** 64n - 1n) ^ INIT_EXT).flags;
    assert.equal(low >> 32n, 0n, "flags2 is not valid without INIT_EXT");
    // Before 7.36 the request ended before flags2.
    assert.equal(client.init(35, 2n ** 64n - 1n).flags >> 32n, 0n);
    assert.equal(client.init().error, 0);
  });
  await step("INIT again begins anew: what the guest knew names nothing", async () => {
    const level = daemon.descriptors;
    const { nodeid } = client.lookup(ROOT, "file");
    const { fh } = client.open(nodeid);
    const dir = client.opendir(ROOT);
    await daemon.descriptorsAre(level + 3);
    assert.equal(client.init().error, 0);
    await daemon.descriptorsAre(level);
    assert.equal(client.getattr(nodeid).error, -ENOENT);
    assert.equal(client.read(nodeid, fh, 0, 10).error, -EBADF);
    assert.equal(client.readdir(ROOT, dir.fh).error, -EBADF);
    // The other loop has learned of it too.
    assert.equal(second.getattr(nodeid).error, -ENOENT);
    const again = second.lookup(ROOT, "file");
    assert.notEqual(again.nodeid, nodeid);
    const known = new Set([again.nodeid]);
    for (let i = 0; i < 200; i++) {
      Deno.writeTextFileSync(daemon.path(`f${i}`), "");
      known.add((i % 2 ? client : second).lookup(ROOT, `f${i}`).nodeid);
    }
    assert.equal(known.size, 201);
  });
  await step("DESTROY ends the session, and INIT begins the next", async () => {
    const { nodeid } = client.lookup(ROOT, "file");
    const level = daemon.descriptors;
    assert.equal(client.destroy().error, 0);
    await daemon.descriptorsAre(level - 201);
    assert.equal(client.getattr(ROOT).error, -EIO);
    assert.equal(second.getattr(ROOT).error, -EIO);
    assert.equal(client.destroy().error, 0, "twice does no harm");
    assert.equal(second.init().error, 0);
    assert.equal(client.getattr(nodeid).error, -ENOENT);
    assert.equal(client.lookup(ROOT, "file").error, 0);
  });
  await step("INIT and DESTROY wait for requests in flight on another loop", () => {
    for (const [end, begin] of [[op.FUSE_DESTROY, true], [op.FUSE_INIT, false]] as const) {
      for (let round = 0; round < 20; round++) {
        const made = second.create(ROOT, "syncing", 2);
        second.write(made.nodeid, made.fh, 0, new Uint8Array(65536).fill(round));
        const syncs = Array.from({ length: 16 }, () => {
          return second.start(op.FUSE_FSYNC, made.nodeid, bytes(u64(made.fh), u32(0, 0)));
        });
        const args = end === op.FUSE_INIT ? bytes(u32(7, 38, 0, 0, 0), new Uint8Array(44)) : bytes();
        assert.equal(client.request(end, 0, args, 64).error, 0);
        for (const sync of syncs) assert.ok([0, -EIO, -EBADF].includes(second.finish(sync).error));
        if (begin) assert.equal(client.init().error, 0);
        assert.equal(second.getattr(made.nodeid).error, -ENOENT);
      }
    }
  });
  await step("INIT and DESTROY from two loops at once: one goes, the other waits its turn or hears EBUSY", () => {
    const init = bytes(u32(7, 38, 0, 0, 0), new Uint8Array(44));
    for (let round = 0; round < 50; round++) {
      const pending = Array.from({ length: 20 }, (_, i) => {
        const one = i % 2 ? client : second;
        const sent = i % 5 === 0
          ? one.start(op.FUSE_DESTROY, 0, bytes(), { outSize: 64 })
          : i % 5 === 1
          ? one.start(op.FUSE_LOOKUP, ROOT, names("file"), { outSize: 128 })
          : one.start(op.FUSE_INIT, 0, init, { outSize: 64 });
        return { one, sent };
      });
      for (const { one, sent } of pending) assert.ok([0, -EBUSY, -EIO].includes(one.finish(sent).error));
    }
    assert.equal(client.init().error, 0);
    assert.equal(second.lookup(ROOT, "file").error, 0);
  });
  await step("INTERRUPT of a request that is unknown or done has no reply and does no harm", () => {
    for (const unique of [0n, 2n, 2n ** 63n, 2n ** 64n - 1n]) client.interrupt(unique);
    assert.equal(client.getattr(ROOT).error, 0);
  });
  await step("FsService.handle() answers a request whose length is wrong with EINVAL or not at all", () => {
    const { memory } = session;
    const at = memory.allocate(4096, 8), reply = memory.allocate(4096, 8);
    const send = (len: number, opcode: number, readable: number, writable: number) => {
      memory.bytes(at, 40).set(bytes(u32(len, opcode), u64(77, ROOT), u32(0, 0, 0, 0)));
      memory.bytes(reply, 16).fill(0);
      const segments = [{ addr: at, len: readable }, { addr: reply, len: writable, write: true }];
      const used = session.queues[1].run(segments.filter(({ len }) => len > 0));
      return [used, memory.view(reply, 16).getInt32(4, true)];
    };
    for (const len of [0, 39, 40, 55, 1000, 2 ** 32 - 1]) {
      assert.deepEqual(send(len, op.FUSE_GETATTR, 56, 4096), [16, -22]);
    }
    assert.deepEqual(send(56, op.FUSE_GETATTR, 56, 104 + 16), [120, 0]);
    // Room for the header alone: it is told that the reply does not fit. Without that there is no reply.
    for (const room of [16, 119]) assert.deepEqual(send(56, op.FUSE_GETATTR, 56, room), [16, -5]);
    for (const room of [0, 1, 15]) assert.equal(send(56, op.FUSE_GETATTR, 56, room)[0], 0);
    for (const readable of [1, 39]) assert.equal(send(56, op.FUSE_GETATTR, readable, 4096)[0], 0);
  });
});

Deno.test("DeviceControl.reset() forgets a guest that went without DESTROY", async (t) => {
  // In memory: on a disk helpers may start, which have descriptors of their own.
  const daemon = await Daemon.start({ base: "/dev/shm" });
  try {
    Deno.writeTextFileSync(daemon.path("file"), "text");
    // The first guest starts threads, which keep descriptors of their own; with it go socket, memory, and kick and call of each queue.
    const first = daemon.session({ requestQueues: 2 });
    const level = daemon.descriptors - 8;
    first.close();
    await daemon.descriptorsAre(level);
    await t.step("descriptors return to their level after a disconnect, whatever was open", async () => {
      for (let round = 0; round < 5; round++) {
        const { client, ...session } = daemon.session({ requestQueues: 1 + round % 2 });
        const { nodeid } = client.lookup(ROOT, "file");
        for (let i = 0; i < 50; i++) client.open(nodeid), client.opendir(ROOT), client.create(ROOT, `made${i}`);
        assert.ok(daemon.descriptors > level + 200);
        session.frontend.close();
        session.memory.close();
        await daemon.descriptorsAre(level);
      }
    });
    await t.step("nodes and handles of one guest name nothing for the next", () => {
      const first = daemon.session();
      const { nodeid } = first.client.lookup(ROOT, "file");
      const { fh } = first.client.open(nodeid);
      first.close();
      const next = daemon.session();
      assert.equal(next.client.getattr(nodeid).error, -ENOENT);
      assert.equal(next.client.read(nodeid, fh, 0, 10).error, -EBADF);
      next.close();
    });
    await t.step("the next guest must begin with INIT", () => {
      using next = daemon.session({ init: false });
      assert.equal(next.client.getattr(ROOT).error, -EIO);
      assert.equal(next.client.init().error, 0);
      assert.equal(next.client.lookup(ROOT, "file").error, 0);
    });
  } finally {
    await daemon.stop();
  }
});

const small = { requestQueues: 2, maxData: 4096 };
withDaemon("Descriptors of the daemon", { base: "/dev/shm", session: small }, async (daemon, session, step) => {
  const { client } = session;
  const second = new FuseClient(session.queues[2], { maxData: 4096 });
  for (let i = 0; i < 100; i++) Deno.writeTextFileSync(daemon.path(`f${i}`), "");
  const level = daemon.descriptors;
  const lookups = () => Array.from({ length: 100 }, (_, i) => (i % 3 ? client : second).lookup(ROOT, `f${i}`).nodeid);

  await step("FORGET closes a node's descriptor when all its lookups are given back", async () => {
    const nodes = lookups();
    assert.deepEqual(lookups(), nodes);
    await daemon.descriptorsAre(level + 100);
    for (const nodeid of nodes) client.forget(nodeid, 1);
    assert.equal(client.getattr(nodes[0]).error, 0);
    await daemon.descriptorsAre(level + 100);
    for (const nodeid of nodes) client.forget(nodeid, 1);
    await daemon.descriptorsAre(level);
    assert.equal(client.getattr(nodes[0]).error, -ENOENT);
  });
  await step("BATCH_FORGET closes many, and passes over what names nothing", async () => {
    const nodes = lookups();
    const nonsense = [0n, 1n, 2n ** 64n - 1n, nodes[0] + 2n ** 32n].map((nodeid) => ({
      nodeid,
      lookups: 2n ** 64n - 1n,
    }));
    client.batchForget([...nonsense, ...nodes.map((nodeid) => ({ nodeid, lookups: 2n ** 64n - 1n })), ...nonsense]);
    await daemon.descriptorsAre(level);
    assert.equal(client.getattr(ROOT).error, 0);
  });
  await step("BATCH_FORGET of a count that is more than there is does what there is", async () => {
    const [nodeid] = lookups();
    const args = bytes(u32(2 ** 32 - 1, 0), u64(nodeid, 1), u64(nodeid, 1));
    client.request(op.FUSE_BATCH_FORGET, 0, args.subarray(0, 8 + 16), 0, { noReply: true });
    client.request(op.FUSE_BATCH_FORGET, 0, args, 0, { noReply: true, hiprio: true });
    await daemon.descriptorsAre(level + 99);
    assert.equal(client.destroy().error, 0);
    assert.equal(client.init().error, 0);
    await daemon.descriptorsAre(level);
  });
  await step("LOOKUP on one loop and FORGET on another keep no slot", async () => {
    for (let round = 0; round < 30; round++) {
      const nodes = Array.from({ length: 100 }, (_, i) => second.lookup(ROOT, `f${i}`).nodeid);
      client.batchForget(nodes.map((nodeid) => ({ nodeid, lookups: 1 })));
      const highest = Number(nodes.reduce((a, b) => (a & 0xffff_ffffn) > (b & 0xffff_ffffn) ? a : b) & 0xffff_ffffn);
      assert.ok(highest < 1000, `slot ${highest} in round ${round}`);
    }
    await daemon.descriptorsAre(level);
  });
  await step("RELEASE closes an open file, on any loop", async () => {
    const { nodeid } = client.lookup(ROOT, "f0");
    const opened = Array.from({ length: 200 }, (_, i) => (i % 2 ? client : second).open(nodeid, 2).fh);
    assert.equal(new Set(opened).size, 200);
    await daemon.descriptorsAre(level + 201);
    for (const [i, fh] of opened.entries()) assert.equal((i % 3 ? client : second).release(nodeid, fh).error, 0);
    await daemon.descriptorsAre(level + 1);
    // The open file keeps its inode when the guest forgets the node.
    const { fh } = client.open(nodeid);
    client.forget(nodeid, 1);
    await daemon.descriptorsAre(level + 1);
    assert.equal(client.read(nodeid, fh, 0, 10).error, 0);
    assert.equal(client.release(nodeid, fh).error, 0);
    await daemon.descriptorsAre(level);
  });
  await step("LOOKUP, FORGET, OPEN and RELEASE on two loops at once lose nothing", async () => {
    const next = random(99);
    const known: bigint[] = [1n], open: bigint[] = [0n];
    for (let round = 0; round < 60; round++) {
      const pending = Array.from({ length: 80 }, (_, i) => {
        const one = i % 2 ? client : second;
        const nodeid = known[next(known.length)], fh = open[next(open.length)];
        const kind = next(6);
        if (kind < 2) {
          return { kind, one, sent: one.start(op.FUSE_LOOKUP, ROOT, names(`f${next(4)}`), { outSize: 128 }) };
        }
        if (kind === 2) {
          return { kind, one, sent: one.start(op.FUSE_FORGET, nodeid, u64(1 + next(9)), { noReply: true }) };
        }
        if (kind === 3) return { kind, one, sent: one.start(op.FUSE_OPEN, nodeid, u32(0, 0), { outSize: 16 }) };
        if (kind === 4) return { kind, one, sent: one.start(op.FUSE_RELEASE, 1, bytes(u64(fh), u32(0, 0), u64(0))) };
        const args = bytes(u64(fh, 0), u32(10, 0), u64(0), u32(0, 0));
        return { kind, one, sent: one.start(op.FUSE_READ, 1, args, { dataOut: 10 }) };
      });
      for (const { kind, one, sent } of pending) {
        const { error, data } = one.finish(sent);
        if (kind === 5 && error === 0) assert.equal(data.length, 0, "the files are empty");
        if (error !== 0 || (kind !== 3 && kind > 1)) continue;
        (kind === 3 ? open : known).push(new DataView(data.buffer).getBigUint64(0, true));
      }
      known.splice(1, Math.max(0, known.length - 30));
      open.splice(1, Math.max(0, open.length - 30));
    }
    const { nodeid } = client.lookup(ROOT, "f0");
    assert.equal(client.lookup(ROOT, "f0").nodeid, nodeid);
    assert.equal(client.destroy().error, 0);
    await daemon.descriptorsAre(level);
    assert.equal(client.init().error, 0);
  });
  await step("Requests that fail leave no descriptor behind", async () => {
    const { nodeid } = client.lookup(ROOT, "f0");
    for (let i = 0; i < 50; i++) {
      client.create(ROOT, "f1", 0o202), client.create(ROOT, "..", 2), client.open(ROOT), client.opendir(nodeid);
      client.lookup(ROOT, "none"),
        client.lookup(nodeid, "x"),
        client.mkdir(ROOT, "f2"),
        client.link(nodeid, ROOT, "f3");
      client.rename(ROOT, "none", ROOT, "f1"),
        client.read(nodeid, 99, 0, 1),
        client.setattr(nodeid, { size: 2n ** 63n });
      client.readdir(ROOT, 5),
        client.symlink(ROOT, "f4", "x"),
        client.mknod(ROOT, "f5", 0o100644),
        client.flush(nodeid, 3);
    }
    client.forget(nodeid, 1);
    await daemon.descriptorsAre(level);
  });
});
