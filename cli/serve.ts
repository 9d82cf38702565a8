/** Puts the daemon together: directories, loops, devices, sockets. Serves until it is told to end. */
import { pinProcess } from "../ffi/affinity.ts";
import { Reactor } from "../ffi/reactor.ts";
import { ignoreSignal, SIGXFSZ } from "../ffi/interrupt.ts";
import { libc } from "../ffi/libc.ts";
import { raiseOpenFiles, setOpenFiles } from "../ffi/limits.ts";
import type { Log } from "../vq/log.ts";
import type { Placement } from "../vq/placement.ts";
import { LoopPool, type LoopThread } from "../vq/pool.ts";
import { createLog, type DaemonLog } from "./log.ts";
import { limited } from "./log_format.ts";
import { logRequests, Monitor } from "./monitor.ts";
import type { Options, ShareOptions } from "./options.ts";
import { ServedShare } from "./served_share.ts";
import { Notifier } from "./systemd.ts";
import { version } from "./version.ts";

const EXIT_FAILED = 1;
/** Threads for calls and requests that may wait, started as they are needed. */
const HELPERS = 16;
/** Open files and nodes hold descriptors. virtiofsd asks for as many. */
const OPEN_FILES = 1_000_000;
/** Who asks for an end gets it within five seconds, whatever the requests in flight wait for. */
const END_MS = 4000;

/** Serves as the options say. Resolves with the exit status. `spawn` starts a loop's thread. */
export async function serve(options: Options, spawn: () => LoopThread): Promise<number> {
  const log = createLog(options.logLevel, options.syslog, options.logFormat);
  const notifier = new Notifier();
  for (const note of options.notes ?? []) log.info(note);
  try {
    return await serveShares(options, spawn, log, notifier);
  } catch (error) {
    log.error((error as Error).message);
    notifier.tell(`STATUS=${(error as Error).message}`);
    return EXIT_FAILED;
  }
}

async function serveShares(
  options: Options,
  spawn: () => LoopThread,
  log: DaemonLog,
  notifier: Notifier,
): Promise<number> {
  const { loops, cpuAffinity, pollMaxUs, logLevel } = options;
  if (cpuAffinity !== undefined) pinProcess(cpuAffinity);
  // The guest's modes are what it wants: it has applied its processes' umask already.
  libc.umask(0);
  ignoreSignal(SIGXFSZ);
  if (options.rlimitNofile === undefined) raiseOpenFiles(OPEN_FILES);
  else if (options.rlimitNofile !== 0) setOpenFiles(options.rlimitNofile);
  const ended = Promise.withResolvers<number>();
  const pool = new LoopPool({
    count: loops,
    helpers: options.threadPoolSize || HELPERS,
    pollMaxUs,
    placements: Array.from({ length: loops }, (_, loop) => placement(options, loop)),
    debug: logLevel === "debug",
    // What loops say, a guest may have caused.
    log: limited(log),
    spawn,
    onFatal: (index, reason) => {
      log.error(`loop ${index} met a fault of ringfsd's own, please report it: ${reason}`);
      ended.resolve(EXIT_FAILED);
    },
  });
  log.several = options.shares.length > 1;
  // All directories before the first socket: what cannot be served whole does not begin.
  const shares = options.shares.map((share, id) => {
    return new ServedShare(share, id, options.shares.length, pool, log);
  });
  // Those that are served now: one that has closed has no memory to look at.
  const served = new Set(shares);
  const monitor = options.metrics && Monitor.open(options.metrics, () => served, pool, log);
  Deno.addSignalListener("SIGUSR1", () => logRequests(served, pool, log));
  // Whoever finds a socket there may tell the process to end.
  for (const name of ["SIGTERM", "SIGINT"] as const) {
    Deno.addSignalListener(name, () => {
      log.info(`${name}: ending`);
      ended.resolve(0);
    });
  }
  const status = statusOf(options.shares);
  try {
    listen(shares, (connected) => notifier.tell(`STATUS=${status(connected ? 1 : -1)}`));
  } catch (error) {
    await monitor?.close();
    throw error;
  }
  for (const { options, log } of shares) {
    log.info(`${version()} shares ${options.sharedDir} on ${options.socketPath ?? `descriptor ${options.fd}`}`);
  }
  // One loop runs when the first front end comes; a share that nobody uses costs no loop anything.
  await shares[0].prepare();
  notifier.tell("READY=1", `STATUS=${status(0)}`);
  notifier.watch(() => pool.ping());
  serveAll(shares, (share) => served.delete(share)).then(ended.resolve);
  const code = await ended.promise;
  notifier.unwatch();
  notifier.tell("STOPPING=1", "STATUS=Ending: requests in flight are finished");
  await monitor?.close();
  return code === 0 ? await closeAll(shares, pool, log) : code;
}

/** What systemctl status shows; the result is told of each front end that comes (1) or goes (-1). */
function statusOf(shares: readonly ShareOptions[]): (change: number) => string {
  const what = shares.length === 1 ? `Sharing ${shares[0].sharedDir}` : `${shares.length} shares`;
  let frontEnds = 0;
  return (change) => {
    frontEnds += change;
    return `${what}; front ends connected: ${frontEnds}`;
  };
}

/** Closes all shares, their requests finished, but waits for no more than a moment. Resolves with the exit status. */
async function closeAll(shares: readonly ServedShare[], pool: LoopPool, log: Log): Promise<number> {
  const late = Promise.withResolvers<number>();
  const timer = setTimeout(() => {
    log.error(`ending with requests that did not finish in ${END_MS / 1000} s: the host's file system does not answer`);
    logRequests(shares, pool, log);
    late.resolve(EXIT_FAILED);
  }, END_MS);
  const closed = Promise.all(shares.map((share) => share.close())).then(() => 0);
  try {
    return await Promise.race([closed, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** Has every share listen, or none. */
function listen(shares: readonly ServedShare[], onFrontEnd: (connected: boolean) => void): void {
  const reactor = new Reactor();
  try {
    for (const share of shares) share.listen(reactor, onFrontEnd);
  } catch (error) {
    // Their sockets' files go at once; the process ends before the rest is done.
    for (const share of shares) share.close().catch(() => {});
    throw error;
  }
}

/** Serves all shares, each until it ends by itself or fails: the others go on. Resolves with the exit status when none is left. */
async function serveAll(shares: readonly ServedShare[], onEnd: (share: ServedShare) => void): Promise<number> {
  let status = 0;
  await Promise.all(shares.map(async (share) => {
    try {
      await share.serve();
      onEnd(share);
      await share.close();
    } catch (error) {
      share.log.error((error as Error).message);
      status = EXIT_FAILED;
    }
  }));
  return status;
}

/** Where a loop runs. The kernel's threads for its ring do not go with it unless they are told. */
function placement({ cpuAffinity, queueAffinity }: Options, loop: number): Placement {
  const own = queueAffinity?.[loop % queueAffinity.length] ?? null;
  return { loop: own, workers: cpuAffinity ?? own };
}
