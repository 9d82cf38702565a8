// Operations on names, against a daemon: what they do on the host, and what they refuse.
import assert from "node:assert/strict";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import type { FuseClient } from "../../bench/fuse_client.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import {
  EEXIST,
  EINVAL,
  EISDIR,
  ELOOP,
  ENAMETOOLONG,
  ENOENT,
  ENOTDIR,
  ENOTEMPTY,
  EPERM,
  EXDEV,
} from "../../ffi/errno.ts";
import {
  RENAME_EXCHANGE,
  RENAME_NOREPLACE,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_IFSOCK,
} from "../../ffi/stat_layout.ts";
import { byHandle, needsMounts, needsRoot, withDaemon } from "./daemon.ts";
import { assertAttr, hostStat } from "./host_stat.ts";

const ROOT = 1;

/** The arguments in front of the names of each operation that takes some, and how many names it takes. */
const TAKES_NAMES: [string, number, Uint8Array, number][] = [
  ["LOOKUP", op.FUSE_LOOKUP, bytes(), 1],
  ["MKNOD", op.FUSE_MKNOD, u32(S_IFREG | 0o644, 0, 0, 0), 1],
  ["MKDIR", op.FUSE_MKDIR, u32(0o755, 0), 1],
  ["SYMLINK", op.FUSE_SYMLINK, bytes(), 2],
  ["UNLINK", op.FUSE_UNLINK, bytes(), 1],
  ["RMDIR", op.FUSE_RMDIR, bytes(), 1],
  ["RENAME", op.FUSE_RENAME, u64(ROOT), 2],
  ["RENAME2", op.FUSE_RENAME2, bytes(u64(ROOT), u32(0, 0)), 2],
  ["LINK", op.FUSE_LINK, u64(ROOT), 1],
  ["CREATE", op.FUSE_CREATE, u32(2, 0o644, 0, 0), 1],
];

/** The error of a request with names as bytes: what a decent client cannot send. */
function withNames(
  client: FuseClient,
  opcode: number,
  nodeid: number | bigint,
  args: Uint8Array,
  text: string,
): number {
  return client.request(opcode, nodeid, bytes(args, names(text).subarray(0, -1)), 144).error;
}

withDaemon("LOOKUP", {}, async (daemon, { client }, step) => {
  const outside = `${daemon.dir}/outside`;
  Deno.mkdirSync(outside);
  Deno.writeTextFileSync(`${outside}/secret`, "secret");
  Deno.writeFileSync(daemon.path("file"), new Uint8Array(5000), { mode: 0o640 });
  Deno.utimeSync(daemon.path("file"), 2 ** 33 + 0.125, -1.5);
  Deno.mkdirSync(daemon.path("dir/sub/below"), { recursive: true });
  Deno.symlinkSync(outside, daemon.path("link"));
  Deno.symlinkSync("link", daemon.path("dir/loop"));

  await step("LOOKUP answers with the host's attributes, of a symlink its own", () => {
    for (const name of ["file", "dir", "link"]) {
      const { error, nodeid, attr, generation, entryValid, attrValid } = client.lookup(ROOT, name);
      assert.deepEqual([error, generation, entryValid, attrValid], [0, 0n, 1, 1]);
      assert.ok(nodeid > 1n);
      assertAttr(attr, daemon.path(name));
    }
    assert.equal(client.lookup(ROOT, "link").attr.mode & S_IFMT, S_IFLNK);
  });
  await step("LOOKUP of one file is one node, by whichever name", () => {
    Deno.linkSync(daemon.path("file"), daemon.path("dir/other"));
    const dir = client.lookup(ROOT, "dir").nodeid;
    const { nodeid } = client.lookup(ROOT, "file");
    assert.equal(client.lookup(ROOT, "file").nodeid, nodeid);
    assert.equal(client.lookup(dir, "other").nodeid, nodeid);
    assert.equal(client.lookup(dir, "other").attr.nlink, 2);
  });
  await step("LOOKUP sees what the host changes", () => {
    Deno.writeTextFileSync(daemon.path("changing"), "1");
    const first = client.lookup(ROOT, "changing");
    Deno.removeSync(daemon.path("changing"));
    assert.equal(client.lookup(ROOT, "changing").error, -ENOENT);
    Deno.writeTextFileSync(daemon.path("changing"), "22");
    const second = client.lookup(ROOT, "changing");
    assert.equal(second.attr.size, 2);
    assert.notEqual(second.nodeid, first.nodeid);
    // The first is still there for who knows it.
    assert.deepEqual([client.getattr(first.nodeid).error, client.getattr(first.nodeid).attr.nlink], [0, 0]);
  }, byHandle);
  await step("LOOKUP takes any byte in a name but slash and NUL", () => {
    const odd = Uint8Array.of(0xff, 0xfe, 0x0a, 0x01, 0x20, 0x80);
    const made = client.request(op.FUSE_MKDIR, ROOT, bytes(u32(0o755, 0), odd, Uint8Array.of(0)), 128);
    assert.equal(made.error, 0);
    assert.equal(client.request(op.FUSE_LOOKUP, ROOT, bytes(odd, Uint8Array.of(0)), 128).error, 0);
    assert.equal(client.request(op.FUSE_RMDIR, ROOT, bytes(odd, Uint8Array.of(0))).error, 0);
  });
  await step("LOOKUP of . and .. in the root is the root", () => {
    for (const name of [".", ".."]) {
      const { error, nodeid, attr } = client.lookup(ROOT, name);
      assert.deepEqual([error, nodeid], [0, 1n]);
      assertAttr(attr, daemon.path());
    }
  });
  await step("LOOKUP of .. leads to a directory that the guest knows, and never out", () => {
    const dir = client.lookup(ROOT, "dir").nodeid;
    const sub = client.lookup(dir, "sub").nodeid;
    const below = client.lookup(sub, "below").nodeid;
    assert.equal(client.lookup(below, "..").nodeid, sub);
    assert.equal(client.lookup(dir, "..").nodeid, 1n);
    // The host moves a directory out of the share: its parent is none of the guest's business.
    Deno.renameSync(daemon.path("dir/sub/below"), `${outside}/below`);
    assert.equal(client.lookup(below, "..").error, -ENOENT);
    assert.equal(client.getattr(below).error, 0);
    assert.equal(withNames(client, op.FUSE_CREATE, below, u32(2, 0o644, 0, 0), "..\0"), -ENOENT);
  });
  await step("LOOKUP goes through no symlink", () => {
    const link = client.lookup(ROOT, "link").nodeid;
    assert.equal(client.lookup(link, "secret").error, -ENOTDIR);
    assert.equal(client.lookup(link, "..").error, -ENOTDIR);
    assert.equal(client.opendir(link).error, -ENOTDIR);
    assert.equal(client.create(link, "new").error, -ENOTDIR);
    assert.deepEqual([...Deno.readDirSync(outside)].map(({ name }) => name).sort(), ["below", "secret"]);
  });
  await step("LOOKUP below a file answers ENOTDIR", () => {
    assert.equal(client.lookup(client.lookup(ROOT, "file").nodeid, "x").error, -ENOTDIR);
  });
  await step("LOOKUP of a name of 255 bytes works, and of 256 answers ENAMETOOLONG", () => {
    Deno.writeTextFileSync(daemon.path("n".repeat(255)), "");
    assert.equal(client.lookup(ROOT, "n".repeat(255)).error, 0);
    assert.equal(client.lookup(ROOT, "n".repeat(256)).error, -ENAMETOOLONG);
    assert.equal(client.lookup(ROOT, "n".repeat(5000)).error, -ENAMETOOLONG);
  });

  await step("FsService.name() refuses names that are empty, unterminated or have a slash with EINVAL", () => {
    const before = [...Deno.readDirSync(daemon.path())].length;
    for (const [name, opcode, args, count] of TAKES_NAMES) {
      const bad = ["\0", "a/b\0", "/\0", "/etc/passwd\0", "../outside/x\0", "x/\0", "never ends", "n".repeat(600)];
      for (const text of bad) {
        // A second name behind it, but not behind what has no end.
        const rest = count === 2 && text.endsWith("\0") ? "second\0" : "";
        const got = withNames(client, opcode, ROOT, args, text + rest);
        assert.equal(got, -EINVAL, `${name} ${JSON.stringify(text)}`);
      }
    }
    for (const [name, opcode, args] of TAKES_NAMES.filter(([name]) => name.startsWith("RENAME"))) {
      for (const text of ["\0", "a/b\0", "never ends"]) {
        assert.equal(withNames(client, opcode, ROOT, args, `file\0${text}`), -EINVAL, name);
      }
      // One name only, which the kernel's checks of length let through.
      assert.equal(withNames(client, opcode, ROOT, args, "file\0"), -EINVAL, name);
    }
    assert.equal([...Deno.readDirSync(daemon.path())].length, before);
  });
  await step("FsService.handle() answers ENOENT for a nodeid that names nothing", () => {
    const known = client.lookup(ROOT, "dir").nodeid;
    for (const nodeid of [0n, 2n ** 24n, 2n ** 32n + 1n, 2n ** 64n - 1n, known + 2n ** 32n, known & 0xffff_ffffn]) {
      for (const [name, opcode, args, count] of TAKES_NAMES) {
        assert.equal(withNames(client, opcode, nodeid, args, count === 2 ? "a\0b\0" : "a\0"), -ENOENT, name);
      }
      assert.equal(client.getattr(nodeid).error, -ENOENT);
      assert.equal(client.open(nodeid).error, -ENOENT);
      assert.equal(client.rename(ROOT, "file", nodeid, "x").error, -ENOENT);
      assert.equal(client.link(nodeid, ROOT, "x").error, -ENOENT);
    }
    assert.equal(Deno.lstatSync(daemon.path("file")).isFile, true);
  });
});

withDaemon("Making and removing names", {}, async (daemon, { client }, step) => {
  const path = (name: string) => daemon.path(name);
  Deno.mkdirSync(path("full/sub"), { recursive: true });
  Deno.writeTextFileSync(path("file"), "text");
  Deno.symlinkSync("nowhere", path("dangling"));
  Deno.symlinkSync("full", path("link"));

  await step("MKDIR makes a directory with the mode asked for", () => {
    for (const mode of [0o755, 0o1777, 0o700]) {
      const { error, attr, nodeid } = client.mkdir(ROOT, "made", mode);
      assert.equal(error, 0);
      assertAttr(attr, path("made"));
      assert.equal(hostStat(path("made")).mode, S_IFDIR | mode);
      assert.equal(client.lookup(ROOT, "made").nodeid, nodeid);
      assert.equal(client.rmdir(ROOT, "made").error, 0);
    }
  });
  await step("MKNOD makes a file, a FIFO and a socket", () => {
    for (const mode of [S_IFREG | 0o640, S_IFIFO | 0o600, S_IFSOCK | 0o755, S_IFREG | 0o4755]) {
      const { error, attr } = client.mknod(ROOT, "node", mode);
      assert.equal(error, 0);
      assert.equal(attr.mode, mode);
      assertAttr(attr, path("node"));
      assert.equal(client.unlink(ROOT, "node").error, 0);
    }
    assert.equal(client.mknod(ROOT, "node", S_IFDIR | 0o755).error, -EPERM);
    assert.equal(client.mknod(ROOT, "node", S_IFLNK | 0o777).error, -EINVAL);
  });
  await step("MKNOD makes devices, with their numbers", () => {
    for (const [mode, rdev] of [[S_IFCHR | 0o600, 0x103], [S_IFBLK | 0o660, 0x1230_8845]]) {
      const { error, attr } = client.mknod(ROOT, "device", mode, rdev);
      assert.equal(error, 0);
      assert.equal(attr.rdev, rdev);
      assertAttr(attr, path("device"));
      Deno.removeSync(path("device"));
    }
  }, needsRoot);
  await step("SYMLINK and READLINK keep any target, up to PATH_MAX", () => {
    for (const target of ["file", "/etc/passwd", "../..", "a//b/", "x".repeat(4095), "ü\n"]) {
      const { error, nodeid, attr } = client.symlink(ROOT, "symlink", target);
      assert.equal(error, 0, target);
      assert.equal(attr.size, new TextEncoder().encode(target).length);
      assert.equal(Deno.readLinkSync(path("symlink")), target);
      assert.equal(client.readlink(nodeid).target, target);
      assert.equal(client.unlink(ROOT, "symlink").error, 0);
    }
    assert.equal(client.symlink(ROOT, "symlink", "x".repeat(4096)).error, -ENAMETOOLONG);
    assert.equal(client.symlink(ROOT, "symlink", "").error, -ENOENT);
    assert.equal(withNames(client, op.FUSE_SYMLINK, ROOT, bytes(), "symlink\0never ends"), -EINVAL);
    assert.equal(client.lookup(ROOT, "symlink").error, -ENOENT);
  });
  await step("READLINK of what is no symlink answers EINVAL", () => {
    assert.equal(client.readlink(ROOT).error, -EINVAL);
    assert.equal(client.readlink(client.lookup(ROOT, "file").nodeid).error, -EINVAL);
  });
  await step("LINK gives a node a second name", () => {
    const { nodeid } = client.lookup(ROOT, "file");
    const linked = client.link(nodeid, client.lookup(ROOT, "full").nodeid, "second");
    assert.deepEqual([linked.error, linked.nodeid, linked.attr.nlink], [0, nodeid, 2]);
    assert.equal(hostStat(path("full/second")).ino, hostStat(path("file")).ino);
    // Of a symlink, not of what it leads to.
    const dangling = client.link(client.lookup(ROOT, "dangling").nodeid, ROOT, "dangling2");
    assert.equal(dangling.error, 0);
    assert.equal(Deno.readLinkSync(path("dangling2")), "nowhere");
    assert.equal(client.link(client.lookup(ROOT, "full").nodeid, ROOT, "x").error, -EPERM);
    assert.equal(client.link(nodeid, ROOT, "full").error, -EEXIST);
  });
  await step("MKDIR, MKNOD, SYMLINK and LINK answer EEXIST for what is there", () => {
    const { nodeid } = client.lookup(ROOT, "file");
    for (const name of ["file", "full", "link", "dangling", ".", ".."]) {
      assert.equal(client.mkdir(ROOT, name).error, -EEXIST);
      assert.equal(client.mknod(ROOT, name, S_IFREG | 0o644).error, -EEXIST);
      assert.equal(client.symlink(ROOT, name, "x").error, -EEXIST);
      assert.equal(client.link(nodeid, ROOT, name).error, -EEXIST);
    }
    assert.equal(Deno.readTextFileSync(path("file")), "text");
  });
  await step("UNLINK removes a file or a symlink, not what it leads to", () => {
    Deno.symlinkSync("file", path("to-file"));
    assert.equal(client.unlink(ROOT, "to-file").error, 0);
    assert.equal(Deno.readTextFileSync(path("file")), "text");
    assert.equal(client.unlink(ROOT, "none").error, -ENOENT);
    for (const name of ["full", ".", ".."]) assert.equal(client.unlink(ROOT, name).error, -EISDIR);
    assert.equal(client.unlink(client.lookup(ROOT, "file").nodeid, "x").error, -ENOTDIR);
  });
  await step("RMDIR removes an empty directory and nothing else", () => {
    assert.equal(client.rmdir(ROOT, "full").error, -ENOTEMPTY);
    assert.equal(client.rmdir(ROOT, "file").error, -ENOTDIR);
    assert.equal(client.rmdir(ROOT, "link").error, -ENOTDIR);
    assert.equal(client.rmdir(ROOT, "none").error, -ENOENT);
    assert.equal(client.rmdir(ROOT, ".").error, -EINVAL);
    assert.equal(client.rmdir(ROOT, "..").error, -ENOTEMPTY);
    assert.equal(client.rmdir(client.lookup(ROOT, "full").nodeid, "sub").error, 0);
    assert.throws(() => Deno.lstatSync(path("full/sub")), Deno.errors.NotFound);
  });
  await step("RENAME moves and replaces as the host does", () => {
    const { nodeid } = client.lookup(ROOT, "file");
    const full = client.lookup(ROOT, "full").nodeid;
    assert.equal(client.rename(ROOT, "file", full, "moved").error, 0);
    assert.equal(client.lookup(full, "moved").nodeid, nodeid);
    Deno.writeTextFileSync(path("replaced"), "old");
    assert.equal(client.rename(full, "moved", ROOT, "replaced").error, 0);
    assert.equal(Deno.readTextFileSync(path("replaced")), "text");
    assert.equal(client.rename(ROOT, "none", ROOT, "x").error, -ENOENT);
    Deno.mkdirSync(path("d1/d2"), { recursive: true });
    Deno.mkdirSync(path("d3"));
    const d1 = client.lookup(ROOT, "d1").nodeid;
    assert.equal(client.rename(ROOT, "d3", ROOT, "d1").error, -ENOTEMPTY);
    assert.equal(client.rename(ROOT, "d3", ROOT, "replaced").error, -ENOTDIR);
    assert.equal(client.rename(ROOT, "replaced", ROOT, "d3").error, -EISDIR);
    assert.equal(client.rename(ROOT, "d1", d1, "below-itself").error, -EINVAL);
    assert.equal(client.rename(ROOT, "d3", client.lookup(d1, "d2").nodeid, "d3").error, 0);
    assert.ok(Deno.lstatSync(path("d1/d2/d3")).isDirectory);
    assert.equal(client.rename(ROOT, "replaced", client.lookup(ROOT, "replaced").nodeid, "x").error, -ENOTDIR);
    assert.equal(client.rename(ROOT, "n".repeat(256), ROOT, "x").error, -ENAMETOOLONG);
    for (const dots of [".", ".."]) assert.ok(client.rename(ROOT, dots, ROOT, "x").error < 0);
  });
  await step("RENAME2 does not replace, or exchanges, when told so, and refuses unknown flags", () => {
    Deno.writeTextFileSync(path("a"), "a");
    Deno.writeTextFileSync(path("b"), "b");
    assert.equal(client.rename2(ROOT, "a", ROOT, "b", RENAME_NOREPLACE).error, -EEXIST);
    assert.equal(client.rename2(ROOT, "a", ROOT, "b", RENAME_EXCHANGE).error, 0);
    assert.deepEqual([Deno.readTextFileSync(path("a")), Deno.readTextFileSync(path("b"))], ["b", "a"]);
    assert.equal(client.rename2(ROOT, "a", ROOT, "c", RENAME_NOREPLACE).error, 0);
    assert.equal(client.rename2(ROOT, "a", ROOT, "b", RENAME_EXCHANGE).error, -ENOENT);
    for (const flags of [RENAME_NOREPLACE | RENAME_EXCHANGE, 0x80, 0x8000_0000]) {
      assert.equal(client.rename2(ROOT, "c", ROOT, "d", flags).error, -EINVAL);
    }
    assert.equal(client.rename2(ROOT, "c", ROOT, "d").error, 0);
    assert.equal(Deno.readTextFileSync(path("d")), "b");
  });
  await step("RENAME answers EXDEV across file systems", () => {
    const other = Deno.makeTempDirSync({ dir: "/dev/shm" });
    const mounted = new Deno.Command("mount", { args: ["--bind", other, path("d3-mount")] });
    Deno.mkdirSync(path("d3-mount"));
    try {
      const { success, stderr } = mounted.outputSync();
      if (!success) return console.log(`  not tried: ${new TextDecoder().decode(stderr).trim()}`);
      const there = client.lookup(ROOT, "d3-mount");
      assert.equal(there.attr.ino, BigInt(hostStat(other).ino));
      assert.equal(client.rename(ROOT, "d", there.nodeid, "d").error, -EXDEV);
      assert.equal(client.create(there.nodeid, "made").error, 0);
      assert.ok(Deno.lstatSync(`${other}/made`).isFile);
    } finally {
      new Deno.Command("umount", { args: ["--lazy", path("d3-mount")], stderr: "null" }).outputSync();
      Deno.removeSync(other, { recursive: true });
    }
  }, needsRoot || needsMounts);

  await step("Credentials.putOn() gives what is made to the guest's user", () => {
    const dir = client.mkdir(ROOT, "theirs", 0o755).nodeid;
    for (const [uid, gid] of [[1234, 5678], [0, 99], [77, 0], [2 ** 32 - 2, 2 ** 31], [0, 0]]) {
      Object.assign(client, { uid, gid });
      const file = client.create(dir, "file", 2, S_IFREG | 0o4711);
      const made = [
        file,
        client.mkdir(dir, "dir"),
        client.mknod(dir, "node", S_IFIFO | 0o600),
        client.symlink(dir, "l", "x"),
      ];
      assert.deepEqual(made.map(({ error }) => error), [0, 0, 0, 0], `${uid}:${gid}`);
      assert.deepEqual(made.map(({ attr }) => [attr.uid, attr.gid]), made.map(() => [uid, gid]));
      const host = hostStat(path("theirs/file"));
      assert.deepEqual([host.uid, host.gid, host.mode], [uid, gid, S_IFREG | 0o4711]);
      assert.equal(client.rmdir(dir, "dir").error, 0);
      for (const name of ["file", "node", "l"]) assert.equal(client.unlink(dir, name).error, 0);
    }
  }, needsRoot);
  await step("Credentials.takeOff() comes after failures too", () => {
    Object.assign(client, { uid: 1234, gid: 5678 });
    const { nodeid } = client.lookup(ROOT, "theirs");
    assert.equal(client.mkdir(ROOT, "theirs").error, -EEXIST);
    assert.equal(client.create(ROOT, "n".repeat(256)).error, -ENAMETOOLONG);
    assert.equal(client.symlink(ROOT, "theirs", "x").error, -EEXIST);
    assert.equal(client.mknod(ROOT, "x", S_IFDIR).error, -EPERM);
    Object.assign(client, { uid: 0, gid: 0 });
    assert.equal(client.mkdir(nodeid, "ours").attr.uid, 0);
    assert.equal(client.mkdir(nodeid, "ours2").attr.gid, 0);
  }, needsRoot);
  await step("Credentials.putOn() refuses an impossible user rather than act as root", () => {
    for (const [uid, gid] of [[2 ** 32 - 1, 5], [5, 2 ** 32 - 1]]) {
      Object.assign(client, { uid, gid });
      for (
        const made of [
          client.create(ROOT, "nobodys"),
          client.mkdir(ROOT, "nobodys"),
          client.symlink(ROOT, "nobodys", "x"),
        ]
      ) {
        assert.equal(made.error, -EPERM);
      }
      assert.equal(client.lookup(ROOT, "nobodys").error, -ENOENT);
    }
    Object.assign(client, { uid: 0, gid: 0 });
    assert.deepEqual([client.mkdir(ROOT, "roots").attr.uid, client.lookup(ROOT, "roots").attr.gid], [0, 0]);
  }, needsRoot);

  await step("CREATE makes a file, once with O_EXCL", () => {
    const made = client.create(ROOT, "created", 0o2 | 0o200, S_IFREG | 0o640);
    assert.equal(made.error, 0);
    assertAttr(made.attr, path("created"));
    assert.equal(made.attr.mode, S_IFREG | 0o640);
    assert.equal(client.write(made.nodeid, made.fh, 0, names("hello")).size, 6);
    assert.equal(client.create(ROOT, "created", 0o2 | 0o200).error, -EEXIST);
    const again = client.create(ROOT, "created", 0o2);
    assert.deepEqual([again.error, again.nodeid, again.attr.size], [0, made.nodeid, 6]);
    const truncated = client.create(ROOT, "created", 0o2 | 0o1000);
    assert.deepEqual([truncated.error, truncated.attr.size], [0, 0]);
    for (const { fh } of [made, again, truncated]) assert.equal(client.release(made.nodeid, fh).error, 0);
  });
  await step("CREATE of a FIFO, a socket, a directory or a symlink neither waits nor follows", () => {
    client.mknod(ROOT, "fifo", S_IFIFO | 0o600);
    client.mknod(ROOT, "socket", S_IFSOCK | 0o600);
    for (const flags of [0, 1, 2, 0o1001]) {
      for (const name of ["fifo", "socket"]) assert.ok(client.create(ROOT, name, flags).error < 0, name);
      assert.equal(client.create(ROOT, "dangling", flags).error, -ELOOP);
      assert.equal(client.create(ROOT, "link", flags).error, -ELOOP);
      assert.equal(client.create(ROOT, "full", flags).error, -EISDIR);
      for (const dots of [".", ".."]) assert.equal(client.create(ROOT, dots, flags).error, -EISDIR);
    }
    assert.throws(() => Deno.lstatSync(path("nowhere")), Deno.errors.NotFound);
  });
  await step("CREATE of a device is refused", () => {
    client.mknod(ROOT, "null", S_IFCHR | 0o666, 0x103);
    assert.ok(client.create(ROOT, "null", 2).error < 0);
    assert.ok(client.open(client.lookup(ROOT, "null").nodeid, 2).error < 0);
  }, needsRoot);
});
