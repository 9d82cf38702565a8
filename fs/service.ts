/**
 * The file system on one loop: takes a FUSE request out of its slot, finds its handler in the opcode table, and sends the reply.
 * Request code returns a length or -errno; nothing here throws.
 */
import { E2BIG, EBUSY, ECANCELED, EINTR, EINVAL, EIO, ENOENT, ENOSYS } from "../ffi/errno.ts";
import { signal } from "../ffi/eventfd.ts";
import { libc } from "../ffi/libc.ts";
import type { Loop } from "../vq/loop.ts";
import { type LoopDevice, PENDING, type Service } from "../vq/queue.ts";
import { IN_BYTES, type Requests, SLOTS } from "../vq/requests.ts";
import { type FsConfig, timeoutSeconds } from "./config.ts";
import { Credentials } from "./credentials.ts";
import { HandleTable } from "./handles.ts";
import { NodeTable } from "./nodes.ts";
import { opcodes } from "./opcodes.ts";
import { ProcPath } from "./proc_path.ts";
import { DATA, LATER, NO_REPLY } from "./results.ts";
import { Session, STATE_RUNNING } from "./session.ts";
import { StatBuffer } from "./stat.ts";
import { WriteWatch } from "./write_watch.ts";
import { FUSE_BATCH_FORGET, FUSE_FORGET, fuse_in_header, fuse_out_header, fuse_write_out } from "./wire.ts";

/** Requests up to this many bytes are copied out of guest memory at once; larger ones when their opcode is known to need it. */
const SMALL = 256;
const HEADER = fuse_in_header.sizeof;
const OUT_HEADER = fuse_out_header.sizeof;

const OPCODE = fuse_in_header.opcode >> 2;
const LEN = fuse_in_header.len >> 2;
const UNIQUE = fuse_in_header.unique >> 2;
const NODEID = fuse_in_header.nodeid >> 2;
const UID = fuse_in_header.uid >> 2;
const GID = fuse_in_header.gid >> 2;

const SLASH = 0x2f;

const isForget = (opcode: number) => opcode === FUSE_FORGET || opcode === FUSE_BATCH_FORGET;
const closeNow = (fd: number) => void libc.close(fd);

/** What a slot waits for on the ring. */
export const WAITS_READ = 1;
export const WAITS_WRITE = 2;
/** An operation whose reply is its error alone. */
export const WAITS_PLAIN = 3;

export class FsService implements Service {
  readonly requests: Requests;
  readonly session: Session;
  readonly nodes: NodeTable;
  readonly handles: HandleTable;
  readonly stat = new StatBuffer();
  readonly proc: ProcPath;
  readonly credentials: Credentials;
  readonly writes = new WriteWatch();
  /** Seconds that names and attributes are valid. */
  readonly timeout: number;

  /** The request being handled: its length, header included, and its node's slot, or 0 where the nodeid names nothing. */
  len = 0;
  node = 0;
  /** With DATA: how many bytes. */
  dataBytes = 0;

  /** Closes a descriptor that was taken out of a shared table. */
  readonly retire = (fd: number): void => this.loop.grace.retire(fd);

  // Per slot: the request's unique, and what it waits for.
  readonly #uniqueLo = new Uint32Array(SLOTS);
  readonly #uniqueHi = new Uint32Array(SLOTS);
  readonly #waits = new Uint8Array(SLOTS);

  /** INIT or DESTROY that waits until the session is its own, and what it does then. */
  #waiter = -1;
  #whenAlone: ((slot: number) => number) | null = null;
  #epoch: number;
  /** Views of names in the request buffer, by offset: FFI takes a buffer, and making a view costs more than the call. */
  readonly #names: Uint8Array<ArrayBuffer>[] = [];

  constructor(
    readonly config: FsConfig,
    readonly loop: Loop,
    readonly device: LoopDevice,
    readonly bellFds: readonly number[],
  ) {
    this.requests = loop.requests;
    this.session = new Session(config.session, config.loops, loop.index);
    this.nodes = new NodeTable(config.nodes);
    this.handles = new HandleTable(config.handles);
    this.proc = new ProcPath(config.procFd);
    this.credentials = new Credentials(config.privileged);
    this.timeout = timeoutSeconds(config.options.cache);
    this.#epoch = this.session.epoch;
  }

  begin(): void {
    this.session.begin();
    if (this.#epoch === this.session.epoch) return;
    this.#epoch = this.session.epoch;
    this.nodes.forgetFree();
    this.handles.forgetFree();
  }

  end(): void {
    const waiter = this.session.end();
    if (waiter >= 0 && waiter !== this.loop.index) signal(this.bellFds[waiter]);
  }

  handle(slot: number): number {
    const { requests } = this;
    const { memory } = this.device;
    const { in32 } = requests;
    const total = requests.readableBytes[slot];
    const copied = requests.copyIn(slot, memory, total < SMALL ? total : SMALL);
    // Without a whole header there is nobody to answer.
    if (copied < HEADER || requests.writableBytes[slot] < OUT_HEADER && !isForget(in32[OPCODE])) return 0;
    const len = in32[LEN];
    const op = opcodes[in32[OPCODE]];
    this.#uniqueLo[slot] = in32[UNIQUE];
    this.#uniqueHi[slot] = in32[UNIQUE + 1];
    this.#waits[slot] = 0;
    if (op === undefined) return this.reply(slot, -ENOSYS);
    if (len < HEADER + op.argBytes || len > total) return this.reply(slot, -EINVAL);
    if (copied < len && !op.data) {
      // Names and values behind the first bytes. What was checked above is not read again: the guest may have changed it.
      if (len > IN_BYTES) return this.reply(slot, -E2BIG);
      requests.copyIn(slot, memory, len);
    }
    if (this.session.state !== STATE_RUNNING && !op.always) return op.noReply ? 0 : this.reply(slot, -EIO);
    this.len = len;
    this.node = this.nodes.find(in32[NODEID], in32[NODEID + 1]);
    if (this.node === 0 && op.needsNode) return op.noReply ? 0 : this.reply(slot, -ENOENT);
    const result = op.handler(this, slot);
    if (result === DATA) return this.#replyData(slot, this.dataBytes);
    if (result === LATER) return PENDING;
    return result === NO_REPLY ? 0 : this.reply(slot, result);
  }

  complete(slot: number, result: number): number {
    const waits = this.#waits[slot];
    this.#waits[slot] = 0;
    if (result < 0) return this.reply(slot, result === -ECANCELED ? -EINTR : result);
    if (waits === WAITS_READ) return this.#replyData(slot, result);
    if (waits === WAITS_WRITE) {
      const { out32 } = this.requests;
      out32[OUT_HEADER >> 2] = result;
      out32[(OUT_HEADER >> 2) + 1] = 0;
      return this.reply(slot, fuse_write_out.sizeof);
    }
    return this.reply(slot, 0);
  }

  bell(): void {
    if (this.#waiter < 0 || !this.#alone) return;
    const slot = this.#waiter;
    this.#waiter = -1;
    this.device.waiting = false;
    this.loop.finish(slot, this.reply(slot, this.#whenAlone!(slot)));
  }

  reset(): void {
    this.forgetAll();
  }

  /** Forgets all nodes and closes all handles. No other loop has requests in flight. */
  forgetAll(): void {
    this.handles.clear(closeNow);
    this.nodes.clear(closeNow);
    this.session.forget();
    this.#epoch = this.session.epoch;
  }

  /**
   * Runs `action` when this request is the only one in flight, and refuses new ones until then. The result is the handler's; the
   * action sets the session's state.
   */
  whenAlone(slot: number, action: (slot: number) => number): number {
    if (!this.session.drain()) return -EBUSY;
    if (this.#alone) return action(slot);
    this.#waiter = slot;
    this.#whenAlone = action;
    this.device.waiting = true;
    return LATER;
  }

  get #alone(): boolean {
    return this.device.inFlight === 1 && this.session.othersIdle;
  }

  /** Says what the completion of the slot's ring operation means. Returns what its handler returns. */
  later(slot: number, waits: number): number {
    this.#waits[slot] = waits;
    return LATER;
  }

  /** Sends a reply: `result` bytes behind the header in the out buffer, or -errno. Returns the bytes written. */
  reply(slot: number, result: number): number {
    const { requests } = this;
    const { out32 } = requests;
    const room = requests.writableBytes[slot];
    if (room < OUT_HEADER) return 0;
    let len = OUT_HEADER;
    // A reply that does not fit is the guest's fault; it learns so, and the operation was done.
    if (result > room - OUT_HEADER) result = -EIO;
    if (result > 0) len += result;
    out32[0] = len;
    out32[1] = result < 0 ? result : 0;
    out32[2] = this.#uniqueLo[slot];
    out32[3] = this.#uniqueHi[slot];
    requests.copyOut(slot, this.device.memory, len);
    return len;
  }

  /** Sends the header of a reply whose data the kernel has put into guest memory already. */
  #replyData(slot: number, bytes: number): number {
    const { out32 } = this.requests;
    out32[0] = OUT_HEADER + bytes;
    out32[1] = 0;
    out32[2] = this.#uniqueLo[slot];
    out32[3] = this.#uniqueHi[slot];
    this.requests.copyOut(slot, this.device.memory, OUT_HEADER);
    return OUT_HEADER + bytes;
  }

  /** The slot whose request has this unique and waits on this loop's ring, or -1. */
  waitingFor(lo: number, hi: number): number {
    for (let slot = 0; slot < SLOTS; slot++) {
      if (this.#waits[slot] !== 0 && this.#uniqueLo[slot] === lo && this.#uniqueHi[slot] === hi) return slot;
    }
    return -1;
  }

  /** The guest's user and group of the request. */
  get uid(): number {
    return this.requests.in32[UID];
  }

  get gid(): number {
    return this.requests.in32[GID];
  }

  /**
   * A name in the request, `at` bytes from its start, as a NUL-terminated buffer, or -errno: EINVAL where it is empty, has no end
   * within the request or a slash in it. The host's own calls refuse one that is too long.
   */
  name(at: number): Uint8Array<ArrayBuffer> | number {
    const end = this.nameEnd(at);
    if (end < 0) return end;
    // Second names begin anywhere; they are not worth keeping.
    return at < SMALL ? this.#names[at] ??= this.requests.in.subarray(at) : this.requests.in.subarray(at);
  }

  /** Where a name's NUL is, or -EINVAL. */
  nameEnd(at: number): number {
    const bytes = this.requests.in;
    for (let i = at; i < this.len; i++) {
      if (bytes[i] === 0) return i === at ? -EINVAL : i;
      if (bytes[i] === SLASH) return -EINVAL;
    }
    return -EINVAL;
  }
}
