/** The program. In a Worker it is a loop (worker.ts), so that one bundled module serves as both. */
import { parseOptions } from "./cli/options.ts";
import { programName } from "./cli/program.ts";
import { takeOptions } from "./cli/sandbox.ts";
import { serve } from "./cli/serve.ts";
import { isJournal, passedSockets } from "./cli/systemd.ts";
import { isWorker, startWorker } from "./worker.ts";

const encoder = new TextEncoder();
const say = (text: string) => void Deno.stdout.writeSync(encoder.encode(text));
const complain = (text: string) => void Deno.stderr.writeSync(encoder.encode((isJournal() ? "<3>" : "") + text));

if (isWorker()) {
  startWorker();
} else {
  const taken = takeOptions();
  const start = () => ({ program: programName(), sockets: passedSockets(), rustLog: Deno.env.get("RUST_LOG") });
  const parsed = taken ? { options: taken } : await parseOptions(Deno.args, say, complain, start());
  const url = (globalThis as { RINGFSD_MODULE_URL?: string }).RINGFSD_MODULE_URL ?? import.meta.url;
  Deno.exit("exit" in parsed ? parsed.exit : await serve(parsed.options, url));
}
