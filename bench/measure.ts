/** Runs the suite: every workload on every daemon, round by round, each time with a daemon that is fresh. */
import { join } from "node:path";
import { type Contender, type Running, startDaemon, startDevices } from "./daemons.ts";
import type { Limit } from "./limits.ts";
import { runIdle, runLoad } from "./load.ts";
import { DISTURBED, type LimitResult, type Run, type Subject } from "./results.ts";
import { NotHereError } from "./session.ts";
import { checkContents, fileFor, type Item, READ_FILE } from "./suite.ts";
import { runVubench } from "./vubench.ts";

export interface Plan {
  items: readonly Item[];
  /** Those that take every workload: ringfsd first, then the peers. */
  contenders: readonly Contender[];
  /** ringfsd without polling, for the workloads that ask for it. */
  noPolling?: Contender;
  limits: readonly Limit[];
  rounds: number;
  /** Measured time of each run. */
  seconds: number;
  /** The directory that holds the share and takes the sockets. */
  base: string;
  /** How often a run that others disturbed is made again. */
  retries: number;
  /** A load generator to use instead of ours. */
  vubench?: string;
}

let serial = 0;
let current: Running | undefined;

/** Stops the daemon that runs, if one does: for whoever is interrupted. */
export async function stopCurrent(): Promise<void> {
  await current?.stop();
}

/** Has `use` work with a daemon and stops it, whatever happens. */
async function withDaemon<T>(starting: Promise<Running>, use: (daemon: Running) => Promise<T> | T): Promise<T> {
  const daemon = current = await starting;
  try {
    return await use(daemon);
  } catch (error) {
    const said = daemon.log().trim().split("\n").at(-1);
    if (error instanceof Error && said && !(error instanceof NotHereError)) error.message += ` (it said: ${said})`;
    throw error;
  } finally {
    await daemon.stop();
    current = undefined;
  }
}

function start(contender: Contender, base: string): Promise<Running> {
  return startDaemon(contender, join(base, "share"), join(base, `s${serial++}`));
}

/** Those of the daemons that start and return what is in the file; why others do not goes to `say`. */
export async function usable(
  contenders: readonly Contender[],
  base: string,
  say: (text: string) => void,
): Promise<Contender[]> {
  const list: Contender[] = [];
  for (const one of contenders) {
    try {
      await withDaemon(start(one, base), ({ socketPath }) => checkContents(socketPath));
      list.push(one);
    } catch (error) {
      say(`left out: ${one.name}: ${(error as Error).message}`);
    }
  }
  return list;
}

/** One who takes a workload. */
interface Entrant {
  name: string;
  run: () => Promise<Partial<Run>>;
}

function entrants(plan: Plan, item: Item): Entrant[] {
  const { contenders, noPolling, limits, seconds, base } = plan;
  const enter = (one: Contender, run: () => Promise<Partial<Run>>) => ({ name: one.name, run });
  if (item.kind === "limit") {
    const path = join(base, "share", READ_FILE);
    return limits.map(({ name, run }) => ({ name, run: async () => ({ limit: await run(path, seconds) }) }));
  }
  if (item.devices !== undefined) {
    const able = contenders.filter((one) => one.manyCommand);
    return able.map((one) => enter(one, () => measureDevices(plan, one, item.devices!)));
  }
  const all = item.noPolling && noPolling ? [contenders[0], noPolling, ...contenders.slice(1)] : contenders;
  return all.map((one) => enter(one, () => measureDaemon(plan, one, item)));
}

function measureDaemon({ base, seconds, vubench }: Plan, contender: Contender, item: Item): Promise<Partial<Run>> {
  return withDaemon(start(contender, base), async ({ pid, socketPath }) => {
    if (item.kind === "idle") return { idle: await runIdle([socketPath], pid, seconds) };
    const load = { ...item, seconds, pid, retryMs: 2000, fileName: fileFor(item) };
    return { result: await (vubench ? runVubench(vubench, socketPath, load) : runLoad(socketPath, load)) };
  });
}

/** A daemon that refuses what starts many devices in one process has no such thing. */
async function measureDevices({ base, seconds }: Plan, contender: Contender, count: number): Promise<Partial<Run>> {
  const paths = Array.from({ length: count }, () => join(base, `s${serial++}`));
  const starting = startDevices(contender, join(base, "share"), paths).catch((error) => {
    throw new NotHereError(`not started with ${count} devices in one process`, { cause: error });
  });
  return await withDaemon(starting, async ({ pid }) => ({ idle: await runIdle(paths, pid, seconds) }));
}

async function measureOne(item: Item, entrant: Entrant, round: number): Promise<Run> {
  const run: Run = { title: item.title, daemon: entrant.name, round };
  try {
    return { ...run, ...await entrant.run() };
  } catch (error) {
    return { ...run, [error instanceof NotHereError ? "skipped" : "failure"]: (error as Error).message };
  }
}

/**
 * Makes a run, and again up to `retries` times while other processes take processors from it: the least disturbed one counts, whatever
 * its figures are.
 */
export async function leastDisturbed(measure: () => Promise<Run>, retries: number): Promise<Run> {
  let best = await measure();
  for (let i = 0; i < retries && (best.result?.otherCpus ?? 0) > DISTURBED; i++) {
    const next = await measure();
    if (next.result && next.result.otherCpus < best.result!.otherCpus) best = next;
  }
  return best;
}

/** The same list in another order for each round: begun one further on, and every second time backwards. From round 1. */
export function inTurn<T>(list: readonly T[], round: number): T[] {
  const n = list.length, from = round - 1, step = round % 2 === 0 ? n - 1 : 1;
  return list.map((_, i) => list[(from + i * step) % n]);
}

/**
 * All runs. The rounds are outermost, so that workloads that are compared with each other are each spread over the whole time, and
 * within a round all daemons take a workload one after the other.
 */
export async function measureAll(plan: Plan, say: (text: string) => void): Promise<Run[]> {
  const { items, rounds } = plan;
  const total = rounds * items.reduce((sum, item) => sum + entrants(plan, item).length, 0);
  const runs: Run[] = [];
  for (let round = 1; round <= rounds; round++) {
    for (const item of items) {
      for (const entrant of inTurn(entrants(plan, item), round)) {
        const run = await leastDisturbed(() => measureOne(item, entrant, round), plan.retries);
        runs.push(run);
        say(`[${runs.length}/${total}] ${item.title}, ${entrant.name}, round ${round}: ${outcome(run)}`);
      }
    }
  }
  return sorted(plan, runs);
}

/** In the order of the suite and its contenders: tables show what they find in that order. */
function sorted(plan: Plan, runs: readonly Run[]): Run[] {
  return plan.items.flatMap((item) =>
    entrants(plan, item).flatMap(({ name }) => runs.filter((run) => run.title === item.title && run.daemon === name))
  );
}

/** Who was measured, for the reports. */
export function subjects({ contenders, noPolling, limits, items }: Plan): Subject[] {
  const withLimits = items.some((item) => item.kind === "limit");
  return [
    ...[contenders[0], ...(noPolling ? [noPolling] : []), ...contenders.slice(1)]
      .map(({ name, kind = "ringfsd", version = "" }): Subject => ({ name, kind, version })),
    ...(withLimits ? limits : []).map(({ name, version }): Subject => ({ name, kind: "limit", version })),
  ];
}

function outcome({ result, idle, limit, skipped, failure }: Run): string {
  if (idle) return `${(idle.cpuShare * 1000).toFixed(2)} ms CPU per second`;
  const some: LimitResult | undefined = result ?? limit;
  if (some) return `${some.opsPerSecond.toFixed(0)} op/s, ${some.cpuPerOp.toFixed(2)} us CPU per op`;
  return skipped ? `left out: ${skipped}` : failure ?? "";
}
