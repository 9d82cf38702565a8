/**
 * The chart for docs/PERFORMANCE.md, as SVG: for each workload a bar for each daemon, operations a second to the left and CPU time
 * per operation to the right, both divided by the faster Rust virtiofsd's. Readable on a light and on a dark page: ground and
 * colours follow the reader's scheme, and where a viewer knows of none, it is dark on white.
 */
import { NO_POLLING } from "./daemons.ts";
import { fasterRust, type Figures, loadOf, type Results, type Subject, unique } from "./results.ts";
import type { LoadResult } from "./load.ts";
import { FASTER, OWN, type Target, TARGETS } from "./targets.ts";

// All in pixels.
const WIDTH = 1000, LEFT = 250, PANEL = 260, GAP = 110, BAR = 11, STEP = 14, GROUP_GAP = 12, TOP = 94, BOTTOM = 30;
/** Bars end here, with an arrow, where their value is greater. */
const MOST = 5;

/** The class of a daemon's bars: ringfsd with and without polling, Rust virtiofsd's first variant and its others, C virtiofsd. */
function shadeOf({ name, kind }: Subject, subjects: readonly Subject[]): string {
  if (kind === "ringfsd") return name === NO_POLLING ? "quiet" : "own";
  if (kind === "rust") return subjects.find((one) => one.kind === "rust")?.name === name ? "rust" : "second";
  return "c";
}

const STYLE = `
.page { fill: #ffffff; }
text { font: 12px system-ui, sans-serif; fill: #1f2328; }
.title { font-weight: 600; font-size: 14px; }
.dim { fill: #59636e; }
.own { fill: #0969da; } .quiet { fill: #54aeff; } .rust { fill: #bc4c00; } .second { fill: #e6915a; } .c { fill: #8c959f; }
.line { stroke: #d1d9e0; } .one { stroke: #59636e; } .goal { stroke: #1a7f37; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117; }
text { fill: #e6edf3; }
.dim { fill: #9198a1; }
.own { fill: #4493f8; } .quiet { fill: #1f6feb; } .rust { fill: #f0883e; } .second { fill: #bd561d; } .c { fill: #6e7681; }
.line { stroke: #3d444d; } .one { stroke: #9198a1; } .goal { stroke: #3fb950; }
}`;

/** Text that may stand between tags and in attributes. */
export function escapeXml(text: string): string {
  const names: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  // XML has no place for most control characters, escaped or not.
  // deno-lint-ignore no-control-regex
  return text.replace(/[\x00-\x08\x0b\x0c\x0e-\x1f]/g, "").replace(/[&<>"']/g, (one) => names[one]);
}

function text(x: number, y: number, content: string, kind = "", anchor = "start"): string {
  return `<text x="${x}" y="${y}" class="${kind}" text-anchor="${anchor}">${escapeXml(content)}</text>`;
}

function line(x: number, y1: number, y2: number, kind: string): string {
  return `<line x1="${x}" y1="${y1}" x2="${x}" y2="${y2}" class="${kind}"/>`;
}

interface Bar {
  kind: string;
  name: string;
  figures: Figures<LoadResult>;
}

interface Group {
  title: string;
  bars: Bar[];
  /** What the bars are divided by: the faster Rust virtiofsd's, of one queue for two; or the first bar's where there is none. */
  base: Figures<LoadResult>;
}

function groups(results: Results): Group[] {
  const { runs, subjects } = results;
  return unique(runs.filter((run) => run.result), (run) => run.title).map((title) => {
    const bars = subjects.flatMap((subject): Bar[] => {
      const figures = loadOf(runs, title, subject.name);
      return figures ? [{ name: subject.name, figures, kind: shadeOf(subject, subjects) }] : [];
    });
    const against = goalOf(title)?.against?.title ?? title;
    const rust = fasterRust(results, against);
    return { title, bars, base: (rust && loadOf(runs, against, rust)) || bars[0].figures };
  });
}

/** The whole document. */
export function chart(results: Results): string {
  const list = groups(results);
  const height = TOP + list.reduce((sum, { bars }) => sum + bars.length * STEP + GROUP_GAP, 0) + BOTTOM;
  const right = LEFT + PANEL + GAP;
  const parts = [
    `<rect width="100%" height="100%" class="page"/>`,
    ...head(results, LEFT, right),
    ...[LEFT, right].flatMap((x) => grid(x, height)),
  ];
  let y = TOP;
  for (const group of list) {
    parts.push(text(LEFT - 10, y + BAR - 1, group.title, "", "end"));
    const goal = goalOf(group.title)?.atLeast;
    for (const bar of group.bars) {
      const { opsPerSecond, cpuPerOp } = bar.figures;
      parts.push(drawBar(bar, LEFT, y, opsPerSecond / group.base.opsPerSecond, compact(opsPerSecond) + "/s"));
      parts.push(
        drawBar(bar, right, y, cpuPerOp / group.base.cpuPerOp, `${cpuPerOp.toFixed(cpuPerOp < 10 ? 2 : 0)} µs`),
      );
      if (bar.name === OWN && goal !== undefined) parts.push(line(LEFT + scale(goal), y - 2, y + BAR + 2, "goal"));
      y += STEP;
    }
    y += GROUP_GAP;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" ` +
    `role="img" aria-label="ringfsd and virtiofsd compared">\n<style>${STYLE}\n</style>\n${parts.join("\n")}\n</svg>\n`;
}

function head({ subjects }: Results, left: number, right: number): string[] {
  const parts = [
    text(left, 16, "operations a second", "title"),
    text(right, 16, "CPU time of the daemon per operation", "title"),
    text(left, 32, "longer is better; green: to reach", "dim"),
    text(right, 32, "shorter is better", "dim"),
  ];
  let y = 16;
  for (const subject of subjects.filter(({ kind }) => kind !== "limit")) {
    const shade = shadeOf(subject, subjects);
    parts.push(
      `<rect x="8" y="${y - 10}" width="${BAR}" height="${BAR}" class="${shade}"/>`,
      text(25, y, subject.name),
    );
    y += 15;
  }
  return parts;
}

function grid(x: number, height: number): string[] {
  const parts: string[] = [];
  for (let value = 0; value <= MOST; value++) {
    parts.push(line(x + scale(value), TOP - 8, height - BOTTOM + 4, value === 1 ? "one" : "line"));
    parts.push(text(x + scale(value), TOP - 13, `${value}`, "dim", "middle"));
  }
  return parts;
}

function scale(value: number): number {
  return Math.round(Math.min(value, MOST) / MOST * PANEL * 10) / 10;
}

function drawBar({ kind, name }: Bar, x: number, y: number, ratio: number, label: string): string {
  const width = Number.isFinite(ratio) ? scale(ratio) : 0;
  const end = x + width;
  const arrow = ratio > MOST ? `<path d="M${end} ${y}l7 ${BAR / 2}l-7 ${BAR / 2}z" class="${kind}"/>` : "";
  const tip = `<title>${escapeXml(`${name}: ${label}, ${ratio.toFixed(2)}`)}</title>`;
  return `<rect x="${x}" y="${y}" width="${width}" height="${BAR}" class="${kind}">${tip}</rect>${arrow}` +
    text(end + (arrow ? 11 : 4), y + BAR - 1, `${ratio.toFixed(2)} · ${label}`, "dim");
}

/** What ringfsd is to reach in operations a second against the faster Rust virtiofsd, where there is such a target. */
function goalOf(title: string): Target | undefined {
  return TARGETS.find((one) =>
    one.title === title && one.daemon === OWN && one.figure === "opsPerSecond" && one.against?.daemon === FASTER
  );
}

function compact(value: number): string {
  return value >= 1e6
    ? `${(value / 1e6).toFixed(2)} M`
    : value >= 1e4
    ? `${(value / 1e3).toFixed(0)} k`
    : value.toFixed(0);
}
