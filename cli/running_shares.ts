/** The shares of a running daemon: those of its start, and those that are added and removed later. */
import type { Reactor } from "../ffi/reactor.ts";
import type { Limit } from "../vq/limiter.ts";
import type { LoopPool } from "../vq/pool.ts";
import type { DaemonLog } from "./log.ts";
import { nameOf, type ShareOptions } from "./options.ts";
import { ServedShare } from "./served_share.ts";
import { version } from "./version.ts";

const EXIT_FAILED = 1;
/** Who removes a share is told after this time that it has not ended yet. */
const REMOVED_MS = 8000;

/** There is no such share, or one too many: for who asked. */
export class NoSuchShare extends Error {
  override name = "NoSuchShare";
}

/** What is told of a share. */
export interface ShareState {
  name: string;
  tag: string | null;
  dir: string;
  socket: string | null;
  fd: number | null;
  /** "ending": it was removed, and has requests that do not end. */
  state: "waiting" | "connected" | "ending";
  queues: number;
  limit: Limit;
  options: ShareOptions["fs"];
}

export interface RunningOptions {
  pool: LoopPool;
  reactor: Reactor;
  log: DaemonLog;
  /** Shares may come when there is none. */
  lasting: boolean;
  onFrontEnd: (connected: boolean) => void;
  /** A share has come or gone. */
  onChange: () => void;
}

export class RunningShares {
  readonly #options: RunningOptions;
  readonly #shares = new Map<string, ServedShare>();
  readonly #ended = Promise.withResolvers<number>();
  #status = 0;

  constructor(options: RunningOptions) {
    this.#options = options;
  }

  /** Resolves with an exit status when no share is left, and none can come. */
  get ended(): Promise<number> {
    return this.#ended.promise;
  }

  get all(): readonly ShareOptions[] {
    return [...this.#shares.values()].map(({ options }) => options);
  }

  /** Those that are not ending: one that has closed has no memory to look at. */
  get served(): readonly ServedShare[] {
    return [...this.#shares.values()].filter((share) => !share.closing);
  }

  /** All, those that are ending with them. */
  get every(): readonly ServedShare[] {
    return [...this.#shares.values()];
  }

  get states(): ShareState[] {
    return [...this.#shares].map(([name, share]): ShareState => {
      const { tag, sharedDir, socketPath, fd, numRequestQueues, fs } = share.options;
      return {
        name,
        tag: tag ?? null,
        dir: sharedDir,
        socket: socketPath ?? null,
        fd: fd ?? null,
        state: share.closing ? "ending" : share.connected ? "connected" : "waiting",
        queues: numRequestQueues,
        limit: share.limit,
        options: fs,
      };
    });
  }

  /** Has all these listen, or none. Throws an Error that says what is wrong with one. */
  start(list: readonly ShareOptions[]): void {
    this.#options.log.several = this.#options.lasting || list.length > 1;
    const opened: ServedShare[] = [];
    try {
      // All directories before the first socket: what cannot be served whole does not begin.
      for (const options of list) opened.push(this.#open(options, list.length));
      for (const share of opened) this.#listen(share);
    } catch (error) {
      // Their sockets' files go at once; the process ends before the rest is done.
      for (const share of opened) share.close().catch(() => {});
      throw error;
    }
    for (const share of opened) {
      const { sharedDir, socketPath, fd } = share.options;
      share.log.info(`${version()} shares ${sharedDir} on ${socketPath ?? `descriptor ${fd}`}`);
      this.#shares.set(nameOf(share.options), share);
    }
  }

  /** Has the first be known to a loop, so that its first front end does not wait for that. */
  async prepare(): Promise<void> {
    const [first] = this.#shares.values();
    await first?.prepare();
  }

  /** Serves those that were started. */
  serve(): void {
    for (const [name, share] of this.#shares) this.#serve(name, share);
  }

  /** Adds one, which serves from now on. Throws an Error that says what is wrong with it. */
  add(options: ShareOptions): void {
    const name = nameOf(options);
    if (this.#shares.has(name)) throw new Error(`there is a share ${name} already`);
    this.#options.log.several = true;
    const share = this.#open(options, this.#shares.size + 1);
    try {
      this.#listen(share);
    } catch (error) {
      share.close().catch(() => {});
      throw error;
    }
    share.log.info(`added: ${options.sharedDir} on ${options.socketPath ?? `descriptor ${options.fd}`}`);
    this.#shares.set(name, share);
    this.#changed();
    this.#serve(name, share);
  }

  /**
   * Removes one: its requests in flight are finished (with `force`, given up where they wait), its front end is sent away, its socket goes.
   * Resolves with whether there was a front end, and whether all of that is done.
   */
  async remove(name: string, force: boolean): Promise<{ connected: boolean; ended: boolean }> {
    const share = this.#named(name);
    const { connected } = share;
    share.log.info(`removed${connected ? ": its front end is sent away" : ""}`);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<boolean>((resolve) => timer = setTimeout(() => resolve(false), REMOVED_MS));
    try {
      const closed = this.#close(name, share, !force).then(() => true);
      return { connected, ended: await Promise.race([closed, late]) };
    } finally {
      clearTimeout(timer);
    }
  }

  async setLimit(name: string, limit: Limit): Promise<void> {
    await this.#named(name).setLimit(limit);
  }

  limitOf(name: string): Limit {
    return this.#named(name).limit;
  }

  isConnected(name: string): boolean {
    return this.#named(name).connected;
  }

  /** Closes all, their requests given up where they wait. */
  async close(): Promise<void> {
    await Promise.all([...this.#shares].map(([name, share]) => this.#close(name, share, false)));
  }

  #named(name: string): ServedShare {
    const share = this.#shares.get(name);
    if (share === undefined || share.closing) throw new NoSuchShare(`there is no share ${name}`);
    return share;
  }

  #open(options: ShareOptions, parts: number): ServedShare {
    const { pool, log } = this.#options;
    return new ServedShare(options, parts, pool, log);
  }

  #listen(share: ServedShare): void {
    const { reactor, onFrontEnd } = this.#options;
    share.listen(reactor, onFrontEnd);
  }

  /** Serves one until it ends by itself, fails or is removed: the others go on. */
  async #serve(name: string, share: ServedShare): Promise<void> {
    try {
      await share.serve();
      await this.#close(name, share, false);
    } catch (error) {
      share.log.error((error as Error).message);
      this.#status = EXIT_FAILED;
      share.close().catch(() => {});
      this.#gone(name, share);
    }
  }

  async #close(name: string, share: ServedShare, drained: boolean): Promise<void> {
    await share.close(drained);
    this.#gone(name, share);
  }

  #gone(name: string, share: ServedShare): void {
    if (this.#shares.get(name) !== share) return;
    this.#shares.delete(name);
    this.#changed();
    if (this.#shares.size === 0 && !this.#options.lasting) this.#ended.resolve(this.#status);
  }

  /** What descriptors there are is divided anew. */
  #changed(): void {
    for (const share of this.#shares.values()) share.divide(this.#shares.size);
    this.#options.onChange();
  }
}
