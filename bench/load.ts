/**
 * The load generator: one guest, `queues` request queues with a thread each, `depth` requests of one kind in flight on each.
 * Run by itself: `deno run -A bench/load.ts --help`.
 */
import { parseArgs } from "node:util";
import { Histogram } from "./histogram.ts";
import { type LoadEnd, type LoadStart, MEASURE, STOP } from "./load_worker.ts";
import { cpuNs, machineBusyNs, type MemoryUse, memoryUse, processTree, treeCpuNs } from "./process.ts";
import { Session } from "./session.ts";
import { arenaBytes, descriptorsNeeded, type Job, type Mode, MODES } from "./workloads.ts";

/** What to run. Sizes in bytes, times in seconds. */
export interface LoadOptions {
  mode: Mode;
  depth: number;
  blockBytes: number;
  queues: number;
  seconds: number;
  /** Runs before measuring, for caches and compilers to settle. */
  warmUpSeconds: number;
  /** Data in segments of 4096, as a guest's page cache gives them; 0 for one. */
  segmentBytes: number;
  eventIdx: boolean;
  indirect: boolean;
  /** The driver looks for used elements in a loop instead of sleeping. */
  busyPoll: boolean;
  /** A file in the share's root, larger than a block. */
  fileName: string;
  /** The daemon; by default the process that listens. Its descendants count too. */
  pid?: number;
  /** How long to try to connect, in milliseconds. */
  retryMs: number;
}

export const LOAD_DEFAULTS: LoadOptions = {
  mode: "randread",
  depth: 32,
  blockBytes: 4096,
  queues: 1,
  seconds: 2,
  warmUpSeconds: 0.3,
  segmentBytes: 4096,
  eventIdx: true,
  indirect: true,
  busyPoll: false,
  fileName: "big",
  retryMs: 0,
};

/** What came of it. Latencies and CPU times in microseconds, memory in bytes. */
export interface LoadResult {
  mode: Mode;
  queues: number;
  opsPerSecond: number;
  mibPerSecond: number;
  p50: number;
  p99: number;
  p999: number;
  max: number;
  kicksPerOp: number;
  callsPerOp: number;
  /** The daemon's CPU time per operation. */
  cpuPerOp: number;
  /** The daemon's CPU time per second of wall time, in processors. */
  cpuShare: number;
  /** What neither the daemon nor the generator used, in processors: it disturbed the measurement. */
  otherCpus: number;
  rss: number;
  pss: number;
  pssOwn: number;
  errors: number;
  /** An errno, where there were errors. */
  firstError: number;
}

export type IdleResult = Pick<LoadResult, "cpuShare" | "rss" | "pss" | "pssOwn">;

function sleep(seconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}

function powerOfTwo(atLeast: number): number {
  return 2 ** Math.ceil(Math.log2(atLeast));
}

/** Opens a guest with room and queues enough for the load. */
function openSession(socketPath: string, options: LoadOptions): Session {
  const size = Math.max(1024, powerOfTwo(descriptorsNeeded(options)));
  if (size > 32768) throw new RangeError(`depth ${options.depth} needs more than 32768 descriptors`);
  const perQueue = arenaBytes(options) + size * 32;
  const { eventIdx, indirect, busyPoll, queues, retryMs } = options;
  return Session.open(socketPath, {
    retryMs,
    eventIdx,
    indirect,
    requestQueues: queues,
    memory: Math.ceil((4 << 20) + queues * perQueue + 65536),
    maxData: 1 << 20,
    queue: { size, busyPoll },
  });
}

/** Finds and opens the file. */
function prepare({ client }: Session, options: LoadOptions): Omit<Job, "thread"> {
  const entry = client.lookup(1, options.fileName);
  if (entry.error !== 0) throw new Error(`${options.fileName} is not in the share: error ${entry.error}`);
  const file = client.open(entry.nodeid, 2);
  if (file.error !== 0) throw new Error(`cannot open ${options.fileName}: error ${file.error}`);
  const { mode, depth, blockBytes, segmentBytes, queues, fileName } = options;
  const fileBytes = entry.attr.size;
  return { mode, depth, blockBytes, segmentBytes, queues, fileName, fileBytes, nodeid: entry.nodeid, fh: file.fh };
}

/** What attached guests cost that do nothing, one a socket: CPU in processors, memory in bytes. */
export async function runIdle(socketPaths: readonly string[], pid: number, seconds: number): Promise<IdleResult> {
  const sessions: Session[] = [];
  try {
    for (const path of socketPaths) sessions.push(Session.open(path, { retryMs: 2000 }));
    await sleep(0.5);
    const pids = processTree(pid);
    const before = treeCpuNs(pids);
    await sleep(seconds);
    return { cpuShare: (treeCpuNs(pids) - before) / (seconds * 1e9), ...memoryUse(pids) };
  } finally {
    for (const session of sessions) session.close();
  }
}

/** Runs one load against the daemon that listens at `socketPath`. Throws where the daemon fails. */
export async function runLoad(socketPath: string, given: Partial<LoadOptions> = {}): Promise<LoadResult> {
  const options = { ...LOAD_DEFAULTS, ...given };
  const session = openSession(socketPath, options);
  const threads: Thread[] = [];
  const phase = new Int32Array(new SharedArrayBuffer(4));
  try {
    const job = prepare(session, options);
    for (let thread = 0; thread < options.queues; thread++) {
      const size = arenaBytes(options);
      const arena = { addr: session.memory.allocate(size, 4096), size };
      const queue = session.queues[thread + 1].snapshot();
      threads.push(startThread({ regions: session.memory.share(), arena, queue, phase, job: { ...job, thread } }));
    }
    return await measure(options, options.pid ?? session.frontend.peerPid, phase, threads);
  } finally {
    // The threads use the memory: it goes when they are done, also where one of them has failed.
    Atomics.store(phase, 0, STOP);
    await Promise.allSettled(threads.map((thread) => thread.end));
    for (const { worker } of threads) worker.terminate();
    session.close();
  }
}

/** A load thread: in its loop, and at its end. */
interface Thread {
  worker: Worker;
  ready: Promise<void>;
  end: Promise<LoadEnd>;
}

function startThread(start: LoadStart): Thread {
  const worker = new Worker(new URL("./load_worker.ts", import.meta.url), { type: "module" });
  const ready = Promise.withResolvers<void>(), end = Promise.withResolvers<LoadEnd>();
  worker.onmessage = (event: MessageEvent<"ready" | LoadEnd>) => {
    if (event.data === "ready") ready.resolve();
    else end.resolve(event.data);
  };
  worker.onerror = (event) => {
    event.preventDefault();
    const error = new Error(`load thread: ${event.message}`);
    ready.reject(error);
    end.reject(error);
  };
  worker.postMessage(start);
  return { worker, ready: ready.promise, end: end.promise };
}

async function measure(
  options: LoadOptions,
  pid: number,
  phase: Int32Array<SharedArrayBuffer>,
  threads: readonly Thread[],
): Promise<LoadResult> {
  const ends = Promise.all(threads.map((thread) => thread.end));
  // A thread ends before it is told to only where it gives up.
  const failed = Promise.race(threads.map((thread) => thread.end));
  // Both are awaited below; until then a rejection is not unhandled.
  for (const promise of [ends, failed]) promise.catch(() => {});
  await Promise.all(threads.map((thread) => thread.ready));
  await Promise.race([sleep(options.warmUpSeconds), failed]);
  const cost = startMeter(pid);
  Atomics.store(phase, 0, MEASURE);
  await Promise.race([sleep(options.seconds), failed]);
  const costs = cost();
  Atomics.store(phase, 0, STOP);
  // Reading it takes tens of milliseconds, in which requests would go on to be counted.
  const memory = memoryUse(processTree(pid));
  return summarize(options, await ends, costs, memory);
}

/** What the measured time cost, CPU times in nanoseconds. */
interface Costs {
  daemonNs: number;
  otherNs: number;
}

/** Begins to count; the function returned says what was used since. */
function startMeter(pid: number): () => Costs {
  const pids = processTree(pid);
  const [daemon, generator, machine] = [treeCpuNs(pids), cpuNs(Deno.pid), machineBusyNs()];
  return () => {
    const daemonNs = treeCpuNs(pids) - daemon;
    const otherNs = Math.max(0, machineBusyNs() - machine - daemonNs - (cpuNs(Deno.pid) - generator));
    return { daemonNs, otherNs };
  };
}

function summarize(
  { mode, queues }: LoadOptions,
  ends: readonly LoadEnd[],
  { daemonNs, otherNs }: Costs,
  memory: MemoryUse,
): LoadResult {
  for (const end of ends) if (end.failure) throw new Error(end.failure);
  const sum = (of: (end: LoadEnd) => number) => ends.reduce((total, end) => total + of(end), 0);
  const latency = new Histogram();
  for (const end of ends) latency.add(end.latency);
  const ops = sum((end) => end.ops);
  const perOp = (value: number) => ops === 0 ? 0 : value / ops;
  const elapsedNs = sum((end) => end.elapsedNs) / ends.length;
  const us = (q: number) => latency.percentile(q) / 1000;
  return {
    mode,
    queues,
    opsPerSecond: sum((end) => end.ops / end.elapsedNs * 1e9),
    mibPerSecond: sum((end) => end.bytes / end.elapsedNs * 1e9) / 1048576,
    p50: us(0.5),
    p99: us(0.99),
    p999: us(0.999),
    max: latency.max / 1000,
    kicksPerOp: perOp(sum((end) => end.kicks)),
    callsPerOp: perOp(sum((end) => end.calls)),
    cpuPerOp: perOp(daemonNs / 1000),
    cpuShare: daemonNs / elapsedNs,
    otherCpus: otherNs / elapsedNs,
    ...memory,
    errors: sum((end) => end.errors),
    firstError: ends.find((end) => end.firstError)?.firstError ?? 0,
  };
}

/** One line, in the manner of fio. */
export function describe(r: LoadResult): string {
  const n = (value: number, digits = 1) => value.toFixed(digits);
  return `${r.mode} | ${n(r.opsPerSecond, 0)} op/s ${n(r.mibPerSecond)} MiB/s | latency us p50 ${n(r.p50)} p99 ${
    n(r.p99)
  } ` +
    `p99.9 ${n(r.p999)} max ${n(r.max, 0)} | daemon cpu ${n(r.cpuPerOp, 2)} us/op, ${n(r.cpuShare, 2)} processors | ` +
    `kicks/op ${n(r.kicksPerOp, 3)} calls/op ${n(r.callsPerOp, 3)} | rss ${n(r.rss / 1048576)} pss ${
      n(r.pss / 1048576)
    } MiB | ` +
    `other processes ${n(r.otherCpus, 2)} | errors ${r.errors}${r.errors ? ` (first: ${r.firstError})` : ""}`;
}

const HELP = `usage: load.ts --socket-path S [options]
  --mode M          ${MODES.join(" ")}
  --depth N         requests in flight on each queue [32]
  --block BYTES     size of a read or write [4096]
  --segment BYTES   data in segments of this size, 0 for one [4096]
  --queues N        request queues, each with a thread [1]
  --seconds S       measured time [2]
  --file NAME       file in the share's root [big]
  --pid PID         the daemon, if it is not the process that listens
  --poll            the driver polls instead of sleeping
  --no-event-idx, --no-indirect   ring features left out`;

async function main(): Promise<void> {
  const text = { type: "string" } as const, flag = { type: "boolean" } as const;
  const { values } = parseArgs({
    args: Deno.args,
    options: {
      "socket-path": text,
      mode: text,
      depth: text,
      block: text,
      segment: text,
      queues: text,
      seconds: text,
      file: text,
      pid: text,
      poll: flag,
      "no-event-idx": flag,
      "no-indirect": flag,
      help: flag,
    },
  });
  const mode = MODES.find((one) => one === (values.mode ?? "randread"));
  if (values.help || !values["socket-path"] || !mode) return console.log(HELP);
  const result = await runLoad(values["socket-path"], {
    mode,
    depth: Number(values.depth ?? LOAD_DEFAULTS.depth),
    blockBytes: Number(values.block ?? LOAD_DEFAULTS.blockBytes),
    segmentBytes: Number(values.segment ?? LOAD_DEFAULTS.segmentBytes),
    queues: Number(values.queues ?? LOAD_DEFAULTS.queues),
    seconds: Number(values.seconds ?? LOAD_DEFAULTS.seconds),
    fileName: values.file ?? LOAD_DEFAULTS.fileName,
    pid: values.pid === undefined ? undefined : Number(values.pid),
    busyPoll: values.poll ?? false,
    eventIdx: !values["no-event-idx"],
    indirect: !values["no-indirect"],
  });
  console.log(describe(result));
  if (result.errors > 0) Deno.exitCode = 1;
}

if (import.meta.main) await main();
