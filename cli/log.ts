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
function systemLog(format: LogFormat): Sink {
  const stderr = standardError(format);
  const syslog = new Syslog("ringfsd");
  let told = false;
  return (level, message) => {
    const why = syslog.send(level, message);
    if (why === "") return;
    if (!told) stderr("warn", `the system's log cannot be reached, so this goes to standard error: ${why}`);
    told = true;
    stderr(level, message);
  };
}

/** The daemon's log. */
export interface DaemonLog extends Log {
  /** Lines for readers say which share they are about: there are several. */
  several: boolean;
}

/** A log of these levels: with `syslog` for the system's logger, otherwise on standard error. */
export function createLog(level: LogLevel, syslog = false, format: LogFormat = "text"): DaemonLog {
  const most = level === "off" ? -1 : LOG_LEVELS.indexOf(level);
  const sink = syslog ? systemLog(format) : standardError(format);
  const line = format === "json" ? jsonLine : textLine(() => log.several);
  const at = (of: Level) => {
    if (LOG_LEVELS.indexOf(of) > most) return () => {};
    return (message: string, about: About = {}) => sink(of, line(of, message, about));
  };
  const log: DaemonLog = { several: false, error: at("error"), warn: at("warn"), info: at("info"), debug: at("debug") };
  return log;
}
