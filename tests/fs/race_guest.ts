/**
 * A guest that is never at rest, for races.test.ts: it keeps requests of every kind in flight on all queues while its control plane
 * stops, moves, resets and hangs up, and accounts for each of them. A request is answered once, by a reply that says what the
 * model of the files, nodes and locks says; or, behind the place where the queue was stopped, its buffers were never touched.
 */
import assert from "node:assert/strict";
import { type Descriptor, Virtqueue } from "../../bench/driver.ts";
import { Frontend } from "../../bench/frontend.ts";
import { DEFAULT_INIT_FLAGS } from "../../bench/fuse_client.ts";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { GuestMemory } from "../../bench/guest_memory.ts";
import * as wire from "../../bench/vhost_wire.ts";
import { EBADF, EBUSY, EINTR, EIO, ENOENT } from "../../ffi/errno.ts";
import { createEventfd, drain } from "../../ffi/eventfd.ts";
import { libc } from "../../ffi/libc.ts";
import { F_UNLCK, F_WRLCK } from "../../ffi/stat_layout.ts";
import type { GuestAddr } from "../../vq/device.ts";
import { random } from "./random.ts";

const { VHOST_USER } = wire;
const PROTOCOL_FEATURES = wire.PROTOCOL_F_MQ | wire.PROTOCOL_F_REPLY_ACK | wire.PROTOCOL_F_RESET_DEVICE |
  wire.PROTOCOL_F_CONFIGURE_MEM_SLOTS | wire.PROTOCOL_F_INFLIGHT_SHMFD;
const DEADLINE_MS = 10_000;
const ROOT = 1n;

/** Files whose blocks are written and read; files that are looked up and forgotten, each holding its own name. */
export const FILES = 3;
const BLOCKS = 16;
const BLOCK = 4096;
export const NAMES = 48;

/** A slot of guest memory: arguments, data, reply, indirect table. */
const SLOT_BYTES = 16384;
const DATA_AT = 4096, REPLY_AT = 8192, TABLE_AT = 15360;
const REPLY_BYTES = 6144;
const HEADER_IN = 40, HEADER_OUT = 16;
/** What a reply's buffer holds before the reply, and memory that was given up. */
const POISON = 0xa5a5a5a5, CANARY = 0x5ac3_0ff5;

/** Guest memory: the rings' region, one that is replaced, and one that comes and goes. */
const RINGS = 0, REPLACED = 1, ADDED = 2;
const REGION_AT = [0x10_0000, 0x200_0000, 0x400_0000];
const REGION_SLOTS = [24, 24, 8];
const REGION_BYTES = [(1 << 19) + 24 * SLOT_BYTES, 24 * SLOT_BYTES, 8 * SLOT_BYTES];
const QUEUE_SIZE = 128;
const MOST_ON_QUEUE = 20;
/** Pieces of memory given up that are still looked at. */
const GRAVES = 6;

interface Slot {
  region: number;
  at: number;
}

interface Sent {
  opcode: number;
  unique: number;
  queue: Virtqueue;
  head: number;
  /** The place in the available ring. */
  position: number;
  slot: Slot;
  noReply: boolean;
  room: number;
  /** The session in which it was sent, and whether INIT, DESTROY or a reset came while it was in flight. */
  session: number;
  unsettled: boolean;
  /** It may be told EINTR if it waits for a lock; `gone`: whatever it is, for the guest hangs up or is reset. */
  interrupted: boolean;
  gone: boolean;
  /** Its memory is being exchanged: the reply comes in one of the two. */
  former?: GuestMemory;
  /** Its memory was taken away: it may be malformed by now. */
  homeless?: boolean;
  done: (error: number, data: DataView<ArrayBuffer>) => void;
  lost: () => void;
}

interface Block {
  value: number;
  readers: number;
  writing: boolean;
}

interface Node {
  name: number;
  lookups: number;
  users: number;
}

export class Guest {
  readonly next: (below: number) => number;
  frontend!: Frontend;
  queues: Virtqueue[] = [];
  readonly inFlight: Map<number, Sent>[] = [];
  /** Requests answered, given up untouched, and control messages: what a test says it has done. */
  readonly counts = { answered: 0, lost: 0, interrupted: 0, refused: 0, moved: 0 };
  /** What was done last. */
  readonly history: string[] = [];
  /** Requests in flight are kept in an area, whose descriptor the daemon has. */
  tracked = false;

  #memory: GuestMemory[] = [];
  #added = false;
  /** A region whose slots are not used for new requests: it is being changed. */
  #blocked = -1;
  #free: Slot[][] = [[], [], []];
  /** Indices of queues that the daemon must not touch, with their used index. */
  readonly #still = new Map<number, number>();
  /** Memory that was given up. */
  #graves: { words: Uint32Array; close: () => void; what: string }[] = [];
  #unique = 0;
  #session = 0;
  /** INIT, DESTROY or a reset is going on. */
  #turmoil = false;
  #gone = false;
  /** A control message is being answered: waits for locks may end. */
  #changing = false;
  #ready = false;

  // The model.
  readonly #blocks: Block[][];
  readonly #inodes: bigint[] = [];
  #files: { node: bigint; fh: bigint }[] = [];
  /** One for each queue: a client reads an open directory from one place at a time. */
  #dirs: bigint[] = [];
  /** Those that are being read. */
  readonly #reading = new Set<number>();
  #nodes = new Map<bigint, Node>();
  #lock = { node: 0n, fh: 0n, holder: 0, owners: 0, waiting: new Set<Sent>() };
  #created = 0;

  /** `files` holds the host's view of the share: what this guest and those before it have written. */
  constructor(readonly socketPath: string, readonly share: string, readonly seed: number, readonly requestQueues = 2) {
    this.next = random(seed);
    this.#blocks = Array.from({ length: FILES }, () => {
      return Array.from({ length: BLOCKS }, () => ({ value: 0, readers: 0, writing: false }));
    });
    for (let i = 0; i < NAMES; i++) this.#inodes.push(BigInt(Deno.statSync(`${share}/n${i}`).ino!));
  }

  /** Makes the files that a guest works with. */
  static prepare(share: string): void {
    for (let f = 0; f < FILES; f++) {
      const whole = new Uint32Array(BLOCKS * BLOCK / 4);
      for (let b = 0; b < BLOCKS; b++) fillBlock(whole.subarray(b * BLOCK / 4, (b + 1) * BLOCK / 4), f, b, 0);
      Deno.writeFileSync(`${share}/file${f}`, new Uint8Array(whole.buffer));
    }
    for (let i = 0; i < NAMES; i++) Deno.writeTextFileSync(`${share}/n${i}`, `n${i}`);
    Deno.writeTextFileSync(`${share}/lock`, "");
  }

  // --- connecting

  /** Connects and begins a session. `frontend`: one that is connected already. `added`: with the region that comes and goes. */
  connect(frontend: Frontend = Frontend.connect(this.socketPath), added = this.next(2) === 0): void {
    this.frontend = frontend;
    this.#memory = [RINGS, REPLACED, ADDED].map((region) => this.#makeMemory(region));
    this.#added = added;
    this.#free = this.#memory.map((memory, region) => this.#makeSlots(memory, region));
    frontend.negotiate({ protocolFeatures: PROTOCOL_FEATURES });
    // Some have their requests in flight kept.
    this.tracked = this.next(2) === 0;
    if (this.tracked) {
      const area = frontend.getInflight(1 + this.requestQueues, QUEUE_SIZE);
      frontend.setInflight(area);
      libc.close(area.fd);
    }
    frontend.setMemory(this.#table);
    const base = this.next(4) === 0 ? 0xffff - this.next(64) : this.next(0x10000);
    this.queues = [];
    for (let i = 0; i <= this.requestQueues; i++) {
      this.inFlight[i] = new Map();
      this.queues.push(frontend.addQueue(this.#memory[RINGS], i, { size: QUEUE_SIZE, base }));
    }
    this.#still.clear();
    this.init();
  }

  #makeMemory(region: number): GuestMemory {
    return GuestMemory.create([{ guestAddr: REGION_AT[region], size: REGION_BYTES[region] }]);
  }

  #makeSlots(memory: GuestMemory, region: number): Slot[] {
    return Array.from({ length: REGION_SLOTS[region] }, () => ({ region, at: memory.allocate(SLOT_BYTES, 4096) }));
  }

  get #table() {
    return this.#memory.slice(0, this.#added ? 3 : 2).map((memory) => memory.regions[0]);
  }

  /** Hangs up with requests in flight; `early` connects the next front end before. The daemon must be done with it all at its first reply. */
  reconnect(early: boolean, added?: boolean): void {
    const next = early ? Frontend.connect(this.socketPath) : null;
    this.pump();
    const old = this.frontend;
    // Eventfds stay until the rings were looked at.
    libc.close(old.fd);
    const frontend = next ?? Frontend.connect(this.socketPath);
    frontend.getFeatures();
    this.#unsettle(true);
    this.#forgetSession();
    for (const queue of this.queues) this.#settleQueue(queue);
    this.#loseAll();
    this.#still.clear();
    for (const queue of this.queues) queue.close();
    for (const memory of this.#memory) this.#bury(memory, "memory of a guest that hung up");
    this.connect(frontend, added);
  }

  /** Hangs up for good, with nothing in flight. */
  close(): void {
    this.settle();
    this.checkStill();
    this.frontend.close();
    for (const memory of this.#memory) memory.close();
    for (const grave of this.#graves.splice(0)) grave.close();
  }

  // --- memory that the daemon must not write to

  #bury(memory: GuestMemory, what: string): void {
    const words = new Uint32Array(memory.regions[0].buffer);
    words.fill(CANARY);
    this.#graves.push({ words, close: () => memory.close(), what });
    if (this.#graves.length > GRAVES) {
      this.checkStill();
      this.#graves.shift()!.close();
    }
  }

  /** Nothing was written where nothing may be: memory given up, rings that are stopped and requests on them. */
  checkStill(): void {
    for (const { words, what } of this.#graves) {
      for (let i = 0; i < words.length; i++) {
        if (words[i] !== CANARY) assert.fail(`${what} was written to at word ${i}`);
      }
    }
    for (const [index, used] of this.#still) {
      assert.equal(this.queues[index].usedIdx, used, `the used index of queue ${index}, which is stopped`);
      for (const sent of this.inFlight[index].values()) this.#checkUntouched(sent);
    }
  }

  #checkUntouched(sent: Sent): void {
    if (sent.former) this.#checkPoison(sent, sent.former);
    this.#checkPoison(sent, this.#memory[sent.slot.region]);
  }

  #checkPoison(sent: Sent, memory: GuestMemory): void {
    const reply = memory.words32((sent.slot.at + REPLY_AT) as GuestAddr, REPLY_BYTES / 4);
    for (let i = 0; i < REPLY_BYTES / 4; i++) {
      if (reply[i] !== POISON) assert.fail(`queue ${sent.queue.index}: the buffer of ${describe(sent)} was written to`);
    }
  }

  #reply({ slot, former }: Sent): Uint32Array<ArrayBuffer> {
    const memory = this.#memory[slot.region];
    const at = (slot.at + REPLY_AT) as GuestAddr;
    const reply = memory.words32(at, REPLY_BYTES / 4);
    if (former === undefined) return reply;
    const other = former.words32(at, REPLY_BYTES / 4);
    assert.ok(reply[0] === POISON || other[0] === POISON, "a reply in memory of before and in that of now");
    return reply[0] === POISON ? other : reply;
  }

  // --- requests

  /** Whether a request may be put on the queue. */
  #hasRoom(index: number): boolean {
    return this.inFlight[index].size < MOST_ON_QUEUE && this.#usable.length > 0;
  }

  /** Free slots, by region. */
  get #usable(): Slot[][] {
    return this.#free.filter((list, region) => {
      return list.length > 0 && region !== this.#blocked && (region !== ADDED || this.#added);
    });
  }

  #takeSlot(): Slot {
    const usable = this.#usable;
    return usable[this.next(usable.length)].pop()!;
  }

  send(
    index: number,
    opcode: number,
    node: bigint,
    args: Uint8Array,
    room: number,
    done: Sent["done"],
    more: { data?: Uint32Array; noReply?: boolean; lost?: () => void } = {},
  ): Sent {
    const { data, noReply = false, lost = () => {} } = more;
    const queue = this.queues[index];
    const slot = this.#takeSlot();
    const memory = this.#memory[slot.region];
    const unique = this.#unique += 2;
    const at = (offset: number) => (slot.at + offset) as GuestAddr;
    const length = HEADER_IN + args.length + (data?.byteLength ?? 0);
    memory.bytes(at(0), HEADER_IN + args.length).set(
      bytes(u32(length, opcode), u64(unique, node), u32(0, 0, 1, 0), args),
    );
    if (data) memory.words32(at(DATA_AT), data.length).set(data);
    memory.words32(at(REPLY_AT), REPLY_BYTES / 4).fill(POISON);
    const chain: { addr: number; len: number; flags: number }[] = [];
    const add = (addr: number, len: number, flags: number) => void (len > 0 && chain.push({ addr, len, flags }));
    add(slot.at, HEADER_IN, 0);
    add(slot.at + HEADER_IN, args.length, 0);
    if (data) add(slot.at + DATA_AT, data.byteLength, 0);
    if (!noReply) {
      const cut = this.next(2) === 0 ? HEADER_OUT : Math.min(room, 4) + HEADER_OUT;
      add(slot.at + REPLY_AT, cut, 2);
      add(slot.at + REPLY_AT + cut, HEADER_OUT + room - cut, 2);
    }
    const head = this.#place(queue, slot, chain);
    const sent: Sent = {
      opcode,
      unique,
      queue,
      head,
      position: queue.nextAvail,
      slot,
      noReply,
      room: noReply ? 0 : HEADER_OUT + room,
      session: this.#session,
      unsettled: this.#turmoil,
      interrupted: this.#turmoil || this.#changing,
      gone: this.#gone,
      done,
      lost,
    };
    this.inFlight[index].set(head, sent);
    queue.offer(head);
    queue.publish();
    queue.kick();
    return sent;
  }

  /** A chain of descriptors, or a table of them in the slot. */
  #place(queue: Virtqueue, slot: Slot, chain: { addr: number; len: number; flags: number }[]): number {
    const linked = (i: number, next: number): Descriptor => {
      const more = i + 1 < chain.length;
      return { ...chain[i], flags: chain[i].flags | (more ? 1 : 0), next: more ? next : 0 };
    };
    if (this.next(2) === 0) {
      const own = queue.takeDescriptors(chain.length);
      own.forEach((d, i) => queue.setDescriptor(d, linked(i, own[i + 1])));
      return own[0];
    }
    const [head] = queue.takeDescriptors(1);
    const table = this.#memory[slot.region].words32((slot.at + TABLE_AT) as GuestAddr, chain.length * 4);
    chain.forEach((_, i) => {
      const { addr, len, flags, next } = linked(i, i + 1);
      table.set([Number(addr), 0, len, flags | next << 16], i * 4);
    });
    queue.setDescriptor(head, { addr: slot.at + TABLE_AT, len: chain.length * 16, flags: 4, next: 0 });
    return head;
  }

  /** Takes what is answered on one queue, and checks it. */
  #reap(queue: Virtqueue): number {
    let taken = 0;
    for (let head = queue.reap(); head >= 0; head = queue.reap()) {
      const sent = this.inFlight[queue.index].get(head);
      if (sent === undefined) assert.fail(`queue ${queue.index}: ${head} was answered, and is not in flight`);
      this.inFlight[queue.index].delete(head);
      queue.free(head);
      taken++;
      this.counts.answered++;
      this.#answered(sent, queue.usedLength);
      this.#free[sent.slot.region].push(sent.slot);
    }
    return taken;
  }

  #answered(sent: Sent, used: number): void {
    const reply = this.#reply(sent);
    // Behind the reply nothing was written.
    for (let i = Math.ceil(used / 4); i < REPLY_BYTES / 4; i++) {
      if (reply[i] !== POISON) assert.fail(`${describe(sent)}: ${used} bytes were said, and word ${i} was written`);
    }
    this.#lock.waiting.delete(sent);
    if (sent.homeless && used === 0) return this.#lose(sent);
    if (sent.noReply) assert.equal(used, 0, `${describe(sent)} has no reply`);
    else {
      const said = { length: reply[0], unique: reply[2] + reply[3] * 2 ** 32 };
      assert.deepEqual(said, { length: used, unique: sent.unique }, `the reply's header to ${describe(sent)}`);
      assert.ok(used >= HEADER_OUT && used <= sent.room, `${describe(sent)}: a reply of ${used} bytes`);
    }
    const error = sent.noReply ? 0 : reply[1] | 0;
    if (error !== 0) this.#checkError(sent, error);
    const data = new DataView(reply.buffer, reply.byteOffset + HEADER_OUT, Math.max(0, used - HEADER_OUT));
    sent.done(error, data);
  }

  #checkError(sent: Sent, error: number): void {
    const mayEnd = sent.gone || (sent.interrupted && sent.opcode === op.FUSE_SETLKW);
    if (error === -EINTR && mayEnd) this.counts.interrupted++;
    else if (sent.unsettled && [-EIO, -EBADF, -ENOENT, -EBUSY].includes(error)) this.counts.refused++;
    else assert.fail(`${describe(sent)} was answered ${error}`);
  }

  #lose(sent: Sent): void {
    this.counts.lost++;
    this.#lock.waiting.delete(sent);
    sent.lost();
  }

  /** Every request that is left is given up: it was never touched. */
  #loseAll(): void {
    for (const [index, map] of this.inFlight.entries()) {
      for (const sent of map.values()) {
        this.#checkUntouched(sent);
        this.#lose(sent);
        this.#free[sent.slot.region].push(sent.slot);
        this.queues[index].free(sent.head);
      }
      map.clear();
    }
  }

  /** Takes what is there on all queues; sends as much again, now and then. */
  pump(): number {
    let taken = 0;
    for (const queue of this.queues) taken += this.#reap(queue);
    if (this.#ready) { for (let i = this.next(4); i > 0; i--) this.#sendSomething(); }
    return taken;
  }

  /** Goes on until `condition` holds. */
  until(condition: () => boolean, what: string, send = true): void {
    const deadline = performance.now() + DEADLINE_MS;
    const ready = this.#ready;
    this.#ready &&= send;
    try {
      for (let idle = 0; !condition();) {
        if (this.pump() > 0) idle = 0;
        else if (++idle > 20) this.#sleep(deadline, 1);
        if (performance.now() > deadline) assert.fail(`${what}: not within ${DEADLINE_MS} ms; ${this.#state()}`);
      }
    } finally {
      this.#ready = ready;
    }
  }

  /** Waits until everything that is in flight is answered: by the call, so that a call too few is a failure. */
  settle(): void {
    const deadline = performance.now() + DEADLINE_MS;
    const ready = this.#ready;
    this.#ready = false;
    while (this.inFlight.some((map) => map.size > 0)) {
      this.#unlock();
      if (this.pump() === 0) this.#sleep(deadline, this.#lock.waiting.size > 0 ? 1 : DEADLINE_MS);
      if (performance.now() > deadline) assert.fail(`settle: not within ${DEADLINE_MS} ms; ${this.#state()}`);
    }
    this.#ready = ready;
  }

  /** Sleeps until a queue calls; VIRTIO 2.7.7: asks for the call, then looks once more. */
  #sleep(deadline: number, timeMs: number): void {
    let arrived = false;
    for (const queue of this.queues) {
      const { avail, size } = queue.state;
      Atomics.store(queue.memory.words16(avail, size + 3), size + 2, queue.lastUsed);
      if (queue.usedIdx !== queue.lastUsed) arrived = true;
    }
    if (arrived) return;
    const list = new Int32Array(this.queues.flatMap((queue) => [queue.state.callFd, 1]));
    const wait = Math.max(1, Math.min(timeMs, deadline - performance.now()));
    const woken = libc.poll(new Uint8Array(list.buffer), this.queues.length, Math.ceil(wait));
    for (const queue of this.queues) {
      if (woken === 0 && timeMs >= DEADLINE_MS && queue.usedIdx !== queue.lastUsed) {
        assert.fail(`queue ${queue.index} has an answer and has not called`);
      }
      drain(queue.state.callFd);
    }
  }

  #state(): string {
    const left = this.inFlight.flatMap((map) =>
      [...map.values()].map((sent) => `${sent.queue.index}:${describe(sent)}`)
    );
    return `in flight: ${left.join(", ")}`;
  }

  /** One request and its reply, while the others go on. */
  call(index: number, opcode: number, node: bigint, args: Uint8Array, room: number): { error: number; data: DataView } {
    this.until(() => this.#hasRoom(index), `room on queue ${index}`, false);
    let result: { error: number; data: DataView } | null = null;
    this.send(index, opcode, node, args, room, (error, data) => {
      result = { error, data: new DataView(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength)) };
    });
    this.until(() => result !== null, `an answer to opcode ${opcode} on queue ${index}`);
    return result!;
  }

  // --- the session

  #forgetSession(): void {
    this.#session++;
    this.#ready = false;
    this.#files = [];
    this.#nodes = new Map();
    this.#lock = { node: 0n, fh: 0n, holder: 0, owners: 0, waiting: this.#lock.waiting };
  }

  #unsettle(gone = false): void {
    this.#turmoil = true;
    this.#gone = gone;
    for (const map of this.inFlight) {
      for (const sent of map.values()) {
        sent.unsettled = sent.interrupted = true;
        sent.gone ||= gone;
      }
    }
  }

  get #anyQueue(): number {
    return 1 + this.next(this.requestQueues);
  }

  /** INIT, with or without a DESTROY before it, with requests in flight; then what a session needs. */
  init(): void {
    this.#unsettle();
    for (;;) {
      const { error } = this.call(this.#anyQueue, op.FUSE_INIT, 0n, initArguments(), 64);
      if (error === 0) break;
      assert.equal(error, -EBUSY, "INIT");
    }
    this.#forgetSession();
    this.#turmoil = false;
    const lookup = (name: string) => {
      const { error, data } = this.call(this.#anyQueue, op.FUSE_LOOKUP, ROOT, names(name), 128);
      assert.equal(error, 0, name);
      return data.getBigUint64(0, true);
    };
    const open = (node: bigint) => {
      const { error, data } = this.call(this.#anyQueue, op.FUSE_OPEN, node, u32(2, 0), 16);
      assert.equal(error, 0, "OPEN");
      return data.getBigUint64(0, true);
    };
    for (let f = 0; f < FILES; f++) {
      const node = lookup(`file${f}`);
      this.#files.push({ node, fh: open(node) });
    }
    this.#lock.node = lookup("lock");
    this.#lock.fh = open(this.#lock.node);
    for (const { index } of this.queues) {
      this.#dirs[index] = this.call(this.#anyQueue, op.FUSE_OPENDIR, ROOT, u32(0, 0), 16).data.getBigUint64(0, true);
    }
    this.#ready = true;
  }

  destroy(): void {
    this.#unsettle();
    const { error } = this.call(this.#anyQueue, op.FUSE_DESTROY, 0n, bytes(), 0);
    assert.equal(error, 0, "DESTROY");
  }

  /** INITs and DESTROYs on all queues at once. */
  crowd(): void {
    this.#unsettle();
    const index = this.#anyQueue;
    let left = 4;
    for (let i = 0; i < 4; i++) {
      const init = this.next(2) === 0;
      const on = 1 + (index + i) % this.requestQueues;
      this.until(() => this.#hasRoom(on), "room", false);
      this.send(on, init ? op.FUSE_INIT : op.FUSE_DESTROY, 0n, init ? initArguments() : bytes(), 64, () => void left--);
    }
    this.until(() => left === 0, "answers to INITs and DESTROYs at once");
  }

  // --- control messages, with requests going on

  /** Sends a message and goes on with requests until it is answered. */
  #control(request: number, payload: Uint8Array, fds: readonly number[] = [], reply = false): Uint8Array {
    const { frontend } = this;
    const pollfd = new Uint8Array(new Int32Array([frontend.fd, 1]).buffer);
    this.#changing = true;
    for (const map of this.inFlight) for (const sent of map.values()) sent.interrupted = true;
    frontend.send(request, payload, fds, wire.FLAG_VERSION | (reply ? 0 : wire.FLAG_NEED_REPLY));
    this.until(() => libc.poll(pollfd, 1, 0) > 0, wire.requestName(request));
    const message = frontend.receiveMessage();
    this.#changing = false;
    assert.ok(message, `${wire.requestName(request)}: the daemon hung up`);
    assert.equal(message.request, request);
    if (!reply) assert.deepEqual([...message.payload], [0, 0, 0, 0, 0, 0, 0, 0], wire.requestName(request));
    return message.payload;
  }

  /** A queue was stopped: what was taken from it is answered, and the rest is as it was. Returns the next available index. */
  #settleQueue(queue: Virtqueue): number {
    const { index } = queue;
    const ready = this.#ready;
    this.#ready = false;
    this.#reap(queue);
    this.#ready = ready;
    const base = queue.lastUsed;
    for (const sent of this.inFlight[index].values()) {
      assert.ok(((sent.position - base) & 0xffff) < QUEUE_SIZE, `${describe(sent)} was taken and not answered`);
    }
    assert.equal((queue.nextAvail - base) & 0xffff, this.inFlight[index].size, `requests left on queue ${index}`);
    this.#still.set(index, base);
    return base;
  }

  /** GET_VRING_BASE of some queues, and their start from there. */
  stop(indices: number[]): void {
    for (const index of indices) {
      const payload = this.#control(VHOST_USER.GET_VRING_BASE, wire.words32(index, 0), [], true);
      const base = new DataView(payload.buffer, payload.byteOffset).getUint32(4, true);
      assert.equal(base, this.#settleQueue(this.queues[index]), `the base of queue ${index}`);
    }
    for (let i = this.next(30); i > 0; i--) this.pump();
    this.checkStill();
    for (const index of indices) {
      const queue = this.queues[index];
      const base = this.#still.get(index)!;
      this.#still.delete(index);
      this.frontend.startQueue(queue, { base });
    }
  }

  /** SET_VRING_ENABLE 0 and 1, or RESET_OWNER, which disables all. */
  disable(index: number, all: boolean): void {
    const indices = all ? this.queues.map((queue) => queue.index) : [index];
    if (all) this.#control(VHOST_USER.RESET_OWNER, new Uint8Array(0));
    else this.#control(VHOST_USER.SET_VRING_ENABLE, wire.words32(index, 0));
    for (const each of indices) this.#settleQueue(this.queues[each]);
    for (let i = this.next(30); i > 0; i--) this.pump();
    this.checkStill();
    for (const each of indices) {
      this.#still.delete(each);
      this.#control(VHOST_USER.SET_VRING_ENABLE, wire.words32(each, 1));
    }
  }

  /** Other eventfds. */
  swap(kind: "KICK" | "CALL" | "ERR", index: number): void {
    const queue = this.queues[index];
    const fd = kind === "ERR" && this.next(3) === 0 ? -1 : createEventfd();
    const noFd = fd < 0 ? wire.VRING_NOFD : 0n;
    this.#control(VHOST_USER[`SET_VRING_${kind}`], wire.words64(BigInt(index) | noFd), fd < 0 ? [] : [fd]);
    if (kind === "ERR") return void (fd >= 0 && libc.close(fd));
    const which = kind === "KICK" ? "kickFd" : "callFd";
    const state = queue.state as { kickFd: number; callFd: number };
    libc.close(state[which]);
    state[which] = fd;
    // Kicks of meanwhile went to the old one.
    if (kind === "KICK") queue.kick(true);
  }

  /** SET_MEM_TABLE: the same regions, one more or one less, or one replaced. */
  remap(how: "same" | "more" | "replaced"): void {
    this.counts.moved++;
    if (how === "more") {
      this.#blocked = ADDED;
      this.#added = !this.#added;
      if (!this.#added) this.#eachIn(ADDED, (sent) => sent.homeless = true);
    }
    const old = this.#memory[REPLACED];
    if (how === "replaced") this.#replace(old);
    const table = this.#table;
    this.#control(VHOST_USER.SET_MEM_TABLE, wire.memoryTable(table), table.map((each) => each.fd));
    this.#blocked = -1;
    if (how !== "replaced") return;
    // What was answered before the exchange is in the used rings now. All else is answered in the new memory.
    const ready = this.#ready;
    this.#ready = false;
    this.pump();
    this.#ready = ready;
    this.#eachIn(REPLACED, (sent) => {
      if (sent.former) this.#checkPoison(sent, old);
      sent.former = undefined;
    });
    this.#bury(old, "memory that was replaced");
  }

  #eachIn(region: number, action: (sent: Sent) => void): void {
    for (const map of this.inFlight) {
      for (const sent of map.values()) if (sent.slot.region === region) action(sent);
    }
  }

  /** New memory with what the old one holds; but replies that come from now on are in one of them. */
  #replace(old: GuestMemory): void {
    this.#blocked = REPLACED;
    const memory = this.#memory[REPLACED] = this.#makeMemory(REPLACED);
    new Uint8Array(memory.regions[0].buffer).set(new Uint8Array(old.regions[0].buffer));
    this.#eachIn(REPLACED, (sent) => {
      memory.words32((sent.slot.at + REPLY_AT) as GuestAddr, REPLY_BYTES / 4).fill(POISON);
      sent.former = old;
    });
  }

  /** RESET_DEVICE: all queues are down and the session is gone; what was not taken never will be. */
  reset(): void {
    const { frontend } = this;
    this.#unsettle(true);
    this.#control(VHOST_USER.RESET_DEVICE, new Uint8Array(0));
    this.#forgetSession();
    for (const queue of this.queues) this.#settleQueue(queue);
    this.checkStill();
    this.#loseAll();
    this.#still.clear();
    frontend.setFeatures(frontend.features);
    this.#restartRings();
    this.init();
  }

  /** The rings of a driver that has dropped what it had offered. */
  #restartRings(): void {
    this.queues = this.queues.map((queue) => {
      const memory = this.#memory[RINGS];
      const base = this.next(0x10000);
      const { size, avail, used } = queue.state;
      memory.words16(avail, 2)[1] = base;
      memory.words16(used, 2)[1] = base;
      memory.words16(avail, size + 3)[size + 2] = base;
      memory.words16(used, size * 4 + 3)[size * 4 + 2] = base;
      const again = new Virtqueue(memory, { ...queue.state, nextAvail: base, lastUsed: base });
      this.frontend.queues[queue.index] = again;
      this.frontend.startQueue(again, { base });
      return again;
    });
  }

  // --- requests of every kind

  #sendSomething(): void {
    const index = this.next(8) === 0 ? 0 : this.#anyQueue;
    if (!this.#hasRoom(index)) return;
    switch (this.next(16)) {
      case 0:
      case 1:
      case 2:
        return this.#read(index);
      case 3:
      case 4:
        return this.#write(index);
      case 5:
        return this.#getattr(index);
      case 6:
      case 7:
        return this.#lookup(index);
      case 8:
      case 9:
        return this.#forget();
      case 10:
        return this.#open(index);
      case 11:
        return this.#plain(index, op.FUSE_FSYNC, this.#file.node, bytes(u64(this.#file.fh), u32(0, 0)), 0);
      case 12:
        return this.#readdir(index);
      case 13:
        return this.next(2) === 0 ? this.#setLock(index) : this.#unlock();
      case 14:
        return this.next(2) === 0 ? this.#interruptLock() : this.#plain(index, op.FUSE_STATFS, ROOT, bytes(), 80);
      case 15:
        return this.#create(index);
    }
  }

  get #file(): { node: bigint; fh: bigint } {
    return this.#files[this.next(FILES)];
  }

  #plain(index: number, opcode: number, node: bigint, args: Uint8Array, room: number): void {
    this.send(index, opcode, node, args, room, () => {});
  }

  #read(index: number): void {
    const f = this.next(FILES), b = this.next(BLOCKS);
    const block = this.#blocks[f][b];
    if (block.writing) return;
    block.readers++;
    const { node, fh } = this.#files[f];
    const args = bytes(u64(fh, b * BLOCK), u32(BLOCK, 0), u64(0), u32(0, 0));
    this.send(index, op.FUSE_READ, node, args, BLOCK, (error, data) => {
      block.readers--;
      if (error !== 0) return;
      assert.equal(data.byteLength, BLOCK, "bytes read");
      checkBlock(new Uint32Array(data.buffer, data.byteOffset, BLOCK / 4), f, b, block.value);
    }, { lost: () => void block.readers-- });
  }

  #write(index: number): void {
    const f = this.next(FILES), b = this.next(BLOCKS);
    const block = this.#blocks[f][b];
    if (block.writing || block.readers > 0) return;
    block.writing = true;
    const value = block.value + 1;
    const data = new Uint32Array(BLOCK / 4);
    fillBlock(data, f, b, value);
    const { node, fh } = this.#files[f];
    const args = bytes(u64(fh, b * BLOCK), u32(BLOCK, 0), u64(0), u32(0, 0));
    this.send(index, op.FUSE_WRITE, node, args, 8, (error, reply) => {
      block.writing = false;
      if (error !== 0) return;
      assert.equal(reply.getUint32(0, true), BLOCK, "bytes written");
      block.value = value;
    }, { data, lost: () => void (block.writing = false) });
  }

  get #node(): [bigint, Node] | null {
    if (this.#nodes.size === 0) return null;
    let skip = this.next(Math.min(8, this.#nodes.size));
    for (const entry of this.#nodes) if (skip-- === 0) return entry;
    return null;
  }

  #getattr(index: number): void {
    const found = this.#node;
    if (found === null) return;
    const [id, node] = found;
    node.users++;
    this.send(index, op.FUSE_GETATTR, id, bytes(u32(0, 0), u64(0)), 104, (error, data) => {
      node.users--;
      if (error === 0) assert.equal(data.getBigUint64(16, true), this.#inodes[node.name], `inode of n${node.name}`);
    }, { lost: () => void node.users-- });
  }

  #lookup(index: number): void {
    const name = this.next(NAMES);
    const session = this.#session;
    this.send(index, op.FUSE_LOOKUP, ROOT, names(`n${name}`), 128, (error, data) => {
      if (error !== 0) return;
      assert.equal(data.getBigUint64(40, true), this.#inodes[name], `inode of n${name}`);
      // In a session that came meanwhile it is a node that we do not keep.
      if (session !== this.#session) return;
      const id = data.getBigUint64(0, true);
      const node = this.#nodes.get(id);
      if (node === undefined) this.#nodes.set(id, { name, lookups: 1, users: 0 });
      else {
        assert.equal(node.name, name, "two files with one nodeid");
        node.lookups++;
      }
    });
  }

  #forget(): void {
    if (!this.#hasRoom(0)) return;
    const found = this.#node;
    if (found === null || found[1].users > 0) return;
    const [id, node] = found;
    const lookups = 1 + this.next(node.lookups);
    node.lookups -= lookups;
    if (node.lookups === 0) this.#nodes.delete(id);
    this.send(0, op.FUSE_FORGET, id, u64(lookups), 0, () => {}, { noReply: true });
  }

  /** OPEN, a READ through the handle, RELEASE: each when the one before is answered, on any queue. */
  #open(index: number): void {
    const found = this.#node;
    if (found === null) return;
    const [id, node] = found;
    const session = this.#session;
    const lost = () => void node.users--;
    const release = (fh: bigint) => {
      this.#sendOn(session, op.FUSE_RELEASE, id, bytes(u64(fh), u32(0, 0), u64(0)), 0, lost, lost);
    };
    node.users++;
    this.send(index, op.FUSE_OPEN, id, u32(0, 0), 16, (error, data) => {
      if (error !== 0) return lost();
      const fh = data.getBigUint64(0, true);
      const args = bytes(u64(fh, 0), u32(64, 0), u64(0), u32(0, 0));
      this.#sendOn(session, op.FUSE_READ, id, args, 64, (failed, text) => {
        if (failed === 0) {
          const read = new TextDecoder().decode(new Uint8Array(text.buffer, text.byteOffset, text.byteLength).slice());
          assert.equal(read, `n${node.name}`, "text behind a handle");
        }
        release(fh);
      }, lost);
    }, { lost });
  }

  /** A request that follows another: not in another session, and dropped where there is no room. */
  #sendOn(
    session: number,
    opcode: number,
    node: bigint,
    args: Uint8Array,
    room: number,
    done: Sent["done"],
    lost: () => void,
  ) {
    const index = this.#anyQueue;
    if (session !== this.#session || !this.#hasRoom(index)) return lost();
    this.send(index, opcode, node, args, room, done, { lost });
  }

  /** One at a time, as Linux does it: it takes the open directory's f_pos_lock for it. */
  #readdir(index: number): void {
    if (this.#reading.has(index)) return;
    this.#reading.add(index);
    const args = bytes(u64(this.#dirs[index], 0), u32(BLOCK, 0), u64(0, 0));
    this.send(index, op.FUSE_READDIR, ROOT, args, BLOCK, (error, data) => {
      this.#reading.delete(index);
      if (error !== 0) return;
      assert.ok(data.byteLength >= 24 && data.byteLength % 8 === 0, `${data.byteLength} bytes of names`);
    }, { lost: () => void this.#reading.delete(index) });
  }

  /** A lock that may have to wait for another owner's. */
  #setLock(index: number): void {
    const lock = this.#lock;
    if (lock.waiting.size >= 3) return;
    const owner = ++lock.owners;
    const session = this.#session;
    const sent = this.send(index, op.FUSE_SETLKW, lock.node, this.#lk(owner, F_WRLCK), 0, (error) => {
      if (error !== 0 || session !== this.#session) return;
      // Of a session that ended meanwhile the locks are gone as well.
      if (!sent.unsettled) assert.equal(lock.holder, 0, `owner ${owner} got the lock that another holds`);
      lock.holder = owner;
    });
    lock.waiting.add(sent);
  }

  #unlock(): void {
    const lock = this.#lock;
    const index = this.#anyQueue;
    if (lock.holder === 0 || this.#still.has(index) || !this.#hasRoom(index)) return;
    const owner = lock.holder;
    lock.holder = 0;
    this.send(index, op.FUSE_SETLK, lock.node, this.#lk(owner, F_UNLCK), 0, () => {}, {
      lost: () => void (lock === this.#lock && (lock.holder = owner)),
    });
  }

  #interruptLock(): void {
    const [sent] = this.#lock.waiting;
    if (sent === undefined || !this.#hasRoom(0)) return;
    sent.interrupted = true;
    this.send(0, op.FUSE_INTERRUPT, 0n, u64(sent.unique), 0, () => {}, { noReply: true });
  }

  #lk(owner: number, type: number): Uint8Array {
    return bytes(u64(this.#lock.fh, owner), u64(0, 0x7fff_ffff_ffff_ffffn), u32(type, 0, 0, 0));
  }

  /** CREATE, then UNLINK, RELEASE and FORGET of it. */
  #create(index: number): void {
    const name = `c${this.seed}-${++this.#created}`;
    const session = this.#session;
    const none = () => {};
    this.send(index, op.FUSE_CREATE, ROOT, bytes(u32(2, 0o100600, 0, 0), names(name)), 144, (error, data) => {
      if (error !== 0) return;
      const node = data.getBigUint64(0, true), fh = data.getBigUint64(128, true);
      this.#sendOn(session, op.FUSE_UNLINK, ROOT, names(name), 0, none, none);
      this.#sendOn(session, op.FUSE_RELEASE, node, bytes(u64(fh), u32(0, 0), u64(0)), 0, () => {
        if (session === this.#session && this.#hasRoom(0)) {
          this.send(0, op.FUSE_FORGET, node, u64(1), 0, none, { noReply: true });
        }
      }, none);
    });
  }

  /** The host's files hold what was answered to be written, and nothing else. */
  checkFiles(): void {
    for (let f = 0; f < FILES; f++) {
      const words = new Uint32Array(Deno.readFileSync(`${this.share}/file${f}`).buffer);
      for (let b = 0; b < BLOCKS; b++) {
        checkBlock(words.subarray(b * BLOCK / 4, (b + 1) * BLOCK / 4), f, b, this.#blocks[f][b].value);
      }
    }
  }
}

function initArguments(): Uint8Array {
  const flags = DEFAULT_INIT_FLAGS | 1n << 1n;
  return bytes(u32(7, 38, 0, Number(flags & 0xffff_ffffn), 0), new Uint8Array(44));
}

function describe(sent: Sent): string {
  return `request ${sent.unique} (opcode ${sent.opcode}, session ${sent.session})`;
}

/** What block `b` of file `f` holds after its write number `value`. */
function word(f: number, b: number, value: number, i: number): number {
  return (Math.imul(value, 0x9e3779b1) ^ (f << 24 | b << 16 | i)) >>> 0;
}

function fillBlock(words: Uint32Array, f: number, b: number, value: number): void {
  for (let i = 0; i < words.length; i++) words[i] = word(f, b, value, i);
}

function checkBlock(words: Uint32Array, f: number, b: number, value: number): void {
  for (let i = 0; i < words.length; i++) {
    if (words[i] !== word(f, b, value, i)) {
      assert.fail(`block ${b} of file ${f} is not that of write ${value}, at word ${i}`);
    }
  }
}
