/**
 * check.ts uml|kvm|tcg DIR: what `try.sh --check` runs. Shares DIR with a guest of that kind, has the guest work in a new
 * folder of it, compares on the host what became of it, and removes the folder again. Exit status 0 when all is well.
 */
import { Bed } from "./bed.ts";
import { makeSmallFiles, writeRandom } from "./data.ts";
import type { Kind } from "./guest.ts";
import { compareSides, opsInGuest, opsOnHost } from "./ops.ts";
import { tail } from "./poll.ts";
import { checksum, compareTrees, removeTree } from "./tree.ts";

const [kind, shared] = Deno.args as [Kind, string];
const bed = new Bed(kind);
bed.shared = shared;
/** Where the guest works, as the host names it and as the guest does. */
const work = { host: await Deno.makeTempDir({ dir: shared, prefix: "ringfsd-check-" }), guest: "" };
work.guest = `/mnt/${work.host.slice(work.host.lastIndexOf("/") + 1)}`;
await Deno.chmod(work.host, 0o755);
let failed = 0;
let stopped = false;

async function step(what: string, body: () => Promise<unknown>): Promise<void> {
  const start = performance.now();
  const differences = await body().catch((error) => [String(error?.message ?? error)]);
  if (stopped) await new Promise(() => {}); // the signal's listener ends the process
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  const bad = Array.isArray(differences) ? differences : [];
  if (bad.length) failed++;
  console.log(`${bad.length ? "FAIL" : "ok  "} ${what} (${seconds} s)`);
  for (const line of bad) console.log(`     ${String(line).trimEnd().replaceAll("\n", "\n     ")}`);
}

function differ(expected: string, actual: string): string[] {
  return expected === actual ? [] : [`got: ${actual}`, `should be: ${expected}`];
}

async function clear(): Promise<void> {
  await bed.clear();
  await removeTree(work.host);
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  Deno.addSignalListener(signal, async () => {
    if (stopped) return;
    console.error(`stopped by ${signal}`);
    stopped = true;
    await clear();
    Deno.exit(130);
  });
}

async function steps(): Promise<void> {
  await step("a guest boots and mounts the share", () => bed.make());
  if (failed) return;
  await step("some 200 file operations do in the guest what they do on the host", async () => {
    const host = await opsOnHost(bed.cache, bed.dir, work.host, "host");
    const guest = await opsInGuest(bed.guest, work, "guest");
    return compareSides({ log: host, tree: `${work.host}/host` }, { log: guest, tree: `${work.host}/guest` });
  });
  await step("16 MiB of the guest's random data arrive on the host", async () => {
    const sum = await bed.guest.run(
      `head -c 16777216 /dev/urandom > /tmp/r; sha256sum < /tmp/r; cp /tmp/r ${work.guest}/up && sync && rm /tmp/r`,
    );
    return differ(sum.slice(0, 64), checksum(`${work.host}/up`));
  });
  await step("16 MiB of the host's random data arrive in the guest", async () => {
    writeRandom(`${work.host}/down`, 16 << 20);
    const sum = await bed.guest.run(`sha256sum < ${work.guest}/down`);
    return differ(checksum(`${work.host}/down`), sum.slice(0, 64));
  });
  await step("an archive of 500 small files unpacked in the guest", async () => {
    await makeSmallFiles(`${bed.dir}/small`, 500);
    const args = ["-C", bed.dir, "-cf", `${work.host}/small.tar`, "small"];
    await new Deno.Command("tar", { args }).output();
    await bed.guest.run(`cd ${work.guest} && tar xf small.tar`);
    return compareTrees(`${bed.dir}/small`, `${work.host}/small`).slice(0, 20);
  });
  await step("the guest reboots and finds the share again", async () => {
    await bed.guest.run(`echo before > ${work.guest}/reboot`);
    await bed.guest.reboot();
    return differ("before\n", await bed.guest.run(`cat ${work.guest}/reboot`));
  });
  await step("the guest powers off, the daemon stays", async () => {
    await bed.guest.powerOff();
    return bed.daemon.running ? [] : [tail(bed.daemon.output.text)];
  });
}

try {
  await steps();
  if (failed) console.log(bed.report());
} finally {
  await clear();
}
console.log(failed ? `try.sh --check: ${failed} of the steps above failed` : "try.sh --check: all is well");
Deno.exit(failed ? 1 : 0);
