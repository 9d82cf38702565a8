import { bundle } from "../../packaging/bundle.ts";
import { packElf } from "../../packaging/pack.ts";
import { packSelfExtractor } from "../../packaging/selfextract.ts";

export const isRoot = Deno.uid() === 0;
export const isX86Glibc = Deno.build.target === "x86_64-unknown-linux-gnu";
export const fixture = new URL("./fixture/main.ts", import.meta.url).pathname;

/** True when a program of this name is on PATH. */
export function have(program: string): boolean {
  return (Deno.env.get("PATH") ?? "").split(":").some((dir) => {
    try {
      return Deno.statSync(`${dir}/${program}`).isFile;
    } catch {
      return false;
    }
  });
}

/** A directory that others may enter, removed when it goes out of scope. */
export function tempDir(): { path: string; [Symbol.dispose](): void } {
  const path = Deno.makeTempDirSync({ prefix: "ringfsd-test-" });
  Deno.chmodSync(path, 0o755);
  return { path, [Symbol.dispose]: () => Deno.removeSync(path, { recursive: true }) };
}

const made = new Map<string, Promise<string>>();

/** The fixture program as one executable; each kind is made once per test file, in a directory of its own. */
export function packed(kind: "elf" | "sh"): Promise<string> {
  let file = made.get(kind);
  if (!file) {
    const dir = tempDir();
    globalThis.addEventListener("unload", () => dir[Symbol.dispose]());
    const pack = kind === "elf" ? packElf : packSelfExtractor;
    file = bundle(fixture, "script", "1.2.3-test").then(async (text) => {
      const out = `${dir.path}/program`;
      await pack(Deno.execPath(), text, out);
      return out;
    });
    made.set(kind, file);
  }
  return file;
}

export interface Result {
  code: number;
  signal: Deno.Signal | null;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end. Without `env` the environment is PATH alone. */
export async function run(
  program: string,
  args: string[],
  { cwd, env = {} }: { cwd?: string; env?: Record<string, string> } = {},
): Promise<Result> {
  const { code, signal, stdout, stderr } = await new Deno.Command(program, {
    args,
    cwd,
    env: { PATH: Deno.env.get("PATH") ?? "", NO_COLOR: "1", ...env },
    clearEnv: true,
    stdin: "null",
  }).output();
  return {
    code,
    signal,
    stdout: new TextDecoder().decode(stdout).trim(),
    stderr: new TextDecoder().decode(stderr).trim(),
  };
}

/** A program that runs on while the test talks with it by lines. */
export class Conversation {
  readonly #reader: ReadableStreamDefaultReader<string>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly child: Deno.ChildProcess;

  constructor(program: string, args: string[], env: Record<string, string> = {}) {
    this.child = new Deno.Command(program, { args, env, stdin: "piped", stdout: "piped", stderr: "inherit" }).spawn();
    this.#reader = this.child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    this.#writer = this.child.stdin.getWriter();
  }

  /** What the program writes next: one short line arrives in one piece. */
  async read(): Promise<string> {
    return ((await this.#reader.read()).value ?? "").trim();
  }

  async send(text: string): Promise<void> {
    await this.#writer.write(new TextEncoder().encode(text));
  }

  /** Sends `signal` if given, reads the rest and waits for the end. */
  async end(signal?: Deno.Signal): Promise<{ rest: string; status: Deno.CommandStatus }> {
    if (signal) this.child.kill(signal);
    await this.#writer.close().catch(() => {});
    let rest = "";
    for (let part = await this.#reader.read(); !part.done; part = await this.#reader.read()) rest += part.value;
    return { rest: rest.trim(), status: await this.child.status };
  }
}
