/** The daemon that is fuzzed: a process of its own, and what it must have left alone after any input. */
import assert from "node:assert/strict";
import { DEFAULT_INIT_FLAGS } from "../../bench/fuse_client.ts";
import { Daemon } from "../fs/daemon.ts";
import { hostStat } from "../fs/host_stat.ts";

const ROOT = 1;
const MIB = 1 << 20;
/** A guest may ask for files of any size: none gets larger than this, so that a disk is not filled. In bytes. */
const FILE_MAX = 64 * MIB;
/** What the daemon may grow by while it is fuzzed: compiled code, tables that were touched once, threads that helpers start. */
const RSS_GROWTH = 384 * MIB;
const DESCRIPTOR_GROWTH = 96;
/** With security labels, which a setup insists on. */
const INIT_FLAGS = DEFAULT_INIT_FLAGS | 1n << 30n | 1n << 32n;
const SETTLE_MS = 10_000;

/** One way to start the daemon: options, and where its share lies, for the file system decides who serves a request. */
export interface Setup {
  readonly name: string;
  readonly args: readonly string[];
  /** A directory on a file system in memory; else on that of temporary files. */
  readonly inMemory?: boolean;
}

export const SETUPS: readonly Setup[] = [
  { name: "plain", args: [] },
  {
    name: "all",
    inMemory: true,
    args: [
      "--xattr",
      "--posix-acl=auto",
      "--posix-lock",
      "--flock",
      "--killpriv-v2",
      "--writeback",
      "--allow-direct-io",
    ],
  },
  { name: "handles", args: ["--inode-file-handles=mandatory", "--posix-lock", "--flock", "--tag=fuzz"] },
  {
    name: "mapped",
    args: [
      "--xattr",
      "--security-label",
      "--xattrmap=:map::user.virtiofs.:",
      "--translate-uid=map:0:0:4294967295",
      "--no-readdirplus",
      "--preserve-noatime",
      "--cache=never",
    ],
  },
  { name: "readonly", inMemory: true, args: ["--readonly", "--cache=always", "--tag=fuzz"] },
];

export function setupNamed(name: string): Setup {
  const found = SETUPS.find((one) => one.name === name);
  if (!found) throw new Error(`there is no setup ${name}: use ${SETUPS.map((one) => one.name).join(" ")}`);
  return found;
}

/** What a guest finds, and what stands beside the share. */
export function prepareShare(share: string): void {
  const outside = share.replace(/\/share$/, "");
  Deno.writeTextFileSync(`${outside}/canary`, "nobody reads or writes this");
  Deno.mkdirSync(`${outside}/cage`);
  Deno.writeTextFileSync(`${outside}/cage/a`, "nor this");
  Deno.writeFileSync(`${share}/a`, new Uint8Array(9000).fill(97));
  Deno.writeTextFileSync(`${share}/b`, "b");
  Deno.mkdirSync(`${share}/dir/sub`, { recursive: true });
  for (let i = 0; i < 40; i++) Deno.writeTextFileSync(`${share}/dir/entry-${i}`, "");
  Deno.symlinkSync("../canary", `${share}/out`);
  Deno.symlinkSync("..", `${share}/up`);
  Deno.symlinkSync(`${outside}/cage`, `${share}/abs`);
  Deno.symlinkSync("out", `${share}/twice`);
  Deno.symlinkSync("/proc/self/root", `${share}/magic`);
  new Deno.Command("mkfifo", { args: [`${share}/fifo`] }).outputSync();
  if (Deno.uid() !== 0) return;
  new Deno.Command("mknod", { args: [`${share}/null`, "c", "1", "3"] }).outputSync();
  new Deno.Command("mknod", { args: [`${share}/disk`, "b", "7", "200"] }).outputSync();
}

/** Something that the daemon must not do was seen. */
export class Found extends Error {
  override name = "Found";
}

export class Target {
  readonly #canaries: { path: string; state: string }[] = [];
  #files = 0;
  #descriptors = 0;
  #rss = 0;

  private constructor(readonly daemon: Daemon, readonly setup: Setup) {}

  static async start(setup: Setup): Promise<Target> {
    const base = setup.inMemory ? "/dev/shm" : Deno.makeTempDirSync({ prefix: "ringfsd-fuzz-" });
    const daemon = await Daemon.start({
      base,
      args: [...setup.args],
      prepare: (share) => {
        prepareShare(share);
        return Promise.resolve(() => {});
      },
    });
    const limit = `--fsize=${FILE_MAX}`;
    new Deno.Command("prlimit", { args: ["--pid", `${daemon.pid}`, limit], stderr: "null" }).outputSync();
    const target = new Target(daemon, setup);
    await target.#begin();
    return target;
  }

  async #begin(): Promise<void> {
    // A first session has it touch all that any session needs.
    for (let i = 0; i < 3; i++) this.works();
    await new Promise((resolve) => setTimeout(resolve, 50));
    const { dir } = this.daemon;
    for (const path of [`${dir}/canary`, `${dir}/cage`, `${dir}/cage/a`]) {
      this.#canaries.push({ path, state: this.#stateOf(path) });
    }
    this.#files = this.daemon.files;
    this.#descriptors = this.daemon.descriptors;
    this.#rss = this.rss;
  }

  /** Times of access are compared too: nothing of ours reads the canaries before the end. */
  #stateOf(path: string): string {
    return JSON.stringify(hostStat(path));
  }

  /** Memory that the daemon has to itself, in bytes. */
  get rss(): number {
    const text = Deno.readTextFileSync(`/proc/${this.daemon.pid}/status`);
    return Number(/^RssAnon:\s+(\d+)/m.exec(text)![1]) * 1024;
  }

  /** A guest's ordinary work, from its first message to its last. Throws where anything of it fails. */
  works(): void {
    using session = this.daemon.session({
      memory: 8 * MIB,
      requestQueues: 2,
      maxData: 1 << 18,
      timeoutMs: 10_000,
      initFlags: INIT_FLAGS,
    });
    const { client } = session;
    client.setattr(ROOT, { mode: 0o40755 });
    const ok = (error: number, what: string) => assert.equal(error, 0, `a valid session: ${what}`);
    ok(client.getattr(ROOT).error, "GETATTR");
    if (!this.setup.args.includes("--readonly")) {
      const name = "a-valid-file";
      client.unlink(ROOT, name);
      const { error, nodeid, fh } = client.create(ROOT, name, 2);
      ok(error, "CREATE");
      const data = new Uint8Array(100_000).map((_, i) => i * 7);
      assert.equal(client.write(nodeid, fh, 5, data).size, data.length, "a valid session: WRITE");
      assert.deepEqual(client.read(nodeid, fh, 5, data.length).data, data, "a valid session: READ");
      ok(client.release(nodeid, fh).error, "RELEASE");
      ok(client.unlink(ROOT, name).error, "UNLINK");
      client.forget(nodeid);
    }
    ok(client.list(ROOT).error, "READDIR");
    ok(client.destroy().error, "DESTROY");
  }

  /** Throws Found where something is not as it must be after any input. */
  async check(): Promise<void> {
    const { daemon } = this;
    try {
      this.works();
    } catch (error) {
      // What it has said until now is not read before this thread waits.
      await new Promise((resolve) => setTimeout(resolve, 50));
      throw new Found(`no valid session afterwards: ${(error as Error).message}\n${daemon.log.slice(-3000)}`);
    }
    const deadline = performance.now() + SETTLE_MS;
    while (daemon.files > this.#files && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    const complain = (text: string) => {
      throw new Found(`${text}\n${daemon.log.slice(-3000)}`);
    };
    await new Promise((resolve) => setTimeout(resolve, 0));
    const faults = daemon.log.match(/^.*(fault of ringfsd's own|panick|fatal).*$/m);
    if (faults) complain(`the daemon met a fault of its own: ${faults[0]}`);
    if (daemon.files > this.#files) complain(`${daemon.files} descriptors into the share, ${this.#files} before`);
    const { descriptors } = daemon;
    if (descriptors > this.#descriptors + DESCRIPTOR_GROWTH) {
      complain(`${descriptors} descriptors, ${this.#descriptors} at the start`);
    }
    if (this.rss > this.#rss + RSS_GROWTH) complain(`${this.rss} bytes of memory, ${this.#rss} at the start`);
    for (const { path, state } of this.#canaries) {
      if (this.#stateOf(path) !== state) complain(`${path} is outside of the share and was touched`);
    }
    const beside = [...Deno.readDirSync(daemon.dir)].map(({ name }) => name).sort().join(" ");
    if (beside !== "cage canary share socket") complain(`beside the share there is now: ${beside}`);
  }

  /** What a long run is judged by. */
  get figures(): string {
    const mib = (bytes: number) => Math.round(bytes / MIB);
    return `${this.daemon.descriptors} descriptors (${this.#descriptors} at the start), ` +
      `${mib(this.rss)} MiB (${mib(this.#rss)})`;
  }

  /** Ends it. `kill`: it may be in no state to end in good order. */
  async stop(kill = false): Promise<void> {
    const { daemon } = this;
    if (kill) {
      try {
        daemon.child.kill("SIGKILL");
      } catch { /* it ended by itself */ }
    }
    try {
      await daemon.stop();
    } catch (error) {
      if (!kill) throw new Found((error as Error).message);
    } finally {
      if (!this.setup.inMemory) Deno.removeSync(daemon.dir.replace(/\/[^/]*$/, ""), { recursive: true });
    }
  }
}
