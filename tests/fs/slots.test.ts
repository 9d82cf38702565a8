import assert from "node:assert/strict";
import { Slots } from "../../fs/slots.ts";

const COUNT = 300;
const LAYOUT = { head: 0, first: 8, words: 2, link: 1, count: COUNT };

function views(n: number): Slots[] {
  const words = new Int32Array(LAYOUT.first + COUNT * LAYOUT.words);
  return Array.from({ length: n }, () => new Slots(words, LAYOUT));
}

Deno.test("Slots.take() gives each slot once, then none, and goes on when one comes back", () => {
  const [slots] = views(1);
  const all = Array.from({ length: COUNT }, () => slots.take());
  assert.deepEqual(all.toSorted((a, b) => a - b), Array.from({ length: COUNT }, (_, i) => i));
  for (let i = 0; i < 100; i++) assert.equal(slots.take(), -1);
  assert.equal(slots.used, COUNT);
  slots.give(17);
  assert.equal(slots.take(), 17);
  assert.equal(slots.take(), -1);
});

Deno.test("Slots.give() on one loop feeds take() on another", () => {
  const [here, there] = views(2);
  // More than there are: without the shared list they would end.
  const out: number[] = [];
  for (let i = 0; i < 20 * COUNT; i++) {
    const slot = here.take();
    assert.ok(slot >= 0, `slot ${i}`);
    assert.ok(!out.includes(slot));
    out.push(slot);
    if (out.length === 40) there.give(out.splice(i % 40, 1)[0]);
  }
});

Deno.test("Slots.reset() and forget() begin anew", () => {
  const [here, there] = views(2);
  for (let i = 0; i < 10; i++) here.take(), there.take();
  here.reset(2);
  there.forget();
  const all = new Set([here.take(), there.take()]);
  for (let i = 0; i < 100; i++) all.add(here.take()).add(there.take());
  assert.equal(all.size, 202);
  assert.ok(!all.has(0) && !all.has(1));
});
