/**
 * Several shares in one process: what stands behind --share, and in a configuration file. A share has options of its own, named as on
 * the command line; what it does not say is as the options outside say.
 */
import { whyRefused } from "./arguments.ts";
import { type Flags, flags, PROCESS_OPTIONS } from "./flags.ts";
import { suggestion } from "./nearest.ts";

/** A key with its values: texts; null where it stands alone; false where it is taken back. */
type Entry = [key: string, values: readonly string[] | null | false];

/** What is given in one place. */
export type Given = Partial<Flags>;

/** One share as it was given. */
export interface GivenShare {
  /** Where, for complaints: the file, and the share by its tag, or else by its number; and always by its number. */
  where: string;
  whichOne: string;
  given: Given;
  /** Options that are taken back. */
  without: Set<keyof Flags>;
}

/** What a configuration file says. */
export interface ConfigFile {
  given: Given;
  without: Set<keyof Flags>;
  shares: GivenShare[];
}

const SHORT: ReadonlyMap<string, string> = new Map([["dir", "shared-dir"], ["socket", "socket-path"]]);
/** What makes no sense in a file. */
const NOT_IN_FILES: ReadonlySet<string> = new Set(["share", "config", "version", "print-capabilities"]);

/** Reads what stands behind one --share: key=value pairs with commas between them; a comma in a value is doubled. */
export function readShare(text: string, number: number): GivenShare {
  const parts = text.replaceAll(",,", "\0").split(",").map((part) => part.replaceAll("\0", ","));
  const entries = parts.filter((part) => part !== "").map((part): Entry => {
    const equals = part.indexOf("=");
    return equals < 0 ? [part, null] : [part.slice(0, equals), [part.slice(equals + 1)]];
  });
  return share("", entries, number);
}

/** Reads the same as an object, as it stands in a configuration file. */
export function readShareObject(object: Record<string, unknown>): GivenShare {
  return share("", jsonEntries("the share", object), 1);
}

/** Reads a configuration file. Throws an Error that names it, and share and key. */
export function readConfig(path: string): ConfigFile {
  let text: string;
  try {
    text = Deno.readTextFileSync(path);
  } catch (error) {
    throw new Error(
      `--config ${path}: ${(error as Error).message.replace(/ \(os error.*/s, "")}: give the file's path`,
    );
  }
  return parseConfig(text, path);
}

/** Reads what is in a configuration file. `path` is for complaints. */
export function parseConfig(text: string, path: string): ConfigFile {
  let content: unknown;
  try {
    content = JSON.parse(plainJson(text));
  } catch (error) {
    throw new Error(`${path}: ${(error as Error).message.replace(/\s+/g, " ")}: mend it there`);
  }
  if (!isObject(content)) throw new Error(`${path}: there must be an object, {"shares": [{…}, …], …}`);
  const { shares = [], ...outside } = content;
  if (!Array.isArray(shares)) {
    throw new Error(`${path}: "shares" must be a list, [{"tag": …, "dir": …, "socket": …}, …]`);
  }
  return {
    ...read(path, jsonEntries(path, outside), (name) => !NOT_IN_FILES.has(name), "is for the command line only"),
    shares: shares.map((one, i) => {
      if (!isObject(one)) {
        throw new Error(`${path}: share ${i + 1} must be an object, {"tag": …, "dir": …, "socket": …}`);
      }
      return share(`${path}: `, jsonEntries(`${path}: share ${i + 1}`, one), i + 1);
    }),
  };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Comments and commas behind the last element become blanks, so that places in complaints stay right. */
function plainJson(text: string): string {
  const blank = (part: string) => part[0] === '"' ? part : part.replace(/[^\n]/g, " ");
  return text.replace(/"(?:[^"\\]|\\.)*"|\/\/[^\n]*|\/\*[^]*?\*\//g, blank)
    .replace(/"(?:[^"\\]|\\.)*"|,(?=\s*[}\]])/g, blank);
}

function jsonEntries(where: string, object: Record<string, unknown>): Entry[] {
  return Object.entries(object).map(([key, value]) => {
    if (typeof value === "boolean") return [key, value ? null : false];
    const values = Array.isArray(value) ? value : [value];
    if (!values.every((one) => typeof one === "string" || typeof one === "number")) {
      throw new Error(`${where}: ${key} takes a text, a number, true, false or a list`);
    }
    return [key, values.map(String)];
  });
}

function share(where: string, entries: readonly Entry[], number: number): GivenShare {
  const tag = entries.find(([key]) => key === "tag")?.[1];
  const name = `${where}share ${tag ? JSON.stringify(tag[0]) : number}`;
  const own = (option: string) => !PROCESS_OPTIONS.has(option);
  return {
    where: name,
    whichOne: `${where}share ${number}`,
    ...read(name, entries, own, "is for the whole process: give it beside the shares"),
  };
}

function read(
  where: string,
  entries: readonly Entry[],
  isFor: (name: string) => boolean,
  whyNot: string,
): { given: Given; without: Set<keyof Flags> } {
  const given: Record<string, unknown> = {};
  const without = new Set<keyof Flags>();
  for (const [key, values] of entries) {
    const complain = (why: string) => new Error(`${where}: ${key} ${why}`);
    const said = SHORT.get(key) ?? key;
    const plain = said.startsWith("no-") && !Object.hasOwn(flags, said) ? said.slice(3) : said;
    const refused = whyRefused(plain);
    if (refused !== undefined) throw complain(refused);
    if (!Object.hasOwn(flags, plain)) {
      throw complain(`is no option${suggestion(plain, [...Object.keys(flags), ...SHORT.keys()])}`);
    }
    if (!isFor(plain)) throw complain(whyNot);
    const name = plain as keyof Flags;
    if (plain !== said && values !== null) throw complain("takes no value");
    if (plain !== said || values === false) {
      const flag = flags[name];
      if (flag.kind !== "boolean" && "default" in flag) throw complain("takes a value");
      delete given[name];
      without.add(name);
      continue;
    }
    without.delete(name);
    try {
      const value = readOption(name, values);
      given[name] = isRepeated(name) && given[name] ? [...given[name] as string[], ...value as string[]] : value;
    } catch (error) {
      throw complain((error as Error).message.replace(`--${name} `, ""));
    }
  }
  return { given: given as Given, without };
}

function isRepeated(name: keyof Flags): boolean {
  return "variadic" in flags[name];
}

/** The value of an option. Throws an Error with what it takes. */
function readOption(name: keyof Flags, values: readonly string[] | null): unknown {
  const flag = flags[name];
  if (flag.kind === "boolean") {
    const text = values === null ? "on" : values.length === 1 ? values[0] : "";
    if (text === "on" || text === "true") return true;
    if (text === "off" || text === "false") return false;
    throw new Error("takes on or off");
  }
  if (isRepeated(name)) {
    if (values === null) throw new Error("takes a value");
    return values.map((value) => flag.kind === "parsed" ? flag.parse(value) : value);
  }
  // As on the command line: --posix-acl alone.
  const text = values === null ? name === "posix-acl" ? "on" : undefined : values[0];
  if (text === undefined || values !== null && values.length > 1) throw new Error("takes a value");
  if (flag.kind === "parsed") return flag.parse(text);
  if (!(flag.values as readonly string[]).includes(text)) {
    throw new Error(`takes one of ${flag.values.join(", ")}, not ${JSON.stringify(text)}`);
  }
  return text;
}
