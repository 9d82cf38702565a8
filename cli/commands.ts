/**
 * What ringfsd does besides serving: `ringfsd COMMAND …`. Each command is a module of its own; one that serves or asks is found here
 * by its name alone, before the daemon's own options are read, so that these stay as virtiofsd's.
 */
import type { LoopThread } from "../vq/pool.ts";
import { ctl } from "./ctl.ts";
import { readWords, type Usage } from "./parser.ts";
import { top } from "./top.ts";

/** What a command has to do with. */
export interface Io {
  /** Writes to standard output. */
  say: (text: string) => void;
  /** Writes a line to standard error; it ends with a line end. */
  complain: (text: string) => void;
  /** Starts a loop's thread. */
  spawn: () => LoopThread;
}

// deno-lint-ignore no-explicit-any -- each has options of its own; the table of all does not know them
export interface Command<Given = any> extends Usage {
  /** Resolves with the exit status. Rejects with an Error that says in one line what went wrong and what to do. */
  run(given: Given, words: readonly string[], io: Io): Promise<number>;
}

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

/** All commands by their names. */
export const COMMANDS: ReadonlyMap<string, Command> = new Map<string, Command>([
  ["ctl", ctl as Command],
  ["top", top],
]);

/** Runs a command. Resolves with the exit status. */
export async function runCommand(command: Command, args: readonly string[], io: Io): Promise<number> {
  const read = await readWords<unknown>(command, args, io.say);
  if ("complaint" in read) {
    io.complain(`${command.name}: ${read.complaint} (see ${command.name} --help)\n`);
    return EXIT_USAGE;
  }
  if ("exit" in read) return read.exit === 0 ? 0 : EXIT_USAGE;
  try {
    return await command.run(read.given, read.words, io);
  } catch (error) {
    io.complain(`${command.name}: ${(error as Error).message}\n`);
    return EXIT_FAILED;
  }
}
