/** The table of docs/MISTAKES.md, for the tests that make the mistakes. */
import assert from "node:assert/strict";

const file = new URL("../../docs/MISTAKES.md", import.meta.url);

/** Rows that tests/e2e/mistakes.test.ts makes, in QEMU and User-Mode Linux. */
export const IN_GUESTS = [
  "The virtual machine has no shared memory",
  "More queues than are offered",
  "QEMU runs as a user who may not open the socket",
  "Nobody listens on the socket",
  "The guest mounts another tag",
  "User-Mode Linux, and no `--tag`",
] as const;

/** The lines of each row, by its first column. */
export function readTable(): Map<string, string[]> {
  const rows = Deno.readTextFileSync(file).split("\n").filter((line) => /^\| (?!mistake )/.test(line));
  return new Map(rows.map((row) => {
    const [, name, said] = /^\| (.*?) \| (.*) \| [^|]*\|$/.exec(row)!;
    return [name, said.split("<br>").map((one) => one.replace(/^`+ ?| ?`+$/g, "").replaceAll("\\|", "|"))];
  }));
}

/** Compares what was said with the document. With MISTAKES=print, prints the rows instead. */
export function expectRow(table: ReadonlyMap<string, string[]>, name: string, said: readonly string[]): void {
  if (Deno.env.get("MISTAKES") === "print") {
    console.log(`| ${name} | ${said.map((line) => `\`${line.replaceAll("|", "\\|")}\``).join("<br>")} | |`);
    return;
  }
  assert.deepEqual(said, table.get(name), `docs/MISTAKES.md: ${name}`);
}

/** Makes lines alike: paths of the test become those of the document. */
export function plain(line: string, paths: readonly (readonly [string, string])[]): string {
  const said = paths.reduce((text, [path, shown]) => text.replaceAll(path, shown), line);
  return said.replace(/ \(see ringfsd[^)]*\)$/, "").replace(/\(process \d+\)/, "(process N)").replace(/x{30,}/, "x…x");
}
