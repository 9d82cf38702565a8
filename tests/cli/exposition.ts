/** A strict reader of Prometheus's text format: it throws where a scraper would refuse, and where promtool would complain. */

export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

export interface ReadFamily {
  type: string;
  samples: Sample[];
}

const LABELS = /(?:^|,)([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"/gy;

function readLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  let end = 0;
  for (const match of text.matchAll(LABELS)) {
    const [all, name, value] = match;
    if (name in labels) throw new Error(`label ${name} twice in ${text}`);
    labels[name] = value.replace(/\\(.)/g, (_, one) => one === "n" ? "\n" : one);
    end = match.index + all.length;
  }
  if (end !== text.length) throw new Error(`labels: ${text}`);
  return labels;
}

/** Reads a whole text. */
export function readExposition(text: string): Map<string, ReadFamily> {
  if (!text.endsWith("\n")) throw new Error("the last line has no end");
  const families = new Map<string, ReadFamily>();
  const seen = new Set<string>();
  let help = "";
  let name = "";
  for (const line of text.slice(0, -1).split("\n")) {
    const head = /^# (HELP|TYPE) ([a-z_][a-z0-9_]*) (.+)$/.exec(line);
    if (head?.[1] === "HELP") {
      if (families.has(head[2])) throw new Error(`${head[2]} comes twice`);
      help = head[2];
    } else if (head) {
      name = head[2];
      if (help !== name) throw new Error(`${name} has no help`);
      if (head[3] === "counter" !== name.endsWith("_total")) throw new Error(`${name} is a ${head[3]}`);
      families.set(name, { type: head[3], samples: [] });
    } else {
      const [, what, labels = "", value] = /^([a-z_][a-z0-9_]*)(?:\{(.+)\})? ([^ ]+)$/.exec(line) ?? [];
      const family = families.get(name);
      if (what === undefined || family === undefined) throw new Error(`line: ${line}`);
      const suffix = what.slice(name.length);
      const fits = family.type === "histogram" ? ["_bucket", "_sum", "_count"].includes(suffix) : suffix === "";
      if (!what.startsWith(name) || !fits) throw new Error(`${what} among ${name}`);
      if (!Number.isFinite(Number(value))) throw new Error(`value: ${line}`);
      const sample = { name: what, labels: readLabels(labels), value: Number(value) };
      const identity = JSON.stringify([what, Object.entries(sample.labels).sort()]);
      if (seen.has(identity)) throw new Error(`twice: ${line}`);
      seen.add(identity);
      family.samples.push(sample);
    }
  }
  for (const [name, family] of families) if (family.type === "histogram") checkHistogram(name, family);
  return families;
}

/** Buckets never fall, the last is +Inf and the count, and each has a sum. */
function checkHistogram(name: string, { samples }: ReadFamily): void {
  const groups = Map.groupBy(samples, ({ labels }) => {
    const { le: _, ...others } = labels;
    return JSON.stringify(others);
  });
  for (const [key, group] of groups) {
    const buckets = group.filter((one) => one.name === `${name}_bucket`);
    const bound = (text: string) => text === "+Inf" ? Infinity : Number(text);
    for (let i = 1; i < buckets.length; i++) {
      const [a, b] = [buckets[i - 1], buckets[i]];
      if (!(bound(a.labels.le) < bound(b.labels.le)) || a.value > b.value) throw new Error(`${name}${key}: buckets`);
    }
    const count = group.filter((one) => one.name === `${name}_count`);
    const sum = group.filter((one) => one.name === `${name}_sum`);
    if (count.length !== 1 || sum.length !== 1) throw new Error(`${name}${key}: sum and count`);
    if (buckets.at(-1)?.labels.le !== "+Inf" || buckets.at(-1)!.value !== count[0].value) {
      throw new Error(`${name}${key}: +Inf`);
    }
  }
}
