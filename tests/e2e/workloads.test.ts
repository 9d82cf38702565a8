/** Git, compilers, databases and stress tests of others, in a User-Mode Linux guest on the share, compared with the host. */
import assert from "node:assert/strict";
import { Bed } from "../guest/bed.ts";
import { Debian, missing, runOnHost } from "../guest/debian.ts";
import { setUp } from "../guest/guest.ts";
import { compareTrees } from "../guest/tree.ts";
import { MORE_STRESSORS, STRESSORS, type Workload, WORKLOADS } from "../guest/workloads.ts";

/** How long each stressor runs. Setting it asks for all of them. */
const stressSeconds = Number(Deno.env.get("RINGFSD_STRESS_SECONDS") ?? 0);

async function obstacle(): Promise<string | undefined> {
  if (Deno.env.get("CI") || Deno.uid() === 0) return undefined;
  return await setUp("uml").then(() => undefined, (error) => error.message);
}

const ignore = await obstacle();
if (ignore) console.warn(`skipped: workloads in a guest, because ${ignore}`);

for (const cache of ["auto", "never"]) {
  const bed = new Bed("uml");
  bed.memMib = 1024;
  let debian: Debian | undefined;

  const test = (name: string, fn: () => Promise<void>, skip?: string) => {
    if (skip && !ignore) console.warn(`skipped: ${name}, because ${skip}`);
    Deno.test({
      name: `workloads: ${name}, with cache=${cache}`,
      ignore: ignore !== undefined || skip !== undefined,
      // The guest and the daemon live from one test to the next.
      sanitizeOps: false,
      sanitizeResources: false,
      async fn() {
        try {
          await fn();
        } catch (error) {
          console.error(bed.report());
          throw error;
        }
      },
    });
  };
  const guest = () => {
    if (!debian) throw new Error("there is no guest to test with: see the first test's error");
    return debian;
  };

  test("a guest runs the host's programs on the share", async () => {
    await bed.make("--cache", cache, "--xattr");
    await Deno.mkdir(`${bed.dir}/fixtures`);
    await Deno.mkdir(`${bed.dir}/host`);
    debian = await Debian.open(bed);
    assert.match(await debian.run("pwd && uname -sr"), /^\/mnt\nLinux /);
  });

  const compare = async ({ name, prepare, script, sameFiles }: Workload) => {
    const debian = guest();
    const folder = name.replaceAll(/\W+/g, "-");
    const fixtures = `${bed.dir}/fixtures/${folder}`;
    await Deno.mkdir(fixtures);
    await prepare?.(fixtures);
    const whole = `export FIXTURES=${fixtures}; mkdir ${folder} && cd ${folder} && ${script}`;
    const expected = await runOnHost(whole, `${bed.dir}/host`);
    assert.equal(await debian.run(whole, 180_000), expected);
    if (sameFiles) assert.deepEqual(compareTrees(`${bed.dir}/host/${folder}`, `${bed.shared}/${folder}`), []);
    // What the guest has left the host can remove, and the guest sees that.
    await Deno.remove(`${bed.shared}/${folder}`, { recursive: true });
  };
  for (const workload of WORKLOADS) {
    if (cache === "never" && workload.maps) continue;
    test(workload.name, () => compare(workload), await missing(workload.programs));
  }

  const lacking = await missing({ "stress-ng": "stress-ng" });
  // Without a cache fewer of them meet other code, and each takes its time.
  const usual = cache === "never" ? ["hdd", "rename", "flock", "iomix", "seek"] : STRESSORS;
  for (const stressor of stressSeconds ? [...STRESSORS, ...MORE_STRESSORS] : usual) {
    const line = `stress-ng --${stressor} 1 --timeout ${stressSeconds || 1} --verify --temp-path . --log-brief`;
    test(`stress-ng --${stressor} --verify`, async () => {
      const { status, output } = await guest().try(line, 60_000 + stressSeconds * 1000);
      assert.equal(status, 0, output);
      assert.doesNotMatch(output, /fail/i);
    }, lacking);
  }

  test("the daemon holds nothing when the guest has gone", async () => {
    try {
      guest();
      await bed.guest.powerOff();
      await bed.expectDaemonIdle();
    } finally {
      await bed.clear();
    }
  });
}
