// bench/histogram.ts and bench/report.ts: percentiles, medians and tables.
import assert from "node:assert/strict";
import { bucketOf, Histogram } from "../../bench/histogram.ts";
import type { LoadResult } from "../../bench/load.ts";
import { cpuNs, monotonicNs, processTree } from "../../bench/process.ts";
import { disturbance, loadTable, median, omissions, type Run, troubles } from "../../bench/report.ts";

function result(opsPerSecond: number, cpuPerOp: number, errors = 0): LoadResult {
  const zero = {
    mibPerSecond: 0,
    p50: 1,
    p99: 1,
    p999: 1,
    max: 1,
    kicksPerOp: 0,
    callsPerOp: 0,
    cpuShare: 1,
    otherCpus: 0,
  };
  const memory = { rss: 0, pss: 0, pssOwn: 0, firstError: errors ? 5 : 0 };
  return { mode: "randread", queues: 1, opsPerSecond, cpuPerOp, errors, ...zero, ...memory };
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

Deno.test("median() of odd and even counts", () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
  assert.ok(Number.isNaN(median([])));
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

Deno.test("disturbance() warns when others took the processors in most runs", () => {
  const runs = [0.02, 0.5, 0.6].map((otherCpus, round) => (
    { title: "t", daemon: "a", round, result: { ...result(1, 1), otherCpus } }
  ));
  assert.match(disturbance(runs), /0\.50 processors/);
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
