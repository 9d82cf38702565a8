// No lock in the usual case: two loops of the real service serve the same files from two queues, and what they count is compared.
import assert from "node:assert/strict";
import { Virtqueue } from "../../bench/driver.ts";
import { FuseClient, type Pending } from "../../bench/fuse_client.ts";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { GuestMemory } from "../../bench/guest_memory.ts";
import { defaultOptions } from "../../fs/config.ts";
import { openShare } from "../../fs/share.ts";
import { DeviceControl } from "../../vq/control.ts";
import { silent } from "../../vq/log.ts";
import { LoopPool } from "../../vq/pool.ts";
import { countLocksIn, lock, lockCounts, lockCountsBytes, unlock } from "../../vq/spin.ts";
import { Daemon } from "./daemon.ts";

const ROOT = 1n;
const FILES = 4;
const BLOCK = 4096;
/** Requests in flight on each queue, and in a phase on both. */
const DEPTH = 16;
const REQUESTS = 20_000;

interface File {
  node: bigint;
  fh: bigint;
}

type Next = (client: FuseClient, i: number) => Pending;

/** Has each client send `count` requests, DEPTH at a time, and hands the replies to `done`. */
function load(clients: FuseClient[], count: number, next: Next, done: (client: FuseClient, data: Uint8Array) => void) {
  const rings = clients.map((client) => ({ client, pending: [] as Pending[] }));
  for (let i = 0; i < count + DEPTH; i++) {
    for (const { client, pending } of rings) {
      if (pending.length === DEPTH || (i >= count && pending.length > 0)) {
        const { error, data } = client.finish(pending.shift()!);
        assert.equal(error, 0);
        done(client, data);
      }
      if (i < count) pending.push(next(client, i));
    }
  }
}

function openFiles(client: FuseClient): File[] {
  return Array.from({ length: FILES }, (_, i) => {
    const { nodeid } = client.lookup(ROOT, `file${i}`);
    const { error, fh } = client.open(nodeid, 2);
    assert.equal(error, 0);
    return { node: nodeid, fh };
  });
}

const block = new Uint8Array(BLOCK).fill(7);

/** READ, WRITE, GETATTR with and without a handle, LOOKUP of a known node: of the same files from all queues. */
function usual(files: File[]): Next {
  return (client, i) => {
    const { node, fh } = files[i % FILES];
    const at = u64(fh, i % 16 * BLOCK);
    switch ((i >> 2) % 5) {
      case 0:
        return client.start(op.FUSE_READ, node, bytes(at, u32(BLOCK, 0), u64(0), u32(0, 0)), { dataOut: BLOCK });
      case 1:
        return client.start(op.FUSE_WRITE, node, bytes(at, u32(BLOCK, 0), u64(0), u32(0, 0)), {
          outSize: 8,
          dataIn: block,
        });
      case 2:
        return client.start(op.FUSE_GETATTR, node, bytes(u32(0, 0), u64(0)), { outSize: 104 });
      case 3:
        return client.start(op.FUSE_GETATTR, node, bytes(u32(1, 0), u64(fh)), { outSize: 104 });
      default:
        return client.start(op.FUSE_LOOKUP, ROOT, names(`file${i % FILES}`), { outSize: 128 });
    }
  };
}

function makeFiles(dir: string): void {
  for (let i = 0; i < FILES; i++) Deno.writeFileSync(`${dir}/file${i}`, new Uint8Array(16 * BLOCK));
}

Deno.test("lockCounts() sums up what lock() counts", () => {
  const shared = new SharedArrayBuffer(lockCountsBytes(3));
  const words = new Int32Array(1);
  for (const thread of [0, 2]) {
    countLocksIn(shared, thread);
    assert.equal(lock(words, 0), false);
    unlock(words, 0);
  }
  assert.deepEqual(lockCounts(shared), { taken: 2, contended: 0 });
});

Deno.test("two loops take no lock for READ, WRITE, GETATTR and LOOKUP of what is known", {
  sanitizeOps: false,
  sanitizeResources: false,
}, async () => {
  const dir = Deno.makeTempDirSync({ dir: "/dev/shm" });
  makeFiles(dir);
  const workers: Worker[] = [];
  const log = { error: assert.fail, warn: assert.fail, info: () => {}, debug: () => {} };
  const pool = new LoopPool({
    count: 2,
    helpers: 1,
    pollMaxUs: 32,
    debug: false,
    log,
    spawn: () => {
      workers.push(new Worker(new URL("../../main.ts", import.meta.url), { type: "module" }));
      return workers.at(-1)!;
    },
    onFatal: (_, reason) => assert.fail(reason),
  });
  const device = new DeviceControl({
    id: 0,
    pool,
    queueCount: 2,
    features: 0n,
    config: new Uint8Array(0),
    service: openShare(dir, defaultOptions, 2, silent),
    loopOf: (queue) => queue,
  });
  const memory = GuestMemory.create(256 << 20);
  await device.setMemory(memory.regions);
  const queues = [0, 1].map((index) => Virtqueue.create(memory, index, { size: 512 }));
  for (const queue of queues) {
    const { index, size, desc, avail, used, kickFd, callFd } = queue.state;
    await device.startQueue(index, {
      size,
      desc: memory.userAddr(desc),
      avail: memory.userAddr(avail),
      used: memory.userAddr(used),
      base: 0,
      kickFd,
      callFd,
      errFd: -1,
      eventIdx: true,
      indirect: true,
    });
  }
  const clients = queues.map((queue) => new FuseClient(queue, { maxData: BLOCK }));
  assert.equal(clients[0].init().error, 0);
  const files = openFiles(clients[0]);

  const before = pool.locks;
  assert.ok(before.taken > 0, "the counters work: these files had to be made known");
  load(clients, REQUESTS / 2, usual(files), () => {});
  assert.deepEqual(pool.locks, before, "locks taken, and contended");

  // The contrast: names come and go.
  const made: File[] = [];
  load(clients, 2000, (client, i) => {
    const name = names(`made${client === clients[0] ? 0 : 1}-${i}`);
    return client.start(op.FUSE_CREATE, ROOT, bytes(u32(2, 0o100600, 0, 0), name), { outSize: 144 });
  }, (_, data) => {
    const view = new DataView(data.buffer, data.byteOffset);
    made.push({ node: view.getBigUint64(0, true), fh: view.getBigUint64(128, true) });
  });
  const created = pool.locks;
  assert.equal(made.length, 4000);
  assert.ok(created.taken - before.taken >= made.length, "each new node takes the lock of its bucket");
  load(clients, 2000, (client, i) => {
    const { node } = made[i * 2 + clients.indexOf(client)];
    return client.start(op.FUSE_FORGET, node, u64(1), { noReply: true });
  }, () => {});
  const forgotten = pool.locks;
  assert.ok(forgotten.taken - created.taken >= made.length);
  console.log(
    `locks taken by ${made.length} CREATEs: ${created.taken - before.taken} (${
      created.contended - before.contended
    } contended), ` +
      `by as many FORGETs: ${forgotten.taken - created.taken} (${forgotten.contended - created.contended} contended)`,
  );

  await device.reset();
  await pool.exit();
  for (const worker of workers) worker.terminate();
  for (const queue of queues) queue.close();
  memory.close();
  Deno.removeSync(dir, { recursive: true });
});

Deno.test("the daemon says at the end of a session how many locks were taken: none more under load", async () => {
  const daemon = await Daemon.start({ base: "/dev/shm", args: ["--log-level", "debug"] });
  try {
    makeFiles(daemon.path());
    const said = () => [...daemon.log.matchAll(/locks taken: (\d+), of which others held (\d+)/g)];
    const session = async (requests: number) => {
      const had = said().length;
      const guest = daemon.session({ requestQueues: 2, memory: 256 << 20, maxData: BLOCK });
      const clients = [guest.client, new FuseClient(guest.queues[2], { maxData: BLOCK })];
      load(clients, requests, usual(openFiles(clients[0])), () => {});
      guest.close();
      await daemon.until(() => said().length > had, "the counts");
      return Number(said().at(-1)![1]);
    };
    const counts = [await session(0), await session(0), await session(2000), await session(0)];
    const taken = counts.slice(1).map((count, i) => count - counts[i]);
    assert.ok(taken[0] > 0);
    assert.deepEqual(taken, [taken[0], taken[0], taken[0]], "with the load as without");
  } finally {
    await daemon.stop();
  }
});
