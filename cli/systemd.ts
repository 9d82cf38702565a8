/**
 * What systemd and a service say to each other: sockets that it passes (sd_listen_fds(3)), states that it is told (sd_notify(3)), a
 * watchdog (sd_watchdog_enabled(3)), the journal's priorities (sd-daemon(3)). Without systemd all of it does nothing.
 */
import { closeOnExec, connectDatagram, send } from "../ffi/socket.ts";

/** The first descriptor that is passed: SD_LISTEN_FDS_START. */
const FIRST = 3;

/** A socket that was passed, with what its unit calls it (FileDescriptorName=). */
export interface PassedSocket {
  fd: number;
  name: string;
}

/** Reads a variable and removes it: no child of this process is meant. */
function take(name: string): string | undefined {
  const value = Deno.env.get(name);
  if (value !== undefined) Deno.env.delete(name);
  return value;
}

/** A number of a variable, or undefined. */
function takeNumber(name: string): number | undefined {
  const text = take(name);
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

/** The sockets that this process was started with. They are this process's alone from now on. */
export function passedSockets(): PassedSocket[] {
  const pid = takeNumber("LISTEN_PID");
  const count = takeNumber("LISTEN_FDS") ?? 0;
  const names = take("LISTEN_FDNAMES")?.split(":") ?? [];
  if (pid !== Deno.pid) return [];
  const sockets = Array.from({ length: Math.min(count, 1024) }, (_, i) => ({ fd: FIRST + i, name: names[i] ?? "" }));
  for (const { fd } of sockets) closeOnExec(fd);
  return sockets;
}

/** Whether standard error goes to the journal: JOURNAL_STREAM has its device and inode (systemd.exec(5)). */
export function isJournal(): boolean {
  const stream = Deno.env.get("JOURNAL_STREAM");
  if (!stream) return false;
  try {
    const { dev, ino } = Deno.statSync("/proc/self/fd/2");
    return stream === `${dev}:${ino}`;
  } catch {
    return false;
  }
}

const encoder = new TextEncoder();

/** A socket that leads to who wants to be notified, or a number below 0. It is connected before a sandbox could hide it (cli/carried.ts). */
export function connectNotify(): number {
  const path = take("NOTIFY_SOCKET");
  return path ? connectDatagram(path) : -1;
}

/** Tells systemd how the service is. */
export class Notifier {
  /** Below 0: nobody asked. */
  readonly #fd: number;
  /** How often the watchdog wants to hear, in milliseconds; 0: there is none. */
  readonly watchdogMs: number;
  #timer: ReturnType<typeof setInterval> | undefined;

  /** `fd` is what `connectNotify` gave. */
  constructor(fd: number) {
    this.#fd = fd;
    const micros = takeNumber("WATCHDOG_USEC") ?? 0;
    const pid = takeNumber("WATCHDOG_PID") ?? Deno.pid;
    this.watchdogMs = this.#fd >= 0 && pid === Deno.pid ? micros / 1000 : 0;
  }

  /** Tells VARIABLE=VALUE lines. Who cannot be told is not waited for. */
  tell(...lines: string[]): void {
    if (this.#fd >= 0) send(this.#fd, encoder.encode(lines.map((line) => line.replaceAll("\n", " ")).join("\n")));
  }

  /** Has the watchdog hear twice in its time, each time that `check` resolves. One that does not keeps it silent. */
  watch(check: () => Promise<void>): void {
    if (this.watchdogMs <= 0) return;
    let checking = false;
    const round = async () => {
      if (checking) return;
      checking = true;
      try {
        await check();
        this.tell("WATCHDOG=1");
      } catch {
        // The log has it already, and systemd hears nothing.
      } finally {
        checking = false;
      }
    };
    this.#timer = setInterval(round, this.watchdogMs / 2);
    round();
  }

  /** Says no more of the watchdog. */
  unwatch(): void {
    clearInterval(this.#timer);
  }
}
