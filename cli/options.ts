/** The command line of the daemon, read and checked: flags.ts has the options, arguments.ts what is done before. */
import type { FsOptions } from "../fs/config.ts";
import { createIds } from "../fs/idmap.ts";
import { allowedCpus } from "../ffi/affinity.ts";
import { groupId } from "../ffi/group.ts";
import type { Limit } from "../vq/limiter.ts";
import { arrange, type Shape } from "./arguments.ts";
import type { Carried } from "./carried.ts";
import { impossible } from "./cpus.ts";
import { type Flags, flags, LOG_LEVELS, type LogLevel, QUEUES_MAX } from "./flags.ts";
import { suggestion } from "./nearest.ts";
import { COMMON, GROUPS } from "./option_table.ts";
import { readWords, type Usage } from "./parser.ts";
import { capabilitiesOf, type Sandbox, type SeccompAction } from "./sandbox.ts";
import type { Named } from "./help.ts";
import type { HttpPlace } from "./http.ts";
import type { LogFormat } from "./log_format.ts";
import { type ConfigFile, type GivenShare, readConfig, readShare, readShareObject } from "./shares.ts";
import type { PassedSocket } from "./systemd.ts";
import type { IdRange } from "./user_namespace.ts";
import { version } from "./version.ts";

export { LOG_LEVELS, type LogLevel };

/** One directory on one socket. */
export interface ShareOptions {
  sharedDir: string;
  /** Where to listen, or the descriptor of a socket that listens already: one of the two. */
  socketPath?: string;
  fd?: number;
  /** The group whose members may use the socket, by its id; its owner's alone where it is left out. */
  socketGroup?: number;
  /** Where the directory is, and which descriptor listens, in the sandbox (cli/sandbox.ts). */
  reach?: { dir: string; fd?: number };
  /** Shown in the device's configuration space. */
  tag?: string;
  fs: FsOptions;
  numRequestQueues: number;
  /** It ends when its front end goes. */
  exitOnDisconnect: boolean;
  /** What its guest may do in a second. */
  limit?: Limit;
}

/** What it takes to read more of the same later: plain data. */
export interface Later {
  /** The command line, and how the process was started. */
  args: string[];
  start: Start;
  /** What a share has that says nothing of it. */
  defaults: Flags;
  queues: number;
}

export interface Options {
  /** One or more; none, where there is a control socket. */
  shares: ShareOptions[];
  /** Threads that serve queues. */
  loops: number;
  /** CPUs of all threads, and of each loop; as they are where left out. */
  cpuAffinity?: number[];
  queueAffinity?: number[][];
  /** Helper threads at most; 0: the usual number. */
  threadPoolSize: number;
  pollMaxUs: number;
  /** Idle processors halt as ever. */
  letHalt?: true;
  /** Open files to ask for; 0: as it is. */
  rlimitNofile?: number;
  logLevel: LogLevel;
  /** To the system's logger rather than standard error. */
  syslog?: boolean;
  logFile?: string;
  /** Where `ringfsd ctl` is answered, and the group that may use it, by its id. */
  controlSocket?: string;
  controlGroup?: number;
  /** Where there is a control socket or a configuration file. */
  later?: Later;
  logFormat?: LogFormat;
  /** Where metrics are shown, and whose group may see them on a socket besides its owner. */
  metrics?: HttpPlace[];
  /** What to say of the options once there is a log. */
  notes?: string[];
  /** Left out: namespaces where they can be had, and else what can. */
  sandbox?: Sandbox;
  /** Left out: "kill", where the kernel has it. */
  seccomp?: SeccompAction | "none";
  /** Names of the capabilities to keep. */
  capabilities?: string[];
  uidMap?: IdRange;
  gidMap?: IdRange;
  /** What was opened before the process executed itself. */
  carried?: Carried;
}

/** How the process was started, besides its command line. */
export interface Start {
  /** The name by which it was called: as "virtiofsd" it is like that where the two differ. */
  program?: string;
  /** Sockets that it was given. */
  sockets?: readonly PassedSocket[];
  /** What it can do besides serving, for the help. */
  commands?: Iterable<Named>;
  /** RUST_LOG, the log level of a program that was called virtiofsd. */
  rustLog?: string;
}

/** What the command line asks for: to serve, or an exit status, after what there was to say was said. */
export type Parsed = { options: Options } | { exit: number };

const EXIT_USAGE = 2;

/** What --print-capabilities says that there is, in virtiofsd's words: Incus asks for the first, libvirt for the second. */
const FEATURES = ["posix-acl-negotiation-mode", "separate-options"];
const MIGRATION = [
  "migration-mode",
  "migration-on-error",
  "migration-verify-handles",
  "migration-confirm-paths",
] as const;

/** How the daemon itself is called. */
export const USAGE: Usage = {
  name: "ringfsd",
  brief: "Shares a directory with virtual machines over virtio-fs",
  text: "Shares a directory with virtual machines over virtio-fs: a vhost-user-fs back end.\n\n" +
    "A share takes any option about its files and its device, without the dashes (cache=never, no-readdirplus, " +
    "translate-uid=…). Options beside the shares are the defaults of all. A comma in a value is written twice. " +
    "A file for --config has the same names, comments are allowed; the command line has the last word.\n\n" +
    "virtiofsd's old forms (-o source=DIR,cache=…, -d, -f, -V) are understood too.",
  flags,
  forms: ["ringfsd COMMAND …"],
  examples: [
    ["ringfsd share /srv/vm1", "Picks tag and socket, prints what the hypervisor and the guest need, and serves."],
    ["ringfsd --socket-path /run/vm1-fs.sock --shared-dir /srv/vm1", "Serves one directory to one virtual machine."],
    [
      "ringfsd --share tag=a,dir=/srv/a,socket=/run/a.sock --share tag=b,dir=/srv/b,socket=/run/b.sock,readonly",
      "Serves two, each with options of its own.",
    ],
    ["ringfsd doctor /srv/vm1", "Looks whether this machine has what ringfsd needs."],
  ],
  groups: GROUPS,
  common: COMMON,
};

/** The shape of each option of a table. */
export function shapes(table: Record<string, { kind: string }>): (name: string) => Shape | undefined {
  return (name) => shapeIn(table, name);
}

function shapeIn(table: Record<string, { kind: string }>, name: string): Shape | undefined {
  const flag = Object.hasOwn(table, name) ? table[name] : undefined;
  // --posix-acl alone is --posix-acl=on: what follows is another word.
  const value = flag?.kind !== "boolean" && name !== "posix-acl";
  return flag && { value, repeated: "variadic" in flag, negated: "negated" in flag };
}

/** Reads the command line. Help, version and complaints go to `say` and `complain`. */
export async function parseOptions(
  args: readonly string[],
  say: (text: string) => void,
  complain: (text: string) => void,
  start: Start = {},
): Promise<Parsed> {
  const refuse = (complaint: string) => {
    complain(`ringfsd: ${complaint} (see ringfsd --help)\n`);
    return { exit: EXIT_USAGE };
  };
  if (args[0] === "help") args = ["--help"];
  const strange = strangeWord(args, start.commands ?? []);
  if (strange !== "") return refuse(strange);
  let words: string[];
  try {
    words = arrange(args, shapes(flags));
  } catch (error) {
    return refuse((error as Error).message);
  }
  const read = await readWords<Flags>(USAGE, words, say, start.commands);
  if ("complaint" in read) return refuse(read.complaint);
  if ("exit" in read) return { exit: read.exit === 0 ? 0 : EXIT_USAGE };
  try {
    return decide(read.given, namesIn(words), say, start, args);
  } catch (error) {
    return refuse((error as Error).message);
  }
}

/** What is wrong with a first word that is no option, or "". */
function strangeWord([first = "-"]: readonly string[], commands: Iterable<Named>): string {
  if (first.startsWith("-")) return "";
  const names = [...commands].map(({ name }) => name.split(" ").at(-1)!);
  if (isDirectory(first)) return `${first} is no option: to share that directory, ringfsd share ${first}`;
  return `there is no command ${JSON.stringify(first)}${suggestion(first, names)}`;
}

function isDirectory(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}

/** The options that are named on a command line that was put in order. */
function namesIn(words: readonly string[]): Set<string> {
  return new Set(words.flatMap((word) => /^--([^=]+)/.exec(word)?.[1] ?? []));
}

/** What options mean that were given all together. Throws an Error with a sentence where they cannot be. */
export function optionsFrom(given: Flags): Options {
  const parsed = decide(given, new Set(Object.keys(given)), () => {}, {}, []);
  if ("exit" in parsed) throw new Error("--version and --print-capabilities are for ringfsd alone");
  return parsed.options;
}

/** Throws an Error with a sentence where what was given cannot be. */
function decide(
  line: Flags,
  named: ReadonlySet<string>,
  say: (text: string) => void,
  start: Start,
  args: readonly string[],
): Parsed {
  if (line.version) {
    say(`ringfsd ${version()}\n`);
    return { exit: 0 };
  }
  if (line["print-capabilities"]) {
    say(JSON.stringify({ type: "fs", features: FEATURES }, null, 2) + "\n");
    return { exit: 0 };
  }
  if (start.program === "virtiofsd") likeVirtiofsd(line, named, start.rustLog);
  const file: ConfigFile = line.config === undefined
    ? { given: {}, without: new Set(), shares: [] }
    : readConfig(line.config);
  const given = overlay(line, file, named);
  const cpuAffinity = given["cpu-affinity"];
  const queueAffinity = given["queue-affinity"];
  const allowed = allowedCpus();
  const where = (name: keyof Flags) => named.has(name) ? `--${name}` : `${line.config}: ${name}`;
  const wrong = impossible(where("cpu-affinity"), cpuAffinity ?? [], allowed) ||
    impossible(where("queue-affinity"), queueAffinity?.flat() ?? [], allowed);
  if (wrong !== "") throw new Error(wrong);
  const cpus = (cpuAffinity ?? allowed).length;
  const queues = Math.min(QUEUES_MAX, queueAffinity?.length ?? cpus);
  const several = [...file.shares, ...(given.share ?? []).map((text, i) => readShare(text, i + 1))];
  const controlSocket = given["control-socket"];
  const empty = controlSocket !== undefined && several.length === 0 && given["shared-dir"] === undefined;
  const shares = empty ? [] : sharesOf(given, several, queues, start.sockets ?? []);
  const notes = MIGRATION.some((name) => given[name] || several.some((share) => share.given[name]))
    ? ["--migration-… is understood, but there is no migration yet: a hypervisor refuses to migrate"]
    : [];
  const metrics = metricsOf(given);
  const wanted = shares.map((share) => share.numRequestQueues);
  // One for each queue of a device, and where devices have few queues each, as many as there are CPUs.
  // Shares that are added share the loops that there are, so then as many as CPUs too: one that nobody uses is no thread.
  const most = controlSocket === undefined ? wanted.reduce((sum, one) => sum + one, 0) : Infinity;
  const loops = Math.max(...wanted, Math.min(cpus, most));
  if (queueAffinity !== undefined && queueAffinity.length > loops) {
    throw new Error(`${where("queue-affinity")} has CPUs for ${queueAffinity.length} loops, and there are ${loops}`);
  }
  return {
    options: {
      shares,
      loops,
      threadPoolSize: given["thread-pool-size"],
      pollMaxUs: given["poll-max-us"],
      ...(given["keep-awake"] === "never" ? { letHalt: true as const } : {}),
      logLevel: given["log-level"] === "trace" ? "debug" : given["log-level"],
      ...(given.syslog ? { syslog: true } : {}),
      ...(given["log-file"] === undefined ? {} : { logFile: given["log-file"] }),
      ...control(given),
      ...(controlSocket === undefined && line.config === undefined
        ? {}
        : { later: { args: [...args], start, defaults: given, queues } }),
      ...(given["log-format"] === "json" ? { logFormat: "json" as const } : {}),
      ...(metrics.length === 0 ? {} : { metrics }),
      ...(notes.length === 0 ? {} : { notes }),
      ...confinement(given, several),
      ...(cpuAffinity === undefined ? {} : { cpuAffinity }),
      ...(queueAffinity === undefined ? {} : { queueAffinity }),
      ...(given["rlimit-nofile"] === undefined ? {} : { rlimitNofile: given["rlimit-nofile"] }),
    },
  };
}

/** Where the process is told what to do. */
function control(given: Flags): Pick<Options, "controlSocket" | "controlGroup"> {
  const { "control-socket": controlSocket, "control-group": name, "log-file": logFile } = given;
  if (logFile !== undefined && given.syslog) throw new Error("--log-file and --syslog exclude each other");
  if (controlSocket === undefined) {
    if (name !== undefined) throw new Error("--control-group is for --control-socket");
    return {};
  }
  const controlGroup = name === undefined ? undefined : groupId(name);
  if (name !== undefined && controlGroup === undefined) {
    throw new Error(`--control-group: there is no group ${name}: make it (groupadd), or give another`);
  }
  return { controlSocket, ...(controlGroup === undefined ? {} : { controlGroup }) };
}

/** A share that is to be served beside others: what stands behind --share, or the same as an object. Throws as `decide` does. */
export function laterShare(
  said: string | Record<string, unknown>,
  { defaults, queues }: Later,
  present: readonly ShareOptions[],
): ShareOptions {
  const one = typeof said === "string" ? readShare(said, 1) : readShareObject(said);
  const below = { ...defaults };
  for (const name of ["shared-dir", "socket-path", "fd", "tag"] as const) delete below[name];
  const wish = overlay(below, one);
  if (wish.fd !== undefined) throw new Error(`${one.where}: fd is for shares that are there from the start`);
  const share = shareOf(wish, queues, one.where);
  for (const name of namesOf(share)) {
    if (present.some((other) => namesOf(other).includes(name))) {
      throw new Error(`there is a share with ${name} already`);
    }
  }
  return share;
}

/** Whether two shares differ in nothing but their limits, and what was opened for the one. */
export function sameButLimit(a: ShareOptions, b: ShareOptions): boolean {
  // They are made in one place, so their members have one order.
  const rest = (share: ShareOptions) => JSON.stringify({ ...share, limit: undefined, reach: undefined });
  return rest(a) === rest(b);
}

/** What a share is called. */
export function nameOf({ tag, socketPath, fd }: ShareOptions): string {
  return tag ?? socketPath ?? `on descriptor ${fd}`;
}

/** Where virtiofsd's ways differ, and its callers count on them: it ends with its one front end, and RUST_LOG is its log level. */
function likeVirtiofsd(line: Flags, named: ReadonlySet<string>, rustLog: string | undefined): void {
  if (!named.has("exit-on-disconnect")) line["exit-on-disconnect"] = true;
  const level = rustLog?.toLowerCase();
  const known = flags["log-level"].values.find((one) => one === level);
  if (known !== undefined) line["log-level"] = known;
}

/** How the process is confined. */
function confinement(given: Flags, several: readonly GivenShare[]): Partial<Options> {
  const { sandbox, seccomp, modcaps, "uid-map": uidMap, "gid-map": gidMap } = given;
  if (uidMap !== undefined || gidMap !== undefined) {
    const name = uidMap === undefined ? "--gid-map" : "--uid-map";
    if (Deno.uid() === 0) {
      throw new Error(`${name} is for ordinary users: as root give --translate-uid, --translate-gid`);
    }
    if (sandbox !== undefined && sandbox !== "namespace") throw new Error(`${name} takes --sandbox namespace`);
  }
  // Opening files by handle takes one more, which leads to all of a file system: it is kept where handles were asked for.
  const asked = [given, ...several.map((one) => one.given)].map((one) => one["inode-file-handles"] ?? "never");
  const handles = asked.some((one) => one !== "never");
  const changes = [...(handles ? ["+dac_read_search"] : []), ...(modcaps ?? [])];
  return {
    ...(sandbox === undefined ? uidMap || gidMap ? { sandbox: "namespace" } : {} : { sandbox }),
    ...(seccomp === undefined ? {} : { seccomp }),
    ...(changes.length === 0 || (sandbox === "none" && modcaps === undefined)
      ? {}
      : { capabilities: capabilitiesOf(changes) }),
    ...(uidMap === undefined ? {} : { uidMap }),
    ...(gidMap === undefined ? {} : { gidMap }),
  };
}

/** Puts options over others; those that are `named` below have the last word. */
function overlay(
  below: Flags,
  { given, without }: Pick<GivenShare, "given" | "without">,
  named: ReadonlySet<string> = new Set(),
): Flags {
  const result: Record<string, unknown> = { ...below };
  for (const name of without) {
    if (!named.has(name)) result[name] = flags[name].kind === "boolean" ? false : undefined;
  }
  for (const [name, value] of Object.entries(given)) if (!named.has(name)) result[name] = value;
  return result as unknown as Flags;
}

/** The shares that are named, or the one of the options themselves. */
function sharesOf(
  given: Flags,
  several: readonly GivenShare[],
  queues: number,
  sockets: readonly PassedSocket[],
): ShareOptions[] {
  const wishes = several.length === 0 ? [given] : several.map((one) => overlay(given, one));
  const passed = assignSockets(wishes, sockets);
  if (several.length === 0) return [shareOf({ ...given, fd: given.fd ?? passed.get(given) }, queues)];
  const outside = (["shared-dir", "socket-path", "fd", "tag"] as const).find((name) => given[name] !== undefined);
  if (outside !== undefined) throw new Error(`--${outside} and --share exclude each other: each share has its own`);
  const taken = new Map<string, string>();
  return several.map((one, i) => {
    const { where, whichOne } = one;
    const share = shareOf({ ...wishes[i], fd: wishes[i].fd ?? passed.get(wishes[i]) }, queues, where);
    for (const name of namesOf(share)) {
      const other = taken.get(name);
      if (other !== undefined) throw new Error(`${whichOne}: ${name} is that of ${other} too: give it another`);
      taken.set(name, whichOne);
    }
    return share;
  });
}

/**
 * Which share gets which of the sockets that the process was given: one that names none itself, and has the socket's name as its tag;
 * a single socket goes to a single share whatever they are called. Throws an Error where one is left over.
 */
function assignSockets(shares: readonly Flags[], sockets: readonly PassedSocket[]): Map<Flags, number> {
  const result = new Map<Flags, number>();
  const without = shares.filter((share) => share["socket-path"] === undefined && share.fd === undefined);
  const left = sockets.filter(({ fd }) => !shares.some((share) => share.fd === fd));
  if (without.length === 1 && left.length === 1) return result.set(without[0], left[0].fd);
  for (const { fd, name } of left) {
    const share = without.find((one) => one.tag === name && !result.has(one));
    if (share === undefined) {
      throw new Error(`which share is socket ${JSON.stringify(name)} for? Give one, without a socket, tag ${name}`);
    }
    result.set(share, fd);
  }
  return result;
}

/** Where metrics are shown. A socket is the group's too that shares' sockets are. */
function metricsOf(given: Flags): HttpPlace[] {
  const name = given["socket-group"];
  const group = name === undefined ? undefined : groupId(name);
  return [given["metrics-socket"], given["metrics-address"]].flatMap((place) => {
    if (place === undefined) return [];
    return "path" in place && group !== undefined ? [{ ...place, group }] : [place];
  });
}

/** What no two shares may have. */
function namesOf({ tag, socketPath, fd }: ShareOptions): string[] {
  return [
    ...(tag === undefined ? [] : [`tag ${tag}`]),
    ...(socketPath === undefined ? [] : [`socket ${socketPath}`]),
    ...(fd === undefined ? [] : [`descriptor ${fd}`]),
  ];
}

/** One share. `where` is for complaints, where it is one of several. */
function shareOf(given: Flags, queues: number, where?: string): ShareOptions {
  const complain = (why: string) => new Error(where === undefined ? why : `${where}: ${why}`);
  const { "shared-dir": sharedDir, "socket-path": socketPath, fd, tag } = given;
  const [dir, socket] = where === undefined ? ["--shared-dir DIR", "--socket-path PATH"] : ["dir=DIR", "socket=PATH"];
  if (sharedDir === undefined) throw complain(`which directory? Give ${dir}`);
  if (socketPath === undefined && fd === undefined) throw complain(`listen where? Give ${socket}`);
  if (socketPath !== undefined && fd !== undefined) {
    throw complain("--socket-path and --fd exclude each other: give one");
  }
  const groupName = given["socket-group"];
  const socketGroup = groupName === undefined ? undefined : groupId(groupName);
  if (groupName !== undefined) {
    if (fd !== undefined) throw complain("--socket-group is for --socket-path: who made the socket says whose it is");
    if (socketGroup === undefined) {
      throw complain(`--socket-group: there is no group ${groupName}: make it (groupadd), or give another`);
    }
  }
  if (given["migration-mode"] === "file-handles") {
    const needless = (["migration-verify-handles", "migration-confirm-paths"] as const).find((name) => given[name]);
    if (needless) throw complain(`--migration-mode file-handles and --${needless} exclude each other`);
  }
  const fs = fileSystem(given);
  const complaint = contradiction(fs);
  if (complaint) throw complain(complaint);
  const limit = { iops: given["limit-iops"] ?? 0, mbps: given["limit-mbps"] ?? 0 };
  return {
    sharedDir,
    ...(socketPath === undefined ? {} : { socketPath }),
    ...(fd === undefined ? {} : { fd }),
    ...(socketGroup === undefined ? {} : { socketGroup }),
    ...(tag === undefined ? {} : { tag }),
    fs,
    numRequestQueues: given["num-request-queues"] ?? queues,
    exitOnDisconnect: given["exit-on-disconnect"],
    ...(limit.iops === 0 && limit.mbps === 0 ? {} : { limit }),
  };
}

function fileSystem(given: Flags): FsOptions {
  const xattrMap = given.xattrmap ?? "";
  const acl = given["posix-acl"] ?? "never";
  const posixAcl = acl === "never" ? false : acl === "auto" ? "auto" : true;
  const handles = given["inode-file-handles"];
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
    inodeFileHandles: handles === undefined || handles === "fallback" ? "prefer" : handles,
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
      return "--posix-acl and --translate-uid or --translate-gid exclude each other, for ACLs hold ids that nobody translates: leave one out";
    }
  } catch (error) {
    return `--translate-uid or --translate-gid ${(error as Error).message}`;
  }
  return "";
}
