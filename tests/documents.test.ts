// What the documentation shows is so: commands are run or say that they are not, links lead somewhere, every option has its row.
import assert from "node:assert/strict";
import { flags } from "../cli/flags.ts";
import { blocksOf, documents, exists, root } from "./documents.ts";

const text = (file: string) => Deno.readTextFileSync(new URL(file, root));

Deno.test("every block of code in the documentation has a language", () => {
  const without = documents().flatMap(blocksOf).filter(({ language }) => language === "").map(({ where }) => where);
  assert.deepEqual(without, []);
});

Deno.test("what runs a command of the documentation exists", () => {
  const commands = documents().flatMap(blocksOf).filter(({ language }) => language === "sh").flatMap((b) => b.commands);
  assert.ok(commands.length > 30);
  for (const { where, mark } of commands) {
    const by = /^run by ([\w./]*\w)/.exec(mark)?.[1];
    if (by !== undefined) assert.ok(exists(by), `${where}: there is no ${by}`);
  }
});

Deno.test("links and names of files in the documentation lead somewhere", () => {
  for (const file of documents()) {
    const folder = file.includes("/") ? file.slice(0, file.lastIndexOf("/") + 1) : "";
    for (const [, target] of text(file).matchAll(/\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)/g)) {
      const path = new URL(folder + target, root);
      assert.ok(Deno.statSync(path), `${file}: ${target}`);
    }
    for (const [name] of text(file).matchAll(/\btests\/[\w/]+\.test\.ts\b/g)) {
      assert.ok(exists(name), `${file}: ${name}`);
    }
  }
});

Deno.test("every option has a row in the table of options, and every row an option", () => {
  const rows = text("docs/OPTIONS.md").split("\n").filter((line) => line.startsWith("| `--"));
  const named = new Set(
    rows.flatMap((row) => [...row.split("|")[1].matchAll(/--([a-z][a-z0-9-]*)/g)].map((m) => m[1])),
  );
  const known = new Set(Object.keys(flags));
  for (const name of known) assert.ok(named.has(name) || named.has(`no-${name}`), `docs/OPTIONS.md has no --${name}`);
  for (const name of named) {
    assert.ok(
      known.has(name) || known.has(name.replace(/^no-/, "")) || name === "help",
      `there is no option --${name}`,
    );
  }
});
