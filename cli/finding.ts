/** One line of what `ringfsd doctor` says. */

/** "fail": ringfsd or its guests do not work so. "warn": they work, but something is slower, smaller or less safe than it could be. */
export type Level = "ok" | "warn" | "fail";

export interface Finding {
  level: Level;
  /** What was looked at, in a word. */
  about: string;
  /** How it stands and what that means. */
  text: string;
  /** What to do about it; "" where there is nothing. */
  todo: string;
}

export const ok = (about: string, text: string): Finding => ({ level: "ok", about, text, todo: "" });
export const warn = (about: string, text: string, todo: string): Finding => ({ level: "warn", about, text, todo });
export const fail = (about: string, text: string, todo: string): Finding => ({ level: "fail", about, text, todo });

/** A version's numbers; [0] where there is none. */
export function versionOf(text: string): number[] {
  return /\d+(?:\.\d+)*/.exec(text)?.[0].split(".").map(Number) ?? [0];
}

/** Whether a version is older than another. */
export function isBefore(version: readonly number[], than: readonly number[]): boolean {
  for (let i = 0; i < than.length; i++) {
    if ((version[i] ?? 0) !== than[i]) return (version[i] ?? 0) < than[i];
  }
  return false;
}
