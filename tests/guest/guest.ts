/** A Linux guest under the tests' control: boots through boot.sh and runs commands given over its console. */
import { Output } from "./output.ts";
import { until } from "./poll.ts";

const folder = new URL("./", import.meta.url).pathname;

/** uml: User-Mode Linux. tcg: QEMU without hardware help. kvm: QEMU with it. */
export type Kind = "uml" | "tcg" | "kvm";

/** Kernels for QEMU other than this Debian's, as setup.sh names them: Debian 13's, and its larger sibling that has 9p. */
export type Kernel = "linux-6.12" | "linux-6.12-9p";

export interface BootOptions {
  kind: Kind;
  /** The daemon's socket; the share is mounted on /mnt. */
  socket: string;
  tag: string;
  /** A folder for the guest's files. */
  runDir: string;
  /** Host files to put into the guest's root folder. */
  files?: string[];
  /** CPUs; and request queues, one for each CPU if not said, which guests use from Linux 6.11 on. User-Mode Linux has one. */
  cpus?: number;
  queues?: number;
  /** Descriptors of each queue; QEMU has a default. */
  queueSize?: number;
  /** This Debian's, if not said. */
  kernel?: Kernel;
  /** Further arguments for QEMU. */
  qemu?: string[];
  /** The guest's memory; boot.sh has a default. */
  memMib?: number;
  /** A file with a shell command for QEMU, which says memory and share itself. */
  lines?: string;
}

export interface Result {
  status: number;
  output: string;
}

/** Puts kernel, busybox and initramfs of that kind into the cache, and returns the cache folder. */
export async function setUp(kind: Kind, kernel?: Kernel): Promise<string> {
  const args = kernel ? [kind, kernel] : [kind];
  const { success, stdout, stderr } = await new Deno.Command(`${folder}setup.sh`, { args, stdin: "null" }).output();
  const said = new TextDecoder().decode(stderr).trim();
  if (!success) throw new Error(said);
  if (said) console.error(said);
  return new TextDecoder().decode(stdout).trim();
}

export class Guest {
  readonly console: Output;
  readonly kind: Kind;
  #process: Deno.ChildProcess;
  #input: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  #ended = false;
  #commands = 0;
  #boots = 0;

  private constructor(kind: Kind, process: Deno.ChildProcess) {
    this.kind = kind;
    this.#process = process;
    this.#input = process.stdin.getWriter();
    this.console = new Output(process.stdout, process.stderr);
    process.status.then(() => this.#ended = true);
  }

  /**
   * Boots a guest and waits until it takes commands, the share mounted.
   * @throws Error with the end of the console when it has not come up after 90 s
   */
  static async boot(options: BootOptions): Promise<Guest> {
    const {
      kind,
      socket,
      tag,
      runDir,
      files = [],
      cpus = 1,
      queues = cpus,
      queueSize,
      memMib,
      kernel,
      qemu = [],
      lines,
    } = options;
    await setUp(kind, kernel);
    // A session of its own: User-Mode Linux is many processes, which are killed as one group.
    const process = new Deno.Command("setsid", {
      args: [
        `${folder}boot.sh`,
        kind,
        ...["--dir", runDir, "--socket", socket, "--tag", tag],
        ...["--agent", "--reboot"],
        ...(memMib ? ["--mem", String(memMib)] : []),
        ...["--cpus", `${cpus}`, "--queues", `${queues}`],
        ...(queueSize ? ["--queue-size", `${queueSize}`] : []),
        ...(kernel ? ["--kernel", kernel] : []),
        ...(lines ? ["--lines", lines] : []),
        ...qemu.flatMap((argument) => ["--qemu", argument]),
        ...files.flatMap((file) => ["--add", file]),
      ],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const guest = new Guest(kind, process);
    try {
      await guest.#ready();
    } catch (error) {
      await guest.kill();
      throw error;
    }
    return guest;
  }

  /** Of the guest's machine: boot.sh has become it. */
  get pid(): number {
    return this.#process.pid;
  }

  async #ready(): Promise<void> {
    const wanted = ++this.#boots;
    await this.#until("the guest's boot", () => this.console.text.split("@ringfsd ready").length > wanted, 90_000);
    const complaint = /^@ringfsd cannot .*$/m.exec(this.console.text);
    if (complaint) throw new Error(`the guest ${complaint[0].slice(9)}:\n${this.console.tail()}`);
  }

  #until<T>(what: string, look: () => T, timeoutMs: number) {
    return until(
      what,
      () => {
        const found = look();
        if (!found && this.#ended) throw new Error(`the guest ended during ${what}:\n${this.console.tail()}`);
        return found;
      },
      timeoutMs,
      () => `the guest's console ends with:\n${this.console.tail()}`,
    );
  }

  async #send(line: string): Promise<void> {
    await this.#input.write(new TextEncoder().encode(line + "\n"));
  }

  /** Runs a shell command in the guest, without waiting for its end. Returns its number. */
  async start(command: string): Promise<number> {
    const number = ++this.#commands;
    // A console in canonical mode takes lines of up to 4095 bytes.
    if (command.includes("\n") || command.length > 4000) throw new Error("a guest's command must be one line");
    await this.#send(`${number} ${command}`);
    return number;
  }

  /** Runs a shell command in the guest and returns its status and output; throws when it takes longer than `timeoutMs`. */
  async try(command: string, timeoutMs = 60_000): Promise<Result> {
    const from = this.console.text.length;
    const number = await this.start(command);
    const marker = new RegExp(`\\n@ringfsd exit ${number} (\\d+)\\n`);
    const match = await this.#until(
      `the guest's "${command}"`,
      () => {
        const said = this.console.text.slice(from);
        if (said.includes("\nKernel panic") || said.includes("] Kernel panic")) {
          throw new Error(`the guest's kernel died of "${command}":\n${this.console.tail(80)}`);
        }
        return marker.exec(said);
      },
      timeoutMs,
    );
    return { status: Number(match[1]), output: this.console.text.slice(from, from + match.index) };
  }

  /** Like try(), and throws when the command's status is not 0. */
  async run(command: string, timeoutMs?: number): Promise<string> {
    const { status, output } = await this.try(command, timeoutMs);
    if (status !== 0) throw new Error(`the guest's "${command}" ended with ${status}:\n${output}`);
    return output;
  }

  /** Reboots the guest, which resets its devices, and waits until it takes commands again. */
  async reboot(): Promise<void> {
    await this.start("umount /mnt; reboot -f");
    await this.#ready();
  }

  /** Powers the guest off and waits until it is gone. */
  async powerOff(): Promise<void> {
    await this.start("umount /mnt; poweroff -f");
    await until("the guest's power-off", () => this.#ended, 30_000, () => this.console.tail());
    await this.#close();
  }

  /** Kills the guest wherever it is; for guests that have ended it does nothing. */
  async kill(): Promise<void> {
    try {
      Deno.kill(-this.#process.pid, "SIGKILL");
    } catch { /* it has ended */ }
    await this.#process.status;
    await this.#close();
  }

  async #close(): Promise<void> {
    await this.#input.close().catch(() => {});
    await this.console.ended;
  }
}
