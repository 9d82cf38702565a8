/** The log: lines of the level asked for and above, on standard error or to the system's logger. */
import type { Log } from "../vq/log.ts";
import { LOG_LEVELS, type LogLevel } from "./options.ts";
import { isJournal } from "./systemd.ts";
import { PRIORITIES, Syslog } from "./syslog.ts";

export type Level = Exclude<LogLevel, "off">;
/** Takes a line that has no line end. */
type Sink = (level: Level, message: string) => void;

/** A log that can be changed while it is in use. */
export interface ServiceLog extends Log {
  level: LogLevel;
  /** Opens anew where it writes to: a file that was moved away, a logger that was started anew. */
  reopen(): void;
}

const encoder = new TextEncoder();

/** Writes a line to standard error. One that cannot be written (a closed pipe) is lost. */
function write(line: string): void {
  try {
    Deno.stderr.writeSync(encoder.encode(line + "\n"));
  } catch {
    // Nobody reads it.
  }
}

/**
 * Lines on standard error: `ringfsd: LEVEL: MESSAGE`, or where the journal reads it, `<PRIORITY>MESSAGE` (sd-daemon(3)): it knows
 * the rest.
 */
export function standardError(): Sink {
  if (isJournal()) return (level, message) => write(`<${PRIORITIES[level]}>${message}`);
  return (level, message) => write(level === "info" ? `ringfsd: ${message}` : `ringfsd: ${level}: ${message}`);
}

/** The system's logger; lines that it does not take go to standard error, after one that says why. */
function systemLog(): { sink: Sink; reopen: () => void } {
  const stderr = standardError();
  const syslog = new Syslog("ringfsd");
  let told = false;
  const sink: Sink = (level, message) => {
    const why = syslog.send(level, message);
    if (why === "") return;
    if (!told) stderr("warn", `the system's log cannot be reached, so this goes to standard error: ${why}`);
    told = true;
    stderr(level, message);
  };
  return { sink, reopen: () => syslog.reopen() };
}

/** Lines in a file, with the time: `2026-01-31T12:00:00.000Z LEVEL: MESSAGE`. Throws an Error where it cannot be opened. */
function fileLog(path: string): { sink: Sink; reopen: () => void } {
  const open = () => {
    try {
      return Deno.openSync(path, { append: true, create: true, mode: 0o640 });
    } catch (error) {
      throw new Error(`--log-file ${path}: ${(error as Error).message.replace(/ \(os error.*/s, "")}`);
    }
  };
  let file = open();
  const sink: Sink = (level, message) => {
    try {
      file.writeSync(encoder.encode(`${new Date().toISOString()} ${level}: ${message}\n`));
    } catch {
      // The disk is full: what is served goes on.
    }
  };
  const reopen = () => {
    const old = file;
    try {
      file = open();
      old.close();
    } catch (error) {
      sink("error", `${(error as Error).message}: the log stays where it was`);
    }
  };
  return { sink, reopen };
}

/** A log of these levels: with `syslog` for the system's logger, or in a file, otherwise on standard error. */
export function createLog(level: LogLevel, syslog = false, path?: string): ServiceLog {
  const { sink, reopen } = path !== undefined
    ? fileLog(path)
    : syslog
    ? systemLog()
    : { sink: standardError(), reopen: () => {} };
  const at = (of: Level) => {
    const needs = LOG_LEVELS.indexOf(of);
    return (message: string) => {
      if (log.level !== "off" && needs <= LOG_LEVELS.indexOf(log.level)) sink(of, message.replaceAll("\n", " "));
    };
  };
  const log = { level, reopen, error: at("error"), warn: at("warn"), info: at("info"), debug: at("debug") };
  return log;
}

/** A log whose lines say what they are about. */
export function withPrefix(log: Log, prefix: string): Log {
  return {
    error: (message) => log.error(prefix + message),
    warn: (message) => log.warn(prefix + message),
    info: (message) => log.info(prefix + message),
    debug: (message) => log.debug(prefix + message),
  };
}
