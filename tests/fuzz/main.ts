/**
 * `deno task fuzz [--seed N] [--seconds N] [--only vq|fuse|vhost] [--setup NAME] [--keep-going] [--coverage DIR] [FILE…]`: replays the
 * corpus (or the files), then fuzzes. What fails is made small and written to tests/fuzz/corpus. Ends with 1 where anything failed.
 */
import { parseArgs } from "node:util";
import { campaign, readEntry, replay } from "./campaign.ts";

const corpus = new URL("./corpus/", import.meta.url);
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seed: { type: "string" },
    seconds: { type: "string", default: "60" },
    only: { type: "string" },
    setup: { type: "string" },
    "keep-going": { type: "boolean" },
    coverage: { type: "string" },
  },
});
const seed = values.seed === undefined ? crypto.getRandomValues(new Uint32Array(1))[0] : Number(values.seed);
// The daemons are to write what was covered, this process need not.
if (values.coverage !== undefined) Deno.env.set("DENO_COVERAGE_DIR", values.coverage);

let failures = 0;
const files = positionals.length > 0
  ? positionals
  : [...Deno.readDirSync(corpus)].filter(({ name }) => name.endsWith(".json")).map(({ name }) => new URL(name, corpus));
for (const file of files) {
  const entry = readEntry(file);
  if (positionals.length === 0 && values.only !== undefined && values.only !== entry.kind) continue;
  const why = await replay(entry);
  if (why === "") continue;
  failures++;
  console.log(`${file} fails again: ${why}`);
}
console.log(`corpus: ${files.length} inputs, ${failures} failed`);
if (positionals.length === 0 && (failures === 0 || values["keep-going"])) {
  failures += await campaign({
    seed,
    seconds: Number(values.seconds),
    only: values.only,
    setup: values.setup,
    keepGoing: values["keep-going"],
    reduce: true,
    say: (line) => console.log(line),
    failed: (entry, batch) => {
      const path = new URL(`${entry.kind}-${batch}.json`, corpus);
      Deno.writeTextFileSync(path, JSON.stringify(entry, null, 1) + "\n");
      console.log(`  written to ${path.pathname}`);
    },
  });
}
Deno.exit(failures === 0 ? 0 : 1);
