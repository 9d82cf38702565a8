import assert from "node:assert/strict";
import { have, isRoot, packed, run, tempDir } from "./helpers.ts";

/** Names in the cache, with the runtime's hash left out; undefined where there is no such directory. */
function cacheNames(dir: string): string[] | undefined {
  try {
    return [...Deno.readDirSync(dir)].map((entry) => entry.name.replace(/[0-9a-f]{64}$/, "SHA256")).sort();
  } catch {
    return undefined;
  }
}

function runtimeIn(dir: string): string {
  return `${dir}/${[...Deno.readDirSync(dir)][0].name}`;
}

function modeOf(path: string): number {
  return Deno.statSync(path).mode! & 0o7777;
}

const onlyRuntime = ["ringfsd-deno-SHA256"];

Deno.test("selfExtractor() hands arguments through and gives exit codes back", async () => {
  using dir = tempDir();
  const program = await packed("sh"), env = { RINGFSD_CACHE: `${dir.path}/c` };
  const args = ["--help", "-V", "--", "-o", "a=b", "", "a  b", "'", "$HOME", "*", "größe"];
  assert.deepEqual(JSON.parse((await run(program, args, { env })).stdout), args);
  assert.equal((await run(program, ["exit", "7"], { env })).code, 7);
  assert.equal((await run(program, ["--version"], { env })).stdout, "fixture 1.2.3-test");
  const thrown = await run(program, ["throw"], { env });
  assert.equal(thrown.code, 1);
  assert.match(thrown.stderr, /at failDeepInside \(ringfsd\/main\.js/);
});

Deno.test("selfExtractor() starts Workers, and names itself in RINGFSD_EXEC_PATH", async () => {
  using dir = tempDir();
  const program = await packed("sh"), env = { RINGFSD_CACHE: `${dir.path}/c` };
  const { stdout, stderr } = await run(program, ["worker"], { env });
  assert.equal(stderr, "");
  assert.equal(JSON.parse(stdout).received, "sent before the Worker runs");
  assert.equal((await run(program, ["self"], { env })).stdout, program);
});

Deno.test("selfExtractor() leaves the environment as the user set it", async () => {
  using dir = tempDir();
  const env = { RINGFSD_CACHE: `${dir.path}/c`, DENO_DIR: "/some where", NODE_OPTIONS: "--require '/no \"quote" };
  const { stdout, stderr } = await run(await packed("sh"), ["env"], { env });
  assert.equal(stderr, "");
  // Some shells export these of their own accord.
  const { PWD: _pwd, _: _last, OLDPWD: _old, SHLVL: _level, ...seen } = JSON.parse(stdout);
  assert.deepEqual(seen, { ...env, PATH: Deno.env.get("PATH"), NO_COLOR: "1" });
});

Deno.test("selfExtractor() extracts once, for its user alone", async () => {
  using dir = tempDir();
  const program = await packed("sh"), env = { XDG_CACHE_HOME: dir.path }, cache = `${dir.path}/ringfsd`;
  await run(program, ["--version"], { env });
  assert.deepEqual(cacheNames(cache), onlyRuntime);
  assert.deepEqual([modeOf(cache), modeOf(runtimeIn(cache))], [0o700, 0o700]);
  const { ino } = Deno.statSync(runtimeIn(cache));
  await run(program, ["--version"], { env });
  assert.equal(Deno.statSync(runtimeIn(cache)).ino, ino);
});

Deno.test("selfExtractor() replaces a runtime that is not whole", async () => {
  using dir = tempDir();
  const program = await packed("sh"), env = { RINGFSD_CACHE: dir.path };
  await run(program, ["--version"], { env });
  Deno.truncateSync(runtimeIn(dir.path), 1000);
  assert.equal((await run(program, ["--version"], { env })).stdout, "fixture 1.2.3-test");
  assert.deepEqual(cacheNames(dir.path), onlyRuntime);
});

Deno.test("selfExtractor() trusts no directory that others may write to, and no symbolic link", async () => {
  using dir = tempDir();
  const program = await packed("sh");
  const open = `${dir.path}/open`, link = `${dir.path}/link`, behind = `${dir.path}/behind`, good = `${dir.path}/good`;
  for (const path of [open, behind]) Deno.mkdirSync(path, { mode: 0o700 });
  Deno.symlinkSync(behind, link);
  for (const [bad, mode] of [[open, 0o770], [open, 0o702], [link, 0o700]] as const) {
    Deno.chmodSync(bad, mode);
    const { stdout } = await run(program, ["--version"], { env: { RINGFSD_CACHE: bad, XDG_CACHE_HOME: good } });
    assert.equal(stdout, "fixture 1.2.3-test");
    assert.deepEqual(cacheNames(bad), [], `${bad} ${mode.toString(8)}`);
  }
  assert.deepEqual(cacheNames(`${good}/ringfsd`), onlyRuntime);
});

Deno.test("selfExtractor() survives several first starts at once", async () => {
  using dir = tempDir();
  const program = await packed("sh"), env = { RINGFSD_CACHE: dir.path };
  const results = await Promise.all([1, 2, 3].map(() => run(program, ["--version"], { env })));
  for (const { stdout } of results) assert.equal(stdout, "fixture 1.2.3-test");
  assert.deepEqual(cacheNames(dir.path), onlyRuntime);
});

Deno.test({
  name: "selfExtractor() goes on to TMPDIR when HOME is not writable (needs root and setpriv)",
  ignore: !isRoot || !have("setpriv"),
  async fn() {
    using dir = tempDir();
    const tmp = `${dir.path}/tmp`;
    Deno.mkdirSync(tmp);
    Deno.chmodSync(tmp, 0o1777);
    const args = ["--reuid=65534", "--regid=65534", "--clear-groups", await packed("sh"), "--version"];
    const env = { HOME: dir.path, TMPDIR: tmp };
    assert.equal((await run("setpriv", args, { env, cwd: "/" })).stdout, "fixture 1.2.3-test");
    assert.deepEqual(cacheNames(`${tmp}/ringfsd-65534`), onlyRuntime);
    // Someone else was first to take the name: a private directory instead.
    Deno.removeSync(`${tmp}/ringfsd-65534`, { recursive: true });
    Deno.mkdirSync(`${tmp}/ringfsd-65534`);
    assert.equal((await run("setpriv", args, { env, cwd: "/" })).stdout, "fixture 1.2.3-test");
    assert.deepEqual(cacheNames(`${tmp}/ringfsd-65534`), []);
  },
});

Deno.test({
  name: "selfExtractor() says in one line that it finds no place (needs root and unshare)",
  ignore: !isRoot || !have("unshare"),
  async fn() {
    const script = `mount --make-rprivate / && for m in / /dev /dev/shm /run /tmp; do
      mount -o remount,bind,ro $m 2>/dev/null; done; exec "$0" --version`;
    const { code, stderr } = await run("unshare", ["--mount", "sh", "-c", script, await packed("sh")]);
    assert.equal(code, 127);
    assert.match(stderr, /^ringfsd: no directory to put its runtime into .*RINGFSD_CACHE.*$/);
  },
});

Deno.test("selfExtractor() start time is reported", async () => {
  using dir = tempDir();
  const times: number[] = [];
  for (let i = 0; i < 6; i++) {
    const begin = performance.timeOrigin + performance.now();
    const { stdout } = await run(await packed("sh"), ["now"], { env: { RINGFSD_CACHE: dir.path } });
    times.push(Number(stdout) - begin);
  }
  const [first, ...later] = times.map((ms) => Math.round(ms));
  console.log(`from spawn to the program's code: first start ${first} ms, later ${Math.min(...later)} ms`);
});
