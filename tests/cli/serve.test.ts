import assert from "node:assert/strict";

const main = new URL("../../main.ts", import.meta.url).pathname;

interface Result {
  code: number;
  stderr: string;
}

/** Runs the daemon, with arguments that it cannot serve with. */
async function run(args: string[], user = {}): Promise<Result> {
  const { code, stderr } = await new Deno.Command(Deno.execPath(), { args: ["run", "-A", main, ...args], ...user })
    .output();
  return { code, stderr: new TextDecoder().decode(stderr) };
}

const NOBODY = { uid: 65534, gid: 65534, cwd: "/", env: { HOME: "/" } };

/** Why the daemon cannot be run as nobody here, or "". */
function nobodyCannot(): string {
  if (Deno.uid() !== 0) return "needs root to become another user";
  try {
    const { success } = new Deno.Command(Deno.execPath(), { args: ["run", "-A", main, "--version"], ...NOBODY })
      .outputSync();
    return success ? "" : "this checkout is not readable for other users";
  } catch {
    return "deno is not executable for other users";
  }
}
const cannot = nobodyCannot();

/** It must say one line that has all of `words`, and end with the status. */
function saysOneLine({ code, stderr }: Result, status: number, ...words: string[]) {
  assert.match(stderr, /^ringfsd: [^\n]+\n$/);
  for (const word of words) assert.ok(stderr.includes(word), `${stderr.trim()} lacks ${word}`);
  assert.equal(code, status, stderr);
}

async function withDir(body: (dir: string) => Promise<void>) {
  const dir = Deno.makeTempDirSync({ prefix: "ringfsd-cli-" });
  try {
    await body(dir);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
}

Deno.test("serve() refuses a directory that is not there, or none", () =>
  withDir(async (dir) => {
    const socket = `${dir}/s`;
    saysOneLine(await run(["--shared-dir", `${dir}/gone`, "--socket-path", socket]), 1, `${dir}/gone`, "No such file");
    Deno.writeTextFileSync(`${dir}/file`, "");
    saysOneLine(
      await run(["--shared-dir", `${dir}/file`, "--socket-path", socket]),
      1,
      `${dir}/file`,
      "Not a directory",
    );
  }));

Deno.test("serve() refuses a socket path that cannot be, says why, and spares what is there", () =>
  withDir(async (dir) => {
    const share = ["--shared-dir", dir, "--socket-path"];
    saysOneLine(await run([...share, `${dir}/no/s`]), 1, `${dir}/no/s`, "No such file");
    saysOneLine(await run([...share, `${dir}/${"s".repeat(120)}`]), 1, "107");
    Deno.writeTextFileSync(`${dir}/file`, "kept");
    saysOneLine(await run([...share, `${dir}/file`]), 1, `${dir}/file`);
    assert.equal(Deno.readTextFileSync(`${dir}/file`), "kept");
    const other = Deno.listen({ transport: "unix", path: `${dir}/taken` });
    try {
      saysOneLine(await run([...share, `${dir}/taken`]), 1, `${dir}/taken`, "in use");
    } finally {
      other.close();
    }
  }));

Deno.test("serve() refuses a descriptor that is no socket", () =>
  withDir(async (dir) => {
    saysOneLine(await run(["--shared-dir", dir, "--fd", "0"]), 1, "descriptor 0");
    saysOneLine(await run(["--shared-dir", dir, "--fd", "999"]), 1, "descriptor 999");
  }));

Deno.test("serve() replaces the stale socket of a daemon that died, and ends with 0 at SIGTERM", () =>
  withDir(async (dir) => {
    const path = `${dir}/s`;
    const inSandbox = ["SIGKILL", "SIGTERM"].map((signal) => [signal, [] as string[]] as const);
    const outside = ["SIGKILL", "SIGTERM"].map((signal) => [signal, ["--sandbox", "none"]] as const);
    for (const [signal, more] of [...inSandbox, ...outside]) {
      const args = ["run", "-A", main, "--shared-dir", dir, "--socket-path", path, ...more];
      const daemon = new Deno.Command(Deno.execPath(), { args, stderr: "piped" }).spawn();
      await listening(daemon.pid);
      daemon.kill(signal as Deno.Signal);
      const { code, stderr } = await daemon.output();
      if (signal === "SIGTERM") assert.equal(code, 0, new TextDecoder().decode(stderr));
    }
    assert.throws(() => Deno.lstatSync(path), Deno.errors.NotFound);
  }));

/** Waits until a process has a listening UNIX socket. */
async function listening(pid: number) {
  for (const end = Date.now() + 10_000; Date.now() < end;) {
    if (listens(pid)) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.fail("the daemon does not listen after 10 s");
}

/** proc_pid_net: the sockets with __SO_ACCEPTCON, and whether one of them is a descriptor of the process. */
function listens(pid: number): boolean {
  const inodes = new Set<string>();
  for (const line of Deno.readTextFileSync("/proc/net/unix").split("\n").slice(1)) {
    const field = line.trim().split(/\s+/);
    if (field[3] === "00010000") inodes.add(`socket:[${field[6]}]`);
  }
  try {
    for (const fd of Deno.readDirSync(`/proc/${pid}/fd`)) {
      if (inodes.has(Deno.readLinkSync(`/proc/${pid}/fd/${fd.name}`))) return true;
    }
  } catch {
    // It has just begun, or a descriptor went meanwhile.
  }
  return false;
}

Deno.test("serve() refuses --inode-file-handles mandatory where there are no file handles", () =>
  withDir(async (dir) => {
    const args = ["--socket-path", `${dir}/s`, "--inode-file-handles", "mandatory", "--shared-dir"];
    saysOneLine(await run([...args, "/proc"]), 1, "/proc", "--inode-file-handles mandatory", "no file handles");
  }));

Deno.test({
  name: `serve() refuses --inode-file-handles mandatory without the capability${cannot && ` (skipped: ${cannot})`}`,
  ignore: cannot !== "",
  fn: () =>
    withDir(async (dir) => {
      Deno.chmodSync(dir, 0o777);
      const args = ["--socket-path", `${dir}/s`, "--inode-file-handles", "mandatory", "--shared-dir", dir];
      saysOneLine(await run(args, NOBODY), 1, dir, "CAP_DAC_READ_SEARCH");
    }),
});

Deno.test({
  name: `serve() as another user shares without file handles${cannot && ` (skipped: ${cannot})`}`,
  ignore: cannot !== "",
  fn: () =>
    withDir(async (dir) => {
      Deno.chmodSync(dir, 0o777);
      const args = ["run", "-A", main, "--shared-dir", dir, "--socket-path", `${dir}/s`, "--log-level", "debug"];
      const daemon = new Deno.Command(Deno.execPath(), { args, stderr: "piped", ...NOBODY }).spawn();
      await listening(daemon.pid);
      daemon.kill("SIGTERM");
      const { code, stderr } = await daemon.output();
      const said = new TextDecoder().decode(stderr);
      assert.equal(code, 0, said);
      assert.match(said, /debug: files are known by descriptor alone: opening file handles needs CAP_DAC_READ_SEARCH/);
    }),
});

Deno.test({
  name: `serve() as another user says what it may not do${cannot && ` (skipped: ${cannot})`}`,
  ignore: cannot !== "",
  fn: () =>
    withDir(async (dir) => {
      Deno.mkdirSync(`${dir}/locked`, { mode: 0o700 });
      Deno.chmodSync(dir, 0o755);
      const denied = "Permission denied";
      saysOneLine(await run(["--shared-dir", `${dir}/locked/in`, "--socket-path", `${dir}/s`], NOBODY), 1, denied);
      saysOneLine(await run(["--shared-dir", dir, "--socket-path", `${dir}/s`], NOBODY), 1, `${dir}/s`, denied);
    }),
});
