/** Medians of repeated runs, and the tables of the report. */
import type { IdleResult, LoadResult } from "./load.ts";

/** One run: a workload on a daemon. */
export interface Run {
  title: string;
  daemon: string;
  round: number;
  result?: LoadResult;
  idle?: IdleResult;
  /** Why the daemon cannot do this at all. */
  skipped?: string;
  /** What went wrong. */
  failure?: string;
}

/** The middle value, or the mean of the two in the middle; NaN of none. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

type Figures<T> = { [K in keyof T as T[K] extends number ? K : never]: number };

/** The median of each numeric field. */
export function medians<T extends object>(results: readonly T[]): Figures<T> | undefined {
  if (results.length === 0) return undefined;
  const keys = Object.entries(results[0]).filter(([, value]) => typeof value === "number").map(([key]) => key);
  const of = (key: string) => median(results.map((one) => (one as Record<string, number>)[key]));
  return Object.fromEntries(keys.map((key) => [key, of(key)])) as Figures<T>;
}

/** Columns aligned, the first `leftColumns` to the left, the others to the right. */
export function table(rows: readonly (readonly string[])[], leftColumns: number): string {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)));
  return rows.map((row) =>
    row.map((cell, i) => i < leftColumns ? cell.padEnd(widths[i]) : cell.padStart(widths[i])).join("  ").trimEnd()
  ).join("\n");
}

function fixed(value: number | undefined, digits: number): string {
  return value === undefined || Number.isNaN(value) ? "-" : value.toFixed(digits);
}

const HEAD = [
  ...["workload", "daemon", "op/s", "MiB/s", "p50 us", "p99 us", "p99.9 us", "max us", "CPU us/op", "CPUs", "PSS MiB"],
  ...["kicks/op", "calls/op", "op/s x", "CPU/op x"],
];

/**
 * All workloads by all daemons, medians of the rounds. The last columns stand beside a peer and are ringfsd's figure divided by
 * the peer's: op/s above 1 and CPU per operation below 1 are in ringfsd's favour.
 */
export function loadTable(runs: readonly Run[], own: string): string {
  const rows = [HEAD];
  for (const title of unique(runs.filter((run) => !run.idle), (run) => run.title)) {
    const of = (daemon: string) =>
      medians(runs.flatMap((run) => run.title === title && run.daemon === daemon && run.result ? [run.result] : []));
    const ours = of(own);
    let label = title;
    for (const daemon of unique(runs.filter((run) => run.title === title && !run.skipped), (run) => run.daemon)) {
      rows.push([label, daemon, ...loadCells(of(daemon), daemon === own ? undefined : ours)]);
      label = "";
    }
  }
  return rows.length === 1 ? "" : table(rows, 2);
}

function loadCells(r: Figures<LoadResult> | undefined, ours: Figures<LoadResult> | undefined): string[] {
  if (r === undefined) return Array.from({ length: HEAD.length - 2 }, () => "-");
  return [
    fixed(r.opsPerSecond, 0),
    fixed(r.mibPerSecond, 0),
    ...[r.p50, r.p99, r.p999].map((us) => fixed(us, 1)),
    fixed(r.max, 0),
    fixed(r.cpuPerOp, 2),
    fixed(r.cpuShare, 2),
    fixed(r.pss / 1048576, 0),
    fixed(r.kicksPerOp, 3),
    fixed(r.callsPerOp, 3),
    ours ? fixed(ours.opsPerSecond / r.opsPerSecond, 2) : "",
    ours ? fixed(ours.cpuPerOp / r.cpuPerOp, 2) : "",
  ];
}

/** What the daemons cost with a guest attached that does nothing. */
export function idleTable(runs: readonly Run[]): string {
  const rows = [["idle, one guest attached", "CPU ms/s", "RSS MiB", "PSS MiB"]];
  for (const daemon of unique(runs.filter((run) => run.idle), (run) => run.daemon)) {
    const r = medians(runs.flatMap((run) => run.daemon === daemon && run.idle ? [run.idle] : []))!;
    rows.push([daemon, fixed(r.cpuShare * 1000, 2), fixed(r.rss / 1048576, 0), fixed(r.pss / 1048576, 0)]);
  }
  return rows.length === 1 ? "" : table(rows, 1);
}

/** Failures and wrong replies, one line each, without repetition. */
export function troubles(runs: readonly Run[]): string[] {
  const lines = runs.flatMap((run) => {
    const what = run.failure ??
      (run.result?.errors ? `wrong replies (first errno ${run.result.firstError})` : undefined);
    return what ? [`${run.title}, ${run.daemon}: ${what}`] : [];
  });
  return [...new Set(lines)];
}

/** A warning where other processes took more than a tenth of a processor in half of the runs or more; else empty. */
export function disturbance(runs: readonly Run[]): string {
  const others = median(runs.flatMap((run) => run.result ? [run.result.otherCpus] : []));
  if (!(others > 0.1)) return "";
  return `other processes took ${others.toFixed(2)} processors meanwhile (median): repeat this on a quiet machine`;
}

/** What was left out, a line for each workload and reason. */
export function omissions(runs: readonly Run[]): string[] {
  const skipped = runs.filter((run) => run.skipped);
  const same = (run: Run) => `${run.title}: ${run.skipped}`;
  return unique(skipped, same).map((line) => {
    const daemons = unique(skipped.filter((run) => same(run) === line), (run) => run.daemon);
    return `${line} by ${daemons.join(", ")}`;
  });
}

function unique(runs: readonly Run[], of: (run: Run) => string): string[] {
  return [...new Set(runs.map(of))];
}
