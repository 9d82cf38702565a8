// The corpus, and fuzzing for a while: a few seconds, or as many as RINGFSD_TEST_FUZZ_SECONDS says (test.sh: a minute).
import assert from "node:assert/strict";
import { random } from "../fs/random.ts";
import { campaign, type Entry, KINDS, readEntry, replay } from "./campaign.ts";
import { hexBytes, hexText, nameText, pieces, value } from "./pieces.ts";
import { shrink } from "./shrink.ts";
import { skeletons } from "./skeletons.ts";
import { opcodes } from "../../fs/opcodes.ts";

const SECONDS = Number(Deno.env.get("RINGFSD_TEST_FUZZ_SECONDS") ?? 6);
const corpus = new URL("./corpus/", import.meta.url);
const nothing = { nodes: [1n], fhs: [0n] };

Deno.test("Every input of the corpus, which failed once, is served as it should be", async (t) => {
  const names = [...Deno.readDirSync(corpus)].map(({ name }) => name).filter((name) => name.endsWith(".json")).sort();
  assert.ok(names.length > 0);
  for (const name of names) {
    await t.step(name, async () => {
      assert.equal(await replay(readEntry(new URL(name, corpus))), "");
    });
  }
});

for (const { name } of KINDS) {
  Deno.test(`Fuzzing: ${name}`, async () => {
    const seed = crypto.getRandomValues(new Uint32Array(1))[0];
    const failed: Entry[] = [];
    await campaign({
      seed,
      seconds: SECONDS / KINDS.length,
      only: name,
      say: (line) => console.log(`  ${line}`),
      failed: (entry) => failed.push(entry),
    });
    assert.equal(failed.length, 0, `deno task fuzz --only ${name} --seed ${seed}\n${JSON.stringify(failed)}`);
  });
}

Deno.test("generate() makes the same cases of the same seed, and others of another", () => {
  for (const { generate, name } of KINDS) {
    const made = (seed: number) => {
      const next = random(seed);
      return JSON.stringify(Array.from({ length: 20 }, () => generate(next)));
    };
    assert.equal(made(5), made(5), name);
    assert.notEqual(made(5), made(6), name);
    // As text they are the same.
    assert.deepEqual(JSON.parse(made(7)), JSON.parse(JSON.stringify(JSON.parse(made(7)))), name);
  }
});

Deno.test("skeletons are there for every opcode that is served", () => {
  const next = random(1);
  opcodes.forEach((one, opcode) => {
    if (!one) return;
    assert.ok(opcode in skeletons, `${one.name} has no skeleton`);
    for (let i = 0; i < 200; i++) pieces(skeletons[opcode](next), nothing);
  });
});

Deno.test("pieces() turns text into bytes", () => {
  const known = { nodes: [1n, 7n], fhs: [0n, 9n] };
  assert.equal(
    hexText(pieces("u32:-1 u64:0x10 node:3 fh:1 name:a%2fb%00 hex:0aff zeros:2 long:3", known)),
    [
      "ffffffff",
      "1000000000000000",
      "0700000000000000",
      "0900000000000000",
      "612f620000",
      "0aff",
      "0000",
      "6e6e6e",
    ].join(""),
  );
  assert.deepEqual(hexBytes("00ff"), Uint8Array.of(0, 255));
  assert.equal(nameText(Uint8Array.of(0x61, 0x2f, 0x25, 0, 0xff)), "a/%25%00%ff");
  assert.equal(value("-1", known), 2n ** 64n - 1n);
  assert.throws(() => pieces("what:1", known), /what:1 is no piece/);
});

Deno.test("shrink() leaves what is needed and nothing else", async () => {
  const steps = Array.from({ length: 40 }, (_, i) => i);
  const needs = [3, 17, 18, 39];
  const fails = (list: readonly number[]) =>
    Promise.resolve(needs.every((one) => list.some((each) => each % 100 === one)));
  assert.deepEqual(await shrink(steps, fails), needs);
  assert.deepEqual(await shrink([...steps, 117], fails), [3, 18, 39, 117]);
  // Simpler steps, as long as there are any.
  const simpler = (one: number) => one > 100 ? [one - 100] : [];
  assert.deepEqual(await shrink([103, 217, 18, 39], fails, simpler), needs);
  // Not for ever.
  let asked = 0;
  await shrink(steps, () => Promise.resolve(asked++ < 0), undefined, 10);
  assert.equal(asked, 10);
});
