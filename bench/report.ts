/** The tables of the report, as text. */
import type { IdleResult, LoadResult } from "./load.ts";
import { DISTURBED, type Figures, type LimitResult, loadOf, median, medians, type Run, unique } from "./results.ts";
import { showBound, showMeasured, showRange, type Verdict } from "./targets.ts";

export { median, type Run };

/** Columns aligned, the first `leftColumns` to the left, the others to the right. */
export function table(rows: readonly (readonly string[])[], leftColumns: number): string {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)));
  return rows.map((row) =>
    row.map((cell, i) => i < leftColumns ? cell.padEnd(widths[i]) : cell.padStart(widths[i])).join("  ").trimEnd()
  ).join("\n");
}

function fixed(value: number | undefined, digits: number): string {
  // JSON has null for NaN.
  return value !== undefined && Number.isFinite(value) ? value.toFixed(digits) : "-";
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
  for (const title of unique(runs.filter((run) => run.result), (run) => run.title)) {
    const ours = loadOf(runs, title, own);
    let label = title;
    for (const daemon of unique(runs.filter((run) => run.title === title && !run.skipped), (run) => run.daemon)) {
      const other = daemon === own || daemon.startsWith(own + ",") ? undefined : ours;
      rows.push([label, daemon, ...loadCells(loadOf(runs, title, daemon), other)]);
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

/** What the daemons cost with guests attached that do nothing. */
export function idleTable(runs: readonly Run[]): string {
  const rows = [["at rest", "daemon", "CPU ms/s", "RSS MiB", "PSS MiB", "without guest memory"]];
  for (const title of unique(runs.filter((run) => run.idle), (run) => run.title)) {
    for (const [daemon, r] of idleFigures(runs, title)) {
      const mib = (bytes: number) => fixed(bytes / 1048576, 0);
      rows.push([title, daemon, fixed(r.cpuShare * 1000, 2), mib(r.rss), mib(r.pss), mib(r.pssOwn)]);
    }
  }
  return rows.length === 1 ? "" : table(rows, 2);
}

/** The medians of each daemon at rest. */
export function idleFigures(runs: readonly Run[], title: string): [string, Figures<IdleResult>][] {
  const idle = runs.filter((run) => run.title === title && run.idle);
  return unique(idle, (run) => run.daemon).map((daemon) => [
    daemon,
    medians(idle.flatMap((run) => run.daemon === daemon && run.idle ? [run.idle] : []))!,
  ]);
}

/** What the machine does without a daemon, and how near `own` comes to it with the workload `title`. */
export function limitTable(runs: readonly Run[], own: string, title: string): string {
  const ours = loadOf(runs, title, own);
  const rows = [["4 KiB random reads without a daemon", "op/s", "CPU us/op", `${own} x`]];
  for (const [name, limit] of limitFigures(runs)) {
    const near = ours ? fixed(ours.opsPerSecond / limit.opsPerSecond, 2) : "";
    rows.push([name, fixed(limit.opsPerSecond, 0), fixed(limit.cpuPerOp, 2), near]);
  }
  return rows.length === 1 ? "" : table(rows, 1);
}

/** The medians of each way to read without a daemon. */
export function limitFigures(runs: readonly Run[]): [string, Figures<LimitResult>][] {
  const some = runs.filter((run) => run.limit);
  return unique(some, (run) => run.daemon).map((daemon) => [
    daemon,
    medians(some.flatMap((run) => run.daemon === daemon && run.limit ? [run.limit] : []))!,
  ]);
}

/** Each target: what was measured, against whom, and whether that is enough. */
export function targetTable(verdicts: readonly Verdict[]): string {
  const rows = [["target", "measured", "rounds", "to reach", "", "against"]];
  for (const verdict of verdicts) {
    const { target, reached, rival, missing } = verdict;
    rows.push([
      target.work,
      showMeasured(verdict),
      showRange(verdict, " - "),
      showBound(target),
      reached === undefined ? "?" : reached ? "yes" : "NO",
      missing ?? rival ?? "",
    ]);
  }
  const lines = table(rows.map((row) => row.slice(0, 5)), 1).split("\n");
  // The last column is words: to the left, unlike the others.
  return lines.map((line, i) => `${line.padEnd(Math.max(...lines.map((one) => one.length)))}  ${rows[i][5]}`.trimEnd())
    .join("\n");
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

/** Where other processes took more than a tenth of a processor in any run: in how many, and how much; else empty. */
export function disturbance(runs: readonly Run[]): string {
  const others = runs.flatMap((run) => run.result ? [run.result.otherCpus] : []);
  const disturbed = others.filter((one) => one > DISTURBED);
  if (disturbed.length === 0) return "";
  const most = Math.max(...disturbed).toFixed(2);
  const advice = median(others) > DISTURBED ? ": repeat this on a quiet machine" : "";
  return `other processes took more than ${DISTURBED} processors in ${disturbed.length} of ${others.length} runs ` +
    `(median of all ${median(others).toFixed(2)}, most ${most})${advice}`;
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
