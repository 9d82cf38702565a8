/** What `ringfsd top` shows: rates between two snapshots, and the table of them. */
import type { OpMetrics, QueueMetrics, ShareMetrics, Snapshot } from "./metrics.ts";

/** What happened in a second, on average, and how long requests took, in microseconds (null: there were none). */
export interface Rates {
  opsPerSecond: number;
  readBytesPerSecond: number;
  writeBytesPerSecond: number;
  errorsPerSecond: number;
  p50Us: number | null;
  p99Us: number | null;
}

export interface QueueRates extends Rates {
  queue: number;
  loop: number | null;
  inFlight: number;
  callsPerSecond: number;
  /** Parts of its loop's time: work, and looking for work in vain. The loop may serve other queues too. */
  workShare: number;
  pollShare: number;
}

export interface ShareRates extends Rates {
  share: string;
  connected: boolean;
  inFlight: number;
  oldestSeconds: number;
  queues: QueueRates[];
  ops: Record<string, Rates>;
}

export interface TopRates {
  version: string;
  pid: number;
  seconds: number;
  cpuShare: number;
  residentBytes: number;
  openFiles: number;
  maxFiles: number;
  shares: ShareRates[];
}

type Ops = Record<string, OpMetrics>;

const none: OpMetrics = { count: 0, seconds: 0, requestBytes: 0, responseBytes: 0, errors: {}, buckets: [] };

/** A counter's growth; a daemon that was started anew counts from 0. */
const grown = (before: number, after: number) => after < before ? after : after - before;
const sum = (values: readonly number[]) => values.reduce((all, one) => all + one, 0);

function opGrowth(
  before: OpMetrics,
  after: OpMetrics,
): { count: number; errors: number; buckets: Map<number, number> } {
  const old = new Map(before.buckets);
  const buckets = new Map<number, number>();
  for (const [upTo, n] of after.buckets) {
    const more = grown(old.get(upTo) ?? 0, n);
    if (more > 0) buckets.set(upTo, more);
  }
  const errors = sum(Object.entries(after.errors).map(([name, n]) => grown(before.errors[name] ?? 0, n)));
  return { count: grown(before.count, after.count), errors, buckets };
}

/** The time that a part of the requests took at most, by the bounds of the buckets, evenly spread within each. */
export function quantile(buckets: ReadonlyMap<number, number>, part: number): number | null {
  const total = sum([...buckets.values()]);
  if (total === 0) return null;
  let left = part * total;
  for (const [upTo, n] of [...buckets].sort(([a], [b]) => a - b)) {
    if (left <= n) {
      const from = lowerBound(upTo);
      return upTo === Number.MAX_SAFE_INTEGER ? from : from + (upTo - from) * left / n;
    }
    left -= n;
  }
  return null;
}

/** Where the bucket begins that ends at `upTo`: a quarter of an octave, as in vq/meter.ts. */
function lowerBound(upTo: number): number {
  if (upTo <= 4) return upTo - 1;
  if (upTo === Number.MAX_SAFE_INTEGER) return 7 * 2 ** 24;
  const octave = 2 ** Math.floor(Math.log2(upTo - 0.5));
  return upTo - octave / 4;
}

function rates(before: Ops, after: Ops, bytes: [number, number], seconds: number): Rates {
  const all = Object.entries(after).map(([op, metrics]) => opGrowth(before[op] ?? none, metrics));
  const buckets = new Map<number, number>();
  for (const one of all) for (const [upTo, n] of one.buckets) buckets.set(upTo, (buckets.get(upTo) ?? 0) + n);
  return {
    opsPerSecond: sum(all.map(({ count }) => count)) / seconds,
    readBytesPerSecond: bytes[0] / seconds,
    writeBytesPerSecond: bytes[1] / seconds,
    errorsPerSecond: sum(all.map(({ errors }) => errors)) / seconds,
    p50Us: quantile(buckets, 0.5),
    p99Us: quantile(buckets, 0.99),
  };
}

/** All queues' counts of each operation together. */
function merged(queues: readonly QueueMetrics[]): Ops {
  const result: Ops = {};
  for (const { ops } of queues) {
    for (const [op, one] of Object.entries(ops)) {
      const to = result[op] ??= { ...none, errors: {}, buckets: [] };
      to.count += one.count;
      for (const [name, n] of Object.entries(one.errors)) to.errors[name] = (to.errors[name] ?? 0) + n;
      const buckets = new Map(to.buckets);
      for (const [upTo, n] of one.buckets) buckets.set(upTo, (buckets.get(upTo) ?? 0) + n);
      to.buckets = [...buckets];
    }
  }
  return result;
}

/** What happened between two snapshots of a daemon. */
export function ratesBetween(before: Snapshot, after: Snapshot): TopRates {
  const seconds = Math.max(1e-3, after.time - before.time);
  // A daemon that was started anew has counted from 0.
  const again = before.process.startSeconds !== after.process.startSeconds;
  const old = new Map((again ? [] : before.shares).map((share) => [share.id, share]));
  const loops = new Map(after.loops.map((loop) => {
    const was = again ? undefined : before.loops.find((one) => one.loop === loop.loop);
    const part = (name: "busySeconds" | "pollSeconds") =>
      Math.min(1, Math.max(0, loop[name] - (was?.[name] ?? 0)) / seconds);
    return [loop.loop, { work: part("busySeconds"), poll: part("pollSeconds") }];
  }));
  return {
    version: after.version,
    pid: after.process.pid,
    seconds,
    cpuShare: grown(again ? 0 : before.process.cpuSeconds, after.process.cpuSeconds) / seconds,
    residentBytes: after.process.residentBytes,
    openFiles: after.process.openFiles,
    maxFiles: after.process.maxFiles,
    shares: after.shares.map((share) => shareRates(old.get(share.id), share, seconds, loops)),
  };
}

function shareRates(
  before: ShareMetrics | undefined,
  after: ShareMetrics,
  seconds: number,
  loops: ReadonlyMap<number, { work: number; poll: number }>,
): ShareRates {
  const old = new Map((before?.queues ?? []).map((queue) => [queue.queue, queue]));
  const bytes = (name: "readBytes" | "writeBytes") =>
    sum(after.queues.map((queue) => grown(old.get(queue.queue)?.[name] ?? 0, queue[name])));
  const [was, is] = [merged(before?.queues ?? []), merged(after.queues)];
  return {
    share: after.share,
    connected: after.connected,
    inFlight: after.inFlight,
    oldestSeconds: after.oldestSeconds,
    ...rates(was, is, [bytes("readBytes"), bytes("writeBytes")], seconds),
    queues: after.queues.map((queue): QueueRates => {
      const one = old.get(queue.queue);
      const moved: [number, number] = [
        grown(one?.readBytes ?? 0, queue.readBytes),
        grown(one?.writeBytes ?? 0, queue.writeBytes),
      ];
      const loop = queue.loop === null ? undefined : loops.get(queue.loop);
      return {
        queue: queue.queue,
        loop: queue.loop,
        inFlight: queue.inFlight,
        callsPerSecond: grown(one?.calls ?? 0, queue.calls) / seconds,
        workShare: loop?.work ?? 0,
        pollShare: loop?.poll ?? 0,
        ...rates(one?.ops ?? {}, queue.ops, moved, seconds),
      };
    }),
    ops: Object.fromEntries(
      Object.keys(is).map((op) => [op, rates({ [op]: was[op] ?? none }, { [op]: is[op] }, [0, 0], seconds)]),
    ),
  };
}

// --- the table

const HEADINGS = ["OPS/S", "READ/S", "WRITE/S", "P50", "P99", "ERR/S", "FLIGHT", "WORK", "POLL"];
const WIDTHS = [9, 9, 9, 8, 8, 7, 7, 5, 5];
const NAME_MIN = 12;

export interface TableOptions {
  /** With a line for each operation. */
  ops?: boolean;
  /** Columns of the terminal: names are cut to fit. */
  width?: number;
}

/** The lines of the table. */
export function tableOf(rates: TopRates, { ops = false, width = 100 }: TableOptions = {}): string[] {
  const figures = sum(WIDTHS);
  const nameOf = (share: ShareRates) => share.share + (share.connected ? "" : " (no guest)");
  const longest = Math.max(0, ...rates.shares.map((share) => nameOf(share).length));
  const name = Math.max(NAME_MIN, Math.min(width - figures, longest + 1));
  const line = (what: string, columns: readonly string[]) =>
    (cut(what, name).padEnd(name) + columns.map((text, i) => text.padStart(WIDTHS[i])).join("")).slice(0, width)
      .trimEnd();
  const { version, pid, cpuShare, residentBytes, openFiles, maxFiles } = rates;
  const head = `ringfsd ${version}, process ${pid}: CPU ${percent(cpuShare)}, memory ${amount(residentBytes)}, ` +
    `files ${openFiles} of ${maxFiles}, shares ${rates.shares.length}`;
  const lines = [head.slice(0, width), "", line("SHARE", HEADINGS)];
  for (const share of rates.shares) {
    const { queues } = share;
    lines.push(
      line(nameOf(share), [...figuresOf(share), `${share.inFlight}`, "", ""]),
    );
    for (const queue of queues) {
      const label = queue.queue === 0 ? "hiprio" : `queue ${queue.queue}`;
      const loop = queue.loop === null ? ["-", "-"] : [percent(queue.workShare), percent(queue.pollShare)];
      lines.push(line(`  ${label}`, [...figuresOf(queue), `${queue.inFlight}`, ...loop]));
    }
    if (!ops) continue;
    const busiest = Object.entries(share.ops).filter(([, one]) => one.opsPerSecond > 0)
      .sort(([, a], [, b]) => b.opsPerSecond - a.opsPerSecond);
    for (const [op, one] of busiest) {
      lines.push(line(`    ${op}`, figuresOf(one).map((text, i) => i === 1 || i === 2 ? "" : text)));
    }
  }
  return lines;
}

function figuresOf(rates: Rates): string[] {
  return [
    count(rates.opsPerSecond),
    amount(rates.readBytesPerSecond),
    amount(rates.writeBytesPerSecond),
    time(rates.p50Us),
    time(rates.p99Us),
    count(rates.errorsPerSecond),
  ];
}

/** Names come from the command line of another: nothing of them reaches the terminal as a command. */
function cut(text: string, width: number): string {
  // deno-lint-ignore no-control-regex
  const plain = text.replace(/[\x00-\x1f\x7f-\x9f]/g, "?");
  return plain.length < width ? plain : `…${plain.slice(plain.length - width + 2)}`;
}

const percent = (part: number) => `${Math.round(part * 100)}%`;

function count(value: number): string {
  if (value < 10_000) return value < 10 && value > 0 ? value.toFixed(1) : value.toFixed(0);
  return value < 1e6 ? `${(value / 1e3).toFixed(1)}k` : `${(value / 1e6).toFixed(2)}M`;
}

function amount(bytes: number): string {
  const units = ["B", "K", "M", "G", "T"];
  let at = 0;
  for (; bytes >= 1024 && at < units.length - 1; at++) bytes /= 1024;
  return `${bytes < 10 && at > 0 ? bytes.toFixed(1) : bytes.toFixed(0)}${units[at]}`;
}

function time(us: number | null): string {
  if (us === null) return "-";
  if (us < 1000) return `${us < 10 ? us.toFixed(1) : us.toFixed(0)}us`;
  return us < 1e6 ? `${(us / 1e3).toFixed(1)}ms` : `${(us / 1e6).toFixed(1)}s`;
}
