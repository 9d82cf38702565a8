// A thread of the guest rewrites requests, descriptors, tables and rings while they are in use, hundreds of thousands of times.
import assert from "node:assert/strict";
import { type Virtqueue, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE } from "../../bench/driver.ts";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import type { Session } from "../../bench/session.ts";
import { libc } from "../../ffi/libc.ts";
import { map, MAP_SHARED, PROT_READ, PROT_WRITE, unmap } from "../../ffi/memory.ts";
import type { GuestAddr } from "../../vq/device.ts";
import { Daemon } from "./daemon.ts";
import { hostStat } from "./host_stat.ts";
import { random } from "./random.ts";
import type { Rewriting, Stretch } from "./rewriter.ts";

const ROOT = 1;
const GUEST_AT = 0x10_0000;
const REGION = 4 << 20;
/** Of the memory file, in front of the region and behind it: the daemon has it mapped, and must not touch it. */
const MARGIN = 1 << 17;
const POISON = 0x5ac3_0ff5;
const SIZE = 64;
/** Chains on each queue at once, each with a request, a table and room of its own. */
const CHAINS = 8;
const SLOT_BYTES = 16384;
const REQUEST = 0, TABLE = 4096, ROOM = 8192;
const TABLE_ENTRIES = 6;
/** What a rewritten descriptor may say at most. */
const LENGTH_MAX = 4096;
const PHASE_MS = 600;
const THOUSANDS = 100;

interface Phase {
  name: string;
  /** What is rewritten. */
  parts: readonly ("request" | "name" | "body" | "table" | "descriptors" | "ring")[];
}

const PHASES: readonly Phase[] = [
  { name: "headers and arguments", parts: ["request"] },
  { name: "names", parts: ["name"] },
  { name: "bodies of WRITE and SETXATTR", parts: ["body"] },
  { name: "indirect tables", parts: ["table"] },
  { name: "descriptors", parts: ["descriptors"] },
  { name: "heads in the available ring", parts: ["ring"] },
  { name: "all of it", parts: ["request", "name", "body", "table", "descriptors", "ring"] },
];

const SLASHED = "..?canary";

/** Requests whose names lead out of the share, were one byte another; and others. */
function makeRequest(next: (below: number) => number, node: bigint, fh: bigint): Uint8Array {
  const name = [SLASHED, "a", "?cage?a", "..?cage?new"][next(4)].replaceAll("?", next(2) ? "x" : "y");
  const made: [number, Uint8Array][] = [
    [op.FUSE_LOOKUP, names(name)],
    [op.FUSE_CREATE, bytes(u32(0o1002, 0o644, 0, 0), names(name))],
    [op.FUSE_MKDIR, bytes(u32(0o755, 0), names(name))],
    [op.FUSE_UNLINK, names(name)],
    [op.FUSE_RMDIR, names(name)],
    [op.FUSE_SYMLINK, names(name, "a")],
    [op.FUSE_MKNOD, bytes(u32(0o100644, 0, 0, 0), names(name))],
    [op.FUSE_RENAME, bytes(u64(ROOT), names("a", name))],
    [op.FUSE_LINK, bytes(u64(node), names(name))],
    [op.FUSE_WRITE, bytes(u64(fh, next(5000)), u32(2000, 0), u64(0, 0), new Uint8Array(2000).fill(7))],
    [op.FUSE_SETXATTR, bytes(u32(2000, 0, 0, 0), names("user.x"), new Uint8Array(2000).fill(8))],
    [op.FUSE_READ, bytes(u64(fh, 0), u32(4096, 0), u64(0, 0))],
    [op.FUSE_GETATTR, bytes(u32(0, 0), u64(fh))],
    [op.FUSE_SETATTR, bytes(u32(8, 0), u64(fh, next(5000)), new Uint8Array(64))],
    [op.FUSE_BATCH_FORGET, bytes(u32(3, 0), u64(99, 1, 98, 1, 97, 1))],
  ];
  const [opcode, args] = made[next(made.length)];
  const target = opcode === op.FUSE_SETXATTR || opcode === op.FUSE_SETATTR ? node : BigInt(ROOT);
  return bytes(u32(40 + args.length, opcode), u64(6, target), u32(0, 0, 1, 0), args);
}

/** A descriptor somewhere in the region, or right behind it. */
function descriptorStretches(
  at: number,
  count: number,
  places: readonly number[],
  flags: readonly number[],
): Stretch[] {
  const column = (offset: number, bytes: 2 | 4, values: readonly number[]): Stretch => {
    return { at: at + offset, step: 16, count, bytes, values };
  };
  return [
    column(0, 4, [...places, GUEST_AT + REGION - 16, GUEST_AT + REGION, GUEST_AT - 16, 0]),
    column(4, 4, [0, 0, 0, 0, 1, 0xffffffff]),
    column(8, 4, [0, 1, 15, 16, 40, 56, 80, 128, 2048, LENGTH_MAX]),
    column(12, 2, flags),
    column(14, 2, Array.from({ length: 8 }, (_, i) => i)),
  ];
}

class Racer {
  readonly #slots: { queue: Virtqueue; head: number; at: GuestAddr }[] = [];
  readonly next = random(5);
  sent = 0;

  constructor(readonly session: Session, readonly node: bigint, readonly fh: bigint) {
    const { memory, queues } = session;
    for (const queue of queues.slice(1)) {
      for (let i = 0; i < CHAINS; i++) {
        const at = memory.allocate(SLOT_BYTES, 4096);
        // Half of the chains with a table; descriptors are taken once, and rewritten for each request.
        const own = queue.takeDescriptors(i % 2 === 0 ? 1 : 3);
        this.#slots.push({ queue, head: own[0], at });
        if (i % 2 !== 0) this.#heads.set(own[0], own);
      }
    }
  }

  readonly #heads = new Map<number, readonly number[]>();

  /** What another thread is to rewrite. Addresses within the region, which that thread has mapped. */
  stretches(parts: Phase["parts"]): Stretch[] {
    const { session } = this;
    const off = (addr: number) => addr - GUEST_AT;
    const list: Stretch[] = [];
    const places = this.#slots.flatMap(({ at }) => [at + REQUEST, at + ROOM]);
    const flags = [0, 1, 2, 3, 4, 5, 0xffff, 1, 1, 2];
    for (const { at } of this.#slots) {
      if (parts.includes("request")) {
        list.push({
          at: off(at),
          step: 4,
          count: 20,
          bytes: 4,
          values: [0, 1, 2, 9, 15, 16, 35, 40, 60, 2100, 0xffffffff],
        });
      }
      if (parts.includes("name")) {
        list.push({ at: off(at) + 40, step: 1, count: 30, bytes: 1, values: [0x2e, 0x2f, 0x61, 0] });
      }
      if (parts.includes("body")) {
        list.push({ at: off(at) + 72, step: 1, count: 2000, bytes: 1, values: [0, 1, 0x2f, 0xff] });
      }
      if (parts.includes("table")) list.push(...descriptorStretches(off(at) + TABLE, TABLE_ENTRIES, places, flags));
    }
    for (const { state } of session.queues.slice(1)) {
      if (parts.includes("descriptors")) {
        list.push(
          ...descriptorStretches(off(state.desc), SIZE, [...places, ...this.#slots.map(({ at }) => at + TABLE)], flags),
        );
      }
      // Heads that there are: others stop the queue, which is another test's.
      if (parts.includes("ring")) {
        list.push({
          at: off(state.avail) + 4,
          step: 2,
          count: SIZE,
          bytes: 2,
          values: Array.from({ length: SIZE }, (_, i) => i),
        });
      }
    }
    return list;
  }

  /** Puts all chains on their queues once, and waits until as many came back. */
  round(): void {
    const { memory } = this.session;
    for (const { queue, head, at } of this.#slots) {
      const request = makeRequest(this.next, this.node, this.fh);
      memory.bytes(at, request.length).set(request);
      const room = { addr: at + ROOM, len: LENGTH_MAX, flags: VRING_DESC_F_WRITE, next: 0 };
      const first = { addr: at as number, len: 40, flags: VRING_DESC_F_NEXT, next: 1 };
      const rest = { addr: at + 40, len: request.length - 40, flags: VRING_DESC_F_NEXT, next: 2 };
      const own = this.#heads.get(head);
      if (own === undefined) {
        queue.writeTable((at + TABLE) as GuestAddr, [first, rest, room]);
        queue.setDescriptor(head, { addr: at + TABLE, len: 48, flags: VRING_DESC_F_INDIRECT, next: 0 });
      } else {
        queue.setDescriptor(own[0], { ...first, next: own[1] });
        queue.setDescriptor(own[1], { ...rest, next: own[2] });
        queue.setDescriptor(own[2], room);
      }
      queue.offer(head);
    }
    for (const queue of this.session.queues.slice(1)) {
      queue.publish();
      queue.kick();
    }
    for (const queue of this.session.queues.slice(1)) {
      for (let i = 0; i < CHAINS; i++) {
        assert.ok(queue.waitUsed(5000), `queue ${queue.index}: ${CHAINS - i} chains are not given back`);
        assert.ok(queue.reap() < SIZE);
        // A chain is as long as its table at most.
        assert.ok(queue.usedLength <= SIZE * LENGTH_MAX, `${queue.usedLength} bytes`);
        this.sent++;
      }
    }
  }
}

for (const base of ["/dev/shm", "/tmp"]) {
  Deno.test(`A guest that rewrites memory in use gains nothing, share in ${base}`, async (t) => {
    const daemon = await Daemon.start({ base, args: ["--xattr"] });
    const { dir } = daemon;
    Deno.writeTextFileSync(`${dir}/canary`, "untouched");
    Deno.mkdirSync(`${dir}/cage`);
    Deno.writeTextFileSync(`${dir}/cage/a`, "untouched");
    Deno.writeTextFileSync(daemon.path("a"), "text");
    const outside = () =>
      JSON.stringify([`${dir}/canary`, `${dir}/cage`, `${dir}/cage/a`].map((path) => hostStat(path)));
    const before = outside();
    const session = daemon.session({
      memory: [{ guestAddr: GUEST_AT, size: REGION, mmapOffset: MARGIN }],
      requestQueues: 2,
      queue: { size: SIZE },
      maxData: 65536,
    });
    const [region] = session.memory.regions;
    assert.equal(libc.ftruncate(region.fd, BigInt(REGION + 2 * MARGIN)), 0);
    const whole = map(REGION + 2 * MARGIN, PROT_READ | PROT_WRITE, MAP_SHARED, region.fd, 0);
    const margins = [0, MARGIN + REGION].map((at) => new Uint32Array(whole.buffer, at, MARGIN / 4).fill(POISON));
    try {
      const { nodeid, fh } = session.client.create(ROOT, "mine", 2);
      const racer = new Racer(session, nodeid, fh);
      for (const { name, parts } of PHASES) {
        await t.step(name, async () => {
          const control = new SharedArrayBuffer(8);
          const words = new Int32Array(control);
          const worker = new Worker(new URL("./rewriter.ts", import.meta.url), { type: "module" });
          const ended = new Promise((resolve) => worker.onmessage = resolve);
          const init: Rewriting = {
            addr: region.hostAddr,
            size: REGION,
            seed: 7,
            stretches: racer.stretches(parts),
            control,
          };
          worker.postMessage(init);
          try {
            await daemon.until(() => Atomics.load(words, 1) > 0, "the other thread");
            const sent = racer.sent;
            for (
              const end = performance.now() + PHASE_MS;
              performance.now() < end || Atomics.load(words, 1) < THOUSANDS;
            ) {
              racer.round();
            }
            console.log(`  ${racer.sent - sent} requests, ${words[1]},000 words rewritten`);
          } finally {
            Atomics.store(words, 0, 1);
            await ended;
            worker.terminate();
          }
          for (const margin of margins) assert.ok(margin.every((word) => word === POISON), "memory beside the region");
          assert.equal(outside(), before);
          const beside = [...Deno.readDirSync(dir)].map(({ name }) => name).sort().join(" ");
          assert.equal(beside, "cage canary share socket");
          assert.doesNotMatch(daemon.log, /fault of ringfsd's own/);
        });
      }
      await t.step("a valid session works afterwards", () => {
        session.close();
        using other = daemon.session();
        const { error, nodeid, fh } = other.client.create(ROOT, "after", 2);
        assert.equal(error, 0);
        assert.equal(other.client.write(nodeid, fh, 0, u32(1, 2, 3)).size, 12);
        assert.deepEqual(other.client.read(nodeid, fh, 0, 100).data, u32(1, 2, 3));
      });
      assert.equal(Deno.readTextFileSync(`${dir}/canary`), "untouched");
    } finally {
      session.close();
      unmap(whole);
      await daemon.stop();
    }
  });
}
