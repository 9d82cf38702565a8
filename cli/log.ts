/** The log: lines of the level asked for and above, on standard error or to the system's logger. */
import type { About, Log } from "../vq/log.ts";
import { jsonLine, type LogFormat, textLine } from "./log_format.ts";
import { LOG_LEVELS, type LogLevel } from "./options.ts";
import { isJournal } from "./systemd.ts";
import { PRIORITIES, Syslog } from "./syslog.ts";

export type Level = Exclude<LogLevel, "off">;
/** Takes a line that has no line end. */
type Sink = (level: Level, message: string) => void;

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
export function standardError(format: LogFormat = "text"): Sink {
  if (isJournal()) return (level, message) => write(`<${PRIORITIES[level]}>${message}`);
  if (format === "json") return (_, message) => write(message);
  return (level, message) => write(level === "info" ? `ringfsd: ${message}` : `ringfsd: ${level}: ${message}`);
}

/** The system's logger; lines that it does not take go to standard error, after one that says why. */
function systemLog(format: LogFormat): { sink: Sink; reopen: () => void } {
  const stderr = standardError(format);
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

/** Lines in a file: `2026-01-31T12:00:00.000Z LEVEL: MESSAGE`, or as they are made. Throws an Error where it cannot be opened. */
function fileLog(path: string, format: LogFormat): { sink: Sink; reopen: () => void } {
  const open = () => {
    try {
      return Deno.openSync(path, { append: true, create: true, mode: 0o640 });
    } catch (error) {
      throw new Error(`--log-file ${path}: ${(error as Error).message.replace(/ \(os error.*/s, "")}`);
    }
  };
  let file = open();
  const sink: Sink = (level, message) => {
    const line = format === "json" ? message : `${new Date().toISOString()} ${level}: ${message}`;
    try {
      file.writeSync(encoder.encode(`${line}\n`));
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

/** The daemon's log, which can be changed while it is in use. */
export interface DaemonLog extends Log {
  level: LogLevel;
  /** Lines for readers say which share they are about: there are several. */
  several: boolean;
  /** Opens anew where it writes to: a file that was moved away, a logger that was started anew. */
  reopen(): void;
}

/** A log of these levels: in a file, with `syslog` for the system's logger, otherwise on standard error. Throws where there can be no file. */
export function createLog(level: LogLevel, syslog = false, format: LogFormat = "text", path?: string): DaemonLog {
  const { sink, reopen } = path !== undefined
    ? fileLog(path, format)
    : syslog
    ? systemLog(format)
    : { sink: standardError(format), reopen: () => {} };
  const line = format === "json" ? jsonLine : textLine(() => log.several);
  const at = (of: Level) => {
    const needs = LOG_LEVELS.indexOf(of);
    return (message: string, about: About = {}) => {
      if (log.level !== "off" && needs <= LOG_LEVELS.indexOf(log.level)) sink(of, line(of, message, about));
    };
  };
  const lines = { error: at("error"), warn: at("warn"), info: at("info"), debug: at("debug") };
  const log: DaemonLog = { level, several: false, reopen, ...lines };
  return log;
}
