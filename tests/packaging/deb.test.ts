// The Debian package: built twice with a stand-in for the executable, and installed with the real one where that was compiled.
import assert from "node:assert/strict";
import { Session } from "../../bench/session.ts";
import { debianVersion } from "../../packaging/deb.ts";
import { have, isRoot, run, tempDir } from "./helpers.ts";

const root = new URL("../..", import.meta.url).pathname;
const compiled = `${root}dist/ringfsd`;
const cannotBuild = have("dpkg-deb") ? "" : "there is no dpkg-deb";
const env = { DENO: Deno.execPath(), HOME: "/", RINGFSD_DEB_LEVEL: "0", DEBEMAIL: "someone@debian.org" };
/** Where each file of the package must be; the executable and directories are besides. */
const FILES = [
  "/usr/lib/systemd/system/ringfsd@.service",
  "/usr/lib/systemd/system/ringfsd@.socket",
  "/usr/share/bash-completion/completions/ringfsd",
  "/usr/share/doc/ringfsd/changelog.gz",
  "/usr/share/doc/ringfsd/copyright",
  "/usr/share/doc/ringfsd/examples/home.json",
  "/usr/share/fish/vendor_completions.d/ringfsd.fish",
  "/usr/share/man/man1/ringfsd.1.gz",
  "/usr/share/qemu/vhost-user/50-ringfsd.json",
  "/usr/share/zsh/vendor-completions/_ringfsd",
];

/** Makes a package in a directory, of an executable that only tells its version unless another is given. */
async function build(dir: string, binary?: string, more: Record<string, string> = {}): Promise<string> {
  Deno.mkdirSync(dir, { recursive: true });
  if (binary === undefined) {
    binary = `${dir}/stand-in`;
    Deno.writeTextFileSync(binary, "#!/bin/sh\necho ringfsd 1.2.3+4.gabc-dirty\n", { mode: 0o755 });
    Deno.chmodSync(binary, 0o755);
  }
  const { code, stdout, stderr } = await run(`${root}packaging/deb.sh`, [binary, dir], { env: { ...env, ...more } });
  assert.deepEqual([code, stderr], [0, ""]);
  return stdout;
}

Deno.test("debianVersion() has no hyphen but the one of its revision", () => {
  assert.equal(debianVersion("0.1.0"), "0.1.0-1");
  assert.equal(debianVersion("0.1.0+12.g1a2b3c4-dirty"), "0.1.0+12.g1a2b3c4+dirty-1");
});

Deno.test({
  name: `deb.sh makes the same bytes again, whatever umask and time${cannotBuild && ` (skipped: ${cannotBuild})`}`,
  ignore: cannotBuild !== "",
  async fn() {
    using dir = tempDir();
    const date = { SOURCE_DATE_EPOCH: "1700000000" };
    const first = await build(`${dir.path}/1`, undefined, date);
    const umask = Deno.umask(0o077);
    const second = await build(`${dir.path}/2`, undefined, date).finally(() => Deno.umask(umask));
    assert.match(first, /\/ringfsd_1\.2\.3\+4\.gabc\+dirty-1_\w+\.deb$/);
    assert.deepEqual(Deno.readFileSync(first), Deno.readFileSync(second));
    const { stdout } = await run("dpkg-deb", ["-c", first], { env: { TZ: "UTC" } });
    for (const line of stdout.split("\n")) {
      assert.match(line, /^(-rw-r--r--|[-d]rwxr-xr-x) root\/root .* 2023-11-14 22:13 \.\//);
    }
    const third = await build(`${dir.path}/3`, undefined, { SOURCE_DATE_EPOCH: "1700000001" });
    assert.notDeepEqual(Deno.readFileSync(first), Deno.readFileSync(third));
  },
});

Deno.test({
  name: `deb.sh refuses what is no ringfsd, and a wrong date, in one line${
    cannotBuild && ` (skipped: ${cannotBuild})`
  }`,
  ignore: cannotBuild !== "",
  async fn() {
    using dir = tempDir();
    for (
      const [binary, more, why] of [["/bin/true", {}, /no ringfsd/], [
        "/bin/true",
        { SOURCE_DATE_EPOCH: "today" },
        /SOURCE_DATE_EPOCH=today/,
      ], ["/nonexistent", {}, /nonexistent/]] as const
    ) {
      const { code, stderr } = await run(`${root}packaging/deb.sh`, [binary, dir.path], { env: { ...env, ...more } });
      assert.equal(code, 1);
      assert.match(stderr, /^deb\.sh: [^\n]+$/);
      assert.match(stderr, why);
    }
  },
});

const cannotLint = cannotBuild || (have("lintian") ? "" : "there is no lintian");
Deno.test({
  name: `lintian finds no fault with the package${cannotLint && ` (skipped: ${cannotLint})`}`,
  ignore: cannotLint !== "",
  async fn() {
    using dir = tempDir();
    const deb = await build(dir.path);
    const allow = isRoot ? ["--allow-root"] : [];
    // The stand-in is a script; what lintian says of the real executable is overridden, with its reasons, in the package.
    const { stdout } = await run("lintian", [...allow, "--suppress-tags", "mismatched-override", deb]);
    assert.deepEqual(stdout.split("\n").filter((line) => /^[EW]: /.test(line)), []);
  },
});

/** An empty root with a database of packages, and the package in it. */
async function install(deb: string, target: string): Promise<void> {
  Deno.mkdirSync(`${target}/var/lib/dpkg/info`, { recursive: true });
  Deno.mkdirSync(`${target}/var/lib/dpkg/updates`);
  Deno.writeTextFileSync(`${target}/var/lib/dpkg/status`, "");
  const { code, stderr } = await dpkg(target, "-i", deb);
  assert.equal(code, 0, stderr);
}

function dpkg(target: string, ...args: string[]) {
  return run("dpkg", [`--root=${target}`, "--force-depends", "--force-script-chrootless", ...args]);
}

const cannotInstall = cannotBuild || (isRoot ? "" : "needs root");
Deno.test({
  name: `the package is installed into an empty root, and removed${cannotInstall && ` (skipped: ${cannotInstall})`}`,
  ignore: cannotInstall !== "",
  async fn() {
    using dir = tempDir();
    const target = `${dir.path}/root`;
    await install(await build(dir.path), target);
    for (const file of FILES) assert.ok(Deno.statSync(target + file).size > 0, file);
    assert.equal((await run(`${target}/usr/bin/ringfsd`, [])).stdout, "ringfsd 1.2.3+4.gabc-dirty");
    assert.ok(Deno.statSync(`${target}/etc/ringfsd`).isDirectory);
    const verify = await dpkg(target, "--verify", "ringfsd");
    assert.deepEqual([verify.code, verify.stdout], [0, ""]);
    assert.equal((await dpkg(target, "--purge", "ringfsd")).code, 0);
    for (const file of FILES) assert.throws(() => Deno.statSync(target + file), Deno.errors.NotFound);
  },
});

const cannotServe = cannotInstall || (isFile(compiled) ? "" : "dist/ringfsd is not compiled");
Deno.test({
  name: `the installed program serves a guest from within its root${cannotServe && ` (skipped: ${cannotServe})`}`,
  ignore: cannotServe !== "",
  async fn() {
    using dir = tempDir();
    const target = `${dir.path}/root`;
    await install(await build(dir.path, compiled), target);
    await copyLibraries(`${target}/usr/bin/ringfsd`, target);
    for (const one of ["proc", "srv/home", "run/ringfsd", "tmp"]) {
      Deno.mkdirSync(`${target}/${one}`, { recursive: true });
    }
    // The example, with a socket of its own, for nobody passes one here.
    const example = Deno.readTextFileSync(`${target}/usr/share/doc/ringfsd/examples/home.json`);
    Deno.writeTextFileSync(
      `${target}/etc/ringfsd/home.json`,
      example.replace('"tag": "home"', '"tag": "home", "socket": "/run/ringfsd/home.sock"'),
    );
    // Nothing but the package, the C library and /proc: a mount namespace of its own, so that /proc goes with it.
    const script = 'mount -t proc proc "$0/proc" && exec chroot "$0" /usr/bin/ringfsd "$@"';
    const args = ["--config", "/etc/ringfsd/home.json", "--sandbox", "none", "--seccomp", "none"];
    const child = new Deno.Command("unshare", {
      args: ["--mount", "sh", "-c", script, target, ...args],
      stderr: "piped",
    })
      .spawn();
    const said = child.stderr.text();
    try {
      const session = await connect(`${target}/run/ringfsd/home.sock`);
      assert.equal(session.client.create(1, "made").error, 0);
      session.close();
      assert.ok(Deno.statSync(`${target}/srv/home/made`).isFile);
    } finally {
      try {
        child.kill("SIGTERM");
      } catch {
        // It has ended, and said why.
      }
      const { code } = await child.status;
      assert.equal(code, 0, await said);
    }
    assert.equal((await dpkg(target, "--remove", "ringfsd")).code, 0);
    // What its administrator wrote stays.
    assert.ok(isFile(`${target}/etc/ringfsd/home.json`));
  },
});

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

/** Puts the libraries that an executable needs where it finds them in another root. */
async function copyLibraries(program: string, target: string): Promise<void> {
  const { stdout } = await run("ldd", [program]);
  const paths = [...stdout.matchAll(/(?:=> |^\s*)(\/\S+) \(/gm)].map((match) => match[1]);
  assert.ok(paths.length > 1, stdout);
  for (const path of paths) {
    Deno.mkdirSync(`${target}${path}`.replace(/\/[^/]*$/, ""), { recursive: true });
    Deno.copyFileSync(path, target + path);
  }
}

/** A guest, as soon as somebody listens. */
async function connect(path: string): Promise<Session> {
  for (const deadline = performance.now() + 20_000;;) {
    try {
      return Session.open(path, { memory: 4 << 20 });
    } catch (error) {
      if (performance.now() > deadline) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
