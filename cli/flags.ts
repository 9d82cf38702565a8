/** The options: virtiofsd's names and meanings where it has the option too. In the form that the library in options.ts reads. */
import type { CachePolicy } from "../fs/config.ts";
import { IdMap } from "../fs/idmap.ts";
import { XattrMap } from "../fs/xattrmap.ts";
import { CAPABILITIES } from "../ffi/capabilities.ts";
import { IOPS_MAX, MBPS_MAX } from "../vq/limiter.ts";
import { cpuList, cpuLists } from "./cpus.ts";
import { type HttpPlace, httpPlace } from "./http.ts";
import { LOG_FORMATS, type LogFormat } from "./log_format.ts";
import { type IdRange, readRange } from "./user_namespace.ts";

export const LOG_LEVELS = ["error", "warn", "info", "debug", "off"] as const;
export type LogLevel = typeof LOG_LEVELS[number];

/** struct virtio_fs_config: tag[36] */
const TAG_BYTES = 36;
export const QUEUES_MAX = 64;

/** Options of the process. All others are a share's, and where there are several, defaults for all of them. */
export const PROCESS_OPTIONS: ReadonlySet<string> = new Set<keyof Flags>([
  "share",
  "config",
  "cpu-affinity",
  "queue-affinity",
  "thread-pool-size",
  "poll-max-us",
  "keep-awake",
  "rlimit-nofile",
  "sandbox",
  "seccomp",
  "modcaps",
  "uid-map",
  "gid-map",
  "log-level",
  "syslog",
  "log-file",
  "control-socket",
  "control-group",
  "log-format",
  "metrics-socket",
  "metrics-address",
  "print-capabilities",
  "version",
]);

/** What was given. */
export interface Flags {
  "shared-dir"?: string;
  "socket-path"?: string;
  "socket-group"?: string;
  fd?: number;
  tag?: string;
  share?: string[];
  config?: string;
  cache: CachePolicy | "none";
  readdirplus: boolean;
  writeback: boolean;
  "allow-direct-io": boolean;
  "allow-mmap": boolean;
  readonly: boolean;
  xattr: boolean;
  xattrmap?: string;
  "posix-acl"?: "on" | "auto" | "always" | "never";
  "security-label": boolean;
  "killpriv-v2": boolean;
  "posix-lock": boolean;
  flock: boolean;
  "preserve-noatime": boolean;
  "announce-submounts": boolean;
  "inode-file-handles"?: "never" | "fallback" | "prefer" | "mandatory";
  "translate-uid"?: string[];
  "translate-gid"?: string[];
  "num-request-queues"?: number;
  "cpu-affinity"?: number[];
  "queue-affinity"?: number[][];
  "thread-pool-size": number;
  "poll-max-us": number;
  "keep-awake": "auto" | "never";
  "rlimit-nofile"?: number;
  "limit-iops"?: number;
  "limit-mbps"?: number;
  "exit-on-disconnect": boolean;
  sandbox?: "namespace" | "chroot" | "none";
  seccomp?: "kill" | "log" | "trap" | "none";
  modcaps?: string[];
  "uid-map"?: IdRange;
  "gid-map"?: IdRange;
  "migration-mode"?: "find-paths" | "file-handles";
  "migration-on-error"?: "abort" | "guest-error";
  "migration-verify-handles": boolean;
  "migration-confirm-paths": boolean;
  "log-level": LogLevel | "trace";
  syslog: boolean;
  "log-file"?: string;
  "control-socket"?: string;
  "control-group"?: string;
  "log-format": LogFormat;
  "metrics-socket"?: HttpPlace;
  "metrics-address"?: HttpPlace;
  "print-capabilities": boolean;
  version: boolean;
}

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
  if (bytes === 0 || bytes > TAG_BYTES) {
    throw new Error(`--tag takes a name of 1 to ${TAG_BYTES} bytes, and this has ${bytes}: give another`);
  }
  return input;
}

/** Reads +NAME:-NAME:…, names of capabilities without CAP_. */
function capabilityChanges(input: string): string[] {
  const changes = input.toLowerCase().split(":").filter((one) => one !== "");
  for (const change of changes) {
    if (!/^[+-]\w+$/.test(change)) throw new Error(`--modcaps takes +NAME:-NAME:…, not ${JSON.stringify(change)}`);
    const name = change.slice(1);
    if (!CAPABILITIES.includes(name)) throw new Error(`--modcaps: there is no capability ${name}`);
  }
  return changes;
}

function idRange(name: string): (input: string) => IdRange {
  return (input) => {
    try {
      return readRange(input);
    } catch (error) {
      throw new Error(`--${name} ${(error as Error).message}`);
    }
  };
}

/** Rules that are checked here and read again by each loop. */
function xattrmap(input: string): string {
  // Line ends may stand between rules, but not in a complaint.
  const text = input.replace(/\s+/g, " ");
  if (text.trim() === "") throw new Error("--xattrmap: the xattr map has no rule");
  new XattrMap(text);
  return text;
}

function idRule(name: string): (input: string) => string {
  return (input) => {
    try {
      new IdMap([input]);
    } catch (error) {
      throw new Error(`--${name} ${(error as Error).message}`);
    }
    return input;
  };
}

const toggle = (brief: string) => ({ kind: "boolean", default: false, withNegated: false, brief }) as const;
// A switch that can be taken back. The library would show --no-X as --noX: arguments.ts reads it.
const pair = (name: string, brief: string, usual: boolean) =>
  ({ ...toggle(`${brief}; --no-${name}: not`), default: usual, negated: true }) as const;
const text = <T>(placeholder: string, parse: (input: string) => T, brief: string) =>
  ({ kind: "parsed", parse, optional: true, brief, placeholder }) as const;

export const flags = {
  "shared-dir": text("DIR", String, "Directory to share"),
  "socket-path": text("PATH", String, "vhost-user socket to listen on"),
  "socket-group": text("GROUP", String, "Its members may use the socket too, which else is its owner's alone"),
  fd: text("N", whole("fd", 0, 65535), "Descriptor of a socket that listens already, instead of --socket-path"),
  tag: text("TAG", tag, "Mount tag in the configuration space; User-Mode Linux needs it, QEMU has its own"),
  share: {
    kind: "parsed",
    parse: String,
    optional: true,
    variadic: true,
    brief:
      "Instead: tag=TAG,dir=DIR,socket=PATH and options of its own, any number of times; in a value, a comma is ,,",
    placeholder: "KEY=VALUE,…",
  },
  config: text("FILE", String, 'Shares and options as JSON: {"shares": [{"tag": …, "dir": …, "socket": …}], …}'),
  cache: {
    kind: "enum",
    values: ["never", "none", "auto", "metadata", "always"],
    default: "auto",
    brief: "How long the guest may trust what it was told: not at all, a second, a day",
  },
  readdirplus: pair("readdirplus", "Directories are read with the attributes of what is in them", true),
  writeback: toggle("The guest writes later; for directories that nobody else changes"),
  "allow-direct-io": toggle("O_DIRECT of the guest passes the host's page cache too"),
  "allow-mmap": toggle("Files can be mapped shared with --cache never and metadata"),
  readonly: toggle("The guest can change nothing"),
  xattr: toggle("Extended attributes"),
  xattrmap: text("RULES", xattrmap, "Their names on the host, such as :map::user.virtiofs.: (implies --xattr)"),
  "posix-acl": {
    kind: "enum",
    // "always" and "never" are virtiofsd's.
    values: ["on", "auto", "always", "never"],
    optional: true,
    brief: "Access and default ACLs (implies --xattr); =auto: where the guest can have them",
  },
  "security-label": toggle("Files are labelled as they are made (implies --xattr)"),
  "killpriv-v2": pair("killpriv-v2", "Set-user-ID and set-group-ID bits are cleared here, not by the guest", false),
  "posix-lock": toggle("fcntl locks of the guest are taken on the host"),
  flock: toggle("flock locks of the guest are taken on the host"),
  "preserve-noatime": toggle("O_NOATIME of the guest is passed on"),
  "announce-submounts": pair("announce-submounts", "The guest learns what is a mount point", true),
  "inode-file-handles": {
    kind: "enum",
    values: ["never", "fallback", "prefer", "mandatory"],
    optional: true,
    brief: "Files are known by file handle: none, where descriptors are scarce, or all; fallback is prefer",
  },
  "translate-uid": {
    kind: "parsed",
    parse: idRule("translate-uid"),
    optional: true,
    variadic: true,
    brief: "guest|host|squash-guest|squash-host|map:FROM:TO:COUNT or forbid-guest:FROM:COUNT, any number of times",
    placeholder: "RULE",
  },
  "translate-gid": {
    kind: "parsed",
    parse: idRule("translate-gid"),
    optional: true,
    variadic: true,
    brief: "The same for groups",
    placeholder: "RULE",
  },
  "num-request-queues": text(
    "N",
    whole("num-request-queues", 1, QUEUES_MAX),
    "Request queues offered, each served by a loop of its own [default: one for each CPU]",
  ),
  "limit-iops": text(
    "N",
    whole("limit-iops", 0, IOPS_MAX),
    "Requests in a second at most, all queues together; 0: any number",
  ),
  "limit-mbps": text(
    "N",
    whole("limit-mbps", 0, MBPS_MAX),
    "Megabytes (10^6) in a second that requests and answers move at most; 0: any number",
  ),
  "cpu-affinity": text(
    "CPUS",
    (input: string) => cpuList("--cpu-affinity", input),
    "CPUs that all threads run on, the kernel's for io_uring with them: 0-3,8",
  ),
  "queue-affinity": text(
    "CPUS:…",
    (input: string) => cpuLists("--queue-affinity", input),
    "CPUs of each loop, and so of each request queue: 0:1:2-3; from the first again where there are more loops",
  ),
  "thread-pool-size": {
    kind: "parsed",
    parse: whole("thread-pool-size", 0, 1024),
    default: "0",
    brief: "Threads for what may wait, such as a lock, at most; 0: as many as usual",
    placeholder: "N",
  },
  "poll-max-us": {
    kind: "parsed",
    parse: whole("poll-max-us", 0, 1_000_000),
    default: "100",
    brief: "Look at the queues for up to N microseconds before sleeping, where that pays; 0: never",
    placeholder: "N",
  },
  "keep-awake": {
    kind: "enum",
    values: ["auto", "never"],
    default: "auto",
    brief:
      "Keep idle CPUs from halting for moments, where requests come so much faster that it pays (root, 2 to 4 CPUs)",
  },
  "rlimit-nofile": text(
    "N",
    whole("rlimit-nofile", 0, 2 ** 31),
    "Open files at most; 0: as it is [default: a million]",
  ),
  "exit-on-disconnect": pair(
    "exit-on-disconnect",
    "End when the front end goes, rather than wait for the next; the default where ringfsd is called virtiofsd",
    false,
  ),
  sandbox: {
    kind: "enum",
    values: ["namespace", "chroot", "none"],
    optional: true,
    brief: "How to confine the daemon [default: namespace, or what can be had]",
  },
  seccomp: {
    kind: "enum",
    values: ["kill", "log", "trap", "none"],
    optional: true,
    brief: "At a system call that the daemon has no use for: end, tell the audit log, SIGSYS [default: kill]",
  },
  modcaps: text("+NAME:-NAME", capabilityChanges, "Capabilities to keep or give up beyond the usual: +sys_admin"),
  "uid-map": text(
    "RANGE",
    idRange("uid-map"),
    "As an ordinary user: :NAMESPACE_ID:HOST_ID:COUNT:, users in the sandbox",
  ),
  "gid-map": text("RANGE", idRange("gid-map"), "The same for groups"),
  "log-level": {
    kind: "enum",
    values: [...LOG_LEVELS, "trace"],
    default: "info",
    brief: "What to say on standard error; trace is debug",
  },
  syslog: toggle("Say it to the system's logger instead"),
  "log-file": text("PATH", String, "Say it in a file instead, which SIGHUP opens anew"),
  "log-format": {
    kind: "enum",
    values: LOG_FORMATS,
    default: "text",
    brief: "json: each line is an object with time, level, message, and share, queue and loop where they are known",
  },
  "metrics-socket": text(
    "PATH",
    (input: string) => httpPlace("--metrics-socket", input.startsWith("unix:") ? input : `unix:${input}`),
    "Show what is going on on a UNIX socket, by HTTP: /metrics for Prometheus, /metrics.json for ringfsd top",
  ),
  "metrics-address": text(
    "ADDRESS",
    (input: string) => httpPlace("--metrics-address", input),
    "The same at 127.0.0.1:PORT, which every user of this host can reach, or unix:PATH",
  ),
  "control-socket": text("PATH", String, "Socket for ringfsd ctl, which lists, adds, removes and limits shares"),
  "control-group": text(
    "GROUP",
    String,
    "Its members may use that socket too, which is as good as being ringfsd's user",
  ),
  "migration-mode": {
    kind: "enum",
    values: ["find-paths", "file-handles"],
    optional: true,
    brief: "How files would be named to another host; there is no migration yet, a hypervisor refuses it",
  },
  "migration-on-error": {
    kind: "enum",
    values: ["abort", "guest-error"],
    optional: true,
    brief: "What would become of files that cannot be migrated; as above",
  },
  "migration-verify-handles": toggle("As above"),
  "migration-confirm-paths": toggle("As above"),
  "print-capabilities": toggle("Print what a hypervisor's manager asks for, as JSON"),
  version: toggle("Print the version"),
} as const;
