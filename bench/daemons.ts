/** The daemons that are compared: which are there, how each is started on a directory, and stopped again. */
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Whose daemon it is: targets are ratios to virtiofsd in Rust. */
export type Kind = "ringfsd" | "rust" | "c";

/** A daemon with its options, ready to be started any number of times. */
export interface Contender {
  name: string;
  /** For those that are compared. */
  kind?: Kind;
  /** What it says of itself, in a line. */
  version?: string;
  /** Program and arguments for a share and a socket. */
  command: (sharedDir: string, socketPath: string) => string[];
  /** The same for many devices in one process, each with its socket; absent where there is no such thing. */
  manyCommand?: (sharedDir: string, socketPaths: readonly string[]) => string[];
}

/** A daemon that runs. */
export interface Running {
  pid: number;
  socketPath: string;
  /** What it has said so far. */
  log: () => string;
  stop: () => Promise<void>;
}

const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** ringfsd: the command given, or dist/ringfsd, or main.ts on this deno; with further options under another name. */
export function ringfsd(command?: string, name = "ringfsd", options: readonly string[] = []): Contender {
  const compiled = join(root, "dist", "ringfsd");
  const source = [Deno.execPath(), "run", "-A", join(root, "main.ts")];
  const start = command ? command.trim().split(/\s+/) : isExecutable(compiled) ? [compiled] : source;
  return {
    name,
    kind: "ringfsd",
    version: versionOf(start).split("\n", 1)[0],
    command: (sharedDir, socketPath) => [...start, "--socket-path", socketPath, "--shared-dir", sharedDir, ...options],
    manyCommand: (sharedDir, socketPaths) => [
      ...start,
      ...socketPaths.flatMap((path, i) => ["--share", `tag=bench${i},dir=${sharedDir},socket=${path}`]),
      ...options,
    ],
  };
}

/** The same without polling: what its system calls and loops are worth by themselves. */
export function ringfsdWithoutPolling(command?: string): Contender {
  return ringfsd(command, NO_POLLING, ["--poll-max-us", "0"]);
}

export const NO_POLLING = "ringfsd, no polling";

/** All that a program says to --version; empty where it cannot be started, which shows later and better. */
function versionOf([program, ...args]: readonly string[]): string {
  try {
    const { stdout, stderr } = new Deno.Command(program, { args: [...args, "--version"] }).outputSync();
    return (new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr)).trim();
  } catch {
    return "";
  }
}

function isExecutable(path: string): boolean {
  try {
    const info = Deno.statSync(path);
    return info.isFile && ((info.mode ?? 0) & 0o111) !== 0;
  } catch {
    return false;
  }
}

/** Places where distributions put a virtiofsd, and PATH. */
function candidates(): string[] {
  const path = (Deno.env.get("PATH") ?? "").split(delimiter).map((dir) => join(dir, "virtiofsd"));
  const named = Deno.env.get("VIRTIOFSD");
  return [
    ...(named ? [named] : []),
    "/usr/libexec/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
    "/usr/lib/virtiofsd",
    ...path,
  ];
}

/** The virtiofsd programs named by `--peer NAME=PATH`, and those installed; each once, by its real path. */
export function peers(named: readonly string[]): Contender[] {
  const seen = new Set<string>();
  const list: Contender[] = [];
  const add = (path: string, name?: string) => {
    if (!isExecutable(path)) {
      if (name) throw new Error(`--peer ${name}=${path}: no such program`);
      return;
    }
    const real = Deno.realPathSync(path);
    if (!seen.has(real)) list.push(...variants(path, name));
    seen.add(real);
  };
  for (const one of named) {
    const [, name, path] = /^([^=]+)=(.+)$/.exec(one) ?? [];
    if (!name) throw new Error(`--peer ${one}: expected NAME=PATH`);
    add(path, name);
  }
  for (const path of candidates()) add(path);
  return list;
}

/**
 * Rust virtiofsd with and without a thread pool, or C virtiofsd: told apart by what --version says. In its sandbox, as it starts by default,
 * where that takes no more than root.
 */
function variants(path: string, name?: string): Contender[] {
  const text = versionOf([path]);
  const version = text.split("\n", 1)[0];
  if (/QEMU|Bellard|FUSE kernel/i.test(text)) {
    return [{
      name: name ?? "virtiofsd (C)",
      kind: "c",
      version,
      command: (sharedDir, socketPath) => [
        ...[path, `--socket-path=${socketPath}`, "-o", `source=${sharedDir}`],
        ...["-o", "sandbox=chroot", "--thread-pool-size=0"],
      ],
    }];
  }
  return ["0", "4"].map((threads) => ({
    name: `${name ?? "virtiofsd (Rust)"} pool ${threads}`,
    kind: "rust",
    version,
    command: (sharedDir, socketPath) => [
      ...[path, "--socket-path", socketPath, "--shared-dir", sharedDir],
      ...["--thread-pool-size", threads, ...(Deno.uid() === 0 ? [] : ["--sandbox", "none"])],
    ],
  }));
}

function sleepMs(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Starts a daemon and waits until its socket is there. Throws with its last words where it ends before, or takes too long. */
export function startDaemon(contender: Contender, sharedDir: string, socketPath: string): Promise<Running> {
  return start(contender.name, contender.command(sharedDir, socketPath), [socketPath]);
}

/** The same for a process that serves many devices; `socketPath` of what comes back is the first. */
export function startDevices(
  contender: Contender,
  sharedDir: string,
  socketPaths: readonly string[],
): Promise<Running> {
  if (contender.manyCommand === undefined) throw new Error(`${contender.name} serves one device a process`);
  return start(contender.name, contender.manyCommand(sharedDir, socketPaths), socketPaths);
}

async function start(
  name: string,
  [program, ...args]: readonly string[],
  socketPaths: readonly string[],
  timeoutMs = 10_000,
): Promise<Running> {
  // One that was in a sandbox has left its socket's file.
  for (const path of socketPaths) if (isSocket(path)) Deno.removeSync(path);
  const child = new Deno.Command(program, { args, stdin: "null", stdout: "piped", stderr: "piped" }).spawn();
  let text = "";
  let ended = false;
  const collect = async (stream: ReadableStream<Uint8Array>) => {
    const decoder = new TextDecoder();
    for await (const part of stream) text = (text + decoder.decode(part, { stream: true })).slice(-8192);
  };
  const output = Promise.all([collect(child.stdout), collect(child.stderr)]);
  const status = child.status.then(() => ended = true);
  const running: Running = {
    pid: child.pid,
    socketPath: socketPaths[0],
    log: () => text,
    stop: async () => {
      if (!ended) child.kill("SIGTERM");
      await Promise.race([status, sleepMs(3000)]);
      if (!ended) child.kill("SIGKILL");
      await Promise.all([status, output]);
    },
  };
  const deadline = performance.now() + timeoutMs;
  while (!socketPaths.every(isSocket)) {
    if (ended || performance.now() > deadline) {
      await running.stop();
      const last = text.trim().split("\n").at(-1) ?? "";
      throw new Error(`${name} ${ended ? "ended" : "made no socket"} at start: ${last}`);
    }
    await sleepMs(5);
  }
  return running;
}

function isSocket(path: string): boolean {
  try {
    return Deno.statSync(path).isSocket ?? false;
  } catch {
    return false;
  }
}
