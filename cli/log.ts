/** The log: lines on standard error, of the level asked for and above. */
import type { Log } from "../vq/log.ts";
import { LOG_LEVELS, type LogLevel } from "./options.ts";

const encoder = new TextEncoder();

/** A log that writes `ringfsd: LEVEL: MESSAGE` lines. A line that cannot be written (a closed pipe) is lost. */
export function createLog(level: LogLevel): Log {
  const most = level === "off" ? -1 : LOG_LEVELS.indexOf(level);
  const at = (of: LogLevel) => {
    if (LOG_LEVELS.indexOf(of) > most) return () => {};
    const prefix = of === "info" ? "ringfsd: " : `ringfsd: ${of}: `;
    return (message: string) => {
      try {
        Deno.stderr.writeSync(encoder.encode(prefix + message.replaceAll("\n", " ") + "\n"));
      } catch {
        // Nobody reads it.
      }
    };
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
