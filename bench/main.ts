/**
 * `deno task bench`: ringfsd and every virtiofsd that is installed, on the same work, in turn, in one run, and whether the
 * project's targets are reached. Each measurement starts a fresh daemon on a directory in memory; tables go to standard output,
 * progress to standard error.
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { chart } from "./chart.ts";
import { type Contender, NO_POLLING, peers, ringfsd, ringfsdWithoutPolling } from "./daemons.ts";
import { limits } from "./limits.ts";
import { LOAD_DEFAULTS } from "./load.ts";
import { figures, replaceFigures } from "./markdown.ts";
import { measureAll, type Plan, stopCurrent, subjects, usable } from "./measure.ts";
import { fileSystemOf } from "./process.ts";
import { disturbance, idleTable, limitTable, loadTable, omissions, targetTable, troubles } from "./report.ts";
import type { Results } from "./results.ts";
import { fillFile, type Item, RANDREAD, READ_FILE, SUITE, WRITE_FILE } from "./suite.ts";
import { judgeAll, OWN, summary } from "./targets.ts";

const HELP = `usage: deno task bench [options]
  --peer NAME=PATH   a virtiofsd to compare with, beside those installed; may be repeated
                     ($VIRTIOFSD, /usr/libexec, /usr/lib/qemu, /usr/lib and PATH are looked at)
  --no-peers         ringfsd alone
  --ringfsd COMMAND  how to start ringfsd [dist/ringfsd, or else main.ts]
  --vubench PROGRAM  make the load with this program instead of the project's own driver
  --only PATTERN     workloads whose title matches this regular expression
  --rounds N         rounds, of which the median counts [3]
  --retries N        runs that others disturbed are made again, up to N times; the least disturbed counts [1]
  --seconds S        measured time of each run [2]
  --depth N          requests in flight on each queue, for all workloads
  --queues N         request queues, for all workloads
  --quick            one round of half a second, and no retries
  --file-mib N       size of the file that is read [256]
  --dir DIR          where the share is made [/dev/shm, or the directory for temporary files]
  --json FILE        all runs, for other programs and for --from
  --svg FILE         a chart
  --markdown FILE    tables, put between the two marks in that file
  --docs             both, into this project's docs/
  --from FILE        measure nothing: report what --json has written
  --list             the workloads' titles
  --keep             leave the share behind`;

const root = fileURLToPath(new URL("../", import.meta.url));

/** What the command line asks for. Times in seconds, sizes in MiB. */
interface Settings {
  items: Item[];
  rounds: number;
  retries: number;
  seconds: number;
  fileMib: number;
  dir?: string;
  json?: string;
  svg?: string;
  markdown?: string;
  from?: string;
  vubench?: string;
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
      ...{ peer: { type: "string", multiple: true }, "no-peers": flag, ringfsd: text, vubench: text, only: text },
      ...{
        rounds: text,
        retries: text,
        seconds: text,
        depth: text,
        queues: text,
        quick: flag,
        "file-mib": text,
        dir: text,
      },
      ...{ json: text, svg: text, markdown: text, docs: flag, from: text, list: flag, keep: flag, help: flag },
    },
  });
  if (v.help) return void console.log(HELP);
  if (v.list) return void console.log(SUITE.map((item) => item.title).join("\n"));
  const only = new RegExp(v.only ?? "");
  const depth = positive("--depth", v.depth), queues = positive("--queues", v.queues);
  const override = { ...(depth ? { depth } : {}), ...(queues ? { queues } : {}) };
  const changed = Object.entries(override).map(([key, value]) => ` [${key} ${value}]`).join("");
  return {
    items: SUITE.filter(({ title }) => only.test(title)).map((item) => (
      item.kind ? item : { ...item, ...override, title: item.title + changed }
    )),
    rounds: positive("--rounds", v.rounds) ?? (v.quick ? 1 : 3),
    retries: v.retries === "0" ? 0 : positive("--retries", v.retries) ?? (v.quick ? 0 : 1),
    seconds: positive("--seconds", v.seconds) ?? (v.quick ? 0.5 : 2),
    fileMib: Math.ceil(positive("--file-mib", v["file-mib"]) ?? 256),
    svg: v.svg ?? (v.docs ? join(root, "docs", "performance.svg") : undefined),
    markdown: v.markdown ?? (v.docs ? join(root, "docs", "PERFORMANCE.md") : undefined),
    ...{ dir: v.dir, json: v.json, from: v.from, vubench: v.vubench, keep: v.keep ?? false, ringfsd: v.ringfsd },
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

function host(): Results["host"] {
  const model = /model name\s*: (.*)/.exec(Deno.readTextFileSync("/proc/cpuinfo"))?.[1] ?? Deno.build.arch;
  return { processors: navigator.hardwareConcurrency, model, kernel: Deno.osRelease(), deno: Deno.version.deno };
}

async function measure(settings: Settings, installed: readonly Contender[], base: string): Promise<Results> {
  const { items, rounds, retries, seconds, vubench } = settings;
  const own = ringfsd(settings.ringfsd);
  const contenders = await usable([own, ...installed], base, progress);
  if (contenders[0] !== own) throw new Error("ringfsd itself does not serve the share");
  const noPolling = items.some((item) => item.noPolling) ? ringfsdWithoutPolling(settings.ringfsd) : undefined;
  const plan: Plan = { items, contenders, limits: limits(), rounds, retries, seconds, base, noPolling, vubench };
  const runs = await measureAll(plan, progress);
  const load = vubench ? "vubench" : "the project's own driver";
  const fileSystem = fileSystemOf(Deno.realPathSync(base));
  const date = new Date().toISOString();
  return { date, host: host(), fileSystem, rounds, seconds, load, subjects: subjects(plan), runs };
}

/** The report as text. */
function print(results: Results): void {
  const { host: machine, runs, rounds, seconds, load } = results;
  const warmUp = load === "vubench" ? "" : ` after ${LOAD_DEFAULTS.warmUpSeconds} s to warm up`;
  console.log(`${machine.processors} x ${machine.model}, Linux ${machine.kernel}, Deno ${machine.deno}`);
  for (const { name, kind, version } of results.subjects) {
    if (version && name !== NO_POLLING && kind !== "limit") console.log(`${name}: ${version}`);
  }
  console.log(
    `files on ${results.fileSystem}; medians of ${rounds} rounds, each ${seconds} s${warmUp}; load by ${load}\n`,
  );
  const verdicts = judgeAll(results);
  const parts = [loadTable(runs, OWN), idleTable(runs), limitTable(runs, OWN, RANDREAD)];
  if (verdicts.length > 0) parts.push(targetTable(verdicts), summary(verdicts));
  for (const part of parts) if (part) console.log(part + "\n");
  if (!results.subjects.some(({ kind }) => kind === "rust" || kind === "c")) {
    console.log(
      "No virtiofsd was measured. To compare, install one (Debian: apt install virtiofsd) or name one with --peer NAME=PATH.",
    );
  }
  const noise = disturbance(runs);
  if (noise) console.log(noise);
  for (const line of omissions(runs)) console.log(`left out: ${line}`);
  for (const line of troubles(runs)) console.log(`failed: ${line}`);
}

async function write({ json, svg, markdown }: Settings, results: Results): Promise<void> {
  if (json) await Deno.writeTextFile(json, JSON.stringify(results, null, 1) + "\n");
  if (svg) await Deno.writeTextFile(svg, chart(results));
  if (markdown) await Deno.writeTextFile(markdown, replaceFigures(await Deno.readTextFile(markdown), figures(results)));
}

/** Measures with all that must be there and go again around it. */
async function measureInShare(settings: Settings, installed: readonly Contender[]): Promise<Results> {
  const base = await makeShare(settings);
  const cleanUp = () => settings.keep ? progress(`kept: ${base}`) : Deno.removeSync(base, { recursive: true });
  const interrupted = async () => {
    await stopCurrent();
    cleanUp();
    Deno.exit(130);
  };
  Deno.addSignalListener("SIGINT", interrupted);
  Deno.addSignalListener("SIGTERM", interrupted);
  try {
    return await measure(settings, installed, base);
  } finally {
    cleanUp();
  }
}

async function main(): Promise<number> {
  let settings: Settings | undefined;
  let installed: Contender[] = [];
  try {
    settings = parse(Deno.args);
    if (settings && !settings.noPeers && !settings.from) installed = peers(settings.peers);
    // A document without its marks is better refused now than after a quarter of an hour.
    if (settings?.markdown) replaceFigures(Deno.readTextFileSync(settings.markdown), "");
  } catch (error) {
    console.error(`bench: ${(error as Error).message}`);
    return 2;
  }
  if (settings === undefined) return 0;
  if (settings.items.length === 0) {
    console.error("bench: --only matches no workload; --list shows them");
    return 2;
  }
  try {
    const results: Results = settings.from
      ? JSON.parse(await Deno.readTextFile(settings.from))
      : await measureInShare(settings, installed);
    print(results);
    await write(settings, results);
    return troubles(results.runs).length === 0 ? 0 : 1;
  } catch (error) {
    console.error(`bench: ${(error as Error).message}`);
    return 1;
  }
}

if (import.meta.main) Deno.exit(await main());
