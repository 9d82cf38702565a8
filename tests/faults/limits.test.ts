// A guest that makes the daemon hold as much as it can: each kind ends with an errno, costs no more than its table has room for, and
// is given back. Descriptors are host.test.ts's, nodes beyond descriptors tests/fs/file_handles.test.ts's.
import assert from "node:assert/strict";
import { memoryUse } from "../../bench/process.ts";
import { FuseClient } from "../../bench/fuse_client.ts";
import { bytes, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { EINTR, EIO, ENFILE, ENOLCK } from "../../ffi/errno.ts";
import { F_WRLCK } from "../../ffi/stat_layout.ts";
import { Daemon } from "../fs/daemon.ts";

const ROOT = 1;
const O_RDWR = 2;
const OWNERS = 16384;
/** A loop's slots. */
const SLOTS = 1024;
const GROWTH_MAX = 48 << 20;

const lk = (fh: bigint, owner: number) =>
  bytes(u64(fh, owner), u64(0, 0x7fff_ffff_ffff_ffffn), u32(F_WRLCK, 0), u32(0, 0));
const own = (daemon: Daemon) => memoryUse([daemon.pid]).pssOwn;

Deno.test("lock owners: ENOLCK where the table is full, or ENFILE where descriptors are; all of them go with the file", async () => {
  const daemon = await Daemon.start({ args: ["--posix-lock"] });
  try {
    using session = daemon.session();
    const { client } = session;
    const { nodeid } = client.create(ROOT, "file", O_RDWR);
    let before = 0;
    for (let round = 0; round < 3; round++) {
      const { fh } = client.open(nodeid, O_RDWR);
      // Each owner on a byte of its own would be granted: so is the first, and what is refused has cost an owner's place as well.
      let error = 0;
      let owners = 0;
      for (; owners <= OWNERS + 10 && error !== -ENOLCK && error !== -ENFILE; owners++) {
        error = client.request(op.FUSE_SETLK, nodeid, lk(fh, owners + 1)).error;
      }
      assert.ok(error === -ENOLCK || error === -ENFILE, `${owners} owners: ${error}`);
      assert.equal(client.release(nodeid, fh).error, 0);
      await daemon.until(() => daemon.files < 10, "descriptors of locks to be closed");
      if (round === 0) before = own(daemon);
    }
    const grown = own(daemon) - before;
    assert.ok(grown < GROWTH_MAX, `${grown} bytes`);
  } finally {
    await daemon.stop();
  }
});

Deno.test("requests without end on one queue: there is a slot for the others, and all are answered when their queues stop", async () => {
  const daemon = await Daemon.start({ requestQueues: 1, args: ["--posix-lock", "--thread-pool-size", "2"] });
  try {
    const session = daemon.session({ memory: 512 << 20, maxData: 4096, queue: { size: 2048 } });
    const { client, queues } = session;
    const { nodeid, fh } = client.create(ROOT, "file", O_RDWR);
    assert.equal(client.request(op.FUSE_SETLK, nodeid, lk(BigInt(fh), 1)).error, 0);
    const waits = Array.from(
      { length: SLOTS + 500 },
      (_, i) => client.start(op.FUSE_SETLKW, nodeid, lk(BigInt(fh), i + 2)),
    );
    // On the high-priority queue, which shares the loop.
    const urgent = new FuseClient(queues[0]);
    assert.equal(urgent.getattr(ROOT).error, 0);
    const answered = waits.filter((one) => client.isDone(one));
    assert.equal(answered.length, 0);
    // DESTROY takes them all back: those that were taken, and those that were not when they are.
    assert.equal(urgent.destroy().error, 0);
    const errors = waits.map((one) => client.finish(one).error);
    assert.ok(errors.every((error) => error === -EINTR || error === -EIO), `${[...new Set(errors)]}`);
    const taken = errors.filter((error) => error === -EINTR).length;
    assert.ok(taken > 0, `${taken} were taken`);
    assert.equal(urgent.init().error, 0);
    assert.equal(client.getattr(ROOT).error, 0);
    session.close();
  } finally {
    await daemon.stop();
  }
});

Deno.test("nodes without end: a session's worth of look-ups, made and forgotten, leaves no more than before", async () => {
  const daemon = await Daemon.start({ base: "/dev/shm", args: ["--rlimit-nofile", "2000"] });
  const FILES = 5000;
  try {
    for (let i = 0; i < FILES; i++) Deno.writeTextFileSync(daemon.path(`f${i}`), "");
    let before = 0;
    for (let round = 0; round < 6; round++) {
      using session = daemon.session();
      const { client } = session;
      const nodes = new Set<bigint>();
      for (let i = 0; i < FILES; i++) {
        const { error, nodeid } = client.lookup(ROOT, `f${i}`);
        assert.equal(error, 0);
        nodes.add(nodeid);
      }
      assert.equal(nodes.size, FILES);
      // Every other session goes without a word.
      if (round % 2 === 0) { for (const nodeid of nodes) client.forget(nodeid); }
      assert.equal(client.getattr(ROOT).error, 0);
      if (round === 1) before = own(daemon);
    }
    const grown = own(daemon) - before;
    assert.ok(grown < GROWTH_MAX, `${grown} bytes`);
    await daemon.until(() => daemon.files < 20, "descriptors to be closed");
  } finally {
    await daemon.stop();
  }
});
