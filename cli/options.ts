/**
 * The command line: virtiofsd's names and meanings where it has the option too. The only module that knows the library that
 * reads it, so that another can take its place.
 */
import { buildApplication, buildCommand, run } from "@stricli/core";
import { type CachePolicy, defaultOptions, type FsOptions } from "../fs/config.ts";
import { version } from "./version.ts";

export const LOG_LEVELS = ["error", "warn", "info", "debug", "off"] as const;
export type LogLevel = typeof LOG_LEVELS[number];

export interface Options {
  sharedDir: string;
  /** Where to listen, or the descriptor of a socket that listens already: one of the two. */
  socketPath?: string;
  fd?: number;
  /** Shown in the device's configuration space. */
  tag?: string;
  fs: FsOptions;
  numRequestQueues: number;
  pollMaxUs: number;
  exitOnDisconnect: boolean;
  logLevel: LogLevel;
}

/** What the command line asks for: to serve, or an exit status, after what there was to say was said. */
export type Parsed = { options: Options } | { exit: number };

const EXIT_USAGE = 2;
/** struct virtio_fs_config: tag[36] */
const TAG_BYTES = 36;
const QUEUES_MAX = 64;

/** Reads a whole number within bounds. */
function whole(name: string, min: number, max: number): (input: string) => number {
  return (input) => {
    const value = Number(input);
    if (!/^\d+$/.test(input) || value < min || value > max) {
      throw new Error(`--${name} takes a whole number from ${min} to ${max}`);
    }
    return value;
  };
}

function tag(input: string): string {
  const bytes = new TextEncoder().encode(input).length;
  if (bytes === 0 || bytes > TAG_BYTES) throw new Error(`--tag takes a name of 1 to ${TAG_BYTES} bytes`);
  return input;
}

function sandbox(input: string): string {
  if (input === "none") return input;
  throw new Error(`--sandbox ${input} is not there yet: confine ringfsd from outside and give --sandbox none`);
}

interface Flags {
  "shared-dir"?: string;
  "socket-path"?: string;
  fd?: number;
  tag?: string;
  cache: CachePolicy | "none";
  "num-request-queues"?: number;
  "poll-max-us": number;
  "exit-on-disconnect": boolean;
  sandbox?: string;
  "log-level": LogLevel;
  "print-capabilities": boolean;
  version: boolean;
}

const flags = {
  "shared-dir": { kind: "parsed", parse: String, optional: true, brief: "Directory to share", placeholder: "DIR" },
  "socket-path": {
    kind: "parsed",
    parse: String,
    optional: true,
    brief: "vhost-user socket to listen on",
    placeholder: "PATH",
  },
  fd: {
    kind: "parsed",
    parse: whole("fd", 0, 65535),
    optional: true,
    brief: "Descriptor of a socket that listens already, instead of --socket-path",
    placeholder: "N",
  },
  tag: {
    kind: "parsed",
    parse: tag,
    optional: true,
    brief: "Mount tag in the configuration space; User-Mode Linux needs it, QEMU has its own",
    placeholder: "TAG",
  },
  cache: {
    kind: "enum",
    values: ["never", "none", "auto", "metadata", "always"],
    default: "auto",
    brief: "How long the guest may trust what it was told: not at all, a second, a day",
  },
  "num-request-queues": {
    kind: "parsed",
    parse: whole("num-request-queues", 1, QUEUES_MAX),
    optional: true,
    brief: "Request queues offered, each served by a loop of its own [default: one for each CPU]",
    placeholder: "N",
  },
  "poll-max-us": {
    kind: "parsed",
    parse: whole("poll-max-us", 0, 1_000_000),
    default: "32",
    brief: "Look at the queues for up to N microseconds before sleeping, where that pays; 0: never",
    placeholder: "N",
  },
  "exit-on-disconnect": {
    kind: "boolean",
    default: false,
    withNegated: false,
    brief: "End when the front end goes, rather than wait for the next",
  },
  sandbox: {
    kind: "parsed",
    parse: sandbox,
    optional: true,
    brief: "Only none, so far",
    placeholder: "none",
  },
  "log-level": { kind: "enum", values: LOG_LEVELS, default: "info", brief: "What to say on standard error" },
  "print-capabilities": {
    kind: "boolean",
    default: false,
    withNegated: false,
    brief: "Print what a hypervisor's manager asks for, as JSON",
  },
  version: { kind: "boolean", default: false, withNegated: false, brief: "Print the version" },
} as const;

/** Reads the command line. Help, version and complaints go to `say` and `complain`. */
export async function parseOptions(
  args: readonly string[],
  say: (text: string) => void,
  complain: (text: string) => void,
): Promise<Parsed> {
  let parsed: Parsed | undefined;
  const command = buildCommand({
    func(given: Flags): Error | void {
      const decision = decide(given, say);
      if ("complaint" in decision) return new Error(decision.complaint);
      parsed = decision;
    },
    // deno-lint-ignore no-explicit-any
    parameters: { flags: flags as any },
    docs: {
      brief: "Shares a directory with virtual machines over virtio-fs",
      fullDescription: "Shares a directory with virtual machines over virtio-fs: a vhost-user-fs back end.\n\n" +
        "  ringfsd --socket-path /run/vm1-fs.sock --shared-dir /srv/vm1",
    },
  });
  let complaint = "";
  const context = {
    process: {
      stdout: { write: say },
      stderr: { write: (text: string) => void (complaint += text) },
      exitCode: 0 as number,
    },
  };
  const application = buildApplication(command, { name: "ringfsd", scanner: { caseStyle: "original" } });
  await run(application, args, context);
  if (complaint !== "") {
    complain(`ringfsd: ${firstLine(complaint)} (see ringfsd --help)\n`);
    return { exit: EXIT_USAGE };
  }
  return parsed ?? { exit: context.process.exitCode === 0 ? 0 : EXIT_USAGE };
}

/** The complaint without the library's way of wrapping it, and without a stack. */
function firstLine(text: string): string {
  return text.split("\n", 1)[0].replace(/^Command failed, (Error: )?/, "").replace(
    /^Failed to parse "[^"]*" for \S+: (Error: )?/,
    "",
  );
}

function decide(given: Flags, say: (text: string) => void): Parsed | { complaint: string } {
  if (given.version) {
    say(`ringfsd ${version()}\n`);
    return { exit: 0 };
  }
  if (given["print-capabilities"]) {
    say(JSON.stringify({ type: "fs" }, null, 2) + "\n");
    return { exit: 0 };
  }
  const sharedDir = given["shared-dir"];
  const socketPath = given["socket-path"];
  if (sharedDir === undefined) return { complaint: "which directory? Give --shared-dir DIR" };
  if (socketPath === undefined && given.fd === undefined) return { complaint: "listen where? Give --socket-path PATH" };
  if (socketPath !== undefined && given.fd !== undefined) {
    return { complaint: "--socket-path and --fd exclude each other" };
  }
  const options: Options = {
    sharedDir,
    fs: { ...defaultOptions, cache: given.cache === "none" ? "never" : given.cache },
    numRequestQueues: given["num-request-queues"] ?? Math.min(QUEUES_MAX, navigator.hardwareConcurrency),
    pollMaxUs: given["poll-max-us"],
    exitOnDisconnect: given["exit-on-disconnect"],
    logLevel: given["log-level"],
  };
  if (socketPath !== undefined) options.socketPath = socketPath;
  if (given.fd !== undefined) options.fd = given.fd;
  if (given.tag !== undefined) options.tag = given.tag;
  return { options };
}
