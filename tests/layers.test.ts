import assert from "node:assert/strict";

/** Floors from the bottom; folders on one floor do not import each other. */
const FLOORS: Record<string, number> = { ffi: 1, vq: 2, vhost: 3, fs: 3, cli: 4, "main.ts": 5, "worker.ts": 5 };
const root = new URL("../", import.meta.url);

function* sources(dir: string): Generator<string> {
  for (const entry of Deno.readDirSync(new URL(dir, root))) {
    if (entry.isDirectory) yield* sources(`${dir}${entry.name}/`);
    else if (entry.name.endsWith(".ts")) yield dir + entry.name;
  }
}

/** What a file imports from: only whole import and export statements count, at the start of a line. */
function specifiers(file: string): string[] {
  const text = Deno.readTextFileSync(new URL(file, root));
  const statement = /^(?:import|export)\s(?:[\w*\s{},]+\sfrom\s)?["']([^"']+)["'];/gm;
  return [...text.matchAll(statement)].map((match) => match[1]);
}

const files = Object.keys(FLOORS).flatMap((top) => top.endsWith(".ts") ? [top] : [...sources(`${top}/`)]);

Deno.test("imports go downward only", () => {
  const wrong: string[] = [];
  // The search itself works: a program of this size has more imports than files.
  assert.ok(files.flatMap(specifiers).length > files.length);
  for (const file of files) {
    const from = file.split("/")[0];
    for (const specifier of specifiers(file).filter((name) => name.startsWith("."))) {
      const target = new URL(specifier, new URL(file, root)).pathname.slice(root.pathname.length);
      const to = target.split("/")[0];
      assert.ok(to in FLOORS, `${file} imports ${target}, which is no part of the program`);
      const siblings = from.endsWith(".ts") && to.endsWith(".ts");
      if (from !== to && FLOORS[to] >= FLOORS[from] && !siblings) wrong.push(`${file} -> ${target}`);
    }
  }
  assert.deepEqual(wrong, []);
});

Deno.test("imports of packages stand in the module that can be swapped", () => {
  const found: string[] = [];
  for (const file of files) {
    for (const specifier of specifiers(file)) {
      if (!/^(node:|\.)/.test(specifier)) found.push(`${file}: ${specifier}`);
    }
  }
  assert.deepEqual(found, ["cli/parser.ts: @stricli/core"]);
});

Deno.test("dlopen and Unsafe* stand only under ffi/", () => {
  for (const file of files) {
    if (file.startsWith("ffi/")) continue;
    const text = Deno.readTextFileSync(new URL(file, root));
    assert.doesNotMatch(text, /Deno\.(dlopen|Unsafe)/, file);
  }
});

Deno.test("vq and vhost know nothing of FUSE", () => {
  for (const file of files.filter((name) => /^(vq|vhost)\//.test(name))) {
    assert.doesNotMatch(Deno.readTextFileSync(new URL(file, root)), /\bfuse|FUSE_/i, file);
  }
});

Deno.test("the wall clock, which is set at will, stands in lines of the log and in metrics, and nowhere else", () => {
  const readers = files.filter((file) => {
    return /\bDate[.(]|CLOCK_REALTIME|CLOCK_TAI|gettimeofday\(|TIMEOUT_REALTIME/.test(
      Deno.readTextFileSync(new URL(file, root)),
    );
  });
  assert.deepEqual(readers.sort(), ["cli/log.ts", "cli/log_format.ts", "cli/metrics.ts", "cli/syslog.ts"]);
});
