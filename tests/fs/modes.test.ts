// What options agree with the client on, and how they have files opened, read and written.
import assert from "node:assert/strict";
import * as wire from "../../fs/wire.ts";
import { O_APPEND, O_DIRECT, O_NOATIME, O_RDWR, O_WRONLY } from "../../ffi/arch.ts";
import { EPROTO } from "../../ffi/errno.ts";
import { Daemon, withDaemon } from "./daemon.ts";

const ROOT = 1n;
const ALL_FLAGS = 0xffff_ffffn | 0xffff_ffffn << 32n;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The flags of open(2) of the daemon's only descriptor of a file that is not O_PATH. */
function hostFlags(daemon: Daemon, name: string): number {
  const found: number[] = [];
  for (const { name: fd } of Deno.readDirSync(`/proc/${daemon.pid}/fd`)) {
    const link = `/proc/${daemon.pid}/fd/${fd}`;
    if (Deno.readLinkSync(link) !== daemon.inside(name)) continue;
    const flags = parseInt(Deno.readTextFileSync(`/proc/${daemon.pid}/fdinfo/${fd}`).match(/^flags:\s*(\d+)/m)![1], 8);
    if ((flags & 0o10000000) === 0) found.push(flags);
  }
  assert.equal(found.length, 1, `${name}: ${found}`);
  return found[0];
}

Deno.test("init() offers what the options say", async () => {
  const { FLAGS2 } = wire;
  const plus = wire.FUSE_DO_READDIRPLUS | wire.FUSE_READDIRPLUS_AUTO;
  const acl = wire.FUSE_POSIX_ACL | wire.FUSE_DONT_MASK | wire.FUSE_SETXATTR_EXT;
  // Options, flags that must be set, flags that must not; then the same of flags2.
  const cases: [string[], number, number, number, number][] = [
    [[], plus, acl | wire.FUSE_WRITEBACK_CACHE, FLAGS2.FUSE_CREATE_SUPP_GROUP, 0x11],
    [["--cache=never", "--allow-mmap"], 0, plus, FLAGS2.FUSE_DIRECT_IO_ALLOW_MMAP, FLAGS2.FUSE_SECURITY_CTX],
    [["--no-readdirplus", "--writeback"], wire.FUSE_WRITEBACK_CACHE, plus, 0, 0],
    [["--posix-acl"], acl, 0, 0, FLAGS2.FUSE_SECURITY_CTX],
    [["--xattr"], wire.FUSE_SETXATTR_EXT, wire.FUSE_POSIX_ACL | wire.FUSE_DONT_MASK, 0, 0],
    [["--security-label"], 0, acl & ~wire.FUSE_SETXATTR_EXT, FLAGS2.FUSE_SECURITY_CTX, 0],
  ];
  for (const [args, set, clear, set2, clear2] of cases) {
    const daemon = await Daemon.start({ args });
    try {
      const session = daemon.session({ initFlags: ALL_FLAGS });
      const { flags } = session.initReply!;
      const low = Number(BigInt(flags) & 0xffff_ffffn);
      const high = Number(BigInt(flags) >> 32n);
      session.close();
      assert.deepEqual([low & set, low & clear, high & set2, high & clear2], [set, 0, set2, 0], args.join(" "));
    } finally {
      await daemon.stop();
    }
  }
});

Deno.test("init() refuses a client that cannot do what an option needs, unless it is =auto", async () => {
  for (const [option, error] of [["--posix-acl", -EPROTO], ["--security-label", -EPROTO], ["--posix-acl=auto", 0]]) {
    const daemon = await Daemon.start({ args: [option as string] });
    try {
      const session = daemon.session({ init: false });
      const reply = session.client.init(38, BigInt(wire.FUSE_POSIX_ACL));
      assert.equal(reply.error, error, `${option}`);
      if (error === 0) assert.equal(Number(reply.flags) & wire.FUSE_POSIX_ACL, 0);
      else await daemon.until(() => daemon.log.includes(`cannot do ${option}`), "the reason in the log");
      session.close();
    } finally {
      await daemon.stop();
    }
  }
});

withDaemon("Opening by the usual options", {}, async (daemon, { client }, step) => {
  await step("hostFlags() O_NOATIME, O_DIRECT and O_APPEND stay with the client", () => {
    const { nodeid } = client.create(ROOT, "file", O_RDWR | O_NOATIME | O_DIRECT | O_APPEND);
    assert.equal(hostFlags(daemon, "file") & (O_NOATIME | O_DIRECT | O_APPEND), 0);
    assert.equal(client.open(nodeid, O_WRONLY | O_NOATIME | O_DIRECT | O_APPEND).error, 0);
  });
  await step("appends() a write with O_APPEND goes to the end, a page of the client's cache to its place", () => {
    const { nodeid, fh } = client.create(ROOT, "log");
    Deno.writeTextFileSync(daemon.path("log"), "host");
    client.write(nodeid, fh, 0, encoder.encode("+end"), O_WRONLY | O_APPEND);
    assert.equal(Deno.readTextFileSync(daemon.path("log")), "host+end");
    client.write(nodeid, fh, 0, encoder.encode("HOST"), O_WRONLY | O_APPEND, wire.FUSE_WRITE_CACHE);
    assert.equal(Deno.readTextFileSync(daemon.path("log")), "HOST+end");
    client.write(nodeid, fh, 1, encoder.encode("x"), O_WRONLY);
    assert.equal(Deno.readTextFileSync(daemon.path("log")), "HxST+end");
  });
});

withDaemon("Opening with --preserve-noatime", { args: ["--preserve-noatime"] }, async (daemon, { client }, step) => {
  await step("hostFlags() O_NOATIME is passed on", () => {
    client.create(ROOT, "file", O_RDWR | O_NOATIME);
    assert.equal(hostFlags(daemon, "file") & O_NOATIME, O_NOATIME);
  });
});

withDaemon(
  "Opening with --writeback",
  { args: ["--writeback"], session: { initFlags: BigInt(wire.FUSE_WRITEBACK_CACHE) } },
  async (daemon, { client }, step) => {
    await step("hostFlags() what is opened for writing can be read", () => {
      const { nodeid, fh } = client.create(ROOT, "file", O_WRONLY | O_APPEND);
      assert.equal(hostFlags(daemon, "file") & (3 | O_APPEND), O_RDWR);
      client.write(nodeid, fh, 0, encoder.encode("abc"));
      assert.equal(decoder.decode(client.read(nodeid, fh, 0, 10).data), "abc");
    });
    await step("setattr() takes a ctime, which the host sets itself", () => {
      const { nodeid } = client.lookup(ROOT, "file");
      assert.equal(client.setattr(nodeid, { ctime: { seconds: 1 } }).error, 0);
    });
  },
);

withDaemon("Opening with --allow-direct-io", { args: ["--allow-direct-io"] }, async (daemon, { client }, step) => {
  await step("write() and read() pass the page cache by", () => {
    const { nodeid, fh, error } = client.create(ROOT, "file", O_RDWR | O_DIRECT);
    assert.equal(error, 0);
    assert.equal(hostFlags(daemon, "file") & O_DIRECT, O_DIRECT);
    const data = new Uint8Array(8192).fill(7);
    assert.equal(client.write(nodeid, fh, 4096, data).size, 8192);
    const read = client.read(nodeid, fh, 4096, 8192);
    assert.equal(read.error, 0);
    assert.deepEqual(read.data, data);
    assert.equal(Deno.statSync(daemon.path("file")).size, 12288);
  });
});

withDaemon("Directories with --cache=metadata", { args: ["--cache=metadata"] }, async (_daemon, { client }, step) => {
  await step("opendir() lets the client keep them, create() not the file", () => {
    const dir = client.opendir(ROOT);
    assert.equal(dir.openFlags, wire.FOPEN_CACHE_DIR | wire.FOPEN_KEEP_CACHE);
    assert.equal(client.create(ROOT, "file").openFlags, wire.FOPEN_DIRECT_IO);
  });
});
