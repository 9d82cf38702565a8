/** The loops of the process, as the control plane holds them: started when they are first needed, asked by messages. */
import { createEventfd, signal } from "../ffi/eventfd.ts";
import { libc } from "../ffi/libc.ts";
import { installGuard } from "../ffi/guard.ts";
import { nowMs } from "../ffi/clock.ts";
import { installInterrupt } from "../ffi/interrupt.ts";
import type { AwakeFiles } from "./awake.ts";
import { type CallsInit, createCalls, idleHelpers } from "./calls.ts";
import { Directory } from "./directory.ts";
import { Flight, type InFlight } from "./flight.ts";
import { graceBytes } from "./grace.ts";
import type { Log } from "./log.ts";
import { allocateLoopMeter, type LoopCounts, loopMeter, readLoopMeter } from "./meter.ts";
import type { LoopAnswer, LoopRequest, Numbered } from "./messages.ts";
import type { Placement } from "./placement.ts";
import { openLoad } from "./spare.ts";
import { type LockCounts, lockCounts, lockCountsBytes } from "./spin.ts";

/** The part of a Worker that is used. */
export interface LoopThread {
  postMessage(message: Numbered): void;
  onmessage: ((event: MessageEvent<LoopAnswer>) => void) | null;
  onerror: ((event: ErrorEvent) => void) | null;
}

export interface PoolOptions {
  /** Loops at most. */
  count: number;
  /** Helper threads at most, for calls and requests that may wait; two at least. */
  helpers: number;
  /** Longest adaptive polling in microseconds; 0: none. */
  pollMaxUs: number;
  /** What keeps idle processors awake; left out: nothing does. */
  awake?: AwakeFiles | undefined;
  /** Where each loop runs; as the process where it is left out. */
  placements?: readonly Placement[];
  /** Whether debug lines are wanted, at the start. */
  debug: boolean;
  /** Sets of IORING_SETUP_* that the loops try instead of the usual ones, for tests; none: no io_uring. */
  ringFlags?: readonly number[];
  log: Log;
  spawn: (index: number) => LoopThread;
  /** A loop met a fault of our own and has ended. */
  onFatal: (index: number, reason: string) => void;
}

interface Waiter {
  resolve: (value: number) => void;
  reject: (reason: Error) => void;
}

/** What others see of a loop. It outlives the thread. */
export class LoopView {
  readonly meter = allocateLoopMeter();
  readonly flight = new Flight();
  readonly #words = loopMeter(this.meter);

  get counts(): LoopCounts {
    return readLoopMeter(this.#words, nowMs());
  }

  /** Its requests in flight, the oldest first. */
  get inFlight(): InFlight[] {
    return this.flight.read(nowMs());
  }
}

const ANYWHERE: Placement = { loop: null, workers: null };

/** One loop's thread. Requests are answered in order. */
export class LoopHandle {
  readonly controlFd = createEventfd();
  readonly #posted = new SharedArrayBuffer(4);
  readonly #waiters = new Map<number, Waiter>();
  readonly #thread: LoopThread;
  #ids = 0;
  /** Why it has ended, once it has. */
  #end: string | null = null;

  constructor(
    readonly index: number,
    bellFds: number[],
    grace: SharedArrayBuffer,
    locks: SharedArrayBuffer,
    calls: CallsInit,
    load: number,
    debug: SharedArrayBuffer,
    view: LoopView,
    readonly options: PoolOptions,
    readonly wantHelper: () => void,
    readonly lost: (device: number) => void,
  ) {
    this.#thread = options.spawn(index);
    this.#thread.onmessage = (event) => this.#answered(event.data);
    this.#thread.onerror = (event) => {
      event.preventDefault();
      this.#ended(event.message);
    };
    const { count: loops, pollMaxUs, placements, ringFlags, awake: files } = options;
    const awake = files && index < files.fds.length ? { fd: files.fds[index], cpus: files.cpus } : null;
    const placement = placements?.[index] ?? ANYWHERE;
    const seen = { meter: view.meter, flight: view.flight.addr };
    const shared = { loops, bellFds, posted: this.#posted, grace, locks, calls, load, ...seen };
    const init = { index, controlFd: this.controlFd, ...shared, pollMaxUs, awake, placement, debug, ringFlags };
    this.ask({ op: "init", init }).catch((error) => this.#ended(error.message));
  }

  /** Ends the thread. */
  async exit(): Promise<void> {
    await this.ask({ op: "exit" });
    this.#end = "it was told to exit";
    libc.close(this.controlFd);
  }

  /** Asks the loop for something. Resolves with the answer's value; rejects with what went wrong. */
  ask(request: LoopRequest): Promise<number> {
    if (this.#end !== null) return Promise.reject(new Error(`loop ${this.index} ended: ${this.#end}`));
    const id = ++this.#ids;
    const answer = new Promise<number>((resolve, reject) => this.#waiters.set(id, { resolve, reject }));
    Atomics.add(new Int32Array(this.#posted), 0, 1);
    this.#thread.postMessage({ id, request });
    signal(this.controlFd);
    return answer;
  }

  #answered(answer: LoopAnswer): void {
    if ("log" in answer) return this.options.log[answer.log](answer.message, answer.about);
    if ("want" in answer) return this.wantHelper();
    if ("lost" in answer) return this.lost(answer.lost);
    if ("ready" in answer) return;
    if ("fatal" in answer) return this.#ended(answer.fatal);
    const waiter = this.#waiters.get(answer.id);
    this.#waiters.delete(answer.id);
    if ("error" in answer) waiter?.reject(new Error(answer.error));
    else waiter?.resolve(answer.value);
  }

  #ended(reason: string): void {
    if (this.#end !== null) return;
    this.#end = reason;
    for (const waiter of this.#waiters.values()) waiter.reject(new Error(`loop ${this.index} ended: ${reason}`));
    this.#waiters.clear();
    this.options.onFatal(this.index, reason);
  }
}

export class LoopPool {
  /** What helpers know of the devices. */
  readonly directory = new Directory();
  /** By device, what is to be called when its guest memory turns out to be gone. */
  readonly lost = new Map<number, () => void>();
  readonly #loops: (LoopHandle | undefined)[] = [];
  readonly #views: LoopView[] = [];
  readonly #bellFds: number[];
  readonly #grace: SharedArrayBuffer;
  readonly #locks: SharedArrayBuffer;
  readonly #calls: CallsInit;
  readonly #load: number;
  readonly #debug = new SharedArrayBuffer(4);
  /** Queues that run on each loop. */
  readonly #queues: number[];
  /** One alone would leave no one to others while it waits for a lock. */
  readonly #maxHelpers: number;
  readonly #idle: () => number;
  #helpers = 0;
  /** Of them, those that are on their way. */
  #starting = 0;

  constructor(readonly options: PoolOptions) {
    this.debug = options.debug;
    this.#queues = new Array(options.count).fill(0);
    this.#maxHelpers = Math.max(2, options.helpers);
    this.#calls = createCalls(options.count, this.#maxHelpers);
    this.#idle = idleHelpers(this.#calls);
    installInterrupt();
    try {
      installGuard();
    } catch (error) {
      options.log.debug(`a front end that truncates its memory will end the process: ${(error as Error).message}`);
    }
    this.#grace = new SharedArrayBuffer(graceBytes(options.count, this.#maxHelpers));
    this.#locks = new SharedArrayBuffer(lockCountsBytes(options.count));
    this.#load = openLoad();
    this.#bellFds = Array.from({ length: options.count }, () => createEventfd());
  }

  get count(): number {
    return this.options.count;
  }

  /** Whether loops and helpers say their debug lines. */
  set debug(wanted: boolean) {
    Atomics.store(new Int32Array(this.#debug), 0, wanted ? 1 : 0);
  }

  /** Locks that all loops have taken so far. */
  get locks(): LockCounts {
    return lockCounts(this.#locks);
  }

  /** What is seen of each loop that was started; by its number, with holes. */
  get views(): readonly (LoopView | undefined)[] {
    return this.#views;
  }

  /** Helper threads that were started, and how many of them wait for something to do. */
  get helpers(): { started: number; idle: number } {
    return { started: this.#helpers, idle: Math.max(0, this.#idle()) };
  }

  /** The loop of a number, modulo how many there may be; its thread is started at the first call. */
  loop(index: number): LoopHandle {
    const at = index % this.options.count;
    return this.#loops[at] ??= new LoopHandle(
      at,
      this.#bellFds,
      this.#grace,
      this.#locks,
      this.#calls,
      this.#load,
      this.#debug,
      this.#views[at] ??= new LoopView(),
      this.options,
      () => {
        // Loops ask more often than there is need: starting a thread keeps the control plane for some 40 ms.
        if (this.#idle() + this.#starting < 1) this.#startHelper();
      },
      (device) => this.lost.get(device)?.(),
    );
  }

  /** The first of the loops on which the fewest queues run. */
  get lightest(): number {
    return this.#queues.indexOf(Math.min(...this.#queues));
  }

  /** A queue runs on a loop from now on (1), or does no more (-1). */
  countQueue(loop: LoopHandle, change: 1 | -1): void {
    this.#queues[loop.index] += change;
  }

  /** Resolves when every loop that runs has answered: none of them hangs. Rejects where one has ended. */
  async ping(): Promise<void> {
    await Promise.all(this.#loops.map((loop) => loop?.ask({ op: "ping" })));
  }

  /** Starts one more helper thread, where there may be more. A helper stays: its thread can end with the process only. */
  #startHelper(): void {
    if (this.#helpers >= this.#maxHelpers) return;
    const index = this.#helpers++;
    const thread = this.options.spawn(-1 - index);
    this.#starting++;
    thread.onmessage = ({ data }) => {
      if ("ready" in data) this.#starting--;
      else if ("log" in data) this.options.log[data.log](data.message, data.about);
    };
    thread.onerror = (event) => {
      event.preventDefault();
      this.options.onFatal(-1, event.message);
    };
    const init = {
      index,
      loops: this.options.count,
      calls: this.#calls,
      bellFds: this.#bellFds,
      grace: this.#grace,
      devices: this.directory.addr,
      debug: this.#debug,
    };
    thread.postMessage({ id: 0, request: { op: "help", init } });
  }

  /** Sees to it that there are so many helper threads, where there may be: it takes a while until one can serve. */
  startHelpers(count: number): void {
    while (this.#helpers < Math.min(count, this.#maxHelpers)) this.#startHelper();
  }

  /** Ends every loop that runs. No loop can be had afterwards. */
  async exit(): Promise<void> {
    await Promise.all(this.#loops.map((loop) => loop?.exit()));
    for (const fd of this.#bellFds.splice(0)) libc.close(fd);
    // A helper goes on waiting for it.
    if (this.#helpers === 0) libc.close(this.#calls.semaphore);
    if (this.#load >= 0) libc.close(this.#load);
    for (const fd of this.options.awake?.fds ?? []) libc.close(fd);
  }
}
