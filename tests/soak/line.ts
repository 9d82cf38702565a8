/**
 * A guest's line to the daemon for the soak test: a front end with its memory and queues, which counts each request. A request is answered
 * once, by a reply with its number and nothing behind it, or it is given up: then the session was cut off before the daemon took it, and
 * its buffers are as they were.
 */
import assert from "node:assert/strict";
import type { Segment, Virtqueue } from "../../bench/driver.ts";
import { Frontend } from "../../bench/frontend.ts";
import type { Reply } from "../../bench/fuse_client.ts";
import { bytes, u32, u64 } from "../../bench/fuse_encode.ts";
import { FUSE_GETATTR } from "../../bench/fuse_opcodes.ts";
import { GuestMemory } from "../../bench/guest_memory.ts";
import { EBADF, EINTR, EIO, ENOENT } from "../../ffi/errno.ts";
import { libc } from "../../ffi/libc.ts";
import type { GuestAddr } from "../../vq/device.ts";

/** No request may be longer on its way, on a machine with much else to do. */
export const DEADLINE_MS = 30_000;
export const BLOCK = 4096;
/** Blocks of one READ or WRITE, at most. */
export const MOST_BLOCKS = 4;

const SLOTS = 160;
const DATA_AT = 4096, REPLY_AT = DATA_AT + MOST_BLOCKS * BLOCK;
const HEADER_IN = 40, HEADER_OUT = 16;
/** A slot ends with words that no reply may reach. */
const SLOT_BYTES = REPLY_AT + MOST_BLOCKS * BLOCK + 4096;
const POISON = 0xa5a5a5a5;
const QUEUE_SIZE = 256;
const GUEST_AT = 0x10_0000;

/** The session was cut off, and with it the request: it was not carried out. */
export class Gone extends Error {
  override name = "Gone";
}

/** What this side counts; the daemon counts the same (daemon_counts.ts). */
export class Counts {
  connections = 0;
  /** Sessions, by how they ended. */
  readonly endings = new Map<string, number>();
  /** INITs that were answered with 0. */
  mounts = 0;
  submitted = 0;
  answered = 0;
  /** Of these: answered with an error, and with EINTR. */
  failed = 0;
  interrupted = 0;
  /** Cut off before the daemon took them. */
  givenUp = 0;
  /** Answered while the session was being cut off. */
  late = 0;
  readonly byOpcode = new Map<number, number>();

  get sessions(): number {
    return [...this.endings.values()].reduce((sum, count) => sum + count, 0);
  }
}

interface Sent {
  opcode: number;
  unique: number;
  slot: GuestAddr;
  room: number;
  noReply: boolean;
  mayEnd: boolean;
  sinceMs: number;
  resolve: (reply: Reply) => void;
  reject: (error: Error) => void;
}

export interface RequestOptions {
  data?: Uint32Array;
  noReply?: boolean;
  hiprio?: boolean;
  /** An INTERRUPT may follow, so EINTR is an answer. */
  mayEnd?: boolean;
}

export class Line {
  readonly inFlight = new Map<Virtqueue, Map<number, Sent>>();
  /** Takes requests: from the beginning of a session on, when all processes of the one before have seen its end. */
  open = false;

  #queues: Virtqueue[] = [];
  #memory!: GuestMemory;
  #free: GuestAddr[] = [];
  #unique = 0;
  #silent = false;

  constructor(
    readonly frontend: Frontend,
    readonly counts: Counts,
    readonly next: (below: number) => number,
    readonly requestQueues: number,
  ) {
    counts.connections++;
    frontend.negotiate();
    this.#start();
  }

  get queues(): readonly Virtqueue[] {
    return this.#queues;
  }

  /** Rings and buffers of a guest that has just started. */
  #start(): void {
    this.#memory = GuestMemory.create([{ guestAddr: GUEST_AT, size: SLOTS * SLOT_BYTES + (1 << 20) }]);
    this.#free = Array.from({ length: SLOTS }, () => this.#memory.allocate(SLOT_BYTES, 4096));
    this.frontend.setMemory(this.#memory);
    this.#queues = [];
    this.inFlight.clear();
    for (let i = 0; i <= this.requestQueues; i++) {
      // The indices wrap around soon in every fourth session.
      const base = this.next(4) === 0 ? 0xffff - this.next(64) : this.next(0x10000);
      const queue = this.frontend.addQueue(this.#memory, i, { size: QUEUE_SIZE, base });
      this.#queues.push(queue);
      this.inFlight.set(queue, new Map());
    }
  }

  /** Requests in flight. */
  get load(): number {
    let sum = 0;
    for (const map of this.inFlight.values()) sum += map.size;
    return sum;
  }

  /** Sends a request. The promise is rejected with Gone where the session is cut off first. */
  request(opcode: number, node: bigint, args: Uint8Array, room = 0, options: RequestOptions = {}): Promise<Reply> {
    return this.start(opcode, node, args, room, options).reply;
  }

  start(
    opcode: number,
    node: bigint,
    args: Uint8Array,
    room = 0,
    options: RequestOptions = {},
  ): { unique: number; reply: Promise<Reply> } {
    if (!this.open) throw new Gone();
    const { data, noReply = false, hiprio = false, mayEnd = false } = options;
    const slot = this.#free.pop();
    assert.ok(slot !== undefined, "the guest has more requests in flight than slots");
    const memory = this.#memory;
    const unique = this.#unique += 2;
    const at = (offset: number) => (slot + offset) as GuestAddr;
    const head = bytes(
      u32(HEADER_IN + args.length + (data?.byteLength ?? 0), opcode),
      u64(unique, node),
      u32(0, 0, 1, 0),
      args,
    );
    memory.bytes(slot, head.length).set(head);
    if (data) memory.words32(at(DATA_AT), data.length).set(data);
    memory.words32(at(REPLY_AT), (room + HEADER_OUT >> 2) + 8).fill(POISON);
    const chain: Segment[] = [];
    const add = (addr: GuestAddr, len: number, write = false) => void (len > 0 && chain.push({ addr, len, write }));
    add(slot, HEADER_IN);
    add(at(HEADER_IN), args.length);
    if (data) add(at(DATA_AT), data.byteLength);
    if (!noReply) {
      add(at(REPLY_AT), HEADER_OUT, true);
      add(at(REPLY_AT + HEADER_OUT), room, true);
    }
    const queue = this.#queues[hiprio ? 0 : 1 + this.next(this.requestQueues)];
    const index = queue.place(chain, this.next(2) === 0);
    const { promise, resolve, reject } = Promise.withResolvers<Reply>();
    const sinceMs = performance.now();
    const sent: Sent = { opcode, unique, slot, room, noReply, mayEnd, sinceMs, resolve, reject };
    const map = this.inFlight.get(queue)!;
    assert.ok(!map.has(index), "a head in flight twice");
    map.set(index, sent);
    this.counts.submitted++;
    this.counts.byOpcode.set(opcode, (this.counts.byOpcode.get(opcode) ?? 0) + 1);
    queue.offer(index);
    queue.publish();
    if (!this.#silent) queue.kick();
    return { unique, reply: promise };
  }

  /** Offers requests, of which the daemon may or may not learn: the guest's end comes before its kick. */
  offerLast(count: number): void {
    this.#silent = true;
    for (let i = 0; i < count; i++) this.post(FUSE_GETATTR, 1n, bytes(u32(0, 0), u64(0)), 104);
    this.#silent = false;
  }

  /** One that nobody waits for. */
  post(opcode: number, node: bigint, args: Uint8Array, room = 0, options: RequestOptions = {}): number {
    const { unique, reply } = this.start(opcode, node, args, room, options);
    reply.catch(() => {});
    return unique;
  }

  /** Takes what is answered. Returns how much it was. */
  reap(): number {
    let taken = 0;
    for (const [queue, map] of this.inFlight) {
      for (let head = queue.reap(); head >= 0; head = queue.reap(), taken++) {
        const sent = map.get(head);
        if (sent === undefined) assert.fail(`queue ${queue.index}: ${head} was answered, and is not in flight`);
        map.delete(head);
        queue.free(head);
        this.counts.answered++;
        this.#answered(sent, queue.usedLength);
        this.#free.push(sent.slot);
      }
    }
    return taken;
  }

  #answered(sent: Sent, used: number): void {
    const reply = this.#memory.words32((sent.slot + REPLY_AT) as GuestAddr, (sent.room + HEADER_OUT >> 2) + 8);
    for (let i = Math.ceil(used / 4); i < reply.length; i++) {
      if (reply[i] !== POISON) assert.fail(`${describe(sent)}: ${used} bytes were said, and word ${i} was written`);
    }
    if (!this.open) this.counts.late++;
    if (sent.noReply) {
      assert.equal(used, 0, `${describe(sent)} has no reply`);
      return sent.resolve({ error: 0, data: new Uint8Array(0) });
    }
    assert.equal(reply[0], used, `the reply's length to ${describe(sent)}`);
    assert.equal(reply[2] + reply[3] * 2 ** 32, sent.unique, `the reply's number to ${describe(sent)}`);
    const error = reply[1] | 0;
    if (error !== 0) this.counts.failed++;
    if (error === -EINTR) {
      this.counts.interrupted++;
      assert.ok(sent.mayEnd || !this.open, `${describe(sent)} was ended, and nobody asked for it`);
    }
    // Where the session ends, a request that comes to its end meanwhile may find nothing of it any more.
    if (!this.open && [-EINTR, -EIO, -EBADF, -ENOENT].includes(error)) return sent.reject(new Gone());
    sent.resolve({
      error,
      data: new Uint8Array(reply.buffer, reply.byteOffset + HEADER_OUT, used - HEADER_OUT).slice(),
    });
  }

  /** Throws where a request has waited for too long: it is lost. */
  checkAge(): void {
    const longAgo = performance.now() - DEADLINE_MS;
    for (const [queue, map] of this.inFlight) {
      for (const sent of map.values()) {
        if (sent.sinceMs < longAgo) {
          const { usedIdx, lastUsed, nextAvail } = queue;
          const ring = `used index ${usedIdx}, taken up to ${lastUsed}, offered up to ${nextAvail}`;
          assert.fail(`${describe(sent)} on queue ${queue.index} has no answer after ${DEADLINE_MS} ms: ${ring}`);
        }
      }
    }
  }

  /** Asks for a call at the next answer; false where one is there already. VIRTIO 2.7.7. */
  arm(): boolean {
    for (const queue of this.#queues) {
      const { avail, size } = queue.state;
      Atomics.store(queue.memory.words16(avail, size + 3), size + 2, queue.lastUsed);
      if (queue.usedIdx !== queue.lastUsed) return false;
    }
    return true;
  }

  // --- how a session is cut off, with requests in flight

  /** A control message, which the daemon answers when it is done with what is in flight. */
  #control<T>(send: () => T): T {
    try {
      return send();
    } catch (error) {
      this.reap();
      const left = [...this.inFlight.values()].flatMap((map) => [...map.values()].map(describe));
      throw new Error(`${(error as Error).message}; not answered: ${left.join(", ") || "no request"}`, {
        cause: error,
      });
    }
  }

  /** RESET_DEVICE, then a guest that starts anew on the same connection. */
  reset(): void {
    this.open = false;
    this.#control(() => this.frontend.resetDevice());
    this.#settle();
    this.frontend.setFeatures(this.frontend.features);
    this.#start();
  }

  /** GET_VRING_BASE of all queues, as at a guest's reboot; then it starts anew on the same connection. */
  reboot(): void {
    this.open = false;
    const bases = this.#control(() => this.#queues.map(({ index }) => this.frontend.stopQueue(index)));
    const queues = this.#queues;
    this.#settle();
    for (const [i, queue] of queues.entries()) assert.equal(bases[i], queue.lastUsed, `the base of queue ${i}`);
    this.#start();
  }

  /** Hangs up without a word. Returns the next connection: where that is answered, the daemon is done with this one. */
  vanish(socketPath: string, early: boolean): Frontend {
    this.open = false;
    const options = { timeoutMs: DEADLINE_MS };
    const waiting = early ? Frontend.connect(socketPath, options) : null;
    libc.close(this.frontend.fd);
    const next = waiting ?? Frontend.connect(socketPath, options);
    this.#control(() => next.getFeatures());
    this.#settle();
    return next;
  }

  /** Hangs up with nothing in flight. */
  close(): void {
    assert.equal(this.load, 0, "requests in flight");
    this.open = false;
    this.frontend.close();
    this.#memory.close();
  }

  /** The queues are stopped: what was taken is answered, and the rest is as it was. */
  #settle(): void {
    this.reap();
    for (const [queue, map] of this.inFlight) {
      assert.equal((queue.nextAvail - queue.lastUsed) & 0xffff, map.size, `requests left on queue ${queue.index}`);
      for (const sent of map.values()) {
        const reply = this.#memory.words32((sent.slot + REPLY_AT) as GuestAddr, (sent.room + HEADER_OUT >> 2) + 8);
        for (const word of reply) {
          if (word !== POISON) assert.fail(`${describe(sent)} was not answered, and written to`);
        }
        this.counts.givenUp++;
        sent.reject(new Gone());
      }
      map.clear();
      queue.close();
    }
    this.#memory.close();
  }
}

function describe(sent: Sent): string {
  return `request ${sent.unique} (opcode ${sent.opcode})`;
}
