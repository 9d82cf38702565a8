/** ringfsd as another program starts it: with descriptors, environment, name and working directory of its own. */
import assert from "node:assert/strict";
import { Session, type SessionOptions } from "../../bench/session.ts";
import { libc } from "../../ffi/libc.ts";
import { listenUnix } from "../../ffi/socket.ts";

const main = new URL("../../main.ts", import.meta.url).pathname;
const DEADLINE_MS = 20_000;
const F_SETFD = 2;

export interface StartOptions {
  /** Sockets that listen, with the descriptor that the daemon has for each. */
  sockets?: { at: number; path: string }[];
  env?: Record<string, string>;
  /** Shell words before the command, such as LISTEN_PID=$$ or ulimit. */
  before?: string;
  /** argv[0] */
  name?: string;
  cwd?: string;
  uid?: number;
  /** A module instead of main.ts. */
  program?: string;
}

/** A temporary directory with a share in it, which goes out of scope with all that is in it. */
export class Place {
  readonly path: string;
  readonly share: string;
  readonly socket: string;

  /** `base` is where it is made: the kind of file system matters to some tests. */
  constructor(base?: string) {
    this.path = Deno.makeTempDirSync({ prefix: "ringfsd-start-", ...(base === undefined ? {} : { dir: base }) });
    this.share = `${this.path}/share`;
    this.socket = `${this.path}/socket`;
    // Whoever the daemon runs as reaches it.
    for (const dir of [this.path, this.share]) {
      Deno.mkdirSync(dir, { recursive: true });
      Deno.chmodSync(dir, 0o777);
    }
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

export class Started {
  /** What it has said on standard error. */
  log = "";
  #status: Deno.CommandStatus | undefined;
  readonly #collected: Promise<void>;

  private constructor(readonly child: Deno.ChildProcess) {
    this.#collected = this.#collect();
    child.status.then((status) => this.#status = status);
  }

  /** Starts it. */
  static start(args: readonly string[], options: StartOptions = {}): Started {
    const { sockets = [], env = {}, before = "", name = "ringfsd", cwd, uid, program = main } = options;
    const mine = sockets.map(({ path }) => listenUnix(path, { mode: 0o666 }));
    for (const fd of mine) libc.fcntl(fd, F_SETFD, 0);
    // A child that is told of no descriptors has those that are not closed on exec. Moved far off first: the places may overlap.
    const far = sockets.map((_, i) => `${200 + i}<&${mine[i]} ${mine[i]}<&-`);
    const moves = sockets.map(({ at }, i) => `${at}<&${200 + i} ${200 + i}<&-`);
    const redirections = (list: string[]) => list.length === 0 ? "" : `exec ${list.join(" ")}\n`;
    const script = `${redirections(far)}${redirections(moves)}${before}\nexec -a ${name} "$@"`;
    try {
      const child = new Deno.Command("bash", {
        args: ["-c", script, "bash", Deno.execPath(), "run", "-A", "--no-check", program, ...args],
        env,
        cwd,
        ...(uid === undefined ? {} : { uid, gid: uid }),
        stdin: "null",
        stdout: "null",
        stderr: "piped",
      }).spawn();
      return new Started(child);
    } finally {
      for (const fd of mine) libc.close(fd);
    }
  }

  get pid(): number {
    return this.child.pid;
  }

  /** Waits until something is so. */
  async until(condition: () => boolean, what: string): Promise<void> {
    for (const deadline = performance.now() + DEADLINE_MS; !condition();) {
      const late = performance.now() > deadline;
      if (this.#status || late) assert.fail(`${late ? "timed out" : "ended"}: ${what}; the daemon said:\n${this.log}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  /** Waits until it listens on a socket at a path: the file is there a moment before that. proc_pid_net(5) has the flag __SO_ACCEPTCON. */
  async socket(path: string): Promise<void> {
    // As the daemon named it: perhaps in its working directory.
    const names = [path, path.split("/").at(-1)];
    const listens = (line: string) => line.split(" ")[3] === "00010000" && names.includes(line.split(" ").at(-1));
    await this.until(() => {
      try {
        return Deno.lstatSync(path).isSocket === true &&
          Deno.readTextFileSync("/proc/net/unix").split("\n").some(listens);
      } catch {
        return false;
      }
    }, `a socket at ${path}`);
  }

  /** Resolves with how it ended. */
  async end(signal?: Deno.Signal): Promise<Deno.CommandStatus> {
    if (signal && !this.#status) this.child.kill(signal);
    const timer = setTimeout(() => this.child.kill("SIGKILL"), DEADLINE_MS);
    try {
      const status = await this.child.status;
      await this.#collected;
      return status;
    } finally {
      clearTimeout(timer);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { code, signal } = await this.end("SIGTERM");
    assert.deepEqual({ code, signal }, { code: 0, signal: null }, this.log);
  }

  async #collect(): Promise<void> {
    for await (const text of this.child.stderr.pipeThrough(new TextDecoderStream())) this.log += text;
  }
}

/** A guest writes a file and reads one, and the host sees the same. */
export function useShare(socket: string, dir: string, options: SessionOptions = {}): Session {
  const session = Session.open(socket, { memory: 4 << 20, ...options });
  const { client } = session;
  const made = client.create(1, "from-guest");
  assert.equal(made.error, 0);
  const text = "written by the guest";
  assert.equal(client.write(made.nodeid, made.fh, 0, new TextEncoder().encode(text)).size, text.length);
  client.release(made.nodeid, made.fh);
  assert.equal(Deno.readTextFileSync(`${dir}/from-guest`), text);
  return session;
}
