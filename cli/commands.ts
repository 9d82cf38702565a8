/**
 * What ringfsd does besides serving: `ringfsd COMMAND …`. Each command is a module of its own; one that serves or asks is found here
 * by its name alone, before the daemon's own options are read, so that these stay as virtiofsd's.
 */
import { ctl } from "./ctl.ts";
import { doctor } from "./doctor_command.ts";
import { readWords, type Usage } from "./parser.ts";
import { share } from "./share_command.ts";
import { top } from "./top.ts";

/** What a command has to do with. */
export interface Io {
  /** Writes to standard output. */
  say: (text: string) => void;
  /** Writes a line to standard error; it ends with a line end. */
  complain: (text: string) => void;
  /** The module that a loop's thread runs. */
  url: string;
}

// deno-lint-ignore no-explicit-any -- each has options of its own; the table of all does not know them
export interface Command<Given = any> extends Usage {
  /** Puts the words in order before they are read. Throws an Error with a sentence. */
  arrange?(args: readonly string[]): string[];
  /** Resolves with the exit status. Rejects with an Error that says in one line what went wrong and what to do. */
  run(given: Given, words: readonly string[], io: Io): Promise<number>;
}

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

/** All commands by their names. */
export const COMMANDS: ReadonlyMap<string, Command> = new Map<string, Command>([
  ["share", share],
  ["doctor", doctor],
  ["top", top],
  ["ctl", ctl as Command],
]);

/** Runs a command. Resolves with the exit status. */
export async function runCommand(command: Command, args: readonly string[], io: Io): Promise<number> {
  const refuse = (complaint: string) => {
    io.complain(`${command.name}: ${complaint} (see ${command.name} --help)\n`);
    return EXIT_USAGE;
  };
  let words = args;
  try {
    words = command.arrange?.(args) ?? args;
  } catch (error) {
    return refuse((error as Error).message);
  }
  const read = await readWords<unknown>(command, words, io.say);
  if ("complaint" in read) return refuse(read.complaint);
  if ("exit" in read) return read.exit === 0 ? 0 : EXIT_USAGE;
  try {
    return await command.run(read.given, read.words, io);
  } catch (error) {
    io.complain(`${command.name}: ${(error as Error).message}\n`);
    return EXIT_FAILED;
  }
}
