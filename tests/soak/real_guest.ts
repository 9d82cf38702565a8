/** A real guest for the soak test: User-Mode Linux boots, works with tar, fsx and fio on its share, and reboots, powers off or is killed. */
import assert from "node:assert/strict";
import { makeSmallFiles } from "../guest/data.ts";
import { Debian, runOnHost } from "../guest/debian.ts";
import { Guest, setUp } from "../guest/guest.ts";
import { random } from "../fs/random.ts";
import { compareTrees } from "../guest/tree.ts";
import type { Share } from "./daemon.ts";

const FSX = new URL("../posix/fsx.ts", import.meta.url).pathname;
const FILES = 200, FSX_OPERATIONS = 1500;
const MEM_MIB = 1024, TIMEOUT_MS = 240_000;

export class RealGuest {
  readonly counts = { boots: 0, reboots: 0, killed: 0, "powered off": 0, workloads: 0 };
  #dir = "";
  #share!: Share;
  #guest: Guest | null = null;
  readonly #next: (below: number) => number;
  #fio = false;

  constructor(readonly seed: number) {
    this.#next = random(seed);
  }

  async prepare(share: Share): Promise<void> {
    await setUp("uml");
    this.#share = share;
    this.#dir = Deno.makeTempDirSync({ prefix: "ringfsd-soak-guest-" });
    Deno.chmodSync(this.#dir, 0o755);
    await makeSmallFiles(`${this.#dir}/files`, FILES);
    this.#fio = await runOnHost("command -v fio", "/").then(() => true, () => false);
  }

  /** One life: boot, work, and an end. */
  async live(): Promise<void> {
    const { tag, socket } = this.#share;
    const guest = this.#guest = await Guest.boot({ kind: "uml", socket, tag, runDir: this.#dir, memMib: MEM_MIB });
    this.counts.boots++;
    try {
      await this.#work(guest);
      switch (this.#next(3)) {
        case 0:
          await guest.reboot();
          this.counts.reboots++;
          await this.#work(guest);
          await guest.powerOff();
          this.counts["powered off"]++;
          break;
        case 1:
          await guest.powerOff();
          this.counts["powered off"]++;
          break;
        case 2:
          // Amid its writes.
          await guest.start("dd if=/dev/zero of=/mnt/cut-off bs=64k count=4000");
          await new Promise((resolve) => setTimeout(resolve, this.#next(500)));
          await guest.kill();
          this.counts.killed++;
          await Deno.remove(`${this.#share.dir}/cut-off`).catch(() => {});
      }
    } catch (error) {
      throw new Error(`${(error as Error).message}\nthe guest's console:\n${guest.console.tail()}`, { cause: error });
    } finally {
      await this.kill();
    }
  }

  async #work(guest: Guest): Promise<void> {
    const debian = await Debian.open({ guest, dir: this.#dir });
    const work = `work-${this.counts.workloads}`;
    const files = `${this.#dir}/files`;
    const fsx = `${Deno.execPath()} run --allow-all --no-check --no-config ${FSX} fsx --operations=${FSX_OPERATIONS} ` +
      `--seed=${this.#next(1 << 20)}`;
    const fio =
      "fio --name=job --rw=randrw --bs=4k-64k --size=4m --nrfiles=2 --verify=crc32c --verify_fatal=1 --fallocate=none " +
      "--directory=. --minimal --ioengine=psync > log && rm -f log *.state job*";
    const more = [fsx, ...(this.#fio ? [fio] : []), "true"];
    const script = [
      `mkdir ${work} && cd ${work}`,
      `cp -a ${files} files && tar -cf a.tar files && mkdir out && tar -C out -xf a.tar && diff -r --no-dereference files out/files`,
      "rm -rf files && mv out/files files && rmdir out && rm a.tar",
      more[this.#next(more.length)],
      "rm -f fsx && sync",
    ].join(" && ");
    await debian.run(script, TIMEOUT_MS);
    assert.deepEqual(compareTrees(files, `${this.#share.dir}/${work}/files`), []);
    await Deno.remove(`${this.#share.dir}/${work}`, { recursive: true });
    this.counts.workloads++;
  }

  async kill(): Promise<void> {
    await this.#guest?.kill();
    this.#guest = null;
  }

  async clear(): Promise<void> {
    await this.kill();
    if (this.#dir !== "") await Deno.remove(this.#dir, { recursive: true });
  }
}
