/**
 * `deno task bench:devices`: what idle devices cost an active one. Two daemons in turn, one that has the active device alone and one
 * that has idle ones beside it, each with a guest that is connected and quiet; and what the second uses when all are quiet.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type Contender, ringfsd, type Running, startDaemon } from "./daemons.ts";
import { type LoadResult, runLoad } from "./load.ts";
import { cpuNs, memoryUse } from "./process.ts";
import { median, table } from "./report.ts";
import { Session } from "./session.ts";
import { fillFile } from "./suite.ts";
import { type Mode, MODES } from "./workloads.ts";

const HELP = `usage: deno task bench:devices [options]
  --devices N        devices of the daemon that has many, the active one included [100]
  --mode MODE        what the active guest does: ${MODES.join(", ")} [randread]
  --depth N          its requests in flight [32]
  --rounds N         rounds, of which the median counts [5]
  --seconds S        measured time of each run [2]
  --ringfsd COMMAND  how to start ringfsd [dist/ringfsd, or else main.ts]`;

/** What to run. */
export interface DevicesOptions {
  devices: number;
  mode: Mode;
  depth: number;
  rounds: number;
  seconds: number;
  ringfsd?: string;
  /** Where the shares are made. */
  dir?: string;
}

/** One round. Memory in bytes, CPU in processors. */
export interface DevicesRound {
  alone: LoadResult;
  among: LoadResult;
  /** CPU time per second of the daemon with many devices when all guests are quiet. */
  idleCpus: number;
  /** What each further device takes, with a guest connected (PSS without shared memory). */
  bytesPerDevice: number;
}

const FILE_BYTES = 64 << 20;
const GUEST_BYTES = 4 << 20;
const QUIET_SECONDS = 3;

function sleep(seconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}

/** ringfsd with shares 0 to count - 1 under `base`, from a configuration file. The active share is the last. */
export function manyShares(base: string, count: number, command?: string): Contender {
  const shares = Array.from({ length: count }, (_, i) => {
    const dir = join(base, i === count - 1 ? "share" : `idle${i}`);
    Deno.mkdirSync(dir, { recursive: true });
    return { tag: `share${i}`, dir, socket: i === count - 1 ? "" : join(base, `idle${i}.sock`) };
  });
  const one = ringfsd(command).command("", "");
  const start = one.slice(0, one.indexOf("--socket-path"));
  return {
    name: `ringfsd with ${count} device${count === 1 ? "" : "s"}`,
    command: (_dir, socketPath) => {
      const file = join(base, `shares${count}.json`);
      Deno.writeTextFileSync(
        file,
        JSON.stringify({ shares: [...shares.slice(0, -1), { ...shares.at(-1), socket: socketPath }] }),
      );
      return [...start, "--config", file];
    },
  };
}

/** Connects a quiet guest to each idle share of a daemon that `manyShares` describes. */
export function quietGuests(base: string, count: number): Session[] {
  const sessions: Session[] = [];
  for (let i = 0; i < count; i++) {
    const session = Session.open(join(base, `idle${i}.sock`), { memory: GUEST_BYTES, retryMs: 2000 });
    sessions.push(session);
    // It has done something, as a guest that mounts.
    const { error } = session.client.getattr(1);
    if (error !== 0) throw new Error(`the guest of idle share ${i} got error ${error}`);
  }
  return sessions;
}

/** Runs a round; `base` has a directory `share` with a file `big`. */
async function round(base: string, options: DevicesOptions, serial: number): Promise<DevicesRound> {
  const { devices, mode, depth, seconds, ringfsd: command } = options;
  const load = (daemon: Running) =>
    runLoad(daemon.socketPath, { mode, depth, seconds, pid: daemon.pid, retryMs: 2000 });
  const with_ = async <T>(count: number, use: (daemon: Running) => Promise<T>): Promise<T> => {
    const socketPath = join(base, `active${serial}-${count}.sock`);
    const daemon = await startDaemon(manyShares(base, count, command), "", socketPath);
    try {
      return await use(daemon);
    } finally {
      await daemon.stop();
    }
  };
  const one = await with_(
    1,
    async (daemon) => ({ result: await load(daemon), memory: memoryUse([daemon.pid]).pssOwn }),
  );
  return await with_(devices, async (daemon) => {
    const sessions = quietGuests(base, devices - 1);
    try {
      const result = await load(daemon);
      const memory = memoryUse([daemon.pid]).pssOwn;
      await sleep(0.5);
      const before = cpuNs(daemon.pid);
      await sleep(QUIET_SECONDS);
      const idleCpus = (cpuNs(daemon.pid) - before) / (QUIET_SECONDS * 1e9);
      return { alone: one.result, among: result, idleCpus, bytesPerDevice: (memory - one.memory) / (devices - 1) };
    } finally {
      for (const session of sessions) session.close();
    }
  });
}

/** A directory in memory, where there is one. */
function inMemory(): string | undefined {
  try {
    return Deno.statSync("/dev/shm").isDirectory ? "/dev/shm" : undefined;
  } catch {
    return undefined;
  }
}

/** Measures in rounds. */
export async function runDevices(options: DevicesOptions): Promise<DevicesRound[]> {
  const base = await Deno.makeTempDir({ dir: options.dir ?? inMemory(), prefix: "ringfsd-devices-" });
  try {
    await Deno.mkdir(join(base, "share"));
    await fillFile(join(base, "share"), "big", FILE_BYTES);
    const rounds: DevicesRound[] = [];
    for (let i = 0; i < options.rounds; i++) rounds.push(await round(base, options, i));
    return rounds;
  } finally {
    await Deno.remove(base, { recursive: true });
  }
}

/** The medians of all rounds, as text. */
export function devicesReport(rounds: readonly DevicesRound[], devices: number): string {
  const of = (figure: (one: DevicesRound) => number) => median(rounds.map(figure));
  const row = (name: string, which: "alone" | "among") => [
    name,
    of((one) => one[which].opsPerSecond).toFixed(0),
    of((one) => one[which].p50).toFixed(1),
    of((one) => one[which].p99).toFixed(1),
    of((one) => one[which].cpuPerOp).toFixed(2),
  ];
  const ratio = of((one) => one.among.opsPerSecond / one.alone.opsPerSecond);
  const cpu = of((one) => one.among.cpuPerOp / one.alone.cpuPerOp);
  return [
    table([
      ["active device", "op/s", "p50 us", "p99 us", "CPU us/op"],
      row("alone", "alone"),
      row(`among ${devices}`, "among"),
    ], 1),
    `op/s among the others, of op/s alone: ${(ratio * 100).toFixed(1)} %; CPU per op: ${(cpu * 100).toFixed(1)} %`,
    `CPU of the daemon while all ${devices} guests are quiet: ${
      (of((one) => one.idleCpus) * 100).toFixed(3)
    } % of a processor`,
    `memory of each further device: ${(of((one) => one.bytesPerDevice) / 1024).toFixed(0)} KiB`,
  ].join("\n");
}

if (import.meta.main) {
  const text = { type: "string" } as const;
  const { values: v } = parseArgs({
    options: {
      ...{ devices: text, mode: text, depth: text, rounds: text, seconds: text, ringfsd: text },
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
    const devices = Number(v.devices ?? 100);
    const rounds = await runDevices({
      devices,
      mode: mode as Mode,
      depth: Number(v.depth ?? 32),
      rounds: Number(v.rounds ?? 5),
      seconds: Number(v.seconds ?? 2),
      ...(v.ringfsd ? { ringfsd: v.ringfsd } : {}),
    });
    console.log(devicesReport(rounds, devices));
    // The load's threads have ended, but their ports may keep the process.
    Deno.exit(0);
  }
}
