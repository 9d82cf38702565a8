/**
 * Words of a command line, read by the table of a command's options. The only module that knows the library that does it, so that
 * another can take its place. Tables are in the form that the library reads.
 */
import { buildApplication, buildCommand, run } from "@stricli/core";

/** How a command is called. */
export interface Usage {
  /** "ringfsd", or "ringfsd COMMAND". */
  name: string;
  /** Half a line. */
  brief: string;
  /** What --help says above the options. */
  text: string;
  flags: unknown;
  /** What may stand beside the options, where anything may. */
  words?: { placeholder: string; brief: string; min: number; max: number };
}

/** What was read, or a complaint of one line, or an exit status where there was only help to be shown. */
export type Read<Given> = { given: Given; words: string[] } | { complaint: string } | { exit: number };

/** Reads words, and says the help if they ask for it. */
export async function readWords<Given>(
  usage: Usage,
  words: readonly string[],
  say: (text: string) => void,
): Promise<Read<Given>> {
  const { name, brief, text, flags, words: rest } = usage;
  let read: Read<Given> | undefined;
  const positional = rest && {
    kind: "array",
    parameter: { brief: rest.brief, parse: String, placeholder: rest.placeholder },
    minimum: rest.min,
    maximum: rest.max,
  };
  const command = buildCommand({
    func: (given: Given, ...rest: string[]) => void (read = { given, words: rest }),
    // deno-lint-ignore no-explicit-any
    parameters: { flags, ...(positional ? { positional } : {}) } as any,
    docs: { brief, fullDescription: text },
  });
  let complaint = "";
  const context = {
    process: {
      stdout: { write: say },
      stderr: { write: (text: string) => void (complaint += text) },
      exitCode: 0 as number,
    },
  };
  await run(buildApplication(command, { name, scanner: { caseStyle: "original" } }), words, context);
  if (complaint !== "") return { complaint: firstLine(complaint) };
  return read ?? { exit: context.process.exitCode };
}

/** The complaint without the library's way of wrapping it, and without a stack. */
function firstLine(text: string): string {
  const plain = text.replace(/^Command failed, (Error: )?/, "").replace(
    /^Failed to parse "[^]*?" for \S+: (Error: )?/,
    "",
  );
  return plain.split("\n", 1)[0];
}
