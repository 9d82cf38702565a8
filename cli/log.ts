/** The log: lines of the level asked for and above, on standard error or to the system's logger. */
import { O_APPEND, O_CLOEXEC, O_CREAT, O_WRONLY } from "../ffi/arch.ts";
import { cString, errno, errorText, libc } from "../ffi/libc.ts";
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
function systemLog(fd: number, format: LogFormat): { sink: Sink; reopen: () => void } {
  const stderr = standardError(format);
  const syslog = new Syslog("ringfsd", fd);
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

const AT_FDCWD = -100;
const LOG_MODE = 0o640;

/** A file for the log, or -errno. It is opened before a sandbox could hide it (cli/carried.ts). */
export function openLogFile(path: string): number {
  const fd = libc.openat(AT_FDCWD, cString(path), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, LOG_MODE);
  return fd < 0 ? -errno() : fd;
}

/** Lines in a file: `2026-01-31T12:00:00.000Z LEVEL: MESSAGE`, or as they are made. `fd` is what `openLogFile` gave. */
function fileLog(path: string, fd: number, format: LogFormat): { sink: Sink; reopen: () => void } {
  let file = fd;
  const sink: Sink = (level, message) => {
    const line = format === "json" ? message : `${new Date().toISOString()} ${level}: ${message}`;
    const bytes = encoder.encode(`${line}\n`);
    // Where the disk is full, what is served goes on.
    libc.write(file, bytes, bytes.length);
  };
  const reopen = () => {
    const opened = openLogFile(path);
    if (opened < 0) return sink("error", `--log-file ${path}: ${errorText(-opened)}: the log stays where it was`);
    libc.close(file);
    file = opened;
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

/** Where lines go other than to standard error: descriptors that were opened before a sandbox hid the paths. */
export interface LogPlace {
  /** What `connectLog` gave. */
  syslog?: number;
  /** And `openLogFile`. */
  file?: { path: string; fd: number };
}

/** A log of these levels. Throws where there can be no file. */
export function createLog(level: LogLevel, place: LogPlace = {}, format: LogFormat = "text"): DaemonLog {
  const { syslog, file } = place;
  if (file && file.fd < 0) throw new Error(`--log-file ${file.path}: ${errorText(-file.fd)}`);
  const { sink, reopen } = file !== undefined
    ? fileLog(file.path, file.fd, format)
    : syslog !== undefined
    ? systemLog(syslog, format)
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
