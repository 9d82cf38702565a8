import assert from "node:assert/strict";
import { devicesReport, runDevices } from "../../bench/devices.ts";

Deno.test("runDevices() measures an active device alone and among quiet ones", async () => {
  const main = new URL("../../main.ts", import.meta.url).pathname;
  const rounds = await runDevices({
    ...{ devices: 3, mode: "getattr", depth: 4, rounds: 1, seconds: 0.2 },
    // A container's /dev/shm may be as small as its file.
    dir: Deno.env.get("TMPDIR") ?? "/tmp",
    ringfsd: `${Deno.execPath()} run -A ${main}`,
  });
  assert.equal(rounds.length, 1);
  const [{ alone, among, idleCpus, bytesPerDevice }] = rounds;
  for (const result of [alone, among]) {
    assert.equal(result.errors, 0);
    assert.ok(result.opsPerSecond > 0);
  }
  assert.ok(idleCpus >= 0 && Number.isFinite(bytesPerDevice));
  const report = devicesReport(rounds, 3);
  for (const line of ["active device", "among 3", "op/s alone: ", "guests are quiet", "KiB"]) {
    assert.ok(report.includes(line), report);
  }
});
