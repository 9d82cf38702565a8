/** Fuzzing: makes cases, plays them in batches, looks at the daemon behind each, and makes what fails small. */
import { random } from "../fs/random.ts";
import { fuse } from "./fuse.ts";
import type { Case, Counts, Kind, Player } from "./kind.ts";
import { shrink } from "./shrink.ts";
import { type Setup, setupNamed, SETUPS, Target } from "./target.ts";
import { vhost } from "./vhost.ts";
import { vq } from "./vq.ts";

export const KINDS: readonly Kind[] = [vq, fuse, vhost] as unknown as readonly Kind[];
const BATCH = 30;
/** Batches that one daemon gets before another is started with other options. */
const BATCHES = 8;
/** How often an input is tried again to make it small; each time with a daemon of its own. */
const TRIES = 60;

/** What failed, as it stands in the corpus. */
export interface Entry {
  kind: string;
  setup: string;
  why: string;
  cases: Case[];
}

export interface Options {
  seed: number;
  seconds: number;
  only?: string;
  setup?: string;
  keepGoing?: boolean;
  /** Makes failing inputs small; takes minutes. */
  reduce?: boolean;
  say: (line: string) => void;
  /** Is told of each failing input. */
  failed: (entry: Entry, seed: number) => void;
}

export const kindNamed = (name: string): Kind => {
  const kind = KINDS.find((one) => one.name === name);
  if (!kind) throw new Error(`there is no generator ${name}: use ${KINDS.map((one) => one.name).join(" ")}`);
  return kind;
};

/** Plays cases on a daemon of their own. Returns what is wrong, or "". */
export async function replay({ kind, setup, cases }: Omit<Entry, "why">): Promise<string> {
  const target = await Target.start(setupNamed(setup));
  let player: Player | undefined;
  try {
    player = kindNamed(kind).begin(target, {});
    for (const one of cases) player.play(one);
    player.end();
    player = undefined;
    await target.check();
    await target.stop();
    return "";
  } catch (error) {
    try {
      player?.end();
    } catch { /* it is in no state for that */ }
    await target.stop(true);
    return String((error as Error).message);
  }
}

/** The same input, smaller, with what it does now. */
export async function reduced(entry: Entry, say: Options["say"]): Promise<Entry> {
  const fails = async (cases: readonly Case[]) => await replay({ ...entry, cases: [...cases] }) !== "";
  let cases: readonly Case[] = entry.cases;
  const last = cases.slice(-1);
  if (await fails(last)) cases = last;
  else if (!await fails(cases)) {
    say("  it does not fail again on a daemon of its own: kept as it is");
    return entry;
  } else cases = await shrink(cases, fails, undefined, TRIES);
  for (let i = 0; i < cases.length; i++) {
    const with_ = (steps: readonly unknown[]) => cases.map((one, at) => at === i ? { ...one, steps: [...steps] } : one);
    const { simpler } = kindNamed(entry.kind);
    const steps = await shrink(cases[i].steps, (steps) => fails(with_(steps)), simpler, TRIES);
    cases = with_(steps);
  }
  const smaller = { ...entry, cases: [...cases] };
  return { ...smaller, why: (await replay(smaller) || entry.why).split("\n")[0] };
}

/** Fuzzes for a while. Returns how many inputs failed. */
export async function campaign(options: Options): Promise<number> {
  const { seed, seconds, only, say } = options;
  const kinds = only === undefined ? KINDS : [kindNamed(only)];
  let failures = 0;
  for (const kind of kinds) {
    let end = performance.now() + seconds * 1000 / kinds.length;
    const counts: Counts = { cases: 0, daemons: 0 };
    let number = 0;
    let figures = "";
    while (performance.now() < end) {
      const setup = options.setup ? setupNamed(options.setup) : SETUPS[counts.daemons % SETUPS.length];
      const begun = performance.now();
      const target = await Target.start(setup);
      // What a daemon takes to start is not spent on fuzzing.
      end += performance.now() - begun;
      counts.daemons++;
      let why = "";
      let cases: Case[] = [];
      let batchSeed = 0;
      for (let batch = 0; batch < BATCHES && performance.now() < end && why === ""; batch++) {
        batchSeed = (seed + number++ * 0x9e3779b1) >>> 0;
        const next = random(batchSeed);
        cases = [];
        let player: Player | undefined;
        try {
          player = kind.begin(target, counts);
          for (let i = 0; i < BATCH && performance.now() < end; i++) {
            const one = kind.generate(next);
            cases.push(one);
            player.play(one);
            counts.cases++;
          }
          player.end();
          player = undefined;
          await target.check();
          figures = target.figures;
        } catch (error) {
          try {
            player?.end();
          } catch { /* it is in no state for that */ }
          why = String((error as Error).message);
        }
      }
      try {
        await target.stop(why !== "");
      } catch (error) {
        why = String((error as Error).message);
      }
      if (why === "") continue;
      failures++;
      say(`${kind.name}, seed ${seed}, batch ${number - 1} (${batchSeed}), setup ${setup.name}: ${why}`);
      const entry: Entry = { kind: kind.name, setup: setup.name, why: why.split("\n")[0], cases };
      options.failed(entry, batchSeed);
      if (options.reduce) options.failed(await reduced(entry, say), batchSeed);
      if (!options.keepGoing) return failures;
    }
    const told = Object.entries(counts).map(([name, count]) => `${count} ${name}`).join(", ");
    say(`${kind.name}, seed ${seed}: ${told}; at the end ${figures}`);
  }
  return failures;
}

/** Reads a case as the corpus has it. */
export function readEntry(path: string | URL): Entry {
  return JSON.parse(Deno.readTextFileSync(path));
}

export type { Setup };
