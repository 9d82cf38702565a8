// Nodes that are known by file handle: --inode-file-handles, and what becomes of few descriptors.
import assert from "node:assert/strict";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import { FuseClient, type Pending } from "../../bench/fuse_client.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { ENFILE, ENOENT, EOPNOTSUPP, ESTALE } from "../../ffi/errno.ts";
import { Daemon, needsMounts, needsRoot, withDaemon } from "./daemon.ts";
import { random } from "./random.ts";

const ROOT = 1;
const MANY = 100_000;
const MANY_IN_MEMORY = 20_000;
/** Files of a test that opens them. */
const FILES = 300;
const LIMIT = 1000;

const nodeidOf = (data: Uint8Array<ArrayBuffer>) => new DataView(data.buffer, data.byteOffset).getBigUint64(0, true);

/** Has both loops answer one request for each number, 32 at a time, and returns the replies' data. */
function each(
  clients: FuseClient[],
  count: number,
  start: (client: FuseClient, i: number) => Pending,
): Uint8Array<ArrayBuffer>[] {
  const replies: Uint8Array<ArrayBuffer>[] = [];
  for (let i = 0; i < count; i += 32) {
    const sent = Array.from({ length: Math.min(32, count - i) }, (_, k) => {
      const client = clients[k % clients.length];
      return { client, pending: start(client, i + k) };
    });
    for (const { client, pending } of sent) {
      const { error, data } = client.finish(pending);
      assert.equal(error, 0, `request ${i} and following`);
      replies.push(data);
    }
  }
  return replies;
}

/** Makes so many empty files, without a process or call for each. */
function makeFiles(dir: string, count: number): void {
  const script = 'cd "$1" && seq -f f%.0f 0 "$(($2 - 1))" | xargs touch';
  const { success } = new Deno.Command("sh", { args: ["-c", script, "sh", dir, `${count}`] }).outputSync();
  assert.ok(success);
}

const two = { requestQueues: 2, maxData: 65536 };
for (const base of ["/tmp", "/dev/shm"]) {
  const options = { base, args: ["--rlimit-nofile", `${LIMIT}`], session: two };
  withDaemon(`Few descriptors in ${base}`, options, async (daemon, session, step) => {
    const { client } = session;
    const many = base === "/tmp" ? MANY : MANY_IN_MEMORY;
    const clients = [client, new FuseClient(session.queues[2], { maxData: 65536 })];
    makeFiles(daemon.path(), many);
    const level = daemon.files;
    let nodes: bigint[] = [];
    await step(`${many} files are looked up with ${LIMIT} descriptors, on two loops`, () => {
      const replies = each(clients, many, (one, i) => {
        return one.start(op.FUSE_LOOKUP, ROOT, names(`f${i}`), { outSize: 128 });
      });
      nodes = replies.map(nodeidOf);
      assert.equal(new Set(nodes).size, many);
      const held = daemon.files - level;
      assert.ok(held > 100 && held < LIMIT / 2, `${held} descriptors`);
      const dir = client.mkdir(ROOT, "dir").nodeid;
      assert.equal(daemon.files, level + held + 1, "a directory may have one still");
      assert.equal(client.rmdir(ROOT, "dir").error, 0);
      client.forget(dir);
    }, needsRoot);
    await step("each of them is found again, and answers", () => {
      const again = each(clients, many, (one, i) => {
        return one.start(op.FUSE_LOOKUP, ROOT, names(`f${many - 1 - i}`), { outSize: 128 });
      });
      assert.deepEqual(again.map(nodeidOf).reverse(), nodes);
      const args = bytes(u32(0, 0), u64(0));
      each(clients, many, (one, i) => one.start(op.FUSE_GETATTR, nodes[i], args, { outSize: 104 }));
      assert.ok(daemon.descriptors < LIMIT - 100);
    }, needsRoot);
    await step("names are made as before, whatever is known", () => {
      for (let i = 0; i < 20; i++) {
        assert.equal(client.mkdir(ROOT, `d${i}`).error, 0);
        assert.equal(client.symlink(ROOT, `l${i}`, "f1").error, 0);
        const { error, nodeid, fh } = client.create(ROOT, `c${i}`);
        assert.equal(error, 0);
        assert.equal(client.write(nodeid, fh, 0, new Uint8Array(100)).size, 100);
        assert.equal(client.release(nodeid, fh).error, 0);
      }
    }, needsRoot);
    await step("open files get ENFILE before the daemon has none left for itself; names are made still", async () => {
      const open: bigint[] = [];
      let failed = 0;
      for (let i = 0; failed === 0 && i < LIMIT; i++) {
        const reply = client.open(nodes[i], 2);
        failed = reply.error;
        if (failed === 0) open.push(reply.fh);
      }
      assert.equal(failed, -ENFILE);
      assert.ok(open.length > 200, `${open.length} open files`);
      assert.equal(client.opendir(ROOT).error, -ENFILE);
      assert.equal(client.create(ROOT, "unmade").error, -ENFILE);
      assert.equal(client.lookup(ROOT, "unmade").error, -ENOENT);
      assert.equal(client.mkdir(ROOT, "made").error, 0);
      await daemon.until(() => daemon.log.includes("raise the limit of open files"), "a warning");
      assert.equal(daemon.log.match(/raise the limit/g)!.length, 1);
      for (const fh of open) assert.equal(client.release(nodes[0], fh).error, 0);
      assert.equal(client.open(nodes[0]).error, 0);
    }, needsRoot);
    await step("FORGET makes nodes hold descriptors again", () => {
      for (let i = 0; i < many; i += 1000) {
        client.batchForget(nodes.slice(i, i + 1000).map((nodeid) => ({ nodeid, lookups: 2 })));
      }
      const before = daemon.files;
      for (let i = 0; i < 50; i++) client.lookup(ROOT, `f${i}`);
      assert.equal(daemon.files, before + 50);
      assert.equal(client.getattr(nodes[0]).error, -ENOENT);
    }, needsRoot);
    await step("DESTROY closes all", async () => {
      assert.equal(client.destroy().error, 0);
      await daemon.filesAre(level);
    }, needsRoot);
  });
}

const mandatory = ["--inode-file-handles", "mandatory"];
for (const base of needsRoot ? [] : ["/tmp", "/dev/shm"]) {
  withDaemon(
    `Nodes by file handle in ${base}`,
    { base, args: mandatory, session: two },
    async (daemon, session, step) => {
      const { client } = session;
      const second = new FuseClient(session.queues[2], { maxData: 65536 });
      const level = daemon.files;
      const path = (name: string) => daemon.path(name);

      await step("no node holds a descriptor, and no request leaves one", () => {
        const dir = client.mkdir(ROOT, "dir");
        for (let i = 0; i < 50; i++) {
          const { nodeid } = client.mknod(dir.nodeid, `f${i}`, 0o100644);
          assert.equal(client.getattr(nodeid).error, 0);
          assert.equal(client.rename(dir.nodeid, `f${i}`, ROOT, `g${i}`).error, 0);
          assert.equal(client.link(nodeid, dir.nodeid, `h${i}`).error, 0);
          assert.equal(client.lookup(dir.nodeid, `h${i}`).nodeid, nodeid);
          assert.equal(client.lookup(dir.nodeid, "..").nodeid, BigInt(ROOT));
        }
        assert.equal(client.list(dir.nodeid, true).entries.length, 52);
        assert.equal(daemon.files, level);
      });
      await step("a file that was unlinked while it is open works, by handle and by node", () => {
        const { nodeid, fh } = client.create(ROOT, "open");
        assert.equal(client.unlink(ROOT, "open").error, 0);
        assert.equal(client.write(nodeid, fh, 0, new Uint8Array(10)).size, 10);
        assert.deepEqual(
          [client.getattr(nodeid, fh).attr.size, client.getattr(nodeid, fh).attr.nlink],
          [10n, 0].map(Number),
        );
        assert.equal(client.getattr(nodeid).attr.size, 10);
        assert.equal(client.setattr(nodeid, { size: 4 }).attr.size, 4);
        assert.equal(client.setattr(nodeid, { mode: 0o600 }).attr.mode & 0o777, 0o600);
        const again = client.open(nodeid);
        assert.equal(client.read(nodeid, again.fh, 0, 100).data.length, 4);
        assert.equal(client.release(nodeid, fh).error, 0);
        assert.equal(client.getattr(nodeid).attr.size, 4);
        assert.equal(client.release(nodeid, again.fh).error, 0);
      });
      await step("every operation on a node whose file is gone is ESTALE, and FORGET ends it", () => {
        const file = client.mknod(ROOT, "gone", 0o100644).nodeid;
        const dir = client.mkdir(ROOT, "gone-dir").nodeid;
        assert.equal(client.unlink(ROOT, "gone").error, 0);
        assert.equal(client.rmdir(ROOT, "gone-dir").error, 0);
        const errors = [
          client.getattr(file),
          client.setattr(file, { mode: 0o600 }),
          client.open(file),
          client.access(file, 4),
          client.statfs(file),
          client.link(file, ROOT, "back"),
          client.link(client.lookup(ROOT, "g0").nodeid, dir, "in"),
          client.opendir(dir),
          client.lookup(dir, "x"),
          client.lookup(dir, ".."),
          client.mkdir(dir, "x"),
          client.mknod(dir, "x", 0o100644),
          client.symlink(dir, "x", "y"),
          client.create(dir, "x"),
          client.unlink(dir, "x"),
          client.rename(ROOT, "g0", dir, "x"),
          client.rename(dir, "x", ROOT, "y"),
        ].map(({ error }) => error);
        assert.deepEqual([...new Set(errors)], [-ESTALE], `${errors}`);
        client.batchForget([file, dir].map((nodeid) => ({ nodeid, lookups: 1 })));
        assert.equal(client.getattr(file).error, -ENOENT);
        assert.equal(daemon.files, level);
      });
      await step("a file that gets the inode number of one that was deleted is another node", () => {
        // A file system that gives out numbers anew: ext4 does at once, tmpfs never.
        let [old, ino, fresh] = [0n, 0, { nodeid: 0n, attr: { ino: 0n } } as ReturnType<FuseClient["lookup"]>];
        for (let round = 0; round < 50 && Number(fresh.attr.ino) !== ino; round++) {
          Deno.writeTextFileSync(path(`old${round}`), "1");
          const { nodeid, attr } = client.lookup(ROOT, `old${round}`);
          [old, ino] = [nodeid, Number(attr.ino)];
          Deno.removeSync(path(`old${round}`));
          Deno.writeTextFileSync(path(`new${round}`), "22");
          fresh = (round % 2 ? client : second).lookup(ROOT, `new${round}`);
          assert.notEqual(fresh.nodeid, old);
          assert.equal(client.getattr(old).error, -ESTALE);
          assert.equal(client.getattr(fresh.nodeid).attr.size, 2);
          assert.equal(client.lookup(ROOT, `new${round}`).nodeid, fresh.nodeid, "and the same at the second look");
        }
        if (base === "/tmp") assert.equal(Number(fresh.attr.ino), ino, "the number came again");
      });
      await step("LOOKUP and FORGET of files that come and go on the host, on two loops at once, lose nothing", () => {
        const next = random(5);
        const known: bigint[] = [];
        const there = new Set<string>();
        for (let round = 0; round < 400; round++) {
          const name = path(`come${next(3)}`);
          if (there.delete(name)) Deno.removeSync(name);
          else {
            there.add(name);
            if (next(2)) Deno.mkdirSync(name);
            else Deno.writeTextFileSync(name, "x".repeat(next(9)));
          }
          const sent = Array.from({ length: 24 }, (_, i) => {
            const one = i % 2 ? client : second;
            const at = known[next(known.length)] ?? 99n;
            if (i % 3 < 2) {
              return { one, i, pending: one.start(op.FUSE_LOOKUP, ROOT, names(`come${next(3)}`), { outSize: 128 }) };
            }
            if (next(2)) {
              return { one, i, pending: one.start(op.FUSE_FORGET, at, u64(1), { noReply: true }) };
            }
            return { one, i, pending: one.start(op.FUSE_GETATTR, at, bytes(u32(0, 0), u64(0)), { outSize: 104 }) };
          });
          for (const { one, i, pending } of sent) {
            const { error, data } = one.finish(pending);
            assert.ok([0, -ENOENT, -ESTALE].includes(error), `${error}`);
            if (i % 3 < 2 && error === 0) known.push(nodeidOf(data));
          }
          known.splice(0, Math.max(0, known.length - 100));
        }
        assert.equal(daemon.files, level);
        assert.equal(client.destroy().error, 0);
        assert.equal(client.init().error, 0);
      });
      await step("a file system below the share has its own descriptor, which goes with its last node", async () => {
        Deno.mkdirSync(path("mounted"));
        const mount = (...args: string[]) =>
          new Deno.Command(args[0], { args: args.slice(1), stderr: "null" }).outputSync().success;
        assert.ok(mount("mount", "-t", "tmpfs", "none", path("mounted")));
        try {
          Deno.writeTextFileSync(path("mounted/file"), "text");
          const root = client.lookup(ROOT, "mounted");
          assert.equal(second.lookup(ROOT, "mounted").nodeid, root.nodeid);
          const file = second.lookup(root.nodeid, "file");
          assert.equal(client.getattr(file.nodeid).attr.size, 4);
          const { fh } = client.open(file.nodeid);
          assert.equal(new TextDecoder().decode(client.read(file.nodeid, fh, 0, 9).data), "text");
          assert.equal(client.release(file.nodeid, fh).error, 0);
          // What is closed stays open while the other loop is in a batch, and that may go on for a moment after its last answer.
          await daemon.filesAre(level + 1);
          assert.ok(!mount("umount", path("mounted")), "it is in use");
          client.forget(file.nodeid);
          assert.equal(client.getattr(root.nodeid).error, 0);
          assert.equal(client.lookup(root.nodeid, "..").nodeid, BigInt(ROOT));
          client.forget(root.nodeid, 2);
          await daemon.filesAre(level);
          assert.ok(mount("umount", path("mounted")), "the host can unmount it");
        } finally {
          mount("umount", "-l", path("mounted"));
        }
      }, needsMounts);
      await step("what has no file handles below the share cannot be looked up", () => {
        const mount = (...args: string[]) =>
          new Deno.Command(args[0], { args: args.slice(1), stderr: "null" }).outputSync().success;
        assert.ok(mount("mount", "-t", "ramfs", "none", path("mounted")));
        try {
          assert.equal(client.lookup(ROOT, "mounted").error, -EOPNOTSUPP);
          assert.equal(daemon.files, level);
        } finally {
          mount("umount", path("mounted"));
        }
      }, needsMounts);
      await step("a guest that hangs up leaves no descriptor behind", async () => {
        const third = second.lookup(ROOT, "g1").nodeid;
        client.open(third), client.opendir(ROOT);
        session.close();
        // Socket, memory, and kick and call of three queues.
        await daemon.filesAre(level);
      });
    },
  );
}

const cannotMount = needsRoot || needsMounts;

Deno.test({
  name: "A submount without file handles keeps descriptors with prefer" + (cannotMount && ` (skipped: ${cannotMount})`),
  ignore: cannotMount !== "",
  async fn() {
    const daemon = await Daemon.start({ args: ["--rlimit-nofile", `${LIMIT}`] });
    try {
      using session = daemon.session();
      const { client } = session;
      Deno.mkdirSync(daemon.path("mounted"));
      makeFiles(daemon.path(), 2 * FILES);
      for (let i = 0; i < 2 * FILES; i++) client.lookup(ROOT, `f${i}`);
      const before = daemon.files;
      const args = ["-t", "ramfs", "none", daemon.path("mounted")];
      assert.ok(new Deno.Command("mount", { args }).outputSync().success);
      try {
        Deno.writeTextFileSync(daemon.path("mounted/version"), "");
        const mounted = client.lookup(ROOT, "mounted");
        const version = client.lookup(mounted.nodeid, "version");
        assert.deepEqual([mounted.error, version.error, client.getattr(version.nodeid).error], [0, 0, 0]);
        assert.equal(daemon.files, before + 2);
      } finally {
        new Deno.Command("umount", { args: ["-l", daemon.path("mounted")] }).outputSync();
      }
    } finally {
      await daemon.stop();
    }
  },
});

Deno.test({
  name: "A submount that was known before descriptors were scarce needs one more for all its files" +
    (cannotMount && ` (skipped: ${cannotMount})`),
  ignore: cannotMount !== "",
  async fn() {
    const daemon = await Daemon.start({ args: ["--rlimit-nofile", `${LIMIT}`] });
    const mounted = daemon.path("mounted");
    try {
      Deno.mkdirSync(mounted);
      makeFiles(daemon.path(), 2 * FILES);
      const mount = new Deno.Command("mount", { args: ["-t", "tmpfs", "none", mounted] });
      assert.ok(mount.outputSync().success);
      makeFiles(mounted, 2 * FILES);
      using session = daemon.session();
      const { client } = session;
      const { nodeid } = client.lookup(ROOT, "mounted");
      for (let i = 0; i < 2 * FILES; i++) client.lookup(ROOT, `f${i}`);
      const before = daemon.files;
      const files = Array.from({ length: 2 * FILES }, (_, i) => client.lookup(nodeid, `f${i}`).nodeid);
      assert.equal(daemon.files, before + 1);
      for (const one of files) assert.equal(client.getattr(one).error, 0);
      client.batchForget(files.map((one) => ({ nodeid: one, lookups: 1 })));
      assert.equal(client.getattr(nodeid).error, 0);
      assert.equal(daemon.files, before);
    } finally {
      new Deno.Command("umount", { args: ["-l", mounted], stderr: "null" }).outputSync();
      await daemon.stop();
    }
  },
});

Deno.test({
  name: "The other tests of fs hold with --inode-file-handles=mandatory" + (needsRoot && ` (skipped: ${needsRoot})`),
  ignore: needsRoot !== "" || Deno.env.has("RINGFSD_TEST_OPTIONS"),
  async fn() {
    const subjects = ["attr", "dirs", "files", "locking", "more", "names", "xattr"];
    const files = subjects.map((name) => new URL(`./${name}.test.ts`, import.meta.url).pathname);
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["test", "-A", "--no-check", ...files],
      env: { RINGFSD_TEST_OPTIONS: "--inode-file-handles=mandatory", NO_COLOR: "1" },
    }).output();
    const said = new TextDecoder().decode(stdout);
    assert.ok(success, said.slice(-4000) + new TextDecoder().decode(stderr).slice(-2000));
    assert.match(said, /ok \| \d+ passed \(\d\d+ steps\)/);
  },
});
