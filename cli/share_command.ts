/** `ringfsd share DIR`: picks tag and socket, prints what hypervisor and guest need, and serves. */
import { resolve } from "node:path";
import { libc } from "../ffi/libc.ts";
import { openDirectory } from "../fs/share.ts";
import { arrange } from "./arguments.ts";
import type { Command, Io } from "./commands.ts";
import { type Flags, flags } from "./flags.ts";
import { COMMON, GROUPS } from "./option_table.ts";
import { optionsFrom, shapes } from "./options.ts";
import { freeSocket, socketDirectory, tagFor } from "./places.ts";
import { linesFor, type Recipe, type Target, TARGETS, TITLES } from "./recipes.ts";
import { serve } from "./serve.ts";

/** What it picks itself, has as its word, or serves nothing. */
const NOT_HERE = ["shared-dir", "share", "config", "fd", "print-capabilities", "version"] as const;

const taken = Object.fromEntries(
  Object.entries(flags).filter(([name]) => !NOT_HERE.some((one) => one === name)),
) as Omit<typeof flags, typeof NOT_HERE[number]>;

const own = {
  only: {
    kind: "enum",
    values: TARGETS,
    optional: true,
    brief: "Print the lines for this one alone, and nothing around them",
  },
  print: { kind: "boolean", default: false, withNegated: false, brief: "Print, and do not serve" },
} as const;
const table = { ...own, ...taken };

type Given = Flags & { only?: Target; print: boolean };

export const share: Command<Given> = {
  name: "ringfsd share",
  brief: "Shares a directory: picks tag and socket, prints what hypervisor and guest need, serves until Ctrl-C",
  text:
    "Shares a directory until Ctrl-C; a second Ctrl-C does not wait for requests in flight. The tag is the directory's name, " +
    "the socket is in /run/ringfsd for root, else in $XDG_RUNTIME_DIR/ringfsd, else in a directory of the user's in /tmp. " +
    "It takes the daemon's options too, all but those that name directory and shares.",
  flags: table,
  words: { placeholder: "DIR", brief: "Directory to share", min: 1, max: 1 },
  examples: [
    ["ringfsd share .", "Shares this directory."],
    ["ringfsd share /srv/vm1 --readonly --tag files", "With options of the daemon's."],
    ["ringfsd share /srv/vm1 --print --only libvirt", "Prints the XML for libvirt, and ends."],
  ],
  groups: [["What is printed", ["only", "print"]], ...GROUPS],
  common: ["only", "print", ...COMMON],
  arrange: (args) => arrange(args.flatMap(spelled), shapes(table)),
  run,
};

/** Options that make no sense here get a better answer than that there is no such option. */
function spelled(word: string): string[] {
  const name = /^--([^=]+)/.exec(word)?.[1];
  const known = name !== undefined && NOT_HERE.some((one) => one === name);
  if (known) throw new Error(`--${name} is not for ringfsd share, which serves the one directory that is its word`);
  return [word];
}

async function run(given: Given, [word]: readonly string[], io: Io): Promise<number> {
  const { only, print, ...rest } = given;
  const dir = resolve(word);
  libc.close(openDirectory(dir));
  const tag = rest.tag ?? tagFor(dir);
  const socket = rest["socket-path"] ?? pickSocket(tag, !print);
  const daemon = { ...rest, "shared-dir": dir, "socket-path": socket, tag };
  const options = optionsFrom(daemon as Flags);
  const recipe: Recipe = {
    tag,
    socket: resolve(socket),
    dir,
    queues: options.shares[0].numRequestQueues,
    binary: program(),
    xattr: options.shares[0].fs.xattr,
    cache: options.shares[0].fs.cache,
  };
  io.say(only ? `${linesFor(only, recipe).join("\n")}\n` : everything(recipe, !print));
  return print ? 0 : await serve(options, io.url);
}

function pickSocket(tag: string, make: boolean): string {
  const { uid, runtimeDir } = { uid: Deno.uid()!, runtimeDir: Deno.env.get("XDG_RUNTIME_DIR") };
  const dir = socketDirectory({ uid, runtimeDir, run: "/run", tmp: "/tmp" }, make);
  return freeSocket(dir, tag.replace(/[^A-Za-z0-9_.-]+/g, "-"));
}

/** All lines, with what they are for. */
function everything(recipe: Recipe, serves: boolean): string {
  const parts = TARGETS.map((target) => {
    return `${TITLES[target]}:\n${linesFor(target, recipe).map((line) => `  ${line}`).join("\n")}`;
  });
  const head = `${recipe.dir} is shared as ${recipe.tag}, on ${recipe.socket}`;
  const foot = serves ? "Serving until Ctrl-C; what happens is said below." : "Nothing is served: that was --print.";
  return `${[head, whoServes(), ...parts, foot].join("\n\n").replace("\n\n", "\n")}\n`;
}

/** What the user that serves can and cannot do. */
function whoServes(): string {
  if (Deno.uid() === 0) {
    return "Served by root: the guest's users own what they make, and the guest's root may do anything in it.";
  }
  return `Served by user ${Deno.uid()}: all that the guest makes is that user's; it cannot change owners, make devices, or open what ` +
    "that user cannot.";
}

/** The path by which others start this program; the package's where it was not started as one. */
function program(): string {
  const path = (globalThis as { RINGFSD_EXEC_PATH?: string }).RINGFSD_EXEC_PATH ?? Deno.execPath();
  return path.startsWith("/") && !path.endsWith("/deno") ? path : "/usr/bin/ringfsd";
}
