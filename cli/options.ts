/**
 * The command line, read and checked. The only module that knows the library that reads it, so that another can take its place;
 * flags.ts has the options, arguments.ts what is done before.
 */
import { buildApplication, buildCommand, run } from "@stricli/core";
import type { FsOptions } from "../fs/config.ts";
import { createIds } from "../fs/idmap.ts";
import { arrange, type Shape } from "./arguments.ts";
import { type Flags, flags, LOG_LEVELS, type LogLevel, QUEUES_MAX } from "./flags.ts";
import { version } from "./version.ts";

export { LOG_LEVELS, type LogLevel };

export interface Options {
  sharedDir: string;
  /** Where to listen, or the descriptor of a socket that listens already: one of the two. */
  socketPath?: string;
  fd?: number;
  /** Shown in the device's configuration space. */
  tag?: string;
  fs: FsOptions;
  numRequestQueues: number;
  /** Helper threads at most; 0: the usual number. */
  threadPoolSize: number;
  pollMaxUs: number;
  /** Open files to ask for; 0: as it is. */
  rlimitNofile?: number;
  exitOnDisconnect: boolean;
  logLevel: LogLevel;
}

/** What the command line asks for: to serve, or an exit status, after what there was to say was said. */
export type Parsed = { options: Options } | { exit: number };

const EXIT_USAGE = 2;

function shapeOf(name: string): Shape | undefined {
  const flag = Object.hasOwn(flags, name) ? flags[name as keyof typeof flags] : undefined;
  // --posix-acl alone is --posix-acl=on: what follows is another word.
  const value = flag?.kind !== "boolean" && name !== "posix-acl";
  return flag && { value, repeated: "variadic" in flag, negated: "negated" in flag };
}

/** Reads the command line. Help, version and complaints go to `say` and `complain`. */
export async function parseOptions(
  args: readonly string[],
  say: (text: string) => void,
  complain: (text: string) => void,
): Promise<Parsed> {
  const refuse = (complaint: string) => {
    complain(`ringfsd: ${complaint} (see ringfsd --help)\n`);
    return { exit: EXIT_USAGE };
  };
  let words: string[];
  try {
    words = arrange(args, shapeOf);
  } catch (error) {
    return refuse((error as Error).message);
  }
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
        "  ringfsd --socket-path /run/vm1-fs.sock --shared-dir /srv/vm1\n\n" +
        "virtiofsd's old forms (-o source=DIR,cache=…, -d, -f, -V) are understood too.",
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
  await run(application, words, context);
  if (complaint !== "") return refuse(firstLine(complaint));
  return parsed ?? { exit: context.process.exitCode === 0 ? 0 : EXIT_USAGE };
}

/** The complaint without the library's way of wrapping it, and without a stack. */
function firstLine(text: string): string {
  const plain = text.replace(/^Command failed, (Error: )?/, "").replace(
    /^Failed to parse "[^]*?" for \S+: (Error: )?/,
    "",
  );
  return plain.split("\n", 1)[0];
}

function decide(given: Flags, say: (text: string) => void): Parsed | { complaint: string } {
  if (given.version) {
    say(`ringfsd ${version()}\n`);
    return { exit: 0 };
  }
  if (given["print-capabilities"]) {
    say(JSON.stringify({ type: "fs", features: ["separate-options"] }, null, 2) + "\n");
    return { exit: 0 };
  }
  const sharedDir = given["shared-dir"];
  const socketPath = given["socket-path"];
  if (sharedDir === undefined) return { complaint: "which directory? Give --shared-dir DIR" };
  if (socketPath === undefined && given.fd === undefined) return { complaint: "listen where? Give --socket-path PATH" };
  if (socketPath !== undefined && given.fd !== undefined) {
    return { complaint: "--socket-path and --fd exclude each other" };
  }
  const fs = fileSystem(given);
  const complaint = contradiction(fs);
  if (complaint) return { complaint };
  const options: Options = {
    sharedDir,
    fs,
    numRequestQueues: given["num-request-queues"] ?? Math.min(QUEUES_MAX, navigator.hardwareConcurrency),
    threadPoolSize: given["thread-pool-size"],
    pollMaxUs: given["poll-max-us"],
    exitOnDisconnect: given["exit-on-disconnect"],
    logLevel: given["log-level"] === "trace" ? "debug" : given["log-level"],
  };
  if (socketPath !== undefined) options.socketPath = socketPath;
  if (given.fd !== undefined) options.fd = given.fd;
  if (given.tag !== undefined) options.tag = given.tag;
  if (given["rlimit-nofile"] !== undefined) options.rlimitNofile = given["rlimit-nofile"];
  return { options };
}

function fileSystem(given: Flags): FsOptions {
  const xattrMap = given.xattrmap ?? "";
  const posixAcl = given["posix-acl"] === undefined ? false : given["posix-acl"] === "auto" ? "auto" : true;
  const securityLabel = given["security-label"];
  return {
    cache: given.cache === "none" ? "never" : given.cache,
    xattr: given.xattr || xattrMap !== "" || posixAcl !== false || securityLabel,
    xattrMap,
    posixAcl,
    securityLabel,
    readonly: given.readonly,
    killprivV2: given["killpriv-v2"],
    writeback: given.writeback,
    allowDirectIo: given["allow-direct-io"],
    allowMmap: given["allow-mmap"],
    readdirplus: given.readdirplus,
    preserveNoatime: given["preserve-noatime"],
    announceSubmounts: given["announce-submounts"],
    inodeFileHandles: given["inode-file-handles"] === "fallback" ? "prefer" : given["inode-file-handles"],
    posixLock: given["posix-lock"],
    flock: given.flock,
    translateUid: given["translate-uid"] ?? [],
    translateGid: given["translate-gid"] ?? [],
  };
}

/** What cannot be together, or "". */
function contradiction(fs: FsOptions): string {
  const { translateUid, translateGid } = fs;
  try {
    if (createIds(translateUid, translateGid) !== null && fs.posixAcl !== false) {
      return "--posix-acl and --translate-uid or --translate-gid exclude each other: ACLs hold ids that nobody translates";
    }
  } catch (error) {
    return `--translate-uid or --translate-gid ${(error as Error).message}`;
  }
  return "";
}
