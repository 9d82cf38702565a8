/** What a bench run leaves behind: every single run, and medians of them. It is what --json writes and --from reads. */
import type { Kind } from "./daemons.ts";
import type { IdleResult, LoadResult } from "./load.ts";

/** One run: a workload on a daemon. */
export interface Run {
  title: string;
  daemon: string;
  round: number;
  result?: LoadResult;
  idle?: IdleResult;
  /** The same reads without any daemon. */
  limit?: LimitResult;
  /** Why the daemon cannot do this at all. */
  skipped?: string;
  /** What went wrong. */
  failure?: string;
}

/** Processors that others may take before a run counts as disturbed. */
export const DISTURBED = 0.1;

/** What the machine does without a daemon. CPU time in microseconds. */
export interface LimitResult {
  opsPerSecond: number;
  cpuPerOp: number;
}

/** One who was measured. */
export interface Subject {
  name: string;
  kind: Kind | "limit";
  version: string;
}

export interface Results {
  /** ISO 8601. */
  date: string;
  host: { processors: number; model: string; kernel: string; deno: string };
  /** The type of the share's file system. */
  fileSystem: string;
  rounds: number;
  /** Measured time of each run. */
  seconds: number;
  /** What made the load. */
  load: string;
  subjects: Subject[];
  runs: Run[];
}

/** The middle value, or the mean of the two in the middle; NaN of none. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

export type Figures<T> = { [K in keyof T as T[K] extends number ? K : never]: number };

/** The median of each numeric field. */
export function medians<T extends object>(results: readonly T[]): Figures<T> | undefined {
  if (results.length === 0) return undefined;
  const keys = Object.entries(results[0]).filter(([, value]) => typeof value === "number").map(([key]) => key);
  const of = (key: string) => median(results.map((one) => (one as Record<string, number>)[key]));
  return Object.fromEntries(keys.map((key) => [key, of(key)])) as Figures<T>;
}

/** Medians of a daemon's runs of a load. */
export function loadOf(runs: readonly Run[], title: string, daemon: string): Figures<LoadResult> | undefined {
  return medians(
    runs.flatMap((run) => run.title === title && run.daemon === daemon && run.result ? [run.result] : []),
  );
}

/** What each run gave, by its round; whichever kind of measurement it was. */
export function figuresByRound(
  runs: readonly Run[],
  title: string,
  daemon: string,
  figure: string,
): Map<number, number> {
  const map = new Map<number, number>();
  for (const run of runs) {
    if (run.title !== title || run.daemon !== daemon) continue;
    const value = ((run.result ?? run.idle ?? run.limit) as unknown as Record<string, number> | undefined)?.[figure];
    if (typeof value === "number") map.set(run.round, value);
  }
  return map;
}

/** Titles, or names, in the order of their first run. */
export function unique(runs: readonly Run[], of: (run: Run) => string): string[] {
  return [...new Set(runs.map(of))];
}

/** That Rust virtiofsd, of its thread-pool sizes, that did most operations of this kind. */
export function fasterRust({ runs, subjects }: Pick<Results, "runs" | "subjects">, title: string): string | undefined {
  let best: string | undefined, most = 0;
  for (const { name } of subjects.filter((one) => one.kind === "rust")) {
    const ops = loadOf(runs, title, name)?.opsPerSecond ?? 0;
    if (ops > most) [best, most] = [name, ops];
  }
  return best;
}
