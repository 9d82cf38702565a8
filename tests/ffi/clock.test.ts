import assert from "node:assert/strict";
import { nowMs } from "../../ffi/clock.ts";

Deno.test("nowMs() goes on whatever the wall clock is set to: it counts from the machine's start", () => {
  const before = nowMs();
  // CLOCK_BOOTTIME, which counts sleep as well, in seconds with two decimals.
  const uptimeMs = parseFloat(Deno.readTextFileSync("/proc/uptime")) * 1000;
  assert.ok(before <= uptimeMs + 20, `${before} ms, and the machine is up for ${uptimeMs}`);
  let last = before;
  for (let i = 0; i < 100_000; i++) {
    const now = nowMs();
    assert.ok(now >= last);
    last = now;
  }
  assert.ok(last > before);
});
