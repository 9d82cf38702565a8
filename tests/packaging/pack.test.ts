import assert from "node:assert/strict";
import { bundle } from "../../packaging/bundle.ts";
import { packElf } from "../../packaging/pack.ts";
import { Conversation, fixture, have, isRoot, isX86Glibc, packed, run, tempDir } from "./helpers.ts";

/** A test of the packed ELF; on other machines that way of packing does not exist. */
function elfTest(name: string, fn: (program: string) => Promise<void>, needs = "", available = true): void {
  Deno.test({
    name: `packedElf() ${name}${needs && ` (needs ${needs})`}`,
    ignore: !isX86Glibc || !available,
    fn: async () => fn(await packed("elf")),
  });
}

elfTest("starts alone in an empty directory with an empty environment, and leaves nothing there", async (program) => {
  using dir = tempDir();
  Deno.mkdirSync(`${dir.path}/home`);
  await Deno.copyFile(program, `${dir.path}/ringfsd`);
  const { stdout, stderr, code } = await run(
    "env",
    ["-i", `HOME=${dir.path}/home`, `${dir.path}/ringfsd`, "--version"],
    {
      cwd: dir.path,
    },
  );
  assert.deepEqual({ stdout, stderr, code }, { stdout: "fixture 1.2.3-test", stderr: "", code: 0 });
  assert.deepEqual([...Deno.readDirSync(dir.path)].map((entry) => entry.name).sort(), ["home", "ringfsd"]);
  assert.deepEqual([...Deno.readDirSync(`${dir.path}/home`)], []);
});

elfTest("hands every argument through, Deno's own options too", async (program) => {
  const args = [
    "--help",
    "-V",
    "--",
    "-o",
    "a=b",
    "--version",
    "--allow-all",
    "",
    "a b",
    "größe",
    "--",
    "-",
    "--v8-flags=--help",
  ];
  const { stdout } = await run(program, args);
  assert.deepEqual(JSON.parse(stdout), args);
  assert.deepEqual(JSON.parse((await run(program, [])).stdout), []);
  const many = Array.from({ length: 5000 }, (_, i) => `argument ${i}`);
  assert.deepEqual(JSON.parse((await run(program, many)).stdout), many);
});

elfTest("heeds no deno.json, package.json, .env, .npmrc or lock file of the working directory", async (program) => {
  using dir = tempDir();
  for (const name of ["deno.json", "package.json", "deno.lock", ".npmrc"]) {
    Deno.writeTextFileSync(`${dir.path}/${name}`, "{ broken");
  }
  Deno.writeTextFileSync(`${dir.path}/.env`, "FROM_DOTENV=1");
  const { stdout, stderr } = await run(program, ["env"], { cwd: dir.path, env: { HOME: dir.path } });
  assert.equal(stderr, "");
  assert.equal(JSON.parse(stdout).FROM_DOTENV, undefined);
});

elfTest("leaves the environment as the user set it, for itself and for children", async (program) => {
  const env = {
    DENO_DIR: "/somewhere",
    DENO_LOG: "trace",
    DENO_V8_FLAGS: "--help",
    NODE_OPTIONS: "--require /nonexistent.js",
    HOME: "/",
  };
  const all = { ...env, PATH: Deno.env.get("PATH") ?? "", NO_COLOR: "1" };
  const own = await run(program, ["env"], { env });
  assert.equal(own.stderr, "");
  assert.deepEqual(JSON.parse(own.stdout), all);
  const child = (await run(program, ["child-env"], { env })).stdout.trim().split("\n").sort();
  assert.deepEqual(child, Object.entries(all).map(([name, value]) => `${name}=${value}`).sort());
  const without = JSON.parse((await run(program, ["env"])).stdout);
  assert.deepEqual(Object.keys(without).sort(), ["NO_COLOR", "PATH"]);
});

elfTest("adds nothing to PATH where there is no node", async (program) => {
  const { stdout } = await run("env", ["-i", "PATH=/nonexistent", program, "env"]);
  assert.deepEqual(JSON.parse(stdout), { PATH: "/nonexistent" });
});

elfTest(
  "runs as another user",
  async (program) => {
    const args = ["--reuid=65534", "--regid=65534", "--clear-groups", program, "worker"];
    const { stdout, stderr } = await run("setpriv", args, { cwd: "/", env: { HOME: "/nonexistent" } });
    assert.equal(stderr, "");
    assert.equal(typeof JSON.parse(stdout).pid, "number");
  },
  "root and setpriv",
  isRoot && have("setpriv"),
);

elfTest(
  "runs where no file system can be written to",
  async (program) => {
    const script =
      `mount --make-rprivate / && mount -o remount,bind,ro / && ! touch "$HOME/x" 2>/dev/null && exec "$0" worker`;
    const { stdout, stderr } = await run("unshare", ["--mount", "sh", "-c", script, program], {
      cwd: "/tmp",
      env: { HOME: "/tmp" },
    });
    assert.equal(stderr, "");
    assert.equal(JSON.parse(stdout).received, "sent before the Worker runs");
  },
  "root and unshare",
  isRoot && have("unshare"),
);

elfTest("starts Workers of the same bundle, which may call dlopen", async (program) => {
  const { stdout, stderr, code } = await run(program, ["worker"]);
  assert.equal(code, 0, stderr);
  const answer = JSON.parse(stdout);
  assert.equal(answer.received, "sent before the Worker runs");
  assert.ok(answer.pid > 0);
});

elfTest("starts Workers after its file was removed", async () => {
  using dir = tempDir();
  const program = `${dir.path}/program`;
  await Deno.copyFile(await packed("elf"), program);
  const talk = new Conversation(program, ["late-worker"]);
  assert.equal(await talk.read(), "ready");
  Deno.removeSync(program);
  await talk.send("\n");
  assert.match((await talk.end()).rest, /sent before/);
});

elfTest(
  "starts Workers without /proc",
  async (program) => {
    const talk = new Conversation("unshare", ["--mount", "--propagation", "private", program, "late-worker"]);
    assert.equal(await talk.read(), "ready");
    const umount = await run("nsenter", ["--mount", `--target=${talk.child.pid}`, "umount", "--lazy", "/proc"]);
    assert.equal(umount.code, 0, umount.stderr);
    await talk.send("\n");
    assert.match((await talk.end()).rest, /sent before/);
  },
  "root, unshare and nsenter",
  isRoot && have("unshare") && have("nsenter"),
);

elfTest("propagates exit codes", async (program) => {
  for (const code of [0, 1, 7, 255]) assert.equal((await run(program, ["exit", String(code)])).code, code);
});

elfTest("shows an uncaught error with function names on stderr", async (program) => {
  const { code, stdout, stderr } = await run(program, ["throw"]);
  assert.equal(code, 1);
  assert.equal(stdout, "");
  assert.match(stderr, /Error: this error is on purpose/);
  assert.match(stderr, /at failDeepInside \(ringfsd\/main\.js.*:\d+:\d+\)/);
});

elfTest("dies of SIGTERM, or lets a listener have it", async (program) => {
  const plain = new Conversation(program, ["wait"]);
  assert.equal(await plain.read(), "ready");
  assert.equal((await plain.end("SIGTERM")).status.signal, "SIGTERM");
  const listening = new Conversation(program, ["signal"]);
  assert.equal(await listening.read(), "ready");
  const { rest, status } = await listening.end("SIGTERM");
  assert.deepEqual([rest, status.code], ["got SIGTERM", 3]);
});

elfTest("shows the user's command line to ps, and its own path as Deno.execPath()", async (program) => {
  const talk = new Conversation(program, ["wait", "--tag=x"]);
  await talk.read();
  const cmdline = Deno.readTextFileSync(`/proc/${talk.child.pid}/cmdline`);
  await talk.end("SIGKILL");
  assert.equal(cmdline, `${program}\0wait\0--tag=x\0`);
  assert.equal((await run(program, ["self"])).stdout, program);
});

elfTest("may import node: modules", async (program) => {
  assert.equal((await run(program, ["modules"])).stdout, "/ string");
});

elfTest("shares the runtime's pages between two instances", async (program) => {
  const first = new Conversation(program, ["wait"]);
  await first.read();
  const alone = pssKiB(first.child.pid);
  const second = new Conversation(program, ["wait"]);
  await second.read();
  const together = [pssKiB(first.child.pid), pssKiB(second.child.pid)];
  await Promise.all([first.end("SIGKILL"), second.end("SIGKILL")]);
  console.log(`PSS of one instance ${toMiB(alone)} MiB, of two ${toMiB(together[0] + together[1])} MiB together`);
  assert.ok(together[0] < alone);
}, "that no other test instance runs");

elfTest("start time is reported", async (program) => {
  const times: number[] = [];
  for (let i = 0; i < 7; i++) {
    const begin = performance.timeOrigin + performance.now();
    times.push(Number((await run(program, ["now"])).stdout) - begin);
  }
  console.log(`from spawn to the program's code: ${Math.min(...times).toFixed(1)} ms, the best of ${times.length}`);
});

Deno.test({
  name: "packElf() replaces a running executable, and leaves no draft when it fails",
  ignore: !isX86Glibc,
  async fn() {
    using dir = tempDir();
    const out = `${dir.path}/program`;
    await Deno.copyFile(await packed("elf"), out);
    const talk = new Conversation(out, ["wait"]);
    await talk.read();
    await packElf(Deno.execPath(), await bundle(fixture, "script", "4.5.6"), out);
    await talk.end("SIGKILL");
    assert.equal((await run(out, ["--version"])).stdout, "fixture 4.5.6");
    await assert.rejects(packElf(fixture, "", out), /cannot pack .*main\.ts: it is no ELF file/);
    Deno.mkdirSync(`${dir.path}/taken`);
    await assert.rejects(packElf(Deno.execPath(), "", `${dir.path}/taken`));
    assert.deepEqual([...Deno.readDirSync(dir.path)].map((entry) => entry.name).sort(), ["program", "taken"]);
  },
});

function pssKiB(pid: number): number {
  return Number(/^Pss:\s+(\d+) kB$/m.exec(Deno.readTextFileSync(`/proc/${pid}/smaps_rollup`))?.[1]);
}

function toMiB(kiB: number): string {
  return (kiB / 1024).toFixed(1);
}
