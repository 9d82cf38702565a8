/**
 * `deno run -A bench/sandbox.ts`: what the layers of the sandbox cost together. Two daemons in turn, one with none of them and one as it
 * is by itself, in an order that changes with each round; the ratio within a round counts, so that what the machine does besides cancels out.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ringfsd, startDaemon } from "./daemons.ts";
import { type LoadResult, runLoad } from "./load.ts";
import { median, table } from "./report.ts";
import { fillFile } from "./suite.ts";
import { type Mode, MODES } from "./workloads.ts";

const HELP = `usage: deno run -A bench/sandbox.ts [options]
  --mode MODE        what the guest does: ${MODES.join(", ")} [randread]
  --depth N          its requests in flight [32]
  --rounds N         rounds, of which the median counts [9]
  --seconds S        measured time of each run [2]
  --options=WORDS    how the confined daemon is started [--sandbox namespace --seccomp kill]
  --ringfsd COMMAND  how to start ringfsd [dist/ringfsd, or else main.ts]`;

const FILE_BYTES = 64 << 20;
const FREE = ["--sandbox", "none", "--seccomp", "none"];
const CONFINED = ["--sandbox", "namespace", "--seccomp", "kill"];

export interface SandboxOptions {
  mode: Mode;
  depth: number;
  rounds: number;
  seconds: number;
  /** Of the confined daemon. */
  options?: readonly string[];
  ringfsd?: string;
}

export interface SandboxRound {
  free: LoadResult;
  confined: LoadResult;
}

/** Measures in rounds. */
export async function runSandbox(options: SandboxOptions): Promise<SandboxRound[]> {
  const base = Deno.makeTempDirSync({ prefix: "ringfsd-sandbox-bench-" });
  const { mode, depth, seconds, ringfsd: command } = options;
  const measure = async (words: readonly string[]) => {
    const daemon = await startDaemon(ringfsd(command, words.join(" "), words), join(base, "share"), join(base, "s"));
    try {
      return await runLoad(daemon.socketPath, { mode, depth, seconds, pid: daemon.pid, retryMs: 2000 });
    } finally {
      await daemon.stop();
    }
  };
  try {
    Deno.mkdirSync(join(base, "share"));
    await fillFile(join(base, "share"), "big", FILE_BYTES);
    const rounds: SandboxRound[] = [];
    for (let i = 0; i < options.rounds; i++) {
      const first = await measure(i % 2 === 0 ? FREE : options.options ?? CONFINED);
      const second = await measure(i % 2 === 0 ? options.options ?? CONFINED : FREE);
      rounds.push(i % 2 === 0 ? { free: first, confined: second } : { free: second, confined: first });
    }
    return rounds;
  } finally {
    Deno.removeSync(base, { recursive: true });
  }
}

/** Medians of all rounds, as text. */
export function sandboxReport(rounds: readonly SandboxRound[]): string {
  const of = (figure: (one: SandboxRound) => number) => median(rounds.map(figure));
  const row = (name: string, which: keyof SandboxRound) => [
    name,
    of((one) => one[which].opsPerSecond).toFixed(0),
    of((one) => one[which].p50).toFixed(1),
    of((one) => one[which].p99).toFixed(1),
    of((one) => one[which].cpuPerOp).toFixed(2),
  ];
  const percent = (ratio: number) => `${((ratio - 1) * 100).toFixed(1)} %`;
  const ops = of((one) => one.confined.opsPerSecond / one.free.opsPerSecond);
  const cpu = of((one) => one.confined.cpuPerOp / one.free.cpuPerOp);
  return [
    table([["daemon", "op/s", "p50 us", "p99 us", "CPU us/op"], row("free", "free"), row("confined", "confined")], 1),
    `with the sandbox: op/s ${percent(ops)}, CPU per op ${percent(cpu)}`,
  ].join("\n");
}

if (import.meta.main) {
  const text = { type: "string" } as const;
  const { values: v } = parseArgs({
    options: {
      ...{ mode: text, depth: text, rounds: text, seconds: text, options: text, ringfsd: text },
      help: { type: "boolean" },
    },
  });
  if (v.help) {
    console.log(HELP);
  } else {
    const mode = v.mode ?? "randread";
    if (!(MODES as readonly string[]).includes(mode)) {
      throw new Error(`--mode ${mode}: expected one of ${MODES.join(", ")}`);
    }
    const rounds = await runSandbox({
      mode: mode as Mode,
      depth: Number(v.depth ?? 32),
      rounds: Number(v.rounds ?? 9),
      seconds: Number(v.seconds ?? 2),
      ...(v.options === undefined ? {} : { options: v.options.split(" ").filter((word) => word !== "") }),
      ...(v.ringfsd ? { ringfsd: v.ringfsd } : {}),
    });
    console.log(sandboxReport(rounds));
    // The load's threads have ended, but their ports may keep the process.
    Deno.exit(0);
  }
}
