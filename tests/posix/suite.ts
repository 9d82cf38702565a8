/** What a subject of the suite gets to work with: a folder of its own, system calls, and assertions that print a line each. */
import * as c from "./constants.ts";
import { Process } from "./process.ts";
import { describe, type Path, Sys } from "./sys.ts";

export interface Options {
  /** Directories of 100,000 entries, and other things that take their time. */
  large: boolean;
  /** Print only what is not ok or skipped, and the count. */
  quiet: boolean;
}

export class Suite {
  readonly sys = new Sys();
  readonly root: string;
  readonly options: Options;
  /** Whether this process may become other users. */
  readonly asRoot = Deno.uid() === 0;
  readonly counts = { ok: 0, failed: 0, skipped: 0 };
  #subject = "";
  #names = new Set<string>();
  #folder = "";
  #serial = 0;

  constructor(root: string, options: Options) {
    this.root = root;
    this.options = options;
  }

  /** Runs a subject in a new folder. That it ends without an exception is an assertion, too. */
  run(subject: string, body: (t: Suite) => void): void {
    this.#subject = subject;
    this.#folder = `${this.root}/${subject.replaceAll(" ", "-")}`;
    this.sys.umask(0o022);
    must(this.sys.mkdir(this.#folder, 0o755), `mkdir ${this.#folder}`);
    let problem = "";
    try {
      body(this);
    } catch (error) {
      problem = String((error as Error).stack ?? error).split("\n").slice(0, 4).join(" | ");
    }
    this.#subject = subject;
    this.is("the subject runs to its end", problem, "");
  }

  /** A path in the subject's folder. */
  path(name: string): string {
    return `${this.#folder}/${name}`;
  }

  /** A path in it that nothing has yet. */
  fresh(prefix = "f"): string {
    return this.path(`${prefix}.${++this.#serial}`);
  }

  #line(how: string, name: string, detail: string): void {
    const full = `${this.#subject}: ${name}`;
    if (this.#names.has(full)) throw new Error(`two assertions are called "${full}"`);
    this.#names.add(full);
    if (!this.options.quiet || how !== "ok") console.log(`${how} - ${full}${detail}`);
  }

  is(name: string, actual: unknown, expected: unknown): void {
    const [got, want] = [describe(actual), describe(expected)];
    if (got === want) {
      this.counts.ok++;
      this.#line("ok", name, "");
    } else {
      this.counts.failed++;
      this.#line("not ok", name, ` # got ${got.slice(0, 200)}, should be ${want.slice(0, 200)}`);
    }
  }

  /** The call failed with this errno. */
  fails(name: string, result: unknown, errno: number): void {
    this.is(name, result, -errno);
  }

  /** The call succeeded. */
  works(name: string, result: number | string): void {
    this.is(name, typeof result === "number" && result < 0 ? result : 0, 0);
  }

  ok(name: string, condition: boolean, detail?: unknown): void {
    this.is(detail === undefined ? name : name, condition ? true : detail ?? false, true);
  }

  skip(name: string, reason: string): void {
    this.counts.skipped++;
    this.#line("skip", name, ` # ${reason}`);
  }

  /** Makes a file with these contents. */
  file(path: Path = this.fresh(), contents = "", mode = 0o644): string {
    const fd = must(this.sys.open(path, c.O_WRONLY | c.O_CREAT | c.O_TRUNC, mode), `create ${path}`);
    if (contents) must(this.sys.write(fd, contents), `write ${path}`);
    this.sys.close(fd);
    return path as string;
  }

  folder(path: string = this.fresh("d"), mode = 0o755): string {
    must(this.sys.mkdir(path, mode), `mkdir ${path}`);
    return path;
  }

  /** Opens, lets `body` use the descriptor, closes. */
  using<T>(path: Path, flags: number, body: (fd: number) => T, mode = 0o644): T {
    const fd = must(this.sys.open(path, flags, mode), `open ${path}`);
    try {
      return body(fd);
    } finally {
      this.sys.close(fd);
    }
  }

  /** The whole of a small file, or -errno. */
  contents(path: Path): string | number {
    const fd = this.sys.open(path, c.O_RDONLY);
    if (fd < 0) return fd;
    const data = this.sys.pread(fd, 1 << 16, 0);
    this.sys.close(fd);
    return data;
  }

  /** Does something as an ordinary user: this thread's ids, all of them, are changed meanwhile. */
  as<T>(uid: number, gid: number, groups: number[], body: () => T): T {
    const { call } = this.sys;
    const { SYS } = c;
    const list = new Uint8Array(new Uint32Array(groups).buffer);
    must(call(SYS.setgroups, groups.length, list), "setgroups");
    must(call(SYS.setresgid, gid, gid, 0), "setresgid");
    must(call(SYS.setresuid, uid, uid, 0), "setresuid");
    try {
      return body();
    } finally {
      must(call(SYS.setresuid, 0, 0, 0), "setresuid back");
      must(call(SYS.setresgid, 0, 0, 0), "setresgid back");
      must(call(SYS.setgroups, 0, null), "setgroups back");
    }
  }

  /** A second process to make system calls in. */
  process(): Process {
    return new Process();
  }

  /** Lets the clock of the file system's time stamps advance: by some tens of milliseconds. */
  tick(): void {
    // Kernel time stamps move with the timer interrupt, every 10 ms at the slowest.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 25);
  }
}

/** Throws when a call that only prepares an assertion fails. */
export function must(result: number, what = "a call"): number {
  if (result < 0) throw new Error(`${what}: ${describe(result)}`);
  return result;
}
