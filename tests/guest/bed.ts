/** What a test of the share needs: a folder, a daemon that shares a part of it, and a guest that has the share mounted. */
import assert from "node:assert/strict";
import { Daemon, TAG } from "./daemon.ts";
import { type BootOptions, Guest, type Kind, setUp } from "./guest.ts";
import { OPS_SCRIPT } from "./ops.ts";
import { until } from "./poll.ts";
import { removeTree } from "./tree.ts";

export class Bed {
  readonly kind: Kind;
  /** A new folder for all that the test makes outside the share. */
  dir = "";
  /** The folder that the daemon shares: one in `dir`, unless the test brings its own. */
  shared = "";
  cache = "";
  /** The guest's memory, where the usual is too little. */
  memMib: number | undefined;
  /** What else is unusual about the guest. */
  machine: Pick<BootOptions, "kernel" | "cpus" | "queues" | "queueSize" | "qemu"> = {};
  daemon!: Daemon;
  guest!: Guest;
  /** The daemon's descriptors before the first guest came. */
  #before = new Map<string, number>();
  /** Why the bed could not be made; each test that needs it fails with this. */
  failure: unknown;
  #options: string[] = [];

  constructor(kind: Kind) {
    this.kind = kind;
  }

  /** Starts the daemon with these further options, boots the guest and waits until the share is mounted. */
  async make(...options: string[]): Promise<void> {
    this.dir = await Deno.makeTempDir({ prefix: "ringfsd-e2e-" });
    // Other users of guest and host come by here.
    await Deno.chmod(this.dir, 0o755);
    if (!this.shared) {
      this.shared = `${this.dir}/shared`;
      await Deno.mkdir(this.shared);
    }
    await Deno.mkdir(`${this.dir}/run`);
    this.#options = options;
    await this.#start();
  }

  async #start(): Promise<void> {
    try {
      this.cache = await setUp(this.kind, this.machine.kernel);
      this.daemon = await Daemon.start(`${this.dir}/run`, this.shared, ...this.#options);
      this.#before = this.daemon.descriptors();
      await this.boot();
    } catch (error) {
      this.failure = error;
      throw error;
    }
  }

  /** After a failure: makes a new guest, and a new daemon, as nobody knows what state they are in. */
  async renew(): Promise<void> {
    if (this.failure) return;
    await this.guest?.kill();
    await this.daemon.stop();
    await this.#start().catch((error) => console.error(`and there is no guest any more: ${error}`));
  }

  /** Boots a guest; one that runs is killed. */
  async boot(cpus = this.machine.cpus ?? 1): Promise<void> {
    await this.guest?.kill();
    this.guest = await Guest.boot({
      kind: this.kind,
      socket: this.daemon.socket,
      tag: TAG,
      runDir: `${this.dir}/run`,
      files: [OPS_SCRIPT],
      memMib: this.memMib,
      ...this.machine,
      cpus,
    });
  }

  async clear(): Promise<void> {
    await this.guest?.kill();
    await this.daemon?.stop();
    if (this.dir) await removeTree(this.dir);
  }

  /**
   * Without a guest the daemon runs and holds nothing of it: no file of the share, no memory of the guest's. Workers start when
   * a guest first needs them and stay, with pipes and rings of their own; so the first guest of a kind shows how many
   * descriptors there may be after the next.
   * @param allowed what an earlier call returned
   * @returns the number of descriptors
   */
  async expectDaemonIdle(allowed?: number): Promise<number> {
    assert(this.daemon.running, `the daemon has ended:\n${this.daemon.output.tail()}`);
    const list = () => [...this.daemon.descriptors()].map(([target, count]) => `${count} × ${target}`).join("\n");
    await until(
      "the daemon to close the guest's files",
      () =>
        [...this.daemon.descriptors()].every(([target, count]) =>
          /^(anon_inode|pipe|socket):/.test(target) || count <= (this.#before.get(target) ?? 0)
        ),
      10_000,
      list,
    );
    if (allowed === undefined) return await this.#settledCount();
    const count = () => this.daemon.descriptorCount();
    await until(`the daemon's descriptors to go back to ${allowed}`, () => count() <= allowed, 10_000, list);
    return count();
  }

  /** The daemon's number of descriptors once it has stayed the same for a dozen looks. */
  async #settledCount(): Promise<number> {
    let last = -1, looks = 0;
    await until("the daemon's descriptors to settle", () => {
      const count = this.daemon.descriptorCount();
      looks = count === last ? looks + 1 : 0;
      last = count;
      return looks >= 12;
    }, 10_000);
    return last;
  }

  /** What a person wants to see of a failed test. */
  report(): string {
    const ends = [["daemon", this.daemon?.output], ["guest's console", this.guest?.console]] as const;
    return ends.map(([name, output]) => `--- ${name} ---\n${output?.tail() || "(nothing)"}`).join("\n");
  }
}
