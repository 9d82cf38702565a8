/** What the lower floors need of a logger; cli/ has the one that writes. */
export interface Log {
  error(message: string): void;
  warn(message: string): void;
  info(message: string): void;
  debug(message: string): void;
}

/** For tests, and for those who do not want to hear. */
export const silent: Log = { error() {}, warn() {}, info() {}, debug() {} };
