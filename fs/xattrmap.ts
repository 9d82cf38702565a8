/**
 * --xattrmap: names of extended attributes as the guest has them and as the host has them. The rule language is virtiofsd's.
 *
 * A rule is `:type:scope:key:prepend:` or `:map:key:prepend:`, with any character for the colon; white space may stand between
 * rules. What the guest names is compared with `key`, what the host lists with `prepend`, each as a prefix; the first rule whose
 * scope has that direction and which matches decides:
 *
 * | type        | a name of the guest's       | a name of the host's    |
 * |-------------|-----------------------------|-------------------------|
 * | prefix      | `prepend` is put before it  | `prepend` is taken off  |
 * | ok          | stays                       | stays                   |
 * | bad         | EPERM                       | hidden                  |
 * | unsupported | EOPNOTSUPP                  | hidden                  |
 */
import { EOPNOTSUPP, EPERM, ERANGE } from "../ffi/errno.ts";

/** Bytes of a name at most, linux/limits.h. */
export const XATTR_NAME_MAX = 255;

const OK = 0;
const PREFIX = 1;
const BAD = 2;
const UNSUPPORTED = 3;
const TYPES: ReadonlyMap<string, number> = new Map([
  ["ok", OK],
  ["prefix", PREFIX],
  ["bad", BAD],
  ["unsupported", UNSUPPORTED],
]);

const CLIENT = 1;
const SERVER = 2;
const ALL = CLIENT | SERVER;
const SCOPES: ReadonlyMap<string, number> = new Map([["client", CLIENT], ["server", SERVER], ["all", ALL]]);

interface Rule {
  type: number;
  scope: number;
  key: Uint8Array;
  prepend: Uint8Array;
}

const encoder = new TextEncoder();

function startsWith(bytes: Uint8Array, at: number, length: number, prefix: Uint8Array): boolean {
  if (prefix.length > length) return false;
  for (let i = 0; i < prefix.length; i++) if (bytes[at + i] !== prefix[i]) return false;
  return true;
}

export class XattrMap {
  readonly #rules: Rule[];
  readonly #name = new Uint8Array(XATTR_NAME_MAX + 1);

  /** Throws an Error that names the rule and what is wrong with it. */
  constructor(text: string) {
    this.#rules = parse(text);
  }

  /**
   * Turns a guest's name of `length` bytes into the host's. Returns that, NUL-terminated and valid until the next call, or -errno:
   * EPERM, EOPNOTSUPP, or ERANGE where the host's would be too long.
   */
  toHost(name: Uint8Array<ArrayBuffer>, length: number): Uint8Array<ArrayBuffer> | number {
    const rule = this.#rules.find((one) => one.scope & CLIENT && startsWith(name, 0, length, one.key))!;
    if (rule.type === BAD) return -EPERM;
    if (rule.type === UNSUPPORTED) return -EOPNOTSUPP;
    if (rule.type === OK) return name;
    const { prepend } = rule;
    if (prepend.length + length > XATTR_NAME_MAX) return -ERANGE;
    this.#name.set(prepend);
    for (let i = 0; i < length; i++) this.#name[prepend.length + i] = name[i];
    this.#name[prepend.length + length] = 0;
    return this.#name;
  }

  /** Turns the host's list, NUL-terminated names in `bytes` bytes, into the guest's, in place. Returns its bytes. */
  toGuest(list: Uint8Array, bytes: number): number {
    let to = 0;
    for (let at = 0; at < bytes;) {
      const end = list.indexOf(0, at);
      if (end < 0 || end >= bytes) break;
      const length = end - at;
      const rule = this.#rules.find((one) => one.scope & SERVER && startsWith(list, at, length, one.prepend))!;
      const from = rule.type === PREFIX ? at + rule.prepend.length : at;
      // A name that was nothing but the prefix is none.
      if ((rule.type === OK || rule.type === PREFIX) && from < end) {
        list.copyWithin(to, from, end + 1);
        to += end + 1 - from;
      }
      at = end + 1;
    }
    return to;
  }
}

/** Reads rules one after the other. */
function parse(text: string): Rule[] {
  const rules: Rule[] = [];
  const chars = [...text];
  let at = 0;
  let number = 0;
  const skipSpace = () => {
    while (at < chars.length && /\s/.test(chars[at])) at++;
  };
  for (skipSpace(); at < chars.length; skipSpace()) {
    const begin = at;
    const delimiter = chars[at++];
    number++;
    const wrong = (what: string) =>
      new Error(`rule ${number} of the xattr map, «${chars.slice(begin, at).join("").trim()}»: ${what}`);
    const field = (what: string): string => {
      const from = at;
      while (at < chars.length && chars[at] !== delimiter) at++;
      if (at === chars.length) throw wrong(`it ends before the «${delimiter}» behind its ${what}`);
      const value = chars.slice(from, at++).join("");
      if (value.includes("\0")) throw wrong(`its ${what} has a NUL`);
      return value;
    };
    const type = field("type");
    if (type === "map") {
      rules.push(...mapRules(field("key"), field("prepend")));
      skipSpace();
      if (at < chars.length) throw wrong("map must be the last rule, and there can be one only");
      break;
    }
    const known = TYPES.get(type);
    if (known === undefined) throw wrong(`the type is prefix, ok, bad, unsupported or map, not «${type}»`);
    const scope = field("scope");
    const direction = SCOPES.get(scope);
    if (direction === undefined) throw wrong(`the scope is client, server or all, not «${scope}»`);
    rules.push(rule(known, direction, field("key"), field("prepend")));
  }
  if (rules.length === 0) throw new Error("the xattr map has no rule");
  const ends = (scope: number, of: "key" | "prepend") => rules.some((one) => one.scope & scope && one[of].length === 0);
  const open = !ends(CLIENT, "key") ? "names of the client" : !ends(SERVER, "prepend") ? "names of the server" : "";
  if (open) {
    throw new Error(
      `the xattr map ends without a rule for all other ${open}: add :ok:all::: or :bad:all::: at its end`,
    );
  }
  return rules;
}

function rule(type: number, scope: number, key: string, prepend: string): Rule {
  return { type, scope, key: encoder.encode(key), prepend: encoder.encode(prepend) };
}

/**
 * What `map` stands for: prefix everything and hide the rest; or, with a key, prefix what has the key, keep the guest from the
 * prefixed names and show it none that has the key on the host, and let the rest through.
 */
function mapRules(key: string, prepend: string): Rule[] {
  if (key === "") return [rule(PREFIX, ALL, "", prepend), rule(BAD, ALL, "", "")];
  return [rule(PREFIX, ALL, key, prepend), rule(BAD, ALL, prepend, key), rule(OK, ALL, "", "")];
}
