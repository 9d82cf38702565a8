/**
 * Words of a command line, read by the table of a command's options. The only module that knows the library that does it, so that
 * another can take its place. Tables are in the form that the library reads.
 */
import {
  ArgumentScannerError,
  buildApplication,
  buildCommand,
  formatMessageForArgumentScannerError,
  run,
  text_en,
} from "@stricli/core";
import { helpAsked, helpText, type Named, type Usage } from "./help.ts";

export type { Usage };

/** What was read, or a complaint of one line, or an exit status where there was only help to be shown. */
export type Read<Given> = { given: Given; words: string[] } | { complaint: string } | { exit: number };

/** Reads words, and says the help if they ask for it; `commands` are named there. */
export async function readWords<Given>(
  usage: Usage,
  words: readonly string[],
  say: (text: string) => void,
  commands: Iterable<Named> = [],
): Promise<Read<Given>> {
  const help = helpAsked(words);
  if (help !== null) {
    say(helpText(usage, help, commands));
    return { exit: 0 };
  }
  const { name, brief, flags, words: rest } = usage;
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
    docs: { brief },
  });
  let complaint = "";
  const context = {
    process: {
      stdout: { write: say },
      stderr: { write: (text: string) => void (complaint += text) },
      exitCode: 0 as number,
    },
  };
  const options = { name, scanner: { caseStyle: "original" }, localization: { text } } as const;
  await run(buildApplication(command, options), words, context);
  if (complaint !== "") return { complaint: firstLine(complaint) };
  return read ?? { exit: context.process.exitCode };
}

/** The library's complaints in the words of this program: each names the option, and says what it takes. */
const text = {
  ...text_en,
  exceptionWhileParsingArguments: (error: unknown): string =>
    error instanceof ArgumentScannerError
      ? formatMessageForArgumentScannerError(error, {
        FlagNotFoundError: ({ input, corrections }) => `there is no option --${input}${suggest(corrections, "--")}`,
        AliasNotFoundError: ({ input }) => `there is no option -${input}`,
        ArgumentParseError: ({ exception }) => exception instanceof Error ? exception.message : String(exception),
        EnumValidationError: ({ externalFlagName, input, values }) =>
          `--${externalFlagName} takes one of ${values.join(", ")}, not ${JSON.stringify(input)}`,
        UnsatisfiedFlagError: ({ externalFlagName }) =>
          `--${externalFlagName} takes a value, and there is none: give one`,
        UnexpectedPositionalError: ({ input }) => `${JSON.stringify(input)} is one word too many`,
        UnsatisfiedPositionalError: ({ placeholder }) => `which ${placeholder}? There is none`,
        UnexpectedFlagError: ({ externalFlagName, input }) => `--${externalFlagName} ${input}: it was given before`,
      })
      : String(error),
};

function suggest(corrections: readonly string[], before: string): string {
  return corrections.length === 0 ? "" : `, did you mean ${corrections.map((one) => before + one).join(" or ")}?`;
}

/** The complaint without a stack. */
function firstLine(text: string): string {
  return text.split("\n", 1)[0];
}
