// --keep-awake: the real daemon with the real file. What it does with it is tests/vq/awake.test.ts.
import assert from "node:assert/strict";
import { onlineCpus } from "../../cli/cpus.ts";
import { openAwake } from "../../vq/awake.ts";
import { libc } from "../../ffi/libc.ts";
import { Place, Started } from "./started.ts";

const LATENCY = "/dev/cpu_dma_latency";

/** Why it cannot be had here, or "". */
function cannotBeHad(): string {
  const { fds, cpus } = openAwake(1, onlineCpus());
  for (const fd of fds) libc.close(fd);
  if (cpus < 2 || cpus > 4) return `${cpus} processors`;
  return fds.length === 0 ? `${LATENCY} cannot be opened` : "";
}
const cannot = cannotBeHad();

/** How often a daemon with these options has the file open while it serves. */
async function opened(...options: string[]): Promise<number> {
  using place = new Place();
  const args = ["--shared-dir", place.share, "--socket-path", place.socket, "--num-request-queues", "1", ...options];
  await using daemon = Started.start(args);
  await daemon.socket(place.socket);
  return [...Deno.readDirSync(`/proc/${daemon.pid}/fd`)].filter(({ name }) => {
    try {
      return Deno.readLinkSync(`/proc/${daemon.pid}/fd/${name}`) === LATENCY;
    } catch {
      return false;
    }
  }).length;
}

Deno.test({
  name: `--keep-awake auto opens ${LATENCY} once a loop, in a sandbox too, never does not${
    cannot && ` (skipped: ${cannot})`
  }`,
  ignore: cannot !== "",
  fn: async () => {
    for (const sandbox of ["none", "namespace"]) assert.equal(await opened("--sandbox", sandbox), 1, sandbox);
    assert.equal(await opened("--sandbox", "none", "--keep-awake", "never"), 0);
    assert.equal(await opened("--sandbox", "none", "--poll-max-us", "0"), 0);
  },
});

Deno.test("openAwake() opens no more than there are processors, and none for no loop", () => {
  const { fds, cpus } = openAwake(100, onlineCpus());
  for (const fd of fds) libc.close(fd);
  assert.ok(fds.length <= cpus && fds.length <= 4, `${fds} for ${cpus} processors`);
  assert.deepEqual(openAwake(0, onlineCpus()).fds, []);
});

Deno.test("onlineCpus() is one at least, and no more than nproc(1) says of all", () => {
  const { stdout } = new Deno.Command("nproc", { args: ["--all"] }).outputSync();
  // Those that are switched off are counted there.
  const all = Number(new TextDecoder().decode(stdout));
  assert.ok(onlineCpus() >= 1 && onlineCpus() <= all, `${onlineCpus()} of ${all}`);
});
