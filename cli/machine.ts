/** What `ringfsd doctor` looks at: the machine it runs on, behind an interface so that each finding can be tested without it. */
import { O_CLOEXEC, O_DIRECTORY, O_TMPFILE } from "../ffi/arch.ts";
import { allowedCpus } from "../ffi/affinity.ts";
import { ENODATA, EOPNOTSUPP, ERANGE } from "../ffi/errno.ts";
import { cString, errno, errorText, libc } from "../ffi/libc.ts";
import { openRing } from "../ffi/ring.ts";
import { openDirectory, whyNoHandles } from "../fs/share.ts";

/** A directory that is to be shared. Texts say why something is not to be had; "" where it is. */
export interface DirectoryFacts {
  /** Why it cannot be opened at all; nothing else is known then. */
  open: string;
  read: string;
  write: string;
  xattr: string;
  acl: string;
  handles: string;
}

export interface Machine {
  uid: number;
  arch: string;
  env(name: string): string | undefined;
  /** A file's text, or null. */
  read(path: string): string | null;
  /** The names in a directory, or none. */
  list(path: string): string[];
  exists(path: string): boolean;
  /** Why a file cannot be opened for reading and writing, or "". */
  canOpen(path: string): string;
  /** What a program says on standard output and standard error, or null where it cannot be run. */
  run(program: string, ...args: string[]): string | null;
  /** Why io_uring cannot be used, and what to do; or "". */
  ring(): string;
  /** The version of Landlock's interface; 0: there is none. */
  landlock(): number;
  /** CPUs that this process may use. */
  cpus(): number;
  /** Bytes of the file system at a path, or null. */
  space(path: string): { total: number; free: number } | null;
  directory(path: string): DirectoryFacts;
}

const NOBODY = { offer: () => false, cancel: () => false };
/** int landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION): the same number on every architecture. */
const SYS_landlock_create_ruleset = 444;
const LANDLOCK_CREATE_RULESET_VERSION = 1;
const O_WRONLY = 1;
const PROGRAM_MS = 5000;

/** This machine. */
export function thisMachine(): Machine {
  return {
    uid: Deno.uid()!,
    arch: Deno.build.arch,
    env: (name) => Deno.env.get(name),
    read: (path) => attempt(() => Deno.readTextFileSync(path), null),
    list: (path) => attempt(() => [...Deno.readDirSync(path)].map(({ name }) => name).sort(), []),
    exists: (path) => attempt(() => Deno.statSync(path) !== null, false),
    canOpen: (path) =>
      attempt(() => {
        Deno.openSync(path, { read: true, write: true }).close();
        return "";
      }, (error) => error.message.replace(/ \(os error.*/s, "")),
    run,
    ring: tryRing,
    landlock: () => Math.max(0, libc.syscall3(SYS_landlock_create_ruleset, 0, 0, LANDLOCK_CREATE_RULESET_VERSION)),
    cpus: () => allowedCpus().length,
    space,
    directory,
  };
}

function attempt<T>(what: () => T, instead: T | ((error: Error) => T)): T {
  try {
    return what();
  } catch (error) {
    return instead instanceof Function ? instead(error as Error) : instead;
  }
}

/** A program that does not end is not waited for: timeout(1) of coreutils ends it. */
function run(program: string, ...args: string[]): string | null {
  const limited = ["-k", "1", `${PROGRAM_MS / 1000}`, program, ...args];
  return attempt(() => {
    const { success, stdout, stderr } = new Deno.Command("timeout", { args: limited, stdin: "null", cwd: "/" })
      .outputSync();
    const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
    return success ? said : null;
  }, null);
}

function tryRing(): string {
  return attempt(() => {
    const opened = openRing({ entries: 8, cqEntries: 16, helper: NOBODY });
    opened.ring.queue_exit();
    return opened.plain === null ? "" : opened.reason;
  }, (error) => error.message);
}

function space(path: string): { total: number; free: number } | null {
  const said = run("df", "-kP", path);
  const [, total, , free] = said?.trim().split("\n").at(-1)?.split(/\s+/) ?? [];
  return total === undefined ? null : { total: Number(total) * 1024, free: Number(free) * 1024 };
}

function directory(path: string): DirectoryFacts {
  let fd: number;
  try {
    fd = openDirectory(path);
  } catch (error) {
    return { open: (error as Error).message, read: "", write: "", xattr: "", acl: "", handles: "" };
  }
  const open = (flags: number) => {
    const opened = libc.openat(fd, cString("."), flags | O_CLOEXEC, 0o600);
    const code = opened < 0 ? errno() : 0;
    if (opened >= 0) libc.close(opened);
    return code;
  };
  const attribute = (name: string) => {
    const failed = libc.getxattr(cString(`/proc/self/fd/${fd}`), cString(name), new Uint8Array(1), 0) < 0;
    const code = failed ? errno() : 0;
    return [0, ENODATA, ERANGE].includes(code) ? "" : errorText(code);
  };
  const write = open(O_WRONLY | O_TMPFILE);
  try {
    const read = open(O_DIRECTORY);
    return {
      open: "",
      read: read === 0 ? "" : errorText(read),
      // Not all file systems have files without a name: those do not tell.
      write: [0, EOPNOTSUPP].includes(write) ? "" : errorText(write),
      xattr: attribute("user.ringfsd"),
      acl: attribute("system.posix_acl_access"),
      handles: whyNoHandles(fd),
    };
  } finally {
    libc.close(fd);
  }
}
