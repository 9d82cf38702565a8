/** Puts the daemon together: directories, loops, devices, sockets. Serves until it is told to end. */
import { pinProcess } from "../ffi/affinity.ts";
import { Reactor } from "../ffi/reactor.ts";
import { ignoreSignal, SIGXFSZ } from "../ffi/interrupt.ts";
import { libc } from "../ffi/libc.ts";
import { raiseOpenFiles, setOpenFiles } from "../ffi/limits.ts";
import type { Log } from "../vq/log.ts";
import type { Placement } from "../vq/placement.ts";
import { LoopPool } from "../vq/pool.ts";
import { createLog, withPrefix } from "./log.ts";
import type { Options, ShareOptions } from "./options.ts";
import { confine } from "./sandbox.ts";
import { ServedShare } from "./served_share.ts";
import { version } from "./version.ts";

const EXIT_FAILED = 1;
/** Threads for calls and requests that may wait, started as they are needed. */
const HELPERS = 16;
/** Open files and nodes hold descriptors. virtiofsd asks for as many. */
const OPEN_FILES = 1_000_000;

/** Serves as the options say. Resolves with the exit status. `url` is the program's, and of the threads of loops. */
export async function serve(options: Options, url: string): Promise<number> {
  const log = createLog(options.logLevel);
  try {
    return await serveShares(options, url, log);
  } catch (error) {
    log.error((error as Error).message);
    return EXIT_FAILED;
  }
}

async function serveShares(options: Options, url: string, log: Log): Promise<number> {
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
    placements: Array.from({ length: loops }, (_, loop) => placement(options, loop)),
    debug: logLevel === "debug",
    log,
    spawn: () => new Worker(url, { type: "module" }),
    onFatal: (index, reason) => {
      log.error(`loop ${index} met a fault of ringfsd's own, please report it: ${reason}`);
      ended.resolve(EXIT_FAILED);
    },
  });
  const several = options.shares.length > 1;
  // All directories before the first socket: what cannot be served whole does not begin.
  const shares = options.shares.map((share, id) => {
    return new ServedShare(
      share,
      id,
      options.shares.length,
      pool,
      several ? withPrefix(log, `share ${nameOf(share)}: `) : log,
    );
  });
  // Whoever finds a socket there may tell the process to end.
  for (const name of ["SIGTERM", "SIGINT"] as const) {
    Deno.addSignalListener(name, () => {
      log.info(`${name}: ending`);
      ended.resolve(0);
    });
  }
  listen(shares);
  // The guest's modes are what it wants: it has applied its processes' umask already.
  libc.umask(0);
  finishSandbox();
  for (const { options } of shares) {
    log.info(`${version()} shares ${options.sharedDir} on ${options.socketPath ?? `descriptor ${options.fd}`}`);
  }
  // One loop runs when the first front end comes; a share that nobody uses costs no loop anything.
  await shares[0].prepare();
  serveAll(shares).then(ended.resolve);
  const status = await ended.promise;
  if (status === 0) await Promise.all(shares.map((share) => share.close()));
  return status;
}

/** Has every share listen, or none. */
function listen(shares: readonly ServedShare[]): void {
  const reactor = new Reactor();
  try {
    for (const share of shares) share.listen(reactor);
  } catch (error) {
    // Their sockets' files go at once; the process ends before the rest is done.
    for (const share of shares) share.close().catch(() => {});
    throw error;
  }
}

/** Serves all shares, each until it ends by itself or fails: the others go on. Resolves with the exit status when none is left. */
async function serveAll(shares: readonly ServedShare[]): Promise<number> {
  let status = 0;
  await Promise.all(shares.map(async (share) => {
    try {
      await share.serve();
      await share.close();
    } catch (error) {
      share.log.error((error as Error).message);
      status = EXIT_FAILED;
    }
  }));
  return status;
}

/** What a share is called in the log. */
function nameOf({ tag, socketPath, fd }: ShareOptions): string {
  return tag ?? socketPath ?? `on descriptor ${fd}`;
}

/** Where a loop runs. The kernel's threads for its ring do not go with it unless they are told. */
function placement({ cpuAffinity, queueAffinity }: Options, loop: number): Placement {
  const own = queueAffinity?.[loop % queueAffinity.length] ?? null;
  return { loop: own, workers: cpuAffinity ?? own };
}
