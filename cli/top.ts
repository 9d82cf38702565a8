/** `ringfsd top`: what a running daemon does, as a table that is drawn again and again. It asks the daemon's metrics socket. */
import type { Command, Io } from "./commands.ts";
import { type HttpPlace, httpPlace, request } from "./http.ts";
import type { Snapshot } from "./metrics.ts";
import { ratesBetween, tableOf } from "./top_table.ts";

interface Given {
  interval: number;
  once: boolean;
  json: boolean;
  ops: boolean;
}

const INTERVAL_MAX = 3600;

function interval(input: string): number {
  const value = Number(input);
  if (!/^\d+(\.\d+)?$/.test(input) || value < 0.1 || value > INTERVAL_MAX) {
    throw new Error(`--interval takes seconds from 0.1 to ${INTERVAL_MAX}`);
  }
  return value;
}

const toggle = (brief: string) => ({ kind: "boolean", default: false, withNegated: false, brief }) as const;

export const top: Command<Given> = {
  name: "ringfsd top",
  brief: "Shows what a running ringfsd does: operations, bandwidth, latency, polling",
  text:
    "Shows what a running ringfsd does, per share and per queue: operations and bytes a second, the time that half of the " +
    "requests and 99 % of them took at most, errors a second, requests in flight, and what part of its loop's time a queue's " +
    "loop worked or polled. q ends it.\n\n" +
    "  ringfsd --metrics-socket /run/ringfsd/metrics.sock …\n" +
    "  ringfsd top\n" +
    "  ringfsd top --once --json /run/vm1-metrics.sock\n\n" +
    "Without SOCKET it takes the one whose name ends in metrics.sock in /run/ringfsd or $XDG_RUNTIME_DIR/ringfsd. SOCKET may be " +
    "127.0.0.1:PORT too. Where standard output is no terminal, the lines follow each other.",
  flags: {
    interval: {
      kind: "parsed",
      parse: interval,
      default: "1",
      brief: "Seconds between two looks",
      placeholder: "SECONDS",
    },
    once: toggle("One table, of one interval"),
    json: toggle("One JSON object a table instead of the table"),
    ops: toggle("A line for each operation too"),
  },
  words: { placeholder: "SOCKET", brief: "The metrics socket of the daemon", min: 0, max: 1 },
  run: async ({ interval, once, json, ops }, words, io) => {
    const place = words.length > 0 ? httpPlace("ringfsd top", asPath(words[0])) : findSocket(socketDirs());
    const terminal = !once && !json && Deno.stdout.isTerminal() ? new Terminal(io) : null;
    try {
      let before = await ask(place);
      for (;;) {
        if (await wait(interval * 1000, terminal?.quit)) return 0;
        const after = await ask(place);
        const rates = ratesBetween(before, after);
        before = after;
        if (json) io.say(`${JSON.stringify(rates)}\n`);
        else if (terminal === null) io.say(`${tableOf(rates, { ops }).join("\n")}\n${once ? "" : "\n"}`);
        else terminal.show((width) => tableOf(rates, { ops, width }));
        if (once) return 0;
      }
    } finally {
      terminal?.close();
    }
  },
};

/** A word without a slash that is no address is a file in the working directory. */
function asPath(word: string): string {
  return /^(\[.*\]|[^/:]+):\d+$/.test(word) || word.includes("/") || word.startsWith("unix:") ? word : `unix:${word}`;
}

/** Where sockets are looked for. */
function socketDirs(): string[] {
  const runtime = Deno.env.get("XDG_RUNTIME_DIR");
  return ["/run/ringfsd", ...(runtime ? [`${runtime}/ringfsd`] : [])];
}

/** The one metrics socket in these directories. Throws an Error where there is none, or more than one. */
export function findSocket(dirs: readonly string[]): HttpPlace {
  const found = dirs.flatMap((dir) => {
    try {
      return [...Deno.readDirSync(dir)].filter(({ name }) => name.endsWith("metrics.sock")).map(({ name }) =>
        `${dir}/${name}`
      );
    } catch {
      return [];
    }
  }).sort();
  if (found.length === 1) return { path: found[0] };
  if (found.length === 0) {
    throw new Error(
      `there is no metrics socket in ${
        dirs.join(" or ")
      }: start ringfsd with --metrics-socket /run/ringfsd/metrics.sock, ` +
        "or say where it is: ringfsd top SOCKET",
    );
  }
  throw new Error(`which of them? ${found.join(", ")}: ringfsd top SOCKET`);
}

async function ask(place: HttpPlace): Promise<Snapshot> {
  const { status, text } = await request(place, "GET", "/metrics.json");
  if (status !== 200) throw new Error(`no metrics: HTTP status ${status}: is this the metrics socket of a ringfsd?`);
  return JSON.parse(text) as Snapshot;
}

/** Waits for a time. Resolves with whether `quit` came first. */
async function wait(ms: number, quit?: Promise<void>): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const over = new Promise<boolean>((resolve) => timer = setTimeout(() => resolve(false), ms));
  try {
    return await (quit ? Promise.race([over, quit.then(() => true)]) : over);
  } finally {
    clearTimeout(timer);
  }
}

const Q = 0x71;
const CTRL_C = 3;

/** The terminal: its other screen, without a cursor, and keys as they are pressed. */
class Terminal {
  /** Resolves when q or Ctrl-C is pressed. */
  readonly quit: Promise<void>;
  readonly #raw: boolean;

  constructor(readonly io: Io) {
    this.#raw = Deno.stdin.isTerminal();
    if (this.#raw) Deno.stdin.setRaw(true);
    this.quit = this.#raw ? this.#keys() : new Promise(() => {});
    io.say("\x1b[?1049h\x1b[?25l");
  }

  show(lines: (width: number) => string[]): void {
    const { columns, rows } = Deno.consoleSize();
    const text = lines(columns).slice(0, rows - 1).map((line) => `${line}\x1b[K\r\n`).join("");
    this.io.say(`\x1b[H${text}\x1b[J`);
  }

  close(): void {
    if (this.#raw) Deno.stdin.setRaw(false);
    this.io.say("\x1b[?25h\x1b[?1049l");
  }

  async #keys(): Promise<void> {
    const keys = new Uint8Array(16);
    for (;;) {
      const n = await Deno.stdin.read(keys);
      if (n === null || keys.subarray(0, n).some((key) => key === Q || key === CTRL_C)) return;
    }
  }
}
