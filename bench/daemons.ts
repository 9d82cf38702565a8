/** The daemons that are compared: which are there, how each is started on a directory, and stopped again. */
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** A daemon with its options, ready to be started any number of times. */
export interface Contender {
  name: string;
  /** Program and arguments for a share and a socket. */
  command: (sharedDir: string, socketPath: string) => string[];
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

/** ringfsd: the command given, or dist/ringfsd, or main.ts on this deno. */
export function ringfsd(command?: string): Contender {
  const compiled = join(root, "dist", "ringfsd");
  const source = [Deno.execPath(), "run", "-A", join(root, "main.ts")];
  const start = command ? command.trim().split(/\s+/) : isExecutable(compiled) ? [compiled] : source;
  return {
    name: "ringfsd",
    command: (sharedDir, socketPath) => [...start, "--socket-path", socketPath, "--shared-dir", sharedDir],
  };
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

/** Rust virtiofsd with and without a thread pool, or C virtiofsd: told apart by what --version says. */
function variants(path: string, name?: string): Contender[] {
  const { stdout, stderr } = new Deno.Command(path, { args: ["--version"] }).outputSync();
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  if (/QEMU|Bellard|FUSE kernel/i.test(text)) {
    return [{
      name: name ?? "virtiofsd (C)",
      command: (sharedDir, socketPath) => [
        ...[path, `--socket-path=${socketPath}`, "-o", `source=${sharedDir}`],
        ...["-o", "sandbox=chroot", "--thread-pool-size=0"],
      ],
    }];
  }
  return ["0", "4"].map((threads) => ({
    name: `${name ?? "virtiofsd (Rust)"} pool ${threads}`,
    command: (sharedDir, socketPath) => [
      ...[path, "--socket-path", socketPath, "--shared-dir", sharedDir],
      ...["--sandbox", "none", "--thread-pool-size", threads],
    ],
  }));
}

function sleepMs(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Starts a daemon and waits until its socket is there. Throws with its last words where it ends before, or takes too long. */
export async function startDaemon(
  contender: Contender,
  sharedDir: string,
  socketPath: string,
  timeoutMs = 10_000,
): Promise<Running> {
  const [program, ...args] = contender.command(sharedDir, socketPath);
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
    socketPath,
    log: () => text,
    stop: async () => {
      if (!ended) child.kill("SIGTERM");
      await Promise.race([status, sleepMs(3000)]);
      if (!ended) child.kill("SIGKILL");
      await Promise.all([status, output]);
    },
  };
  const deadline = performance.now() + timeoutMs;
  while (!isSocket(socketPath)) {
    if (ended || performance.now() > deadline) {
      await running.stop();
      const last = text.trim().split("\n").at(-1) ?? "";
      throw new Error(`${contender.name} ${ended ? "ended" : "made no socket"} at start: ${last}`);
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
