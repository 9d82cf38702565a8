// Nothing waits on one slow request: a share on a file system of the host that does not answer until it is told.
import assert from "node:assert/strict";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import { FuseClient, type Pending, type Reply } from "../../bench/fuse_client.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { EINTR, ENOENT, ENOSYS } from "../../ffi/errno.ts";
import { Daemon, isRoot } from "./daemon.ts";
import { cannotMount, SlowHost } from "./slow_host.ts";

const ROOT = 1;
const S_IFREG = 0o100000;
const TEXT = "0123456789";
/** Fewer helpers than requests that wait: it takes a while until there are many. */
const HELPERS = 4;
const few = [`--thread-pool-size=${HELPERS}`];
const TO_END = 0x7fff_ffff_ffff_ffffn;

async function start(args: string[] = [], requestQueues = 2): Promise<{ daemon: Daemon; host: SlowHost }> {
  let host: SlowHost | undefined;
  const prepare = async (share: string) => {
    host = new SlowHost(share);
    await host.ready();
    return () => host!.close();
  };
  const daemon = await Daemon.start({ args, prepare, requestQueues });
  return { daemon, host: host! };
}

interface Subject {
  name: string;
  /** What the host is asked, and holds. */
  held: number;
  start: () => Pending;
  /** Checks the answer, beyond that there is no error. */
  check?: (reply: Reply) => void;
  /** It may be answered before: its descriptor is closed when nobody can mean it any more. */
  early?: boolean;
  /** The host's kernel does not let it be interrupted. */
  stubborn?: boolean;
}

/** Makes what the subjects need, and each operation that may wait. */
function subjects(client: FuseClient, round: string): Subject[] {
  const made = (name: string) => {
    const { error, nodeid, fh } = client.create(ROOT, `slow-${name}-${round}`, 2);
    assert.equal(error, 0, name);
    assert.equal(client.write(nodeid, fh, 0, new TextEncoder().encode(TEXT)).error, 0);
    return { nodeid, fh, name: `slow-${name}-${round}` };
  };
  const file = made("file");
  const dir = client.mkdir(ROOT, `slow-dir-${round}`).nodeid;
  const listed = client.opendir(dir).fh;
  const gone = made("gone"), moved = made("moved"), linked = made("linked"), sought = made("sought");
  assert.equal(client.rmdir(ROOT, "nothing").error, -ENOENT);
  client.mkdir(ROOT, `slow-rmdir-${round}`);
  const link = client.symlink(ROOT, `slow-link-${round}`, "to").nodeid;
  const fresh = (what: string) => `slow-${what}-new-${round}`;
  const named = (opcode: number, name: string, before: Uint8Array = bytes(), outSize = 128) =>
    client.start(opcode, ROOT, bytes(before, names(name)), { outSize });
  const on = (opcode: number, nodeid: bigint, args: Uint8Array, outSize = 0) =>
    client.start(opcode, nodeid, args, { outSize });
  const text = (reply: Reply) => assert.equal(new TextDecoder().decode(reply.data), TEXT);
  const attr = "user.a";
  assert.equal(
    client.request(op.FUSE_SETXATTR, file.nodeid, bytes(u32(5, 0), names(attr), new Uint8Array(5))).error,
    0,
  );
  const list: Subject[] = [
    { name: "LOOKUP", held: op.FUSE_LOOKUP, start: () => named(op.FUSE_LOOKUP, file.name) },
    {
      name: "GETATTR",
      held: op.FUSE_GETATTR,
      start: () => on(op.FUSE_GETATTR, file.nodeid, bytes(u32(0, 0), u64(0)), 104),
    },
    {
      name: "SETATTR",
      held: op.FUSE_SETATTR,
      start: () =>
        on(op.FUSE_SETATTR, file.nodeid, bytes(u32(1, 0), new Uint8Array(60), u32(0o600), new Uint8Array(16)), 104),
      check: ({ data }) => assert.equal(new DataView(data.buffer).getUint32(16 + 60, true), S_IFREG | 0o600),
    },
    { name: "OPEN", held: op.FUSE_OPEN, start: () => on(op.FUSE_OPEN, file.nodeid, u32(0, 0), 16) },
    { name: "OPENDIR", held: op.FUSE_OPENDIR, start: () => on(op.FUSE_OPENDIR, dir, u32(0, 0), 16) },
    {
      name: "READDIR",
      held: op.FUSE_READDIR,
      start: () =>
        client.start(op.FUSE_READDIR, dir, bytes(u64(listed, 0), u32(4096, 0), u64(0, 0)), { dataOut: 4096 }),
      check: ({ data }) => assert.equal(data.length, 64, "two entries"),
    },
    {
      name: "READDIRPLUS",
      held: op.FUSE_LOOKUP,
      start: () => {
        const { fh } = client.opendir(ROOT);
        return client.start(op.FUSE_READDIRPLUS, ROOT, bytes(u64(fh, 0), u32(65536, 0), u64(0, 0)), { dataOut: 65536 });
      },
      // An entry whose node cannot be had is an entry without one.
      stubborn: true,
    },
    {
      name: "CREATE",
      held: op.FUSE_CREATE,
      start: () => named(op.FUSE_CREATE, fresh("file"), u32(2, 0o100644, 0, 0), 144),
    },
    { name: "MKNOD", held: op.FUSE_MKNOD, start: () => named(op.FUSE_MKNOD, fresh("node"), u32(0o100644, 0, 0, 0)) },
    { name: "MKDIR", held: op.FUSE_MKDIR, start: () => named(op.FUSE_MKDIR, fresh("dir"), u32(0o755, 0)) },
    {
      name: "SYMLINK",
      held: op.FUSE_SYMLINK,
      start: () => client.start(op.FUSE_SYMLINK, ROOT, names(fresh("symlink"), "target"), { outSize: 128 }),
    },
    { name: "LINK", held: op.FUSE_LINK, start: () => named(op.FUSE_LINK, fresh("link"), u64(linked.nodeid)) },
    { name: "UNLINK", held: op.FUSE_UNLINK, start: () => named(op.FUSE_UNLINK, gone.name, bytes(), 0) },
    { name: "RMDIR", held: op.FUSE_RMDIR, start: () => named(op.FUSE_RMDIR, `slow-rmdir-${round}`, bytes(), 0) },
    {
      name: "RENAME",
      held: op.FUSE_RENAME,
      start: () => client.start(op.FUSE_RENAME, ROOT, bytes(u64(ROOT), names(moved.name, fresh("name"))), {}),
    },
    {
      name: "READLINK",
      held: op.FUSE_READLINK,
      start: () => client.start(op.FUSE_READLINK, link, bytes(), { dataOut: 4096 }),
      check: ({ data }) => assert.equal(new TextDecoder().decode(data), "to"),
    },
    {
      name: "READ",
      held: op.FUSE_READ,
      start: () =>
        client.start(op.FUSE_READ, file.nodeid, bytes(u64(file.fh, 0), u32(100, 0), u64(0), u32(0, 0)), {
          dataOut: 100,
        }),
      check: text,
    },
    {
      name: "WRITE",
      held: op.FUSE_WRITE,
      start: () =>
        client.start(op.FUSE_WRITE, file.nodeid, bytes(u64(file.fh, 0), u32(4, 0), u64(0), u32(0, 0)), {
          outSize: 8,
          dataIn: new TextEncoder().encode("0123"),
        }),
      check: ({ data }) => assert.equal(data[0], 4),
    },
    {
      name: "WRITE that clears set-user-ID bits",
      held: op.FUSE_WRITE,
      start: () =>
        client.start(op.FUSE_WRITE, file.nodeid, bytes(u64(file.fh, 0), u32(4, 4), u64(0), u32(0, 0)), {
          outSize: 8,
          dataIn: new TextEncoder().encode("0123"),
        }),
      check: ({ data }) => assert.equal(data[0], 4),
    },
    { name: "FSYNC", held: op.FUSE_FSYNC, start: () => on(op.FUSE_FSYNC, file.nodeid, bytes(u64(file.fh), u32(0, 0))) },
    {
      name: "FALLOCATE",
      held: op.FUSE_FALLOCATE,
      start: () => on(op.FUSE_FALLOCATE, sought.nodeid, bytes(u64(sought.fh, 0, 100), u32(0, 0))),
    },
    {
      name: "LSEEK",
      held: op.FUSE_LSEEK,
      start: () => on(op.FUSE_LSEEK, file.nodeid, bytes(u64(file.fh, 3), u32(3, 0)), 8),
      check: ({ data }) => assert.equal(data[0], 3),
    },
    {
      name: "FLUSH",
      held: op.FUSE_FLUSH,
      start: () => on(op.FUSE_FLUSH, file.nodeid, bytes(u64(file.fh), u32(0, 0), u64(7))),
      stubborn: true,
    },
    {
      name: "STATFS",
      held: op.FUSE_STATFS,
      start: () => on(op.FUSE_STATFS, file.nodeid, bytes(), 80),
      check: ({ data }) => assert.equal(new DataView(data.buffer).getBigUint64(0, true), 1234n),
    },
    {
      name: "SETXATTR",
      held: op.FUSE_SETXATTR,
      start: () =>
        on(op.FUSE_SETXATTR, file.nodeid, bytes(u32(5, 0), names("user.b"), new TextEncoder().encode("value"))),
    },
    {
      name: "GETXATTR",
      held: op.FUSE_GETXATTR,
      start: () => on(op.FUSE_GETXATTR, file.nodeid, bytes(u32(100, 0), names(attr)), 100),
      check: ({ data }) => assert.equal(data.length, 5),
    },
    {
      name: "LISTXATTR",
      held: op.FUSE_LISTXATTR,
      start: () => on(op.FUSE_LISTXATTR, file.nodeid, u32(100, 0), 100),
      check: ({ data }) => assert.match(new TextDecoder().decode(data), /^user\.a\0/),
    },
    { name: "REMOVEXATTR", held: op.FUSE_REMOVEXATTR, start: () => on(op.FUSE_REMOVEXATTR, file.nodeid, names(attr)) },
    { name: "ACCESS", held: op.FUSE_GETATTR, start: () => on(op.FUSE_ACCESS, file.nodeid, u32(4, 0)) },
    {
      name: "STATX",
      held: op.FUSE_GETATTR,
      start: () => on(op.FUSE_STATX, file.nodeid, bytes(u32(0, 0), u64(0), u32(0, 0x7ff)), 288),
    },
    {
      name: "RELEASE",
      held: op.FUSE_FLUSH,
      start: () => on(op.FUSE_RELEASE, sought.nodeid, bytes(u64(sought.fh), u32(0, 0), u64(0))),
      early: true,
      stubborn: true,
    },
  ];
  return list;
}

/** Requests that are answered at once while another waits. */
function quickOnes(client: FuseClient, quick: { nodeid: bigint; fh: bigint }, what: string) {
  assert.equal(client.getattr(quick.nodeid).error, 0, what);
  assert.equal(new TextDecoder().decode(client.read(quick.nodeid, quick.fh, 0, 100).data), TEXT, what);
}

async function until(so: () => boolean, what: string) {
  for (const end = Date.now() + 10_000; !so();) {
    assert.ok(Date.now() < end, `${what}: not within 10 s`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const cannot = cannotMount();
const sanitize = { sanitizeOps: false, sanitizeResources: false };

Deno.test({
  name: `A slow file system${cannot && ` (skipped: ${cannot})`}`,
  ignore: cannot !== "",
  ...sanitize,
  fn: async (t) => {
    const { daemon, host } = await start([...few, "--xattr", "--posix-lock", "--flock"]);
    const session = daemon.session({ requestQueues: 2, timeoutMs: 20_000, maxData: 1 << 17 });
    try {
      const { client, queues } = session;
      const quick = client.create(ROOT, "quick", 2);
      assert.equal(client.write(quick.nodeid, quick.fh, 0, new TextEncoder().encode(TEXT)).error, 0);
      const second = new FuseClient(queues[2], { hiprio: queues[0], timeoutMs: 20_000, maxData: 1 << 17 });
      for (const subject of subjects(client, "wait")) {
        await t.step(`${subject.name} delays no other request of its queue, and is answered in the end`, () => {
          host.hold(subject.held);
          const pending = subject.start();
          host.untilHeld(1);
          quickOnes(client, quick, subject.name);
          quickOnes(second, quick, subject.name);
          assert.ok(subject.early || !client.isDone(pending));
          host.hold(0);
          const reply = client.finish(pending);
          assert.equal(reply.error, 0);
          subject.check?.(reply);
        });
      }
      for (const subject of subjects(client, "interrupt").filter(({ stubborn }) => !stubborn)) {
        await t.step(`INTERRUPT ends ${subject.name} with EINTR`, async () => {
          host.hold(subject.held);
          const pending = subject.start();
          host.untilHeld(1);
          assert.equal(client.isDone(pending), false);
          await until(() => {
            client.interrupt(pending.unique);
            return client.isDone(pending);
          }, subject.name);
          assert.equal(client.finish(pending).error, -EINTR);
          host.hold(0);
          host.untilHeld(0);
          quickOnes(client, quick, subject.name);
        });
      }
      await t.step("INTERRUPT ends a request that no helper has taken, and no other", async () => {
        const slow = client.create(ROOT, "slow-many", 2).nodeid;
        host.hold(op.FUSE_STATFS);
        const all = Array.from({ length: 40 }, () => client.start(op.FUSE_STATFS, slow, bytes(), { outSize: 80 }));
        host.untilHeld(HELPERS);
        const last = all.at(-1)!;
        await until(() => {
          client.interrupt(last.unique);
          return client.isDone(last);
        }, "the last one");
        assert.equal(client.finish(last).error, -EINTR);
        host.hold(0);
        for (const one of all.slice(0, -1)) assert.equal(client.finish(one).error, 0);
      });
      await t.step("locks that are waited for leave helpers to those that hold them", () => {
        const lk = (owner: number, type: number) =>
          bytes(u64(quick.fh, owner), u64(0, TO_END), u32(type, 0), u32(0, 0));
        assert.equal(client.request(op.FUSE_SETLK, quick.nodeid, lk(1, 1)).error, 0);
        const waiting = Array.from(
          { length: 30 },
          (_, i) => client.start(op.FUSE_SETLKW, quick.nodeid, lk(10 + i, 1), {}),
        );
        quickOnes(client, quick, "SETLKW");
        assert.ok(waiting.every((one) => !client.isDone(one)));
        assert.equal(client.request(op.FUSE_SETLK, quick.nodeid, lk(1, 2)).error, 0);
        // One after the other: each gives its lock up when it has it.
        const left = new Set(waiting.map((_, i) => i));
        while (left.size > 0) {
          const i = [...left].find((one) => client.isDone(waiting[one]));
          if (i === undefined) {
            quickOnes(client, quick, "SETLKW");
            continue;
          }
          left.delete(i);
          assert.equal(client.finish(waiting[i]).error, 0);
          assert.equal(client.request(op.FUSE_SETLK, quick.nodeid, lk(10 + i, 2)).error, 0);
        }
      });
    } finally {
      host.hold(0);
      session.close();
      await daemon.stop();
    }
  },
});

Deno.test({
  name: `Sessions end while a slow file system keeps their requests${cannot && ` (skipped: ${cannot})`}`,
  ignore: cannot !== "",
  ...sanitize,
  fn: async (t) => {
    const { daemon, host } = await start(few);
    const SLOW = 20;
    const open = () => daemon.session({ requestQueues: 2, timeoutMs: 20_000, maxData: 1 << 17 });
    /** Twenty requests that wait, over two queues. */
    const slow = (session: ReturnType<typeof open>) => {
      const { client, queues } = session;
      const second = new FuseClient(queues[2], { timeoutMs: 20_000, maxData: 1 << 17 });
      const { nodeid } = client.create(ROOT, "slow", 2);
      client.open(nodeid);
      host.hold(op.FUSE_STATFS);
      const pending = Array.from({ length: SLOW }, (_, i) => {
        const one = i % 2 ? client : second;
        return { one, pending: one.start(op.FUSE_STATFS, nodeid, bytes(), { outSize: 80 }) };
      });
      host.untilHeld(HELPERS);
      // Answered on the loop, behind the others: those that no helper has are taken too, and not refused by a DESTROY.
      for (const one of [client, second]) assert.equal(one.request(op.FUSE_BMAP, ROOT).error, -ENOSYS);
      return pending;
    };
    try {
      // Helpers have descriptors of their own: they are all there behind this.
      const warm = open();
      const first = slow(warm);
      host.hold(0);
      for (const { one, pending } of first) assert.equal(one.finish(pending).error, 0);
      warm.close();
      let level = -1;
      await t.step("DESTROY waits for them, and each is answered", async () => {
        const session = open();
        const pending = slow(session);
        const destroy = session.client.start(op.FUSE_DESTROY, 0, bytes(), { replyOptional: true });
        assert.equal(session.client.isDone(destroy), false);
        host.hold(0);
        for (const { one, pending: each } of pending) assert.equal(one.finish(each).error, 0);
        assert.equal(session.client.finish(destroy).error, 0);
        // The socket, memory, and kick and call of each queue.
        level = daemon.descriptors - 8;
        session.close();
        await daemon.descriptorsAre(level);
      });
      await t.step("a front end that goes leaves nothing behind, while the host still keeps its requests", async () => {
        for (let round = 0; round < 3; round++) {
          const session = open();
          slow(session);
          session.close();
          // Interrupted, for nobody will see the answers.
          host.untilHeld(0);
          host.hold(0);
          await daemon.descriptorsAre(level);
        }
      });
      await t.step("and the next is served", () => {
        using session = open();
        const { nodeid } = session.client.lookup(ROOT, "slow");
        assert.equal(session.client.getattr(nodeid).error, 0);
      });
    } finally {
      host.hold(0);
      await daemon.stop();
    }
  },
});

const disk = isRoot ? "" : "needs root, to drop the kernel's caches";
Deno.test({
  name: `A cold directory of a disk${disk && ` (skipped: ${disk})`}`,
  ignore: disk !== "",
  ...sanitize,
  fn: async (t) => {
    const daemon = await Daemon.start();
    try {
      const count = 50;
      for (let i = 0; i < count; i++) {
        Deno.mkdirSync(daemon.path(`dir${i}`));
        Deno.writeTextFileSync(daemon.path(`dir${i}/file`), `${i}`);
      }
      using session = daemon.session();
      const { client } = session;
      const walk = () => {
        for (let i = 0; i < count; i++) {
          const dir = client.lookup(ROOT, `dir${i}`);
          const file = client.lookup(dir.nodeid, "file");
          assert.deepEqual([dir.error, file.error], [0, 0]);
          assert.equal(Number(file.attr.size), `${i}`.length);
          assert.equal(client.lookup(dir.nodeid, "none").error, -ENOENT);
          client.forget(file.nodeid), client.forget(dir.nodeid);
        }
      };
      await t.step("LOOKUP of names that are not cached answers as ever", () => {
        for (let round = 0; round < 3; round++) {
          Deno.writeTextFileSync("/proc/sys/vm/drop_caches", "3");
          walk();
        }
      });
      await t.step("and so do the others", () => {
        Deno.writeTextFileSync("/proc/sys/vm/drop_caches", "3");
        const entries = client.list(ROOT, true).entries;
        assert.equal(entries.length, count + 2);
        assert.ok(entries.every((one) => /^\.\.?$/.test(one.name) || one.entry!.nodeid !== 0n));
      });
    } finally {
      await daemon.stop();
    }
  },
});
