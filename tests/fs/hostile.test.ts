// What a guest or a front end should not do: it harms itself at most, and the next is served.
import assert from "node:assert/strict";
import type { Segment } from "../../bench/driver.ts";
import { Frontend } from "../../bench/frontend.ts";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { malformed } from "../../bench/malformed.ts";
import type { Session } from "../../bench/session.ts";
import { ENOENT } from "../../ffi/errno.ts";
import { S_IFIFO } from "../../ffi/stat_layout.ts";
import type { GuestAddr } from "../../vq/device.ts";
import { Daemon, withDaemon } from "./daemon.ts";
import { hostStat } from "./host_stat.ts";
import { random } from "./random.ts";

const ROOT = 1;
const FUZZ_MS = 2500;
const MIB = 1 << 20;

/** One session's work, to see that it works. */
function works({ client }: Session, name: string) {
  const { error, nodeid, fh } = client.create(ROOT, name, 2);
  assert.equal(error, 0);
  const data = new Uint8Array(100_000).map((_, i) => i * 7);
  assert.equal(client.write(nodeid, fh, 5, data).size, data.length);
  assert.deepEqual(client.read(nodeid, fh, 5, data.length).data, data);
  assert.ok(client.list(ROOT, true).entries.some((one) => one.name === name));
  assert.equal(client.release(nodeid, fh).error, 0);
  assert.equal(client.unlink(ROOT, name).error, 0);
  client.forget(nodeid, 1000);
}

withDaemon("Malformed chains", { session: { queue: { size: 256 } } }, async (daemon, session, step) => {
  const request = session.memory.allocate(4096, 16);
  session.memory.bytes(request, 56).set(
    bytes(u32(56, op.FUSE_GETATTR), u64(1, ROOT), u32(0, 0, 0, 0), u32(0, 0), u64(0)),
  );
  for (const [name, place] of Object.entries(malformed)) {
    await step(`Requests.readChain() completes with length 0, and goes on: ${name}`, () => {
      for (const queue of session.queues) {
        const head = place(queue, request, 56);
        assert.equal(queue.runHead(head), 0);
      }
      assert.equal(session.client.getattr(ROOT).error, 0);
    });
  }
  await step("Loop says so in the log, but not for each", async () => {
    await daemon.until(() => daemon.log.includes("malformed"), "the log");
    const lines = daemon.log.split("\n").filter((line) => line.includes("malformed"));
    assert.ok(lines.length < 20, `${lines.length} lines`);
    works(session, "after");
  });
});

Deno.test("Server throws out a front end that sends rubbish, and serves the next", async (t) => {
  const daemon = await Daemon.start();
  try {
    daemon.session().close();
    const next = random(7);
    const rubbish: [string, (front: Frontend) => void][] = [
      ["bytes that are no message", (front) => void front.sendRaw(Uint8Array.from({ length: 300 }, () => next(256)))],
      ["a request that does not exist", (front) => front.send(9999)],
      ["a payload far too large", (front) => void front.sendRaw(u32(5, 1, 2 ** 31))],
      ["half a header", (front) => (front.sendRaw(u32(1, 1)), front.close())],
      ["a ring outside of memory", (front) => {
        front.negotiate();
        front.setVringNum(0, 256);
        front.setVringAddr(0, 0x1000, 0x2000, 0x3000);
        front.setVringFd("KICK", 0, -1);
        front.setVringEnable(0);
      }],
    ];
    for (const [name, send] of rubbish) {
      await t.step(name, () => {
        const front = Frontend.connect(daemon.socketPath);
        try {
          send(front);
        } catch { /* a refusal is as good as a closed connection */ }
        front.close();
        using session = daemon.session();
        works(session, "after");
      });
    }
  } finally {
    await daemon.stop();
  }
});

const SPECIAL = [
  0n,
  1n,
  2n,
  3n,
  16n,
  4095n,
  4096n,
  65536n,
  2n ** 20n,
  2n ** 20n + 1n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 32n,
];
const HUGE = [2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 1n, 0x3fff_fffen, 0x3fff_ffffn];
/** Would end the session, reserve the disk or wait for another request: they come with arguments of their own, or not at all. */
const NOT_AT_RANDOM = new Set([op.FUSE_INIT, op.FUSE_DESTROY, op.FUSE_SETLKW, op.FUSE_FALLOCATE]);
const NAMES = [
  "a",
  "b",
  "dir",
  "fifo",
  "out",
  "up",
  "abs",
  "..",
  ".",
  "",
  "../canary",
  "/etc/passwd",
  "a/b",
  "n".repeat(255),
];

/** Requests that look right in one place and wrong in another. */
class Fuzzer {
  readonly next: (below: number) => number;
  readonly nodes: bigint[] = [1n];
  readonly fhs: bigint[] = [0n];
  sent = 0;
  answered = 0;
  succeeded = 0;

  constructor(readonly session: Session, seed: number) {
    this.next = random(seed);
  }

  pick<T>(list: readonly T[]): T {
    return list[this.next(list.length)];
  }

  number(): bigint {
    const kind = this.next(10);
    if (kind < 3) return this.pick(this.nodes);
    if (kind < 6) return this.pick(this.fhs);
    if (kind < 9) return this.pick(SPECIAL);
    return this.pick(HUGE);
  }

  nodeid(): bigint {
    const kind = this.next(10);
    return kind < 4 ? 1n : kind === 4 ? this.number() : this.pick(this.nodes);
  }

  fh(): bigint {
    return this.next(8) === 0 ? this.number() : this.pick(this.fhs);
  }

  name(): string {
    return this.pick(NAMES);
  }

  /** The arguments of an operation, sound in their form for the most part. */
  args(opcode: number): Uint8Array {
    const few = () => Number(this.pick(SPECIAL) & 0xffffn);
    const mode = () => this.pick([0o100644, 0o40755, 0o10600, 0o20666, 0o777, 0o7777, 0xffffffff]);
    switch (opcode) {
      case op.FUSE_LOOKUP:
      case op.FUSE_UNLINK:
      case op.FUSE_RMDIR:
        return names(this.name());
      case op.FUSE_SYMLINK:
        return names(this.name(), this.name());
      case op.FUSE_MKNOD:
        return bytes(u32(mode(), few(), 0, 0), names(this.name()));
      case op.FUSE_MKDIR:
        return bytes(u32(mode(), 0), names(this.name()));
      case op.FUSE_RENAME:
        return bytes(u64(this.nodeid()), names(this.name(), this.name()));
      case op.FUSE_RENAME2:
        return bytes(u64(this.nodeid()), u32(this.next(8), 0), names(this.name(), this.name()));
      case op.FUSE_LINK:
        return bytes(u64(this.nodeid()), names(this.name()));
      case op.FUSE_CREATE:
        return bytes(u32(few(), mode(), 0, 0), names(this.name()));
      case op.FUSE_OPEN:
      case op.FUSE_OPENDIR:
        return u32(this.pick([0, 1, 2, 3, 0o1001, 0o2001, 0xffffffff]), 0);
      case op.FUSE_READ:
      case op.FUSE_WRITE:
      case op.FUSE_READDIR:
      case op.FUSE_READDIRPLUS:
        return bytes(u64(this.fh(), this.number()), u32(few(), 0), u64(0, 0));
      case op.FUSE_FORGET:
        return u64(this.next(4) === 0 ? this.number() : 1);
      case op.FUSE_BATCH_FORGET:
        return bytes(u32(this.next(6), 0), u64(this.nodeid(), 1, this.nodeid(), this.number()));
      case op.FUSE_FALLOCATE:
        return bytes(u64(this.fh(), this.next(MIB), this.next(MIB)), u32(this.next(64), 0));
      case op.FUSE_INIT:
        return bytes(u32(7, this.next(50), this.next(2 ** 32), this.next(2 ** 32), 0), new Uint8Array(44));
      default:
        return bytes(
          u64(this.fh(), this.number(), this.number(), this.number()),
          u64(this.fh(), this.number(), 0, 0, 0, 0, 0),
        );
    }
  }

  /** Pieces of guest memory for some bytes, at odd places; rarely outside of it. */
  segments(size: number, write: boolean): Segment[] {
    const { memory } = this.session;
    const base = memory.regions[0].guestAddr + 8 * MIB + (write ? 4 * MIB : 0);
    const list: Segment[] = [];
    for (let at = 0; at < size;) {
      const len = Math.min(size - at, this.next(4) === 0 ? 1 + this.next(60) : size);
      const wild = this.next(3000) === 0 ? 2 ** 40 : 0;
      list.push({ addr: (base + at * 2 + this.next(2) + wild) as GuestAddr, len, write });
      at += len;
    }
    return list;
  }

  one() {
    const { session } = this;
    const known = this.next(12) > 0;
    let opcode = known ? 1 + this.next(53) : this.next(2 ** 32);
    if (NOT_AT_RANDOM.has(opcode) && this.next(100) > 0) opcode = op.FUSE_GETATTR;
    if (opcode === op.FUSE_SETLKW) return;
    // Else the guest would know nothing most of the time.
    if ((opcode === op.FUSE_FORGET || opcode === op.FUSE_BATCH_FORGET) && this.next(4) > 0) opcode = op.FUSE_LOOKUP;
    let args = this.args(opcode);
    if (this.next(40) === 0) args = args.subarray(0, this.next(args.length + 1));
    if (this.next(60) === 0) args = Uint8Array.from({ length: this.next(400) }, () => this.next(256));
    // What would make the disk full stays small.
    const data = opcode === op.FUSE_WRITE ? new Uint8Array(this.next(5000)) : bytes();
    const total = 40 + args.length + data.length;
    const len = this.next(50) === 0 ? this.next(2 * total) : total;
    const request = bytes(u32(len, opcode), u64(this.sent, this.nodeid()), u32(0, 0, 1, 0), args, data);
    const readable = this.segments(this.next(100) === 0 ? this.next(total) : total, false);
    const writable = this.segments(this.pick([0, 16, 100, 144, 160, 4096, 8192, 8192]), true);
    let at = 0;
    for (const { addr, len } of readable) {
      if (addr < 2 ** 40) session.memory.bytes(addr, len).set(request.subarray(at, at + len));
      at += len;
    }
    const queue = session.queues[this.next(session.queues.length)];
    if (readable.length + writable.length === 0) return;
    // Sometimes out of order.
    const chain = this.next(200) === 0 ? [...writable, ...readable] : [...readable, ...writable];
    if (chain.length > 60) return;
    this.sent++;
    const used = queue.run(chain, 5000, this.next(2) === 0);
    assert.ok(used >= 0, `request ${this.sent}, opcode ${opcode}, was not given back`);
    const room = writable.reduce((sum, { len }) => sum + len, 0);
    assert.ok(
      used === 0 || (used >= 16 && used <= room),
      `request ${this.sent}, opcode ${opcode}: ${used} of ${room} bytes`,
    );
    if (used > 0) {
      this.#learn(
        opcode,
        bytes(...writable.map(({ addr, len }) => session.memory.bytes(addr as GuestAddr, len))),
      );
    }
  }

  /** Takes nodeids and fhs out of a reply, to be used and misused. */
  #learn(opcode: number, reply: Uint8Array) {
    const view = new DataView(reply.buffer);
    this.answered++;
    if (view.getInt32(4, true) !== 0) return;
    this.succeeded++;
    const remember = (list: bigint[], at: number) => {
      if (view.byteLength < at + 8) return;
      const value = view.getBigUint64(at, true);
      if (list.length < 40) list.push(value);
      else list[1 + this.next(39)] = value;
    };
    const entries: number[] = [
      op.FUSE_LOOKUP,
      op.FUSE_MKNOD,
      op.FUSE_MKDIR,
      op.FUSE_SYMLINK,
      op.FUSE_LINK,
      op.FUSE_CREATE,
    ];
    if (entries.includes(opcode)) remember(this.nodes, 16);
    if (opcode === op.FUSE_CREATE) remember(this.fhs, 16 + 128);
    if (opcode === op.FUSE_OPEN || opcode === op.FUSE_OPENDIR) remember(this.fhs, 16);
  }
}

withDaemon("Requests at random", { session: { memory: 32 * MIB, requestQueues: 2 } }, async (daemon, session, step) => {
  const canary = `${daemon.dir}/canary`;
  Deno.writeTextFileSync(canary, "untouched");
  Deno.mkdirSync(`${daemon.dir}/cage`);
  Deno.writeTextFileSync(`${daemon.dir}/cage/a`, "untouched");
  Deno.symlinkSync("../canary", daemon.path("out"));
  Deno.symlinkSync("..", daemon.path("up"));
  Deno.symlinkSync(`${daemon.dir}/cage`, daemon.path("abs"));
  Deno.mkdirSync(daemon.path("dir"));
  const outside = () =>
    [canary, `${daemon.dir}/cage`, `${daemon.dir}/cage/a`].map((path) => ({
      ...hostStat(path),
      atime: 0,
      atimensec: 0,
    }));
  const before = outside();
  const fuzzer = new Fuzzer(session, 20240229);
  await step("FsService.handle() gives every request back", () => {
    session.client.mknod(ROOT, "fifo", S_IFIFO | 0o600);
    const end = performance.now() + FUZZ_MS;
    while (performance.now() < end) {
      for (let i = 0; i < 100; i++) fuzzer.one();
      // The session may have been ended, and the root made useless.
      if (session.client.getattr(ROOT).error !== 0) assert.equal(session.client.init().error, 0);
      if (fuzzer.next(50) === 0) session.client.setattr(ROOT, { mode: 0o40755 });
    }
    console.log(`  ${fuzzer.sent} requests, ${fuzzer.answered} answered, ${fuzzer.succeeded} of them with success`);
    assert.ok(fuzzer.succeeded > fuzzer.sent / 50, `${fuzzer.succeeded} of ${fuzzer.sent} requests succeeded`);
  });
  await step("What lies outside of the share is as it was", () => {
    assert.deepEqual(outside(), before);
    assert.equal(Deno.readTextFileSync(canary), "untouched");
    assert.equal(Deno.readTextFileSync(`${daemon.dir}/cage/a`), "untouched");
    assert.deepEqual([...Deno.readDirSync(daemon.dir)].map(({ name }) => name).sort(), [
      "cage",
      "canary",
      "share",
      "socket",
    ]);
  });
  await step("A valid session works afterwards", () => {
    const { client } = session;
    assert.equal(client.destroy().error, 0);
    assert.equal(client.init().error, 0);
    assert.equal(client.setattr(ROOT, { mode: 0o40755 }).error, 0);
    works(session, "after");
    assert.equal(client.getattr(2).error, -ENOENT);
  });
});
