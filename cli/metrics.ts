/** What is shown of a running daemon: counts of its shares, queues and loops, put together when somebody asks. */
import { processCpuMs, threadCpuMs } from "../ffi/clock.ts";
import { raiseOpenFiles } from "../ffi/limits.ts";
import { namesOf, operationName, type Place, placeOf, readBytes, type ShareUse, writeBytes } from "../fs/metrics.ts";
import type { InFlight } from "../vq/flight.ts";
import type { LockCounts } from "../vq/spin.ts";
import {
  BATCH_SIZES,
  BUCKETS,
  bucketUs,
  ERRORS,
  type KindCounts,
  type LoopCounts,
  type QueueCounts,
} from "../vq/meter.ts";
import { version } from "./version.ts";

/** What is asked of a share. */
export interface SeenShare {
  readonly id: number;
  readonly name: string;
  readonly dir: string;
  /** The socket's path, or "". */
  readonly socket: string;
  readonly connected: boolean;
  /** Front ends that there were so far. */
  readonly connections: number;
  /** Of each queue. */
  readonly counts: readonly QueueCounts[];
  readonly use: ShareUse;
}

/** What is asked of the loops: LoopPool has it. */
export interface SeenPool {
  readonly views: readonly ({ readonly counts: LoopCounts; readonly inFlight: InFlight[] } | undefined)[];
  readonly helpers: { started: number; idle: number };
  readonly locks: LockCounts;
}

/** What was counted of one operation. Buckets: [up to so many microseconds, requests], those that have some. */
export interface OpMetrics {
  count: number;
  seconds: number;
  requestBytes: number;
  responseBytes: number;
  errors: Record<string, number>;
  buckets: [number, number][];
}

export interface QueueMetrics {
  queue: number;
  /** The loop that serves it, or null. */
  loop: number | null;
  inFlight: number;
  kicks: number;
  calls: number;
  malformed: number;
  broken: number;
  chains: number;
  /** [up to so many chains, batches] */
  batches: [number, number][];
  readBytes: number;
  writeBytes: number;
  ops: Record<string, OpMetrics>;
}

export interface ShareMetrics extends ShareUse {
  share: string;
  id: number;
  dir: string;
  socket: string;
  connected: boolean;
  connections: number;
  inFlight: number;
  /** Requests in flight by where they wait, and how old the oldest is. */
  places: Partial<Record<Place, number>>;
  oldestSeconds: number;
  queues: QueueMetrics[];
}

export interface LoopMetrics {
  loop: number;
  thread: number;
  cpuSeconds: number;
  /** Since it started: asleep, looking for work in vain, and the rest. */
  sleepSeconds: number;
  pollSeconds: number;
  /** For so long idle processors were kept awake. */
  awakeSeconds: number;
  busySeconds: number;
  sleeps: number;
  handoffs: number;
  inFlight: number;
}

export interface ProcessMetrics {
  pid: number;
  startSeconds: number;
  cpuSeconds: number;
  residentBytes: number;
  virtualBytes: number;
  openFiles: number;
  maxFiles: number;
}

/** All of it, as /metrics.json has it. Times are in seconds, sizes in bytes; counts are since the start. */
export interface Snapshot {
  version: string;
  /** When it was taken: seconds since 1970. */
  time: number;
  process: ProcessMetrics;
  helpers: { started: number; idle: number };
  locks: LockCounts;
  loops: LoopMetrics[];
  shares: ShareMetrics[];
}

const PAGE = 4096;

/** The process's own figures. What it reads is open from the beginning, for a sandbox may have no /proc. */
export class ProcessFigures {
  readonly #status = open("/proc/self/status");
  readonly #fds = open("/proc/self/fd");
  readonly #startSeconds = Date.now() / 1000 - performance.now() / 1000;
  readonly #text = new Uint8Array(PAGE);
  readonly #maxFiles = raiseOpenFiles(0);

  read(): ProcessMetrics {
    const status = this.#read();
    const bytes = (name: string) => 1024 * Number(new RegExp(`^${name}:\\s*(\\d+) kB`, "m").exec(status)?.[1] ?? 0);
    return {
      pid: Deno.pid,
      startSeconds: this.#startSeconds,
      cpuSeconds: processCpuMs() / 1000,
      residentBytes: bytes("VmRSS"),
      virtualBytes: bytes("VmSize"),
      // Linux 6.2 and later say how many there are: proc_pid_fd(5). Of older kernels it is not known: 0.
      openFiles: this.#fds?.statSync().size ?? 0,
      maxFiles: this.#maxFiles,
    };
  }

  close(): void {
    this.#status?.close();
    this.#fds?.close();
  }

  /** proc_pid_status(5). */
  #read(): string {
    if (this.#status === null) return "";
    this.#status.seekSync(0, Deno.SeekMode.Start);
    const n = this.#status.readSync(this.#text) ?? 0;
    return new TextDecoder().decode(this.#text.subarray(0, n));
  }
}

function open(path: string): Deno.FsFile | null {
  try {
    return Deno.openSync(path);
  } catch {
    return null;
  }
}

/** Takes a snapshot. No loop is asked or disturbed. */
export function takeSnapshot(shares: Iterable<SeenShare>, pool: SeenPool, figures: ProcessFigures): Snapshot {
  const flight = pool.views.flatMap((view) => view?.inFlight ?? []);
  return {
    version: version(),
    time: Date.now() / 1000,
    process: figures.read(),
    helpers: pool.helpers,
    locks: pool.locks,
    loops: pool.views.flatMap((view, loop) => view === undefined ? [] : [loopMetrics(loop, view)]),
    shares: distinct([...shares].map((share) => shareMetrics(share, flight.filter((one) => one.device === share.id)))),
  };
}

/** Two shares may have the same name (a path that was given again); their metrics may not. */
function distinct(shares: ShareMetrics[]): ShareMetrics[] {
  const names = new Set<string>();
  for (const share of shares) {
    if (names.has(share.share)) share.share += `#${share.id}`;
    names.add(share.share);
  }
  return shares;
}

function loopMetrics(loop: number, view: { counts: LoopCounts; inFlight: InFlight[] }): LoopMetrics {
  const { thread, upMs, sleptMs, polledMs, sleeps, away, awakeMs } = view.counts;
  return {
    loop,
    thread,
    cpuSeconds: threadCpuMs(thread) / 1000,
    sleepSeconds: sleptMs / 1000,
    pollSeconds: polledMs / 1000,
    awakeSeconds: awakeMs / 1000,
    busySeconds: Math.max(0, upMs - sleptMs - polledMs) / 1000,
    sleeps,
    handoffs: away,
    inFlight: view.inFlight.length,
  };
}

function shareMetrics(share: SeenShare, flight: readonly InFlight[]): ShareMetrics {
  const { name, id, dir, socket, connected, connections, use } = share;
  const places: Partial<Record<Place, number>> = {};
  for (const one of flight) places[placeOf(one)] = (places[placeOf(one)] ?? 0) + 1;
  return {
    share: name,
    id,
    dir,
    socket,
    connected,
    connections,
    ...use,
    inFlight: flight.length,
    places,
    oldestSeconds: Math.max(0, ...flight.map(({ ageMs }) => ageMs)) / 1000,
    queues: share.counts.flatMap((counts, queue) => {
      if (counts.loop < 0 && counts.chains === 0) return [];
      return [queueMetrics(counts, queue, flight.filter((one) => one.queue === queue).length)];
    }),
  };
}

function queueMetrics(counts: QueueCounts, queue: number, inFlight: number): QueueMetrics {
  const { loop, kicks, calls, malformed, broken, chains, batches, kinds } = counts;
  return {
    queue,
    loop: loop < 0 ? null : loop,
    inFlight,
    kicks,
    calls,
    malformed,
    broken,
    chains,
    batches: BATCH_SIZES.map((size, i) => [size, batches[i]]),
    readBytes: readBytes(kinds),
    writeBytes: writeBytes(kinds),
    ops: Object.fromEntries(kinds.map((kind) => [operationName(kind.kind), opMetrics(kind)])),
  };
}

function opMetrics({ count, seconds, bytesIn, bytesOut, errors, buckets }: KindCounts): OpMetrics {
  return {
    count,
    seconds,
    requestBytes: bytesIn,
    responseBytes: bytesOut,
    errors: Object.fromEntries(ERRORS.flatMap((name, i) => errors[i] === 0 ? [] : [[name, errors[i]]])),
    buckets: buckets.flatMap((n, i): [number, number][] => n === 0 ? [] : [[upTo(i), n]]),
  };
}

/** The most microseconds of a bucket; the last has no end. */
function upTo(bucket: number): number {
  return bucket === BUCKETS - 1 ? Number.MAX_SAFE_INTEGER : bucketUs(bucket + 1);
}

/** A request in flight, for the log: what it is, how old, and where it waits. */
export interface FlightLine {
  share: string;
  queue: number;
  loop: number;
  op: string;
  unique: string;
  nodeid: string;
  ageMs: number;
  place: Place;
}

/** All requests in flight, the oldest first. No loop is asked: one that hangs is seen all the same. */
export function requestsInFlight(shares: Iterable<SeenShare>, pool: SeenPool): FlightLine[] {
  const names = new Map([...shares].map(({ id, name }) => [id, name]));
  const lines = pool.views.flatMap((view, loop) =>
    (view?.inFlight ?? []).map((one): FlightLine => ({
      share: names.get(one.device) ?? `device ${one.device}`,
      queue: one.queue,
      loop,
      op: operationName(one.kind),
      ...namesOf(one),
      ageMs: one.ageMs,
      place: placeOf(one),
    }))
  );
  return lines.sort((a, b) => b.ageMs - a.ageMs);
}
