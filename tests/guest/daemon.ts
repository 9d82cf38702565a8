/** Runs the daemon under test: the command in RINGFSD, or else dist/ringfsd. */
import { Output } from "./output.ts";
import { until } from "./poll.ts";

const root = new URL("../../", import.meta.url).pathname;

/** The tag that all tests mount by. User-Mode Linux learns it from the daemon, QEMU from its command line. */
export const TAG = "share";

/** The daemon's command, as words. */
export function daemonCommand(): string[] {
  return Deno.env.get("RINGFSD")?.split(/\s+/) ?? [`${root}dist/ringfsd`];
}

/** Descriptors of the runtime's for a Worker: its event loop's and its message port's. */
const WORKERS_OWN = 6;

export class Daemon {
  readonly socket: string;
  readonly output: Output;
  #process: Deno.ChildProcess;
  #ended = false;

  private constructor(socket: string, process: Deno.ChildProcess) {
    this.socket = socket;
    this.#process = process;
    this.output = new Output(process.stdout, process.stderr);
    process.status.then(() => this.#ended = true);
  }

  /**
   * Starts a daemon that shares `shared`, and waits for its socket in the folder `runDir`.
   * @throws Error with the daemon's output when there is no socket after 20 s
   */
  static async start(runDir: string, shared: string, ...options: string[]): Promise<Daemon> {
    const [program, ...words] = daemonCommand();
    const socket = `${runDir}/fs.sock`;
    await Deno.remove(socket).catch(() => {});
    const process = new Deno.Command(program, {
      args: [...words, "--socket-path", socket, "--shared-dir", shared, "--tag", TAG, ...options],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const daemon = new Daemon(socket, process);
    try {
      await until("the daemon's socket", () => {
        if (daemon.#ended) throw new Error(`${program} ended at once:\n${daemon.output.tail()}`);
        // Ringfsd's socket is there before it has shut itself in, and is another process then, as it were.
        return /ringfsd/.test(program)
          ? daemon.output.text.includes(" shares ")
          : Deno.lstat(socket).then(() => true, () => false);
      }, 20_000);
    } catch (error) {
      await daemon.stop();
      throw error;
    }
    return daemon;
  }

  get pid(): number {
    return this.#process.pid;
  }

  get running(): boolean {
    return !this.#ended;
  }

  /** The descriptors that the daemon has open, each as "what it is, how often"; a Worker's own ones count as well. */
  descriptors(): Map<string, number> {
    const kinds = new Map<string, number>();
    for (const { name } of Deno.readDirSync(`/proc/${this.#process.pid}/fd`)) {
      let target = "closed meanwhile";
      try {
        target = Deno.readLinkSync(`/proc/${this.#process.pid}/fd/${name}`).replace(/\d{3,}/, "N");
      } catch { /* it was closed between the two calls */ }
      kinds.set(target, (kinds.get(target) ?? 0) + 1);
    }
    return kinds;
  }

  /** How many there are, without those that the runtime has for each Worker: a helper may start at any time. */
  descriptorCount(): number {
    let workers = 0;
    for (const { name } of Deno.readDirSync(`/proc/${this.#process.pid}/task`)) {
      try {
        if (Deno.readTextFileSync(`/proc/${this.#process.pid}/task/${name}/comm`).startsWith("worker-")) workers++;
      } catch { /* it has ended meanwhile */ }
    }
    return [...this.descriptors().values()].reduce((sum, count) => sum + count, 0) - workers * WORKERS_OWN;
  }

  /** Bytes that each of the daemon's threads has read so far, by any call (rchar in proc_pid_io(5)). */
  bytesRead(): Map<string, number> {
    const threads = new Map<string, number>();
    for (const { name } of Deno.readDirSync(`/proc/${this.#process.pid}/task`)) {
      const counters = Deno.readTextFileSync(`/proc/${this.#process.pid}/task/${name}/io`);
      threads.set(name, Number(/^rchar: (\d+)$/m.exec(counters)![1]));
    }
    return threads;
  }

  /** Ends the daemon: by SIGTERM, and when that has not done in 10 s, by force. Says which. */
  async stop(): Promise<"politely" | "by force"> {
    let how: "politely" | "by force" = "politely";
    if (!this.#ended) this.#process.kill("SIGTERM");
    const late = setTimeout(() => {
      how = "by force";
      if (!this.#ended) this.#process.kill("SIGKILL");
    }, 10_000);
    await this.#process.status;
    clearTimeout(late);
    await this.output.ended;
    return how;
  }
}
