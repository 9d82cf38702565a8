// Extended attributes through a daemon, compared with what the host has.
import assert from "node:assert/strict";
import { bytes, names, u32 } from "../../bench/fuse_encode.ts";
import type { FuseClient, Id } from "../../bench/fuse_client.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { E2BIG, EEXIST, EINVAL, ENODATA, ENOENT, ENOSYS, EOPNOTSUPP, EPERM, ERANGE, EROFS } from "../../ffi/errno.ts";
import { S_IFCHR, S_IFIFO, S_IFREG, S_IFSOCK } from "../../ffi/stat_layout.ts";
import { FUSE_DONT_MASK, FUSE_POSIX_ACL, FUSE_SETXATTR_EXT } from "../../fs/wire.ts";
import { withDaemon } from "./daemon.ts";
import { hostGet, hostList, hostSet, noXattrs } from "./host_xattr.ts";

const ROOT = 1n;
const cannot = noXattrs("/tmp");
const encoder = new TextEncoder();
const decoder = new TextDecoder();

const ACL_FLAGS = BigInt(FUSE_POSIX_ACL | FUSE_DONT_MASK | FUSE_SETXATTR_EXT);
/** FUSE_INIT_EXT goes with the higher flags; SECURITY_CTX and CREATE_SUPP_GROUP. */
const EXT = 0x4000_0000n | 5n << 32n;

function set(client: FuseClient, node: Id, name: string, value: string | Uint8Array, flags = 0, extended = -1): number {
  const data = typeof value === "string" ? encoder.encode(value) : value;
  const head = extended < 0 ? u32(data.length, flags) : u32(data.length, flags, extended, 0);
  return client.request(op.FUSE_SETXATTR, node, bytes(head, names(name), data)).error;
}

function get(client: FuseClient, node: Id, name: string, size = 1000): string | number {
  const { error, data } = client.request(op.FUSE_GETXATTR, node, bytes(u32(size, 0), names(name)), Math.max(size, 8));
  if (error < 0) return error;
  return size === 0 ? new DataView(data.buffer).getUint32(0, true) : decoder.decode(data);
}

function list(client: FuseClient, node: Id, size = 1000): string[] | number {
  const { error, data } = client.request(op.FUSE_LISTXATTR, node, u32(size, 0), Math.max(size, 8));
  if (error < 0) return error;
  return size === 0
    ? new DataView(data.buffer).getUint32(0, true)
    : decoder.decode(data).split("\0").slice(0, -1).sort();
}

function remove(client: FuseClient, node: Id, name: string): number {
  return client.request(op.FUSE_REMOVEXATTR, node, names(name)).error;
}

function make(client: FuseClient, name: string, mode = S_IFREG | 0o644): bigint {
  const made = client.mknod(ROOT, name, mode);
  assert.equal(made.error, 0, name);
  return made.nodeid;
}

withDaemon("Extended attributes without --xattr", {}, async (_daemon, { client }, step) => {
  await step("every operation is ENOSYS, so that the client stops asking", () => {
    assert.equal(set(client, ROOT, "user.a", "1"), -ENOSYS);
    assert.equal(get(client, ROOT, "user.a"), -ENOSYS);
    assert.equal(list(client, ROOT), -ENOSYS);
    assert.equal(remove(client, ROOT, "user.a"), -ENOSYS);
  });
});

withDaemon("Extended attributes", { args: ["--xattr"] }, async (daemon, { client }, step) => {
  await step("setxattr() getxattr() listxattr() removexattr() work as on the host", () => {
    const node = make(client, "file");
    const path = daemon.path("file");
    assert.equal(set(client, node, "user.a", "one"), 0);
    assert.equal(hostGet(path, "user.a"), "one");
    assert.equal(get(client, node, "user.a"), "one");
    assert.equal(set(client, node, "user.empty", ""), 0);
    assert.equal(get(client, node, "user.empty"), "");
    assert.deepEqual(list(client, node), hostList(path));
    assert.equal(remove(client, node, "user.a"), 0);
    assert.equal(remove(client, node, "user.a"), -ENODATA);
    assert.equal(get(client, node, "user.a"), -ENODATA);
    assert.deepEqual(hostList(path), ["user.empty"]);
  }, cannot);
  await step("XATTR_CREATE and XATTR_REPLACE", () => {
    const node = make(client, "flags");
    assert.equal(set(client, node, "user.a", "1", 2), -ENODATA);
    assert.equal(set(client, node, "user.a", "1", 1), 0);
    assert.equal(set(client, node, "user.a", "2", 1), -EEXIST);
    assert.equal(set(client, node, "user.a", "3", 2), 0);
    assert.equal(set(client, node, "user.a", "4", 4), -EINVAL);
    assert.equal(get(client, node, "user.a"), "3");
  }, cannot);
  await step("every type of file, none of them opened", () => {
    const nodes: [string, bigint][] = [
      ["fifo", make(client, "fifo", S_IFIFO | 0o600)],
      ["null", make(client, "null", S_IFCHR | 0o600)],
      ["socket", make(client, "socket", S_IFSOCK | 0o600)],
      ["dir", client.mkdir(ROOT, "dir").nodeid],
      ["link", client.symlink(ROOT, "link", "file").nodeid],
    ];
    for (const [name, node] of nodes) {
      assert.equal(set(client, node, "trusted.a", name), 0, name);
      assert.equal(hostGet(daemon.path(name), "trusted.a"), name);
      assert.equal(get(client, node, "trusted.a"), name);
      assert.deepEqual(list(client, node), ["trusted.a"], name);
      assert.equal(remove(client, node, "trusted.a"), 0, name);
      // The host's own rule.
      assert.equal(set(client, node, "user.a", "1"), name === "dir" ? 0 : -EPERM, name);
    }
    assert.deepEqual(hostList(daemon.path("file")), ["user.empty"]);
  }, cannot);
  await step("size 0 asks for the size, too little room is ERANGE", () => {
    const node = make(client, "sizes");
    set(client, node, "user.a", "12345");
    assert.equal(get(client, node, "user.a", 0), 5);
    assert.equal(get(client, node, "user.a", 4), -ERANGE);
    assert.equal(get(client, node, "user.a", 5), "12345");
    assert.equal(get(client, node, "user.a", 1_000_000), "12345");
    assert.equal(list(client, node, 0), 7);
    assert.equal(list(client, node, 6), -ERANGE);
    assert.deepEqual(list(client, node, 7), ["user.a"]);
    assert.deepEqual(list(client, node, 1_000_000), ["user.a"]);
  }, cannot);
  await step("names and values that are wrong", () => {
    const node = make(client, "wrong");
    assert.equal(set(client, node, "", "1"), -ERANGE);
    assert.equal(get(client, node, ""), -ERANGE);
    assert.equal(set(client, node, "user." + "n".repeat(251), "1"), -ERANGE);
    assert.equal(set(client, node, "user." + "n".repeat(250), "1"), 0);
    assert.equal(set(client, node, "user.a/b", "1"), 0);
    assert.equal(get(client, node, "user.a/b"), "1");
    assert.equal(set(client, node, "nothing", "1"), -EOPNOTSUPP);
    const raw = (...parts: Uint8Array[]) => client.request(op.FUSE_SETXATTR, node, bytes(...parts)).error;
    assert.equal(raw(u32(65537, 0), names("user.b")), -E2BIG);
    assert.equal(raw(u32(2, 0), names("user.b"), encoder.encode("1")), -EINVAL);
    assert.equal(raw(u32(0, 0), names("user.b"), encoder.encode("1")), -EINVAL);
    assert.equal(raw(u32(0, 0), encoder.encode("user.b")), -EINVAL);
    assert.equal(raw(u32(0, 0)), -EINVAL);
    const unended = bytes(u32(10, 0), encoder.encode("user.b"));
    assert.equal(client.request(op.FUSE_GETXATTR, node, unended, 16).error, -EINVAL);
    assert.equal(client.request(op.FUSE_REMOVEXATTR, node, encoder.encode("user.b")).error, -EINVAL);
    assert.equal(set(client, 12345n, "user.b", "1"), -ENOENT);
  }, cannot);
  await step("ACLs are not there as long as nobody keeps them", () => {
    const node = make(client, "acl");
    // struct posix_acl_xattr: version 2, then tag, permissions and id: the owner, user 1, the group, the mask, others.
    const acl = [[0x01, 6, -1], [0x02, 4, 1], [0x04, 4, -1], [0x10, 4, -1], [0x20, 4, -1]];
    const entries = acl.map(([tag, permissions, id]) => u32(tag | permissions << 16, id));
    assert.equal(hostSet(daemon.path("acl"), "system.posix_acl_access", bytes(u32(2), ...entries)), 0);
    set(client, node, "user.a", "1");
    assert.equal(get(client, node, "system.posix_acl_access"), -EOPNOTSUPP);
    assert.equal(set(client, node, "system.posix_acl_default", "1"), -EOPNOTSUPP);
    assert.deepEqual(list(client, node), ["user.a"]);
    assert.equal(list(client, node, 0), 7);
  }, cannot);
});

withDaemon(
  "Values of 64 KiB",
  { base: "/dev/shm", args: ["--xattr"], session: { initFlags: BigInt(FUSE_SETXATTR_EXT) } },
  async (daemon, { client }, step) => {
    await step("setxattr() with the larger struct takes values up to XATTR_SIZE_MAX", () => {
      const node = make(client, "big");
      const value = "v".repeat(65536);
      const head = bytes(u32(value.length, 0, 0, 0), names("trusted.a"));
      const dataIn = encoder.encode(value);
      assert.equal(client.request(op.FUSE_SETXATTR, node, head, 0, { dataIn }).error, 0);
      assert.equal(hostGet(daemon.path("big"), "trusted.a"), value);
      assert.equal(get(client, node, "trusted.a", 65536), value);
      assert.equal(get(client, node, "trusted.a", 0), 65536);
      assert.equal(get(client, node, "trusted.a", 65535), -ERANGE);
      assert.equal(set(client, node, "trusted.a", "1", 0, 0), 0);
      assert.equal(get(client, node, "trusted.a"), "1");
    }, noXattrs("/dev/shm"));
  },
);

withDaemon(
  "Extended attributes with --xattrmap",
  { args: ["--xattrmap", "/map/trusted./user.v./"] },
  async (daemon, { client }, step) => {
    const node = make(client, "file");
    const path = daemon.path("file");
    await step("names are mapped both ways, and hidden", () => {
      assert.equal(set(client, node, "trusted.a", "1"), 0);
      assert.equal(hostGet(path, "user.v.trusted.a"), "1");
      hostSet(path, "trusted.host", "2");
      set(client, node, "user.b", "3");
      assert.deepEqual(list(client, node), ["trusted.a", "user.b"]);
      assert.equal(list(client, node, 0), "trusted.a user.b ".length);
      assert.equal(list(client, node, 16), -ERANGE);
      assert.deepEqual(list(client, node, 17), ["trusted.a", "user.b"]);
      assert.equal(get(client, node, "trusted.a"), "1");
      assert.equal(get(client, node, "trusted.host"), -ENODATA);
      assert.equal(remove(client, node, "trusted.a"), 0);
      assert.deepEqual(hostList(path), ["trusted.host", "user.b"]);
    }, cannot);
    await step("what is bad is EPERM to change and not there to read", () => {
      hostSet(path, "user.v.trusted.a", "1");
      assert.equal(get(client, node, "user.v.trusted.a"), -ENODATA);
      assert.equal(set(client, node, "user.v.trusted.a", "2"), -EPERM);
      assert.equal(remove(client, node, "user.v.trusted.a"), -EPERM);
      assert.equal(get(client, node, "trusted.a"), "1");
    }, cannot);
  },
);

withDaemon(
  "Capabilities under another name",
  { args: ["--xattrmap", ":map::trusted.v.:"] },
  async (daemon, { client }, step) => {
    await step("dropMappedCapability() a file that is written, cut or given away loses them", () => {
      const path = daemon.path("file");
      const { nodeid, fh } = client.create(ROOT, "file");
      const label = () => assert.equal(set(client, nodeid, "security.capability", "c"), 0);
      const gone = (what: string) => assert.equal(hostGet(path, "trusted.v.security.capability"), -ENODATA, what);
      label();
      assert.equal(hostGet(path, "trusted.v.security.capability"), "c");
      assert.equal(client.write(nodeid, fh, 0, encoder.encode("x")).size, 1);
      gone("write");
      label();
      client.setattr(nodeid, { size: 0 });
      gone("truncate");
      label();
      client.setattr(nodeid, { uid: 1 });
      gone("chown");
      label();
      assert.equal(client.fallocate(nodeid, fh, 0, 100).error, 0);
      gone("fallocate");
      label();
      client.open(nodeid, 0o1001);
      gone("open with O_TRUNC");
    }, cannot);
  },
);

/** What getfacl says, in one line. */
function acl(path: string): string {
  const { stdout } = new Deno.Command("getfacl", { args: ["-cn", "--absolute-names", path] }).outputSync();
  return decoder.decode(stdout).trim().split(/\s+/).join(" ");
}

function noAcls(): string {
  if (cannot) return cannot;
  const dir = Deno.makeTempDirSync({ dir: "/tmp" });
  try {
    const { success } = new Deno.Command("setfacl", { args: ["-d", "-m", "u:1:rwx", dir] }).outputSync();
    return success ? "" : "/tmp takes no ACLs";
  } catch {
    return "needs setfacl";
  } finally {
    Deno.removeSync(dir);
  }
}

withDaemon(
  "ACLs with --posix-acl",
  { args: ["--posix-acl"], session: { initFlags: ACL_FLAGS } },
  async (daemon, { client }, step) => {
    await step("the client's umask is applied here where the directory has no default ACL", () => {
      const plain = client.create(ROOT, "plain", 2, 0o100666, 0o027);
      assert.equal(plain.attr.mode & 0o7777, 0o640);
      assert.equal(client.mkdir(ROOT, "dir", 0o777, 0o077).attr.mode & 0o7777, 0o700);
      assert.equal(client.mknod(ROOT, "fifo", S_IFIFO | 0o666, 0, 0o222).attr.mode & 0o7777, 0o444);
      assert.equal(client.mkdir(ROOT, "open", 0o777).attr.mode & 0o7777, 0o777);
    }, cannot);
    await step("and not where it has one, which the new file gets", () => {
      const dir = client.mkdir(ROOT, "shared", 0o755);
      new Deno.Command("setfacl", { args: ["-d", "-m", "u::rwx,g::rx,o::-,u:1:rwx,m::rwx", daemon.path("shared")] })
        .outputSync();
      const file = client.create(dir.nodeid, "file", 2, 0o100666, 0o077);
      assert.equal(file.attr.mode & 0o777, 0o660);
      assert.match(acl(daemon.path("shared/file")), /user:1:rwx/);
      const below = client.mkdir(dir.nodeid, "below", 0o777, 0o077);
      assert.equal(below.attr.mode & 0o777, 0o770);
      assert.match(acl(daemon.path("shared/below")), /default:user:1:rwx/);
      // The host's own directory entry, made without a thread's umask in the way.
      assert.equal(typeof get(client, below.nodeid, "system.posix_acl_default"), "string");
      assert.deepEqual(list(client, below.nodeid), ["system.posix_acl_access", "system.posix_acl_default"]);
    }, noAcls());
    await step("FUSE_SETXATTR_ACL_KILL_SGID clears the bit, and only it does", () => {
      const { nodeid } = client.create(ROOT, "sgid", 2, 0o100644);
      const entry = (tag: number, perm: number, id = 0xffffffff) => [tag | perm << 16, id];
      // user::rw- user:1:r-- group::r-x mask::r-x other::r--
      const value = new Uint8Array(
        u32(2, ...entry(1, 6), ...entry(2, 4, 1), ...entry(4, 5), ...entry(16, 5), ...entry(32, 4)),
      );
      const mode = () => client.getattr(nodeid).attr.mode & 0o7777;
      client.setattr(nodeid, { mode: 0o2754 });
      assert.equal(set(client, nodeid, "system.posix_acl_access", value, 0, 0), 0);
      assert.equal(mode(), 0o2654);
      assert.equal(set(client, nodeid, "system.posix_acl_access", value, 0, 1), 0);
      assert.equal(mode(), 0o654);
      assert.match(acl(daemon.path("sgid")), /user:1:r--/);
    }, noAcls());
  },
);

withDaemon(
  "Labels and groups of new files, with --security-label",
  // Before 7.38 all that is behind the names is an extension: so the client's header need not say how long.
  { args: ["--security-label"], session: { initFlags: EXT, minor: 37 } },
  async (daemon, { client }, step) => {
    const padded = (part: Uint8Array) => bytes(part, new Uint8Array((8 - part.length % 8) % 8));
    const ext = (type: number, body: Uint8Array) => bytes(u32(8 + padded(body).length, type), padded(body));
    const secctx = (name: string, value: string) =>
      ext(1, bytes(u32(value.length, 0), names(name), encoder.encode(value)));
    const groups = (...list: number[]) => ext(32, u32(list.length, ...list));
    const mkdir = (name: string, ...extensions: Uint8Array[]) =>
      client.request(op.FUSE_MKDIR, ROOT, bytes(u32(0o2777, 0), names(name), ...extensions), 144);
    await step("label() every kind of new file has its label", () => {
      const label = secctx("trusted.label", "guest_t");
      const request = (opcode: number, ...args: Uint8Array[]) =>
        assert.equal(client.request(opcode, ROOT, bytes(...args, label), 200).error, 0);
      request(op.FUSE_MKDIR, u32(0o777, 0), names("dir"));
      request(op.FUSE_MKNOD, u32(S_IFIFO | 0o600, 0, 0, 0), names("fifo"));
      request(op.FUSE_SYMLINK, names("link", "target"));
      request(op.FUSE_CREATE, u32(2, 0o100600, 0, 0), names("file"));
      for (const name of ["dir", "fifo", "link", "file"]) {
        assert.equal(hostGet(daemon.path(name), "trusted.label"), "guest_t", name);
      }
      // No security module in the guest.
      assert.equal(mkdir("bare", ext(0, bytes())).error, 0);
      assert.deepEqual(hostList(daemon.path("bare")), []);
    }, cannot);
    await step("labelName() takes away again what cannot be labelled", () => {
      assert.equal(mkdir("unlabelled", secctx("nothing", "x")).error, -EOPNOTSUPP);
      const args = bytes(u32(2, 0o100600, 0, 0), names("unlabelled"), secctx("nothing", "x"));
      assert.equal(client.request(op.FUSE_CREATE, ROOT, args, 200).error, -EOPNOTSUPP);
      assert.equal(client.lookup(ROOT, "unlabelled").error, -ENOENT);
    }, cannot);
    await step("beginCreation() puts the group on and takes it off", () => {
      const status = () => Deno.readTextFileSync(`/proc/${daemon.pid}/status`).match(/^Groups:.*$/m)![0];
      const before = status();
      client.uid = client.gid = 1000;
      assert.equal(mkdir("group", groups(4711)).error, 0);
      client.uid = client.gid = 0;
      assert.equal(Deno.statSync(daemon.path("group")).uid, 1000);
      assert.equal(status(), before);
      for (const { name } of Deno.readDirSync(`/proc/${daemon.pid}/task`)) {
        const text = Deno.readTextFileSync(`/proc/${daemon.pid}/task/${name}/status`);
        assert.equal(text.match(/^Groups:.*$/m)![0], before, "a thread's groups");
      }
    }, cannot);
    await step("Extensions.read() refuses what no client sends, and makes nothing", () => {
      const wrong: Uint8Array[] = [
        u32(8),
        u32(4, 0),
        u32(16, 0),
        u32(0, 0),
        u32(12, 0, 0),
        ext(2, bytes()),
        ext(31, bytes()),
        ext(33, u32(0, 0)),
        ext(1, bytes()),
        ext(1, u32(0, 0, 65, 0)),
        ext(1, u32(100, 0, 65, 0)),
        ext(1, bytes(u32(1, 0), encoder.encode("noendher"))),
        ext(1, bytes(u32(1, 0), names("", "x"))),
        ext(32, bytes()),
        ext(32, u32(2, 1)),
        ext(32, u32(0xffffffff, 1)),
        ext(32, u32(1, 1, 0, 0)),
        bytes(groups(1), groups(2)),
        bytes(ext(0, bytes()), ext(0, bytes())),
      ];
      for (const extension of wrong) assert.equal(mkdir("wrong", extension).error, -EINVAL, `${extension}`);
      assert.equal(client.lookup(ROOT, "wrong").error, -ENOENT);
    });
  },
);

withDaemon("A share that is --readonly", { args: ["--readonly", "--xattr"] }, async (daemon, { client }, step) => {
  Deno.writeTextFileSync(daemon.path("file"), "kept");
  Deno.mkdirSync(daemon.path("dir"));
  const file = client.lookup(ROOT, "file").nodeid;
  await step("readOnlyOperations() all that changes something is EROFS", () => {
    const errors = [
      client.mkdir(ROOT, "new").error,
      client.mknod(ROOT, "new", S_IFREG | 0o600).error,
      client.symlink(ROOT, "new", "x").error,
      client.link(file, ROOT, "new").error,
      client.unlink(ROOT, "file").error,
      client.rmdir(ROOT, "dir").error,
      client.rename(ROOT, "file", ROOT, "new").error,
      client.rename2(ROOT, "file", ROOT, "new").error,
      client.setattr(file, { mode: 0o600 }).error,
      client.setattr(file, { size: 0 }).error,
      client.open(file, 1).error,
      client.open(file, 2).error,
      client.open(file, 0o1000).error,
      client.create(ROOT, "new").error,
      client.create(ROOT, "new", 0).error,
      client.create(ROOT, "file", 2).error,
      client.access(file, 2).error,
      set(client, file, "user.a", "1"),
      remove(client, file, "user.a"),
    ];
    assert.deepEqual(errors, errors.map(() => -EROFS));
  });
  await step("and what is there can be read", () => {
    const opened = client.open(file);
    assert.equal(opened.error, 0);
    assert.equal(decoder.decode(client.read(file, opened.fh, 0, 10).data), "kept");
    assert.equal(client.create(ROOT, "file", 0).error, 0);
    assert.equal(client.access(file, 4).error, 0);
    assert.equal(client.write(file, opened.fh, 0, encoder.encode("x")).error, -EROFS);
    assert.deepEqual(list(client, file), []);
  });
});

withDaemon(
  "Users and groups with --translate-uid and --translate-gid",
  {
    args: [
      ...["--translate-uid", "map:0:100000:1000", "--translate-uid=forbid-guest:5000:1"],
      ...["--translate-gid", "squash-guest:0:7:1000", "--translate-gid", "host:7:70:1"],
    ],
  },
  async (daemon, { client }, step) => {
    const owner = (name: string) => {
      const { uid, gid } = Deno.lstatSync(daemon.path(name));
      return [uid, gid];
    };
    Deno.chmodSync(daemon.path(), 0o777);
    await step("files are made for the host's ids, and shown with the guest's", () => {
      client.uid = client.gid = 5;
      const made = [client.create(ROOT, "file"), client.mkdir(ROOT, "dir"), client.symlink(ROOT, "link", "x")];
      client.uid = client.gid = 0;
      for (const { error, attr } of made) assert.deepEqual([error, attr.uid, attr.gid], [0, 5, 70]);
      for (const name of ["file", "dir", "link"]) assert.deepEqual(owner(name), [100005, 7]);
      assert.deepEqual([client.mkdir(ROOT, "roots").attr.uid, ...owner("roots")], [0, 100000, 7]);
    }, cannot && "needs root");
    await step("chown() and access() know them too", () => {
      const { nodeid } = client.lookup(ROOT, "file");
      assert.equal(client.setattr(nodeid, { uid: 9, gid: 9 }).attr.uid, 9);
      assert.deepEqual(owner("file"), [100009, 7]);
      client.setattr(nodeid, { mode: 0o600 });
      client.uid = client.gid = 9;
      assert.equal(client.access(nodeid, 6).error, 0);
      client.uid = client.gid = 0;
    }, cannot && "needs root");
    await step("a forbidden user can make nothing, and be given nothing", () => {
      client.uid = 5000;
      for (const made of [client.create(ROOT, "no"), client.mkdir(ROOT, "no"), client.symlink(ROOT, "no", "x")]) {
        assert.equal(made.error, -EPERM);
      }
      client.uid = 0;
      const { nodeid } = client.lookup(ROOT, "dir");
      assert.equal(client.setattr(nodeid, { uid: 5000 }).error, -EPERM);
      assert.equal(client.lookup(ROOT, "no").error, -ENOENT);
    });
  },
);
