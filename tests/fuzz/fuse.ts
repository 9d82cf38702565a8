/** FUSE requests: right in their form for the most part, sent one after the other or several at a time, so that they build state. */
import assert from "node:assert/strict";
import type { Segment, Virtqueue } from "../../bench/driver.ts";
import { bytes, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import type { Session } from "../../bench/session.ts";
import type { GuestAddr } from "../../vq/device.ts";
import type { Case, Counts, Kind, Player } from "./kind.ts";
import { type Known, pieces, value } from "./pieces.ts";
import { extensions, name, type Next, node, pick, skeletons } from "./skeletons.ts";

const MIB = 1 << 20;
const HEADER_IN = 40, HEADER_OUT = 16;
const ENTRY_BYTES = 128;
const POISON = 0xa5;
/** Bytes between two pieces of a reply's room, in which nothing may be written. */
const GAP = 8;
const SLOTS = 8;
/** Of guest memory, for a machine. */
export const MEMORY = 32 * MIB;
const IN_BYTES = 512 * 1024;
const OUT_BYTES = 1280 * 1024;
const DEADLINE_MS = 10_000;
const MOST_KNOWN = 64;
/** Replies that begin with an entry, or are an fh. */
const ENTRIES: readonly number[] = [
  op.FUSE_LOOKUP,
  op.FUSE_MKNOD,
  op.FUSE_MKDIR,
  op.FUSE_SYMLINK,
  op.FUSE_LINK,
  op.FUSE_CREATE,
  op.FUSE_TMPFILE,
];
const CREATES: readonly number[] = [op.FUSE_CREATE, op.FUSE_TMPFILE];
const EXTENDED: readonly number[] = [op.FUSE_MKNOD, op.FUSE_MKDIR, op.FUSE_SYMLINK, op.FUSE_CREATE, op.FUSE_TMPFILE];
const OPENS: readonly number[] = [op.FUSE_OPEN, op.FUSE_OPENDIR];
const SILENT: readonly number[] = [op.FUSE_FORGET, op.FUSE_BATCH_FORGET, op.FUSE_INTERRUPT];
/** What keeps a session from getting anywhere when it comes often. */
const SELDOM: readonly number[] = [op.FUSE_INIT, op.FUSE_DESTROY, op.FUSE_FORGET, op.FUSE_BATCH_FORGET, op.FUSE_SETLKW];

export interface Step {
  op: number;
  node?: string;
  args?: string;
  /** Said in the header, where it is not the request's length. */
  len?: number;
  /** Bytes of the request that are sent, where not all are. */
  sent?: number;
  /** Room for the reply, piece by piece, and the request's pieces; one each where it is not said. */
  out?: number[];
  in?: number[];
  queue?: number;
  direct?: boolean;
  user?: number;
  /** 8-byte units of extensions, as the header says. */
  ext?: number;
  /** The next step does not wait for this one's reply. */
  ahead?: boolean;
}

const INIT: Step = {
  op: op.FUSE_INIT,
  node: "0",
  args: "u32:7 u32:38 u32:131072 u32:0xffffffff u32:0xffffffff zeros:44",
  out: [80],
};

function makeStep(next: Next): Step {
  let opcode = next(40) === 0 ? pick(next, [0, 7, 19, 41, 54, 63, 64, 65, 4096, 0xffffffff]) : 1 + next(53);
  if (SELDOM.includes(opcode) && next(6) > 0) {
    opcode = pick(next, [op.FUSE_LOOKUP, op.FUSE_CREATE, op.FUSE_OPEN, op.FUSE_OPENDIR]);
  }
  const args = skeletons[opcode]?.(next) ?? name(next);
  const step: Step = { op: opcode, node: node(next), args };
  if (EXTENDED.includes(opcode) && next(3) === 0) {
    const more = extensions(next);
    step.args = `${args} ${more}`;
    step.ext = next(8) ? pieces(more, { nodes: [1n], fhs: [0n] }).length / 8 : next(0x10000);
  }
  if (next(20) === 0) {
    step.args = `${args} ${
      pick(next, ["zeros:300", "long:300", "long:70000", "long:200000", extensions(next), name(next)])
    }`;
  }
  if (next(40) === 0) {
    step.args = pick(next, [
      "",
      "long:20",
      "long:300",
      `hex:${Array.from({ length: 1 + next(60) }, () => (next(256) + 256).toString(16).slice(1)).join("")}`,
    ]);
  }
  if (next(30) === 0) step.len = pick(next, [0, 1, 39, 40, 41, 56, 80, 255, 256, 257, 4096, 0x7fffffff, 0xffffffff]);
  if (next(50) === 0) step.sent = next(100);
  step.out = SILENT.includes(opcode) && next(4) ? [] : next(4) ? [pick(next, [8192, 4096, 65536, 300])] : pick(next, [
    [],
    [1],
    [15],
    [16],
    [16, 4096],
    [16, 128, 16],
    [7, 9, 100, 4096],
    [144],
    [160],
    [16, MIB, 4096],
    Array(20).fill(MIB),
    Array(300).fill(MIB),
  ]);
  if (next(4) === 0) step.in = Array.from({ length: 1 + next(5) }, () => next(3) ? next(60) : 4 * next(100));
  if (next(3) === 0) step.queue = next(3);
  if (next(2) === 0) step.direct = true;
  if (next(10) === 0) step.user = pick(next, [1000, 65534, 0x7fffffff, 0x80000000, 0xffffffff]);
  if (next(5) === 0) step.ahead = true;
  return step;
}

interface Sent {
  unique: bigint;
  step: Step;
  queue: Virtqueue;
  head: number;
  slot: number;
  out: Segment[];
  /** One past the last byte of the reply's room. */
  end: number;
  request: Uint8Array;
}

/** What requests are put on: a session with a daemon, or a loop of this thread, which is to be turned. */
export interface Machine {
  memory: Session["memory"];
  queues: readonly Virtqueue[];
  turn?: () => void;
  close: () => void;
}

export class Guest implements Player<Step> {
  #session: Machine;
  #known: { nodes: bigint[]; fhs: bigint[] } = { nodes: [1n], fhs: [0n] };
  readonly #flying = new Map<bigint, Sent>();
  #free = Array.from({ length: SLOTS }, (_, i) => i);
  #areas: { request: GuestAddr; reply: GuestAddr }[] = [];
  #unique = 2n;
  #interrupting?: Step;

  constructor(session: Machine, readonly counts: Counts) {
    this.#session = session;
    this.#areas = this.#free.map(() => ({
      request: session.memory.allocate(IN_BYTES, 4096),
      reply: session.memory.allocate(OUT_BYTES, 4096),
    }));
  }

  play(one: Case<Step>): void {
    this.#known = { nodes: [1n], fhs: [0n] };
    // Numbers of requests are small, so that INTERRUPT hits some; and begin anew, so that a case is the same every time.
    this.#unique = 2n;
    this.#one(INIT);
    for (const step of one.steps) this.#one(step);
    // Whatever waits is given up for INIT, and answered.
    this.#one(INIT);
    this.#settle();
    this.counts.requests = (this.counts.requests ?? 0) + one.steps.length;
  }

  #one(step: Step): void {
    const waits = step.op === op.FUSE_SETLKW || step.ahead === true;
    const sent = this.#send(step);
    if (sent === undefined || waits) return;
    this.#until(() => !this.#flying.has(sent.unique), () => `request ${describe(sent.step)} is not given back`);
  }

  /** Waits for all that is in flight. */
  #settle(): void {
    this.#until(() => this.#flying.size === 0, () => {
      return `not given back: ${[...this.#flying.values()].map(({ step }) => describe(step)).join("; ")}`;
    });
  }

  #until(so: () => boolean, what: () => string): void {
    const end = performance.now() + DEADLINE_MS;
    for (;;) {
      this.#session.turn?.();
      for (const queue of this.#session.queues) this.#reap(queue);
      if (so()) return;
      const [first] = this.#flying.values();
      const left = end - performance.now();
      assert.ok(first !== undefined && left > 0, what());
      if (this.#session.turn) continue;
      // Others may answer first: not for long.
      first.queue.waitUsed(this.#flying.size === 1 ? Math.ceil(left) : 1);
    }
  }

  #send(step: Step): Sent | undefined {
    // The last is for what ends waits.
    if (this.#free.length === 1 && step.op !== op.FUSE_INIT && step !== this.#interrupting) this.#makeRoom();
    const { memory, queues } = this.#session;
    const known: Known = this.#known;
    const args = pieces(step.args ?? "", known);
    const unique = this.#unique++;
    const length = HEADER_IN + args.length;
    const header = [u32(step.len ?? length, step.op), u64(unique, value(step.node ?? "node:0", known))];
    const user = step.user ?? 0;
    const whole = bytes(...header, u32(user, user, 1, step.ext ?? 0), args);
    const request = whole.subarray(0, Math.min(step.sent ?? length, length, IN_BYTES - 4096));
    const slot = this.#free.pop()!;
    const { request: requestAt, reply: replyAt } = this.#areas[slot];
    // Pieces at odd places.
    const chain: Segment[] = [];
    let at = 0;
    let to = 1;
    const place = (bytes: number) => {
      if (bytes === 0) return;
      memory.bytes((requestAt + to) as GuestAddr, bytes).set(request.subarray(at, at + bytes));
      chain.push({ addr: (requestAt + to) as GuestAddr, len: bytes });
      at += bytes;
      to += bytes + 3;
    };
    for (const bytes of step.in ?? [Math.min(HEADER_IN, request.length)]) place(Math.min(bytes, request.length - at));
    place(request.length - at);
    const out: Segment[] = [];
    let end = GAP;
    for (const len of step.out ?? [4096]) {
      if (len === 0) continue;
      // What does not fit uses the same memory again.
      if (end + len + GAP > OUT_BYTES) end = GAP;
      out.push({ addr: (replyAt + end) as GuestAddr, len: Math.min(len, OUT_BYTES - 2 * GAP), write: true });
      end += len + GAP;
    }
    if (out.length > 10) end = OUT_BYTES;
    memory.bytes(replyAt, end).fill(POISON);
    const queue = queues[(step.queue ?? 1) % queues.length];
    const segments = [...chain, ...out];
    if (
      segments.length === 0 || (step.direct && segments.length > queue.freeDescriptors) || queue.freeDescriptors === 0
    ) {
      this.#free.push(slot);
      return undefined;
    }
    const head = queue.place(segments, !step.direct);
    const sent: Sent = { unique, step, queue, head, slot, out, end, request: request.slice(0, 4096) };
    this.#flying.set(unique, sent);
    queue.submit(head);
    return sent;
  }

  /** All that is in flight may be waits for locks, one behind the other. */
  #makeRoom(): void {
    for (const queue of this.#session.queues) this.#reap(queue);
    for (const { unique, step } of [...this.#flying.values()]) {
      if (step.op !== op.FUSE_SETLKW) continue;
      this.#interrupting = { op: op.FUSE_INTERRUPT, args: `u64:${unique}`, out: [], queue: 0 };
      this.#one(this.#interrupting);
    }
    this.#until(() => this.#free.length > 1, () => "waits for locks are not interrupted");
  }

  #reap(queue: Virtqueue): void {
    for (let head = queue.reap(); head >= 0; head = queue.reap()) {
      const used = queue.usedLength;
      const sent = [...this.#flying.values()].find((one) => one.queue === queue && one.head === head);
      assert.ok(sent, `queue ${queue.index}: ${head} was given back, and is not in flight`);
      this.#flying.delete(sent.unique);
      queue.free(head);
      this.#free.push(sent.slot);
      this.#answered(sent, used);
    }
  }

  #answered(sent: Sent, used: number): void {
    const { memory } = this.#session;
    const { out, step, slot, end } = sent;
    const what = () => `${describe(step)}, of which ${used} bytes came back`;
    const room = out.reduce((sum, { len }) => sum + len, 0);
    assert.ok(used === 0 || (used >= HEADER_OUT && used <= room), what());
    const area = memory.bytes(this.#areas[slot].reply, end);
    if (out.length <= 10) {
      // Between the pieces nothing was written.
      let at = 0;
      for (const { addr, len } of out) {
        const begin = addr - this.#areas[slot].reply;
        for (; at < begin; at++) assert.equal(area[at], POISON, `beside the reply of ${what()}`);
        at = begin + len;
      }
    }
    if (used === 0) return;
    const reply = new Uint8Array(Math.min(used, 65536));
    let have = 0;
    for (const { addr, len } of out) {
      if (have === reply.length) break;
      const part = Math.min(len, reply.length - have);
      reply.set(memory.bytes(addr, part), have);
      have += part;
    }
    const view = new DataView(reply.buffer);
    const error = view.getInt32(4, true);
    if (out.length <= 10) {
      assert.equal(view.getUint32(0, true), used, `length in the reply to ${what()}`);
      assert.equal(view.getBigUint64(8, true), sent.unique, `unique in the reply to ${what()}`);
      assert.ok(error <= 0 && error > -4096, `error ${error} in the reply to ${what()}`);
      assert.ok(error === 0 || used === HEADER_OUT, `error ${error} with data in the reply to ${what()}`);
    }
    const { counts } = this;
    counts.answered = (counts.answered ?? 0) + 1;
    if (error !== 0) return;
    counts.succeeded = (counts.succeeded ?? 0) + 1;
    this.#learn(step.op, view);
  }

  #learn(opcode: number, reply: DataView): void {
    const remember = (list: bigint[], at: number) => {
      if (reply.byteLength < at + 8 || list.length >= MOST_KNOWN) return;
      list.push(reply.getBigUint64(at, true));
    };
    if (ENTRIES.includes(opcode)) remember(this.#known.nodes, HEADER_OUT);
    if (CREATES.includes(opcode)) remember(this.#known.fhs, HEADER_OUT + ENTRY_BYTES);
    if (OPENS.includes(opcode)) remember(this.#known.fhs, HEADER_OUT);
  }

  end(): void {
    this.#session.close();
  }
}

function describe(step: Step): string {
  return JSON.stringify(step);
}

export const fuse: Kind<Step> = {
  name: "fuse",
  generate: (next) => {
    // A file and a directory that are open, or most would find nothing to work on.
    const start: Step[] = [
      {
        op: op.FUSE_LOOKUP,
        node: "node:0",
        args: `name:${pick(next, ["a", "b", "dir", "fifo", "null", "out", "magic"])}`,
      },
      { op: op.FUSE_OPENDIR, node: "node:0", args: "u32:0 u32:0" },
      { op: op.FUSE_CREATE, node: "node:0", args: `u32:2 u32:0o100644 u32:0 u32:0 ${name(next)}` },
      { op: op.FUSE_OPEN, node: "node:1", args: "u32:2 u32:0" },
    ];
    return { steps: [...start.slice(0, next(5)), ...Array.from({ length: 5 + next(40) }, () => makeStep(next))] };
  },
  simpler: (step) => {
    const plain: Step[] = [];
    for (const key of ["len", "sent", "in", "out", "queue", "direct", "user", "ext", "ahead"] as const) {
      if (step[key] === undefined) continue;
      const { [key]: _, ...rest } = step;
      plain.push(rest);
    }
    const parts = (step.args ?? "").split(" ");
    const last = parts[parts.length - 1];
    if (parts.length > 1) plain.push({ ...step, args: parts.slice(0, -1).join(" ") });
    const sized = /^(zeros|long):(\d+)$/.exec(last);
    if (sized && Number(sized[2]) > 1) {
      plain.push({ ...step, args: [...parts.slice(0, -1), `${sized[1]}:${Number(sized[2]) >> 1}`].join(" ") });
    }
    if (step.node !== "node:0") plain.push({ ...step, node: "node:0" });
    return plain;
  },
  begin: ({ daemon }, counts) => {
    const session = daemon.session({ memory: MEMORY, requestQueues: 2, init: false, timeoutMs: DEADLINE_MS });
    return new Guest({ memory: session.memory, queues: session.queues, close: () => session.close() }, counts);
  },
};
