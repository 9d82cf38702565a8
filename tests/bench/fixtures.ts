/** Made-up runs for the tests of the bench's reports. */
import type { LoadResult } from "../../bench/load.ts";
import type { Results, Run } from "../../bench/results.ts";

/** A load's result; what is not said is 0 or 1. */
export function loadResult(given: Partial<LoadResult>): LoadResult {
  const latency = { p50: 1, p99: 1, p999: 1, max: 1 };
  const counts = { mibPerSecond: 0, kicksPerOp: 0, callsPerOp: 0, cpuPerOp: 1, cpuShare: 1, otherCpus: 0, errors: 0 };
  const memory = { rss: 0, pss: 0, pssOwn: 0, firstError: 0 };
  return { mode: "randread", queues: 1, opsPerSecond: 1, ...latency, ...counts, ...memory, ...given };
}

/** A run for each rate, in rounds from 1 on. */
export function loads(title: string, daemon: string, rates: number[], given: Partial<LoadResult> = {}): Run[] {
  return rates.map((opsPerSecond, i) => (
    { title, daemon, round: i + 1, result: loadResult({ opsPerSecond, ...given }) }
  ));
}

/** Results with ringfsd and three virtiofsd. */
export function resultsOf(runs: Run[]): Results {
  return {
    date: "2026-01-02T03:04:05.678Z",
    host: { processors: 2, model: "a processor", kernel: "6.1", deno: "2.9" },
    fileSystem: "tmpfs",
    rounds: 3,
    seconds: 1,
    load: "nobody",
    subjects: [
      { name: "ringfsd", kind: "ringfsd", version: "ringfsd 1.0" },
      { name: "rust pool 0", kind: "rust", version: "virtiofsd 1.13" },
      { name: "rust pool 4", kind: "rust", version: "virtiofsd 1.13" },
      { name: "c", kind: "c", version: "virtiofsd version 7.2" },
      { name: "fio", kind: "limit", version: "" },
    ],
    runs,
  };
}
