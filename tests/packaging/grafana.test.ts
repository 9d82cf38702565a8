// The dashboard and the alert rules name metrics and labels that there are, and the documentation names all.
import assert from "node:assert/strict";
import { FAMILIES } from "../../cli/prometheus.ts";
import { ERRORS } from "../../vq/meter.ts";
import { operationNames, PLACES } from "../../fs/metrics.ts";
import { snapshot } from "../cli/snapshot.ts";

const read = (path: string) => Deno.readTextFileSync(new URL(`../../${path}`, import.meta.url));

/** Names of samples with the labels that they have. */
const known = new Map(FAMILIES.flatMap(({ name, type, samples }): [string, string[]][] => {
  const labels = [...new Set(samples(snapshot).flatMap(([labels]) => Object.keys(labels)))];
  if (type !== "histogram") return [[name, labels]];
  return ["_bucket", "_sum", "_count"].map((suffix) => [name + suffix, labels]);
}));
/** Labels that a scraper adds. */
const ADDED = ["job", "instance"];

/** Checks an expression: metrics that there are, and labels that they have. */
function check(expression: string): void {
  const names = [...expression.matchAll(/\b(?:ringfsd|process)_[a-z_]+/g)].map(([name]) => name);
  assert.ok(names.length > 0, `no metric: ${expression}`);
  const labels = new Set(ADDED);
  for (const name of names) {
    assert.ok(known.has(name), `there is no metric ${name}`);
    for (const label of known.get(name)!) labels.add(label);
  }
  const used = [
    ...[...expression.matchAll(/\b(?:by|on|ignoring) \(([^)]*)\)/g)].flatMap(([, list]) => list.split(/, */)),
    ...[...expression.matchAll(/([a-z]+)(?:=~?|!=|!~)"/g)].map(([, label]) => label),
  ];
  for (const label of used) assert.ok(labels.has(label), `label ${label} in ${expression}`);
  for (const [, value] of expression.matchAll(/\berror="([^"]*)"/g)) {
    assert.ok((ERRORS as readonly string[]).includes(value));
  }
  for (const [, list] of expression.matchAll(/\bop=~"([^"]*)"/g)) {
    for (const op of list.split("|")) assert.ok(operationNames().includes(op), `there is no operation ${op}`);
  }
}

interface Panel {
  id: number;
  type: string;
  title: string;
  gridPos: { h: number; w: number; x: number; y: number };
  targets?: { expr: string; refId: string; legendFormat: string }[];
}

Deno.test("the Grafana dashboard names metrics that there are, and nearly all of them", () => {
  const dashboard = JSON.parse(read("packaging/grafana/ringfsd.json"));
  const panels = dashboard.panels as Panel[];
  const expressions = panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
  for (const expression of expressions) check(expression);
  const queries = dashboard.templating.list.flatMap(({ query }: { query: string }) =>
    query.startsWith("label_values(") ? query : []
  );
  for (const query of queries) check(query);
  const text = [...expressions, ...queries].join("\n");
  const left = [...known.keys()].filter((name) => !new RegExp(`\\b${name}\\b`).test(text));
  assert.deepEqual(left, [
    "ringfsd_request_duration_seconds_sum",
    "ringfsd_request_duration_seconds_count",
    "ringfsd_queue_batch_chains_bucket",
    "process_virtual_memory_bytes",
    "process_start_time_seconds",
  ]);
});

Deno.test("the Grafana dashboard's panels lie beside each other, each with a title and a number of its own", () => {
  const { panels, uid, schemaVersion } = JSON.parse(read("packaging/grafana/ringfsd.json")) as {
    panels: Panel[];
    uid: string;
    schemaVersion: number;
  };
  assert.equal(uid, "ringfsd");
  assert.ok(schemaVersion >= 36);
  assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length);
  const taken = new Set<string>();
  for (const { title, type, gridPos: { h, w, x, y }, targets = [] } of panels) {
    assert.ok(title !== "" && x + w <= 24, title);
    assert.equal(new Set(targets.map(({ refId }) => refId)).size, targets.length);
    assert.equal(targets.length === 0, type === "row", title);
    for (let i = 0; i < w * h; i++) {
      const cell = `${x + i % w},${y + Math.floor(i / w)}`;
      assert.ok(!taken.has(cell), `${title} covers another panel at ${cell}`);
      taken.add(cell);
    }
  }
});

Deno.test("the alert rules name metrics that there are", () => {
  const rules = read("packaging/prometheus/ringfsd.rules.yml");
  const expressions = [...rules.matchAll(/^ +expr: (.+)$/gm)].map(([, expression]) => expression);
  assert.equal(expressions.length, rules.split("- alert: ").length - 1);
  for (const expression of expressions) check(expression);
});

Deno.test("docs/MONITORING.md names every metric, error class and place", () => {
  const text = read("docs/MONITORING.md");
  for (const { name } of FAMILIES) assert.ok(text.includes(`\`${name}`), `${name} in docs/MONITORING.md`);
  for (const name of [...ERRORS, ...PLACES]) assert.ok(text.includes(`\`${name}\``), `${name} in docs/MONITORING.md`);
  for (const [name] of text.matchAll(/\bringfsd_[a-z_]+/g)) {
    assert.ok(FAMILIES.some((family) => family.name === name) || known.has(name), `there is no metric ${name}`);
  }
});
