/** A second process that makes system calls for this one: locks are a process's, and some calls wait. Used synchronously. */
import { type Arg, type Call, memory } from "./call.ts";
import { S_IFIFO } from "./constants.ts";
import { describe, Sys } from "./sys.ts";

const encoder = new TextEncoder();
// Read early: in another mount namespace, behind a chroot, /proc tells another path.
const deno = Deno.execPath();

/** A call or an answer as one line: buffers as arrays of bytes, 64-bit numbers as text. */
export function pack(values: (Arg | undefined)[]): string {
  const plain = values.map((value) =>
    value instanceof Uint8Array ? [...value] : typeof value === "bigint" ? String(value) : value
  );
  return JSON.stringify(plain) + "\n";
}

export function unpack(line: string): Arg[] {
  return JSON.parse(line).map((value: unknown) => {
    if (Array.isArray(value)) {
      const buffer = memory(value.length);
      buffer.set(value);
      return buffer;
    }
    return typeof value === "string" ? BigInt(value) : value;
  });
}

/** Reads a line and waits for it; "" at the end of the stream. */
export function readLine(file: Deno.FsFile): string {
  const byte = new Uint8Array(1), line: number[] = [];
  while (file.readSync(byte) && byte[0] !== 10) line.push(byte[0]);
  return String.fromCharCode(...line);
}

export class Process {
  /** The same calls as Sys has, made over there. */
  readonly sys: Sys;
  #calls: Deno.FsFile;
  #answers: Deno.FsFile;
  #folder: string;
  #pending: Arg[] | undefined;

  constructor() {
    this.#folder = Deno.makeTempDirSync({ prefix: "posix-process-" });
    const [calls, answers] = [`${this.#folder}/calls`, `${this.#folder}/answers`];
    for (const path of [calls, answers]) {
      const result = new Sys().mknod(path, S_IFIFO | 0o600);
      if (result < 0) throw new Error(`a pipe in ${this.#folder}: ${describe(result)}`);
    }
    const helper = new URL("./helper.ts", import.meta.url).pathname;
    new Deno.Command(deno, {
      args: ["run", "--allow-all", "--no-config", helper, calls, answers],
      stdin: "null",
      stdout: "inherit",
      stderr: "inherit",
    }).spawn().unref();
    // Each open waits for the other side's.
    this.#calls = Deno.openSync(calls, { write: true });
    this.#answers = Deno.openSync(answers);
    const call: Call = (number, ...args) => {
      this.begin(number, ...args);
      return this.end();
    };
    this.sys = new Sys(call);
  }

  /** Has a call made that may wait. */
  begin(number: number, ...args: Arg[]): void {
    this.#pending = args;
    this.#calls.writeSync(encoder.encode(pack([number, ...args])));
  }

  /** Begins what `body` calls, without its result. */
  beginWith(body: (sys: Sys) => void): void {
    body(
      new Sys((number, ...args) => {
        this.begin(number, ...args);
        return 0;
      }),
    );
  }

  /** Waits for the result of the call that was begun. */
  end(): number {
    const line = readLine(this.#answers);
    if (!line) throw new Error("the second process has ended");
    const [result, ...buffers] = unpack(line);
    this.#pending!.forEach((arg, i) => {
      if (arg instanceof Uint8Array) arg.set(buffers[i] as Uint8Array);
    });
    return result as number;
  }

  /** Ends it: all that it holds is released. Waits until that has been done. */
  stop(): void {
    this.#calls.close();
    readLine(this.#answers);
    this.#answers.close();
    Deno.removeSync(this.#folder, { recursive: true });
  }
}
