// The shared directory deleted or replaced, or its file system taken off, while a guest uses it: clear errors, no hang, and nothing of
// what then lies in its place.
import assert from "node:assert/strict";
import type { Session } from "../../bench/session.ts";
import { EIO, ENOENT, ENOTCONN, ESTALE } from "../../ffi/errno.ts";
import { Daemon } from "../fs/daemon.ts";
import { cannotMount, SlowHost } from "../fs/slow_host.ts";
import { cannotMountTmpfs, may, mountTmpfs, must } from "./mounts.ts";

const ROOT = 1;
const O_RDWR = 2;
/** errno(3), of what a FUSE file system answers that was aborted. */
const ECONNABORTED = 103;
const HANDLES = ["prefer", "mandatory", "never"] as const;
const text = new TextEncoder().encode("of the guest");

const entries = ({ client }: Session) =>
  client.list(ROOT, true).entries.map(({ name }) => name).filter((name) => name !== "." && name !== "..").sort();

/** A file that the guest has open. */
function opened({ client }: Session, dir: number | bigint, name: string) {
  const { error, nodeid, fh } = client.create(dir, name, O_RDWR);
  assert.equal(error, 0);
  assert.equal(client.write(nodeid, fh, 0, text).size, text.length);
  const check = () => {
    assert.deepEqual(client.read(nodeid, fh, 0, 100).data, text);
    assert.equal(client.write(nodeid, fh, 0, text).size, text.length);
    assert.equal(client.fsync(nodeid, fh).error, 0);
  };
  check();
  return { nodeid, fh, check };
}

async function serve(
  how: string,
  prepare: ((share: string) => Promise<() => void>) | undefined,
  body: (daemon: Daemon, session: Session) => void,
) {
  const daemon = await Daemon.start({
    base: "/var/tmp",
    args: ["--inode-file-handles", how, "--xattr"],
    ...(prepare === undefined ? {} : { prepare }),
  });
  try {
    using session = daemon.session();
    body(daemon, session);
    assert.ok(!/fault of ringfsd/.test(daemon.log), daemon.log);
  } finally {
    // What the daemon's end removes must be there.
    Deno.mkdirSync(daemon.path(), { recursive: true });
    await daemon.stop();
  }
}

for (const how of HANDLES) {
  Deno.test(`the shared directory is deleted: it is empty and nothing can be made in it (file handles: ${how})`, () =>
    serve(how, undefined, (daemon, session) => {
      const { client } = session;
      const file = opened(session, ROOT, "file");
      const dir = client.mkdir(ROOT, "dir").nodeid;
      Deno.removeSync(daemon.path(), { recursive: true });
      file.check();
      assert.deepEqual(entries(session), []);
      assert.equal(client.getattr(ROOT).error, 0);
      assert.equal(client.statfs().error, 0);
      for (const name of ["file", "dir", "none"]) assert.equal(client.lookup(ROOT, name).error, -ENOENT);
      const refused = [
        client.create(ROOT, "new", O_RDWR),
        client.mkdir(ROOT, "new"),
        client.symlink(ROOT, "new", "x"),
        client.mknod(dir, "new", 0o100644),
        client.unlink(ROOT, "file"),
      ];
      // A directory that is known by its handle is found no more.
      for (const { error } of refused) assert.ok(error === -ENOENT || error === -ESTALE, `${error}`);
    }));

  Deno.test(`the shared directory is replaced by another: the guest keeps its own (file handles: ${how})`, () =>
    serve(how, undefined, (daemon, session) => {
      const { client } = session;
      const file = opened(session, ROOT, "file");
      Deno.renameSync(daemon.path().slice(0, -1), `${daemon.dir}/moved`);
      Deno.mkdirSync(daemon.path());
      Deno.writeTextFileSync(daemon.path("secret"), "of another");
      Deno.writeTextFileSync(daemon.path("file"), "of another");
      file.check();
      assert.deepEqual(entries(session), ["file"]);
      assert.equal(client.lookup(ROOT, "secret").error, -ENOENT);
      const found = client.lookup(ROOT, "file");
      assert.equal(found.nodeid, file.nodeid);
      assert.equal(client.create(ROOT, "new", O_RDWR).error, 0);
      assert.deepEqual([...Deno.readDirSync(daemon.path())].map(({ name }) => name).sort(), ["file", "secret"]);
      assert.equal(Deno.readTextFileSync(daemon.path("file")), "of another");
      // Nor is it reached as the parent of what is in it.
      assert.equal(client.lookup(ROOT, "..").nodeid, BigInt(ROOT));
    }));

  Deno.test({
    name: `the share's file system is taken off: the guest keeps it, and sees nothing below it (file handles: ${how})` +
      (cannotMountTmpfs && ` (skipped: ${cannotMountTmpfs})`),
    ignore: cannotMountTmpfs !== "",
    fn: () =>
      serve(how, (share) => {
        Deno.writeTextFileSync(`${share}/secret`, "below");
        mountTmpfs(share, "size=8m");
        return Promise.resolve(() => {});
      }, (daemon, session) => {
        const { client } = session;
        const file = opened(session, ROOT, "file");
        assert.ok(!may("umount", daemon.path()), "EBUSY while it is served");
        must("umount", "-l", daemon.path());
        assert.equal(Deno.readTextFileSync(daemon.path("secret")), "below");
        for (const again of [false, true]) {
          // Another one in its place is another one.
          const undo = again ? mountTmpfs(daemon.path(), "size=8m") : () => {};
          if (again) Deno.writeTextFileSync(daemon.path("secret"), "another's");
          file.check();
          assert.equal(client.lookup(ROOT, "secret").error, -ENOENT);
          assert.deepEqual(entries(session), again ? ["dir-false", "file"] : ["file"]);
          const dir = client.mkdir(ROOT, `dir-${again}`);
          assert.equal(dir.error, 0);
          assert.equal(client.create(dir.nodeid, "inside", O_RDWR).error, 0);
          assert.equal(client.open(client.lookup(ROOT, "file").nodeid, 0).error, 0);
          assert.equal(client.rename(dir.nodeid, "inside", dir.nodeid, "renamed").error, 0);
          assert.equal(client.lookup(ROOT, "..").nodeid, BigInt(ROOT));
          assert.equal(client.statfs().error, 0);
          undo();
        }
        assert.deepEqual([...Deno.readDirSync(daemon.path())].map(({ name }) => name), ["secret"]);
      }),
  });

  Deno.test({
    name:
      `a file system below the share is taken off and put back: old files stay what they are (file handles: ${how})` +
      (cannotMountTmpfs && ` (skipped: ${cannotMountTmpfs})`),
    ignore: cannotMountTmpfs !== "",
    fn: () =>
      serve(how, (share) => {
        Deno.mkdirSync(`${share}/sub`);
        Deno.writeTextFileSync(`${share}/sub/below`, "below");
        mountTmpfs(`${share}/sub`, "size=8m");
        return Promise.resolve(() => {});
      }, (daemon, session) => {
        const { client } = session;
        const sub = client.lookup(ROOT, "sub").nodeid;
        const file = opened(session, sub, "file");
        must("umount", "-l", daemon.path("sub"));
        file.check();
        // The known directory is the one that was mounted; a new look-up finds what is there now, which is the share's own.
        const still = client.lookup(sub, "file");
        assert.ok(
          still.error === 0 ? still.nodeid === file.nodeid : [-ESTALE, -ENOENT].includes(still.error),
          `${still.error}`,
        );
        assert.equal(client.lookup(sub, "below").error === 0, false);
        const now = client.lookup(ROOT, "sub");
        assert.equal(now.error, 0);
        assert.notEqual(now.nodeid, sub);
        assert.equal(client.lookup(now.nodeid, "below").error, 0);
        const undo = mountTmpfs(daemon.path("sub"), "size=8m");
        const back = client.lookup(ROOT, "sub");
        assert.equal(back.error, 0);
        assert.notEqual(back.nodeid, sub);
        assert.equal(client.lookup(back.nodeid, "file").error, -ENOENT);
        file.check();
        undo();
      }),
  });
}

Deno.test({
  name: "a file system whose server is gone: errors at once, and no hang" +
    (cannotMount() && ` (skipped: ${cannotMount()})`),
  ignore: cannotMount() !== "",
  fn: async () => {
    let host!: SlowHost;
    const daemon = await Daemon.start({
      prepare: async (share) => {
        host = new SlowHost(share);
        await host.ready();
        return () => host.close();
      },
    });
    try {
      {
        using session = daemon.session();
        const { client } = session;
        const { nodeid, fh } = client.create(ROOT, "slow", O_RDWR);
        assert.equal(client.write(nodeid, fh, 0, text).size, text.length);
        // What fusectl's abort does as well: every request that waits or comes ends.
        must("umount", "-f", "-l", daemon.path());
        host.close();
        const gone = [ENOTCONN, ECONNABORTED, EIO, ENOENT];
        for (
          const { error } of [
            client.read(nodeid, fh, 0, 100),
            client.write(nodeid, fh, 0, text),
            client.fsync(nodeid, fh),
            client.lookup(ROOT, "slow"),
            client.mkdir(ROOT, "new"),
            client.getattr(nodeid),
            client.opendir(ROOT),
          ]
        ) assert.ok(gone.includes(-error), `error ${error}`);
        client.release(nodeid, fh);
      }
      // The share stays what it was when the daemon started: the next guest is told at its first request.
      using next = daemon.session();
      assert.notEqual(next.client.lookup(ROOT, "slow").error, 0);
    } finally {
      await daemon.stop();
    }
  },
});
