import assert from "node:assert/strict";
import { nowMs, processCpuMs, threadCpuMs } from "../../ffi/clock.ts";
import { threadId } from "../../ffi/interrupt.ts";

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

Deno.test("threadCpuMs() and processCpuMs() grow with work, and not beyond the time that it took", () => {
  const [from, thread, process] = [nowMs(), threadCpuMs(threadId()), processCpuMs()];
  assert.ok(thread > 0 && process >= thread * 0.99);
  let sum = 0;
  while (threadCpuMs(threadId()) < thread + 20) for (let i = 0; i < 1000; i++) sum += i;
  assert.ok(sum > 0 && processCpuMs() >= process + 20);
  assert.ok(threadCpuMs(threadId()) - thread <= nowMs() - from);
});

Deno.test("threadCpuMs() is 0 of a thread that is not there", () => {
  assert.equal(threadCpuMs(0x3fff_fff0), 0);
});
