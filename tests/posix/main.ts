/**
 * main.ts DIR [--only=SUBJECT,…] [--without=SUBJECT,…] [--large] [--quiet] [--times]: checks that the file system DIR is on behaves as POSIX and Linux say.
 * Works in a new folder of DIR, prints a line for each assertion and a count, and exits with 0 when none failed.
 */
import { Suite } from "./suite.ts";
import { subjects } from "./subjects.ts";

const [dir, ...flags] = Deno.args;
if (!dir || dir.startsWith("-")) {
  console.error("which directory? main.ts DIR [--only=SUBJECT,…] [--without=SUBJECT,…] [--large] [--quiet] [--times]");
  Deno.exit(2);
}
const list = (option: string) => flags.find((flag) => flag.startsWith(option))?.slice(option.length).split(",");
const only = list("--only="), without = list("--without=");
const wanted = Object.entries(subjects).filter(([name]) => (!only || only.includes(name)) && !without?.includes(name));
if ([...only ?? [], ...without ?? []].some((name) => !(name in subjects))) {
  console.error(`no such subject; there are: ${Object.keys(subjects).join(", ")}`);
  Deno.exit(2);
}
const root = Deno.makeTempDirSync({ dir, prefix: "posix." });
Deno.chmodSync(root, 0o755);
const suite = new Suite(root, { large: flags.includes("--large"), quiet: flags.includes("--quiet") });
const begun = performance.now();
for (const [name, body] of wanted) {
  const start = performance.now();
  suite.run(name, body);
  if (flags.includes("--times")) console.log(`# ${name}: ${Math.round(performance.now() - start)} ms`);
}
Deno.removeSync(root, { recursive: true });
const { ok, failed, skipped } = suite.counts;
const seconds = ((performance.now() - begun) / 1000).toFixed(1);
console.log(`# ${ok + failed + skipped} assertions: ${ok} ok, ${failed} not ok, ${skipped} skipped (${seconds} s)`);
Deno.exit(failed ? 1 : 0);
