/** The loops of the process, as the control plane holds them: started when they are first needed, asked by messages. */
import { createEventfd, signal } from "../ffi/eventfd.ts";
import { graceBytes } from "./grace.ts";
import type { Log } from "./log.ts";
import type { LoopAnswer, LoopRequest, Numbered } from "./messages.ts";

/** The part of a Worker that is used. */
export interface LoopThread {
  postMessage(message: Numbered): void;
  onmessage: ((event: MessageEvent<LoopAnswer>) => void) | null;
  onerror: ((event: ErrorEvent) => void) | null;
}

export interface PoolOptions {
  /** Loops at most. */
  count: number;
  /** Longest adaptive polling in microseconds; 0: none. */
  pollMaxUs: number;
  debug: boolean;
  log: Log;
  spawn: (index: number) => LoopThread;
  /** A loop met a fault of our own and has ended. */
  onFatal: (index: number, reason: string) => void;
}

interface Waiter {
  resolve: (value: number) => void;
  reject: (reason: Error) => void;
}

/** One loop's thread. Requests are answered in order. */
export class LoopHandle {
  readonly controlFd = createEventfd();
  readonly #posted = new SharedArrayBuffer(4);
  readonly #waiters = new Map<number, Waiter>();
  readonly #thread: LoopThread;
  #ids = 0;

  constructor(readonly index: number, bellFds: number[], grace: SharedArrayBuffer, readonly options: PoolOptions) {
    this.#thread = options.spawn(index);
    this.#thread.onmessage = (event) => this.#answered(event.data);
    this.#thread.onerror = (event) => {
      event.preventDefault();
      this.#ended(event.message);
    };
    const { pollMaxUs, debug } = options;
    const init = { index, controlFd: this.controlFd, bellFds, posted: this.#posted, grace, pollMaxUs, debug };
    this.ask({ op: "init", init }).catch((error) => this.#ended(error.message));
  }

  /** Asks the loop for something. Resolves with the answer's value; rejects with what went wrong. */
  ask(request: LoopRequest): Promise<number> {
    const id = ++this.#ids;
    const answer = new Promise<number>((resolve, reject) => this.#waiters.set(id, { resolve, reject }));
    Atomics.add(new Int32Array(this.#posted), 0, 1);
    this.#thread.postMessage({ id, request });
    signal(this.controlFd);
    return answer;
  }

  #answered(answer: LoopAnswer): void {
    if ("log" in answer) return this.options.log[answer.log](answer.message);
    if ("fatal" in answer) return this.#ended(answer.fatal);
    const waiter = this.#waiters.get(answer.id);
    this.#waiters.delete(answer.id);
    if ("error" in answer) waiter?.reject(new Error(answer.error));
    else waiter?.resolve(answer.value);
  }

  #ended(reason: string): void {
    for (const waiter of this.#waiters.values()) waiter.reject(new Error(`loop ${this.index} ended: ${reason}`));
    this.#waiters.clear();
    this.options.onFatal(this.index, reason);
  }
}

export class LoopPool {
  readonly #loops: (LoopHandle | undefined)[] = [];
  readonly #bellFds: number[];
  readonly #grace: SharedArrayBuffer;

  constructor(readonly options: PoolOptions) {
    this.#grace = new SharedArrayBuffer(graceBytes(options.count));
    this.#bellFds = Array.from({ length: options.count }, () => createEventfd());
  }

  get count(): number {
    return this.options.count;
  }

  /** The loop of a number, modulo how many there may be; its thread is started at the first call. */
  loop(index: number): LoopHandle {
    const at = index % this.options.count;
    return this.#loops[at] ??= new LoopHandle(at, this.#bellFds, this.#grace, this.options);
  }

  /** Ends every loop that runs. */
  async exit(): Promise<void> {
    await Promise.all(this.#loops.map((loop) => loop?.ask({ op: "exit" })));
    this.#loops.length = 0;
  }
}
