/** A back end's process, to be killed. */
import { until } from "../vq/bed.ts";

export class BackEnd {
  log = "";
  readonly child: Deno.ChildProcess;
  readonly #collected: Promise<void>;

  /** Runs a program of ours. It listens when its log has said `listens`. */
  constructor(program: string, args: readonly string[], readonly socketPath: string, readonly listens: string) {
    this.child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", program, ...args],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    this.#collected = this.#collect(this.child.stderr);
  }

  async #collect(stderr: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> {
    for await (const text of stderr.pipeThrough(new TextDecoderStream())) this.log += text;
  }

  ready(): Promise<void> {
    return until(() => this.log.includes(this.listens), `the back end: ${this.log}`);
  }

  /** Requests that it says it took up again. */
  get takenUp(): number {
    const counts = this.log.matchAll(/: (\d+) request\(s\) that were in flight/g);
    return [...counts].reduce((sum, [, count]) => sum + Number(count), 0);
  }

  async ended(): Promise<Deno.CommandStatus> {
    const status = await this.child.status;
    await this.#collected;
    return status;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await this.ended();
  }
}
