/**
 * A front end that outlives its back ends: guest memory, queues and in-flight area stay while one back end is killed and the next comes.
 * Each request must be answered once, by whichever back end.
 */
import assert from "node:assert/strict";
import { Virtqueue } from "../../bench/driver.ts";
import { Frontend, type InflightArea } from "../../bench/frontend.ts";
import { GuestMemory } from "../../bench/guest_memory.ts";
import * as wire from "../../bench/vhost_wire.ts";
import { libc } from "../../ffi/libc.ts";
import type { GuestAddr } from "../../vq/device.ts";
import { desc_state, queue_region, regionBytes } from "../../vq/inflight.ts";

export const QUEUE_SIZE = 64;
/** Where the queues begin, so that their indices come round. */
export const BASE_INDEX = 0xffff - 1000;
/** The place of one request: its bytes, and its reply's. */
const PLACE_BYTES = 8192;
const REPLY_AT = 6144;
const REPLY_BYTES = PLACE_BYTES - REPLY_AT;
const DEADLINE_MS = 10_000;

const PROTOCOL_FEATURES = wire.PROTOCOL_F_MQ | wire.PROTOCOL_F_REPLY_ACK | wire.PROTOCOL_F_INFLIGHT_SHMFD;

/** A request on its way. `life`: that of the back end to which it was sent. */
export interface Sent {
  readonly life: number;
  readonly what: string;
  readonly place: GuestAddr;
  readonly done: (reply: DataView<ArrayBuffer>, used: number) => void;
}

export class Survivor {
  readonly memory = GuestMemory.create(4 << 20);
  readonly queues: Virtqueue[];
  readonly sent: Map<number, Sent>[];
  /** Counts back ends. */
  life = 0;
  /** Requests sent, and answered: by the back end that they were sent to, or by a later one. */
  readonly counts = { sent: 0, answered: 0, answeredLater: 0 };
  frontend!: Frontend;

  #area: InflightArea | null = null;
  readonly #places: GuestAddr[] = [];

  constructor(queues: number) {
    const base = BASE_INDEX;
    this.queues = Array.from(
      { length: queues },
      (_, i) => Virtqueue.create(this.memory, i, { size: QUEUE_SIZE, base }),
    );
    this.sent = this.queues.map(() => new Map());
  }

  /** The next back end. `base`: where the front end believes that its queues stand. `start`: how many of them it starts. */
  connect(socketPath: string, base: (queue: Virtqueue) => number, start = this.queues.length): void {
    this.life++;
    const { queues, memory } = this;
    const frontend = this.frontend = Frontend.connect(socketPath, { timeoutMs: DEADLINE_MS });
    frontend.negotiate({ protocolFeatures: PROTOCOL_FEATURES });
    this.#area ??= frontend.getInflight(queues.length, QUEUE_SIZE);
    frontend.setInflight(this.#area);
    frontend.setMemory(memory);
    for (const queue of queues.slice(0, start)) frontend.startQueue(queue, { base: base(queue) });
  }

  /** Where one queue's requests in flight are kept, as it is now. */
  region(index: number): DataView<ArrayBuffer> {
    const bytes = new Uint8Array(regionBytes(QUEUE_SIZE));
    assert.equal(libc.pread(this.#area!.fd, bytes, bytes.length, BigInt(index * bytes.length)), bytes.length);
    return new DataView(bytes.buffer);
  }

  /** Puts something else there, as a process before would have. The queue must not run. */
  setRegion(index: number, region: DataView<ArrayBuffer>): void {
    const at = this.#area!.offset + index * region.byteLength;
    const file = Deno.openSync(`/proc/self/fd/${this.#area!.fd}`, { write: true });
    file.seekSync(at, Deno.SeekMode.Start);
    assert.equal(file.writeSync(new Uint8Array(region.buffer)), region.byteLength);
    file.close();
  }

  /** Requests that a back end has taken and not answered, as it says there. */
  get marked(): number {
    let count = 0;
    for (const { index } of this.queues) {
      const region = this.region(index);
      for (let head = 0; head < QUEUE_SIZE; head++) {
        count += region.getUint8(queue_region.desc + head * desc_state.sizeof + desc_state.inflight);
      }
    }
    return count;
  }

  /** Waits until the back end, which was killed, has let go of everything, and hangs up. */
  lose(): void {
    assert.ok(this.frontend.waitDisconnect(DEADLINE_MS), "the back end hangs up when it is killed");
    libc.close(this.frontend.fd);
  }

  hasRoom(index: number, most = QUEUE_SIZE / 2): boolean {
    return this.sent[index].size < most;
  }

  /** Puts a request on a queue and kicks. */
  send(index: number, what: string, request: Uint8Array, done: Sent["done"]): void {
    const { memory, life } = this;
    const queue = this.queues[index];
    const place = this.#places.pop() ?? memory.allocate(PLACE_BYTES, 4096);
    const reply = (place + REPLY_AT) as GuestAddr;
    assert.ok(request.length <= REPLY_AT);
    memory.bytes(place, request.length).set(request);
    memory.bytes(reply, REPLY_BYTES).fill(0);
    const head = queue.place([{ addr: place, len: request.length }, { addr: reply, len: REPLY_BYTES, write: true }]);
    this.sent[index].set(head, { life, what, place, done });
    this.counts.sent++;
    queue.submit(head);
  }

  /** Takes the answers that are there. Returns how many. */
  collect(): number {
    let taken = 0;
    for (const queue of this.queues) {
      const sent = this.sent[queue.index];
      for (let head = queue.reap(); head >= 0; head = queue.reap()) {
        const one = sent.get(head);
        assert.ok(one, `queue ${queue.index}: ${head} was answered, and is not on its way`);
        sent.delete(head);
        queue.free(head);
        taken++;
        this.counts.answered++;
        if (one.life !== this.life) this.counts.answeredLater++;
        one.done(this.memory.view((one.place + REPLY_AT) as GuestAddr, REPLY_BYTES), queue.usedLength);
        this.#places.push(one.place);
      }
    }
    return taken;
  }

  get onTheirWay(): number {
    return this.sent.reduce((sum, { size }) => sum + size, 0);
  }

  /** Waits until everything that was sent is answered. `help`: called now and then. */
  settle(help: () => void = () => {}): void {
    const deadline = performance.now() + DEADLINE_MS;
    for (let looks = 1; this.onTheirWay > 0; looks++) {
      if (this.collect() > 0) continue;
      if (looks % 10_000 === 0) help();
      const left = this.sent.flatMap((sent) => [...sent.values()].map(({ what }) => what));
      assert.ok(performance.now() < deadline, `lost: ${left.slice(0, 20).join(", ")}`);
    }
  }

  /** Hangs up for good. */
  close(): void {
    this.frontend.close();
    for (const queue of this.queues) queue.close();
    if (this.#area) libc.close(this.#area.fd);
    this.memory.close();
  }
}
