/** What the lower floors need of a logger; cli/ has the one that writes. */
export interface Log {
  error(message: string, about?: About): void;
  warn(message: string, about?: About): void;
  info(message: string, about?: About): void;
  debug(message: string, about?: About): void;
}

/** What a line is about, where that is known. */
export interface About {
  /** What the device is called. */
  share?: string;
  queue?: number;
  loop?: number;
}

/** A log whose lines are about this, too. */
export function logAbout(log: Log, about: About): Log {
  return {
    error: (message, more) => log.error(message, { ...about, ...more }),
    warn: (message, more) => log.warn(message, { ...about, ...more }),
    info: (message, more) => log.info(message, { ...about, ...more }),
    debug: (message, more) => log.debug(message, { ...about, ...more }),
  };
}

/** For tests, and for those who do not want to hear. */
export const silent: Log = { error() {}, warn() {}, info() {}, debug() {} };
