/**
 * What ringfsd is to reach, as the project has set it, and whether it was reached. The bench reports; a target that is missed
 * fails nothing.
 */
import { NO_POLLING } from "./daemons.ts";
import { FIO_URING } from "./limits.ts";
import { fasterRust, figuresByRound, median, type Results } from "./results.ts";
import { IDLE_100, LIMITS, RANDREAD, RANDREAD_1, RANDWRITE, TWO_QUEUES } from "./suite.ts";

export const OWN = "ringfsd";
/** That Rust virtiofsd, of its thread-pool sizes 0 and 4, that does more operations a second. */
export const FASTER = "faster Rust";

/** operations a second; daemon CPU per operation in us; CPU in processors; proportional memory in bytes, guest pages left out. */
export type Figure = "opsPerSecond" | "cpuPerOp" | "cpuShare" | "pssOwn";

export interface Target {
  /** What is done, in the reader's words. */
  work: string;
  /** The workload, and whose figure of it. */
  title: string;
  daemon: string;
  figure: Figure;
  /** What it is divided by: FASTER's figure, or another daemon's; nothing where the figure itself counts. */
  against?: { daemon: string; title: string };
  atLeast?: number;
  atMost?: number;
}

function ratio(work: string, title: string, bounds: Partial<Target>): Target {
  return { work, title, daemon: OWN, figure: "opsPerSecond", against: { daemon: FASTER, title }, ...bounds };
}

const KINDS = {
  getattr: "GETATTR",
  lookup: "LOOKUP",
  openclose: "OPEN and RELEASE",
  createunlink: "CREATE, RELEASE and UNLINK",
};

export const TARGETS: readonly Target[] = [
  ratio("4 KiB random read, depth 32", RANDREAD, { atLeast: 1.5 }),
  ratio("the same: CPU per operation", RANDREAD, { figure: "cpuPerOp", atMost: 0.9 }),
  ratio("the same, polling off", RANDREAD, { daemon: NO_POLLING, atLeast: 1.2 }),
  ratio("4 KiB random write, depth 32", RANDWRITE, { atLeast: 1.3 }),
  ratio("4 KiB random read, depth 1", RANDREAD_1, { atLeast: 4 }),
  ratio("the same, polling off", RANDREAD_1, { daemon: NO_POLLING, atLeast: 1.1 }),
  ratio("1 MiB sequential read, depth 8", "seqread 1M depth 8", { atLeast: 1.05 }),
  ratio("1 MiB sequential write, depth 8", "seqwrite 1M depth 8", { atLeast: 1.05 }),
  ratio("128 KiB sequential read, depth 8", "seqread 128k depth 8", { atLeast: 1.05 }),
  ratio("128 KiB sequential write, depth 8", "seqwrite 128k depth 8", { atLeast: 1.05 }),
  ...Object.entries(KINDS).flatMap(([mode, name]) => [
    ratio(`${name}, depth 1`, `${mode} depth 1`, { atLeast: 2 }),
    ratio(`${name}, depth 32`, `${mode} depth 32`, { atLeast: 1.2 }),
  ]),
  ratio("two queues together, to virtiofsd's one", TWO_QUEUES, {
    against: { daemon: FASTER, title: RANDREAD },
    atLeast: 1,
  }),
  ratio("two queues' CPU per operation, to one's", TWO_QUEUES, {
    figure: "cpuPerOp",
    against: { daemon: OWN, title: RANDREAD },
    atMost: 1,
  }),
  { work: "100 devices at rest: CPU", title: IDLE_100, daemon: OWN, figure: "cpuShare", atMost: 0.001 },
  {
    work: "memory with one device under load, guest memory not counted",
    title: RANDREAD,
    daemon: OWN,
    figure: "pssOwn",
    atMost: 80e6,
  },
  ratio("4 KiB random read, depth 32, to fio with io_uring on the host", RANDREAD, {
    against: { daemon: FIO_URING, title: LIMITS },
    atLeast: 0.7,
  }),
];

/** A target and what was measured. `value` is a ratio of medians where there is something to divide by, or else a median. */
export interface Verdict {
  target: Target;
  value?: number;
  /** The least and the greatest value of a single round. */
  range?: [number, number];
  /** The medians. */
  ours?: number;
  theirs?: number;
  /** Whose figure it was divided by. */
  rival?: string;
  reached?: boolean;
  /** Why there is no value. */
  missing?: string;
}

/** One target's verdict. */
export function judge(results: Results, target: Target): Verdict {
  const { runs } = results;
  const { title, daemon, figure, against } = target;
  const ours = figuresByRound(runs, title, daemon, figure);
  if (ours.size === 0) return { target, missing: whyNot(results, title, daemon) };
  const own = median([...ours.values()]);
  if (against === undefined) return decide({ target, ours: own }, own, [...ours.values()]);
  const rival = against.daemon === FASTER ? fasterRust(results, against.title) : against.daemon;
  if (rival === undefined) return { target, ours: own, missing: "no virtiofsd in Rust was measured" };
  const theirs = figuresByRound(runs, against.title, rival, figure);
  if (theirs.size === 0) return { target, ours: own, missing: whyNot(results, against.title, rival) };
  const their = median([...theirs.values()]);
  const single = [...ours].flatMap(([round, value]) => theirs.has(round) ? [value / theirs.get(round)!] : []);
  return decide({ target, ours: own, theirs: their, rival }, own / their, single);
}

function decide(verdict: Verdict, value: number, single: readonly number[]): Verdict {
  const { atLeast = -Infinity, atMost = Infinity } = verdict.target;
  const range = single.length > 0 ? { range: [Math.min(...single), Math.max(...single)] as [number, number] } : {};
  return { ...verdict, value, ...range, reached: value >= atLeast && value <= atMost };
}

function whyNot({ runs }: Results, title: string, daemon: string): string {
  const run = runs.find((one) => one.title === title && one.daemon === daemon);
  return run?.skipped ?? run?.failure ?? `"${title}" was not measured with ${daemon}`;
}

/** The verdicts on all targets whose workloads were asked for. */
export function judgeAll(results: Results): Verdict[] {
  const titles = new Set(results.runs.map((run) => run.title));
  return TARGETS.filter(({ title }) => titles.has(title)).map((target) => judge(results, target));
}

/** "2.41", or with its unit where it is no ratio. */
export function showValue({ figure, against }: Target, value: number): string {
  if (against !== undefined) return value.toFixed(2);
  switch (figure) {
    case "cpuShare":
      return `${(value * 100).toFixed(3)} %`;
    case "pssOwn":
      return `${(value / 1e6).toFixed(0)} MB`;
    case "cpuPerOp":
      return `${value.toFixed(2)} us`;
    case "opsPerSecond":
      return `${value.toFixed(0)}/s`;
  }
}

/** What was measured, with a further digit where two would hide by how little the target was missed. */
export function showMeasured({ target, value, reached }: Verdict): string {
  if (value === undefined) return "-";
  const { atLeast, atMost, against } = target;
  const close = [atLeast, atMost].some((bound) => bound?.toFixed(2) === value.toFixed(2));
  return reached === false && close && against !== undefined ? value.toFixed(3) : showValue(target, value);
}

/** The least and the greatest of single rounds; empty where there was but one. */
export function showRange({ target, range }: Verdict, between: string): string {
  return range && range[0] !== range[1] ? range.map((one) => showValue(target, one)).join(between) : "";
}

/** "at least 1.50". */
export function showBound(target: Target): string {
  const { atLeast, atMost } = target;
  const parts = [
    atLeast === undefined ? "" : `at least ${showValue(target, atLeast)}`,
    atMost === undefined ? "" : `at most ${showValue(target, atMost)}`,
  ];
  return parts.filter((part) => part !== "").join(", ");
}

/** "17 of 24 targets reached, 5 missed, 2 not measured". */
export function summary(verdicts: readonly Verdict[]): string {
  const reached = verdicts.filter((one) => one.reached === true).length;
  const missed = verdicts.filter((one) => one.reached === false).length;
  const rest = verdicts.length - reached - missed;
  return `${reached} of ${verdicts.length} targets reached, ${missed} missed` + (rest ? `, ${rest} not measured` : "");
}
