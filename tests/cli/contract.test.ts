// The command lines of the programs that start virtiofsd, each taken from its source, with a guest at the other end.
import assert from "node:assert/strict";
import { Session } from "../../bench/session.ts";
import { EPERM } from "../../ffi/errno.ts";
import { parseOptions } from "../../cli/options.ts";
import { Place, Started, type StartOptions, useShare } from "./started.ts";

const main = new URL("../../main.ts", import.meta.url).pathname;

/** The name under which most of them look for it. */
const AS_VIRTIOFSD = { name: "virtiofsd" };

/** Starts it with a listening socket as a descriptor, has a guest use the share, and ends it. */
async function withDescriptor(
  at: number,
  args: (dir: string) => string[],
  options: StartOptions = {},
  use = (socket: string, dir: string) => useShare(socket, dir).close(),
): Promise<string> {
  using place = new Place();
  await using daemon = Started.start(args(place.share), { sockets: [{ at, path: place.socket }], ...options });
  use(place.socket, place.share);
  await daemon.end("SIGTERM");
  return daemon.log;
}

async function answer(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args: ["run", "-A", main, ...args] })
    .output();
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

// libvirt, src/qemu/qemu_virtiofs.c, qemuVirtioFSBuildCommandLine(): with the capability separate-options.
Deno.test("libvirt starts it with --fd and --shared-dir", async () => {
  const more = ["--cache", "always", "--xattr", "--thread-pool-size=4", "--rlimit-nofile=4096"];
  await withDescriptor(29, (dir) => ["--fd=29", "--shared-dir", dir, ...more, "--log-level", "debug"]);
  await withDescriptor(29, (dir) => ["--fd=29", "--shared-dir", dir, "--cache", "never"]);
});

// The same function, without that capability; the buffer doubles commas of the path.
Deno.test("libvirt starts it with --fd and -o, as it did the first virtiofsd", async () => {
  const old = (dir: string) => `source=${dir},cache=always,xattr,flock,no_posix_lock`;
  await withDescriptor(31, (dir) => ["--fd=31", "-o", old(dir), "--thread-pool-size=0", "-d"]);
  // The first releases, 6.2: --syslog before it.
  await withDescriptor(31, (dir) => ["--syslog", "--fd=31", "-o", `source=${dir},cache=none,no_flock`]);
});

// libvirt, src/qemu/qemu_vhost_user.c: type and features of --print-capabilities; Incus, DiskVMVirtiofsdStart(): the first feature.
Deno.test("libvirt and Incus ask for its capabilities", async () => {
  const { code, stdout } = await answer("--print-capabilities");
  assert.equal(code, 0);
  assert.deepEqual(JSON.parse(stdout), { type: "fs", features: ["posix-acl-negotiation-mode", "separate-options"] });
});

// kata-containers, src/runtime/virtcontainers/virtiofsd.go, args(); the rest is DEFVIRTIOFSEXTRAARGS of src/runtime/Makefile.
Deno.test("Kata's runtime in Go starts it with --syslog and --fd=3", async () => {
  for (const cache of ["auto", "always", "metadata", "never"]) {
    const args = (dir: string) => ["--syslog", `--cache=${cache}`, `--shared-dir=${dir}`, "--fd=3"];
    await withDescriptor(3, (dir) => [...args(dir), "--thread-pool-size=1", "--announce-submounts"]);
  }
});

// kata-containers, src/runtime-rs/crates/resource/src/share_fs/share_virtio_fs_standalone.rs, and src/runtime-rs/Makefile.
Deno.test("Kata's runtime in Rust starts it with a relative socket path", async () => {
  using place = new Place();
  const extra = ["--thread-pool-size=1", "-o", "announce_submounts"];
  const args = ["--socket-path", "socket", "--shared-dir", place.share, "--cache", "auto", ...extra, "--xattr"];
  await using daemon = Started.start(args, { cwd: place.path });
  await daemon.socket(place.socket);
  useShare(place.socket, place.share).close();
});

/** Why no other user can run the daemon from here, or "". */
function noOtherUser(): string {
  if (Deno.uid() !== 0) return "needs root to become another user";
  try {
    const { success } = new Deno.Command(Deno.execPath(), { args: ["--version"], uid: 107, stdout: "null" })
      .outputSync();
    return success ? "" : "other users cannot run Deno from here";
  } catch {
    return "other users cannot reach the folder that Deno is in";
  }
}

const needsRoot = noOtherUser();
// kubevirt, pkg/virt-controller/services/virtiofs.go, generateContainerFromVolume(): user 107, and no capabilities.
Deno.test({
  name: `KubeVirt starts it as a user, and it ends with its guest${needsRoot && ` (skipped: ${needsRoot})`}`,
  ignore: needsRoot !== "",
  fn: async () => {
    using place = new Place();
    const migration = ["--migration-on-error=guest-error", "--migration-mode=find-paths"];
    const args = [`--socket-path=${place.socket}`, `--shared-dir=${place.share}`, "--sandbox=none", "--cache=auto"];
    const options = { ...AS_VIRTIOFSD, uid: 107, cwd: "/", env: { HOME: "/" } };
    const daemon = Started.start([...args, ...migration], options);
    try {
      await daemon.socket(place.socket);
      const guest = useShare(place.socket, place.share);
      assert.equal(Deno.statSync(`${place.share}/from-guest`).uid, 107);
      guest.close();
      // The container is done when the machine is.
      assert.equal((await daemon.end()).code, 0, daemon.log);
      assert.match(daemon.log, /no migration yet/);
    } finally {
      await daemon.end("SIGTERM");
    }
  },
});

// podman, pkg/machine/qemu/virtiofsd.go, createVirtiofsCmd() and spawnForMount(): it ends with its machine.
Deno.test("Podman starts it in the directory itself, with RUST_LOG", async () => {
  using place = new Place();
  const args = ["--sandbox", "none", "--socket-path", place.socket, "--shared-dir", ".", "--seccomp=none"];
  const daemon = Started.start(args, { ...AS_VIRTIOFSD, cwd: place.share, env: { RUST_LOG: "ERROR" } });
  try {
    await daemon.socket(place.socket);
    useShare(place.socket, place.share).close();
    assert.equal((await daemon.end()).code, 0);
    assert.equal(daemon.log, "");
  } finally {
    await daemon.end("SIGTERM");
  }
});

// lima, pkg/driver/qemu/qemu.go, FindVirtiofsd() and VirtiofsdCmdline().
Deno.test("Lima asks for its version and starts it", async () => {
  const { code, stdout } = await answer("--version");
  assert.equal(code, 0);
  assert.match(stdout, /^ringfsd \S+\n$/);
  using place = new Place();
  await using daemon = Started.start(["--socket-path", place.socket, "--shared-dir", place.share]);
  await daemon.socket(place.socket);
  useShare(place.socket, place.share).close();
});

// incus, internal/server/device/device_utils_disk.go, DiskVMVirtiofsdStart(): an instance with an id map, and one without.
Deno.test("Incus starts it with --fd=3 and maps of ids, the empty ones with them", async () => {
  const map = (kind: string) => [
    `--translate-${kind}=map:0:1000000:1000000000`,
    `--translate-${kind}=forbid-guest:0:0`,
    `--translate-${kind}=forbid-guest:1000000000:3294967295`,
  ];
  const args = (dir: string) => ["--fd=3", "--cache=never", `--shared-dir=${dir}`, ...map("uid"), ...map("gid")];
  await withDescriptor(3, args, {}, (socket, dir) => {
    Deno.writeTextFileSync(`${dir}/of-the-guest`, "");
    if (Deno.uid() === 0) Deno.chownSync(`${dir}/of-the-guest`, 1000033, 1000034);
    const guest = Session.open(socket, { memory: 4 << 20, uid: 1000000001 });
    const { error, attr } = guest.client.lookup(1, "of-the-guest");
    assert.equal(error, 0);
    if (Deno.uid() === 0) assert.deepEqual([attr.uid, attr.gid], [33, 34]);
    assert.equal(guest.client.create(1, "forbidden").error, -EPERM);
    guest.close();
  });
  await withDescriptor(3, (dir) => ["--fd=3", "--cache=metadata", `--shared-dir=${dir}`, "--posix-acl=auto"]);
});

// microvm.nix, nixos-modules/microvm/virtiofsd/default.nix.
Deno.test("microvm.nix starts it with a group for the socket", async () => {
  using place = new Place();
  const group = Deno.readTextFileSync("/etc/group").split("\n").map((line) => line.split(":"))
    .find(([, , id]) => id !== `${Deno.gid()}`)!;
  const mine = Deno.uid() === 0 ? group : [groupOfProcess(), "", `${Deno.gid()}`];
  const args = [`--socket-path=${place.socket}`, `--socket-group=${mine[0]}`, `--shared-dir=${place.share}`];
  const limit = Deno.uid() === 0 ? ["--rlimit-nofile", "1048576"] : [];
  const more = ["--thread-pool-size", "4", "--posix-acl", "--xattr", "--cache=auto", "--inode-file-handles=prefer"];
  await using daemon = Started.start([...args, ...limit, ...more, "--tag=t", "--readonly"]);
  await daemon.socket(place.socket);
  await daemon.until(() => daemon.log.includes(" shares "), "it listens");
  const { gid, mode } = Deno.lstatSync(place.socket);
  assert.deepEqual([gid, mode! & 0o777], [Number(mine[2]), 0o660]);
});

function groupOfProcess(): string {
  return new TextDecoder().decode(new Deno.Command("id", { args: ["-gn"] }).outputSync().stdout).trim();
}

Deno.test("its socket is its owner's alone, whatever the umask", async () => {
  using place = new Place();
  const args = ["--socket-path", place.socket, "--shared-dir", place.share];
  await using daemon = Started.start(args, { before: "umask 0" });
  await daemon.socket(place.socket);
  assert.equal(Deno.lstatSync(place.socket).mode! & 0o777, 0o600);
});

/** All options of virtiofsd 1.13.2, by its --help, each with a value that it takes. */
const OPTIONS: Record<string, string | null> = {
  "--shared-dir": "/srv",
  "--tag": "tag",
  "--socket": "/run/s",
  "--socket-path": "/run/s",
  "--socket-group": "root",
  "--fd": "3",
  "--thread-pool-size": "0",
  "--xattr": null,
  "--posix-acl": null,
  "--xattrmap": ":map::user.virtiofs.:",
  "--sandbox": "namespace",
  "--readonly": null,
  "--seccomp": "kill",
  "--announce-submounts": null,
  "--no-announce-submounts": null,
  "--inode-file-handles": "prefer",
  "--cache": "auto",
  "--allow-mmap": null,
  "--no-readdirplus": null,
  "--writeback": null,
  "--allow-direct-io": null,
  "--print-capabilities": null,
  "--modcaps": "+sys_admin:-chown",
  "--log-level": "trace",
  "--syslog": null,
  "--rlimit-nofile": "0",
  "-o": "cache=auto",
  "-d": null,
  "--no-killpriv-v2": null,
  "--killpriv-v2": null,
  "-f": null,
  "--security-label": null,
  "--uid-map": ":0:100000:65536:",
  "--gid-map": ":0:100000:65536:",
  "--translate-uid": "map:0:1000:1",
  "--translate-gid": "map:0:1000:1",
  "--preserve-noatime": null,
  "--migration-mode": "find-paths",
  "--migration-on-error": "guest-error",
  "--migration-verify-handles": null,
  "--migration-confirm-paths": null,
  "-h": null,
  "--help": null,
  "-V": null,
  "--version": null,
};
/** Those that are for ordinary users: root has no user namespace. */
const REFUSED = Deno.uid() === 0 ? ["--uid-map", "--gid-map"] : [];

Deno.test("every option of virtiofsd 1.13 is taken, or refused with what to do", async () => {
  for (const [option, value] of Object.entries(OPTIONS)) {
    const given = value === null ? [option] : option.startsWith("--") ? [`${option}=${value}`] : [option, value];
    const where = ["--fd", "--socket", "--socket-path"].includes(option) ? [] : ["--socket-path=/run/s"];
    const share = option === "--shared-dir" ? [] : ["--shared-dir=/srv"];
    let complaint = "";
    const parsed = await parseOptions([...share, ...where, ...given], () => {}, (text) => void (complaint += text));
    if (REFUSED.includes(option)) {
      assert.deepEqual(parsed, { exit: 2 }, option);
      assert.match(complaint, new RegExp(`^ringfsd: ${option} is for ordinary users: .+\n$`));
    } else {
      assert.equal(complaint, "", option);
      assert.ok("options" in parsed || parsed.exit === 0, option);
    }
  }
});

/** The options of a --help of clap's: lines that begin with one. */
function optionsOf(help: string): string[] {
  const found = [...help.matchAll(/^ {2,6}(?:(-\w),? ?)?(--[a-z][a-z0-9-]+)?(?:[= ]<.*>|\[=.*\])?$/gm)];
  return found.flatMap(([, letter, name]) => [letter, name]).filter((one) => one !== undefined);
}

/** The --help of an installed virtiofsd in Rust, or "". */
function installedHelp(): string {
  for (const path of [Deno.env.get("VIRTIOFSD"), "/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "virtiofsd"]) {
    if (!path) continue;
    try {
      const { success, stdout } = new Deno.Command(path, { args: ["--help"], stderr: "null" }).outputSync();
      const help = new TextDecoder().decode(stdout);
      if (success && help.includes("--shared-dir <")) return help;
    } catch {
      // Not there.
    }
  }
  return "";
}
const help = installedHelp();

Deno.test({
  name: `no option of the installed virtiofsd is missing here${
    help === "" ? " (skipped: there is none; set VIRTIOFSD)" : ""
  }`,
  ignore: help === "",
  fn: () => {
    const theirs = optionsOf(help);
    assert.ok(theirs.length > 30, `only ${theirs.length} options found in its --help`);
    // 1.14 has one more, which is refused in options.test.ts.
    const unknown = theirs.filter((one) => !Object.hasOwn(OPTIONS, one) && one !== "--posix-acl-create-fallback");
    assert.deepEqual(unknown, []);
  },
});
