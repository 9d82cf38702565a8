// bench/histogram.ts and bench/report.ts: percentiles, medians and tables.
import assert from "node:assert/strict";
import { bucketOf, Histogram } from "../../bench/histogram.ts";
import type { LoadResult } from "../../bench/load.ts";
import { cpuNs, monotonicNs, processTree } from "../../bench/process.ts";
import { disturbance, idleTable, limitTable, loadTable, omissions, targetTable, troubles } from "../../bench/report.ts";
import type { Run } from "../../bench/results.ts";
import { judgeAll, OWN } from "../../bench/targets.ts";
import { RANDREAD } from "../../bench/suite.ts";
import { loadResult, loads, resultsOf } from "./fixtures.ts";

function result(opsPerSecond: number, cpuPerOp: number, errors = 0): LoadResult {
  return loadResult({ opsPerSecond, cpuPerOp, errors, firstError: errors ? 5 : 0 });
}

Deno.test("bucketOf() never falls, and has room for every value", () => {
  let last = -1;
  for (let value = 0; value < 2 ** 33; value = value < 600 ? value + 1 : Math.floor(value * 1.003)) {
    const bucket = bucketOf(value);
    assert.ok(bucket === last || bucket === last + 1 || value > 600 && bucket > last, `${value}`);
    last = bucket;
  }
  assert.ok(last < new Histogram().counts.length);
});

Deno.test("Histogram.percentile() is within 1 % of the sorted values", () => {
  const histogram = new Histogram();
  assert.equal(histogram.percentile(0.5), 0);
  const values = Array.from({ length: 20_000 }, (_, i) => 50 + (i * i) % 3_000_017);
  for (const value of values) histogram.record(value);
  values.sort((a, b) => a - b);
  for (const q of [0.01, 0.5, 0.99, 0.999, 1]) {
    const exact = values[Math.ceil(values.length * q) - 1];
    assert.ok(Math.abs(histogram.percentile(q) - exact) <= exact * 0.01, `${q}: ${histogram.percentile(q)}, ${exact}`);
  }
  const sum = new Histogram();
  sum.add(histogram);
  sum.add(histogram);
  assert.equal(sum.total, 40_000);
  assert.equal(sum.percentile(0.5), histogram.percentile(0.5));
});

Deno.test("loadTable() shows medians and ringfsd's figure divided by the peer's", () => {
  const runs: Run[] = [1, 2, 3].flatMap((round) => [
    { title: "t", daemon: "ringfsd", round, result: result(100 * round, 2) },
    { title: "t", daemon: "peer", round, result: result(100, 4) },
    { title: "t", daemon: "other", round, skipped: "2 request queues wanted, 1 served" },
  ]);
  const lines = loadTable(runs, "ringfsd").split("\n").map((line) => line.split(/ {2,}/));
  assert.deepEqual(lines[1].slice(0, 3), ["t", "ringfsd", "200"]);
  assert.deepEqual(lines[2].slice(1, 3), ["peer", "100"]);
  assert.deepEqual(lines[2].slice(-2), ["2.00", "0.50"]);
  assert.equal(lines.length, 3);
  assert.deepEqual(omissions(runs), ["t: 2 request queues wanted, 1 served by other"]);
});

Deno.test("troubles() names wrong replies and failures once", () => {
  const runs: Run[] = [1, 2].flatMap((round) => [
    { title: "t", daemon: "a", round, result: result(1, 1, 7) },
    { title: "t", daemon: "b", round, failure: "it ended" },
  ]);
  assert.deepEqual(troubles(runs), ["t, a: wrong replies (first errno 5)", "t, b: it ended"]);
});

Deno.test("loadTable() compares ringfsd, not its other variants, with peers, and shows what JSON has lost as -", () => {
  const lost = { ...result(50, 1), callsPerOp: null as unknown as number };
  const lines = loadTable([
    { title: "t", daemon: "ringfsd", round: 1, result: result(200, 1) },
    { title: "t", daemon: "ringfsd, no polling", round: 1, result: result(100, 1) },
    { title: "t", daemon: "peer", round: 1, result: lost },
  ], "ringfsd").split("\n");
  assert.match(lines[2], /ringfsd, no polling .* 0\.000$/);
  assert.match(lines[3], /peer .* -  +4\.00  +1\.00$/);
});

Deno.test("idleTable() and limitTable() show medians, and nothing where nothing was measured", () => {
  const idle = { cpuShare: 0.002, rss: 3 << 20, pss: 2 << 20, pssOwn: 1 << 20 };
  assert.match(idleTable([{ title: "idle", daemon: "a", round: 1, idle }]), /idle +a +2\.00 +3 +2 +1$/);
  const limit = { opsPerSecond: 400, cpuPerOp: 2.5 };
  const runs: Run[] = [{ title: "l", daemon: "loop", round: 1, limit }, ...loads("t", OWN, [100])];
  assert.match(limitTable(runs, OWN, "t"), /loop +400 +2\.50 +0\.25$/);
  assert.deepEqual([idleTable([]), limitTable([], OWN, "t"), loadTable([], OWN)], ["", "", ""]);
});

Deno.test("targetTable() says of each target what was measured and whether it was reached", () => {
  const runs = [...loads(RANDREAD, OWN, [100, 300]), ...loads(RANDREAD, "rust pool 0", [100, 100])];
  const lines = targetTable(judgeAll(resultsOf(runs))).split("\n");
  assert.match(lines[1], /^4 KiB random read, depth 32 +2\.00 +1\.00 - 3\.00 +at least 1\.50 +yes +rust pool 0$/);
  assert.match(lines[2], /^the same: CPU per operation +1\.00 +at most 0\.90 +NO +rust pool 0$/);
});

Deno.test("disturbance() counts the runs that others disturbed, and advises where it was most of them", () => {
  const runs = [0.02, 0.5, 0.6].map((otherCpus, round) => (
    { title: "t", daemon: "a", round, result: { ...result(1, 1), otherCpus } }
  ));
  assert.match(disturbance(runs), /in 2 of 3 runs \(median of all 0\.50, most 0\.60\): repeat/);
  assert.doesNotMatch(disturbance([...runs, ...runs.slice(0, 1), ...runs.slice(0, 1)]), /repeat/);
  assert.equal(disturbance(runs.slice(0, 1)), "");
  assert.equal(disturbance([]), "");
});

Deno.test("cpuNs() counts the CPU time of another process, and is 0 for one that is not there", async () => {
  const child = new Deno.Command("sh", {
    args: ["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; read x"],
    stdin: "piped",
  })
    .spawn();
  assert.ok(processTree(Deno.pid).includes(child.pid));
  const deadline = performance.now() + 5000;
  while (cpuNs(child.pid) < 10e6 && performance.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.ok(cpuNs(child.pid) >= 10e6);
  await child.stdin.close();
  await child.status;
  assert.equal(cpuNs(child.pid), 0);
  assert.ok(monotonicNs() <= monotonicNs());
});
