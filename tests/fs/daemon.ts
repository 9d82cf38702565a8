/** The daemon as a child process on a directory of its own, for tests that talk to it as a guest does. */
import assert from "node:assert/strict";
import { Session, type SessionOptions } from "../../bench/session.ts";

const main = new URL("../../main.ts", import.meta.url).pathname;
const START_MS = 10_000;
const STOP_MS = 5000;
/** Options for every daemon, so that these tests can be run with others. */
const more = (Deno.env.get("RINGFSD_TEST_OPTIONS") ?? "").split(" ").filter((word) => word !== "");

/** Why a step cannot run that needs nodes to hold descriptors, or "". */
export const byHandle = more.includes("--inode-file-handles=mandatory") ? "nodes have file handles" : "";

/** How it is confined: as RINGFSD_TEST_SANDBOX says, so that all tests can be run inside a sandbox, or not. */
const sandbox = Deno.env.get("RINGFSD_TEST_SANDBOX") ?? "none";

function confinement(args: readonly string[]): string[] {
  // Names of the host's root, trusted.* and security.*, are not for a daemon without that.
  const admin = args.some((word) => /^--(xattr|security)/.test(word)) && sandbox !== "none";
  // File handles are used in a sandbox where they are asked for.
  const handles = sandbox === "none" || args.some((word) => word.startsWith("--inode-file-handles"));
  return [
    ...["--sandbox", sandbox],
    ...(admin ? ["--modcaps=+sys_admin"] : []),
    ...(handles ? [] : ["--inode-file-handles=prefer"]),
  ];
}

export interface DaemonOptions {
  /** Where its directories are made: the kind of file system matters to some tests. */
  base?: string;
  requestQueues?: number;
  args?: string[];
  /** A module instead of main.ts. */
  program?: string;
  /** Done with the directory before it is shared, and what is to be undone before it is removed. */
  prepare?: (share: string) => Promise<() => void>;
}

export class Daemon {
  /** What has been said on standard error. */
  log = "";

  #ended = false;
  readonly #collected: Promise<void>;

  private constructor(readonly dir: string, readonly child: Deno.ChildProcess, readonly undo: () => void) {
    this.#collected = this.#collect();
    child.status.then(() => this.#ended = true);
  }

  /** Starts it. Resolves when it listens. */
  static async start(
    { base = "/tmp", requestQueues = 2, args = [], program = main, prepare }: DaemonOptions = {},
  ): Promise<Daemon> {
    const dir = Deno.makeTempDirSync({ dir: base, prefix: "ringfsd-fs-" });
    // A guest's user must reach what is shared, as on a real host.
    Deno.chmodSync(dir, 0o755);
    Deno.mkdirSync(`${dir}/share`);
    Deno.chmodSync(`${dir}/share`, 0o755);
    const undo = await prepare?.(`${dir}/share`) ?? (() => {});
    const socket = [
      "--socket-path",
      `${dir}/socket`,
      "--shared-dir",
      `${dir}/share`,
      ...confinement([...more, ...args]),
    ];
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", program, ...socket, "--num-request-queues", `${requestQueues}`, ...more, ...args],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    const daemon = new Daemon(dir, child, undo);
    try {
      await daemon.until(() => daemon.log.includes(" shares "), "the daemon to listen", START_MS);
      return daemon;
    } catch (error) {
      await daemon.stop().catch(() => {});
      throw error;
    }
  }

  get pid(): number {
    return this.child.pid;
  }

  get socketPath(): string {
    return `${this.dir}/socket`;
  }

  /** Where a file of the share is on the host. */
  path(name = ""): string {
    return `${this.dir}/share/${name}`;
  }

  /** Where the daemon sees it. */
  inside(name = ""): string {
    return sandbox === "namespace" ? `/share/0/${name}` : this.path(name);
  }

  /** A guest: front end, queues and FUSE client. */
  session(options: SessionOptions = {}): Session {
    return Session.open(this.socketPath, options);
  }

  /** How many descriptors the daemon has open. */
  get descriptors(): number {
    return [...Deno.readDirSync(`/proc/${this.pid}/fd`)].length;
  }

  /** How many of them lead into the share: threads that start meanwhile have descriptors of their own. */
  get files(): number {
    let count = 0;
    for (const { name } of Deno.readDirSync(`/proc/${this.pid}/fd`)) {
      try {
        if (Deno.readLinkSync(`/proc/${this.pid}/fd/${name}`).startsWith(this.inside())) count++;
      } catch { /* closed meanwhile */ }
    }
    return count;
  }

  /** Waits until the daemon has so many descriptors open. */
  descriptorsAre(count: number): Promise<void> {
    return this.#countIs(() => this.descriptors, count);
  }

  filesAre(count: number): Promise<void> {
    return this.#countIs(() => this.files, count);
  }

  async #countIs(now: () => number, count: number): Promise<void> {
    try {
      await this.until(() => now() === count, "");
    } catch {
      assert.equal(now(), count, "descriptors of the daemon");
    }
  }

  /** Waits until something is so. Rejects, with what the daemon said, when it takes too long. */
  async until(condition: () => boolean, what: string, timeMs = 3000): Promise<void> {
    const deadline = performance.now() + timeMs;
    while (!condition()) {
      if (this.#ended || performance.now() > deadline) {
        throw new Error(`waited for ${what}; the daemon ${this.#ended ? "ended, and " : ""}said:\n${this.log}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }

  /** Ends it and removes its directories. Rejects where it did not end in good order. */
  async stop(): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    try {
      if (!this.#ended) this.child.kill("SIGTERM");
      timer = setTimeout(() => this.child.kill("SIGKILL"), STOP_MS);
      const { code, signal } = await this.child.status;
      await this.#collected;
      assert.deepEqual({ code, signal }, { code: 0, signal: null }, this.log);
    } finally {
      clearTimeout(timer);
      this.undo();
      // A guest may have left directories that nobody but root can look into.
      new Deno.Command("chmod", { args: ["-R", "u+rwx", this.dir], stderr: "null" }).outputSync();
      Deno.removeSync(this.dir, { recursive: true });
    }
  }

  async #collect(): Promise<void> {
    for await (const text of this.child.stderr.pipeThrough(new TextDecoderStream())) this.log += text;
  }
}

/** Names of a test's steps, each with what it does; a step that cannot run here says why. */
export type Step = (name: string, body: () => void | Promise<void>, cannot?: string) => Promise<void>;

/** Registers a test whose steps share a daemon and, with `session`, one guest. */
export function withDaemon(
  name: string,
  options: DaemonOptions & { session?: SessionOptions },
  body: (daemon: Daemon, session: Session, step: Step) => Promise<void>,
): void {
  Deno.test(name, async (t) => {
    const daemon = await Daemon.start(options);
    try {
      const session = daemon.session(options.session);
      try {
        await body(daemon, session, async (what, run, cannot = "") => {
          await t.step({ name: what + (cannot && ` (skipped: ${cannot})`), fn: () => run(), ignore: cannot !== "" });
        });
      } finally {
        session.close();
      }
    } finally {
      await daemon.stop();
    }
  });
}

export const isRoot = Deno.uid() === 0;
/** Why a step cannot run that mounts below the share, or "": the host's mounts reach a sandbox where they are shared, as systemd has them, mount_namespaces(7). */
export const needsMounts =
  sandbox !== "namespace" || / \/ \/ .* shared:/.test(Deno.readTextFileSync("/proc/self/mountinfo"))
    ? ""
    : "the host's mounts are private";
/** Why a step that makes devices or acts as other users cannot run, or "". */
export const needsRoot = isRoot ? "" : "needs root";
