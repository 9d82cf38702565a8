import assert from "node:assert/strict";
import { Conversation, fixture, isX86Glibc, run, tempDir } from "./helpers.ts";

const root = new URL("../..", import.meta.url).pathname;
const denoSh = `${root}tools/deno.sh`;

/** A directory with a `deno` that claims to be of the given version. */
function fakeDeno(dir: string, version: string): string {
  Deno.writeTextFileSync(`${dir}/deno`, `#!/bin/sh\necho "deno ${version} (stable, release, x)"\n`, { mode: 0o755 });
  Deno.chmodSync(`${dir}/deno`, 0o755);
  return `${dir}/deno`;
}

/** PATH without any deno. */
const plainPath = "/usr/local/bin:/usr/bin:/bin";

Deno.test("tools/deno.sh prints one absolute path and nothing else, from any directory", async () => {
  const results = await Promise.all([1, 2, 3, 4].map(() => run(denoSh, [], { cwd: "/" })));
  for (const { code, stdout, stderr } of results) {
    assert.deepEqual([code, stderr], [0, ""]);
    assert.match(stdout, /^\/[^\n]*$/);
    assert.match((await run(stdout, ["--version"])).stdout, /^deno \d/);
  }
});

Deno.test("tools/deno.sh prefers $DENO, relative to the caller's directory too", async () => {
  using dir = tempDir();
  const deno = fakeDeno(dir.path, "1.0.0");
  assert.equal((await run(denoSh, [], { env: { DENO: deno } })).stdout, deno);
  assert.equal((await run(denoSh, [], { env: { DENO: "./deno" }, cwd: dir.path })).stdout, `${dir.path}/./deno`);
});

Deno.test("tools/deno.sh refuses a $DENO that cannot be run, in one line", async () => {
  const { code, stdout, stderr } = await run(denoSh, [], { env: { DENO: "/nonexistent/deno" } });
  assert.deepEqual([code, stdout], [1, ""]);
  assert.match(stderr, /^tools\/deno\.sh: DENO=\/nonexistent\/deno cannot be run: .*$/);
});

Deno.test("tools/deno.sh takes a deno of PATH if it is new enough and of the same major version", async () => {
  using dir = tempDir();
  const env = { PATH: `${dir.path}:${plainPath}` };
  for (const version of ["2.9.6", "2.9.10", "2.10.0", "2.100.1+abc"]) {
    const deno = fakeDeno(dir.path, version);
    assert.equal((await run(denoSh, [], { env })).stdout, deno, version);
  }
  for (const version of ["2.9.5", "2.8.99", "1.46.3", "3.0.0", "nonsense", ""]) {
    const deno = fakeDeno(dir.path, version);
    assert.notEqual((await run(denoSh, [], { env })).stdout, deno, version);
  }
});

Deno.test("package-lock.json and .npmrc name no registry", async () => {
  for (const name of ["package-lock.json", ".npmrc", "package.json", "deno.json"]) {
    assert.doesNotMatch(await Deno.readTextFile(root + name), /https?:|"resolved"/, name);
  }
});

Deno.test({
  name: "compile.sh makes a working file from any directory (x86-64)",
  ignore: !isX86Glibc,
  async fn() {
    using dir = tempDir();
    const env = { DENO: Deno.execPath(), RINGFSD_COMPILE: "elf", HOME: Deno.env.get("HOME") ?? "/" };
    const { code, stdout, stderr } = await run(`${root}compile.sh`, [fixture, "out/ringfsd"], { cwd: dir.path, env });
    assert.deepEqual([code, stderr], [0, ""]);
    assert.match(stdout, /\d+\.\d MB, segment in Deno's ELF file, listens \d+ ms after its start$/);
    assert.deepEqual([...Deno.readDirSync(`${dir.path}/out`)].map((entry) => entry.name), ["ringfsd"]);
    const talk = new Conversation(`${dir.path}/out/ringfsd`, ["wait"]);
    assert.equal(await talk.read(), "ready");
    await talk.end("SIGKILL");
  },
});

Deno.test("compile.sh tells a file that is not the program, and an unknown way, in one line", async () => {
  using dir = tempDir();
  const compile = (env: Record<string, string>) =>
    run(`${root}compile.sh`, [fixture, "ringfsd"], { cwd: dir.path, env: { DENO: Deno.execPath(), ...env } });
  const unknown = await compile({ RINGFSD_COMPILE: "zip" });
  assert.equal(unknown.code, 1);
  assert.match(unknown.stderr, /^compile\.sh: RINGFSD_COMPILE=zip: unknown; .*$/);
  // A stock Deno is no denort: what `deno compile` makes of it ignores the program.
  const stock = await compile({ RINGFSD_COMPILE: "deno", DENORT_BIN: Deno.execPath() });
  assert.equal(stock.code, 1);
  assert.match(stock.stderr, /^compile\.sh: deno compile: --version .*does not print.*DENORT_BIN.*$/);
  assert.deepEqual([...Deno.readDirSync(dir.path)], []);
});
