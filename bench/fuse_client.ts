/**
 * A small FUSE client over a virtqueue: what the guest's kernel would send, one call per operation, for tests and for setting
 * a benchmark up. Calls block until the reply is there; `start` and `finish` keep several in flight. Errors are the wire's:
 * 0 or -errno. Node numbers and file handles are bigints, as they are 64 bits wide; numbers are accepted.
 */
import type { GuestAddr } from "../vq/device.ts";
import type { Segment, Virtqueue } from "./driver.ts";
import * as decode from "./fuse_decode.ts";
import { bytes, names, u32, u64 } from "./fuse_encode.ts";
import * as wire from "./fuse_opcodes.ts";

export type Id = number | bigint;
export const ROOT = 1n;

/** The reply to any request. */
export interface Reply {
  /** 0 or -errno. */
  error: number;
  /** What follows the header: a copy. */
  data: Uint8Array<ArrayBuffer>;
}

/** Options of one request. Sizes in bytes. */
export interface RequestOptions {
  /** Room for what follows the reply's header, in one buffer. */
  outSize?: number;
  /** Room for data (READ, READDIR), in pages where the client is told so; it follows `outSize`. */
  dataOut?: number;
  /** Data to go with the request (WRITE). */
  dataIn?: Uint8Array;
  /** FORGET and its like: the device gives the chain back with length 0. */
  noReply?: boolean;
  /** There is room for a reply, but length 0 is an answer too (Rust virtiofsd's to DESTROY). */
  replyOptional?: boolean;
  /** Send it on the client's high-priority queue. */
  hiprio?: boolean;
  timeoutMs?: number;
}

/** A request in flight. */
export interface Pending {
  readonly unique: bigint;
  readonly queue: Virtqueue;
  readonly head: number;
  readonly slot: Slot;
  readonly options: RequestOptions;
  /** -1 until the device has given the chain back. */
  usedLength: number;
}

interface Slot {
  request: GuestAddr;
  reply: GuestAddr;
}

export interface ClientOptions {
  uid?: number;
  gid?: number;
  pid?: number;
  hiprio?: Virtqueue;
  /** Largest READ or WRITE. Default 1 MiB. */
  maxData?: number;
  /** Give data in segments of this many bytes, as a guest's page cache does; 0 for one segment. Default 4096. */
  segmentBytes?: number;
  timeoutMs?: number;
}

const HEADER_IN = 40, HEADER_OUT = 16;
/** A request's data start here in its buffer: room for the header, the arguments and two names, page-aligned. */
const DATA_IN = 12288;
/** A reply's data are page-aligned and follow its header directly. */
const REPLY_AT = 4096 - HEADER_OUT;

/** One guest's view of the share. The identity may be changed between requests. */
export class FuseClient {
  uid: number;
  gid: number;
  pid: number;
  readonly #hiprio?: Virtqueue;
  readonly #maxData: number;
  readonly #segmentBytes: number;
  readonly #timeoutMs: number;
  readonly #slots: Slot[] = [];
  readonly #pending = new Map<Virtqueue, Map<number, Pending>>();
  #unique = 0n;

  constructor(readonly queue: Virtqueue, options: ClientOptions = {}) {
    this.uid = options.uid ?? 0;
    this.gid = options.gid ?? 0;
    this.pid = options.pid ?? Deno.pid;
    this.#hiprio = options.hiprio;
    this.#maxData = options.maxData ?? 1 << 20;
    this.#segmentBytes = options.segmentBytes ?? 4096;
    this.#timeoutMs = options.timeoutMs ?? 5000;
  }

  // --- requests in general

  /** Any request: its arguments after the header as bytes, and the room for the reply's. */
  request(opcode: number, nodeid: Id, args: Uint8Array = bytes(), outSize = 0, options: RequestOptions = {}): Reply {
    return this.finish(this.start(opcode, nodeid, args, { outSize, ...options }));
  }

  /** The same for a test whose back end lives in this isolate. */
  async requestAsync(
    opcode: number,
    nodeid: Id,
    args: Uint8Array = bytes(),
    outSize = 0,
    options: RequestOptions = {},
  ) {
    const pending = this.start(opcode, nodeid, args, { outSize, ...options });
    while (pending.usedLength < 0) {
      if (!await pending.queue.waitUsedAsync(options.timeoutMs ?? this.#timeoutMs)) break;
      this.#reapAll(pending.queue);
    }
    return this.finish(pending);
  }

  /** Sends a request without waiting. */
  start(opcode: number, nodeid: Id, args: Uint8Array, options: RequestOptions = {}): Pending {
    const queue = options.hiprio && this.#hiprio ? this.#hiprio : this.queue;
    const slot = this.#slots.pop() ?? this.#makeSlot();
    const unique = this.#unique += 2n;
    const length = HEADER_IN + args.length + (options.dataIn?.length ?? 0);
    const header = [u32(length, opcode), u64(unique, nodeid), u32(this.uid, this.gid, this.pid, 0)];
    const { memory } = queue;
    memory.bytes(slot.request, HEADER_IN + args.length).set(bytes(...header, args));
    if (options.dataIn) memory.bytes((slot.request + DATA_IN) as GuestAddr, options.dataIn.length).set(options.dataIn);
    const head = queue.place(this.#segments(slot, args.length, options));
    const pending: Pending = { unique, queue, head, slot, options, usedLength: -1 };
    this.#inFlight(queue).set(head, pending);
    queue.submit(head);
    return pending;
  }

  /** Waits for a request's reply. Throws on timeout, and where the reply does not fit the request. */
  finish(pending: Pending): Reply {
    const { queue, slot, options, unique } = pending;
    this.#reapAll(queue);
    while (pending.usedLength < 0) {
      if (!queue.waitUsed(options.timeoutMs ?? this.#timeoutMs)) throw new Error(`FUSE request ${unique}: no reply`);
      this.#reapAll(queue);
    }
    const used = pending.usedLength;
    this.#slots.push(slot);
    if ((options.noReply || options.replyOptional) && used === 0) return { error: 0, data: bytes() };
    const header = queue.memory.view((slot.reply + REPLY_AT) as GuestAddr, HEADER_OUT);
    const length = header.getUint32(0, true), error = header.getInt32(4, true);
    if (length !== used || length < HEADER_OUT || header.getBigUint64(8, true) !== unique) {
      throw new Error(`FUSE request ${unique}: used length ${used}, reply length ${length}, error ${error}`);
    }
    return { error, data: queue.memory.bytes((slot.reply + 4096) as GuestAddr, length - HEADER_OUT).slice() };
  }

  /** Whether the reply has come, without waiting. */
  isDone(pending: Pending): boolean {
    this.#reapAll(pending.queue);
    return pending.usedLength >= 0;
  }

  #inFlight(queue: Virtqueue): Map<number, Pending> {
    let map = this.#pending.get(queue);
    if (map === undefined) this.#pending.set(queue, map = new Map());
    return map;
  }

  #reapAll(queue: Virtqueue): void {
    const inFlight = this.#inFlight(queue);
    for (let head = queue.reap(); head >= 0; head = queue.reap()) {
      const pending = inFlight.get(head);
      if (pending === undefined) throw new Error(`queue ${queue.index}: used id ${head} is not in flight`);
      pending.usedLength = queue.usedLength;
      inFlight.delete(head);
      queue.free(head);
    }
  }

  #makeSlot(): Slot {
    const { memory } = this.queue;
    return {
      request: memory.allocate(DATA_IN + this.#maxData, 4096),
      reply: memory.allocate(4096 + this.#maxData + 4096, 4096),
    };
  }

  /** Linux's layout: header, arguments, pages; reply header, reply arguments, pages. */
  #segments({ request, reply }: Slot, argBytes: number, options: RequestOptions): Segment[] {
    const { outSize = 0, dataOut = 0, dataIn, noReply } = options;
    const list: Segment[] = [];
    const add = (addr: number, len: number, write: boolean, step = len) => {
      for (let at = 0; at < len; at += step) {
        list.push({ addr: (addr + at) as GuestAddr, len: Math.min(step, len - at), write });
      }
    };
    const step = this.#segmentBytes || undefined;
    add(request, HEADER_IN, false);
    add(request + HEADER_IN, argBytes, false);
    if (dataIn) add(request + DATA_IN, dataIn.length, false, step);
    if (noReply) return list;
    add(reply + REPLY_AT, HEADER_OUT, true);
    add(reply + 4096, outSize, true);
    add(reply + 4096 + outSize, dataOut, true, step);
    return list;
  }

  // --- session

  /** INIT with a minor version and the 64 flag bits. */
  init(minor = 38, flags: bigint = DEFAULT_INIT_FLAGS, maxReadahead = 1 << 17) {
    const low = Number(flags & 0xffff_ffffn), high = Number(flags >> 32n);
    const args = bytes(u32(7, minor, maxReadahead, low, high), new Uint8Array(44));
    return decode.init(this.request(wire.FUSE_INIT, 0, minor < 36 ? args.subarray(0, 16) : args, 64));
  }
  destroy(): Reply {
    return this.request(wire.FUSE_DESTROY, 0, bytes(), 0, { replyOptional: true });
  }
  /** INTERRUPT of a request in flight, on the high-priority queue where there is one. It has no reply. */
  interrupt(unique: bigint): Reply {
    return this.request(wire.FUSE_INTERRUPT, 0, u64(unique), 0, { noReply: true, hiprio: true });
  }
  /** FORGET goes on the high-priority queue where there is one; it has no reply. */
  forget(nodeid: Id, lookups: Id = 1): Reply {
    return this.request(wire.FUSE_FORGET, nodeid, u64(lookups), 0, { noReply: true, hiprio: true });
  }
  batchForget(list: readonly { nodeid: Id; lookups: Id }[]): Reply {
    const args = bytes(u32(list.length, 0), ...list.map((one) => u64(one.nodeid, one.lookups)));
    return this.request(wire.FUSE_BATCH_FORGET, 0, args, 0, { noReply: true, hiprio: true });
  }

  // --- names

  lookup(parent: Id, name: string) {
    return decode.entry(this.request(wire.FUSE_LOOKUP, parent, names(name), 128));
  }
  mknod(parent: Id, name: string, mode: number, rdev = 0, umask = 0) {
    return decode.entry(this.request(wire.FUSE_MKNOD, parent, bytes(u32(mode, rdev, umask, 0), names(name)), 128));
  }
  mkdir(parent: Id, name: string, mode = 0o755, umask = 0) {
    return decode.entry(this.request(wire.FUSE_MKDIR, parent, bytes(u32(mode, umask), names(name)), 128));
  }
  unlink(parent: Id, name: string): Reply {
    return this.request(wire.FUSE_UNLINK, parent, names(name));
  }
  rmdir(parent: Id, name: string): Reply {
    return this.request(wire.FUSE_RMDIR, parent, names(name));
  }
  rename(parent: Id, name: string, newParent: Id, newName: string): Reply {
    return this.request(wire.FUSE_RENAME, parent, bytes(u64(newParent), names(name, newName)));
  }
  rename2(parent: Id, name: string, newParent: Id, newName: string, flags = 0): Reply {
    return this.request(wire.FUSE_RENAME2, parent, bytes(u64(newParent), u32(flags, 0), names(name, newName)));
  }
  link(nodeid: Id, newParent: Id, newName: string) {
    return decode.entry(this.request(wire.FUSE_LINK, newParent, bytes(u64(nodeid), names(newName)), 128));
  }
  symlink(parent: Id, name: string, target: string) {
    return decode.entry(this.request(wire.FUSE_SYMLINK, parent, names(name, target), 128));
  }
  /** `target` is the link's text. */
  readlink(nodeid: Id): Reply & { target: string } {
    const reply = this.request(wire.FUSE_READLINK, nodeid, bytes(), 0, { dataOut: 4096 });
    return { ...reply, target: new TextDecoder().decode(reply.data) };
  }

  // --- attributes

  getattr(nodeid: Id, fh?: Id) {
    const args = bytes(u32(fh === undefined ? 0 : 1, 0), u64(fh ?? 0));
    return decode.attrOut(this.request(wire.FUSE_GETATTR, nodeid, args, 104));
  }
  /** Sets what is given. Times in seconds and nanoseconds, or "now". */
  setattr(nodeid: Id, what: SetattrArguments) {
    return decode.attrOut(this.request(wire.FUSE_SETATTR, nodeid, encodeSetattr(what), 104));
  }
  access(nodeid: Id, mask: number): Reply {
    return this.request(wire.FUSE_ACCESS, nodeid, u32(mask, 0));
  }
  statfs(nodeid: Id = ROOT) {
    return decode.statfs(this.request(wire.FUSE_STATFS, nodeid, bytes(), 80));
  }

  // --- files

  open(nodeid: Id, flags = 0) {
    return decode.open(this.request(wire.FUSE_OPEN, nodeid, u32(flags, 0), 16));
  }
  create(parent: Id, name: string, flags = 2, mode = 0o100644, umask = 0) {
    return decode.create(this.request(wire.FUSE_CREATE, parent, bytes(u32(flags, mode, umask, 0), names(name)), 144));
  }
  read(nodeid: Id, fh: Id, offset: Id, size: number, flags = 0): Reply {
    const args = bytes(u64(fh, offset), u32(size, 0), u64(0), u32(flags, 0));
    return this.request(wire.FUSE_READ, nodeid, args, 0, { dataOut: size });
  }
  /** `size` is the number of bytes written. */
  write(nodeid: Id, fh: Id, offset: Id, data: Uint8Array, flags = 0, writeFlags = 0): Reply & { size: number } {
    const args = bytes(u64(fh, offset), u32(data.length, writeFlags), u64(0), u32(flags, 0));
    const reply = this.request(wire.FUSE_WRITE, nodeid, args, 8, { dataIn: data });
    return { ...reply, size: decode.u32At(reply, 0) };
  }
  flush(nodeid: Id, fh: Id, lockOwner: Id = 0): Reply {
    return this.request(wire.FUSE_FLUSH, nodeid, bytes(u64(fh), u32(0, 0), u64(lockOwner)));
  }
  fsync(nodeid: Id, fh: Id, dataOnly = false): Reply {
    return this.request(wire.FUSE_FSYNC, nodeid, bytes(u64(fh), u32(dataOnly ? 1 : 0, 0)));
  }
  release(nodeid: Id, fh: Id, flags = 0): Reply {
    return this.request(wire.FUSE_RELEASE, nodeid, bytes(u64(fh), u32(flags, 0), u64(0)));
  }
  lseek(nodeid: Id, fh: Id, offset: Id, whence: number): Reply & { offset: bigint } {
    const reply = this.request(wire.FUSE_LSEEK, nodeid, bytes(u64(fh, offset), u32(whence, 0)), 8);
    return { ...reply, offset: decode.u64At(reply, 0) };
  }
  fallocate(nodeid: Id, fh: Id, offset: Id, length: Id, mode = 0): Reply {
    return this.request(wire.FUSE_FALLOCATE, nodeid, bytes(u64(fh, offset, length), u32(mode, 0)));
  }

  // --- directories

  opendir(nodeid: Id, flags = 0) {
    return decode.open(this.request(wire.FUSE_OPENDIR, nodeid, u32(flags, 0), 16));
  }
  readdir(nodeid: Id, fh: Id, offset: Id = 0, size = 4096) {
    const args = bytes(u64(fh, offset), u32(size, 0), u64(0, 0));
    return decode.dirents(this.request(wire.FUSE_READDIR, nodeid, args, 0, { dataOut: size }), false);
  }
  readdirplus(nodeid: Id, fh: Id, offset: Id = 0, size = 4096) {
    const args = bytes(u64(fh, offset), u32(size, 0), u64(0, 0));
    return decode.dirents(this.request(wire.FUSE_READDIRPLUS, nodeid, args, 0, { dataOut: size }), true);
  }
  fsyncdir(nodeid: Id, fh: Id, dataOnly = false): Reply {
    return this.request(wire.FUSE_FSYNCDIR, nodeid, bytes(u64(fh), u32(dataOnly ? 1 : 0, 0)));
  }
  releasedir(nodeid: Id, fh: Id): Reply {
    return this.request(wire.FUSE_RELEASEDIR, nodeid, bytes(u64(fh), u32(0, 0), u64(0)));
  }
  /** Opens, reads to the end with READDIR or READDIRPLUS, closes: all names with "." and "..". */
  list(nodeid: Id, plus = false, size = 4096) {
    const { error, fh } = this.opendir(nodeid);
    const entries: decode.DirectoryEntry[] = [];
    for (let at = 0n; error === 0;) {
      const part = plus ? this.readdirplus(nodeid, fh, at, size) : this.readdir(nodeid, fh, at, size);
      if (part.error !== 0 || part.entries.length === 0) {
        this.releasedir(nodeid, fh);
        return { error: part.error, entries };
      }
      entries.push(...part.entries);
      at = part.entries.at(-1)!.offset;
    }
    return { error, entries };
  }
}

/** ASYNC_READ, BIG_WRITES, DONT_MASK, DO_READDIRPLUS, ASYNC_DIO, PARALLEL_DIROPS, HANDLE_KILLPRIV, MAX_PAGES: as vubench asks, and umask. */
export const DEFAULT_INIT_FLAGS = 1n << 0n | 1n << 5n | 1n << 6n | 1n << 13n | 1n << 15n | 1n << 18n | 1n << 19n |
  1n << 22n;

/** A time for SETATTR: seconds and nanoseconds, or the server's clock. */
export type SetTime = { seconds: number; nanoseconds?: number } | "now";

export interface SetattrArguments {
  mode?: number;
  uid?: number;
  gid?: number;
  size?: Id;
  atime?: SetTime;
  mtime?: SetTime;
  ctime?: SetTime;
  fh?: Id;
  /** Further FATTR bits. */
  valid?: number;
}

/** struct fuse_setattr_in. FATTR bits: mode 0, uid 1, gid 2, size 3, atime 4, mtime 5, fh 6, atime now 7, mtime now 8, ctime 10. */
function encodeSetattr(what: SetattrArguments): Uint8Array {
  let valid = what.valid ?? 0;
  const bit = (n: number, given: unknown) => {
    if (given !== undefined) valid |= 1 << n;
  };
  bit(0, what.mode), bit(1, what.uid), bit(2, what.gid), bit(3, what.size), bit(6, what.fh);
  bit(4, what.atime), bit(5, what.mtime), bit(10, what.ctime);
  if (what.atime === "now") valid |= 1 << 7;
  if (what.mtime === "now") valid |= 1 << 8;
  const times = [what.atime, what.mtime, what.ctime].map((one) => typeof one === "object" ? one : { seconds: 0 });
  return bytes(
    u32(valid, 0),
    u64(what.fh ?? 0, what.size ?? 0, 0),
    u64(...times.map((one) => one.seconds)),
    u32(...times.map((one) => one.nanoseconds ?? 0), what.mode ?? 0, 0, what.uid ?? 0, what.gid ?? 0, 0),
  );
}
