/** Puts the daemon together: directories, loops, devices, sockets. Serves until it is told to end. */
import { pinProcess } from "../ffi/affinity.ts";
import { nowMs } from "../ffi/clock.ts";
import { Reactor } from "../ffi/reactor.ts";
import { ignoreSignal, killSelf, SIGXFSZ } from "../ffi/interrupt.ts";
import { cString, libc } from "../ffi/libc.ts";
import { raiseOpenFiles, setOpenFiles } from "../ffi/limits.ts";
import type { Log } from "../vq/log.ts";
import type { Placement } from "../vq/placement.ts";
import { LoopPool } from "../vq/pool.ts";
import { openCarried } from "./carried.ts";
import { Control } from "./control.ts";
import { type HttpServer, serveHttp } from "./http.ts";
import { createLog, type DaemonLog } from "./log.ts";
import { limited } from "./log_format.ts";
import { logRequests, Monitor } from "./monitor.ts";
import type { Options, ShareOptions } from "./options.ts";
import { RunningShares } from "./running_shares.ts";
import { confine } from "./sandbox.ts";
import { Notifier } from "./systemd.ts";

const EXIT_FAILED = 1;
const AT_FDCWD = -100;
/** Threads for calls and requests that may wait, started as they are needed. */
const HELPERS = 16;
/** Open files and nodes hold descriptors. virtiofsd asks for as many. */
const OPEN_FILES = 1_000_000;
/** Who asks for an end gets it within five seconds, whatever the requests in flight wait for. */
const END_MS = 4000;

/** Serves as the options say. Resolves with the exit status. `url` is the program's, and of the threads of loops. */
export async function serve(options: Options, url: string): Promise<number> {
  const carried = options.carried = openCarried(options);
  const notifier = new Notifier(carried.notify);
  const { logFile, syslog, logLevel, logFormat } = options;
  let log: DaemonLog;
  try {
    const file = logFile === undefined ? {} : { file: { path: logFile, fd: carried.logFile } };
    log = createLog(logLevel, { ...(syslog ? { syslog: carried.log } : {}), ...file }, logFormat);
  } catch (error) {
    createLog("error").error((error as Error).message);
    return EXIT_FAILED;
  }
  for (const note of options.notes ?? []) log.info(note);
  try {
    return await serveShares(options, url, log, notifier);
  } catch (error) {
    log.error((error as Error).message);
    notifier.tell(`STATUS=${(error as Error).message}`);
    return EXIT_FAILED;
  }
}

async function serveShares(options: Options, url: string, log: DaemonLog, notifier: Notifier): Promise<number> {
  const { loops, cpuAffinity, pollMaxUs, logLevel } = options;
  ignoreSignal(SIGXFSZ);
  if (options.rlimitNofile === undefined) raiseOpenFiles(OPEN_FILES);
  else if (options.rlimitNofile !== 0) setOpenFiles(options.rlimitNofile);
  const finishSandbox = confine(options, url, log);
  if (cpuAffinity !== undefined) pinProcess(cpuAffinity);
  const ended = Promise.withResolvers<number>();
  const pool = new LoopPool({
    count: loops,
    helpers: options.threadPoolSize || HELPERS,
    pollMaxUs,
    awake: options.carried?.awake,
    placements: Array.from({ length: loops }, (_, loop) => placement(options, loop)),
    debug: logLevel === "debug",
    // What loops say, a guest may have caused.
    log: limited(log),
    spawn: () => new Worker(url, { type: "module" }),
    onFatal: (index, reason) => {
      log.error(`loop ${index} met a fault of ringfsd's own, please report it: ${reason}`);
      ended.resolve(EXIT_FAILED);
    },
  });
  // Whoever finds a socket there may tell the process to end.
  let interrupts = 0;
  for (const name of ["SIGTERM", "SIGINT"] as const) {
    Deno.addSignalListener(name, () => {
      if (name === "SIGINT" && ++interrupts > 1) endAtOnce(shares.all);
      log.info(`${name}: ending`);
      ended.resolve(0);
    });
  }
  let frontEnds = 0;
  const status = () => `STATUS=${statusOf(shares)}; front ends connected: ${frontEnds}`;
  const tellStatus = () => notifier.tell(status());
  const shares = new RunningShares({
    pool,
    reactor: new Reactor(),
    log,
    lasting: options.controlSocket !== undefined,
    onFrontEnd: (connected) => {
      frontEnds += connected ? 1 : -1;
      tellStatus();
    },
    onChange: tellStatus,
  });
  // What was opened for a sandbox goes with the place that it is for.
  const places = options.metrics?.map((place, i) => ({ ...place, ...options.carried?.metrics?.[i] }));
  const monitor = places && Monitor.open(places, () => shares.served, pool, log);
  Deno.addSignalListener("SIGUSR1", () => logRequests(shares.served, pool, log));
  const control = new Control(options, shares, pool, log);
  let socket: HttpServer | null = null;
  try {
    shares.start(options.shares);
    if (options.controlSocket !== undefined) {
      const { controlSocket: path, controlGroup: group } = options;
      const fd = options.carried?.control;
      socket = serveHttp(
        { path, ...(group === undefined ? {} : { group }), ...(fd === undefined ? {} : { fd }) },
        control.handle,
      );
    }
  } catch (error) {
    // Their sockets' files go at once.
    shares.close().catch(() => {});
    await monitor?.close();
    throw error;
  }
  // The guest's modes are what it wants: it has applied its processes' umask already.
  libc.umask(0);
  finishSandbox();
  if (socket !== null) log.info(`listens to ringfsd ctl on ${options.controlSocket}`);
  Deno.addSignalListener("SIGHUP", () => {
    // A terminal that is closed.
    if (Deno.stdin.isTerminal()) return ended.resolve(0);
    reload(control, log, notifier, status);
  });
  // One loop runs when the first front end comes; a share that nobody uses costs no loop anything.
  await shares.prepare();
  notifier.tell("READY=1", status());
  notifier.watch(() => pool.ping());
  shares.serve();
  shares.ended.then(ended.resolve);
  const code = await ended.promise;
  notifier.unwatch();
  notifier.tell("STOPPING=1", "STATUS=Ending: requests in flight are finished");
  await Promise.all([socket?.close(), monitor?.close()]);
  return code === 0 ? await closeAll(shares, pool, log) : code;
}

/** For who presses Ctrl-C again. An exit would wait for threads that wait for the host's file system. */
function endAtOnce(shares: readonly ShareOptions[]): never {
  for (const { socketPath, reach } of shares) {
    // In a sandbox it is out of reach.
    if (socketPath !== undefined && reach === undefined) libc.unlinkat(AT_FDCWD, cString(socketPath), 0);
  }
  killSelf();
  throw new Error("killed");
}

/** What systemctl status shows. */
function statusOf({ all }: RunningShares): string {
  return all.length === 1 ? `Sharing ${all[0].sharedDir}` : `${all.length} shares`;
}

/** Reads the configuration again, as systemd is told and the log. */
async function reload(control: Control, log: Log, notifier: Notifier, status: () => string): Promise<void> {
  // sd_notify(3): the time is to be that of the monotonic clock.
  notifier.tell(
    "RELOADING=1",
    `MONOTONIC_USEC=${Math.floor(nowMs() * 1000)}`,
    "STATUS=Reading the configuration again",
  );
  try {
    const { notes, ...changes } = await control.reload();
    const said = Object.entries(changes).filter(([, names]) => names.length > 0);
    for (const note of notes) log.warn(note);
    log.info(
      `SIGHUP: ${said.map(([what, names]) => `${what} ${names.join(", ")}`).join("; ") || "nothing has changed"}`,
    );
  } catch (error) {
    log.error(`SIGHUP: nothing was changed: ${(error as Error).message}`);
  }
  notifier.tell("READY=1", status());
}

/** Closes all shares, their requests finished, but waits for no more than a moment. Resolves with the exit status. */
async function closeAll(shares: RunningShares, pool: LoopPool, log: Log): Promise<number> {
  const late = Promise.withResolvers<number>();
  const timer = setTimeout(() => {
    log.error(`ending with requests that did not finish in ${END_MS / 1000} s: the host's file system does not answer`);
    logRequests(shares.every, pool, log);
    late.resolve(EXIT_FAILED);
  }, END_MS);
  const closed = shares.close().then(() => 0);
  try {
    return await Promise.race([closed, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** Where a loop runs. The kernel's threads for its ring do not go with it unless they are told. */
function placement({ cpuAffinity, queueAffinity }: Options, loop: number): Placement {
  const own = queueAffinity?.[loop % queueAffinity.length] ?? null;
  return { loop: own, workers: cpuAffinity ?? own };
}
