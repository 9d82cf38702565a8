/**
 * Makes a Debian package of an executable ringfsd; deb.sh runs it. Usage: deb.ts [BINARY [DIRECTORY]], by default dist/ringfsd and
 * dist. Prints the package's path. The same binary and sources give the same bytes: SOURCE_DATE_EPOCH dates all that is dated.
 */
import { createHash } from "node:crypto";
import { dirname, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { bashCompletion, fishCompletion, manPage, zshCompletion } from "./documents.ts";

const root = new URL("..", import.meta.url).pathname;
const NAME = "ringfsd";
const SUMMARY = "share directories with virtual machines over virtio-fs";
/** As Debian's tools have it: debchange(1). */
const MAINTAINER = `${Deno.env.get("DEBFULLNAME") ?? "The ringfsd developers"} <${
  Deno.env.get("DEBEMAIL") ?? "ringfsd@localhost"
}>`;

async function output(program: string, args: string[], env: Record<string, string> = {}): Promise<string> {
  const command = new Deno.Command(program, { args, env, cwd: root, stdin: "null" });
  const { success, stdout, stderr } = await command.output().catch((error) => {
    throw new Error(`${program}: ${(error as Error).message}`);
  });
  if (!success) {
    throw new Error(`${program} ${args[0]}: ${new TextDecoder().decode(stderr).trim().split("\n")[0] || "failed"}`);
  }
  return new TextDecoder().decode(stdout).trim();
}

/** Seconds since 1970: the variable, else the commit's time, else that of the changes. */
async function sourceDate(): Promise<number> {
  const given = Deno.env.get("SOURCE_DATE_EPOCH");
  if (given !== undefined) {
    if (!/^\d{1,11}$/.test(given)) throw new Error(`SOURCE_DATE_EPOCH=${given}: it takes seconds since 1970`);
    return Number(given);
  }
  try {
    return Number(await output("git", ["-c", "safe.directory=*", "log", "-1", "--format=%ct"]));
  } catch {
    return Math.floor((await Deno.stat(`${root}CHANGELOG.md`)).mtime!.getTime() / 1000);
  }
}

/** The newest version of glibc that the executable asks for; "2.34" of GLIBC_2.34. */
function glibcVersion(binary: Uint8Array): string {
  const mark = new TextEncoder().encode("GLIBC_2.");
  let newest = 0;
  // The engine searches for a byte faster than for a string.
  for (let at = binary.indexOf(mark[0]); at >= 0; at = binary.indexOf(mark[0], at + 1)) {
    if (!mark.every((byte, i) => binary[at + i] === byte)) continue;
    const text = new TextDecoder().decode(binary.subarray(at + mark.length, at + mark.length + 4));
    // As the linker writes it, with a NUL behind.
    newest = Math.max(newest, Number(/^(\d{1,2})(?:\.\d)?\0/.exec(text)?.[1] ?? 0));
  }
  return `2.${Math.max(newest, 17)}`;
}

/** "0.1.0+12.g1a2b3c4-dirty" as a version of Debian's, whose last hyphen would begin a revision. */
export function debianVersion(version: string): string {
  return `${version.replaceAll("-", "+").replace(/[^A-Za-z0-9.+~]/g, ".")}-1`;
}

interface File {
  path: string;
  bytes: Uint8Array;
  mode: number;
}

function zipped(text: string): Uint8Array {
  const bytes = new Uint8Array(gzipSync(new TextEncoder().encode(text), { level: 9 }));
  // RFC 1952: the operating system's byte is the builder's else. No name and no time are in it.
  bytes[9] = 3;
  return bytes;
}

/** All files of the package, by their places. */
async function files(binary: Uint8Array, version: string, epoch: number): Promise<File[]> {
  const date = new Date(epoch * 1000);
  const text = (path: string, content: string): File => ({
    path,
    bytes: new TextEncoder().encode(content),
    mode: 0o644,
  });
  const source = async (path: string, from: string) => text(path, await Deno.readTextFile(root + from));
  const doc = `usr/share/doc/${NAME}`;
  const licences = await Promise.all(["LICENSE", "LICENSE-BSD-3-Clause"].map((one) => Deno.readTextFile(root + one)));
  const changes = `${NAME} (${debianVersion(version)}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n` +
    ` -- ${MAINTAINER}  ${date.toUTCString().replace("GMT", "+0000")}\n`;
  return [
    { path: `usr/bin/${NAME}`, bytes: binary, mode: 0o755 },
    await source(`usr/lib/systemd/system/${NAME}@.service`, `packaging/systemd/${NAME}@.service`),
    await source(`usr/lib/systemd/system/${NAME}@.socket`, `packaging/systemd/${NAME}@.socket`),
    await source(`usr/share/qemu/vhost-user/50-${NAME}.json`, `packaging/50-${NAME}.json`),
    text(`usr/share/bash-completion/completions/${NAME}`, bashCompletion()),
    text(`usr/share/zsh/vendor-completions/_${NAME}`, zshCompletion()),
    text(`usr/share/fish/vendor_completions.d/${NAME}.fish`, fishCompletion()),
    {
      path: `usr/share/man/man1/${NAME}.1.gz`,
      bytes: zipped(manPage(version, date.toISOString().slice(0, 10))),
      mode: 0o644,
    },
    await source(`usr/share/lintian/overrides/${NAME}`, "packaging/lintian-overrides"),
    await source(`${doc}/README.md`, "README.md"),
    ...await Promise.all(DOCUMENTS.map((name) => source(`${doc}/${name}.md`, `docs/${name}.md`))),
    await source(`${doc}/SECURITY.md`, "SECURITY.md"),
    await source(`${doc}/examples/home.json`, "packaging/systemd/home.json"),
    await source(`${doc}/examples/grafana.json`, "packaging/grafana/ringfsd.json"),
    await source(`${doc}/examples/prometheus.rules.yml`, "packaging/prometheus/ringfsd.rules.yml"),
    { path: `${doc}/changelog.gz`, bytes: zipped(await Deno.readTextFile(`${root}CHANGELOG.md`)), mode: 0o644 },
    { path: `${doc}/changelog.Debian.gz`, bytes: zipped(changes), mode: 0o644 },
    text(
      `${doc}/copyright`,
      `${licences[0]}\n\nThe full text of the Apache License 2.0 is in /usr/share/common-licenses/Apache-2.0.\n\n${
        licences[1]
      }`,
    ),
  ].sort((a, b) => a.path < b.path ? -1 : 1);
}

/** Documents for users, in the package too. */
const DOCUMENTS = [
  ...["CLOUD_HYPERVISOR", "CONTROL", "INCUS", "KATA", "LIBVIRT", "MIGRATION", "MISTAKES", "MONITORING", "NIXOS"],
  ...["OPTIONS", "PERFORMANCE", "QEMU", "SYSTEMD", "TROUBLESHOOTING", "UNPRIVILEGED"],
];

/** Shares that run are left alone at an upgrade, for their guests would lose them; they stop when the package goes. */
const SCRIPTS: Record<string, string> = {
  postinst: `#!/bin/sh
set -e
if [ "$1" = configure ] && [ -z "\${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then systemctl --system daemon-reload || true; fi
`,
  prerm: `#!/bin/sh
set -e
if [ "$1" = remove ] && [ -z "\${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
  systemctl stop 'ringfsd@*.socket' 'ringfsd@*.service' || true
fi
`,
  postrm: `#!/bin/sh
set -e
if [ "$1" = remove ] && [ -z "\${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then systemctl --system daemon-reload || true; fi
`,
};

function control(version: string, architecture: string, glibc: string, kibibytes: number): string {
  return `Package: ${NAME}
Version: ${debianVersion(version)}
Architecture: ${architecture}
Maintainer: ${MAINTAINER}
Installed-Size: ${kibibytes}
Depends: libc6 (>= ${glibc}), libgcc-s1
Suggests: qemu-system-x86 | qemu-system, libvirt-daemon-system
Section: otherosfs
Priority: optional
Description: ${SUMMARY}
 A vhost-user-fs back end: QEMU, Cloud Hypervisor and other hypervisors connect
 to its socket, and Linux guests mount the directory with their own virtiofs
 driver. It takes the options of virtiofsd, and can stand in for it.
 .
 One executable on io_uring, with several shares in one process, socket
 activation and hardened units for systemd, and a description of itself by which
 libvirt finds it.
`;
}

/** Builds the package in `directory`. Returns its path. */
export async function buildDeb(binaryPath: string, directory: string): Promise<string> {
  const epoch = await sourceDate();
  const said = await output(binaryPath, ["--version"]);
  const version = /^ringfsd (\S+)$/.exec(said)?.[1];
  if (version === undefined) throw new Error(`${binaryPath} --version says ${JSON.stringify(said)}: no ringfsd`);
  const architecture = await output("dpkg", ["--print-architecture"]);
  const binary = await Deno.readFile(binaryPath);
  const all = await files(binary, version, epoch);
  const stage = await Deno.makeTempDir({ prefix: "ringfsd-deb-" });
  try {
    const put = async ({ path, bytes, mode }: File) => {
      await Deno.mkdir(`${stage}/${dirname(path)}`, { recursive: true, mode: 0o755 });
      await Deno.writeFile(`${stage}/${path}`, bytes);
      await Deno.chmod(`${stage}/${path}`, mode);
    };
    for (const file of all) await put(file);
    await Deno.mkdir(`${stage}/etc/${NAME}`, { recursive: true });
    const kibibytes = Math.ceil(all.reduce((sum, { bytes }) => sum + Math.ceil(bytes.length / 1024), 0));
    const meta: Record<string, string> = {
      ...SCRIPTS,
      control: control(version, architecture, glibcVersion(binary), kibibytes),
      md5sums: all.map(({ path, bytes }) => `${createHash("md5").update(bytes).digest("hex")}  ${path}\n`).join(""),
    };
    for (const [name, content] of Object.entries(meta)) {
      const mode = name in SCRIPTS ? 0o755 : 0o644;
      await put({ path: `DEBIAN/${name}`, bytes: new TextEncoder().encode(content), mode });
    }
    await settle(stage, epoch);
    const path = `${directory}/${NAME}_${debianVersion(version)}_${architecture}.deb`;
    // One thread, for the number of threads shows in xz's stream.
    const xz = ["--uniform-compression", "-Zxz", `-z${compression()}`, "--threads-max=1"];
    await output("dpkg-deb", ["--root-owner-group", ...xz, "--build", stage, path], { SOURCE_DATE_EPOCH: `${epoch}` });
    return path;
  } finally {
    await Deno.remove(stage, { recursive: true });
  }
}

/** xz's level: low ones are for tests. */
function compression(): string {
  return Deno.env.get("RINGFSD_DEB_LEVEL") ?? "6";
}

/** Gives every file and directory one time and the modes that do not depend on the umask. */
async function settle(path: string, epoch: number): Promise<void> {
  for await (const entry of Deno.readDir(path)) {
    const at = `${path}/${entry.name}`;
    if (entry.isDirectory) await settle(at, epoch);
    else await Deno.utime(at, epoch, epoch);
  }
  await Deno.chmod(path, 0o755);
  await Deno.utime(path, epoch, epoch);
}

if (import.meta.main) {
  try {
    console.log(await buildDeb(resolve(Deno.args[0] ?? `${root}dist/${NAME}`), resolve(Deno.args[1] ?? `${root}dist`)));
  } catch (error) {
    console.error(`deb.sh: ${(error as Error).message}`);
    Deno.exit(1);
  }
}
