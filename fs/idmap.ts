/**
 * --translate-uid and --translate-gid: users or groups of the guest and of the host, translated here rather than by a user
 * namespace. Syntax and meaning are virtiofsd's. The two directions are independent; ids in no range stay as they are.
 *
 * | rule                           | guest to host                    | host to guest                   |
 * |--------------------------------|----------------------------------|---------------------------------|
 * | guest:FROM:TO:COUNT            | range to range                   |                                 |
 * | host:FROM:TO:COUNT             |                                  | range to range                  |
 * | squash-guest:FROM:TO:COUNT     | range to one id                  |                                 |
 * | squash-host:FROM:TO:COUNT      |                                  | range to one id                 |
 * | forbid-guest:FROM:COUNT        | EPERM                            |                                 |
 * | map:GUEST:HOST:COUNT           | range to range                   | the same back                   |
 */
import { EPERM } from "../ffi/errno.ts";

const U32 = 2 ** 32;
const KINDS: ReadonlyMap<string, number> = new Map([
  ["guest", 3],
  ["host", 3],
  ["squash-guest", 3],
  ["squash-host", 3],
  ["forbid-guest", 2],
  ["map", 3],
]);

/** From `from` on, `count` ids; each becomes `to` plus `step` times its distance from the first. */
interface Range {
  from: number;
  count: number;
  to: number;
  step: 0 | 1;
}

/** Of a forbidden range. */
const FORBIDDEN = -EPERM;

function translate(ranges: readonly Range[], id: number): number {
  for (let i = 0; i < ranges.length; i++) {
    const { from, count, to, step } = ranges[i];
    if (id >= from && id - from < count) return to < 0 ? to : to + step * (id - from);
  }
  return id;
}

export class IdMap {
  readonly #toHost: Range[] = [];
  readonly #toGuest: Range[] = [];

  /** Throws an Error that names the rule and what is wrong with it. */
  constructor(rules: readonly string[]) {
    for (const text of rules) this.#add(text);
  }

  /** The host's id for a guest's, or -EPERM where the guest must not use it. */
  toHost(id: number): number {
    return translate(this.#toHost, id);
  }

  /** The guest's id for a host's. */
  toGuest(id: number): number {
    return translate(this.#toGuest, id);
  }

  #add(text: string): void {
    const { kind, numbers } = read(text);
    const [first, second, third] = numbers;
    const push = (to: Range[], range: Range) => {
      const direction = to === this.#toHost ? "guest-to-host" : "host-to-guest";
      for (
        const [base, count] of range.step
          ? [[range.from, range.count], [range.to, range.count]]
          : [[range.from, range.count]]
      ) {
        if (base + count > U32) throw new Error(`${text}: the range from ${base} ends beyond ${U32 - 1}`);
      }
      const end = range.from + range.count;
      if (range.count > 0 && to.some((one) => one.from < end && range.from < one.from + one.count)) {
        throw new Error(`${text}: its range overlaps that of an earlier ${direction} rule`);
      }
      to.push(range);
    };
    const range = (from: number, to: number, count: number): Range => ({ from, count, to, step: 1 });
    const squash = (from: number, to: number, count: number): Range => ({ from, count, to, step: 0 });
    if (kind === "guest" || kind === "map") push(this.#toHost, range(first, second, third));
    if (kind === "host") push(this.#toGuest, range(first, second, third));
    if (kind === "map") push(this.#toGuest, range(second, first, third));
    if (kind === "squash-guest") push(this.#toHost, squash(first, second, third));
    if (kind === "squash-host") push(this.#toGuest, squash(first, second, third));
    if (kind === "forbid-guest") push(this.#toHost, squash(first, FORBIDDEN, second));
  }
}

/** Both maps. */
export interface Ids {
  uid: IdMap;
  gid: IdMap;
}

/** The maps of the options, or null where they say nothing: then nobody need ask. Throws as IdMap. */
export function createIds(uidRules: readonly string[], gidRules: readonly string[]): Ids | null {
  return uidRules.length + gidRules.length === 0 ? null : { uid: new IdMap(uidRules), gid: new IdMap(gidRules) };
}

/** A rule's kind and its numbers. The separator is the first character that no kind has, and the same throughout. */
function read(text: string): { kind: string; numbers: number[] } {
  const [, word, rest] = /^([\p{L}\p{N}_-]*)(.*)$/su.exec(text)!;
  const kind = word.toLowerCase();
  const wanted = KINDS.get(kind);
  if (wanted === undefined) {
    throw new Error(`${text}: the type is ${[...KINDS.keys()].join(", ")}, not «${word}»`);
  }
  const [separator] = rest;
  const fields = separator === undefined ? [] : rest.slice(separator.length).split(separator);
  if (fields.length !== wanted) throw new Error(`${text}: ${kind} takes ${wanted} numbers, not ${fields.length}`);
  const numbers = fields.map((field) => {
    const value = Number(field);
    if (!/^\+?\d+$/.test(field) || value >= U32) throw new Error(`${text}: «${field}» is no id or count`);
    return value;
  });
  return { kind, numbers };
}
