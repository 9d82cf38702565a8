// A minute's load, with everything judged; an hour of it by hand: `deno task soak`. See soak.ts.
import assert from "node:assert/strict";
import { soak, table } from "./soak.ts";

const SECONDS = Number(Deno.env.get("RINGFSD_SOAK_SECONDS") ?? 60);
const SEED = Number(Deno.env.get("RINGFSD_SOAK_SEED") ?? 1);

Deno.test(`Soak: ${SECONDS} s of mounts, work, reboots and vanishing guests: no request is lost, nothing grows`, async () => {
  const result = await soak({ seconds: SECONDS, seed: SEED });
  const said = table(result);
  assert.ok(result.verdicts.length > 0, said);
  assert.deepEqual(result.verdicts.filter(({ ok }) => !ok).map(({ what }) => what), [], said);
  assert.deepEqual([result.daemonEnd, ...result.complaints], ["exit 0"], said);
  const { total } = result;
  assert.equal(total.answered + total.givenUp, total.submitted);
  for (const what of ["sessions", "answered", "givenUp", "late", "interrupted", "checkedBytes"] as const) {
    assert.ok(total[what] > 0, `${what}: none\n${said}`);
  }
  console.log(said);
});
