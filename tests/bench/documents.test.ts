// bench/markdown.ts and bench/chart.ts: what goes into docs/PERFORMANCE.md.
import assert from "node:assert/strict";
import { chart, escapeXml } from "../../bench/chart.ts";
import { BEGIN, END, figures, markdownTable, replaceFigures } from "../../bench/markdown.ts";
import { NO_POLLING } from "../../bench/daemons.ts";
import { LIMITS, NOTHING, RANDREAD, RANDREAD_POLLED } from "../../bench/suite.ts";
import { loads, resultsOf } from "./fixtures.ts";

Deno.test("replaceFigures() replaces what stands between the marks, time and again, and nothing else", () => {
  const document = `# Title\n${BEGIN}\nold $1 $& text\n${END}\nrest\n`;
  const once = replaceFigures(document, "new $& text\n");
  assert.equal(once, `# Title\n${BEGIN}\nnew $& text\n${END}\nrest\n`);
  assert.equal(replaceFigures(once, "new $& text"), once);
  assert.equal(replaceFigures(`${BEGIN}${END}`, "x"), `${BEGIN}\nx\n${END}`);
});

Deno.test("replaceFigures() refuses a document without the marks, with one, twice, or the wrong way round", () => {
  for (const bad of ["", BEGIN, END, END + BEGIN, BEGIN + END + BEGIN, BEGIN + BEGIN + END, BEGIN + END + END]) {
    assert.throws(() => replaceFigures(bad, ""), /once each/, JSON.stringify(bad));
  }
});

Deno.test("docs/PERFORMANCE.md has the marks", () => {
  const text = Deno.readTextFileSync(new URL("../../docs/PERFORMANCE.md", import.meta.url));
  assert.ok(replaceFigures(text, "figures").includes(`${BEGIN}\nfigures\n${END}`));
});

Deno.test("markdownTable() keeps bars in cells apart from those of the table", () => {
  assert.equal(markdownTable(["a", "b"], [["x|y", "1"]], 1), "| a | b |\n| --- | ---: |\n| x\\|y | 1 |");
});

const RESULTS = resultsOf([
  ...loads(RANDREAD, "ringfsd", [1234567], { cpuPerOp: 2, otherCpus: 0.5 }),
  ...loads(RANDREAD, "rust pool 0", [617283.5], { cpuPerOp: 4 }),
  ...loads(RANDREAD, NO_POLLING, [1], { cpuPerOp: 2 }),
  ...loads(RANDREAD_POLLED, NO_POLLING, [1], { cpuPerOp: 1.75 }),
  ...loads(NOTHING, NO_POLLING, [1], { cpuPerOp: 0.5 }),
  { title: '<odd> & "loud"', daemon: "ringfsd", round: 1, failure: "it said <b>" },
  { title: LIMITS, daemon: "pread loop", round: 1, limit: { opsPerSecond: 2469134, cpuPerOp: 1 } },
]);

Deno.test("figures() has the machine, verdicts, workloads, limits and where the time goes", () => {
  const text = figures(RESULTS);
  assert.match(text, /^2026-01-02: ringfsd 1\.0; virtiofsd 1\.13; virtiofsd version 7\.2\. 2 processors/);
  assert.match(text, /^\| 4 KiB random read, depth 32 \| 2\.00 \| {2}\| at least 1\.50 \| yes \| rust pool 0 \|$/m);
  assert.match(text, /^\| the same: CPU per operation \| 0\.50 \|/m);
  assert.match(text, /^\| {2}\| rust pool 0 \| 617.284 \|.*\| 2\.00 \| 0\.50 \|$/m);
  assert.match(text, /^\| pread loop \| 2.469.134 \| 1\.00 \| 0\.50 \|$/m);
  // 1.75 where the driver polls, less 1 for the call and 0.5 for an empty request; 0.25 more where the driver sleeps.
  assert.match(text, /the difference \| 0\.25 \|\n.*1\.75 \|\n.*the difference \| 0\.25 \|\n.*2\.00 \|/);
  assert.match(text, /Disturbed: other processes took/);
  assert.match(text, /Failed: .*it said &lt;b>/);
});

Deno.test("escapeXml() leaves nothing that could end a tag, an attribute or the document", () => {
  assert.equal(escapeXml(`<a href="x">'&'\0\x1b</a>`), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
  assert.equal(escapeXml("4 KiB · µs\n"), "4 KiB · µs\n");
});

/** The names of tags that are open at the end, where every tag ends as it should. */
function openTags(xml: string): string[] {
  const open: string[] = [];
  for (const [, close, name, empty] of xml.matchAll(/<(\/?)([a-z]+)(?:\s[^<>]*?)?(\/?)>/g)) {
    if (close) assert.equal(open.pop(), name);
    else if (!empty) open.push(name);
  }
  return open;
}

Deno.test("chart() is well formed whatever the titles, has a bar a daemon in both panels, and colours for both schemes", () => {
  const title = `<odd> & "loud"`;
  const xml = chart(resultsOf([
    ...loads(title, "ringfsd", [300], { cpuPerOp: 0.5 }),
    ...loads(title, "rust pool 0", [100]),
    ...loads(title, "rust pool 4", [50], { cpuPerOp: 100 }),
  ]));
  assert.deepEqual(openTags(xml), []);
  assert.ok(xml.includes("&lt;odd&gt; &amp; &quot;loud&quot;") && !xml.includes("<odd"));
  const widths = [...xml.matchAll(/<rect x="\d+" y="\d+" width="([\d.]+)" height="\d+" class="\w+"><title>/g)].map((
    one,
  ) => Number(one[1]));
  // Pairs of operations and CPU: three times as many for half of it; the measure of both; the last is off the scale.
  assert.equal(widths.length, 6);
  assert.ok(Math.abs(widths[0] / widths[2] - 3) < 0.01 && Math.abs(widths[1] / widths[3] - 0.5) < 0.01);
  assert.ok(widths[5] > widths[3] && widths[5] < widths[3] * 100 && xml.includes("<path"));
  assert.match(xml, /prefers-color-scheme: dark/);
  assert.match(chart(resultsOf([])), /^<svg /);
});
