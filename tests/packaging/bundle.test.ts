import assert from "node:assert/strict";
import { bundle } from "../../packaging/bundle.ts";
import { fixture, tempDir } from "./helpers.ts";

async function bundleText(text: string, format: "module" | "script"): Promise<string> {
  using dir = tempDir();
  await Deno.writeTextFile(`${dir.path}/entry.ts`, text);
  return await bundle(`${dir.path}/entry.ts`, format, "1.2.3");
}

Deno.test("bundle() script has no import or export statement", async () => {
  const text = await bundleText(`import { sep } from "node:path"; console.log(sep); export const x = 1;`, "script");
  assert.doesNotMatch(text, /^\s*(import|export)\b[^(]*$/m);
  assert.match(text, /await import\("node:path"\)/);
});

Deno.test("bundle() script allows top-level await and is one expression", async () => {
  const text = await bundleText(`(globalThis as { seen?: number }).seen = await Promise.resolve(7);`, "script");
  await (0, eval)(text);
  assert.equal((globalThis as { seen?: number }).seen, 7);
});

Deno.test("bundle() text is ASCII and holds the version", async () => {
  for (const format of ["module", "script"] as const) {
    // A comment of a class's member is left where it is.
    const member = "class A { /** from … to → */ b() { return 1; } }";
    const text = await bundleText(`${member} console.log("Größe →", new A().b(), globalThis.RINGFSD_VERSION);`, format);
    // deno-lint-ignore no-control-regex
    assert.match(text, /^[\x00-\x7f]*$/);
    assert.match(text, /"1\.2\.3"/);
  }
});

Deno.test("bundle() module keeps import.meta.url, script takes RINGFSD_MODULE_URL", async () => {
  assert.match(await bundle(fixture, "module", "1"), /import\.meta\.url/);
  const script = await bundle(fixture, "script", "1");
  assert.doesNotMatch(script, /import\.meta/);
  assert.match(script, /globalThis\.RINGFSD_MODULE_URL/);
});

Deno.test("bundle() takes npm packages in", async () => {
  const text = await bundle(new URL("./fixture/npm.ts", import.meta.url).pathname, "script", "1");
  assert.doesNotMatch(text, /from "@stricli|import\("@stricli/);
});

Deno.test("bundle() names what it cannot find, in one message", async () => {
  await assert.rejects(bundle("/nonexistent/entry.ts", "script", "1"), /cannot bundle \/nonexistent\/entry\.ts: /);
  await assert.rejects(bundleText(`import "./missing.ts";`, "script"), /missing\.ts/);
});
