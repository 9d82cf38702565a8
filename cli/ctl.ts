/** `ringfsd ctl`: tells a running daemon what to do, over its control socket. */
import type { Command, Io } from "./commands.ts";
import { request } from "./http.ts";
import type { ShareState } from "./running_shares.ts";

interface Given {
  socket: string;
  json: boolean;
  force: boolean;
}

/** Where the daemon is asked if nothing else is said. */
const SOCKET = "/run/ringfsd/control.sock";

/** What is asked, and how the answer is shown. */
interface Question {
  method: string;
  path: string;
  body?: unknown;
  show: (answer: never) => string;
}

const USAGE = `  list                            the shares, and whether a front end is connected
  add tag=T,dir=D,socket=S,…      serves one more share; what --share takes
  remove TAG [--force]            finishes its requests (--force: gives up those that wait), sends its front end away
  limit TAG [iops=N] [mbps=N]     requests and megabytes in a second; 0: any number
  log-level LEVEL                 error, warn, info, debug or off
  reload                          as SIGHUP: opens the log anew, reads the configuration again
  ping                            every loop answers`;

const flags = {
  socket: {
    kind: "parsed",
    parse: String,
    default: SOCKET,
    brief: "Its --control-socket",
    placeholder: "PATH",
  },
  json: { kind: "boolean", default: false, withNegated: false, brief: "Show the answer as JSON" },
  force: { kind: "boolean", default: false, withNegated: false, brief: "remove: give up requests that wait" },
} as const;

export const ctl: Command<Given> = {
  name: "ringfsd ctl",
  brief: "Tells a running ringfsd what to do",
  text: `Tells a ringfsd that was started with --control-socket what to do.\n\n${USAGE}\n\n` +
    "A share without a tag is named by its socket's path.",
  flags,
  words: { placeholder: "WORD", brief: "What to do", min: 1, max: 8 },
  async run({ socket, json, force }: Given, words: readonly string[], io: Io): Promise<number> {
    const { method, path, body, show } = question(words, force);
    const said = body === undefined ? undefined : JSON.stringify(body);
    // Whoever removes a share is answered within eight seconds.
    const { status, text } = await request(socket, method, `/v1/${path}`, said, { timeoutMs: 20_000 });
    let answer: { error?: string };
    try {
      answer = JSON.parse(text);
    } catch {
      throw new Error(`${socket} is no control socket of ringfsd's: it answered ${JSON.stringify(text.slice(0, 80))}`);
    }
    if (status !== 200) throw new Error(answer.error ?? `status ${status}`);
    io.say(json ? JSON.stringify(answer, null, 2) + "\n" : show(answer as never));
    return 0;
  },
};

/** Throws an Error with a sentence where the words mean nothing. */
function question([action, ...rest]: readonly string[], force: boolean): Question {
  const takes = (count: number, what: string) => {
    if (rest.length !== count) throw new Error(`${action} takes ${what}`);
  };
  if (force && action !== "remove") throw new Error("--force is for remove");
  switch (action) {
    case "list":
      takes(0, "nothing more");
      return { method: "GET", path: "shares", show: ({ shares }: { shares: ShareState[] }) => table(shares) };
    case "add":
      takes(1, "one share: tag=TAG,dir=DIR,socket=PATH,…");
      return { method: "POST", path: "shares", body: { share: absolute(rest[0], Deno.cwd()) }, show: done("added") };
    case "remove":
      takes(1, "the tag of a share");
      return { method: "DELETE", path: `shares/${named(rest)}${force ? "?force" : ""}`, show: done("removed") };
    case "limit": {
      if (rest.length < 2) throw new Error("limit takes the tag of a share, and iops=N or mbps=N");
      const body = Object.fromEntries(rest.slice(1).map(amount));
      const show = ({ iops, mbps }: { iops: number; mbps: number }) =>
        `${rest[0]}: ${iops || "any number of"} requests/s, ${mbps || "any number of"} MB/s\n`;
      return { method: "PATCH", path: `shares/${named(rest)}/limit`, body, show };
    }
    case "log-level":
      takes(1, "one of error, warn, info, debug, off");
      return {
        method: "PUT",
        path: "log-level",
        body: { level: rest[0] },
        show: ({ level }) => `log level ${level}\n`,
      };
    case "reload":
      takes(0, "nothing more");
      return { method: "POST", path: "reload", show: reloaded };
    case "ping":
      takes(0, "nothing more");
      return {
        method: "GET",
        path: "ping",
        show: ({ version, pid, uptimeSeconds, shares, loops, logLevel }) =>
          `ringfsd ${version}, process ${pid}, up ${uptimeSeconds} s: shares ${shares}, loops ${loops}, log level ${logLevel}\n`,
      };
  }
  throw new Error(`there is no ${action}: list, add, remove, limit, log-level, reload or ping`);
}

const named = (rest: readonly string[]) => encodeURIComponent(rest[0]);

/** iops=N or mbps=N. */
function amount(word: string): [string, number] {
  const [, key, digits] = /^(iops|mbps)=(\d{1,15})$/.exec(word) ?? [];
  if (key === undefined) throw new Error(`limit takes iops=N and mbps=N, and ${JSON.stringify(word)} is not such`);
  return [key, Number(digits)];
}

/** A share's text with paths that mean the same to the daemon, whose working directory is another. */
export function absolute(share: string, cwd: string): string {
  const base = cwd.replaceAll(",", ",,");
  return share.replace(
    /(^|[^,](?:,,)*,)((?:shared-)?dir|socket(?:-path)?)=(?!\/)/g,
    (_, before, key) => `${before}${key}=${base}/`,
  );
}

function done(what: string): (answer: { name: string; notes: string[] }) => string {
  return ({ name, notes }) => [`${what}: ${name}`, ...notes].map((line) => `${line}\n`).join("");
}

function reloaded(answer: Record<"added" | "removed" | "limited" | "restarted" | "notes", string[]>): string {
  const { notes, ...changes } = answer;
  const lines = Object.entries(changes).filter(([, names]) => names.length > 0).map(([what, names]) =>
    `${what}: ${names.join(", ")}`
  );
  return [...(lines.length + notes.length === 0 ? ["nothing has changed"] : lines), ...notes].map((one) => `${one}\n`)
    .join("");
}

function table(shares: readonly ShareState[]): string {
  const number = (value: number) => value === 0 ? "-" : `${value}`;
  const rows = shares.map(({ name, dir, socket, fd, state, queues, limit }) => [
    ...[name, state, `${queues}`, number(limit.iops), number(limit.mbps), dir, socket ?? `descriptor ${fd}`],
  ]);
  const all = [["SHARE", "STATE", "QUEUES", "IOPS", "MB/S", "DIRECTORY", "SOCKET"], ...rows];
  const widths = all[0].map((_, column) => Math.max(...all.map((row) => row[column].length)));
  return all.map((row) => row.map((cell, i) => cell.padEnd(widths[i])).join("  ").trimEnd() + "\n").join("");
}
