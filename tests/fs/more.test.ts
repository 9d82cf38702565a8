// Operations of newer clients, against a daemon and compared with what the host sees.
import assert from "node:assert/strict";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import { DEFAULT_INIT_FLAGS } from "../../bench/fuse_client.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { EBADF, EINVAL, ENFILE, ENOSYS, ENOTTY, EOPNOTSUPP } from "../../ffi/errno.ts";
import { isRoot, needsMounts, needsRoot, withDaemon } from "./daemon.ts";

const ROOT = 1;
const O_RDWR = 2;
const FUSE_IOCTL = 39, COPY_FILE_RANGE = 47, SYNCFS = 50, TMPFILE = 51, STATX = 52, COPY_FILE_RANGE_64 = 53;
const ENTRY_BYTES = 128;

withDaemon("Newer operations", {}, async (daemon, { client }, step) => {
  const path = (name: string) => daemon.path(name);
  Deno.writeTextFileSync(path("from"), "0123456789".repeat(1000));
  Deno.writeTextFileSync(path("to"), "");
  const from = client.lookup(ROOT, "from").nodeid;
  const to = client.lookup(ROOT, "to").nodeid;
  const source = client.open(from, 0).fh;
  const target = client.open(to, O_RDWR).fh;

  await step("COPY_FILE_RANGE copies within the host, and closes what it worked on", async () => {
    // The first calls start helper threads, which have descriptors of their own.
    for (let i = 0; i < 3; i++) {
      client.request(COPY_FILE_RANGE, from, bytes(u64(source, 0, to, target, 0), u64(1, 0)), 8);
    }
    const before = daemon.files;
    Deno.truncateSync(path("to"), 0);
    for (const [opcode, size] of [[COPY_FILE_RANGE, 8], [COPY_FILE_RANGE_64, 8]]) {
      const copy = (len: number | bigint, offIn = 5, offOut = 3, fh = source) =>
        client.request(opcode, from, bytes(u64(fh, offIn, to, target, offOut), u64(len, 0)), size);
      const { error, data } = copy(20);
      assert.equal(error, 0);
      assert.equal(new DataView(data.buffer, data.byteOffset).getBigUint64(0, true), 20n);
      assert.equal(Deno.readTextFileSync(path("to")), "\0\0\0" + "0123456789".repeat(1000).slice(5, 25));
      // More than there is, more than one call may copy, and 64 bits of it.
      const all = copy(0xffff_ffff_ffffn, 0, 0);
      assert.equal(new DataView(all.data.buffer, all.data.byteOffset).getUint32(0, true), 10_000);
      assert.equal(copy(5, 0, 0, 4711n).error, -EBADF);
      assert.equal(
        client.request(opcode, from, bytes(u64(source, 1n << 63n, to, target, 0), u64(1, 0)), size).error,
        -EINVAL,
      );
      Deno.truncateSync(path("to"), 0);
    }
    await daemon.filesAre(before);
  });
  await step("TMPFILE makes a file without a name, and LINK gives it one", () => {
    const reply = client.request(TMPFILE, ROOT, bytes(u32(O_RDWR, 0o100640, 0, 0), names("x")), ENTRY_BYTES + 16);
    if (reply.error === -EOPNOTSUPP) return;
    assert.equal(reply.error, 0);
    const view = new DataView(reply.data.buffer, reply.data.byteOffset);
    const nodeid = view.getBigUint64(0, true);
    const fh = view.getBigUint64(ENTRY_BYTES, true);
    assert.equal(client.write(nodeid, fh, 0, new TextEncoder().encode("kept")).size, 4);
    assert.equal(client.getattr(nodeid).attr.nlink, 0);
    assert.equal(client.link(nodeid, ROOT, "named").nodeid, nodeid);
    assert.equal(Deno.readTextFileSync(path("named")), "kept");
    assert.equal(Deno.lstatSync(path("named")).mode! & 0o7777, 0o640);
    client.release(nodeid, fh);
  });
  await step("STATX answers what the host says, birth time included", () => {
    const { error, data } = client.request(STATX, from, bytes(u32(0, 0), u64(0), u32(0, 0xfff)), 288);
    assert.equal(error, 0);
    const view = new DataView(data.buffer, data.byteOffset);
    const stat = Deno.lstatSync(path("from"));
    const at = 32;
    assert.equal(view.getBigUint64(at + 40, true), BigInt(stat.size));
    assert.equal(view.getBigUint64(at + 32, true), BigInt(stat.ino!));
    assert.equal(view.getUint16(at + 28, true), stat.mode);
    if (stat.birthtime) {
      const birth = Number(view.getBigInt64(at + 80, true)) * 1000 + Math.floor(view.getUint32(at + 88, true) / 1e6);
      assert.equal(birth, stat.birthtime.getTime());
    }
  });
  await step("SYNCFS ends well", () => {
    assert.equal(client.request(SYNCFS, ROOT, u64(0)).error, 0);
  });
  await step("IOCTL passes the file's flags, and ENOTTY for all else", () => {
    const ioctl = (cmd: number, inSize: number, outSize: number, data: Uint8Array = bytes()) =>
      client.request(
        FUSE_IOCTL,
        from,
        bytes(u64(source), u32(0, cmd), u64(0), u32(inSize, outSize), data),
        16 + outSize,
      );
    const flags = ioctl(0x80086601, 0, 8);
    assert.ok(flags.error === 0 || flags.error === -ENOTTY, `${flags.error}`);
    assert.equal(ioctl(0x5401, 0, 36).error, -ENOTTY, "TCGETS");
    assert.equal(ioctl(0x40086602, 0, 0).error, -EINVAL, "SETFLAGS without flags");
    if (flags.error !== 0 || !isRoot) return;
    const NODUMP = 0x40;
    const now = new DataView(flags.data.buffer, flags.data.byteOffset + 16).getUint32(0, true);
    assert.equal(ioctl(0x40086602, 8, 0, u64(now | NODUMP)).error, 0);
    const after = ioctl(0x80086601, 0, 8);
    assert.equal(new DataView(after.data.buffer, after.data.byteOffset + 16).getUint32(0, true), now | NODUMP);
    assert.equal(ioctl(0x40086602, 8, 0, u64(now)).error, 0);
  });
  await step("what there is not is answered with ENOSYS", () => {
    for (const opcode of [37, 40, 48, 49, 60, 63]) {
      assert.equal(client.request(opcode, from, new Uint8Array(64), 64).error, -ENOSYS, `opcode ${opcode}`);
    }
  });
});

const SUBMOUNTS = 1n << 27n;
for (const announce of [true, false]) {
  const options = {
    args: announce ? [] : ["--no-announce-submounts"],
    session: { initFlags: DEFAULT_INIT_FLAGS | SUBMOUNTS },
  };
  withDaemon(`Submounts${announce ? "" : " that are not announced"}`, options, async (daemon, { client }, step) => {
    await step(`LOOKUP says ${announce ? "" : "not "}what is a mount point`, () => {
      for (const name of ["mounted", "plain"]) Deno.mkdirSync(daemon.path(name));
      const mount = new Deno.Command("mount", { args: ["-t", "tmpfs", "none", daemon.path("mounted")] }).outputSync();
      assert.ok(mount.success);
      try {
        const flags = (name: string) => {
          const { error, data } = client.request(op.FUSE_LOOKUP, ROOT, names(name), ENTRY_BYTES);
          assert.equal(error, 0);
          return new DataView(data.buffer, data.byteOffset).getUint32(40 + 84, true);
        };
        assert.deepEqual([flags("mounted"), flags("plain")], [announce ? 1 : 0, 0]);
      } finally {
        new Deno.Command("umount", { args: ["-l", daemon.path("mounted")] }).outputSync();
      }
    }, needsRoot || needsMounts);
  });
}

const KILLPRIV_V2 = 1n << 28n;
const killpriv = { args: ["--killpriv-v2"], session: { initFlags: DEFAULT_INIT_FLAGS | KILLPRIV_V2 } };
withDaemon("Set-user-ID bits with HANDLE_KILLPRIV_V2", killpriv, async (daemon, { client }, step) => {
  const SUID = 0o6755;
  Deno.writeTextFileSync(daemon.path("program"), "x");
  const node = client.lookup(ROOT, "program").nodeid;
  const mode = () => Deno.lstatSync(daemon.path("program")).mode! & 0o7777;
  const arm = () => Deno.chmodSync(daemon.path("program"), SUID);
  const { fh } = client.open(node, O_RDWR);
  const KILL = 4;
  await step("WRITE clears them where it is told to", () => {
    arm();
    client.write(node, fh, 0, new Uint8Array(1));
    assert.equal(mode(), isRoot ? SUID : 0o755, "root keeps them");
    arm();
    client.write(node, fh, 0, new Uint8Array(1), 0, KILL);
    assert.equal(mode(), 0o755);
  });
  await step("OPEN to truncate clears them where it is told to", () => {
    arm();
    const opened = client.request(op.FUSE_OPEN, node, u32(O_RDWR | 0o1000, 1), 16);
    assert.equal(opened.error, 0);
    assert.equal(mode(), 0o755);
  });
  await step("SETATTR of the size clears them where it is told to", () => {
    arm();
    const SIZE = 8, KILL_SUIDGID = 1 << 11;
    const args = new Uint8Array(88);
    const view = new DataView(args.buffer);
    view.setUint32(0, SIZE | KILL_SUIDGID, true);
    view.setBigUint64(16, 5n, true);
    assert.equal(client.request(op.FUSE_SETATTR, node, args, 104).error, 0);
    assert.equal(mode(), 0o755);
    assert.equal(Deno.lstatSync(daemon.path("program")).size, 5);
  });
  await step("FALLOCATE of an ordinary user clears them, root's does not", () => {
    arm();
    assert.equal(client.fallocate(node, fh, 0, 4096).error, 0);
    assert.equal(mode(), isRoot ? SUID : 0o755);
    client.uid = client.gid = 1000;
    assert.equal(client.fallocate(node, fh, 0, 8192).error, 0);
    client.uid = client.gid = 0;
    assert.equal(mode(), 0o755);
    assert.equal(Deno.lstatSync(daemon.path("program")).size, 8192);
  });
  await step("a chmod sets them again", () => {
    assert.equal(client.setattr(node, { mode: SUID }).error, 0);
    assert.equal(mode(), SUID);
  });
});

const few = { args: ["--rlimit-nofile", "1000", "--inode-file-handles", "never"] };
withDaemon("Few descriptors", few, async (daemon, { client }, step) => {
  await step(
    "a creation that would find none for its node is refused before the name is made, and goes on after FORGET",
    async () => {
      const made: bigint[] = [];
      let failed = 0;
      for (let i = 0; failed === 0 && i < 1000; i++) {
        const reply = client.symlink(ROOT, `link${i}`, "target");
        failed = reply.error;
        if (failed === 0) made.push(reply.nodeid);
      }
      assert.equal(failed, -ENFILE);
      assert.ok(made.length > 700, `${made.length}`);
      assert.equal([...Deno.readDirSync(daemon.path())].length, made.length, "no name without an answer");
      await daemon.until(() => /warn: the guest holds \d+ of 1000 descriptors/.test(daemon.log), "a warning");
      assert.equal(daemon.log.match(/the guest holds/g)!.length, 1);
      for (const nodeid of made) client.forget(nodeid);
      assert.equal(client.mkdir(ROOT, "again").error, 0);
    },
  );
});
