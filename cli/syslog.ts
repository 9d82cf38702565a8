/** The system's logger: datagrams to /dev/log, as syslog(3) sends them (RFC 3164, without a host). */
import { EAGAIN } from "../ffi/errno.ts";
import { errorText, libc } from "../ffi/libc.ts";
import { connectDatagram, send } from "../ffi/socket.ts";
import type { Level } from "./log.ts";

/** syslog(3). sd-daemon(3) has the same numbers. */
export const PRIORITIES: Readonly<Record<Level, number>> = { error: 3, warn: 4, info: 6, debug: 7 };
/** virtiofsd's facility. */
const LOG_USER = 1 << 3;
/** Longer ones do not get through every logger. */
const BYTES_MAX = 8192;
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const encoder = new TextEncoder();

const PATH = "/dev/log";

/** A socket that leads to the logger, or -errno. It is connected before a sandbox could hide it (cli/carried.ts). */
export function connectLog(path = PATH): number {
  return connectDatagram(path);
}

export class Syslog {
  /** Connected, or -errno. */
  #fd: number;

  /** `fd` is what `connectLog` gave. */
  constructor(readonly name: string, fd: number, readonly path = PATH) {
    this.#fd = fd;
  }

  /** Sends a line. Returns why it could not, or "". */
  send(level: Level, message: string): string {
    const line = `<${LOG_USER | PRIORITIES[level]}>${timestamp(new Date())} ${this.name}[${Deno.pid}]: ${message}`;
    const bytes = encoder.encode(line).subarray(0, BYTES_MAX);
    // A logger that was started anew has another socket.
    for (let tries = 0; tries < 2; tries++) {
      if (this.#fd < 0) this.#fd = connectDatagram(this.path);
      if (this.#fd < 0) break;
      const result = send(this.#fd, bytes);
      if (result >= 0) return "";
      // It does not keep up: a guest must not wait for it.
      if (result === -EAGAIN) return errorText(EAGAIN);
      this.close();
      this.#fd = result;
    }
    return `${this.path}: ${errorText(-this.#fd)}`;
  }

  /** Connects anew, to a logger that was started anew perhaps; where that cannot be, as in a sandbox, it stays as it is. */
  reopen(): void {
    const fd = connectDatagram(this.path);
    if (fd < 0) return;
    this.close();
    this.#fd = fd;
  }

  close(): void {
    if (this.#fd >= 0) libc.close(this.#fd);
    this.#fd = -1;
  }
}

/** "Nov  1 09:03:38", local time. */
function timestamp(now: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const day = String(now.getDate()).padStart(2);
  return `${MONTHS[now.getMonth()]} ${day} ${two(now.getHours())}:${two(now.getMinutes())}:${two(now.getSeconds())}`;
}
