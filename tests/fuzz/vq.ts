/**
 * Descriptor chains and rings: tables written word by word, with heads, indices and events that no driver would offer. A model of its
 * own says which bytes of guest memory the device may write; all others must be as they were.
 */
import assert from "node:assert/strict";
import { Virtqueue, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE } from "../../bench/driver.ts";
import { Frontend } from "../../bench/frontend.ts";
import { bytes, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { GuestMemory } from "../../bench/guest_memory.ts";
import type { GuestAddr } from "../../vq/device.ts";
import type { Case, Counts, Kind, Player } from "./kind.ts";
import { type Next, pick } from "./skeletons.ts";
import type { Target } from "./target.ts";

/** Three regions: the rings', the arena, and one that touches the arena. What lies behind is nowhere. */
const RINGS_AT = 0x10_0000, ARENA_AT = 0x40_0000, NEXT_AT = ARENA_AT + 0x1_0000;
const RINGS_BYTES = 0x8_0000, ARENA_BYTES = 0x1_0000, NEXT_BYTES = 0x1000;
const WINDOW = ARENA_BYTES + NEXT_BYTES;
/** The arena begins with requests, each at a place of its own; then come tables, and room for replies. */
const REQUEST_BYTES = 64;
const TABLES = 0x1000, TABLE_BYTES = 0x400;
const ROOM = 0x8000;
const DEADLINE_MS = 5000;
const HEADER_OUT = 16;
const NOWHERE = 2 ** 46;

const request = (opcode: number, args: Uint8Array = bytes(), nodeid = 1) =>
  bytes(u32(40 + args.length, opcode), u64(4, nodeid), u32(0, 0, 1, 0), args);
/** What stands at the start of the arena. */
const REQUESTS = [
  request(op.FUSE_GETATTR, new Uint8Array(16)),
  request(op.FUSE_STATFS),
  request(op.FUSE_LOOKUP, Uint8Array.of(0x61, 0)),
  request(op.FUSE_READLINK, bytes(), 99),
  request(60_000),
];

/** One descriptor: le64 addr, le32 len, le16 flags, le16 next. The address as text, for it may have 64 bits. */
type Fields = [addr: string, len: number, flags: number, next: number];

export interface Step {
  /** Write a descriptor of the queue's table, or of an indirect table at a place of the arena. */
  desc?: [index: number, ...Fields];
  table?: [place: number, index: number, ...Fields];
  /** Offer heads. */
  heads?: number[];
  /** Set the available index to something else than what was offered, relative to that. */
  skip?: number;
  /** The driver's flags and the event index, as a driver may leave them. */
  flags?: number;
  event?: number;
}

const at = (offset: number) => `0x${(ARENA_AT + offset).toString(16)}`;

function address(next: Next, write: boolean): string {
  switch (next(80)) {
    case 0:
      return pick(next, [
        "0",
        "0xffffffffffffffff",
        "0xfffffffffffffff0",
        "0x8000000000000000",
        `${NOWHERE}`,
        "0x20000000000000",
      ]);
    case 1:
      return at(WINDOW - next(40));
    case 2:
      return at(ARENA_BYTES - next(200));
    case 3:
      return `0x${(RINGS_AT + next(256)).toString(16)}`;
    default:
      return write
        ? at(ROOM + 64 * next(64) + next(4))
        : at(REQUEST_BYTES * next(REQUESTS.length) + (next(20) ? 0 : next(64)));
  }
}

const length = (next: Next, write: boolean) =>
  next(8)
    ? (write ? pick(next, [16, 64, 104, 120, 128, 256]) : pick(next, [40, 42, 56, 56, 64, 8]))
    : pick(next, [0, 1, 15, 39, 4096, ARENA_BYTES, 0x7fffffff, 0xffffffff]);

function fields(next: Next, size: number, write: boolean, more: boolean, to: number): Fields {
  let flags = (write ? VRING_DESC_F_WRITE : 0) | (more ? VRING_DESC_F_NEXT : 0);
  if (next(50) === 0) flags ^= pick(next, [1, 2, 4, 8, 0x8000, 0xffff]);
  return [
    address(next, write),
    length(next, write),
    flags,
    next(50) ? to : pick(next, [size, size - 1, 0, 0xffff, next(2 * size)]),
  ];
}

/** A chain that is right in its form for the most part, from a descriptor on; in the queue's table or an indirect one. */
function chain(next: Next, size: number, first: number): { steps: Step[]; used: number } {
  const count = 1 + next(next(4) ? 4 : 12);
  const readable = next(count + 1);
  const indirect = next(3) === 0;
  const place = next(16);
  const steps: Step[] = [];
  for (let i = 0; i < count; i++) {
    const index = indirect ? i : (first + i) % size;
    const one = fields(next, size, i >= readable, i + 1 < count, indirect ? i + 1 : (index + 1) % size);
    steps.push(indirect ? { table: [place, index, ...one] } : { desc: [index, ...one] });
  }
  if (!indirect) return { steps, used: count };
  const bytes = next(8) ? count * 16 : pick(next, [0, 1, 15, 16, 17, TABLE_BYTES, 0xfffffff0, 0xffffffff]);
  const flags = VRING_DESC_F_INDIRECT | (next(10) ? 0 : pick(next, [1, 2, 3, 8]));
  steps.push({
    desc: [
      first % size,
      next(12) ? at(TABLES + place * TABLE_BYTES) : address(next, false),
      bytes,
      flags,
      next(8) ? 0 : next(size),
    ],
  });
  return { steps, used: 1 };
}

/** What the device may do with a chain, by VIRTIO 1.3, 2.7: write so many bytes, of which these may be in the arena. */
interface Allowed {
  room: number;
  places: [offset: number, len: number][];
}

class Rings implements Player<Step> {
  constructor(readonly target: Target, readonly counts: Counts) {}

  play(one: Case<Step>): void {
    const { size, eventIdx, indirect, base } = one.options as Record<string, number> & {
      eventIdx: boolean;
      indirect: boolean;
    };
    const memory = GuestMemory.create([
      { guestAddr: RINGS_AT, size: RINGS_BYTES },
      { guestAddr: ARENA_AT, size: ARENA_BYTES },
      { guestAddr: NEXT_AT, size: NEXT_BYTES },
    ]);
    const frontend = Frontend.connect(this.target.daemon.socketPath, { timeoutMs: DEADLINE_MS });
    try {
      frontend.negotiate({ eventIdx, indirect });
      frontend.setMemory(memory);
      // Chains may be told to write to the start of the region, which is then no ring's.
      memory.allocate(2 * ARENA_BYTES, 16);
      const queues = [0, 1].map((index) => frontend.addQueue(memory, index, { size, base, eventIdx, indirect }));
      this.#init(memory, queues[1]);
      this.#drive(one, memory, queues[1]);
      // The other queue of the device goes on, whatever became of that one.
      this.#init(memory, queues[0]);
    } finally {
      frontend.close();
      memory.close();
    }
    this.counts.descriptors = (this.counts.descriptors ?? 0) + one.steps.length;
  }

  /** INIT on a queue that is in order. */
  #init(memory: GuestMemory, queue: Virtqueue): void {
    const where = memory.allocate(512, 8);
    const init = request(op.FUSE_INIT, bytes(u32(7, 38, 0, 0xffffffff, 0xffffffff), new Uint8Array(44)), 0);
    memory.bytes(where, init.length).set(init);
    const used = queue.run(
      [{ addr: where, len: init.length }, { addr: (where + 256) as GuestAddr, len: 80, write: true }],
      DEADLINE_MS,
      false,
    );
    assert.equal(used, 80, `INIT on queue ${queue.index}`);
  }

  #drive(one: Case<Step>, memory: GuestMemory, queue: Virtqueue): void {
    const { size, state } = queue;
    const arena = [memory.bytes(ARENA_AT as GuestAddr, ARENA_BYTES), memory.bytes(NEXT_AT as GuestAddr, NEXT_BYTES)];
    for (const part of arena) part.fill(0xa5);
    REQUESTS.forEach((bytes, i) => arena[0].set(bytes, i * REQUEST_BYTES));
    const descTable = memory.view(state.desc, size * 16);
    const before = () => bytes(arena[0], arena[1]);
    const avail = memory.words16(state.avail, size + 3);
    let offered: { head: number; allowed: Allowed }[] = [];
    for (const step of one.steps) {
      if (step.desc) writeDescriptor(descTable, step.desc[0] % size, step.desc.slice(1) as Fields);
      if (step.table) {
        const [place, index, ...fields] = step.table;
        const view = new DataView(arena[0].buffer, arena[0].byteOffset + TABLES + place * TABLE_BYTES, TABLE_BYTES);
        writeDescriptor(view, index % (TABLE_BYTES / 16), fields as Fields);
      }
      if (step.flags !== undefined) avail[0] = step.flags;
      if (step.event !== undefined) avail[2 + size] = step.event;
      if (!step.heads && step.skip === undefined) continue;
      const was = before();
      offered = (step.heads ?? []).map((head) => ({
        head,
        allowed: this.#allowed(head, memory, queue),
      }));
      const breaks = offered.findIndex(({ head }) => head >= size);
      const waiting = (offered.length + (step.skip ?? 0)) & 0xffff;
      // An index too far ahead stops the queue before anything is taken; a head beyond the table when it comes to it.
      const stops = waiting > size;
      const expected = stops ? 0 : breaks >= 0 ? Math.min(breaks, waiting) : waiting;
      for (const { head } of offered) queue.offer(head);
      if (step.skip === undefined) queue.publish();
      else queue.publishIndex(queue.nextAvail + step.skip);
      queue.kick(true);
      if (!stops && waiting > offered.length) {
        // What lies in the ring behind what was offered is anything, and so is what becomes of it.
        this.#quiet(queue);
        return;
      }
      const end = performance.now() + DEADLINE_MS;
      for (let i = 0; i < expected; i++) {
        assert.ok(
          queue.waitUsed(Math.max(1, Math.ceil(end - performance.now()))),
          `${expected - i} chain(s) of ${expected} are not given back`,
        );
        const head = queue.reap();
        const { usedLength } = queue;
        const found = offered.findIndex((one) => one.head === head);
        assert.ok(found >= 0, `${head} was given back, and not offered`);
        const [{ allowed }] = offered.splice(found, 1);
        const { room } = allowed;
        assert.ok(
          usedLength === 0 || (usedLength >= HEADER_OUT && usedLength <= room),
          `${usedLength} of ${room} bytes`,
        );
        this.counts.chains = (this.counts.chains ?? 0) + 1;
        if (usedLength > 0) this.counts.answered = (this.counts.answered ?? 0) + 1;
        this.#forgive(was, allowed.places, arena);
      }
      assert.deepEqual(diff(was, before()), [], "memory that the device was not to write");
      if (stops || breaks >= 0) this.#quiet(queue);
      if (stops || breaks >= 0 || step.skip !== undefined) return;
    }
  }

  /** Where the device may have written, anything goes. */
  #forgive(was: Uint8Array, places: Allowed["places"], arena: Uint8Array[]): void {
    const now = bytes(arena[0], arena[1]);
    for (const [offset, len] of places) was.set(now.subarray(offset, offset + len), offset);
  }

  /** Nothing comes from a queue that is stopped. */
  #quiet(queue: Virtqueue): void {
    queue.waitUsed(5);
  }

  #allowed(head: number, memory: GuestMemory, queue: Virtqueue): Allowed {
    const { size, state } = queue;
    if (head >= size) return { room: 0, places: [] };
    const table = memory.view(state.desc, size * 16);
    const first = readDescriptor(table, head);
    const list: [number, number][] = [];
    let entries: DataView = table;
    let count = size;
    let index = head;
    let inTable = false;
    if ((first.flags & VRING_DESC_F_INDIRECT) !== 0) inTable = true;
    for (let hops = 0, one = first; hops <= Math.max(size, count); hops++) {
      if ((one.flags & VRING_DESC_F_INDIRECT) !== 0) {
        if (!inTable || entries !== table || !state.indirect || (one.flags & VRING_DESC_F_NEXT) !== 0) {
          return trimmed(list);
        }
        const offset = Number(one.addr) - ARENA_AT;
        if (one.len === 0 || one.len % 16 !== 0 || offset < 0 || offset + one.len > ARENA_BYTES) return trimmed(list);
        entries = memory.view((ARENA_AT + offset) as GuestAddr, one.len);
        count = one.len / 16;
        index = 0;
        one = readDescriptor(entries, 0);
        if ((one.flags & VRING_DESC_F_INDIRECT) !== 0) return trimmed(list);
      }
      if ((one.flags & VRING_DESC_F_WRITE) !== 0) list.push([Number(one.addr) - ARENA_AT, one.len]);
      if ((one.flags & VRING_DESC_F_NEXT) === 0) return trimmed(list);
      index = one.next;
      if (index >= count) return trimmed(list);
      one = readDescriptor(entries, index);
      inTable = inTable || (one.flags & VRING_DESC_F_INDIRECT) !== 0;
    }
    return trimmed(list);
  }

  end(): void {}
}

/** What of it lies in the arena. Rings and places outside are not compared. */
function trimmed(list: [number, number][]): Allowed {
  const places = list.map(([offset, len]) => {
    const begin = Math.max(0, Math.min(offset, WINDOW));
    return [begin, Math.max(0, Math.min(offset + len, WINDOW) - begin)] as [number, number];
  });
  return { room: list.reduce((sum, [, len]) => sum + len, 0), places };
}

function writeDescriptor(view: DataView, index: number, [addr, len, flags, next]: Fields): void {
  view.setBigUint64(index * 16, BigInt.asUintN(64, BigInt(addr)), true);
  view.setUint32(index * 16 + 8, len, true);
  view.setUint16(index * 16 + 12, flags, true);
  view.setUint16(index * 16 + 14, next, true);
}

function readDescriptor(view: DataView, index: number) {
  return {
    addr: view.getBigUint64(index * 16, true),
    len: view.getUint32(index * 16 + 8, true),
    flags: view.getUint16(index * 16 + 12, true),
    next: view.getUint16(index * 16 + 14, true),
  };
}

/** The first places at which two differ. */
function diff(a: Uint8Array, b: Uint8Array): string[] {
  const places: string[] = [];
  for (let i = 0; i < a.length && places.length < 8; i++) {
    if (a[i] !== b[i]) places.push(`0x${i.toString(16)}: ${a[i]} ${b[i]}`);
  }
  return places;
}

export const vq: Kind<Step> = {
  name: "vq",
  generate: (next) => {
    const size = pick(next, [2, 4, 16, 16, 64, 256]);
    const steps: Step[] = [];
    for (let round = 1 + next(16); round > 0; round--) {
      const heads: number[] = [];
      for (let i = 1 + next(Math.min(size, 4)), first = next(size); i > 0 && first < size; i--) {
        const { steps: more, used } = chain(next, size, first);
        steps.push(...more);
        heads.push(next(30) ? first : pick(next, [size, size + 1, 0xffff, next(size)]));
        first += used;
      }
      if (next(6) === 0) steps.push({ flags: next(4), event: next(0x10000) });
      const step: Step = { heads };
      if (next(25) === 0) step.skip = pick(next, [1, -1, size, size + 1, 0x7fff, 0x8000, 0xffff]);
      steps.push(step);
    }
    const base = pick(next, [0, 0, 0xfffe, 0xffff, 0x7fff, next(0x10000)]);
    return { options: { size, base, eventIdx: next(2) === 0, indirect: next(4) > 0 }, steps };
  },
  simpler: (step) => step.heads && step.heads.length > 1 ? step.heads.map((head) => ({ ...step, heads: [head] })) : [],
  begin: (target, counts) => new Rings(target, counts),
};
