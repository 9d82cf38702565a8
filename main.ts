/** The program. In a Worker it is a loop (worker.ts), so that one bundled module serves as both. */
import { COMMANDS, runCommand } from "./cli/commands.ts";
import { parseOptions } from "./cli/options.ts";
import { programName } from "./cli/program.ts";
import { takeOptions } from "./cli/sandbox.ts";
import { serve } from "./cli/serve.ts";
import { isJournal, passedSockets } from "./cli/systemd.ts";
import { isWorker, startWorker } from "./worker.ts";

const encoder = new TextEncoder();
const say = (text: string) => void Deno.stdout.writeSync(encoder.encode(text));
const complain = (text: string) => void Deno.stderr.writeSync(encoder.encode((isJournal() ? "<3>" : "") + text));

/** Resolves with the exit status. */
async function main(args: readonly string[]): Promise<number> {
  const url = (globalThis as { RINGFSD_MODULE_URL?: string }).RINGFSD_MODULE_URL ?? import.meta.url;
  // What the process was before it executed itself in its sandbox has read the command line.
  const taken = takeOptions();
  if (taken) return await serve(taken, url);
  const command = COMMANDS.get(args[0]);
  if (command !== undefined) return await runCommand(command, args.slice(1), { say, complain, url });
  const commands = [...COMMANDS.values()];
  const start = { program: programName(), sockets: passedSockets(), rustLog: Deno.env.get("RUST_LOG"), commands };
  const parsed = await parseOptions(args, say, complain, start);
  return "exit" in parsed ? parsed.exit : await serve(parsed.options, url);
}

if (isWorker()) startWorker();
else Deno.exit(await main(Deno.args));
