/**
 * A load made by another program: vubench, a front end in C that others wrote, so that figures can be had that do not depend on
 * this project's driver. It sends what our driver sends, with direct descriptors only and without warming up.
 */
import { LOAD_DEFAULTS, type LoadOptions, type LoadResult } from "./load.ts";
import { childrenCpuNs, machineBusyNs, memoryUse, processTree } from "./process.ts";
import { NotHereError, QueueCountError } from "./session.ts";
import type { Mode } from "./workloads.ts";

/** The command line for a load. */
export function vubenchArguments(socketPath: string, pid: number, options: LoadOptions): string[] {
  const { mode, queues, depth, blockBytes, seconds, fileName, eventIdx, busyPoll, segmentBytes } = options;
  return [
    ...["-s", socketPath, "-m", mode, "-q", `${queues}`, "-d", `${depth}`, "-b", `${blockBytes}`],
    ...["-t", `${seconds}`, "-f", fileName, "-P", `${pid}`],
    ...(eventIdx ? ["-e"] : []),
    ...(busyPoll ? ["-p"] : []),
    ...(segmentBytes === 4096 && blockBytes > 4096 ? ["-g"] : []),
  ];
}

/** Runs it against a daemon. Its own figures, and those that it does not give by our meter. */
export async function runVubench(
  program: string,
  socketPath: string,
  given: Partial<LoadOptions>,
): Promise<LoadResult> {
  const options = { ...LOAD_DEFAULTS, ...given };
  if (options.mode === "unknown") throw new NotHereError("vubench has no unknown operation");
  const pid = options.pid ?? 0;
  const pids = processTree(pid);
  const [startMs, machine, children] = [performance.now(), machineBusyNs(), childrenCpuNs()];
  const args = vubenchArguments(socketPath, pid, options);
  const child = new Deno.Command(program, { args, stdin: "null", stdout: "piped", stderr: "piped" }).spawn();
  const output = child.output();
  // In the middle: some daemons end with the connection.
  const memory = { rss: NaN, pss: NaN, pssOwn: NaN };
  const timer = setTimeout(() => {
    const use = memoryUse(pids);
    if (use.rss > 0) Object.assign(memory, use);
  }, options.seconds * 500);
  const { code, stdout, stderr } = await output;
  clearTimeout(timer);
  const elapsedNs = (performance.now() - startMs) * 1e6;
  const strangers = machineBusyNs() - machine - (childrenCpuNs() - children);
  const complaint = new TextDecoder().decode(stderr).trim();
  if (code === 3) throw new QueueCountError(complaint);
  const line = readVubench(new TextDecoder().decode(stdout));
  if (line === undefined) throw new Error(`vubench ended with ${code}: ${complaint.split("\n").at(-1)}`);
  const { mode, queues } = options;
  const otherNs = Math.max(0, strangers - line.cpuShare * options.seconds * 1e9);
  return { ...line, mode, queues, otherCpus: otherNs / elapsedNs, ...memory };
}

type Line = Omit<LoadResult, "mode" | "queues" | "otherCpus" | "rss" | "pss" | "pssOwn"> & { mode: Mode };

/** The figures in the line that it prints; undefined where that is none. Its errors carry no errno. */
export function readVubench(text: string): Line | undefined {
  const number = "([\\d.]+)";
  const pattern = new RegExp(
    `^(\\w+) .*\\| +${number} op/s +${number} MiB/s \\| lat us p50 ${number} p99 ${number} p99.9 ${number} max ${number} ` +
      `\\| daemon cpu ${number} us/op \\| kicks/op ${number} .*\\| errors (\\d+)`,
    "m",
  );
  const found = pattern.exec(text);
  if (found === null) return undefined;
  const [opsPerSecond, mibPerSecond, p50, p99, p999, max, cpuPerOp, kicksPerOp, errors] = found.slice(2).map(Number);
  const cpuShare = cpuPerOp * opsPerSecond / 1e6;
  const latency = { p50, p99, p999, max };
  return {
    mode: found[1] as Mode,
    ...{
      opsPerSecond,
      mibPerSecond,
      ...latency,
      kicksPerOp,
      callsPerOp: NaN,
      cpuPerOp,
      cpuShare,
      errors,
      firstError: 0,
    },
  };
}
