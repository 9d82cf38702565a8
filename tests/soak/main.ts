/**
 * deno task soak [--minutes N] [--seed N] [--session REQUESTS] [--guest] [--json FILE] [--daemon "COMMAND"] [-- OPTION…]: a long load on one daemon (soak.ts).
 * Default: an hour, main.ts. --session: most requests of a session. --guest: User-Mode Linux as well. What is behind -- are further options of the daemon. ^C ends it early. The
 * exit status is 0 when no request was lost and nothing grows.
 */
import { parseArgs } from "node:util";
import { RealGuest } from "./real_guest.ts";
import { soak, table } from "./soak.ts";

const { values, positionals } = parseArgs({
  options: {
    minutes: { type: "string", default: "60" },
    seed: { type: "string", default: `${Date.now() & 0xffff}` },
    guest: { type: "boolean", default: false },
    session: { type: "string", default: "2000" },
    json: { type: "string" },
    daemon: { type: "string" },
  },
  allowPositionals: true,
});
const seed = Number(values.seed);
const seconds = Number(values.minutes) * 60;
if (!Number.isSafeInteger(seed) || !(seconds > 0)) {
  throw new Error("--seed takes a whole number, --minutes one above 0");
}

let stopped = false;
Deno.addSignalListener("SIGINT", () => stopped = true);
console.log(`seed ${seed}, ${values.minutes} minutes`);
const realGuest = values.guest ? new RealGuest(seed) : undefined;
try {
  const result = await soak({
    seconds,
    seed,
    command: values.daemon?.split(/\s+/),
    options: positionals,
    sessionRequests: Number(values.session),
    realGuest,
    say: (line) => console.log(line),
    stopped: () => stopped,
  });
  if (values.json !== undefined) Deno.writeTextFileSync(values.json, JSON.stringify(result, null, 1) + "\n");
  console.log(table(result));
  const { verdicts, daemonEnd, complaints } = result;
  const flat = verdicts.length > 0 && verdicts.every(({ ok }) => ok);
  Deno.exitCode = flat && daemonEnd === "exit 0" && complaints.length === 0 ? 0 : 1;
} finally {
  await realGuest?.clear();
}
