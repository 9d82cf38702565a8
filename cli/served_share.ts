/** One share of the process: a directory, the device that shows it, and the socket where front ends find the device. */
import type { Reactor } from "../ffi/reactor.ts";
import type { FsConfig } from "../fs/config.ts";
import { closeShare, configSpace, divideDescriptors, helpersAtStart, openShare } from "../fs/share.ts";
import { type ShareUse, shareUse } from "../fs/metrics.ts";
import { Server } from "../vhost/server.ts";
import { DeviceControl } from "../vq/control.ts";
import type { Limit } from "../vq/limiter.ts";
import { type Log, logAbout } from "../vq/log.ts";
import type { QueueCounts } from "../vq/meter.ts";
import type { LoopPool } from "../vq/pool.ts";
import { socketAccess } from "./carried.ts";
import { limited } from "./log_format.ts";
import type { SeenShare } from "./metrics.ts";
import { nameOf, type ShareOptions } from "./options.ts";

export class ServedShare implements SeenShare {
  /** What it is called in the log and in metrics. */
  readonly name: string;
  /** Its device's number among those that are there. */
  readonly id: number;
  readonly log: Log;
  /** A front end is connected, and how many there were so far. */
  connected = false;
  connections = 0;
  readonly #config: FsConfig;
  readonly #device: DeviceControl;
  #server: Server | null = null;
  #closing: Promise<void> | null = null;
  readonly #pool: LoopPool;

  /**
   * Opens the directory; nobody can connect before `listen`. `parts` is how many shares the process's limit of open files is for, so that
   * no guest can take what another needs. Throws an Error that says what is wrong with the directory.
   */
  constructor(readonly options: ShareOptions, parts: number, pool: LoopPool, log: Log) {
    const { sharedDir, tag, numRequestQueues, limit } = options;
    this.name = nameOf(options);
    this.log = logAbout(log, { share: this.name });
    this.#pool = pool;
    this.id = pool.directory.take();
    try {
      // In a sandbox it has another name.
      this.#config = openShare(options.reach?.dir ?? sharedDir, options.fs, pool.count, this.log, sharedDir);
    } catch (error) {
      pool.directory.give(this.id);
      throw error;
    }
    divideDescriptors(this.#config, parts);
    this.#device = new DeviceControl({
      id: this.id,
      name: this.name,
      pool,
      // The high-priority queue and the request queues.
      queueCount: 1 + numRequestQueues,
      features: 0n,
      config: tag === undefined ? new Uint8Array(0) : configSpace(tag, numRequestQueues),
      service: this.#config,
      helpers: helpersAtStart(this.#config.kind),
      // Queue 0 is the high-priority one: it has little to say, and shares the loop of the first request queue.
      loopOf: (queue) => Math.max(0, queue - 1),
      urgent: (queue) => queue === 0,
      ...(limit === undefined ? {} : { limit }),
    });
  }

  /** What the guest may do in a second. */
  get limit(): Limit {
    return this.#device.limit;
  }

  setLimit(limit: Limit): Promise<void> {
    return this.#device.setLimit(limit);
  }

  /** There are so many shares from now on. */
  divide(parts: number): void {
    if (this.#closing === null) divideDescriptors(this.#config, parts);
  }

  /** Listens from now on; `onFrontEnd` hears who comes and goes. Throws an Error that says what is wrong with the socket. */
  listen(reactor: Reactor, onFrontEnd: (connected: boolean) => void): void {
    const { socketPath, reach, exitOnDisconnect } = this.options;
    const fd = reach?.fd ?? this.options.fd;
    this.#server = new Server({
      reactor,
      device: this.#device,
      log: limited(this.log),
      ...(fd === undefined ? { socketPath: socketPath!, ...socketAccess(this.options) } : { fd }),
      exitOnDisconnect,
      onFrontEnd: (connected) => {
        this.connected = connected;
        if (connected) this.connections++;
        onFrontEnd(connected);
      },
    });
  }

  get dir(): string {
    return this.options.sharedDir;
  }

  get socket(): string {
    return this.options.socketPath ?? "";
  }

  get counts(): QueueCounts[] {
    return this.#device.counts;
  }

  get use(): ShareUse {
    return shareUse(this.#config);
  }

  /** Has a loop run and know the device, so that the first front end does not wait for that. */
  prepare(): Promise<void> {
    return this.#device.prepare();
  }

  /** Serves front ends until `close`, or until the one has gone that was to be the last. Rejects where it cannot go on. */
  async serve(): Promise<void> {
    await this.#server!.serve();
  }

  /**
   * Sends the front end away, and gives back all that the share took. With `drained`, requests in flight are finished first; else
   * those that wait are given up.
   */
  close(drained = false): Promise<void> {
    return this.#closing ??= this.#close(drained);
  }

  get closing(): boolean {
    return this.#closing !== null;
  }

  async #close(drained: boolean): Promise<void> {
    if (drained) await this.#device.drain();
    await this.#server?.close();
    await this.#device.close();
    closeShare(this.#config);
    this.#pool.directory.give(this.id);
  }
}
