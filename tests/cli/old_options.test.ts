import assert from "node:assert/strict";
import { type Options, parseOptions, type ShareOptions, type Start } from "../../cli/options.ts";
import { defaultOptions, type FsOptions } from "../../fs/config.ts";

async function parse(...args: string[]) {
  let complained = "";
  const parsed = await parseOptions(args, () => {}, (text) => void (complained += text));
  return { parsed, complained };
}

/** The options of the process, and of its one share. */
async function options(...args: string[]): Promise<Options & ShareOptions> {
  const { parsed, complained } = await parse(...args);
  assert.equal(complained, "", args.join(" "));
  assert.ok("options" in parsed, args.join(" "));
  assert.equal(parsed.options.shares.length, 1);
  return { ...parsed.options, ...parsed.options.shares[0] };
}

/** What is wrong must be one line that has all of `words`, and the status 2. */
async function refused(args: string[], ...words: string[]) {
  const { parsed, complained } = await parse(...args);
  assert.deepEqual(parsed, { exit: 2 }, args.join(" "));
  assert.match(complained, /^ringfsd: [^\n]+\n$/);
  for (const word of words) assert.ok(complained.includes(word), `${complained.trim()} lacks ${word}`);
}

const base = ["--socket-path", "/s", "--shared-dir", "/d"];

/** The options of the file system must be the usual ones but for `expected`. */
async function fsOptions(args: string[], expected: Partial<FsOptions>) {
  assert.deepEqual((await options(...base, ...args)).fs, { ...defaultOptions, ...expected }, args.join(" "));
}

Deno.test("parseOptions() each option of virtiofsd does what it says", async () => {
  await fsOptions(["--xattr"], { xattr: true });
  await fsOptions(["--xattrmap=:map::user.v.:"], { xattr: true, xattrMap: ":map::user.v.:" });
  await fsOptions(["--xattrmap", "/bad/all/a/a/\n  /ok/all///"], { xattr: true, xattrMap: "/bad/all/a/a/ /ok/all///" });
  await fsOptions(["--posix-acl"], { xattr: true, posixAcl: true });
  await fsOptions(["--posix-acl=auto"], { xattr: true, posixAcl: "auto" });
  await fsOptions(["--security-label"], { xattr: true, securityLabel: true });
  await fsOptions(["--readonly"], { readonly: true });
  await fsOptions(["--writeback"], { writeback: true });
  await fsOptions(["--allow-direct-io"], { allowDirectIo: true });
  await fsOptions(["--allow-mmap"], { allowMmap: true });
  await fsOptions(["--no-readdirplus"], { readdirplus: false });
  await fsOptions(["--killpriv-v2"], { killprivV2: true });
  await fsOptions(["--no-killpriv-v2"], {});
  await fsOptions(["--preserve-noatime"], { preserveNoatime: true });
  await fsOptions(["--announce-submounts"], {});
  await fsOptions(["--no-announce-submounts"], { announceSubmounts: false });
  for (const how of ["never", "prefer", "mandatory"] as const) {
    await fsOptions([`--inode-file-handles=${how}`], { inodeFileHandles: how });
  }
  await fsOptions(["--inode-file-handles=fallback"], { inodeFileHandles: "prefer" });
  await fsOptions(["--posix-lock", "--flock"], { posixLock: true, flock: true });
  await fsOptions(["--cache", "metadata"], { cache: "metadata" });
});

Deno.test("parseOptions() --translate-uid and --translate-gid count each time they are given", async () => {
  const uid = ["map:0:1000:10", "forbid-guest:500:5"];
  const args = ["--translate-uid", uid[0], "--translate-gid=squash-host:0:7:100", `--translate-uid=${uid[1]}`];
  await fsOptions(args, { translateUid: uid, translateGid: ["squash-host:0:7:100"] });
});

Deno.test("parseOptions() what is given twice counts as given last", async () => {
  assert.equal((await options(...base, "--cache=auto", "--cache", "never")).fs.cache, "never");
  assert.equal((await options(...base, "--shared-dir=/e")).sharedDir, "/e");
  await fsOptions(["--xattr", "--xattr"], { xattr: true });
  await fsOptions(["--killpriv-v2", "--no-killpriv-v2"], {});
  await fsOptions(["--no-announce-submounts", "--announce-submounts"], {});
});

Deno.test("parseOptions() -o takes all old keys", async () => {
  const old = (list: string, expected: Partial<FsOptions>) => fsOptions(["-o", list], expected);
  await old("xattr", { xattr: true });
  await old("xattr,no_xattr", {});
  await old("xattrmap=:map::user.v.:", { xattr: true, xattrMap: ":map::user.v.:" });
  await old("posix_acl", { xattr: true, posixAcl: true });
  await old("posix_acl,no_posix_acl", {});
  await old("security_label", { xattr: true, securityLabel: true });
  await old("security_label,no_security_label", {});
  await old("writeback", { writeback: true });
  await old("writeback,no_writeback", {});
  await old("allow_direct_io", { allowDirectIo: true });
  await old("allow_direct_io,no_allow_direct_io", {});
  await old("announce_submounts", {});
  await old("no_announce_submounts", { announceSubmounts: false });
  await old("killpriv_v2", { killprivV2: true });
  await old("killpriv_v2,no_killpriv_v2", {});
  await old("no_readdirplus", { readdirplus: false });
  await old("no_readdirplus,readdirplus", {});
  await old("posix_lock,flock", { posixLock: true, flock: true });
  await old("no_posix_lock,no_flock", {});
  await old("cache=none", { cache: "never" });
  await old("cache=always", { cache: "always" });
  await old("sandbox=none", {});
  assert.equal((await options(...base, "-o", "loglevel=err")).logLevel, "error");
  assert.equal((await options(...base, "-o", "log_level=debug")).logLevel, "debug");
});

Deno.test("parseOptions() the command lines that managers use", async () => {
  const old = await options("--fd=3", "-o", "source=/srv,cache=always,xattr", "-o", "no_flock", "-f", "-d");
  assert.deepEqual([old.fd, old.sharedDir, old.fs.cache, old.fs.xattr, old.logLevel], [
    3,
    "/srv",
    "always",
    true,
    "debug",
  ]);
  assert.equal((await options("--socket=/s", "-osource=/srv")).socketPath, "/s");
  const libvirt = [
    "--fd=5",
    "--shared-dir",
    "/srv",
    "--cache",
    "auto",
    "--xattr",
    "--thread-pool-size=4",
    "--sandbox=none",
  ];
  assert.equal((await options(...libvirt)).threadPoolSize, 4);
  const podman = [
    "--sandbox",
    "none",
    "--socket-path",
    "/s",
    "--shared-dir",
    ".",
    "--seccomp=none",
    "--rlimit-nofile=0",
  ];
  assert.equal((await options(...podman)).rlimitNofile, 0);
  assert.deepEqual((await parse("-V")).parsed, { exit: 0 });
  assert.deepEqual((await parse("-h")).parsed, { exit: 0 });
});

Deno.test("parseOptions() --socket-group, --syslog and --migration-…", async () => {
  assert.equal((await options(...base, "--socket-group", "root")).socketGroup, 0);
  assert.equal((await options(...base, "--syslog")).syslog, true);
  const migration = ["--migration-mode=find-paths", "--migration-on-error=abort", "--migration-verify-handles"];
  assert.match((await options(...base, ...migration)).notes!.join(), /no migration yet/);
  assert.equal((await options(...base)).notes, undefined);
  await fsOptions(["--posix-acl=always"], { xattr: true, posixAcl: true });
  await fsOptions(["--posix-acl=never"], {});
});

Deno.test("parseOptions() called virtiofsd it ends with its front end, and RUST_LOG is its log level", async () => {
  const called = async (start: Start, ...args: string[]) => {
    const parsed = await parseOptions([...base, ...args], () => {}, () => {}, start);
    assert.ok("options" in parsed);
    return [parsed.options.shares[0].exitOnDisconnect, parsed.options.logLevel];
  };
  assert.deepEqual(await called({ program: "virtiofsd" }), [true, "info"]);
  assert.deepEqual(await called({ program: "virtiofsd", rustLog: "ERROR" }), [true, "error"]);
  assert.deepEqual(await called({ program: "virtiofsd", rustLog: "virtiofsd=debug" }, "--log-level=warn"), [
    true,
    "warn",
  ]);
  assert.deepEqual(await called({ program: "virtiofsd" }, "--no-exit-on-disconnect"), [false, "info"]);
  assert.deepEqual(await called({ program: "ringfsd", rustLog: "ERROR" }), [false, "info"]);
});

Deno.test("parseOptions() old options win over new ones", async () => {
  assert.equal((await options("-o", "source=/old", ...base)).sharedDir, "/old");
  await fsOptions(["-o", "no_xattr", "--xattr"], {});
});

Deno.test("parseOptions() refuses old options that are wrong, and says why", async () => {
  await refused([...base, "-o"], "-o");
  await refused([...base, "-o", "bogus"], "-o bogus");
  await refused([...base, "-o", "bogus=1"], "-o bogus");
  await refused([...base, "-o", "cache"], "-o cache", "value");
  await refused([...base, "-o", "xattr=1"], "-o xattr", "no value");
  await refused([...base, "-o", "timeout=1"], "timeout", "--cache");
  await refused([...base, "-o", "cache=sometimes"], "sometimes");
  await refused([...base, "-o", "sandbox=jail"], "jail", "namespace");
  await refused([...base, "-o", "modcaps=+chwon"], "--modcaps", "chwon");
  await refused([...base, "-x"], "-x");
  await refused([...base, "-dx"], "-dx");
});

Deno.test("parseOptions() refuses what is not there yet, and what cannot be", async () => {
  await refused([...base, "--migration-mode=somehow"], "somehow");
  await refused([...base, "--migration-mode=file-handles", "--migration-confirm-paths"], "exclude", "confirm-paths");
  await refused([...base, "--posix-acl-create-fallback"], "--posix-acl-create-fallback", "rights");
  await refused([...base, "--daemonize"], "--daemonize", "foreground");
  await refused([...base, "--socket-group=no such group"], "--socket-group", "no such group", "groupadd");
  await refused(["--fd=3", "--shared-dir=/d", "--socket-group=root"], "--socket-group", "--socket-path");
  await refused([...base, "--seccomp=maim"], "maim", "kill");
  await refused([...base, "--modcaps=chown"], "--modcaps", "chown");
  await refused([...base, "--modcaps=+nothing"], "--modcaps", "nothing");
  for (const map of ["0:1:2", ":0:1:2", ":0:1:0:", ":a:1:1:", ":0:1:2:3:"]) {
    await refused([...base, `--uid-map=${map}`], "--uid-map", ":NAMESPACE_ID:HOST_ID:COUNT:");
  }
  await refused([...base, "--xattrmap="], "no rule");
  await refused([...base, "--xattrmap=:ok:all::"], "rule 1", "prepend");
  await refused([...base, "--xattrmap", ":prefix:all:a:b:\n:nope:all:::"], "rule 2", "nope");
  await refused([...base, "--translate-uid=guest:1:2"], "--translate-uid", "guest:1:2", "3 numbers");
  await refused([...base, "--translate-gid=map:0:1:2", "--translate-gid=host:2:9:1"], "host:2:9:1", "overlaps");
  await refused([...base, "--posix-acl", "--translate-uid=map:0:1:2"], "--posix-acl", "exclude");
  await refused([...base, "--thread-pool-size=x"], "--thread-pool-size");
  await refused([...base, "--inode-file-handles=some"], "some");
  await refused([...base, "--inode-file-handles=always"], "always", "mandatory");
});
