/** The figures for docs/PERFORMANCE.md: tables in Markdown, and the place in the document that they are put into. */
import { NO_POLLING } from "./daemons.ts";
import { PREAD } from "./limits.ts";
import { disturbance, idleFigures, limitFigures, omissions, troubles } from "./report.ts";
import { loadOf, type Results, unique } from "./results.ts";
import { NOTHING, RANDREAD, RANDREAD_POLLED } from "./suite.ts";
import { judgeAll, OWN, showBound, showMeasured, showRange, summary } from "./targets.ts";

export const BEGIN = "<!-- figures: made by `deno task bench --docs`; what stands up to the next mark is replaced -->";
export const END = "<!-- end of figures -->";

/** Puts `figures` between the two marks of a document. Throws where it does not have each of them once, in order. */
export function replaceFigures(document: string, figures: string): string {
  const [before, rest, ...more] = document.split(BEGIN);
  const [, after, ...others] = rest?.split(END) ?? [];
  if (after === undefined || more.length > 0 || others.length > 0 || before.includes(END)) {
    throw new Error(`the document must have the lines "${BEGIN}" and "${END}" once each, in this order`);
  }
  return `${before}${BEGIN}\n${figures.trim()}\n${END}${after}`;
}

/** Everything that one run of the bench found out. */
export function figures(results: Results): string {
  const { host, rounds, seconds, load, date, subjects, runs } = results;
  const versions = [
    ...new Set(subjects.filter((one) => one.version && one.name !== NO_POLLING).map((one) => one.version)),
  ];
  const parts = [
    `${date.slice(0, 10)}: ${
      versions.join("; ")
    }. ${host.processors} processors (${host.model}), Linux ${host.kernel}, ` +
    `Deno ${host.deno}; files on ${results.fileSystem}; medians of ${rounds} rounds of ${seconds} s each, in alternating order; load by ${load}.`,
    remarks(results),
    "![Operations a second and CPU time of each workload, compared with virtiofsd](performance.svg)",
    targets(results),
    loads(results),
    rest(results),
    limits(results),
    breakdown(results),
  ];
  for (const line of omissions(runs)) parts.push(`Left out: ${line}.`);
  for (const line of troubles(runs)) parts.push(`Failed: ${line}.`);
  return parts.filter((part) => part !== "").map(escapeStray).join("\n\n");
}

function remarks({ runs }: Results): string {
  const noise = disturbance(runs);
  return noise === "" ? "" : `Disturbed: ${noise}.`;
}

/** Angle brackets in what daemons have said would be HTML. */
function escapeStray(text: string): string {
  return text.replace(/<(?!br>)/g, "&lt;");
}

function row(cells: readonly string[]): string {
  return `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
}

/** A table whose first `leftColumns` are words. */
export function markdownTable(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  leftColumns: number,
): string {
  const rule = head.map((_, i) => i < leftColumns ? "---" : "---:");
  return [row(head), row(rule), ...rows.map(row)].join("\n");
}

function targets(results: Results): string {
  const verdicts = judgeAll(results);
  const rows = verdicts.map((verdict) => [
    verdict.target.work,
    showMeasured(verdict),
    showRange(verdict, " to "),
    showBound(verdict.target),
    verdict.reached === undefined ? `not measured: ${verdict.missing}` : verdict.reached ? "yes" : "**no**",
    verdict.rival ?? "",
  ]);
  const head = ["target", "measured", "single rounds", "to reach", "reached", "divided by that of"];
  return `### Targets\n${summary(verdicts)}.\n\n${markdownTable(head, rows, 1)}`;
}

function loads({ runs }: Results): string {
  const rows: string[][] = [];
  for (const title of unique(runs.filter((run) => run.result), (run) => run.title)) {
    const ours = loadOf(runs, title, OWN);
    let label = title;
    for (const daemon of unique(runs.filter((run) => run.title === title), (run) => run.daemon)) {
      const r = loadOf(runs, title, daemon);
      if (r === undefined) continue;
      const other = ours !== undefined && daemon !== OWN && daemon !== NO_POLLING;
      rows.push([
        ...[label, daemon, thousands(r.opsPerSecond), r.mibPerSecond > 0 ? thousands(r.mibPerSecond) : ""],
        ...[r.p50.toFixed(1), r.p99.toFixed(1), r.cpuPerOp.toFixed(2), (r.pssOwn / 1e6).toFixed(0)],
        other ? (ours.opsPerSecond / r.opsPerSecond).toFixed(2) : "",
        other ? (ours.cpuPerOp / r.cpuPerOp).toFixed(2) : "",
      ]);
      label = "";
    }
  }
  if (rows.length === 0) return "";
  const head = [
    ...["workload", "daemon", "op/s", "MiB/s", "p50 µs", "p99 µs", "CPU µs/op", "PSS MB"],
    ...["ringfsd: op/s ÷", "CPU/op ÷"],
  ];
  return `### All workloads\n${markdownTable(head, rows, 2)}`;
}

function thousands(value: number): string {
  return Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, "\u00a0");
}

function rest({ runs }: Results): string {
  const rows = unique(runs.filter((run) => run.idle), (run) => run.title).flatMap((title) =>
    idleFigures(runs, title).map(([daemon, idle]) => [
      ...[title, daemon, (idle.cpuShare * 100).toFixed(3)],
      ...[idle.pss, idle.pssOwn].map((bytes) => (bytes / 1e6).toFixed(0)),
    ])
  );
  if (rows.length === 0) return "";
  const head = ["guests attached that do nothing", "daemon", "% of a core", "PSS MB", "without guest memory, MB"];
  return `### At rest\n${markdownTable(head, rows, 2)}`;
}

function limits({ runs }: Results): string {
  const ours = loadOf(runs, RANDREAD, OWN);
  const rows = limitFigures(runs).map(([name, limit]) => [
    ...[name, thousands(limit.opsPerSecond), limit.cpuPerOp.toFixed(2)],
    ours ? (ours.opsPerSecond / limit.opsPerSecond).toFixed(2) : "",
  ]);
  if (rows.length === 0) return "";
  const head = ["4 KiB random reads without a daemon", "op/s", "CPU µs/op", `ringfsd's "${RANDREAD}" ÷`];
  return `### Limits\n${markdownTable(head, rows, 1)}`;
}

/** Where the CPU time of ringfsd's 4 KiB reads goes, by differences between workloads. Without polling: that costs when nothing is done. */
function breakdown({ runs }: Results): string {
  const cpu = (title: string) => loadOf(runs, title, NO_POLLING)?.cpuPerOp;
  const [whole, polled, nothing] = [RANDREAD, RANDREAD_POLLED, NOTHING].map(cpu);
  const call = limitFigures(runs).find(([name]) => name === PREAD)?.[1].cpuPerOp;
  if (whole === undefined || polled === undefined || nothing === undefined || call === undefined) return "";
  const us = (value: number) => value < 0 ? "lost in noise" : value.toFixed(2);
  const rows = [
    ["`preadv` of 4 KiB, the call through FFI included", `"${PREAD}"`, us(call)],
    ["taking the chain, reading its descriptors and the header, answering", `"${NOTHING}"`, us(nothing)],
    ["the rest: arguments, the handle, the iovec", "the difference", us(polled - call - nothing)],
    ["all of it where the driver polls", `"${RANDREAD_POLLED}"`, us(polled)],
    ["calling a driver that sleeps, and taking its kicks", "the difference", us(whole - polled)],
    ["all of it where the driver sleeps", `"${RANDREAD}"`, us(whole)],
  ];
  const head = [`a 4 KiB read at depth 32 (${NO_POLLING})`, "from", "CPU µs"];
  return `### Where the time goes\n${markdownTable(head, rows, 2)}`;
}
