/**
 * What a running daemon can be told: over the control socket (HTTP with JSON, `ringfsd ctl` asks there), and by SIGHUP. One thing is
 * done after the other.
 */
import { nowMs } from "../ffi/clock.ts";
import type { LoopPool } from "../vq/pool.ts";
import type { Limit } from "../vq/limiter.ts";
import type { DaemonLog } from "./log.ts";
import {
  laterShare,
  LOG_LEVELS,
  type LogLevel,
  nameOf,
  type Options,
  parseOptions,
  sameButLimit,
  type ShareOptions,
} from "./options.ts";
import { NoSuchShare, type RunningShares, type ShareState } from "./running_shares.ts";
import { IOPS_MAX, MBPS_MAX, UNLIMITED } from "../vq/limiter.ts";
import { version } from "./version.ts";

/** What `reload` has done, and what it could not. */
export interface Reloaded {
  added: string[];
  removed: string[];
  limited: string[];
  /** Taken off and put on again with other options: nobody was connected. */
  restarted: string[];
  /** One line each: what asks for more than a reload. */
  notes: string[];
}

/** Why no share can be added to a daemon with these options, or "". The one place where that is decided. */
export function whyNoAdd(options: Options): string {
  // Where the process has shut itself in with the directories that it was started with, others are out of its reach.
  return options.sandbox === "none" ? "" : "add needs --sandbox none (or a directory opened at start)";
}

const GONE =
  "a guest had it: its mount hangs until its device is unplugged or the share is back, so unmount it first next time";
const UNFINISHED = "its requests in flight do not end: the host's file system does not answer; it is gone when they do";

export class Control {
  readonly #started = nowMs();
  /** The options as they were read last. */
  #options: Options;
  /** Shares of the command line and the configuration file, by their names. */
  #configured: Map<string, ShareOptions>;
  #last: Promise<unknown> = Promise.resolve();

  constructor(
    options: Options,
    readonly shares: RunningShares,
    readonly pool: LoopPool,
    readonly log: DaemonLog,
  ) {
    this.#options = options;
    this.#configured = named(options.shares);
  }

  async ping(): Promise<Record<string, unknown>> {
    await this.pool.ping();
    const { log, shares, pool } = this;
    return {
      version: version(),
      pid: Deno.pid,
      uptimeSeconds: Math.floor((nowMs() - this.#started) / 1000),
      shares: shares.all.length,
      loops: pool.count,
      logLevel: log.level,
    };
  }

  list(): ShareState[] {
    return this.shares.states;
  }

  /** Adds a share: text as behind --share, or an object. Throws an Error with a sentence. */
  add(said: string | Record<string, unknown>): Promise<{ name: string; notes: string[] }> {
    return this.#inTurn(() => {
      const why = whyNoAdd(this.#options);
      if (why !== "") throw new Error(why);
      const share = laterShare(said, this.#options.later!, this.shares.all);
      this.shares.add(share);
      return { name: nameOf(share), notes: this.#notes(share) };
    });
  }

  remove(name: string, force: boolean): Promise<{ name: string; notes: string[] }> {
    return this.#inTurn(async () => {
      const { connected, ended } = await this.shares.remove(name, force);
      this.log.debug(`share ${name} was removed`);
      return { name, notes: [...(connected ? [GONE] : []), ...(ended ? [] : [UNFINISHED])] };
    });
  }

  /** Changes what is said of the two; 0: any number. */
  limit(name: string, change: Partial<Limit>): Promise<Limit> {
    return this.#inTurn(async () => {
      const limit = { ...this.shares.limitOf(name), ...change };
      await this.shares.setLimit(name, limit);
      this.log.info(`share ${name}: limit ${limit.iops || "no"} requests/s, ${limit.mbps || "no"} MB/s`);
      return limit;
    });
  }

  setLogLevel(level: LogLevel): void {
    this.log.level = level;
    this.pool.debug = level === "debug";
  }

  /**
   * Opens the log anew, reads command line and configuration file again, and makes what is served what they say. Shares that were added over
   * the control socket stay. Rejects with a sentence where the file cannot be read or is wrong; then nothing was changed.
   */
  reload(): Promise<Reloaded> {
    return this.#inTurn(async () => {
      this.log.reopen();
      const done: Reloaded = { added: [], removed: [], limited: [], restarted: [], notes: [] };
      const { later } = this.#options;
      if (later === undefined) return done;
      let complaint = "";
      const parsed = await parseOptions(later.args, () => {}, (text) => void (complaint += text), later.start);
      if (!("options" in parsed)) {
        throw new Error(complaint.replace(/^ringfsd: /, "").replace(/ \(see ringfsd --help\)\n$/, ""));
      }
      await this.#become(parsed.options, done);
      return done;
    });
  }

  async #become(options: Options, done: Reloaded): Promise<void> {
    const wanted = named(options.shares);
    if (options.logLevel !== this.#options.logLevel) this.setLogLevel(options.logLevel);
    done.notes.push(...processNotes(this.#options, options));
    for (const name of this.#configured.keys()) {
      if (wanted.has(name) || !this.#has(name)) continue;
      const { notes } = await this.#removed(name);
      done.removed.push(name);
      done.notes.push(...notes.map((note) => `share ${name}: ${note}`));
    }
    for (const [name, share] of wanted) {
      try {
        await this.#makeSo(name, share, done);
      } catch (error) {
        done.notes.push(`share ${name}: ${(error as Error).message}`);
      }
    }
    // What only the start could settle stays: the loops, what was opened for a sandbox, options that are noted until a restart.
    this.#options = { ...this.#options, ...options, loops: this.#options.loops };
    this.#configured = wanted;
  }

  async #makeSo(name: string, share: ShareOptions, done: Reloaded): Promise<void> {
    const running = this.shares.all.find((one) => nameOf(one) === name);
    const why = whyNoAdd(this.#options);
    if (running === undefined) {
      if (why !== "") throw new Error(why);
      // Its socket was passed, and closed when the share ended.
      if (share.fd !== undefined) throw new Error("a share with a passed socket takes a restart of ringfsd");
      this.shares.add(share);
      done.added.push(name);
      return;
    }
    if (sameButLimit(running, share)) {
      const { iops, mbps } = share.limit ?? UNLIMITED;
      const now = this.shares.limitOf(name);
      if (now.iops === iops && now.mbps === mbps) return;
      await this.shares.setLimit(name, { iops, mbps });
      done.limited.push(name);
      return;
    }
    if (share.fd !== undefined || running.fd !== undefined || why !== "" || this.shares.isConnected(name)) {
      throw new Error("its options have changed, which needs a restart of that share: remove and add it");
    }
    await this.#removed(name);
    this.shares.add(share);
    done.restarted.push(name);
  }

  #has(name: string): boolean {
    return this.shares.all.some((one) => nameOf(one) === name);
  }

  async #removed(name: string): Promise<{ notes: string[] }> {
    const { connected, ended } = await this.shares.remove(name, false);
    return { notes: [...(connected ? [GONE] : []), ...(ended ? [] : [UNFINISHED])] };
  }

  /** What whoever adds it should know. */
  #notes(share: ShareOptions): string[] {
    const { count } = this.pool;
    if (share.numRequestQueues <= count) return [];
    return [
      `${share.numRequestQueues} request queues share ${count} loops: there are as many as there were at the start`,
    ];
  }

  #inTurn<T>(action: () => T | Promise<T>): Promise<T> {
    const result = this.#last.then(action);
    this.#last = result.catch(() => {});
    return result;
  }

  /** Answers a request of the control socket. */
  readonly handle = async (request: Request): Promise<Response> => {
    try {
      return Response.json(await this.#answer(request));
    } catch (error) {
      const status = error instanceof NoSuchShare ? 404 : 400;
      return Response.json({ error: (error as Error).message }, { status });
    }
  };

  async #answer(request: Request): Promise<unknown> {
    const { pathname, searchParams } = new URL(request.url);
    const [, first, second, name = "", what = "", ...rest] = pathname.split("/");
    const route = first === "v1" && rest.length === 0
      ? `${request.method} ${second}${name === "" ? "" : "/NAME"}${what === "" ? "" : `/${what}`}`
      : "";
    const share = decodeURIComponent(name);
    switch (route) {
      case "GET ping":
        return await this.ping();
      case "GET shares":
        return { shares: this.list() };
      case "POST shares": {
        const { share: text, ...object } = await body(request);
        return await this.add(typeof text === "string" ? text : object);
      }
      case "DELETE shares/NAME":
        return await this.remove(share, searchParams.has("force"));
      case "PATCH shares/NAME/limit":
        return await this.limit(share, limitOf(await body(request)));
      case "PUT log-level": {
        const { level } = await body(request);
        const known = LOG_LEVELS.find((one) => one === level);
        if (known === undefined) throw new Error(`the log level is one of ${LOG_LEVELS.join(", ")}`);
        this.setLogLevel(known);
        return { level: known };
      }
      case "POST reload":
        return await this.reload();
    }
    throw new Error(`${request.method} ${pathname} means nothing here: see docs/CONTROL.md`);
  }
}

function named(shares: readonly ShareOptions[]): Map<string, ShareOptions> {
  return new Map(shares.map((share) => [nameOf(share), share]));
}

/** What of the process would be another if it were started now. */
function processNotes(before: Options, now: Options): string[] {
  const names = [
    ["threadPoolSize", "thread-pool-size"],
    ["pollMaxUs", "poll-max-us"],
    ["letHalt", "keep-awake"],
    ["rlimitNofile", "rlimit-nofile"],
    ["cpuAffinity", "cpu-affinity"],
    ["queueAffinity", "queue-affinity"],
    ["syslog", "syslog"],
    ["logFile", "log-file"],
    ["logFormat", "log-format"],
    ["metrics", "metrics-socket or metrics-address"],
    ["controlSocket", "control-socket"],
    ["controlGroup", "control-group"],
  ] as const;
  return names.filter(([key]) => JSON.stringify(before[key]) !== JSON.stringify(now[key])).map(([, name]) =>
    `${name} has changed, which takes a restart of ringfsd`
  );
}

async function body(request: Request): Promise<Record<string, unknown>> {
  let read: unknown;
  try {
    read = await request.json();
  } catch {
    // Said below.
  }
  if (typeof read !== "object" || read === null || Array.isArray(read)) {
    throw new Error("the body must be a JSON object");
  }
  return read as Record<string, unknown>;
}

function limitOf(said: Record<string, unknown>): Partial<Limit> {
  const most = { iops: IOPS_MAX, mbps: MBPS_MAX };
  const limit: Partial<Limit> = {};
  for (const [key, value] of Object.entries(said)) {
    if (key !== "iops" && key !== "mbps") throw new Error(`a limit has iops and mbps, and no ${key}`);
    if (!Number.isInteger(value) || (value as number) < 0 || (value as number) > most[key]) {
      throw new Error(`${key} takes a whole number from 0 (any number) to ${most[key]}`);
    }
    limit[key] = value as number;
  }
  if (Object.keys(limit).length === 0) throw new Error("give iops or mbps, or both");
  return limit;
}
