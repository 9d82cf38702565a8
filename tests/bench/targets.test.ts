// bench/targets.ts, bench/results.ts and bench/measure.ts: medians, ratios to the faster Rust virtiofsd, and the order of rounds.
import assert from "node:assert/strict";
import { NO_POLLING } from "../../bench/daemons.ts";
import { LOAD_DEFAULTS } from "../../bench/load.ts";
import { inTurn, leastDisturbed } from "../../bench/measure.ts";
import { fasterRust, median, medians } from "../../bench/results.ts";
import { LIMITS, RANDREAD, SUITE } from "../../bench/suite.ts";
import {
  FASTER,
  judge,
  judgeAll,
  OWN,
  showBound,
  showMeasured,
  summary,
  type Target,
  TARGETS,
} from "../../bench/targets.ts";
import { readVubench, vubenchArguments } from "../../bench/vubench.ts";
import { readFio } from "../../bench/limits.ts";
import { loadResult, loads, resultsOf } from "./fixtures.ts";

const READ: Target = {
  work: "reads",
  title: RANDREAD,
  daemon: OWN,
  figure: "opsPerSecond",
  against: { daemon: FASTER, title: RANDREAD },
  atLeast: 1.5,
};

Deno.test("TARGETS name workloads of the suite, with the contenders that they ask for, and a bound", () => {
  for (const { title, daemon, against, atLeast, atMost, work } of TARGETS) {
    const item = SUITE.find((one) => one.title === title);
    assert.ok(item, `${work}: no workload "${title}"`);
    assert.ok(daemon === OWN || daemon === NO_POLLING && item.noPolling, work);
    assert.ok(against === undefined || SUITE.some((one) => one.title === against.title), work);
    assert.equal([atLeast, atMost].filter((bound) => bound !== undefined).length, 1, work);
  }
});

Deno.test("SUITE has each title once, and the depth that the title says", () => {
  assert.equal(new Set(SUITE.map((item) => item.title)).size, SUITE.length);
  for (const { title, depth, kind } of SUITE) {
    if (kind === undefined) assert.match(title, new RegExp(`depth ${depth ?? LOAD_DEFAULTS.depth}\\b`));
  }
});

Deno.test("judge() divides medians by those of the faster thread-pool size", () => {
  const results = resultsOf([
    ...loads(RANDREAD, OWN, [300, 310, 100]),
    ...loads(RANDREAD, "rust pool 0", [200, 150, 210]),
    ...loads(RANDREAD, "rust pool 4", [120, 500, 130]),
    ...loads(RANDREAD, "c", [1000, 1000, 1000]),
  ]);
  assert.equal(fasterRust(results, RANDREAD), "rust pool 0");
  const verdict = judge(results, READ);
  assert.equal(verdict.value, 1.5);
  assert.equal(verdict.reached, true);
  assert.equal(verdict.rival, "rust pool 0");
  assert.deepEqual(verdict.range, [100 / 210, 310 / 150]);
});

Deno.test("judge() of CPU time takes that pool which is faster, not that which is cheaper, and an upper bound", () => {
  const results = resultsOf([
    ...loads(RANDREAD, OWN, [100], { cpuPerOp: 2 }),
    ...loads(RANDREAD, "rust pool 0", [200], { cpuPerOp: 4 }),
    ...loads(RANDREAD, "rust pool 4", [100], { cpuPerOp: 1 }),
  ]);
  const target: Target = { ...READ, figure: "cpuPerOp", atLeast: undefined, atMost: 0.4 };
  assert.deepEqual([judge(results, target).value, judge(results, target).reached], [0.5, false]);
  assert.equal(judge(results, { ...target, atMost: 0.5 }).reached, true);
});

Deno.test("judge() without a divisor, by a limit, and by another workload", () => {
  const other = SUITE.find((item) => item.title !== RANDREAD)!.title;
  const results = resultsOf([
    ...loads(RANDREAD, OWN, [100], { pssOwn: 50e6 }),
    ...loads(other, OWN, [80]),
    { title: LIMITS, daemon: "fio", round: 1, limit: { opsPerSecond: 200, cpuPerOp: 1 } },
  ]);
  const memory = judge(results, { ...READ, figure: "pssOwn", against: undefined, atLeast: undefined, atMost: 80e6 });
  assert.deepEqual([memory.value, memory.reached, showMeasured(memory)], [50e6, true, "50 MB"]);
  assert.equal(judge(results, { ...READ, against: { daemon: "fio", title: LIMITS } }).value, 0.5);
  assert.equal(judge(results, { ...READ, against: { daemon: OWN, title: other } }).value, 1.25);
});

Deno.test("judge() says why there is no value, and the summary counts it", () => {
  const lonely = resultsOf(loads(RANDREAD, OWN, [100]));
  assert.match(judge(lonely, READ).missing!, /no virtiofsd in Rust/);
  const skipped = resultsOf([{ title: RANDREAD, daemon: OWN, round: 1, skipped: "cannot" }]);
  assert.deepEqual(judge(skipped, READ), { target: READ, missing: "cannot" });
  assert.match(judge(resultsOf([]), READ).missing!, /not measured/);
  const verdicts = judgeAll(lonely);
  const count = TARGETS.filter((one) => one.title === RANDREAD).length;
  assert.equal(verdicts.length, count);
  // Memory needs nobody to compare with.
  assert.equal(summary(verdicts), `1 of ${count} targets reached, 0 missed, ${count - 1} not measured`);
});

Deno.test("showMeasured() does not round a miss up to its bound", () => {
  const verdict = { target: { ...READ, atLeast: 1.05 }, value: 1.0463, reached: false };
  assert.equal(showMeasured(verdict), "1.046");
  assert.equal(showMeasured({ ...verdict, value: 1.0537, reached: true }), "1.05");
  assert.equal(showMeasured({ ...verdict, value: undefined }), "-");
  assert.equal(showBound(READ), "at least 1.50");
});

Deno.test("median() and medians() of several and of none", () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
  assert.ok(Number.isNaN(median([])));
  assert.equal(medians([]), undefined);
  assert.deepEqual(medians([{ a: 1, b: "x" }, { a: 3, b: "y" }]), { a: 2 });
});

Deno.test("inTurn() has everyone once in each round, and another first in the next", () => {
  const list = ["a", "b", "c", "d", "e"];
  const first = [1, 2, 3, 4].map((round) => {
    const order = inTurn(list, round);
    assert.deepEqual([...order].sort(), list);
    return order[0];
  });
  assert.deepEqual(inTurn(list, 1), list);
  for (let i = 1; i < first.length; i++) assert.notEqual(first[i], first[i - 1]);
  assert.deepEqual(inTurn([], 2), []);
});

Deno.test("leastDisturbed() measures again while others take processors, and goes by that, not by the figures", async () => {
  const runsOf = (...others: number[]) => {
    const list = others.map((otherCpus, i) => (
      { title: "t", daemon: "a", round: 1, result: loadResult({ otherCpus, opsPerSecond: 1000 - i }) }
    ));
    return {
      made: 0,
      next() {
        return Promise.resolve(list[this.made++]);
      },
    };
  };
  for (
    const [others, retries, made, kept] of [
      [[0.02, 9], 3, 1, 0.02],
      [[0.5, 0.3, 0.05, 9], 3, 3, 0.05],
      [[0.5, 0.3, 0.4], 2, 3, 0.3],
      [[0.5, 9], 0, 1, 0.5],
    ] as const
  ) {
    const runs = runsOf(...others);
    assert.equal((await leastDisturbed(() => runs.next(), retries)).result!.otherCpus, kept);
    assert.equal(runs.made, made);
  }
  const failure = { title: "t", daemon: "a", round: 1, failure: "it ended" };
  assert.equal(await leastDisturbed(() => Promise.resolve(failure), 3), failure);
});

Deno.test("readFio() takes the first job, behind what fio notes", () => {
  const job = { error: 0, read: { iops: 1234.5, total_ios: 617 } };
  const text = `fio: a note\n${JSON.stringify({ jobs: [job] })}`;
  assert.deepEqual(readFio(text), { opsPerSecond: 1234.5, ops: 617 });
  assert.throws(() => readFio(JSON.stringify({ jobs: [{ ...job, error: 22 }] })), /error 22/);
  assert.throws(() => readFio("fio: no such engine"), /no such engine/);
});

Deno.test("readVubench() reads the line, and nothing else", () => {
  const line =
    "randread     bs=4096    q=1 qd=32  evidx poll |    557718 op/s   2178.6 MiB/s | lat us p50 48.8 p99 123.8 " +
    "p99.9 1811.3 max 4164 | daemon cpu 1.77 us/op | kicks/op 0.03 | rss 70.1 MB | max_write 1048576 | errors 2\n";
  const read = readVubench(line)!;
  assert.deepEqual(
    [read.mode, read.opsPerSecond, read.mibPerSecond, read.p50, read.p99, read.p999, read.max, read.cpuPerOp],
    ["randread", 557718, 2178.6, 48.8, 123.8, 1811.3, 4164, 1.77],
  );
  assert.deepEqual([read.kicksPerOp, read.errors], [0.03, 2]);
  assert.equal(readVubench("connect /s (No such file)"), undefined);
});

Deno.test("vubenchArguments() says what the workload is", () => {
  const args = vubenchArguments("/s", 7, { ...LOAD_DEFAULTS, blockBytes: 1 << 20, busyPoll: true, depth: 8 }).join(" ");
  assert.equal(args, "-s /s -m randread -q 1 -d 8 -b 1048576 -t 2 -f big -P 7 -e -p -g");
  assert.doesNotMatch(vubenchArguments("/s", 7, LOAD_DEFAULTS).join(" "), /-[pg]\b/);
});
