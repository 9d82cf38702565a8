/** Puts the daemon together: directory, loops, device, socket. Serves until it is told to end. */
import { Reactor } from "../ffi/reactor.ts";
import { ignoreSignal, SIGXFSZ } from "../ffi/interrupt.ts";
import { libc } from "../ffi/libc.ts";
import { raiseOpenFiles, setOpenFiles } from "../ffi/limits.ts";
import { configSpace, helpersAtStart, openShare } from "../fs/share.ts";
import { Server } from "../vhost/server.ts";
import { DeviceControl } from "../vq/control.ts";
import type { Log } from "../vq/log.ts";
import { LoopPool, type LoopThread } from "../vq/pool.ts";
import { createLog } from "./log.ts";
import type { Options } from "./options.ts";
import { version } from "./version.ts";

const EXIT_FAILED = 1;
/** Threads for calls and requests that may wait, started as they are needed. */
const HELPERS = 16;
/** Every node that the guest knows holds a descriptor. virtiofsd asks for as many. */
const OPEN_FILES = 1_000_000;

/** Serves as the options say. Resolves with the exit status. `spawn` starts a loop's thread. */
export async function serve(options: Options, spawn: () => LoopThread): Promise<number> {
  const log = createLog(options.logLevel);
  try {
    return await serveDevice(options, spawn, log);
  } catch (error) {
    log.error((error as Error).message);
    return EXIT_FAILED;
  }
}

async function serveDevice(options: Options, spawn: () => LoopThread, log: Log): Promise<number> {
  const { sharedDir, socketPath, fd, tag, exitOnDisconnect, numRequestQueues, pollMaxUs, logLevel } = options;
  // The guest's modes are what it wants: it has applied its processes' umask already.
  libc.umask(0);
  ignoreSignal(SIGXFSZ);
  if (options.rlimitNofile === undefined) raiseOpenFiles(OPEN_FILES);
  else if (options.rlimitNofile !== 0) setOpenFiles(options.rlimitNofile);
  const loops = numRequestQueues;
  const service = openShare(sharedDir, options.fs, loops);
  const ended = Promise.withResolvers<number>();
  const pool = new LoopPool({
    count: loops,
    helpers: options.threadPoolSize || HELPERS,
    pollMaxUs,
    debug: logLevel === "debug",
    log,
    spawn,
    onFatal: (index, reason) => {
      log.error(`loop ${index} met a fault of ringfsd's own, please report it: ${reason}`);
      ended.resolve(EXIT_FAILED);
    },
  });
  const device = new DeviceControl({
    id: 0,
    pool,
    // The high-priority queue and the request queues.
    queueCount: 1 + numRequestQueues,
    features: 0n,
    config: tag === undefined ? new Uint8Array(0) : configSpace(tag, numRequestQueues),
    service,
    helpers: helpersAtStart(service.kind),
    // Queue 0 is the high-priority one: it has little to say, and shares the loop of the first request queue.
    loopOf: (queue) => Math.max(0, queue - 1),
  });
  const reactor = new Reactor();
  const server = new Server({
    reactor,
    device,
    log,
    ...(socketPath === undefined ? {} : { socketPath }),
    ...(fd === undefined ? {} : { fd }),
    exitOnDisconnect,
  });
  for (const name of ["SIGTERM", "SIGINT"] as const) {
    Deno.addSignalListener(name, () => {
      log.info(`${name}: ending`);
      ended.resolve(0);
    });
  }
  log.info(`${version()} shares ${sharedDir} on ${socketPath ?? `descriptor ${fd}`}`);
  await device.prepare();
  server.serve().then(() => ended.resolve(0), (error) => {
    log.error((error as Error).message);
    ended.resolve(EXIT_FAILED);
  });
  const status = await ended.promise;
  if (status === 0) await server.close();
  return status;
}
