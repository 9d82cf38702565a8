// Errors of the host's file systems: the guest gets the errno, the daemon goes on, and so does the guest when the fault is over.
import assert from "node:assert/strict";
import * as op from "../../bench/fuse_opcodes.ts";
import type { Session } from "../../bench/session.ts";
import { EBUSY, EDQUOT, EFBIG, EIO, ENFILE, ENOMEM, ENOSPC, EROFS, ESTALE } from "../../ffi/errno.ts";
import { Daemon, type DaemonOptions } from "../fs/daemon.ts";
import { cannotMount, SlowHost } from "../fs/slow_host.ts";
import { cannotMountTmpfs, may, mountTmpfs, must, ThinDisk } from "./mounts.ts";

const ROOT = 1;
const O_RDWR = 2;
const MIB = 1 << 20;
const data = new Uint8Array(MIB).map((_, i) => i * 31 >> 3);

function hostTest(
  name: string,
  cannot: string,
  options: DaemonOptions,
  body: (daemon: Daemon, session: Session) => void | Promise<void>,
): void {
  Deno.test({
    name: name + (cannot && ` (skipped: ${cannot})`),
    ignore: cannot !== "",
    fn: async () => {
      const daemon = await Daemon.start(options);
      try {
        {
          using session = daemon.session({ memory: 32 * MIB });
          await body(daemon, session);
          assert.equal(session.client.getattr(ROOT).error, 0);
        }
        assert.ok(!/fault of ringfsd/.test(daemon.log), daemon.log);
      } finally {
        await daemon.stop();
      }
    },
  });
}

/** Makes a file and writes it until that fails or it has so many MiB. Returns the error, or 0. */
function fill({ client }: Session, name: string, sizeMiB: number): number {
  const { error, nodeid, fh } = client.create(ROOT, name, O_RDWR);
  if (error !== 0) return error;
  let failed = 0;
  for (let at = 0; at < sizeMiB * MIB && failed === 0;) {
    const wrote = client.write(nodeid, fh, at, data);
    failed = wrote.error;
    // Short, where there is room for a part.
    at += failed === 0 ? wrote.size : 0;
  }
  assert.equal(client.release(nodeid, fh).error, 0);
  return failed;
}

for (const slots of [[], ["--writeback", "--cache", "always"]]) {
  hostTest(
    `ENOSPC: a full file system, and one without inodes ${slots.join(" ")}`,
    cannotMountTmpfs,
    { args: slots, prepare: (share) => Promise.resolve(mountTmpfs(share, "size=4m,nr_inodes=40")) },
    (daemon, session) => {
      const { client } = session;
      for (let round = 0; round < 3; round++) {
        assert.equal(fill(session, "large", 8), -ENOSPC);
        assert.equal(client.fallocate(...keep(session, "more"), 0, 2 * MIB).error, -ENOSPC);
        assert.equal(client.mkdir(ROOT, "full").error === 0 || client.mkdir(ROOT, "full").error === -ENOSPC, true);
        Deno.removeSync(daemon.path("large"));
        client.forget(client.lookup(ROOT, "large").nodeid, 100);
        client.destroy();
        client.init();
        assert.equal(fill(session, "small", 1), 0);
        assert.deepEqual(Deno.readFileSync(daemon.path("small")), data);
        let made = 0;
        let error = 0;
        for (; made < 100 && error === 0; made++) error = client.mknod(ROOT, `inode-${made}`, 0o100644).error;
        assert.equal(error, -ENOSPC);
        assert.equal(client.mkdir(ROOT, "no").error, -ENOSPC);
        assert.equal(client.symlink(ROOT, "no", "x").error, -ENOSPC);
        assert.equal(client.create(ROOT, "no", O_RDWR).error, -ENOSPC);
        for (const { name } of Deno.readDirSync(daemon.path())) Deno.removeSync(daemon.path(name), { recursive: true });
        client.destroy();
        client.init();
        assert.equal(client.mkdir(ROOT, "yes").error, 0);
        assert.equal(client.rmdir(ROOT, "yes").error, 0);
      }
    },
  );
}

/** An open file: its node and handle. */
function keep({ client }: Session, name: string): [bigint, bigint] {
  const { nodeid, fh, error } = client.create(ROOT, name, O_RDWR);
  assert.equal(error, 0);
  return [nodeid, BigInt(fh)];
}

let disk: ThinDisk | null = null;
hostTest(
  "a disk that fails when it is written to: what was accepted fails at fsync, and all goes on when there is room",
  cannotMountTmpfs || (may("which", "mkfs.ext4") ? "" : "needs mkfs.ext4"),
  {
    prepare: (share) => {
      disk = ThinDisk.mount(share, 64, 8);
      return Promise.resolve(() => disk?.close());
    },
  },
  (_, session) => {
    // No loop devices.
    if (disk === null) return;
    const { client } = session;
    const [nodeid, fh] = keep(session, "file");
    for (let at = 0; at < 24; at++) assert.equal(client.write(nodeid, fh, at * MIB, data).size, MIB);
    const { error } = client.fsync(nodeid, fh);
    assert.ok(error === -EIO || error === -ENOSPC, `fsync said ${error}`);
    disk.setRoom(96);
    for (let at = 0; at < 24; at++) assert.equal(client.write(nodeid, fh, at * MIB, data).size, MIB);
    assert.equal(client.fsync(nodeid, fh).error, 0);
    assert.deepEqual(client.read(nodeid, fh, 23 * MIB, MIB).data, data);
    assert.equal(client.release(nodeid, fh).error, 0);
  },
);

let host!: SlowHost;
hostTest(
  "EIO, EDQUOT, ENOSPC, ENOMEM, ESTALE, EROFS, EBUSY of a file system: each operation has the errno, and works again",
  cannotMount(),
  {
    prepare: async (share) => {
      host = new SlowHost(share);
      await host.ready();
      return () => host.close();
    },
  },
  (_, session) => {
    const { client } = session;
    const [nodeid, fh] = keep(session, "slow");
    const [dir] = [client.mkdir(ROOT, "slow-dir").nodeid];
    const small = new Uint8Array(5000).fill(4);
    const calls: [number, () => { error: number }][] = [
      [op.FUSE_WRITE, () => client.write(nodeid, fh, 0, small)],
      [op.FUSE_READ, () => client.read(nodeid, fh, 0, 5000)],
      [op.FUSE_FSYNC, () => client.fsync(nodeid, fh)],
      [op.FUSE_FLUSH, () => client.flush(nodeid, fh)],
      [op.FUSE_FALLOCATE, () => client.fallocate(nodeid, fh, 0, 100)],
      [op.FUSE_GETATTR, () => client.getattr(nodeid)],
      [op.FUSE_SETATTR, () => client.setattr(nodeid, { mode: 0o100600 })],
      [op.FUSE_LOOKUP, () => client.lookup(ROOT, "slow")],
      [op.FUSE_OPEN, () => client.open(nodeid, 0)],
      [op.FUSE_OPENDIR, () => client.opendir(dir)],
      [op.FUSE_MKNOD, () => client.mknod(ROOT, "slow-node", 0o010644)],
      [op.FUSE_MKDIR, () => client.mkdir(ROOT, "slow-new")],
      [op.FUSE_SYMLINK, () => client.symlink(ROOT, "slow-link", "slow")],
      [op.FUSE_CREATE, () => client.create(ROOT, "slow-made", O_RDWR)],
      [op.FUSE_UNLINK, () => client.unlink(ROOT, "slow-link")],
      [op.FUSE_RMDIR, () => client.rmdir(ROOT, "slow-new")],
    ];
    for (const [opcode, call] of calls) {
      for (const error of [EIO, EDQUOT, ENOSPC, ENOMEM, EROFS, ESTALE, EBUSY]) {
        // The kernel looks an entry anew where it is stale: it is the look-up's answer then.
        if (error === ESTALE && opcode !== op.FUSE_WRITE && opcode !== op.FUSE_READ) continue;
        host.fail(opcode, error);
        assert.equal(call().error, -error, `opcode ${opcode}`);
      }
      host.fail(0);
      assert.equal(call().error, 0, `opcode ${opcode}, when the fault is over`);
    }
  },
);

hostTest(
  "EROFS: a file system that becomes read-only, and writable again",
  cannotMountTmpfs,
  { prepare: (share) => Promise.resolve(mountTmpfs(share, "size=8m")) },
  (daemon, session) => {
    const { client } = session;
    assert.equal(fill(session, "file", 1), 0);
    const [nodeid, fh] = keep(session, "open");
    // Not while the guest writes.
    assert.ok(!may("mount", "-o", "remount,ro", daemon.path()));
    assert.equal(client.release(nodeid, fh).error, 0);
    must("mount", "-o", "remount,ro", daemon.path());
    const file = client.lookup(ROOT, "file").nodeid;
    const opened = client.open(file, 0);
    assert.equal(opened.error, 0);
    assert.deepEqual(client.read(file, opened.fh, 0, MIB).data, data);
    const refused = [
      client.open(file, O_RDWR),
      client.create(ROOT, "new", O_RDWR),
      client.mkdir(ROOT, "new"),
      client.mknod(ROOT, "new", 0o100644),
      client.symlink(ROOT, "new", "x"),
      client.link(file, ROOT, "new"),
      client.rename(ROOT, "file", ROOT, "new"),
      client.unlink(ROOT, "file"),
      client.setattr(file, { mode: 0o100600 }),
      client.setattr(file, { size: 0n }),
    ];
    assert.deepEqual(refused.map(({ error }) => error), refused.map(() => -EROFS));
    must("mount", "-o", "remount,rw", daemon.path());
    assert.equal(client.rename(ROOT, "file", ROOT, "new").error, 0);
    assert.equal(fill(session, "file", 1), 0);
  },
);

hostTest(
  "descriptors exhausted: open files and look-ups have ENFILE, and all works again when they are closed",
  "",
  { args: ["--rlimit-nofile", "700", "--inode-file-handles", "never"] },
  (daemon, session) => {
    const { client } = session;
    for (let i = 0; i < 800; i++) Deno.writeTextFileSync(daemon.path(`f${i}`), `${i}`);
    for (let round = 0; round < 3; round++) {
      const open: [bigint, bigint][] = [];
      let error = 0;
      for (let i = 0; i < 800 && error === 0; i++) {
        const node = client.lookup(ROOT, `f${i}`);
        error = node.error;
        if (error !== 0) break;
        const opened = client.open(node.nodeid, 0);
        error = opened.error;
        if (error === 0) open.push([node.nodeid, BigInt(opened.fh)]);
        else client.forget(node.nodeid);
      }
      assert.equal(error, -ENFILE);
      assert.ok(open.length > 50, `${open.length} files`);
      // What is open goes on.
      for (const [nodeid, fh] of open) assert.equal(client.read(nodeid, fh, 0, 10).error, 0);
      assert.equal(client.create(ROOT, "new", O_RDWR).error, -ENFILE);
      for (const [nodeid, fh] of open) {
        assert.equal(client.release(nodeid, fh).error, 0);
        client.forget(nodeid);
      }
    }
    assert.equal(fill(session, "after", 1), 0);
  },
);

const cannotLimit = Deno.uid() === 0 && may("which", "prlimit") ? "" : "needs root and prlimit";
Deno.test({
  name: "no memory: a front end whose memory cannot be mapped is refused, the next one is served" +
    (cannotLimit && ` (skipped: ${cannotLimit})`),
  ignore: cannotLimit !== "",
  fn: async () => {
    const daemon = await Daemon.start();
    try {
      const serves = (memory: number) => {
        using session = daemon.session({ memory, maxData: 65536 });
        assert.equal(session.client.getattr(ROOT).error, 0);
      };
      serves(8 * MIB);
      const pages = Number(Deno.readTextFileSync(`/proc/${daemon.pid}/statm`).split(" ")[0]);
      const limit = (bytes: string) => must("prlimit", "--pid", `${daemon.pid}`, `--as=${bytes}`);
      limit(`${pages * 4096 + 512 * MIB}:unlimited`);
      for (let i = 0; i < 3; i++) {
        assert.throws(() => serves(4096 * MIB));
        await daemon.until(() => (daemon.log.match(/Cannot allocate memory/g)?.length ?? 0) > i, "the log");
        serves(8 * MIB);
      }
      limit("unlimited:unlimited");
      serves(4096 * MIB);
    } finally {
      await daemon.stop();
    }
  },
});

hostTest(
  "EFBIG: a file that may not grow any more, and no signal",
  cannotLimit,
  {},
  (daemon, session) => {
    const { client } = session;
    const [nodeid, fh] = keep(session, "file");
    must("prlimit", "--pid", `${daemon.pid}`, `--fsize=${MIB}:unlimited`);
    assert.equal(client.write(nodeid, fh, 0, data).size, MIB);
    assert.equal(client.write(nodeid, fh, MIB, data).error, -EFBIG);
    assert.equal(client.fallocate(nodeid, fh, 0, 2 * MIB).error, -EFBIG);
    assert.equal(client.setattr(nodeid, { size: BigInt(2 * MIB) }).error, -EFBIG);
    must("prlimit", "--pid", `${daemon.pid}`, "--fsize=unlimited:unlimited");
    assert.equal(client.write(nodeid, fh, MIB, data).size, MIB);
  },
);
