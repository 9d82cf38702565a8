import assert from "node:assert/strict";
import { defaultOptions } from "../../fs/config.ts";
import { closeShare, openShare } from "../../fs/share.ts";

/** Descriptors and megabytes of address space of this process. */
function held() {
  const pages = Number(Deno.readTextFileSync("/proc/self/statm").split(" ")[0]);
  return { descriptors: [...Deno.readDirSync("/proc/self/fd")].length, mib: pages / 256 };
}

Deno.test("closeShare() gives back what openShare() took", () => {
  const before = held();
  const shares = Array.from({ length: 20 }, () => openShare("/", defaultOptions, 4));
  const between = held();
  assert.equal(between.descriptors, before.descriptors + 40);
  assert.ok(between.mib > before.mib + 20 * 1024, "a table each, as address space");
  shares.forEach(closeShare);
  const after = held();
  assert.equal(after.descriptors, before.descriptors);
  assert.ok(after.mib < before.mib + 1024, `${after.mib - before.mib} MiB were left`);
});

Deno.test("openShare() that fails leaves nothing open", () => {
  const before = held();
  assert.throws(() => openShare("/no/such/directory", defaultOptions, 1), /\/no\/such\/directory: No such file/);
  assert.throws(() => openShare("/proc/self/status", defaultOptions, 1), /Not a directory/);
  assert.equal(held().descriptors, before.descriptors);
});
