/** A guest in a Worker that works without a pause and checks what it gets, until it is told to end. Words: see BUSY. */
import { Session } from "../../bench/session.ts";

/** Words shared with the test: rounds done, whether it is to end, whether it has. */
export const BUSY = { rounds: 0, stop: 1, ended: 2, words: 4 } as const;
const ROOT = 1;
const SIZE = 30_000;

/** Starts one on a daemon's socket. */
export class BusyGuest {
  readonly #words = new Int32Array(new SharedArrayBuffer(BUSY.words * 4));
  readonly #worker = new Worker(import.meta.url, { type: "module" });
  #failed: string | null = null;

  constructor(socket: string) {
    this.#worker.onmessage = ({ data }) => this.#failed = data;
    this.#worker.postMessage({ socket, words: this.#words });
  }

  /** Rounds so far. Throws where something went wrong. */
  get rounds(): number {
    if (this.#failed !== null) throw new Error(`the other guest: ${this.#failed}`);
    return Atomics.load(this.#words, BUSY.rounds);
  }

  /** Waits for some rounds more. */
  async goesOn(rounds = 3): Promise<void> {
    const wanted = this.rounds + rounds;
    for (const late = performance.now() + 10_000; this.rounds < wanted;) {
      if (performance.now() > late) throw new Error("the other guest hangs");
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  async close(): Promise<void> {
    Atomics.store(this.#words, BUSY.stop, 1);
    for (const late = performance.now() + 10_000; Atomics.load(this.#words, BUSY.ended) === 0;) {
      if (performance.now() > late || this.#failed !== null) throw new Error(this.#failed ?? "the other guest hangs");
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    this.#worker.terminate();
  }
}

function work(socket: string, words: Int32Array): void {
  const { client, close } = open(socket);
  const data = new Uint8Array(SIZE);
  for (let round = 0; Atomics.load(words, BUSY.stop) === 0; round++) {
    data.fill(round);
    const name = `busy-${round % 7}`;
    const made = client.create(ROOT, name, 2);
    const wrote = client.write(made.nodeid, made.fh, 11, data);
    const read = client.read(made.nodeid, made.fh, 11, SIZE);
    const errors = [made.error, wrote.error, read.error, client.release(made.nodeid, made.fh).error];
    errors.push(client.lookup(ROOT, name).error, client.unlink(ROOT, name).error);
    client.forget(made.nodeid, 2);
    const same = read.data.length === SIZE && read.data.every((byte) => byte === (round & 0xff));
    if (errors.some((error) => error !== 0) || !same) throw new Error(`round ${round}: errors ${errors}, data ${same}`);
    Atomics.add(words, BUSY.rounds, 1);
  }
  close();
  Atomics.store(words, BUSY.ended, 1);
}

function open(socket: string) {
  const session = Session.open(socket, { memory: 4 << 20, maxData: 65536 });
  return { client: session.client, close: () => session.close() };
}

if ("WorkerGlobalScope" in globalThis) {
  const scope = globalThis as unknown as Worker & typeof globalThis;
  scope.onmessage = ({ data: { socket, words } }: MessageEvent<{ socket: string; words: Int32Array }>) => {
    try {
      work(socket, words);
    } catch (error) {
      scope.postMessage((error as Error).message);
    }
  };
}
