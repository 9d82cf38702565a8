/** How a line of the log looks, and how many lines of a kind there may be. */
import type { About, Log } from "../vq/log.ts";
import type { Level } from "./log.ts";

export const LOG_FORMATS = ["text", "json"] as const;
export type LogFormat = typeof LOG_FORMATS[number];

/** Makes a line: without a line end, and in the case of text without the level, which depends on where it goes. */
export type Format = (level: Level, message: string, about: About) => string;

/** A line for readers. The share is named where there are several. */
export function textLine(several: () => boolean): Format {
  return (_, message, { share }) => {
    const line = message.replaceAll("\n", " ");
    return share === undefined || !several() ? line : `share ${share}: ${line}`;
  };
}

/** A line for programs: one JSON object, with what is known of share, queue and loop. */
export function jsonLine(level: Level, message: string, { share, queue, loop }: About): string {
  return JSON.stringify({ time: new Date().toISOString(), level, message, share, queue, loop });
}

export interface LimitOptions {
  /** Lines of a kind, in so many milliseconds. */
  lines?: number;
  intervalMs?: number;
}

/** Kinds that are told apart at most: beyond that all are one. */
const KINDS_MAX = 256;

interface Kind {
  lines: number;
  muted: number;
}

/**
 * A log for what a guest or a front end can cause: of each kind of line it says so many in an interval, and at the end of that how
 * many more there were. Lines are of a kind where they differ in numbers only. Debug lines are not limited: who wants them wants all.
 */
export function limited(log: Log, { lines = 10, intervalMs = 10_000 }: LimitOptions = {}): Log {
  const kinds = new Map<string, Kind>();
  const say = (level: "error" | "warn" | "info") => (message: string, about?: About) => {
    const plain = `${level} ${about?.share ?? ""} ${message.slice(0, 120).replace(/\d+/g, "#")}`;
    const key = kinds.has(plain) || kinds.size < KINDS_MAX ? plain : "";
    let kind = kinds.get(key);
    if (kind === undefined) {
      kinds.set(key, kind = { lines: 0, muted: 0 });
      // The first of a kind begins the interval; a process that ends does not wait for it.
      Deno.unrefTimer(setTimeout(() => {
        const { muted } = kinds.get(key)!;
        kinds.delete(key);
        if (muted > 0) log[level](`… and ${muted} more such lines in ${intervalMs / 1000} s: ${message}`, about);
      }, intervalMs));
    }
    if (kind.lines++ < lines) log[level](message, about);
    else kind.muted++;
  };
  return {
    error: say("error"),
    warn: say("warn"),
    info: say("info"),
    debug: (message, about) => log.debug(message, about),
  };
}
