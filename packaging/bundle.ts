import * as esbuild from "esbuild";

/**
 * `module`: an ES module, for `deno compile`.
 * `script`: the same as one expression without any import, to be evaluated by the bootstrap; its value is a promise.
 */
export type BundleFormat = "module" | "script";

/**
 * Bundles `entry` and all that it imports, npm packages included, into JavaScript text.
 *
 * Names and lines stay as they are, for readable stack traces. The text is pure ASCII: V8 then keeps it in one byte
 * a character. `globalThis.RINGFSD_VERSION` becomes the literal version.
 */
export async function bundle(entry: string, format: BundleFormat, version: string): Promise<string> {
  const script = format === "script";
  const define: Record<string, string> = { "globalThis.RINGFSD_VERSION": JSON.stringify(version) };
  if (script) {
    define["import.meta.url"] = "globalThis.RINGFSD_MODULE_URL";
    define["import.meta.main"] = "true";
  }
  const result = await esbuild.build({
    // By way of stdin, so that exports of the entry end here: a script cannot have any.
    stdin: { contents: `import ${JSON.stringify(entry)};`, resolveDir: "/" },
    bundle: true,
    write: false,
    format: "esm",
    platform: "node",
    target: "esnext",
    charset: "ascii",
    legalComments: "none",
    logLevel: "silent",
    absWorkingDir: new URL("..", import.meta.url).pathname,
    define,
    plugins: script ? [builtinsByImportCall] : [],
  }).catch((error) => {
    throw new Error(`cannot bundle ${entry}: ${error.message}`);
  }).finally(() => esbuild.stop());
  // What is left is in comments, which esbuild leaves as they are. One such character has V8 keep two bytes for each of all.
  const code = result.outputFiles[0].text.replaceAll(/[^\t\n\r -~]/g, "?");
  if (!script) return code;
  // A function, not an arrow function: V8 parses those twice, 8 ms for 300 KB.
  return `(async function () { "use strict";\n${code}})()\n//# sourceURL=ringfsd/main.js\n`;
}

/** Turns `import … from "node:x"` into `await import("node:x")`, which evaluated code may use. */
const builtinsByImportCall: esbuild.Plugin = {
  name: "builtins by import()",
  setup(build) {
    build.onResolve({ filter: /^node:/ }, ({ path, kind, pluginData }) => {
      if (kind === "dynamic-import" || pluginData === "external") return { path, external: true };
      return { path, namespace: "builtin", sideEffects: false };
    });
    build.onLoad({ filter: /.*/, namespace: "builtin" }, async ({ path }) => {
      const names = Object.keys(await import(path)).filter((name) => name !== "default");
      return {
        contents: `const m = await import(${JSON.stringify(path)});
          export default m.default;
          ${names.map((name) => `export const ${name} = /* @__PURE__ */ (() => m.${name})();`).join("\n")}`,
      };
    });
  },
};
