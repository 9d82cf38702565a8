/** Random operations on a file against a model in memory (tests/posix/fsx.ts), in a User-Mode Linux guest, for each cache mode. */
import assert from "node:assert/strict";
import { withBed } from "../guest/bed.ts";
import { Debian } from "../guest/debian.ts";
import { setUp } from "../guest/guest.ts";

const FSX = new URL("../posix/fsx.ts", import.meta.url).pathname;
const FLAGS = "run --allow-all --no-check --no-config";
/** 100,000 shows more, and takes minutes for each mode. */
const operations = Number(Deno.env.get("RINGFSD_FSX_OPS") ?? 10_000);
/** To repeat a failure: the test says which seed it had. */
const seed = Number(Deno.env.get("RINGFSD_FSX_SEED") ?? 1 + Math.floor(Math.random() * 1e6));
const timeoutMs = 60_000 + operations * 20;

async function obstacle(): Promise<string | undefined> {
  if (Deno.env.get("CI") || Deno.uid() === 0) return undefined;
  return await setUp("uml").then(() => undefined, (error) => error.message);
}

const ignore = await obstacle();
if (ignore) console.warn(`skipped: fsx in a guest, because ${ignore}`);

Deno.test("fsx: random operations agree with the model on the host's own file system", async () => {
  const file = await Deno.makeTempFile({ prefix: "ringfsd-fsx-" });
  const { success, stdout } = await new Deno.Command(Deno.execPath(), {
    args: [...FLAGS.split(" "), FSX, file, `--operations=${operations}`, `--seed=${seed}`],
  }).output();
  await Deno.remove(file);
  assert(success, new TextDecoder().decode(stdout));
});

const modes: Record<string, { options: string[]; mayMap: boolean }> = {
  "cache=never": { options: ["--cache", "never"], mayMap: false },
  "cache=metadata": { options: ["--cache", "metadata"], mayMap: false },
  "cache=auto": { options: ["--cache", "auto"], mayMap: true },
  "cache=always": { options: ["--cache", "always"], mayMap: true },
  "cache=always and write-back": { options: ["--cache", "always", "--writeback"], mayMap: true },
};

for (const [mode, { options, mayMap }] of Object.entries(modes)) {
  Deno.test({
    name: `fsx: ${operations} random operations agree with the model in a guest with ${mode}`,
    ignore: ignore !== undefined,
    async fn() {
      await withBed("uml", async (bed) => {
        await bed.make(...options);
        const debian = await Debian.open(bed);
        const map = mayMap ? "" : " --no-map";
        const command = `${Deno.execPath()} ${FLAGS} ${FSX} /mnt/file --operations=${operations} --seed=${seed}${map}`;
        const { status, output } = await debian.try(command, timeoutMs);
        assert.equal(status, 0, output);
        // What the guest believes to have written is in the host's file, whatever the cache.
        const [guest] = (await debian.run("sync && sha256sum < /mnt/file")).split(" ");
        const bytes = await crypto.subtle.digest("SHA-256", await Deno.readFile(`${bed.shared}/file`));
        assert.equal(Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join(""), guest);
      });
    },
  });
}
