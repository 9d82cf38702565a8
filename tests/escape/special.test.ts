// What a share may hold besides files and directories: nothing of it is opened, waited for or followed.
import assert from "node:assert/strict";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { EACCES, ELOOP, ENOTDIR, ENXIO } from "../../ffi/errno.ts";
import { cString, libc } from "../../ffi/libc.ts";
import { AT_FDCWD, S_IFBLK, S_IFCHR, S_IFIFO, S_IFSOCK } from "../../ffi/stat_layout.ts";
import { Daemon, needsRoot, withDaemon } from "../fs/daemon.ts";

const ROOT = 1;
const O_WRONLY_NONBLOCK = 0o4001;
const O_PATH = 0o10000000;
const FLAGS = [0, 1, 2, 3, 0o1000, 0o1001, 0o1002, 0o2001, 0o4000, 0o10002, 0o40002, 0o200000, 0o400000, 0xffffffff];
const args = ["--xattr", "--posix-lock", "--flock"];

/** Numbers of the daemon's descriptors that lead into the share and are more than a place to start from (O_PATH). */
function opened(daemon: Daemon): string[] {
  const list: string[] = [];
  for (const { name } of Deno.readDirSync(`/proc/${daemon.pid}/fd`)) {
    try {
      const target = Deno.readLinkSync(`/proc/${daemon.pid}/fd/${name}`);
      if (!target.startsWith(`${daemon.path()}`) || target === daemon.path().slice(0, -1)) continue;
      const flags = /^flags:\s+(\d+)/m.exec(Deno.readTextFileSync(`/proc/${daemon.pid}/fdinfo/${name}`))!;
      if ((parseInt(flags[1], 8) & O_PATH) === 0) list.push(target);
    } catch { /* closed meanwhile */ }
  }
  return list;
}

const KINDS: [string, number, number][] = [
  ["FIFO", S_IFIFO | 0o666, 0],
  ["socket", S_IFSOCK | 0o666, 0],
  // The terminal of whoever opens it, and a block device that is not there: either says so when it is opened.
  ["character device", S_IFCHR | 0o666, 5 << 8],
  ["block device", S_IFBLK | 0o666, 0x7c8],
];

withDaemon("Special files", { args }, async (daemon, { client }, step) => {
  for (const [kind, mode, rdev] of KINDS) {
    const name = kind.replace(" ", "-");
    await step(`a ${kind} is never opened, by whatever request`, () => {
      const made = client.mknod(ROOT, name, mode, rdev);
      assert.equal(made.error, 0);
      const node = made.nodeid;
      for (const flags of FLAGS) {
        assert.equal(client.open(node, flags).error, -ENXIO, `flags ${flags.toString(8)}`);
        assert.ok(client.create(ROOT, name, flags).error < 0, `CREATE with flags ${flags.toString(8)}`);
        assert.equal(client.opendir(node, flags).error, -ENOTDIR);
      }
      assert.ok(client.setattr(node, { size: 0 }).error < 0, "SETATTR of the size");
      assert.equal(client.setattr(node, { mode: 0o600 }).error, 0);
      const lock = bytes(u64(0, 1, 0, 1), u32(0, 0), u32(0, 0));
      for (const opcode of [op.FUSE_SETLK, op.FUSE_SETLKW, op.FUSE_GETLK]) {
        assert.ok(client.request(opcode, node, lock, 64).error < 0);
      }
      assert.ok(client.request(op.FUSE_SYNCFS, node, u64(0)).error < 0);
      assert.ok(client.lookup(node, "x").error < 0);
      client.request(op.FUSE_SETXATTR, node, bytes(u32(1, 0, 0, 0), names("user.a"), Uint8Array.of(1)));
      client.request(op.FUSE_GETXATTR, node, bytes(u32(10, 0), names("user.a")), 10);
      assert.equal(client.link(node, ROOT, `${name}-2`).error, 0);
      assert.equal(client.open(client.lookup(ROOT, `${name}-2`).nodeid, 2).error, -ENXIO);
      const dir = client.opendir(ROOT);
      client.readdirplus(ROOT, dir.fh);
      client.request(op.FUSE_RELEASEDIR, ROOT, bytes(u64(dir.fh), u32(0, 0), u64(0)));
      assert.deepEqual(opened(daemon), []);
      if (kind !== "FIFO") return;
      // Nobody reads from it, or this would find a reader.
      assert.equal(libc.openat(AT_FDCWD, cString(daemon.path(name)), O_WRONLY_NONBLOCK, 0), -1);
    }, kind.endsWith("device") ? needsRoot : "");
  }
  await step("OPEN does not wait for who has a lease of the file, nor does SETLK", async () => {
    Deno.writeTextFileSync(daemon.path("leased"), "text");
    const { nodeid } = client.lookup(ROOT, "leased");
    const F_SETLEASE = 1024, F_WRLCK = 1, F_UNLCK = 2;
    const fd = libc.openat(AT_FDCWD, cString(daemon.path("leased")), 0, 0);
    // The holder is told by SIGIO, which must not end this process.
    const ignore = () => {};
    Deno.addSignalListener("SIGIO", ignore);
    try {
      if (libc.fcntl(fd, F_SETLEASE, F_WRLCK) < 0) return console.log("  not tried: the file system has no leases");
      const begun = performance.now();
      assert.ok(client.open(nodeid, 2).error < 0);
      const lock = bytes(u64(0, 1, 0, 1), u32(1, 0), u32(0, 0));
      assert.ok(client.request(op.FUSE_SETLK, nodeid, lock).error < 0);
      assert.ok(client.request(op.FUSE_GETLK, nodeid, lock, 64).error < 0);
      assert.ok(client.setattr(nodeid, { size: 0 }).error < 0);
      // /proc/sys/fs/lease-break-time is 45 s, and a request that is not answered in 5 s fails.
      assert.ok(performance.now() - begun < 45_000);
      await Promise.resolve();
    } finally {
      libc.fcntl(fd, F_SETLEASE, F_UNLCK);
      libc.close(fd);
      Deno.removeSignalListener("SIGIO", ignore);
    }
    assert.equal(client.open(nodeid, 2).error, 0, "when the lease is gone");
  });
});

withDaemon("Magic links", { args }, async (daemon, { client }, step) => {
  Deno.writeTextFileSync(`${daemon.dir}/canary`, "secret");
  await step("a symlink to one is a symlink, whatever is asked of it", () => {
    for (
      const target of [
        "/proc/self/root",
        "/proc/self/cwd",
        "/proc/self/exe",
        "/proc/self/fd/0",
        "/dev/fd/3",
        "/proc/self/mem",
      ]
    ) {
      const { error, nodeid } = client.symlink(ROOT, "magic", target);
      assert.equal(error, 0);
      assert.equal(client.readlink(nodeid).target, target);
      for (const flags of FLAGS) assert.equal(client.open(nodeid, flags).error, -ELOOP);
      assert.equal(client.opendir(nodeid).error, -ENOTDIR);
      for (const name of ["etc", "..", ".", "0"]) assert.equal(client.lookup(nodeid, name).error, -ENOTDIR, name);
      assert.ok(client.create(ROOT, "magic", 2).error < 0);
      assert.ok(client.create(nodeid, "x", 2).error < 0);
      assert.ok(client.setattr(nodeid, { size: 0 }).error < 0);
      client.setattr(nodeid, { mode: 0o600 });
      assert.equal(client.unlink(ROOT, "magic").error, 0);
    }
  });
  await step("proc(5) below the share is out of reach", () => {
    Deno.mkdirSync(daemon.path("proc"));
    Deno.mkdirSync(daemon.path("one"));
    Deno.writeTextFileSync(daemon.path("file"), "");
    const known = client.lookup(ROOT, "proc").nodeid;
    const mount = (...args: string[]) =>
      assert.ok(new Deno.Command("mount", { args }).outputSync().success, args.join(" "));
    mount("-t", "proc", "none", daemon.path("proc"));
    // A part of it, and one file of it.
    mount("--bind", `/proc/${daemon.pid}`, daemon.path("one"));
    mount("--bind", `/proc/${daemon.pid}/mem`, daemon.path("file"));
    try {
      for (const name of ["proc", "one", "file"]) {
        assert.equal(client.lookup(ROOT, name).error, -EACCES, name);
        assert.ok(client.create(ROOT, name, 2).error < 0);
        assert.ok(client.mkdir(ROOT, name).error < 0);
      }
      // What the guest knew before is the directory under the mount.
      assert.ok(client.lookup(known, "self").error < 0);
      assert.ok(client.lookup(known, `${daemon.pid}`).error < 0);
      const dir = client.opendir(ROOT);
      const { entries } = client.readdirplus(ROOT, dir.fh, 0, 8192);
      for (const { name, entry } of entries as { name: string; entry?: { nodeid: bigint } }[]) {
        if (["proc", "one", "file"].includes(name)) assert.equal(entry?.nodeid ?? 0n, 0n, name);
      }
    } finally {
      for (const name of ["proc", "one", "file"]) {
        new Deno.Command("umount", { args: ["-l", daemon.path(name)], stderr: "null" }).outputSync();
      }
    }
    assert.equal(client.lookup(ROOT, "proc").error, 0, "without it");
  }, needsRoot);
  await step("a directory of the host that is mounted below the share is left by .. to the share only", () => {
    Deno.mkdirSync(`${daemon.dir}/other/in`, { recursive: true });
    Deno.writeTextFileSync(`${daemon.dir}/other/secret`, "secret");
    Deno.mkdirSync(daemon.path("bound"));
    assert.ok(
      new Deno.Command("mount", { args: ["--bind", `${daemon.dir}/other/in`, daemon.path("bound")] }).outputSync()
        .success,
    );
    try {
      const { error, nodeid } = client.lookup(ROOT, "bound");
      assert.equal(error, 0);
      assert.equal(client.lookup(nodeid, "..").nodeid, BigInt(ROOT));
      assert.ok(client.lookup(nodeid, "secret").error < 0);
      client.forget(nodeid, 9);
    } finally {
      new Deno.Command("umount", { args: ["-l", daemon.path("bound")], stderr: "null" }).outputSync();
    }
  }, needsRoot);
});
