// vq/spare.ts: processors that nobody uses.
import assert from "node:assert/strict";
import { libc } from "../../ffi/libc.ts";
import { openLoad, Spare } from "../../vq/spare.ts";

/** Looks until the average had time to settle. */
async function settle(spare: Spare): Promise<void> {
  for (let i = 0; i < 100; i++) {
    if (spare.take()) spare.give();
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

Deno.test("Spare gives nothing where there is one processor", async () => {
  const load = openLoad();
  const spare = new Spare(1, load);
  await settle(spare);
  assert.equal(spare.take(), false);
  libc.close(load);
});

Deno.test("Spare gives nothing where the load is not known", async () => {
  const spare = new Spare(100, -1);
  await settle(spare);
  assert.equal(spare.take(), false);
});

Deno.test("Spare gives what is idle and two more, and again what was given back", async () => {
  // More processors than any load of this machine wants.
  const load = openLoad();
  const spare = new Spare(100_000, load);
  await settle(spare);
  let taken = 0;
  while (taken < 200_000 && spare.take()) taken++;
  assert.ok(taken > 1000 && taken <= 100_001, `${taken} taken`);
  assert.equal(spare.inUse, taken);
  assert.equal(spare.take(), false);
  spare.give();
  assert.equal(spare.take(), true);
  libc.close(load);
});

Deno.test("Spare gives nothing while as many threads run as there are processors", async () => {
  // This one runs, and so there is at least one: of two processors that others keep busy none is idle.
  const others = [0, 1, 2].map(() => new Worker(`data:text/javascript,for (;;);`, { type: "module" }));
  const load = openLoad();
  const spare = new Spare(2, load);
  try {
    await settle(spare);
    assert.equal(spare.take(), false);
  } finally {
    for (const worker of others) worker.terminate();
    libc.close(load);
  }
});
