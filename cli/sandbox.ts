/**
 * Confines the process before it reads a byte of a guest. Threads that the runtime has made already cannot be confined one by one, so
 * the process builds what it shall live in, and executes itself: first it opens sockets and looks at directories, then it makes
 * namespaces and a root with nothing in it but what it needs, gives up capabilities, has Landlock shut the rest, and begins anew in there,
 * told by a descriptor what to serve. seccomp comes last, on all threads. SECURITY.md says what each layer is for.
 */
import { boundCapabilities, capabilitySet, keepCapabilities } from "../ffi/capabilities.ts";
import { EINVAL, ENOSYS } from "../ffi/errno.ts";
import { execute, readStrings, takeText, textDescriptor } from "../ffi/execute.ts";
import { landlock, landlockVersion, type Reach } from "../ffi/landlock.ts";
import { holdSignals, recallTermination, rememberTermination } from "../ffi/interrupt.ts";
import { libc, SystemError } from "../ffi/libc.ts";
import { type Bind, emptyDirectory, enterNewRoot, enterRoot, type Link, unshareNamespaces } from "../ffi/namespaces.ts";
import { installSeccomp, noNewPrivileges, type SeccompAction } from "../ffi/seccomp.ts";
import { checkDirectory } from "../fs/share.ts";
import type { Log } from "../vq/log.ts";
import { inheritCarried, openSockets, removeSockets } from "./carried.ts";
import { ONLINE } from "./cpus.ts";
import type { Options } from "./options.ts";
import { mapArguments } from "./user_namespace.ts";

export type Sandbox = "namespace" | "chroot" | "none";
/** What is left where no namespace can be had and none was asked for. */
type Mode = Sandbox | "landlock";

/** What was decided before the process executed itself. */
interface Stage {
  options: Options;
  mode: Mode;
  /** Namespaces are made, the rest is not. */
  unshared: boolean;
  /** Where the root is to be. */
  rootFd?: number;
  /** Lines for the log. */
  notes: string[];
}

/** Names the descriptor that says what to serve. */
const STAGE = "RINGFSD_STAGE";
/** What acting as any user takes: as virtiofsd keeps. */
const KEPT = ["chown", "dac_override", "fowner", "fsetid", "setgid", "setuid", "mknod", "setfcap"];

let stage: Stage | null = null;

/** The options, where this is the process that executed itself; null: they are on the command line. */
export function takeOptions(): Options | null {
  const fd = Deno.env.get(STAGE);
  if (fd === undefined) return null;
  Deno.env.delete(STAGE);
  try {
    stage = JSON.parse(takeText(Number(fd))) as Stage;
    recallTermination();
    return stage.options;
  } catch {
    // It was not set by us: begin at the beginning.
    return null;
  }
}

/** What is left to do when all is open and nothing of a guest's was read. */
export type Finish = () => void;

/**
 * Confines the process as far as can be before its own threads are there; where that is by executing itself it does not return. `url`
 * is that of the program. Throws an Error that says what was asked, what went wrong and what to do.
 */
export function confine(options: Options, url: string, log: Log): Finish {
  if (stage !== null && !stage.unshared) return inside(stage, log);
  const { sandbox } = options;
  if (sandbox === "none") return () => finish(options, null, log);
  if (stage !== null) return enclose(stage, url);
  options.shares.forEach(({ sharedDir }) => checkDirectory(sharedDir));
  // Whoever finds a socket may tell the process to end: that waits until it can be heard.
  rememberTermination();
  openSockets(options);
  try {
    return begin(options, url, log);
  } catch (error) {
    removeSockets(options);
    throw error;
  }
}

function begin(options: Options, url: string, log: Log): never {
  const notes: string[] = [];
  const root = libc.geteuid() === 0;
  // Before there are namespaces: in a chroot, what was mapped from the old ones has other names in the new.
  const program = programBinds(url);
  let mode: Mode = options.sandbox ?? "namespace";
  if (mode === "chroot" && !root) {
    throw new Error("--sandbox chroot takes root: give --sandbox namespace or none");
  }
  if (mode === "chroot" && url.startsWith("file:")) {
    // Loops that start later would look for the sources.
    throw new Error("--sandbox chroot takes the compiled program: give --sandbox namespace or none, or run compile.sh");
  }
  if (mode === "namespace") {
    try {
      if (!root) unshareUser(options);
      unshareNamespaces();
    } catch (error) {
      const why = `cannot make namespaces: ${(error as Error).message}`;
      if (options.sandbox !== undefined) {
        const or = root ? "give it CAP_SYS_ADMIN, or " : "";
        throw new Error(`--sandbox namespace: ${why}: ${or}confine ringfsd from outside and give --sandbox none`);
      }
      if (landlockVersion() === 0) {
        throw new Error(`no sandbox: ${why}, and the kernel has no Landlock: give --sandbox none to do without`);
      }
      mode = "landlock";
      notes.push(`${why}: Landlock and seccomp must do (--sandbox none says nothing of it)`);
    }
  }
  log.debug(`sandbox: ${mode}`);
  return enclose({ options, mode, unshared: true, notes }, url, program);
}

/** Goes through unshare(1), since a process with threads cannot make a user namespace. Does not return where it can. */
function unshareUser(options: Options): void {
  const { program, args } = mapArguments(options.uidMap, options.gidMap);
  const encoder = new TextEncoder();
  const self = Deno.execPath();
  const again = [program, ...args, "--", self].map((one) => encoder.encode(one));
  restart(program, [...again, ...readStrings("/proc/self/cmdline").slice(1)], {
    options,
    mode: "namespace",
    unshared: true,
    notes: [],
  });
}

/** Builds what the process shall live in, and begins anew there. */
function enclose(built: Stage, url: string, program = programBinds(url)): never {
  const { options, mode } = built;
  const { path, binds, links } = program;
  const several = mode === "namespace";
  const shares = options.shares.map((share, i): Bind => ({
    source: share.sharedDir,
    target: several ? `/share/${i}` : share.sharedDir,
    directory: true,
    recursive: true,
    writable: !share.fs.readonly,
  }));
  let keep = capabilitySet(options.capabilities ?? capabilitiesOf([]));
  const next: Stage = { ...built, unshared: false };
  try {
    if (mode === "namespace") enterNewRoot([...binds, ...shares], links, directory());
    if (mode === "chroot") {
      next.rootFd = emptyDirectory();
      keep |= capabilitySet(["sys_chroot"]);
    }
  } catch (error) {
    const { message } = error as Error;
    throw new Error(`--sandbox ${mode}: ${message}: confine ringfsd from outside and give --sandbox none`);
  }
  next.options = {
    ...options,
    shares: options.shares.map((share, i) => ({ ...share, reach: { ...share.reach, dir: shares[i].target } })),
  };
  boundCapabilities(keep);
  noNewPrivileges();
  const version = landlockVersion();
  const seen = (bind: Bind) => mode === "namespace" ? bind.target : bind.source;
  if (version > 0) {
    landlock(version, [
      ...binds.map((bind): Reach => ({
        path: seen(bind),
        access: bind.executable ? "run" : bind.device ? "device" : "read",
        directory: bind.directory,
      })),
      ...shares.map((bind): Reach => ({
        path: seen(bind),
        access: bind.writable ? "share" : "share, read only",
        directory: true,
      })),
    ], (keep & capabilitySet(["dac_read_search"])) !== 0n);
  } else next.notes.push("the kernel has no Landlock");
  return restart(path, readStrings("/proc/self/cmdline"), next, url.startsWith("file:"));
}

/** Executes a program, with what it is to be told. */
function restart(program: string, args: readonly Uint8Array<ArrayBuffer>[], next: Stage, fromSource = false): never {
  const encoder = new TextEncoder();
  const own = [`${STAGE}=${textDescriptor(JSON.stringify(next))}`];
  // There is no cache to be had; see packaging/options.ts, which has the same for the packed program.
  if (fromSource) own.push("DENO_DIR=/dev/null/deno", "DENO_LOG=error,deno::cache=off", "DENO_NO_UPDATE_CHECK=1");
  const names = new Set(own.map((one) => one.split("=", 1)[0]));
  const decoder = new TextDecoder();
  holdSignals(true);
  inheritCarried(next.options);
  const given = readStrings("/proc/self/environ").filter((one) => !names.has(decoder.decode(one).split("=", 1)[0]));
  return execute(program, args, [...own.map((one) => encoder.encode(one)), ...given]);
}

/** What the program itself needs: its file, which is `path`, the libraries that it has loaded, and what it looks at of the system. */
function programBinds(url: string): { path: string; binds: Bind[]; links: Link[] } {
  const program = Deno.execPath();
  const directories: Bind[] = [];
  const file = (path: string, more: Partial<Bind> = {}): Bind => {
    return { source: path, target: path, directory: false, ...more };
  };
  if (url.startsWith("file:")) {
    // Loops read the sources when they start.
    const source = decodeURIComponent(new URL(".", url).pathname).replace(/\/$/, "");
    const modules = real(`${source}/node_modules`);
    for (const dir of [source, ...(modules === "" || modules.startsWith(`${source}/`) ? [] : [modules])]) {
      directories.push({ source: dir, target: dir, directory: true, recursive: true, executable: true });
    }
  }
  const self = `/proc/${Deno.pid}`;
  directories.push({ source: self, target: "/proc/self", directory: true });
  const files = [program, ...loaded()].map((path) => file(path, { executable: true }));
  const packed = (globalThis as { RINGFSD_EXEC_PATH?: string }).RINGFSD_EXEC_PATH;
  // glibc asks how many CPUs are online when a thread first takes memory, and would spoil errno where there is no answer.
  const others = [packed ?? "", "/etc/ld.so.cache", "/proc/loadavg", "/proc/meminfo", "/proc/cpuinfo", ONLINE];
  files.push(...others.filter(exists).map((path) => file(path)));
  files.push(...["/dev/null", "/dev/urandom"].filter(exists).map((path) => file(path, { device: true })));
  const covered = ({ target }: Bind) => directories.some((one) => target.startsWith(`${one.target}/`));
  const links = ["/lib", "/lib64", "/lib32", "/usr/lib64"].flatMap((path): Link[] => {
    try {
      return [{ path, target: Deno.readLinkSync(path) }];
    } catch {
      return [];
    }
  });
  const seen = new Set<string>();
  const once = ({ target }: Bind) => !seen.has(target) && seen.add(target);
  return { path: program, binds: [...directories, ...files.filter((one) => !covered(one) && once(one))], links };
}

/** The libraries that this process has loaded, under all names that they are looked for. */
function loaded(): string[] {
  const paths = new Set<string>();
  for (const line of Deno.readTextFileSync("/proc/self/maps").split("\n")) {
    const path = /\s(\/\S*\.so\S*)$/.exec(line)?.[1];
    if (path !== undefined && exists(path)) paths.add(path);
  }
  const names = ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "libdl.so.2", "librt.so.1", "libpthread.so.0"];
  const dirs = new Set([...paths].map((path) => path.slice(0, path.lastIndexOf("/"))));
  for (const dir of dirs) for (const name of names) if (exists(`${dir}/${name}`)) paths.add(`${dir}/${name}`);
  const loaders = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"].filter(exists);
  for (const path of loaders) {
    // The directory may be a link in the new root too, the file is none there.
    const slash = path.lastIndexOf("/");
    paths.add(Deno.realPathSync(path.slice(0, slash)) + path.slice(slash));
  }
  return [...paths];
}

/** A path without links, or "" where there is nothing. */
function real(path: string): string {
  try {
    return Deno.realPathSync(path);
  } catch {
    return "";
  }
}

function exists(path: string): boolean {
  try {
    return path !== "" && !Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}

/** The working directory: Deno does not start without one. */
function directory(): string {
  try {
    return Deno.cwd();
  } catch {
    return "/";
  }
}

/** The process that executed itself. */
function inside(built: Stage, log: Log): Finish {
  const { options, mode, notes } = built;
  for (const note of notes) log.warn(note);
  log.debug(`sandbox: ${mode}, ${landlockVersion() > 0 ? "Landlock" : "no Landlock"}`);
  return () => finish(options, built.rootFd ?? null, log);
}

function finish(options: Options, rootFd: number | null, log: Log): void {
  const { capabilities, sandbox, seccomp } = options;
  holdSignals(false);
  if (rootFd !== null) enterRoot(rootFd);
  // Without a sandbox they are cut only where that was asked for.
  if (sandbox !== "none" || capabilities !== undefined) {
    keepCapabilities(capabilitySet(capabilities ?? capabilitiesOf([])));
  }
  if (libc.geteuid() !== 0) {
    log.info("not root: all that the guest creates belongs to this user, and only what this user may read can be read");
  }
  if (seccomp === "none") return;
  try {
    installSeccomp(seccomp ?? "kill", sandbox === "none" && options.controlSocket !== undefined);
  } catch (error) {
    const lacking = error instanceof SystemError && (error.code === EINVAL || error.code === ENOSYS);
    if (seccomp !== undefined || !lacking) {
      throw new Error(`--seccomp ${seccomp ?? "kill"}: ${(error as Error).message}: give --seccomp none`);
    }
    log.warn(`system calls are not restricted: ${(error as Error).message}`);
  }
}

/** The names of the capabilities to keep: the usual ones and `changes`, +NAME or -NAME. Throws Error for what there is not. */
export function capabilitiesOf(changes: readonly string[]): string[] {
  const names = new Set(KEPT);
  for (const change of changes) {
    const name = change.slice(1);
    capabilitySet([name]);
    if (change[0] === "+") names.add(name);
    else names.delete(name);
  }
  return [...names];
}

export type { SeccompAction };
