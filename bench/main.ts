/**
 * `deno task bench`: ringfsd and every virtiofsd that is installed, on the same work, in turn, in one run. Each measurement
 * starts a fresh daemon on a directory in memory; tables go to standard output, progress to standard error.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type Contender, peers, ringfsd, type Running, startDaemon } from "./daemons.ts";
import { LOAD_DEFAULTS, runIdle, runLoad } from "./load.ts";
import { disturbance, idleTable, loadTable, omissions, type Run, troubles } from "./report.ts";
import { QueueCountError } from "./session.ts";
import { checkContents, fileFor, fillFile, IDLE, type Item, READ_FILE, SUITE, WRITE_FILE } from "./suite.ts";

const HELP = `usage: deno task bench [options]
  --peer NAME=PATH   a virtiofsd to compare with, beside those installed; may be repeated
                     ($VIRTIOFSD, /usr/libexec, /usr/lib/qemu, /usr/lib and PATH are looked at)
  --no-peers         ringfsd alone
  --ringfsd COMMAND  how to start ringfsd [dist/ringfsd, or else main.ts]
  --only PATTERN     workloads whose title matches this regular expression
  --rounds N         rounds, of which the median counts [3]
  --seconds S        measured time of each run [2]
  --depth N          requests in flight on each queue, for all workloads
  --queues N         request queues, for all workloads
  --quick            one round of half a second
  --file-mib N       size of the file that is read [256]
  --dir DIR          where the share is made [/dev/shm, or the directory for temporary files]
  --json FILE        all runs, for other programs
  --list             the workloads' titles
  --keep             leave the share behind`;

/** What the command line asks for. Times in seconds, sizes in MiB. */
interface Settings {
  items: Item[];
  idle: boolean;
  rounds: number;
  seconds: number;
  fileMib: number;
  dir?: string;
  json?: string;
  keep: boolean;
  ringfsd?: string;
  peers: string[];
  noPeers: boolean;
}

/** Standard error, for whoever waits. */
function progress(text: string): void {
  console.error(text);
}

function parse(args: string[]): Settings | undefined {
  const text = { type: "string" } as const, flag = { type: "boolean" } as const;
  const { values: v } = parseArgs({
    args,
    options: {
      ...{ peer: { type: "string", multiple: true }, "no-peers": flag, ringfsd: text, only: text, rounds: text },
      ...{ seconds: text, depth: text, queues: text, quick: flag, "file-mib": text, dir: text, json: text },
      ...{ list: flag, keep: flag, help: flag },
    },
  });
  if (v.help) return void console.log(HELP);
  if (v.list) return void console.log([...SUITE.map((item) => item.title), IDLE].join("\n"));
  const only = new RegExp(v.only ?? "");
  const depth = positive("--depth", v.depth), queues = positive("--queues", v.queues);
  const override = { ...(depth ? { depth } : {}), ...(queues ? { queues } : {}) };
  const changed = Object.entries(override).map(([key, value]) => ` [${key} ${value}]`).join("");
  return {
    items: SUITE.filter(({ title }) => only.test(title)).map((item) => (
      { ...item, ...override, title: item.title + changed }
    )),
    idle: only.test(IDLE),
    rounds: positive("--rounds", v.rounds) ?? (v.quick ? 1 : 3),
    seconds: positive("--seconds", v.seconds) ?? (v.quick ? 0.5 : 2),
    fileMib: Math.ceil(positive("--file-mib", v["file-mib"]) ?? 256),
    ...{ dir: v.dir, json: v.json, keep: v.keep ?? false, ringfsd: v.ringfsd },
    ...{ peers: v.peer ?? [], noPeers: v["no-peers"] ?? false },
  };
}

function positive(option: string, value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const number = Number(value);
  if (!(number > 0)) throw new Error(`${option} ${value}: expected a number above 0`);
  return number;
}

/** A directory in memory with the files to work on. */
async function makeShare({ dir, fileMib }: Settings): Promise<string> {
  const inMemory = dir ?? (exists("/dev/shm") ? "/dev/shm" : undefined);
  const base = await Deno.makeTempDir({ dir: inMemory, prefix: "ringfsd-bench-" });
  const share = join(base, "share");
  await Deno.mkdir(share);
  progress(`making ${fileMib} MiB of files in ${share}`);
  await fillFile(share, READ_FILE, fileMib << 20);
  await fillFile(share, WRITE_FILE, Math.max(1, fileMib >> 2) << 20);
  return base;
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

let serial = 0;
let current: Running | undefined;

/** Starts a daemon, has `use` work with it and stops it, whatever happens. */
async function withDaemon<T>(contender: Contender, base: string, use: (daemon: Running) => Promise<T> | T): Promise<T> {
  const daemon = current = await startDaemon(contender, join(base, "share"), join(base, `s${serial++}`));
  try {
    return await use(daemon);
  } catch (error) {
    const said = daemon.log().trim().split("\n").at(-1);
    if (error instanceof Error && said && !(error instanceof QueueCountError)) error.message += ` (it said: ${said})`;
    throw error;
  } finally {
    await daemon.stop();
    current = undefined;
  }
}

/** Those of the daemons that start and return what is in the file; why the others do not goes to standard error. */
async function usable(contenders: readonly Contender[], base: string): Promise<Contender[]> {
  const list: Contender[] = [];
  for (const one of contenders) {
    try {
      await withDaemon(one, base, ({ socketPath }) => checkContents(socketPath));
      list.push(one);
    } catch (error) {
      progress(`left out: ${one.name}: ${(error as Error).message}`);
    }
  }
  return list;
}

async function measureOne(
  item: Item,
  contender: Contender,
  round: number,
  base: string,
  seconds: number,
): Promise<Run> {
  const run: Run = { title: item.title, daemon: contender.name, round };
  try {
    await withDaemon(contender, base, async ({ pid, socketPath }) => {
      if (item.title === IDLE) run.idle = await runIdle(socketPath, pid, seconds);
      else run.result = await runLoad(socketPath, { ...item, seconds, pid, retryMs: 2000, fileName: fileFor(item) });
    });
  } catch (error) {
    run[error instanceof QueueCountError ? "skipped" : "failure"] = (error as Error).message;
  }
  return run;
}

function outcome({ result, idle, skipped, failure }: Run): string {
  if (idle) return `${(idle.cpuShare * 1000).toFixed(2)} ms CPU per second`;
  if (result) return `${result.opsPerSecond.toFixed(0)} op/s, ${result.cpuPerOp.toFixed(2)} us CPU per op`;
  return skipped ?? failure ?? "";
}

/** Every workload, round by round, the daemons in turn, so that a disturbance hits all of them alike. */
async function measureAll(settings: Settings, contenders: readonly Contender[], base: string): Promise<Run[]> {
  const items: Item[] = settings.idle ? [...settings.items, { title: IDLE }] : settings.items;
  const total = items.length * settings.rounds * contenders.length;
  const runs: Run[] = [];
  for (const item of items) {
    for (let round = 1; round <= settings.rounds; round++) {
      for (const contender of contenders) {
        const run = await measureOne(item, contender, round, base, settings.seconds);
        runs.push(run);
        progress(`[${runs.length}/${total}] ${item.title}, ${contender.name}, round ${round}: ${outcome(run)}`);
      }
    }
  }
  return runs;
}

function host(): Record<string, string | number> {
  const model = /model name\s*: (.*)/.exec(Deno.readTextFileSync("/proc/cpuinfo"))?.[1] ?? Deno.build.arch;
  return { processors: navigator.hardwareConcurrency, model, kernel: Deno.osRelease(), deno: Deno.version.deno };
}

async function bench(settings: Settings, installed: readonly Contender[], base: string): Promise<number> {
  const own = ringfsd(settings.ringfsd);
  const contenders = await usable([own, ...installed], base);
  const runs = await measureAll(settings, contenders, base);
  const machine = host();
  console.log(`${machine.processors} x ${machine.model}, Linux ${machine.kernel}, Deno ${machine.deno}`);
  console.log(
    `medians of ${settings.rounds} rounds, each ${settings.seconds} s after ${LOAD_DEFAULTS.warmUpSeconds} s to warm up\n`,
  );
  for (const part of [loadTable(runs, own.name), idleTable(runs)]) if (part) console.log(part + "\n");
  if (contenders.every((one) => one === own)) {
    console.log(
      "No virtiofsd was measured" + (installed.length || settings.noPeers ? "." : ": none is installed here.") +
        " To compare, install one (Debian: apt install virtiofsd) or name one with --peer NAME=PATH.",
    );
  }
  const noise = disturbance(runs);
  if (noise) console.log(noise);
  const bad = troubles(runs);
  for (const line of omissions(runs)) console.log(`left out: ${line}`);
  for (const line of bad) console.log(`failed: ${line}`);
  if (settings.json) {
    const text = JSON.stringify({ date: new Date().toISOString(), host: machine, runs }, null, 1);
    await Deno.writeTextFile(settings.json, text + "\n");
  }
  return contenders.includes(own) && bad.length === 0 ? 0 : 1;
}

async function main(): Promise<number> {
  let settings: Settings | undefined;
  let installed: Contender[] = [];
  try {
    settings = parse(Deno.args);
    if (settings && !settings.noPeers) installed = peers(settings.peers);
  } catch (error) {
    console.error(`bench: ${(error as Error).message}`);
    return 2;
  }
  if (settings === undefined) return 0;
  if (settings.items.length === 0 && !settings.idle) {
    console.error("bench: --only matches no workload; --list shows them");
    return 2;
  }
  const base = await makeShare(settings);
  const cleanUp = () => settings.keep ? progress(`kept: ${base}`) : Deno.removeSync(base, { recursive: true });
  const interrupted = async () => {
    await current?.stop();
    cleanUp();
    Deno.exit(130);
  };
  Deno.addSignalListener("SIGINT", interrupted);
  Deno.addSignalListener("SIGTERM", interrupted);
  try {
    return await bench(settings, installed, base);
  } finally {
    cleanUp();
  }
}

if (import.meta.main) Deno.exit(await main());
