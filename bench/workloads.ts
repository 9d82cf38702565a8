/**
 * The load generator's requests. Each slot, one of `depth` in flight, has its chains placed once, with the whole request in
 * them; per request only the unique number and an offset or handle are patched, as 32-bit words in guest memory.
 */
import type { GuestAddr } from "../vq/device.ts";
import { ENOSYS } from "../ffi/errno.ts";
import type { Segment, Virtqueue } from "./driver.ts";
import { bytes, names, u32, u64 } from "./fuse_encode.ts";
import * as op from "./fuse_opcodes.ts";

export const MODES = [
  "randread",
  "randwrite",
  "seqread",
  "seqwrite",
  "getattr",
  "lookup",
  "openclose",
  "createunlink",
  // An operation that no server knows: what a request costs before anything is done.
  "unknown",
] as const;
export type Mode = typeof MODES[number];

/** What one queue's thread is to do. Sizes in bytes. */
export interface Job {
  mode: Mode;
  /** Slots. */
  depth: number;
  blockBytes: number;
  /** Data in segments of this many bytes; 0: one segment. */
  segmentBytes: number;
  /** The file that is read, written and asked about. */
  nodeid: bigint;
  fh: bigint;
  fileBytes: number;
  fileName: string;
  /** Distinguishes the queues: sequences start apart, names differ. From 0, of `queues`. */
  thread: number;
  queues: number;
}

/** One kind of request, placed for one slot. */
interface Stage {
  head: number;
  /** Where its header lies, as an index of 32-bit words. */
  request: number;
  /** Length that the reply must have, header included; 0 where there is none. */
  replyBytes: number;
  /** Data bytes that the request moves. */
  dataBytes: number;
  /** The error that the reply must have, as it stands there: 0 or -errno as 32 bits. */
  error: number;
}

// Word indices in a request, from its header on.
const UNIQUE = 2, NODEID = 4, FIRST_ARGUMENT = 10, OFFSET = 12;
// Word indices in a reply, from its header on.
const ERROR = 1, REPLY_UNIQUE = 2, FIRST_RESULT = 4, CREATE_FH = 36;

/** A hole in enum fuse_opcode. */
const UNKNOWN = 7;

const SLOT_BYTES = 8192;
const STAGE_BYTES = 512;

/** Guest memory that a job needs beside its rings, in bytes. */
export function arenaBytes(job: Pick<Job, "depth" | "blockBytes" | "segmentBytes">): number {
  const segments = job.segmentBytes === 0 ? 1 : Math.ceil(job.blockBytes / job.segmentBytes);
  return job.depth * (SLOT_BYTES + Math.ceil(job.blockBytes / 4096) * 4096 + 4096 + (segments + 24) * 16) + 65536;
}

/** Descriptors that a job needs where its chains are direct. */
export function descriptorsNeeded(job: Pick<Job, "depth" | "blockBytes" | "segmentBytes" | "mode">): number {
  const segments = job.segmentBytes === 0 ? 1 : Math.ceil(job.blockBytes / job.segmentBytes);
  return job.depth * (job.mode === "createunlink" ? 16 : 8 + segments);
}

/** The requests of one queue. `next` and `check` allocate nothing. */
export class Workload {
  errors = 0;
  /** Data bytes of the replies checked. */
  bytes = 0;
  /** The first error seen: an errno, or 0. */
  firstError = 0;

  readonly #words: Uint32Array<ArrayBuffer>;
  readonly #stages: Stage[][] = [];
  readonly #stageOf: Uint8Array;
  readonly #replies: Uint32Array;
  readonly #slotOfHead: Uint16Array;
  readonly #blocks: number;
  readonly #sequential: boolean;
  readonly #data: boolean;
  #block: number;
  #random: number;
  #unique: number;

  constructor(readonly queue: Virtqueue, readonly job: Job) {
    const { depth } = job;
    const arena = queue.memory.allocate(depth * SLOT_BYTES, 4096);
    // All of guest memory from the arena's start on that slots use: header words are patched through this one array.
    this.#words = queue.memory.words32(arena, depth * SLOT_BYTES / 4);
    this.#stageOf = new Uint8Array(depth);
    this.#replies = new Uint32Array(depth);
    this.#slotOfHead = new Uint16Array(queue.size);
    this.#data = job.mode.endsWith("read") || job.mode.endsWith("write");
    this.#sequential = job.mode.startsWith("seq");
    this.#blocks = Math.max(1, Math.floor(job.fileBytes / job.blockBytes));
    this.#block = Math.floor(this.#blocks / job.queues) * job.thread;
    this.#random = 12345 + job.thread * 777;
    this.#unique = 1_000_000;
    for (let slot = 0; slot < depth; slot++) this.#makeSlot(slot, (arena + slot * SLOT_BYTES) as GuestAddr);
  }

  #makeSlot(slot: number, addr: GuestAddr): void {
    const { queue, job } = this;
    const reply = addr + SLOT_BYTES - 1024;
    const data = this.#data ? queue.memory.allocate(job.blockBytes, 4096) : addr;
    if (this.#data) queue.memory.bytes(data, job.blockBytes).fill(0x5a);
    this.#replies[slot] = (slot * SLOT_BYTES + SLOT_BYTES - 1024) / 4;
    this.#stages[slot] = templates(job, slot).map((template, i) => {
      const at = addr + i * STAGE_BYTES;
      const { opcode, nodeid, args, replyBytes, dataIn = 0, dataOut = 0, error = 0 } = template;
      const length = 40 + args.length + dataIn;
      const header = bytes(u32(length, opcode), u64(0, nodeid), u32(0, 0, Deno.pid, 0), args);
      queue.memory.bytes(at as GuestAddr, header.length).set(header);
      const list: Segment[] = [{ addr: at as GuestAddr, len: 40 }];
      if (args.length > 0) list.push({ addr: (at + 40) as GuestAddr, len: args.length });
      pushData(list, data, dataIn, job.segmentBytes, false);
      if (replyBytes > 0) list.push({ addr: reply as GuestAddr, len: 16, write: true });
      const result = replyBytes - 16 - dataOut;
      if (result > 0) list.push({ addr: (reply + 16) as GuestAddr, len: result, write: true });
      pushData(list, data, dataOut, job.segmentBytes, true);
      const head = queue.place(list);
      this.#slotOfHead[head] = slot;
      const request = (slot * SLOT_BYTES + i * STAGE_BYTES) / 4;
      return { head, request, replyBytes, dataBytes: dataIn + dataOut, error: error >>> 0 };
    });
  }

  slotOf(head: number): number {
    return this.#slotOfHead[head];
  }

  /** Whether the slot's next request is the first of its cycle. */
  atStart(slot: number): boolean {
    return this.#stageOf[slot] === 0;
  }

  /** Patches the slot's next request and returns its head. */
  next(slot: number): number {
    const stage = this.#stages[slot][this.#stageOf[slot]];
    const words = this.#words;
    const at = stage.request;
    words[at + UNIQUE] = this.#unique += 2;
    words[at + UNIQUE + 1] = this.job.thread;
    if (this.#data) {
      const offset = this.#nextBlock() * this.job.blockBytes;
      words[at + OFFSET] = offset;
      words[at + OFFSET + 1] = offset / 0x1_0000_0000;
    }
    return stage.head;
  }

  #nextBlock(): number {
    if (this.#sequential) {
      const block = this.#block;
      this.#block = block + 1 === this.#blocks ? 0 : block + 1;
      return block;
    }
    // xorshift32
    let x = this.#random;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#random = x;
    return (x >>> 0) % this.#blocks;
  }

  /** Looks at the slot's reply and moves the slot on to its next stage. Returns whether it counts: FORGET, without reply, does not. */
  check(slot: number, usedLength: number): boolean {
    const stages = this.#stages[slot];
    const stage = stages[this.#stageOf[slot]];
    const words = this.#words;
    const at = this.#replies[slot];
    if (stage.replyBytes > 0) {
      const wrong = words[at] !== stage.replyBytes || words[at + REPLY_UNIQUE] !== words[stage.request + UNIQUE];
      if (words[at + ERROR] !== stage.error || wrong || usedLength !== stage.replyBytes) {
        this.#failed(words[at + ERROR]);
      } else this.bytes += stage.dataBytes;
    }
    if (stages.length > 1) this.#carryOver(slot, stages, at);
    return stage.replyBytes > 0;
  }

  /** After OPEN and CREATE: the handle into RELEASE, the node into RELEASE and FORGET. */
  #carryOver(slot: number, stages: readonly Stage[], reply: number): void {
    const words = this.#words;
    const create = stages.length === 4;
    if (this.#stageOf[slot] === 0) {
      const fh = reply + (create ? CREATE_FH : FIRST_RESULT);
      words[stages[1].request + FIRST_ARGUMENT] = words[fh];
      words[stages[1].request + FIRST_ARGUMENT + 1] = words[fh + 1];
      for (let i = 1; create && i < 4; i += 2) {
        words[stages[i].request + NODEID] = words[reply + FIRST_RESULT];
        words[stages[i].request + NODEID + 1] = words[reply + FIRST_RESULT + 1];
      }
    }
    this.#stageOf[slot] = (this.#stageOf[slot] + 1) % stages.length;
  }

  #failed(error: number): void {
    this.errors++;
    if (this.firstError === 0) this.firstError = -(error | 0);
  }
}

interface Template {
  opcode: number;
  nodeid: bigint;
  args: Uint8Array;
  replyBytes: number;
  dataIn?: number;
  dataOut?: number;
  /** The error to be expected: -errno. */
  error?: number;
}

function pushData(list: Segment[], data: number, length: number, segmentBytes: number, write: boolean): void {
  const step = segmentBytes || length;
  for (let at = 0; at < length; at += step) {
    list.push({ addr: (data + at) as GuestAddr, len: Math.min(step, length - at), write });
  }
}

/** The requests that a slot goes through, one after the other and then again. */
function templates(job: Job, slot: number): Template[] {
  const { nodeid, fh, blockBytes } = job;
  const name = names(`bench-${job.thread}-${slot}`);
  switch (job.mode) {
    case "randread":
    case "seqread": {
      const args = bytes(u64(fh, 0), u32(blockBytes, 0), u64(0), u32(0, 0));
      return [{ opcode: op.FUSE_READ, nodeid, args, replyBytes: 16 + blockBytes, dataOut: blockBytes }];
    }
    case "randwrite":
    case "seqwrite": {
      const args = bytes(u64(fh, 0), u32(blockBytes, 0), u64(0), u32(0, 0));
      return [{ opcode: op.FUSE_WRITE, nodeid, args, replyBytes: 24, dataIn: blockBytes }];
    }
    case "getattr":
      return [{ opcode: op.FUSE_GETATTR, nodeid, args: bytes(u32(0, 0), u64(0)), replyBytes: 16 + 104 }];
    case "lookup":
      return [{ opcode: op.FUSE_LOOKUP, nodeid: 1n, args: names(job.fileName), replyBytes: 16 + 128 }];
    case "openclose":
      return [
        { opcode: op.FUSE_OPEN, nodeid, args: u32(2, 0), replyBytes: 16 + 16 },
        { opcode: op.FUSE_RELEASE, nodeid, args: bytes(u64(0), u32(2, 0), u64(0)), replyBytes: 16 },
      ];
    case "unknown":
      return [{ opcode: UNKNOWN, nodeid, args: u64(0), replyBytes: 16, error: -ENOSYS }];
    case "createunlink":
      return [
        {
          opcode: op.FUSE_CREATE,
          nodeid: 1n,
          args: bytes(u32(0o102, 0o100644, 0, 0), name),
          replyBytes: 16 + 128 + 16,
        },
        { opcode: op.FUSE_RELEASE, nodeid: 0n, args: bytes(u64(0), u32(2, 0), u64(0)), replyBytes: 16 },
        { opcode: op.FUSE_UNLINK, nodeid: 1n, args: name, replyBytes: 16 },
        // Without it, each file would keep a descriptor in the daemon.
        { opcode: op.FUSE_FORGET, nodeid: 0n, args: u64(1), replyBytes: 0 },
      ];
  }
}
