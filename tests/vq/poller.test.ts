// vq/poller.ts. Time passes by looking at the clock, not by waiting for something.
import assert from "node:assert/strict";
import { Poller } from "../../vq/poller.ts";

function pass(us: number): void {
  for (const end = performance.now() + us / 1000; performance.now() < end;);
}

/** A sleep of so many microseconds. */
function sleep(poller: Poller, us: number): void {
  poller.sleeping();
  pass(us);
  poller.woke();
}

/** Short sleeps until it polls as long as it may. A test's thread may be preempted in a sleep, which ends polling again. */
function grown(poller: Poller, us: number): void {
  for (let i = 0; i < 1000 && poller.whileUs < us; i++) sleep(poller, 0);
  assert.equal(poller.whileUs, us);
}

Deno.test("spin() never polls with a maximum of 0", () => {
  const poller = new Poller(0);
  for (let i = 0; i < 20; i++) {
    assert.equal(poller.spin(), false);
    sleep(poller, 0);
  }
  assert.equal(poller.whileUs, 0);
});

Deno.test("spin() does not poll before a short sleep has shown that it pays", () => {
  assert.equal(new Poller(1000).spin(), false);
});

Deno.test("woke() doubles the while up to the maximum", () => {
  const poller = new Poller(100_000);
  const seen = [];
  for (let i = 0; i < 18; i++) {
    sleep(poller, 0);
    seen.push(Math.round(poller.whileUs));
  }
  assert.deepEqual(seen.slice(0, 5), [4, 8, 16, 32, 64]);
  assert.equal(seen.at(-1), 100_000);
});

Deno.test("woke() ends polling after a sleep that polling would not have spared", () => {
  const poller = new Poller(2000);
  grown(poller, 2000);
  sleep(poller, 3000);
  assert.equal(poller.whileUs, 0);
  assert.equal(poller.spin(), false);
});

Deno.test("spin() ends when the while is over, and begins anew after work", () => {
  const poller = new Poller(20_000);
  grown(poller, 20_000);
  const spins = () => {
    const since = performance.now();
    while (poller.spin());
    return performance.now() - since;
  };
  assert.ok(spins() >= 20);
  assert.equal(poller.spin(), true);
  pass(15_000);
  poller.worked();
  assert.ok(spins() >= 20, "the time before the work does not count");
});
