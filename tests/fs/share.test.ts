import assert from "node:assert/strict";
import { defaultOptions } from "../../fs/config.ts";
import { closeShare, openShare } from "../../fs/share.ts";
import { silent } from "../../vq/log.ts";

/** Descriptors and megabytes of address space of this process. */
function held() {
  const pages = Number(Deno.readTextFileSync("/proc/self/statm").split(" ")[0]);
  return { descriptors: [...Deno.readDirSync("/proc/self/fd")].length, mib: pages / 256 };
}

Deno.test("closeShare() gives back what openShare() took", () => {
  // With file handles there is a descriptor more, where the file system has them.
  const probe = openShare("/", { ...defaultOptions, inodeFileHandles: "prefer" }, 1, silent);
  const how = probe.fileHandles;
  closeShare(probe);
  const before = held();
  const shares = Array.from(
    { length: 20 },
    () => openShare("/", { ...defaultOptions, inodeFileHandles: how }, 4, silent),
  );
  const between = held();
  assert.equal(between.descriptors, before.descriptors + (how === "never" ? 40 : 60));
  assert.ok(between.mib > before.mib + 20 * 1024, "a table each, as address space");
  shares.forEach(closeShare);
  const after = held();
  assert.equal(after.descriptors, before.descriptors);
  assert.ok(after.mib < before.mib + 1024, `${after.mib - before.mib} MiB were left`);
});

Deno.test("openShare() that fails leaves nothing open", () => {
  const before = held();
  assert.throws(
    () => openShare("/no/such/directory", defaultOptions, 1, silent),
    /\/no\/such\/directory: No such file/,
  );
  assert.throws(() => openShare("/proc/self/status", defaultOptions, 1, silent), /Not a directory/);
  assert.equal(held().descriptors, before.descriptors);
});
