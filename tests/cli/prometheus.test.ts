import assert from "node:assert/strict";
import { FAMILIES, prometheusText } from "../../cli/prometheus.ts";
import { readExposition } from "./exposition.ts";
import { ODD, snapshot } from "./snapshot.ts";

Deno.test("prometheusText() is what a strict reader reads, with all families, and labels as they were", () => {
  const families = readExposition(prometheusText(snapshot));
  assert.deepEqual([...families.keys()], FAMILIES.map(({ name }) => name));
  const connected = families.get("ringfsd_front_end_connected")!.samples;
  assert.deepEqual(connected.map(({ labels, value }) => [labels.share, value]), [[ODD, 1], ["b", 0]]);
  const errors = families.get("ringfsd_request_errors_total")!.samples;
  assert.deepEqual(errors[0], {
    name: "ringfsd_request_errors_total",
    labels: { share: ODD, queue: "1", op: "read", error: "io" },
    value: 2,
  });
});

Deno.test("prometheusText() shows a histogram whose buckets add up", () => {
  const { samples } = readExposition(prometheusText(snapshot)).get("ringfsd_request_duration_seconds")!;
  const of = (le: string) => samples.find(({ labels }) => labels.share === "b" && labels.le === le)?.value;
  assert.deepEqual(
    ["0.000001", "0.000002", "0.000004", "0.000008", "16.777216", "+Inf"].map((le) => {
      return of(String(Number(le)) === "NaN" ? le : String(Number(le)));
    }),
    [1, 1, 1, 6, 8, 10],
  );
});

Deno.test("prometheusText() leaves out what there is none of", () => {
  const text = prometheusText({ ...snapshot, shares: [], loops: [] });
  assert.equal(text.includes("ringfsd_requests_total"), false);
  assert.ok(readExposition(text).has("process_cpu_seconds_total"));
});

Deno.test("readExposition() refuses what promtool refuses", () => {
  const head = "# HELP a_total b\n# TYPE a_total counter\n";
  for (
    const text of [
      `${head}a_total 1`,
      `${head}a_total{x="1} 2\n`,
      `${head}a_total 1\na_total 2\n`,
      `${head}b 1\n`,
      "a 1\n",
    ]
  ) {
    assert.throws(() => readExposition(text), Error, text);
  }
});

const promtool = Deno.env.get("PROMTOOL") ?? "promtool";
function missing(): boolean {
  try {
    return !new Deno.Command(promtool, { args: ["--version"], stdout: "null", stderr: "null" }).outputSync().success;
  } catch {
    return true;
  }
}

Deno.test({
  name: `promtool finds nothing wrong, in the alert rules neither${
    missing() ? " (skipped: there is no promtool)" : ""
  }`,
  ignore: missing(),
  async fn() {
    const child = new Deno.Command(promtool, {
      args: ["check", "metrics"],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    });
    const checking = child.spawn();
    const writer = checking.stdin.getWriter();
    await writer.write(new TextEncoder().encode(prometheusText(snapshot)));
    await writer.close();
    const { code, stdout, stderr } = await checking.output();
    assert.deepEqual([code, new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr)], [0, ""]);
    const rules = new URL("../../packaging/prometheus/ringfsd.rules.yml", import.meta.url).pathname;
    assert.equal(new Deno.Command(promtool, { args: ["check", "rules", rules], stdout: "null" }).outputSync().code, 0);
  },
});
