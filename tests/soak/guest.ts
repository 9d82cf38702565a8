/** A guest of the soak test, that lives again and again: it mounts, works, and unmounts, reboots or vanishes; and the host's files are checked. */
import assert from "node:assert/strict";
import { Frontend } from "../../bench/frontend.ts";
import { DEFAULT_INIT_FLAGS } from "../../bench/fuse_client.ts";
import * as decode from "../../bench/fuse_decode.ts";
import { bytes, names, u32 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { drain } from "../../ffi/eventfd.ts";
import { libc } from "../../ffi/libc.ts";
import { random } from "../fs/random.ts";
import { Home } from "./home.ts";
import { type Counts, DEADLINE_MS, Line } from "./line.ts";
import { type Lock, Process, ROOT } from "./process.ts";

const PROCESSES = 5;
/** Requests that a guest offers as its last deed, at most. */
const LAST_REQUESTS = 32;
const O_RDWR = 2;

/** How a session ends, and how often. The first three are orderly, with nothing in flight at the end. */
const ENDINGS = [
  [4, "unmounted, mounted again"],
  [3, "unmounted, disconnected"],
  [2, "disconnected, still mounted"],
  [3, "reset"],
  [3, "rebooted without DESTROY"],
  [4, "vanished"],
  [2, "vanished, another waiting"],
  [1, "mounted again without DESTROY"],
] as const;
type Ending = typeof ENDINGS[number][1];
const ORDERLY: readonly Ending[] = [
  "unmounted, mounted again",
  "unmounted, disconnected",
  "disconnected, still mounted",
  "mounted again without DESTROY",
];
const DISCONNECTS: readonly Ending[] = ["unmounted, disconnected", "disconnected, still mounted", "vanished"];

export class Guest {
  /** Bytes of the host's files that were compared with the model. */
  checkedBytes = 0;
  readonly history: string[] = [];

  #line: Line | null = null;
  #next: (below: number) => number;
  #homes: Home[];
  #target = 0;
  #reached: (() => void) | null = null;

  constructor(
    readonly socketPath: string,
    readonly share: string,
    seed: number,
    readonly counts: Counts,
    /** Requests of one session, at most. */
    readonly mostRequests: number,
    readonly requestQueues = 2,
  ) {
    this.#next = random(seed);
    this.#homes = Array.from({ length: PROCESSES }, (_, i) => new Home(`p${i}`, i + 1));
    for (const { name } of this.#homes) Deno.mkdirSync(`${share}/${name}`);
    Deno.writeTextFileSync(`${share}/lock`, "");
  }

  get line(): Line | null {
    return this.#line;
  }

  /** Takes answers. Returns how many. */
  pump(): number {
    const taken = this.#line?.reap() ?? 0;
    if (this.#reached !== null && this.counts.answered >= this.#target) {
      this.#reached();
      this.#reached = null;
    }
    return taken;
  }

  /** Resolves when so many more requests were answered. */
  #until(requests: number): Promise<void> {
    this.#target = this.counts.answered + requests;
    return new Promise((resolve) => this.#reached = resolve);
  }

  /** Lives until `ending` says so, and is disconnected then. */
  async live(ending: () => boolean): Promise<void> {
    try {
      while (!ending() || this.#line !== null) await this.#session(ending);
    } catch (error) {
      throw new Error(`${this.socketPath}: ${(error as Error).message}; sessions: ${this.history.join("; ")}`, {
        cause: error,
      });
    }
  }

  async #session(ending: () => boolean): Promise<void> {
    this.#line ??= this.#connect(Frontend.connect(this.socketPath, { timeoutMs: DEADLINE_MS }));
    const line = this.#line;
    line.open = true;
    const lock = await this.#mount(line);
    let stopping = false;
    const processes = this.#homes.map((home) => new Process(line, home, lock));
    const done = processes.map((process) => process.run(() => stopping));
    const all = Promise.allSettled(done);
    await Promise.race([this.#until(1 + this.#next(this.mostRequests)), firstFault(done)]);
    const end = this.#chooseEnding(ending());
    this.history.push(end);
    if (this.history.length > 12) this.history.shift();
    stopping = true;
    if (ORDERLY.includes(end)) {
      await Promise.race([all, firstFault(done)]);
      while (line.load > 0) await this.#until(1);
      if (end.startsWith("unmounted")) {
        const { error } = await line.request(op.FUSE_DESTROY, 0n, bytes());
        assert.equal(error, 0, "DESTROY");
      }
    } else if (this.#next(2) === 0) line.offerLast(this.#next(LAST_REQUESTS));
    this.#end(line, end);
    const results = await all;
    for (const result of results) {
      if (result.status === "rejected" && (result.reason as Error).name !== "Gone") throw result.reason;
    }
    for (const { fault } of processes) if (fault !== null) throw fault;
    for (const home of this.#homes) this.checkedBytes += home.check(this.share);
    this.counts.endings.set(end, (this.counts.endings.get(end) ?? 0) + 1);
  }

  #chooseEnding(last: boolean): Ending {
    const list = ENDINGS.filter(([, name]) => !last || DISCONNECTS.includes(name));
    let at = this.#next(list.reduce((sum, [weight]) => sum + weight, 0));
    return list.find(([weight]) => (at -= weight) < 0)![1];
  }

  #end(line: Line, end: Ending): void {
    switch (end) {
      case "unmounted, mounted again":
      case "mounted again without DESTROY":
        return;
      case "unmounted, disconnected":
      case "disconnected, still mounted":
        line.close();
        this.#line = null;
        return;
      case "reset":
        return line.reset();
      case "rebooted without DESTROY":
        return line.reboot();
      case "vanished, another waiting":
        this.#line = this.#connect(line.vanish(this.socketPath, true));
        return;
      case "vanished": {
        // It says that the daemon is done with the one before, and goes as well.
        const next = line.vanish(this.socketPath, false);
        this.counts.connections++;
        next.close();
        this.#line = null;
      }
    }
  }

  #connect(frontend: Frontend): Line {
    return new Line(frontend, this.counts, this.#next, this.requestQueues);
  }

  async #mount(line: Line): Promise<Lock> {
    const flags = DEFAULT_INIT_FLAGS | 1n << 1n;
    const args = bytes(u32(7, 38, 0, Number(flags & 0xffff_ffffn), 0), new Uint8Array(44));
    assert.equal((await line.request(op.FUSE_INIT, 0n, args, 64)).error, 0, "INIT");
    this.counts.mounts++;
    const { error, nodeid } = decode.entry(await line.request(op.FUSE_LOOKUP, ROOT, names("lock"), 128));
    assert.equal(error, 0, "LOOKUP of the file with the lock");
    const { fh } = decode.open(await line.request(op.FUSE_OPEN, nodeid, u32(O_RDWR, 0), 16));
    return { node: nodeid, fh, holder: 0, owners: 0 };
  }
}

/** Never resolves; rejects when one of them fails of itself. */
function firstFault(list: readonly Promise<void>[]): Promise<never> {
  return new Promise((_, reject) => {
    for (const each of list) each.catch((error) => (error as Error).name !== "Gone" && reject(error));
  });
}

/** Has guests go on: takes their answers and lets them send, and sleeps while there is nothing to do. Until `ended`. */
export async function pump(guests: readonly Guest[], ended: () => boolean): Promise<void> {
  for (let turns = 0, idle = 0; !ended(); turns++) {
    let taken = 0;
    for (const guest of guests) taken += guest.pump();
    idle = taken > 0 ? 0 : idle + 1;
    // What is answered goes on in microtasks; what child processes say, and timers, want a turn of the event loop.
    for (let i = 0; i < 4; i++) await null;
    if (turns % 64 !== 0 && idle < 3) continue;
    await new Promise((resolve) => setTimeout(resolve, 0));
    if (turns % 4096 === 0) { for (const guest of guests) guest.line?.checkAge(); }
    if (idle >= 3) sleep(guests);
  }
}

const SLEEP_MS = 5;

function sleep(guests: readonly Guest[]): void {
  const lines = guests.flatMap(({ line }) => line?.open ? [line] : []);
  if (!lines.every((line) => line.arm())) return;
  const fds = lines.flatMap((line) => line.queues.map((queue) => queue.state.callFd));
  libc.poll(new Uint8Array(Int32Array.from(fds.flatMap((fd) => [fd, 1])).buffer), fds.length, SLEEP_MS);
  for (const line of lines) for (const queue of line.queues) drain(queue.state.callFd);
}
