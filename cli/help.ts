/** What --help says: short, with what most people need and examples; --help=all has every option. */
import { grouped, type Groups, meaning, type Option, optionsOf, written } from "./option_table.ts";

/** How a command is called. */
export interface Usage {
  /** "ringfsd", or "ringfsd COMMAND". */
  name: string;
  /** Half a line. */
  brief: string;
  /** What --help=all says above the options. */
  text: string;
  /** The options, in the form that parser.ts reads. */
  flags: unknown;
  /** What may stand beside the options, where anything may. */
  words?: { placeholder: string; brief: string; min: number; max: number };
  /** Further ways to call it, each a line; the first is made from the name and the words. */
  forms?: readonly string[];
  /** Command lines, each with what it does. */
  examples?: readonly (readonly [string, string])[];
  /** Headings for the options, where they are many. */
  groups?: Groups;
  /** The options that the short help has; all, where left out. */
  common?: readonly string[];
}

/** A command, for the list of them. */
export type Named = Pick<Usage, "name" | "brief">;

const WIDTH = 96;
const COLUMN = 30;

/** Which help the words ask for, or null. */
export function helpAsked(words: readonly string[]): "short" | "all" | null {
  const end = words.indexOf("--");
  const before = end < 0 ? words : words.slice(0, end);
  if (before.some((word) => /^--(help=all|help-all|helpAll)$/.test(word))) return "all";
  return before.some((word) => word === "--help" || word === "-h") ? "short" : null;
}

/** The text. `commands` are those that a program has besides. */
export function helpText(usage: Usage, which: "short" | "all", commands: Iterable<Named> = []): string {
  const { name, brief, text, forms = [], examples = [], groups = [["Options", []]] } = usage;
  const all = optionsOf(usage.flags);
  const common = which === "all" ? undefined : usage.common;
  const options = common ? all.filter((option) => common.includes(option.name)) : all;
  const list = [...commands];
  const calls = [`${name}${wordsOf(usage)} [OPTION…]`, ...forms];
  const parts = [
    `${brief}.`,
    calls.map((call, i) => `${i === 0 ? "Usage: " : "       "}${call}`).join("\n"),
    ...(which === "all" ? [text.split("\n").map((line) => wrap(line, /^ */.exec(line)![0], WIDTH)).join("\n")] : []),
    ...(examples.length === 0 ? [] : [`Examples:\n${examples.map(example).join("\n")}`]),
    ...grouped(options, groups).map(([title, members]) => `${title}:\n${members.map(row).join("\n")}`),
    ...(list.length === 0 ? [] : [`Commands (${name} COMMAND --help):\n${list.map(commandRow).join("\n")}`]),
  ];
  const more = options.length < all.length
    ? `All ${all.length} options: ${name} --help=all, or man ${name.split(" ")[0]}.\n`
    : "";
  return `${parts.join("\n\n")}\n${more === "" ? "" : `\n${more}`}`;
}

/** " DIR", or " [DIR]" where it may be left out. */
export function wordsOf({ words }: Usage): string {
  if (words === undefined) return "";
  const one = words.min === 0 ? `[${words.placeholder}]` : words.placeholder;
  return ` ${one}${words.max > 1 ? "…" : ""}`;
}

function example([line, what]: readonly [string, string]): string {
  return `  ${line}\n${wrap(what, " ".repeat(6), WIDTH)}`;
}

function row(option: Option): string {
  return columns(written(option), meaning(option));
}

function commandRow({ name, brief }: Named): string {
  return columns(name.split(" ").at(-1)!, brief);
}

/** Two columns; what is too long for the first has a line of its own. */
function columns(left: string, right: string): string {
  const text = wrap(right, " ".repeat(COLUMN), WIDTH);
  return left.length + 4 > COLUMN ? `  ${left}\n${text}` : `  ${left}`.padEnd(COLUMN) + text.slice(COLUMN);
}

/** Breaks a text between words; each line begins with the indent. */
function wrap(text: string, indent: string, width: number): string {
  const lines: string[] = [];
  let line = "";
  for (const word of text.trim().split(/ +/)) {
    if (line !== "" && indent.length + line.length + 1 + word.length > width) {
      lines.push(indent + line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  return [...lines, indent + line].join("\n");
}
