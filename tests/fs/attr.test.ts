// Operations on attributes, against a daemon and compared with what the host sees.
import assert from "node:assert/strict";
import { bytes, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { EACCES, EBADF, EINVAL, EISDIR } from "../../ffi/errno.ts";
import { S_IFDIR, S_IFIFO, S_IFREG } from "../../ffi/stat_layout.ts";
import { needsRoot, withDaemon } from "./daemon.ts";
import { assertAttr, hostStat } from "./host_stat.ts";

const ROOT = 1;
const FATTR_ATIME = 0x10, FATTR_MTIME = 0x20;

withDaemon("Attributes", {}, async (daemon, { client }, step) => {
  const path = (name: string) => daemon.path(name);
  Deno.writeFileSync(path("file"), new Uint8Array(1000).fill(7), { mode: 0o600 });
  Deno.mkdirSync(path("dir"));
  Deno.symlinkSync("file", path("link"));
  const file = client.lookup(ROOT, "file").nodeid;
  const dir = client.lookup(ROOT, "dir").nodeid;
  const link = client.lookup(ROOT, "link").nodeid;
  const fifo = client.mknod(ROOT, "fifo", S_IFIFO | 0o600).nodeid;
  const kinds = [["file", file], ["dir", dir], ["link", link], ["fifo", fifo]] as const;

  await step("GETATTR answers what the host says, by node", () => {
    for (const [name, nodeid] of kinds) {
      const { error, attr, attrValid } = client.getattr(nodeid);
      assert.deepEqual([error, attrValid], [0, 1]);
      assertAttr(attr, path(name));
    }
    assertAttr(client.getattr(ROOT).attr, path(""));
  });
  await step("GETATTR answers by fh, of files and directories, also unlinked ones", () => {
    const opened = client.open(file, 2);
    assertAttr(client.getattr(file, opened.fh).attr, path("file"));
    const listed = client.opendir(dir);
    assertAttr(client.getattr(dir, listed.fh).attr, path("dir"));
    const made = client.create(ROOT, "temporary");
    assert.equal(client.unlink(ROOT, "temporary").error, 0);
    assert.deepEqual([client.getattr(made.nodeid, made.fh).error, client.getattr(made.nodeid).attr.nlink], [0, 0]);
    client.release(file, opened.fh), client.releasedir(dir, listed.fh), client.release(made.nodeid, made.fh);
  });
  await step("GETATTR and SETATTR answer EBADF for an fh that names nothing", () => {
    for (const fh of [0n, 5n, 2n ** 32n, 2n ** 64n - 1n]) {
      assert.equal(client.getattr(file, fh).error, -EBADF);
      assert.equal(client.setattr(file, { size: 0, fh }).error, -EBADF);
    }
    assert.equal(hostStat(path("file")).size, 1000);
  });
  await step("SETATTR sets the mode", () => {
    for (
      const [name, nodeid, type] of [["file", file, S_IFREG], ["dir", dir, S_IFDIR], ["fifo", fifo, S_IFIFO]] as const
    ) {
      for (const mode of [0o7777, 0o000, 0o644]) {
        const { error, attr } = client.setattr(nodeid, { mode: type | mode });
        assert.equal(error, 0);
        assert.equal(hostStat(path(name)).mode, type | mode);
        assertAttr(attr, path(name));
      }
    }
    const { fh } = client.open(file);
    assert.equal(client.setattr(file, { mode: 0o4711, fh }).error, 0);
    assert.equal(hostStat(path("file")).mode, S_IFREG | 0o4711);
    client.release(file, fh);
  });
  await step("SETATTR sets owner and group, each alone, of a symlink its own", () => {
    for (const [name, nodeid] of kinds) {
      const before = hostStat(path("file"));
      assert.equal(client.setattr(nodeid, { uid: 12 }).error, 0);
      assert.equal(client.setattr(nodeid, { gid: 2 ** 32 - 2 }).error, 0);
      const { attr } = client.getattr(nodeid);
      assert.deepEqual([attr.uid, attr.gid], [12, 2 ** 32 - 2]);
      assertAttr(attr, path(name));
      if (name === "link") assert.deepEqual(hostStat(path("file")), before);
      assert.equal(client.setattr(nodeid, { uid: 0, gid: 0 }).error, 0);
    }
  }, needsRoot);
  await step("SETATTR sets the size by node and by fh, both ways", () => {
    const { fh } = client.open(file, 2);
    for (const size of [10, 5000, 0, 2 ** 33 + 5, 3]) {
      assert.equal(client.setattr(file, { size }).attr.size, size);
      assert.equal(hostStat(path("file")).size, size);
      assert.equal(client.setattr(file, { size: size + 1, fh }).attr.size, size + 1);
      assert.equal(hostStat(path("file")).size, size + 1);
    }
    client.release(file, fh);
    const readOnly = client.open(file, 0);
    assert.equal(client.setattr(file, { size: 0, fh: readOnly.fh }).error, -EINVAL, "the file is open for reading");
    client.release(file, readOnly.fh);
  });
  await step("SETATTR refuses a size for what has none, or a negative one", () => {
    assert.equal(client.setattr(dir, { size: 0 }).error, -EISDIR);
    for (const nodeid of [link, fifo]) assert.equal(client.setattr(nodeid, { size: 0 }).error, -EINVAL);
    for (const size of [2n ** 63n, 2n ** 64n - 1n]) assert.equal(client.setattr(file, { size }).error, -EINVAL);
    assert.ok(hostStat(path("file")).size > 0);
  });
  await step("SETATTR sets times to the nanosecond, of a symlink its own", () => {
    for (const [name, nodeid] of kinds) {
      const atime = { seconds: 1_234_567_890, nanoseconds: 123_456_789 };
      const mtime = { seconds: 2 ** 33 + 1, nanoseconds: 999_999_999 };
      const { error, attr } = client.setattr(nodeid, { atime, mtime });
      assert.equal(error, 0);
      const host = hostStat(path(name));
      assert.deepEqual([host.atime, host.atimensec, host.mtime, host.mtimensec], [
        atime.seconds,
        atime.nanoseconds,
        mtime.seconds,
        mtime.nanoseconds,
      ]);
      assertAttr(attr, path(name));
    }
    assert.equal(client.setattr(file, { mtime: { seconds: -5, nanoseconds: 250 } }).error, 0);
    assert.deepEqual([hostStat(path("file")).mtime, hostStat(path("file")).mtimensec], [-5, 250]);
    assertAttr(client.getattr(file).attr, path("file"));
  });
  await step("SETATTR sets one time and leaves the other, or takes the host's clock", () => {
    const old = { seconds: 1000, nanoseconds: 1 };
    client.setattr(file, { atime: old, mtime: old });
    client.setattr(file, { mtime: { seconds: 2000 } });
    const first = hostStat(path("file"));
    assert.deepEqual([first.atime, first.atimensec, first.mtime, first.mtimensec], [1000, 1, 2000, 0]);
    const before = Date.now() / 1000 - 1;
    client.setattr(file, { atime: "now" });
    const second = hostStat(path("file"));
    assert.ok(second.atime >= before && second.atime <= Date.now() / 1000);
    assert.equal(second.mtime, 2000);
    client.setattr(file, { atime: old, mtime: "now" });
    const third = hostStat(path("file"));
    assert.deepEqual([third.atime, third.atimensec], [1000, 1]);
    assert.ok(third.mtime >= before && third.mtime <= Date.now() / 1000);
  });
  await step("SETATTR refuses nanoseconds that are none", () => {
    const nonsense = { seconds: 1, nanoseconds: 1_000_000_000 };
    assert.equal(client.setattr(file, { atime: nonsense, mtime: nonsense }).error, -EINVAL);
    assert.equal(client.setattr(file, { valid: FATTR_ATIME | FATTR_MTIME }).error, 0, "the epoch is a time");
    assert.deepEqual([hostStat(path("file")).atime, hostStat(path("file")).mtime], [0, 0]);
  });
  await step("SETATTR of nothing answers with the attributes", () => {
    const { error, attr } = client.setattr(file, {});
    assert.equal(error, 0);
    assertAttr(attr, path("file"));
  });
  await step("SETATTR sets all at once", () => {
    const what = { mode: 0o751, uid: 0, gid: 0, size: 77, atime: { seconds: 1 }, mtime: { seconds: 2 } };
    const { attr } = client.setattr(file, what);
    assert.deepEqual([attr.mode, attr.size, attr.atime, attr.mtime], [S_IFREG | 0o751, 77, 1n, 2n]);
    assertAttr(attr, path("file"));
  }, needsRoot);
  await step("STATFS answers what stat -f says", () => {
    const format = "%b %c %s %S %l";
    const { stdout } = new Deno.Command("stat", { args: ["-f", "-c", format, path("")] }).outputSync();
    const expected = new TextDecoder().decode(stdout).trim().split(" ").map(Number);
    for (const nodeid of [ROOT, file]) {
      const s = client.statfs(nodeid);
      assert.equal(s.error, 0);
      assert.deepEqual([Number(s.blocks), Number(s.files), s.bsize, s.frsize, s.namelen], expected);
      assert.ok(s.bfree > 0n && s.bfree <= s.blocks && s.bavail <= s.bfree && s.ffree <= s.files);
    }
  });
  await step("ACCESS checks the request's user against the permission bits", () => {
    client.setattr(file, { mode: 0o640, ...(needsRoot ? {} : { uid: 10, gid: 20 }) });
    const ask = (uid: number, gid: number) => {
      Object.assign(client, { uid, gid });
      const granted = [0, 1, 2, 4, 6, 7].filter((mask) => client.access(file, mask).error === 0);
      assert.deepEqual(
        [0, 1, 2, 4, 6, 7].filter((mask) => client.access(file, mask).error === -EACCES).length,
        6 - granted.length,
      );
      Object.assign(client, { uid: 0, gid: 0 });
      return granted;
    };
    assert.deepEqual(ask(10, 1), [0, 2, 4, 6]);
    assert.deepEqual(ask(11, 20), [0, 4]);
    assert.deepEqual(ask(11, 21), [0]);
    assert.deepEqual(ask(0, 0), [0, 2, 4, 6], "root may do all but run what nobody may run");
    client.setattr(file, { mode: 0o610 });
    assert.deepEqual(ask(0, 0), [0, 1, 2, 4, 6, 7]);
  }, needsRoot);
  await step("GETATTR and SETATTR refuse requests that are cut short with EINVAL", () => {
    assert.equal(client.request(op.FUSE_GETATTR, file, u32(0, 0), 104).error, -EINVAL);
    assert.equal(client.request(op.FUSE_SETATTR, file, bytes(u32(8, 0), u64(0, 0)), 104).error, -EINVAL);
    assert.equal(client.request(op.FUSE_ACCESS, file, bytes()).error, -EINVAL);
  });
});
