/** The log: lines of the level asked for and above, on standard error or to the system's logger. */
import type { Log } from "../vq/log.ts";
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
export function standardError(): Sink {
  if (isJournal()) return (level, message) => write(`<${PRIORITIES[level]}>${message}`);
  return (level, message) => write(level === "info" ? `ringfsd: ${message}` : `ringfsd: ${level}: ${message}`);
}

/** The system's logger; lines that it does not take go to standard error, after one that says why. */
function systemLog(fd: number): Sink {
  const stderr = standardError();
  const syslog = new Syslog("ringfsd", fd);
  let told = false;
  return (level, message) => {
    const why = syslog.send(level, message);
    if (why === "") return;
    if (!told) stderr("warn", `the system's log cannot be reached, so this goes to standard error: ${why}`);
    told = true;
    stderr(level, message);
  };
}

/** A log of these levels: for the system's logger where there is what `connectLog` gave, otherwise on standard error. */
export function createLog(level: LogLevel, syslog?: number): Log {
  const most = level === "off" ? -1 : LOG_LEVELS.indexOf(level);
  const sink = syslog === undefined ? standardError() : systemLog(syslog);
  const at = (of: Level) => {
    if (LOG_LEVELS.indexOf(of) > most) return () => {};
    return (message: string) => sink(of, message.replaceAll("\n", " "));
  };
  return { error: at("error"), warn: at("warn"), info: at("info"), debug: at("debug") };
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
