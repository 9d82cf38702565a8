// Operations on open directories, against a daemon.
import assert from "node:assert/strict";
import { u32 } from "../../bench/fuse_encode.ts";
import type { FuseClient } from "../../bench/fuse_client.ts";
import type { DirectoryEntry } from "../../bench/fuse_decode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { EBADF, EINVAL, ENOENT, ENOTDIR } from "../../ffi/errno.ts";
import { DT_DIR, DT_FIFO, DT_LNK, DT_REG, S_IFIFO } from "../../ffi/stat_layout.ts";
import { direntplusSize, direntSize } from "../../fs/wire.ts";
import { byHandle, withDaemon } from "./daemon.ts";
import { assertAttr, hostStat } from "./host_stat.ts";

const ROOT = 1;
const MANY = 3000;

const sorted = (entries: readonly { name: string }[]) => entries.map(({ name }) => name).sort();
/** All entries by READDIR, from the beginning. */
function readAll(client: FuseClient, nodeid: bigint, fh: bigint): DirectoryEntry[] {
  const entries: DirectoryEntry[] = [];
  for (;;) {
    const part = client.readdir(nodeid, fh, entries.at(-1)?.offset ?? 0n, 1 << 20).entries;
    if (part.length === 0) return entries;
    entries.push(...part);
  }
}

const isDots = ({ name }: { name: string }) => name === "." || name === "..";

withDaemon("Directories", { session: { memory: 128 << 20 } }, async (daemon, { client }, step) => {
  const path = (name: string) => daemon.path(name);
  Deno.mkdirSync(path("kinds/sub"), { recursive: true });
  Deno.writeTextFileSync(path("kinds/file"), "text");
  Deno.symlinkSync("file", path("kinds/link"));
  Deno.writeTextFileSync(path(`kinds/${"n".repeat(255)}`), "");
  const kinds = client.lookup(ROOT, "kinds").nodeid;
  client.mknod(kinds, "fifo", S_IFIFO | 0o600);
  Deno.mkdirSync(path("many"));
  for (let i = 0; i < MANY; i++) Deno.writeTextFileSync(path(`many/entry-${i}`), "");
  const many = client.lookup(ROOT, "many").nodeid;
  const all = [".", "..", ...Array.from({ length: MANY }, (_, i) => `entry-${i}`)].sort();
  const names = [".", "..", "fifo", "file", "link", "n".repeat(255), "sub"];

  await step("READDIR lists each name once, with inode and type", () => {
    const { error, entries } = client.list(kinds);
    assert.equal(error, 0);
    assert.deepEqual(sorted(entries), names);
    const types: Record<string, number> = { ".": DT_DIR, "..": DT_DIR, fifo: DT_FIFO, link: DT_LNK, sub: DT_DIR };
    for (const { name, type, ino } of entries) {
      assert.equal(type, types[name] ?? DT_REG, name);
      assert.equal(Number(ino), hostStat(path(`kinds/${name}`)).ino, name);
    }
  });
  await step("READDIRPLUS lists the same, with nodes and attributes but for the dots", () => {
    const { error, entries } = client.list(kinds, true);
    assert.equal(error, 0);
    assert.deepEqual(sorted(entries), names);
    for (const one of entries) {
      const { nodeid, attr, entryValid, generation } = one.entry!;
      if (isDots(one)) {
        assert.deepEqual([nodeid, attr.ino, attr.mode], [0n, one.ino, DT_DIR << 12]);
        continue;
      }
      assert.deepEqual([entryValid, generation], [1, 0n]);
      assertAttr(attr, path(`kinds/${one.name}`));
      assert.equal(client.lookup(kinds, one.name).nodeid, nodeid);
    }
  });
  await step("READDIRPLUS counts a lookup for each node that it gives", async () => {
    const before = daemon.files;
    const { entries } = client.list(many, true, 65536);
    await daemon.filesAre(before + MANY);
    const again = client.list(many, true, 65536).entries;
    const given = entries.filter((one) => !isDots(one)).map(({ entry }) => entry!.nodeid);
    assert.deepEqual(again.filter((one) => !isDots(one)).map(({ entry }) => entry!.nodeid), given);
    // Of two lookups each, one is given back, then the other.
    client.batchForget(given.slice(0, 700).map((nodeid) => ({ nodeid, lookups: 1 })));
    assert.equal(client.getattr(given[0]).error, 0);
    for (let i = 0; i < MANY; i += 500) {
      client.batchForget(given.slice(i, i + 500).map((nodeid) => ({ nodeid, lookups: 2 })));
    }
    await daemon.filesAre(before);
    assert.equal(client.getattr(given[0]).error, -ENOENT);
    assert.equal(client.getattr(given[MANY - 1]).error, -ENOENT);
  }, byHandle);
  await step("READDIR of 3,000 entries, in pieces of any size", () => {
    for (const size of [48, 100, 1000, 4096, 65536, 1 << 20]) {
      const { error, entries } = client.list(many, false, size);
      assert.equal(error, 0);
      assert.deepEqual(sorted(entries), all, `${size}`);
    }
    const { entries } = client.list(many, true, 4096);
    assert.deepEqual(sorted(entries), all);
    client.batchForget(
      entries.filter((one) => !isDots(one)).map(({ entry }) => ({ nodeid: entry!.nodeid, lookups: 1 })),
    );
  });
  await step("READDIR fills the buffer, and never beyond it", () => {
    const { fh } = client.opendir(many);
    for (const size of [200, 4096, 10_000]) {
      const { data } = client.readdir(many, fh, 0, size);
      assert.ok(data.length <= size && data.length > size - direntSize(12), `${data.length} of ${size}`);
    }
    client.releasedir(many, fh);
  });
  await step("READDIR goes on behind any entry, also back and forth", () => {
    const { fh } = client.opendir(many);
    const first = readAll(client, many, fh);
    const behind = (i: number, size: number) => client.readdir(many, fh, first[i].offset, size).entries;
    for (const i of [10, 2000, 0, 1, 2999, 500, 501, 500, 502]) {
      for (const size of [64, 4096]) {
        const got = behind(i, size).map(({ name }) => name);
        const want = first.slice(i + 1, i + 1 + got.length).map(({ name }) => name);
        assert.deepEqual(got, want);
        assert.equal(got.length > 0, i < first.length - 1);
      }
    }
    client.releasedir(many, fh);
  });
  await step("READDIR goes on when it had been at the end", () => {
    const { fh } = client.opendir(many);
    const first = client.readdir(many, fh, 0, 4096).entries;
    const resume = first.at(-1)!.offset;
    let last = resume;
    for (let part: DirectoryEntry[] = first; part.length > 0; part = client.readdir(many, fh, last, 65536).entries) {
      last = part.at(-1)!.offset;
    }
    assert.equal(client.readdir(many, fh, last, 4096).entries.length, 0);
    assert.ok(client.readdir(many, fh, resume, 4096).entries.length > 0, "seek back from the end");
    assert.equal(client.readdir(many, fh, last, 4096).entries.length, 0);
    assert.deepEqual(client.readdir(many, fh, 0, 4096).entries, first, "rewind");
    client.releasedir(many, fh);
  });
  await step("READDIR into a buffer too small for one entry answers EINVAL and loses nothing", () => {
    const { fh } = client.opendir(many);
    for (const size of [0, 1, 24, 31]) assert.equal(client.readdir(many, fh, 0, size).error, -EINVAL, `${size}`);
    for (const size of [32, 152, direntplusSize(1) - 1]) {
      assert.equal(client.readdirplus(many, fh, 0, size).error, -EINVAL, `${size}`);
    }
    const first = client.readdir(many, fh, 0, 4096).entries;
    const at = first[20].offset;
    assert.equal(client.readdir(many, fh, at, 31).error, -EINVAL);
    const all = readAll(client, many, fh);
    assert.equal(all.length, MANY + 2);
    assert.equal(client.readdir(many, fh, at, 31).error, -EINVAL);
    assert.equal(client.readdir(many, fh, at, 4096).entries[0].name, all[21].name);
    client.releasedir(many, fh);
  });
  await step("READDIR gives no more than there is room for", () => {
    const { fh } = client.opendir(many);
    const args = new Uint8Array(40);
    args.set(u32(Number(fh)));
    args.set(u32(1 << 20), 16);
    const { error, data } = client.request(op.FUSE_READDIR, many, args, 0, { dataOut: 1000 });
    assert.ok(error === 0 && data.length > 900 && data.length <= 1000);
    client.releasedir(many, fh);
  });
  await step("READDIR sees what was made since the directory was rewound", () => {
    const { fh } = client.opendir(kinds);
    const before = client.readdir(kinds, fh, 0, 65536).entries;
    Deno.writeTextFileSync(path("kinds/new"), "");
    Deno.removeSync(path("kinds/file"));
    const after = client.readdir(kinds, fh, 0, 65536).entries;
    assert.deepEqual(sorted(after), [...sorted(before).filter((name) => name !== "file"), "new"].sort());
    client.releasedir(kinds, fh);
  });
  await step("READDIR of two handles does not mix them", () => {
    const [a, b] = [client.opendir(many).fh, client.opendir(many).fh];
    const first = readAll(client, many, a);
    let [at, bt] = [0n, first[1500].offset];
    for (let i = 0; i < 20; i++) {
      const [pa, pb] = [client.readdir(many, a, at, 400).entries, client.readdir(many, b, bt, 700).entries];
      at = pa.at(-1)!.offset, bt = pb.at(-1)!.offset;
    }
    const [ia, ib] = [at, bt].map((offset) => first.findIndex((one) => one.offset === offset));
    assert.ok(ia > 100 && ib > 1700);
    for (const fh of [a, b]) assert.equal(client.releasedir(many, fh).error, 0);
  });
  await step("READDIR of a directory that was removed answers ENOENT", () => {
    const made = client.mkdir(ROOT, "removed").nodeid;
    const { fh } = client.opendir(made);
    client.rmdir(ROOT, "removed");
    assert.equal(client.readdir(made, fh).error, -ENOENT);
    assert.equal(client.mkdir(made, "x").error, -ENOENT);
    client.releasedir(made, fh);
  });
  await step("READDIRPLUS of a nodeid that names nothing, or no directory, does no harm", () => {
    const { fh } = client.opendir(kinds);
    assert.equal(client.readdirplus(99999, fh).error, -ENOENT);
    const { entries, error } = client.readdirplus(client.lookup(kinds, "link").nodeid, fh);
    assert.equal(error, 0);
    assert.ok(entries.every(({ entry }) => entry!.nodeid === 0n));
    client.releasedir(kinds, fh);
  });
  await step("OPENDIR refuses what is no directory, and RELEASEDIR closes once", () => {
    assert.equal(client.opendir(client.lookup(kinds, "link").nodeid).error, -ENOTDIR);
    assert.equal(client.opendir(client.lookup(kinds, "fifo").nodeid).error, -ENOTDIR);
    const { fh } = client.opendir(kinds);
    assert.equal(client.release(kinds, fh).error, -EBADF);
    assert.equal(client.releasedir(kinds, fh).error, 0);
    assert.equal(client.releasedir(kinds, fh).error, -EBADF);
    assert.equal(client.readdir(kinds, fh).error, -EBADF);
  });
});
