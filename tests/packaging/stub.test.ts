import assert from "node:assert/strict";
import { stub, stubCode, stubSource, stubTable } from "../../packaging/stub.ts";
import { have, run, tempDir } from "./helpers.ts";

Deno.test({
  name: "stubCode() is what GNU as makes of the text (needs as and objcopy)",
  ignore: Deno.build.arch !== "x86_64" || !have("as") || !have("objcopy"),
  async fn() {
    using dir = tempDir();
    await Deno.writeTextFile(`${dir.path}/stub.s`, stubSource());
    const as = await run("as", ["stub.s", "-o", "stub.o"], { cwd: dir.path });
    assert.equal(as.code, 0, as.stderr);
    await run("objcopy", ["-O", "binary", "stub.o", "stub.bin"], { cwd: dir.path });
    const expected = await Deno.readFile(`${dir.path}/stub.bin`);
    // Padding to the section's alignment may follow.
    assert.equal(stubCode().toHex(), expected.subarray(0, stubCode().length).toHex());
    assert.ok(expected.length - stubCode().length < 16);
  },
});

Deno.test("stub has one encoding for each instruction and none for a label", () => {
  for (const [encoding, text] of stub) {
    assert.equal(encoding === "", text.endsWith(":"), text);
    if (encoding) assert.match(encoding, /^[0-9a-f]{2}( [0-9a-f]{2})*$/, text);
  }
});

Deno.test("stub reads its table where stubTable says", () => {
  const texts = stub.map(([, text]) => text);
  for (const name of ["argCount", "envCount", "strings", "environSlot"] as const) {
    assert.ok(texts.some((text) => text.endsWith(`[rbp + ${stubTable[name]}]`)), name);
  }
  assert.equal(stubTable.entry, 0);
  assert.ok(texts.includes("add rbx, [rbp]"));
});
