/** Collects what a process writes, so that it can be searched while the process runs. */
import { tail } from "./poll.ts";

export class Output {
  text = "";
  /** Resolves when every stream has ended. */
  readonly ended: Promise<void>;

  constructor(...streams: ReadableStream<Uint8Array<ArrayBuffer>>[]) {
    this.ended = Promise.all(streams.map((stream) => this.#collect(stream))).then(() => {});
  }

  async #collect(stream: ReadableStream<Uint8Array<ArrayBuffer>>) {
    const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
    while (true) {
      const { done, value } = await reader.read();
      if (done) return;
      this.text += value.replaceAll("\r", "");
    }
  }

  tail(lines?: number): string {
    return tail(this.text, lines);
  }
}
