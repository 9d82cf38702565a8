// `ringfsd share`: what it picks, what it prints, and how it ends. tests/e2e/share.test.ts runs the lines in QEMU.
import assert from "node:assert/strict";
import { bytes, names } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { Session } from "../../bench/session.ts";
import { libc } from "../../ffi/libc.ts";
import { listenUnix } from "../../ffi/socket.ts";
import { freeSocket, socketDirectory, tagFor } from "../../cli/places.ts";
import { linesFor, type Recipe, TARGETS } from "../../cli/recipes.ts";
import { cannotMount, SlowHost } from "../fs/slow_host.ts";
import { have } from "../packaging/helpers.ts";
import { Place, Started, useShare } from "./started.ts";

const main = new URL("../../main.ts", import.meta.url).pathname;

async function ringfsd(args: string[], env: Record<string, string> = {}) {
  const options = { args: ["run", "-A", "--no-check", main, ...args], env };
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), options).output();
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

Deno.test("tagFor() makes a tag that needs no quoting anywhere, of 36 bytes at most", () => {
  assert.equal(tagFor("/srv/vm1"), "vm1");
  assert.equal(tagFor("/srv/My Files, new/"), "My-Files-new");
  assert.equal(tagFor("/srv/Größe"), "Groe".replace("oe", "o-e"));
  assert.equal(tagFor("/"), "share");
  assert.equal(tagFor("/srv/.-"), "share");
  assert.equal(tagFor("/srv/.hidden"), "hidden");
  assert.equal(tagFor(`/srv/${"x".repeat(50)}`), "x".repeat(36));
});

Deno.test("socketDirectory() takes the first that is this user's alone to write to, and makes it", () => {
  using place = new Place();
  const uid = Deno.uid()!;
  const [run, tmp] = [`${place.path}/run`, `${place.path}/tmp`];
  for (const dir of [run, tmp]) Deno.mkdirSync(dir);
  const where = { uid, runtimeDir: `${place.path}/user`, run, tmp };
  const first = uid === 0 ? `${run}/ringfsd` : `${tmp}/ringfsd-${uid}`;
  assert.equal(socketDirectory(where, false), first);
  assert.throws(() => Deno.statSync(first), Deno.errors.NotFound);
  assert.equal(socketDirectory(where, true), first);
  assert.equal(Deno.statSync(first).mode! & 0o777, uid === 0 ? 0o755 : 0o700);
  Deno.mkdirSync(where.runtimeDir);
  const other = { ...where, uid: uid + 1 };
  // Another user's is not taken, and what is not there is.
  Deno.mkdirSync(`${where.runtimeDir}/ringfsd`);
  assert.equal(socketDirectory(other, false), `${tmp}/ringfsd-${uid + 1}`);
  Deno.mkdirSync(`${tmp}/ringfsd-${uid + 1}`);
  assert.throws(() => socketDirectory(other, true), /there is no place .* another user's.*: give --socket-path PATH$/);
  // Where others may write, they could put a socket of theirs.
  Deno.chmodSync(first, 0o777);
  assert.equal(
    socketDirectory(where, false),
    uid === 0 ? `${where.runtimeDir}/ringfsd` : `${where.runtimeDir}/ringfsd`,
  );
});

Deno.test("freeSocket() takes the first that no process has open, and replaces what a dead one left", () => {
  using place = new Place();
  const path = freeSocket(place.path, "a");
  assert.equal(path, `${place.path}/a.sock`);
  const fd = listenUnix(path);
  assert.equal(freeSocket(place.path, "a"), `${place.path}/a-2.sock`);
  libc.close(fd);
  assert.equal(freeSocket(place.path, "a"), path);
  assert.throws(() => freeSocket(`/${"x".repeat(110)}`, "a"), /too long for a socket's path: give --socket-path PATH$/);
});

const recipe: Recipe = {
  tag: "it's, <mine> & yours",
  socket: "/run/a b/c,d.sock",
  dir: "/srv/it's <here>",
  queues: 3,
  binary: "/usr/bin/ringfsd",
  xattr: true,
  cache: "never",
};

Deno.test({
  name: `linesFor() is shell: each argument comes out as it is meant${
    have("bash") ? "" : " (skipped: there is no bash)"
  }`,
  ignore: !have("bash"),
  fn: async () => {
    const args = async (target: "qemu" | "cloud-hypervisor" | "uml" | "guest", program: string) => {
      const lines = linesFor(target, recipe).filter((line) => !line.includes("fstab")).join("\n");
      const script = `${program}() { printf '%s\\n' "$@"; }\n${lines}`;
      const { stdout, code } = await new Deno.Command("bash", { args: ["-euc", script] }).output();
      assert.equal(code, 0);
      return new TextDecoder().decode(stdout).trimEnd().split("\n");
    };
    assert.deepEqual(await args("qemu", "qemu-system-x86_64"), [
      ...["-m", "1G", "-object", "memory-backend-memfd,id=mem,size=1G,share=on", "-numa", "node,memdev=mem"],
      ...["-chardev", "socket,id=fs-it-s---mine----yours,path=/run/a b/c,,d.sock"],
      "-device",
      "vhost-user-fs-pci,chardev=fs-it-s---mine----yours,tag=it's,, <mine> & yours,queue-size=1024,num-request-queues=3",
    ]);
    assert.deepEqual(await args("cloud-hypervisor", "cloud-hypervisor"), [
      ...["--cpus", "boot=3", "--memory", "size=1G,shared=on", "--fs"],
      'tag="it\'s, <mine> & yours",socket="/run/a b/c,d.sock",num_queues=3,queue_size=1024',
    ]);
    assert.deepEqual(await args("uml", "linux"), ["mem=1G", "virtio_uml.device=/run/a b/c,d.sock:26:0"]);
    assert.deepEqual(await args("guest", "mount"), ["-t", "virtiofs", recipe.tag, "/mnt"]);
    assert.match(linesFor("guest", recipe)[1], /^it's,\\040<mine>\\040&\\040yours \/mnt virtiofs /);
  },
});

Deno.test({
  name: `linesFor() libvirt: both variants are libvirt's XML${have("virsh") ? "" : " (skipped: there is no virsh)"}`,
  ignore: !have("virsh"),
  fn: async () => {
    using place = new Place();
    const lines = linesFor("libvirt", recipe).join("\n");
    const [memory, one, two] = lines.split(/(?=<!-- (?:either|or))/);
    for (const devices of [one, two, one.replace("socket=", "sockets=")]) {
      const xml = `<domain type='test'><name>a</name><memory>1024</memory>${memory}<os><type>hvm</type></os>` +
        `<devices>${devices}</devices></domain>`;
      Deno.writeTextFileSync(`${place.path}/a.xml`, xml);
      const args = ["-c", "test:///default", "define", "--validate", `${place.path}/a.xml`];
      const { code, stderr } = await new Deno.Command("virsh", { args, env: { LC_ALL: "C" } }).output();
      // It sees what is wrong, too.
      assert.equal(code, devices.includes("sockets=") ? 1 : 0, `${xml}\n${new TextDecoder().decode(stderr)}`);
    }
  },
});

Deno.test("share --print prints what each needs and serves nothing", async () => {
  using place = new Place();
  const all = await ringfsd(["share", place.share, "--print", "--socket-path", place.socket, "--num-request-queues=7"]);
  assert.deepEqual([all.code, all.stderr], [0, ""]);
  for (const target of TARGETS) {
    const args = ["share", place.share, "--print", "--only", target, "--socket-path", place.socket];
    const one = await ringfsd([...args, "--num-request-queues=7"]);
    assert.equal(one.code, 0);
    for (const line of one.stdout.trimEnd().split("\n")) assert.ok(all.stdout.includes(`  ${line}\n`), line);
  }
  assert.match(all.stdout, /num-request-queues=7$/m);
  assert.throws(() => Deno.lstatSync(place.socket), Deno.errors.NotFound);
});

Deno.test("share takes a directory, and not what says so otherwise", async () => {
  using place = new Place();
  const line = async (...args: string[]) => {
    const { code, stdout, stderr } = await ringfsd(["share", ...args]);
    assert.equal(stdout, "");
    assert.match(stderr, /^ringfsd share: [^\n]+\n$/);
    return `${code} ${stderr.trimEnd()}`;
  };
  assert.match(await line(), /^2 ringfsd share: which DIR\? There is none/);
  assert.match(await line("/a", "/b"), /^2 ringfsd share: "\/b" is one word too many/);
  for (const option of ["--shared-dir=/a", "--fd=3", "--config=x", "--share=tag=a", "--version"]) {
    assert.match(await line(place.share, option), new RegExp(`^2 ringfsd share: ${option.split("=")[0]} is not for`));
  }
  assert.match(
    await line(`${place.path}/none`),
    /^1 ringfsd share: cannot share \S+: No such file .*: make the directory/,
  );
  assert.match(await line(place.share, "--cpu-affinity=4000"), /^1 ringfsd share: --cpu-affinity: .* CPU 4000/);
});

Deno.test("share serves, says who comes and goes, and ends at Ctrl-C", async () => {
  using place = new Place();
  const daemon = Started.start(["share", place.share, "--socket-path", place.socket, "-d", "--sandbox", "none"]);
  await daemon.socket(place.socket);
  useShare(place.socket, place.share).close();
  await daemon.until(() => daemon.log.includes(" disconnected\n"), "the front end has gone");
  assert.match(daemon.log, /^ringfsd: front end \(process \d+\) connected$/m);
  assert.equal((await daemon.end("SIGINT")).code, 0);
  assert.throws(() => Deno.lstatSync(place.socket), Deno.errors.NotFound);
});

const cannotHang = cannotMount();
for (const sandbox of ["none", "namespace"]) {
  Deno.test({
    name: `share --sandbox ${sandbox} ends at once at the second Ctrl-C, whatever hangs${
      cannotHang && ` (skipped: ${cannotHang})`
    }`,
    ignore: cannotHang !== "",
    fn: async () => {
      using place = new Place();
      const host = new SlowHost(place.share);
      await host.ready();
      const daemon = Started.start(["share", place.share, "--socket-path", place.socket, "--sandbox", sandbox]);
      let guest: Session | undefined;
      try {
        await daemon.socket(place.socket);
        guest = Session.open(place.socket, { memory: 4 << 20 });
        host.hold(op.FUSE_LOOKUP);
        guest.client.start(op.FUSE_LOOKUP, 1, bytes(names("slow")), { outSize: 128 });
        host.untilHeld(1);
        daemon.child.kill("SIGINT");
        await daemon.until(() => daemon.log.includes("SIGINT: ending"), "it has heard the first");
        const { signal } = await daemon.end("SIGINT");
        assert.equal(signal, "SIGKILL", daemon.log);
        // In a sandbox it is out of the daemon's reach.
        if (sandbox === "none") assert.throws(() => Deno.lstatSync(place.socket), Deno.errors.NotFound);
      } finally {
        guest?.frontend.close();
        guest?.memory.close();
        host.close();
        await daemon.end("SIGKILL");
      }
    },
  });
}

/** Why no other user can run the daemon from here, or "". */
function noOtherUser(): string {
  if (Deno.uid() !== 0) return "needs root to become another user";
  try {
    const run = new Deno.Command(Deno.execPath(), { args: ["--version"], uid: 65534, stdout: "null", stderr: "null" });
    return run.outputSync().success ? "" : "other users cannot run Deno from here";
  } catch {
    return "other users cannot reach the folder that Deno is in";
  }
}
const cannotBe = noOtherUser();

Deno.test({
  name: `share as an ordinary user says what it cannot do${cannotBe && ` (skipped: ${cannotBe})`}`,
  ignore: cannotBe !== "",
  fn: async () => {
    using place = new Place();
    const runtime = `${place.path}/user`;
    Deno.mkdirSync(runtime, { mode: 0o700 });
    Deno.chownSync(runtime, 65534, 65534);
    const options = { uid: 65534, cwd: "/", env: { XDG_RUNTIME_DIR: runtime, HOME: "/" } };
    const daemon = Started.start(["share", place.share], options);
    try {
      const socket = `${runtime}/ringfsd/share.sock`;
      await daemon.socket(socket);
      useShare(socket, place.share).close();
      assert.equal(Deno.statSync(`${place.share}/from-guest`).uid, 65534);
    } finally {
      assert.equal((await daemon.end("SIGTERM")).code, 0, daemon.log);
    }
    const { stdout } = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", main, "share", place.share, "--print"],
      ...options,
    }).outputSync();
    assert.match(
      new TextDecoder().decode(stdout),
      /^Served by user 65534: all that the guest makes is that user's; it /m,
    );
  },
});
