/**
 * The file system on one loop or helper: takes a FUSE request out of its slot, finds its handler in the opcode table, and sends the reply.
 * Request code returns a length or -errno; nothing here throws.
 */
import { E2BIG, EBUSY, ECANCELED, EFAULT, EINTR, EINVAL, EIO, ENOENT, ENOSYS } from "../ffi/errno.ts";
import { signal } from "../ffi/eventfd.ts";
import { libc } from "../ffi/libc.ts";
import { NOTES } from "../vq/flight.ts";
import type { Log } from "../vq/log.ts";
import type { Loop } from "../vq/loop.ts";
import { type Host, type LoopDevice, PENDING, type Service } from "../vq/queue.ts";
import { IN_BYTES, type Requests, SLOTS } from "../vq/requests.ts";
import { type FsConfig, timeoutSeconds } from "./config.ts";
import { Credentials } from "./credentials.ts";
import { Descriptors } from "./descriptors.ts";
import { HandleTable } from "./handles.ts";
import { LockTable } from "./locks.ts";
import { MountTable } from "./mounts.ts";
import { NodeFiles } from "./node_files.ts";
import { fdOf, NodeTable } from "./nodes.ts";
import { Extensions } from "./creation.ts";
import { createIds, type Ids } from "./idmap.ts";
import { opcodes, type Operation, refused } from "./opcodes.ts";
import { openMask } from "./ops_file.ts";
import { mappedCapability } from "./ops_xattr.ts";
import { ProcPath } from "./proc_path.ts";
import { readOnlyOperations } from "./readonly.ts";
import { Reopener } from "./reopen.ts";
import { DATA, ELSEWHERE, LATER, NO_REPLY } from "./results.ts";
import { Session, STATE_DRAINING, STATE_RUNNING } from "./session.ts";
import { StatBuffer } from "./stat.ts";
import {
  AWAY,
  AWAY_LOCK,
  canOpenCached,
  KIND_LOCAL,
  KIND_MEMORY,
  ON_LOOP,
  TIMED_EVERY,
  UNCACHED_SLOW_MS,
  waysOf,
  WHEN_QUIET,
} from "./where.ts";
import { WriteWatch } from "./write_watch.ts";
import { XattrMap } from "./xattrmap.ts";
import { fuse_in_header, FUSE_INIT, fuse_out_header, fuse_write_out } from "./wire.ts";

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

const closeNow = (fd: number) => void libc.close(fd);

/** What a slot waits for on the ring. */
export const WAITS_READ = 1;
export const WAITS_WRITE = 2;
/** An operation whose reply is its error alone. */
export const WAITS_PLAIN = 3;
/** And for a helper's call: another's lock, a copy within the host with a reply of 32 or 64 bits, a file system's sync. */
export const WAITS_LOCK = 4;
export const WAITS_COPY = 5;
export const WAITS_COPY_64 = 6;
export const WAITS_SYNC = 7;
/** For a read that a worker of the ring makes, on an idle processor. */
export const WAITS_SPARE = 8;
/** And for a helper that serves the request: any, or one that waits for a lock. */
export const WAITS_AWAY = 9;
export const WAITS_AWAY_LOCK = 10;

export class FsService implements Service {
  readonly requests: Requests;
  readonly session: Session;
  readonly nodes: NodeTable;
  readonly handles: HandleTable;
  readonly locks: LockTable;
  readonly mounts: MountTable;
  readonly files: NodeFiles;
  readonly stat: StatBuffer;
  /** Translation of users and groups, of attribute names; the name that security.capability is given. Null where there is none. */
  readonly ids: Ids | null;
  readonly xattrMap: XattrMap | null;
  readonly capability: Uint8Array<ArrayBuffer> | null;
  /** What is behind the names of the request being handled, where it creates a file. */
  readonly extensions = new Extensions();
  /** The reply buffer behind the header. */
  readonly body: Uint8Array<ArrayBuffer>;
  readonly proc: ProcPath;
  readonly reopener: Reopener;
  readonly credentials: Credentials;
  readonly descriptors: Descriptors;
  readonly writes = new WriteWatch();
  /** The thread is a helper, and serves what it was given to the end, by plain calls that wait: it has no ring, and no `loop`. */
  readonly isHelper: boolean;
  /** This is a loop, and what would wait for a disk can be served elsewhere. */
  readonly elsewhere: boolean;
  /** This is a loop, and LOOKUP can tell beforehand whether it would wait. */
  readonly asksCached: boolean;
  /** Whether those that do are to be served here. */
  readonly uncached = new WriteWatch(1, UNCACHED_SLOW_MS);
  /** Seconds that names and attributes are valid. */
  readonly timeout: number;
  /** Flags of open(2) that the guest's may have. */
  readonly openMask: number;

  /** The request being handled: its length, header included, and its node's slot, or 0 where the nodeid names nothing. */
  len = 0;
  node = 0;
  /** With DATA: how many bytes. */
  dataBytes = 0;

  /** Closes a descriptor that was taken out of a shared table; -1: that of a mount, if a node less leaves it without any. */
  readonly retire = (fd: number, mount = 0): void => {
    if (fd < 0) fd = this.mounts.release(mount);
    if (fd >= 0) this.host.grace.retire(fd);
  };
  readonly loop: Loop;

  readonly #operations: readonly (Operation | undefined)[];
  /** By opcode, what this thread does with a request: see where.ts. */
  readonly #ways: Uint8Array;
  readonly #metadata = new WriteWatch(TIMED_EVERY);
  // Per slot, for all services of the thread: the request's unique and nodeid, and what it waits for.
  readonly #notes: Uint32Array<ArrayBuffer>;
  readonly #waits: Uint8Array<ArrayBuffer>;
  /** The thread's, whose lines say which share they are about. */
  readonly log: Log;
  /** Duplicates that a slot's operation works on, closed when it is done; -1: none. Two a slot. */
  readonly #copies = new Int32Array(SLOTS * 2).fill(-1);

  /** INIT or DESTROY that waits until the session is its own, and what it does then. */
  #waiter = -1;
  #whenAlone: ((slot: number) => number) | null = null;
  #epoch: number;
  /** Handlers that threw. */
  #faults = 0;
  /** Views of names in the request buffer, by offset: FFI takes a buffer, and making a view costs more than the call. */
  readonly #names: Uint8Array<ArrayBuffer>[] = [];

  constructor(
    readonly config: FsConfig,
    readonly host: Host,
    readonly device: LoopDevice,
    readonly bellFds: readonly number[],
  ) {
    const { options } = config;
    this.isHelper = host.isHelper;
    this.loop = host as Loop;
    this.requests = host.requests;
    this.#notes = host.requests.notes;
    this.#waits = host.requests.waits;
    this.log = device.log ?? host.log;
    this.body = host.requests.out.subarray(OUT_HEADER);
    this.ids = createIds(options.translateUid, options.translateGid);
    this.stat = new StatBuffer(this.ids);
    this.xattrMap = options.xattrMap === "" ? null : new XattrMap(options.xattrMap);
    this.capability = mappedCapability(this.xattrMap);
    const operations = options.readonly ? readOnlyOperations(opcodes) : opcodes;
    this.#operations = this.isHelper ? operations.map((op) => op && op.waits !== "nothing" ? op : refused) : operations;
    const kind = this.isHelper ? KIND_MEMORY : config.kind;
    this.elsewhere = kind !== KIND_MEMORY;
    this.asksCached = kind === KIND_LOCAL && canOpenCached(config.rootFd);
    this.#ways = waysOf(kind, operations, this.asksCached);
    this.session = new Session(config.session, config.loops, host.index);
    this.nodes = new NodeTable(config.nodes);
    this.handles = new HandleTable(config.handles);
    this.locks = new LockTable(config.locks);
    this.mounts = new MountTable(config.mounts, config.mount, config.mountFd);
    this.descriptors = new Descriptors(
      config,
      this.session,
      this.nodes,
      this.handles,
      this.locks,
      this.mounts,
      this.log,
    );
    this.proc = new ProcPath(config.procFd);
    this.files = new NodeFiles(config, this.nodes, this.mounts, this.descriptors, this.stat, this.proc, this.retire);
    this.reopener = new Reopener(this.proc, config.mountFd);
    if (options.xattr) this.proc.enter();
    this.credentials = new Credentials(config.privileged);
    this.openMask = openMask(options);
    this.timeout = timeoutSeconds(config.options.cache);
    this.#epoch = this.session.epoch;
  }

  begin(): void {
    this.session.begin();
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
    // Without a whole header there is nobody to answer; and zeros in the place of memory that is gone must not be written to a file.
    if (copied < HEADER || memory.lost) return requests.kind[slot] = 0;
    const len = in32[LEN];
    const opcode = in32[OPCODE];
    let op = this.#operations[opcode];
    // A guest that turns another request into a wait for a lock, on its way here, would have all helpers wait.
    if (this.isHelper && op?.waits === "lock" && !this.host.inLocks) op = refused;
    requests.kind[slot] = op === undefined ? 0 : opcode;
    if (requests.writableBytes[slot] < OUT_HEADER && !op?.noReply) return requests.kind[slot] = 0;
    this.#note(slot);
    this.#waits[slot] = 0;
    if (op === undefined) return this.reply(slot, -ENOSYS);
    if (len < HEADER + op.argBytes || len > total) return this.reply(slot, -EINVAL);
    if (copied < len && !op.data) {
      // Names and values behind the first bytes.
      if (len > IN_BYTES) return this.reply(slot, -E2BIG);
      requests.copyIn(slot, memory, len, copied);
      if (memory.lost) return 0;
    }
    // What a loop has handed over was let in there.
    if (this.session.state !== STATE_RUNNING && !op.always && !this.isHelper) {
      return op.noReply ? 0 : this.reply(slot, -EIO);
    }
    // Read behind the state: who made it running has raised the epoch before.
    if (this.#epoch !== this.session.epoch) this.#forgetEpoch();
    const way = this.#ways[opcode];
    if (way !== ON_LOOP && this.#goesAway(way)) return this.#sendAway(slot, way === AWAY_LOCK);
    this.len = len;
    this.node = this.nodes.find(in32[NODEID], in32[NODEID + 1]);
    if (this.node === 0 && op.needsNode) return op.noReply ? 0 : this.reply(slot, -ENOENT);
    let result: number;
    try {
      result = op.handler(this, slot);
    } catch (fault) {
      result = this.#faulted(op.name, slot, fault as Error);
    }
    if (this.files.opened) this.files.close();
    if (way !== ON_LOOP) this.#metadata.after();
    if (result === DATA) return this.#replyData(slot, this.dataBytes);
    if (result === LATER) return PENDING;
    if (result === ELSEWHERE) return this.#sendAway(slot, false);
    return result === NO_REPLY ? 0 : this.reply(slot, result);
  }

  /**
   * A request that a daemon before this one had taken: it may be done already, and then CREATE would say EEXIST, UNLINK ENOENT, and a
   * WRITE that appends would append twice; and its nodes and handles were that daemon's. So it is answered EIO and not done, unless it
   * is INIT, which begins anew in any case.
   */
  again(slot: number): number {
    const { requests } = this;
    const copied = requests.copyIn(slot, this.device.memory, HEADER);
    if (copied >= HEADER && requests.in32[OPCODE] === FUSE_INIT) return this.handle(slot);
    return this.#fail(slot, copied);
  }

  /** The O_PATH descriptor of a node, or -errno. It may be gone when the handler has returned. */
  nodeFd(slot: number): number {
    const file = this.files.held(slot);
    return file < 0 ? file : fdOf(file);
  }

  /** Whether a request is a helper's: always, or as things are. */
  #goesAway(way: number): boolean {
    if (way === AWAY || way === AWAY_LOCK) return true;
    if (this.#metadata.throttled || (way === WHEN_QUIET && !this.loop.quiet)) return true;
    this.#metadata.before();
    return false;
  }

  /** Has a helper serve the request of a slot. It reads and checks it anew. */
  #sendAway(slot: number, lock: boolean): number {
    this.#waits[slot] = lock ? WAITS_AWAY_LOCK : WAITS_AWAY;
    this.loop.calls.serve(slot, this.device.id, this.requests.chains.addr, lock);
    return PENDING;
  }

  /** A fault of our own costs the guest that one request, and leaves the thread as it should be. */
  #faulted(operation: string, slot: number, fault: Error): number {
    this.credentials.takeOff();
    this.credentials.keepBits();
    // The ring may have it already: the loop ends that, and all else that it has in flight.
    if (this.#waits[slot] !== 0) {
      this.files.close();
      throw fault;
    }
    this.#faults++;
    // Powers of two: a guest that knows how to cause it cannot flood the log.
    if ((this.#faults & (this.#faults - 1)) === 0) {
      const reason = fault.stack ?? fault;
      this.log.error(
        `${operation} met a fault of ringfsd's own (${this.#faults} so far), please report it: ${reason}`,
      );
    }
    return -EIO;
  }

  complete(slot: number, result: number): number {
    const waits = this.#waits[slot];
    this.#waits[slot] = 0;
    if (waits >= WAITS_AWAY) return result < 0 ? this.reply(slot, result) : result;
    if (waits >= WAITS_PLAIN) this.#closeCopies(slot);
    if (waits === WAITS_SPARE) this.loop.spare.give();
    if (result < 0) return this.reply(slot, result === -ECANCELED ? -EINTR : result);
    if (waits === WAITS_READ || waits === WAITS_SPARE) return this.#replyData(slot, result);
    if (waits === WAITS_WRITE || waits === WAITS_COPY || waits === WAITS_COPY_64) {
      const { out32 } = this.requests;
      out32[OUT_HEADER >> 2] = result;
      out32[(OUT_HEADER >> 2) + 1] = 0;
      return this.reply(slot, fuse_write_out.sizeof);
    }
    return this.reply(slot, 0);
  }

  bell(): void {
    this.session.takeInterrupts((lo, hi) => this.interrupt(lo, hi));
    if (this.#waiter < 0) {
      if (this.session.state === STATE_DRAINING) this.#endLockWaits();
      return;
    }
    if (!this.#alone) return;
    const slot = this.#waiter;
    this.#waiter = -1;
    this.device.waiting = false;
    this.loop.finish(slot, this.reply(slot, this.#whenAlone!(slot)));
  }

  reset(): void {
    this.forgetAll();
    this.session.close();
  }

  /** Nodes and handles were forgotten by another loop, and slots that this one kept with them. */
  #forgetEpoch(): void {
    this.#epoch = this.session.epoch;
    this.nodes.forgetFree();
    this.handles.forgetFree();
  }

  /**
   * Forgets all nodes and closes all handles. No other loop has requests in flight, and none takes any up before the caller has
   * set the session's state.
   */
  forgetAll(): void {
    this.handles.clear(closeNow);
    this.locks.clear(closeNow);
    this.nodes.clear(closeNow);
    this.mounts.clear(closeNow);
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
    // A wait for a lock may have no end, and this session will not see it. Other loops look when their bells ring.
    this.#endLockWaits();
    for (let loop = 0; loop < this.config.loops; loop++) {
      if (loop !== this.loop.index) signal(this.bellFds[loop]);
    }
    return LATER;
  }

  #endLockWaits(): void {
    for (let slot = 0; slot < SLOTS; slot++) {
      const waits = this.#isMine(slot) ? this.#waits[slot] : 0;
      if (waits === WAITS_LOCK || waits === WAITS_AWAY_LOCK) this.loop.cancelCall(slot);
    }
  }

  /** Whether a slot has a request of this device, and not of another that the loop serves. */
  #isMine(slot: number): boolean {
    return this.requests.queue[slot]?.device === this.device;
  }

  get #alone(): boolean {
    return this.device.inFlight === 1 && this.session.othersIdle;
  }

  /** Says what the completion of the slot's ring operation means. Returns what its handler returns. */
  later(slot: number, waits: number): number {
    this.#waits[slot] = waits;
    return LATER;
  }

  /**
   * The same for an operation of which another thread looks up the descriptors, a helper or a worker of the ring, and so at a time when
   * the guest may have closed the file and the number may stand for another: it works on duplicates, closed when it is done (-1: none).
   */
  laterOn(slot: number, waits: number, fd: number, fd2: number): number {
    this.#copies[slot * 2] = fd;
    this.#copies[slot * 2 + 1] = fd2;
    return this.later(slot, waits);
  }

  /** The same for a read that a worker makes on a processor which `loop.spare` gave, at once. */
  laterAside(slot: number, copy: number): number {
    const later = this.laterOn(slot, WAITS_SPARE, copy, -1);
    this.loop.submit();
    return later;
  }

  #closeCopies(slot: number): void {
    for (let i = slot * 2; i < slot * 2 + 2; i++) {
      if (this.#copies[i] >= 0) libc.close(this.#copies[i]);
      this.#copies[i] = -1;
    }
  }

  /** Ends what a slot waits for, where that can be. It then answers EINTR. */
  cancel(slot: number): void {
    const waits = this.#waits[slot];
    if (waits >= WAITS_LOCK && waits !== WAITS_SPARE) this.loop.cancelCall(slot);
    else if (waits > 0) this.loop.cancel(slot);
  }

  stopping(slot: number, gone: boolean): void {
    const waits = this.#waits[slot];
    // Others end by themselves.
    if (gone || waits === WAITS_LOCK || waits === WAITS_AWAY_LOCK) this.cancel(slot);
  }

  abandon(slot: number): number {
    this.#closeCopies(slot);
    this.#waits[slot] = 0;
    if (slot === this.#waiter) {
      // INIT or DESTROY: nobody else is let in before the session has a state again. The next INIT forgets what is left.
      this.#waiter = -1;
      this.session.close();
    }
    // What was noted of the slot may be the request's before.
    return this.#fail(slot, this.requests.copyIn(slot, this.device.memory, HEADER));
  }

  /** Answers EIO to a request that is not done, by its header, of which so many bytes were copied. */
  #fail(slot: number, copied: number): number {
    const { requests } = this;
    const opcode = requests.in32[OPCODE];
    const op = copied < HEADER ? undefined : this.#operations[opcode];
    requests.kind[slot] = op === undefined ? 0 : opcode;
    if (copied < HEADER || op?.noReply) return 0;
    this.#note(slot);
    return this.reply(slot, -EIO);
  }

  /** Keeps what the reply, INTERRUPT and those who look at requests in flight want of the header that was copied. */
  #note(slot: number): void {
    const { in32 } = this.requests;
    const notes = slot * NOTES;
    this.#notes[notes] = in32[UNIQUE];
    this.#notes[notes + 1] = in32[UNIQUE + 1];
    this.#notes[notes + 2] = in32[NODEID];
    this.#notes[notes + 3] = in32[NODEID + 1];
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
    if (result < 0) requests.error[slot] = -result;
    out32[0] = len;
    // EFAULT: the front end has truncated the memory that data were to go to, or to come from.
    out32[1] = result >= 0 ? 0 : result === -EFAULT ? -EIO : result;
    out32[2] = this.#notes[slot * NOTES];
    out32[3] = this.#notes[slot * NOTES + 1];
    requests.copyOut(slot, this.device.memory, len);
    return len;
  }

  /** Sends the header of a reply whose data the kernel has put into guest memory already. */
  #replyData(slot: number, bytes: number): number {
    const { out32 } = this.requests;
    out32[0] = OUT_HEADER + bytes;
    out32[1] = 0;
    out32[2] = this.#notes[slot * NOTES];
    out32[3] = this.#notes[slot * NOTES + 1];
    this.requests.copyOut(slot, this.device.memory, OUT_HEADER);
    return OUT_HEADER + bytes;
  }

  /** Cancels the request of that unique, where it waits on this loop. False where it does not. */
  interrupt(lo: number, hi: number): boolean {
    for (let slot = 0; slot < SLOTS; slot++) {
      const notes = slot * NOTES;
      if (this.#waits[slot] === 0 || this.#notes[notes] !== lo || this.#notes[notes + 1] !== hi) continue;
      if (this.#isMine(slot)) {
        this.cancel(slot);
        return true;
      }
    }
    return false;
  }

  /** Has the other loops do so. */
  interruptElsewhere(lo: number, hi: number): void {
    for (let loop = 0; loop < this.config.loops; loop++) {
      if (loop !== this.loop.index && this.session.postInterrupt(loop, lo, hi)) signal(this.bellFds[loop]);
    }
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
    return this.view(at);
  }

  /** The request from a byte on. */
  view(at: number): Uint8Array<ArrayBuffer> {
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
