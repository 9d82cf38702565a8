import assert from "node:assert/strict";
import { nowMs, processCpuMs, threadCpuMs } from "../../ffi/clock.ts";
import { threadId } from "../../ffi/interrupt.ts";

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
