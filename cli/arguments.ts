/**
 * The words of the command line, put in order before they are read: virtiofsd's one-letter options and old forms become long ones,
 * an option given twice counts as given last, and options of virtiofsd's that are not there yet are refused with a reason.
 */
import { type Given, oldOptions } from "./old_options.ts";

/** What an option takes. */
export interface Shape {
  /** It is followed by a value; else it is a switch. */
  value: boolean;
  /** Each one counts, not the last alone. */
  repeated: boolean;
  /** A switch that --no-NAME takes back. */
  negated: boolean;
}

/** Options of virtiofsd's that are refused, and what to do. */
const REFUSED: ReadonlyMap<string, string> = new Map([
  ["posix-acl-create-fallback", "is not there: a file is created with the guest's rights or not at all"],
  ["daemonize", "is not there: ringfsd stays in the foreground, have a service manager start it"],
]);

/** Why an option is refused; undefined: it is not. */
export function whyRefused(name: string): string | undefined {
  return REFUSED.get(name);
}

/** Other names. */
const ALIASES: ReadonlyMap<string, string> = new Map([["socket", "socket-path"]]);
const LETTERS: ReadonlyMap<string, Given | null> = new Map([
  ["d", { name: "log-level", value: "debug" }],
  // It stays in the foreground anyway.
  ["f", null],
  ["V", { name: "version", value: null }],
  ["h", { name: "help", value: null }],
]);

/** Puts the words in order. `shapeOf` knows the options. Throws an Error with a sentence. */
export function arrange(args: readonly string[], shapeOf: (name: string) => Shape | undefined): string[] {
  const line = new Line(shapeOf);
  const old: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const word = args[i];
    const next = args[i + 1];
    const letters = /^-([dfVh]*)(o?)(.*)$/s.exec(word);
    if (word.startsWith("--") || letters === null || word === "-") {
      if (line.take(word, next)) i++;
      continue;
    }
    const [, flags, o, rest] = letters;
    if (o === "" && rest !== "") throw new Error(`there is no option ${word}`);
    for (const letter of flags) line.put(LETTERS.get(letter) ?? null);
    if (o === "") continue;
    if (rest === "" && next === undefined) throw new Error("-o takes options, -o key=value,…");
    old.push(rest === "" ? args[++i] : rest);
  }
  for (const list of old) for (const given of oldOptions(list)) line.put(given);
  return line.words;
}

class Line {
  #words: { name: string; word: string }[] = [];

  constructor(readonly shapeOf: (name: string) => Shape | undefined) {}

  /** Adds a word of the command line. Returns whether the next one was its value. */
  take(word: string, next: string | undefined): boolean {
    if (!word.startsWith("--")) {
      this.#words.push({ name: "", word });
      return false;
    }
    const equals = word.indexOf("=");
    const said = equals < 0 ? word.slice(2) : word.slice(2, equals);
    const name = ALIASES.get(said) ?? said;
    const shape = this.shapeOf(name);
    const follows = equals < 0 && shape?.value === true && next !== undefined && !next.startsWith("--");
    const value = equals >= 0 ? word.slice(equals + 1) : follows ? next : null;
    this.put({ name, value });
    return follows;
  }

  /** Adds an option, or takes one back. */
  put(given: Given | null): void {
    if (given === null) return;
    const { name, value } = given;
    const why = REFUSED.get(name);
    if (why !== undefined && value !== false) throw new Error(`--${name} ${why}`);
    const plain = name.startsWith("no-") ? name.slice(3) : name;
    if (plain !== name && value === null && this.shapeOf(plain)?.negated) {
      return this.put({ name: plain, value: "false" });
    }
    if (!this.shapeOf(name)?.repeated) this.#words = this.#words.filter((one) => one.name !== name);
    if (value === false) return;
    // The one option that may have a value or none.
    const word = name === "posix-acl" && value === null ? "on" : value;
    // The library does not see a value behind "=" that is empty or has a line end.
    if (word !== null && !/^.+$/.test(word)) this.#words.push({ name, word: `--${name}` }, { name, word });
    else this.#words.push({ name, word: word === null ? `--${name}` : `--${name}=${word}` });
  }

  get words(): string[] {
    return this.#words.map(({ word }) => word);
  }
}
