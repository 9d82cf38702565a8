/** The soak test's daemon: one process with several shares, each with options of its own. */
import { until } from "../guest/poll.ts";

const main = new URL("../../main.ts", import.meta.url).pathname;
const START_MS = 20_000;
/** Longer than the daemon gives itself. */
const STOP_MS = 8000;
/** Kinds of lines that are kept; and of the last lines, how many. */
const MOST_KINDS = 200, LAST_LINES = 40;

export interface Share {
  tag: string;
  dir: string;
  socket: string;
}

/** Each with what the others have not. */
const SHARES = [
  { base: "/dev/shm", options: "xattr,posix-lock,cache=auto" },
  { base: "/tmp", options: "xattr,posix-lock,flock,cache=always,writeback,inode-file-handles=prefer" },
  { base: "/dev/shm", options: "posix-lock,cache=never,allow-mmap,inode-file-handles=never" },
];

export interface DaemonOptions {
  /** Its command, as words. Default: main.ts with this Deno. */
  command?: readonly string[];
  /** Further options. */
  options?: readonly string[];
  /** Another share, called "guest", for a guest that mounts it by that tag. */
  guest?: boolean;
}

export class SoakDaemon {
  /** How often each line was said, its numbers taken out. */
  readonly lines = new Map<string, number>();
  readonly last: string[] = [];
  ended = false;
  readonly #collected: Promise<void>;

  private constructor(
    readonly child: Deno.ChildProcess,
    readonly shares: readonly Share[],
    readonly dirs: readonly string[],
    /** Where it tells what it has counted; null where it cannot. */
    readonly metricsSocket: string | null,
  ) {
    child.status.then(() => this.ended = true);
    this.#collected = this.#collect();
  }

  static async start({ command, options = [], guest = false }: DaemonOptions = {}): Promise<SoakDaemon> {
    const dirs: string[] = [];
    const shares: Share[] = [];
    const args = ["--num-request-queues", "2", "--thread-pool-size", "2"];
    if (!options.some((option) => option.startsWith("--sandbox"))) args.push("--sandbox", "none");
    const all = guest ? [...SHARES, { base: "/tmp", options: "xattr,cache=auto" }] : SHARES;
    for (const [i, { base, options }] of all.entries()) {
      const dir = Deno.makeTempDirSync({ dir: writable(base) ? base : undefined, prefix: "ringfsd-soak-" });
      Deno.chmodSync(dir, 0o755);
      Deno.mkdirSync(`${dir}/share`);
      const tag = i < SHARES.length ? `share${i}` : "share";
      const share = { tag, dir: `${dir}/share`, socket: `${dir}/socket` };
      dirs.push(dir);
      shares.push(share);
      args.push("--share", `tag=${tag},dir=${share.dir},socket=${share.socket},${options}`);
    }
    const [program, ...words] = command ?? [Deno.execPath(), "run", "-A", "--no-check", main];
    const { stdout } = await new Deno.Command(program, { args: [...words, "--help"], stderr: "null" }).output();
    const metrics = new TextDecoder().decode(stdout).includes("--metrics-socket") ? `${dirs[0]}/metrics` : null;
    if (metrics !== null) args.push("--metrics-socket", metrics);
    const child = new Deno.Command(program, {
      args: [...words, ...args, ...options],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    const daemon = new SoakDaemon(child, shares, dirs, metrics);
    try {
      await until("the daemon to listen", () => {
        if (daemon.ended) throw new Error("the daemon ended at once");
        return daemon.last.filter((line) => line.includes(" shares ")).length === shares.length;
      }, START_MS);
      return daemon;
    } catch (error) {
      await daemon.stop();
      throw new Error(`${(error as Error).message}; it said:\n${daemon.last.join("\n")}`);
    }
  }

  get pid(): number {
    return this.child.pid;
  }

  /** Ends it, and removes its directories. Returns how it ended: "exit 0" if in good order. */
  async stop(): Promise<string> {
    if (!this.ended) this.child.kill("SIGTERM");
    const timer = setTimeout(() => this.child.kill("SIGKILL"), STOP_MS);
    const { code, signal } = await this.child.status;
    clearTimeout(timer);
    await this.#collected;
    for (const dir of this.dirs) Deno.removeSync(dir, { recursive: true });
    return signal === null ? `exit ${code}` : signal;
  }

  async #collect(): Promise<void> {
    let rest = "";
    for await (const text of this.child.stderr.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      for (const line of lines) this.#take(line);
    }
    if (rest !== "") this.#take(rest);
  }

  #take(line: string): void {
    this.last.push(line);
    if (this.last.length > LAST_LINES) this.last.shift();
    const kind = line.replaceAll(/\d+/g, "N");
    if (this.lines.has(kind) || this.lines.size < MOST_KINDS) this.lines.set(kind, (this.lines.get(kind) ?? 0) + 1);
  }

  /** What it complained of, with how often. */
  get complaints(): string[] {
    // Some sessions have another front end wait, on purpose.
    return [...this.lines].filter(([line]) =>
      /(warn|error): /.test(line) && !/another front end has connected/.test(line)
    ).map(([line, count]) => `${count} × ${line}`);
  }
}

function writable(dir: string): boolean {
  try {
    Deno.removeSync(Deno.makeTempDirSync({ dir }));
    return true;
  } catch {
    return false;
  }
}
