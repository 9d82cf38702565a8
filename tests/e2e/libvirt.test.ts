// libvirt itself: its QEMU driver within virsh (qemu:///embed) starts ringfsd as a domain's <binary>, and a guest without KVM.
import assert from "node:assert/strict";
import { daemonCommand } from "../guest/daemon.ts";
import { setUp } from "../guest/guest.ts";
import { Output } from "../guest/output.ts";
import { until } from "../guest/poll.ts";

const initScript = new URL("../guest/init", import.meta.url).pathname;
const DEADLINE_MS = 120_000;
const HINT = "as root: apt-get install --no-install-recommends libvirt-clients libvirt-daemon-system qemu-system-x86";

/** libvirt's own folder, so that nothing of the machine's libvirt is touched. */
function makeRoot(dir: string): string {
  Deno.mkdirSync(`${dir}/root/etc`, { recursive: true });
  const settings = ['user = "root"', 'group = "root"', 'security_driver = "none"', "namespaces = []"];
  const more = ["cgroup_controllers = []", 'stdio_handler = "file"', ""];
  Deno.writeTextFileSync(`${dir}/root/etc/qemu.conf`, [...settings, ...more].join("\n"));
  return `qemu:///embed?root=${dir}/root`;
}

/** Why it cannot be run here, or "". */
function obstacle(): string {
  if (Deno.uid() !== 0) return "needs root";
  const dir = Deno.makeTempDirSync({ prefix: "ringfsd-libvirt-" });
  try {
    const { success, stderr } = new Deno.Command("virsh", { args: ["-q", "-c", makeRoot(dir), "uri"] }).outputSync();
    if (success) return "";
    const said = new TextDecoder().decode(stderr).split("\n").filter((line) => line.startsWith("error: "));
    return `${said.at(-1) ?? "virsh fails"}; ${HINT}`;
  } catch {
    return `there is no virsh; ${HINT}`;
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
}
const cannot = obstacle();

const RUN = `grep ' /mnt virtiofs ' /proc/mounts && cat /mnt/from-host && echo from the guest > /mnt/from-guest
`;

/** Kernel and initramfs of the guests' cache, with a script to run; see tests/guest/boot.sh. */
async function makeGuest(dir: string): Promise<void> {
  const cache = await setUp("tcg");
  Deno.mkdirSync(`${dir}/tree`);
  Deno.copyFileSync(initScript, `${dir}/tree/init`);
  Deno.writeTextFileSync(`${dir}/tree/run.sh`, RUN);
  Deno.writeTextFileSync(`${dir}/tree/guest.conf`, "MODE=run TAG=myfs\nROWS=24 COLUMNS=80 TERM=vt100\n");
  Deno.copyFileSync(`${cache}/pc/kernel`, `${dir}/kernel`);
  const pack = `chmod 755 tree/*; cp "$0/pc/initrd" initrd
    (cd tree && find . | sort | "$0/bin/busybox" cpio -o -H newc -R 0:0 2> /dev/null | gzip -1) >> initrd`;
  const { success } = await new Deno.Command("sh", { args: ["-c", pack, cache], cwd: dir }).output();
  assert.ok(success);
}

const MEMORY = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>";

/** As docs/LIBVIRT.md has it. */
const byBinary = (dir: string, binary: string) =>
  `<filesystem type='mount' accessmode='passthrough'>
      <driver type='virtiofs' queue='1024'/>
      <binary path='${binary}' xattr='on'><cache mode='always'/></binary>
      <source dir='${dir}/share'/>
      <target dir='myfs'/>
    </filesystem>`;

/** The least that boots. */
function domain(dir: string, filesystem: string, memory = MEMORY): string {
  return `<domain type='qemu'>
  <name>ringfsd-test</name>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  ${memory}
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>${dir}/kernel</kernel>
    <initrd>${dir}/initrd</initrd>
    <cmdline>console=ttyS0 quiet loglevel=4 panic=1 mitigations=off nokaslr random.trust_cpu=on</cmdline>
  </os>
  <cpu mode='maximum'/>
  <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <serial type='file'><source path='${dir}/console'/><target port='0'/></serial>
    ${filesystem}
    <memballoon model='none'/>
  </devices>
</domain>
`;
}

interface Booted {
  console: string;
  /** Of the daemon that libvirt started, if it did. */
  log: string;
  everything: string;
}

/** Has libvirt start the domain, until its guest has done what it is to do. `make` returns the domain's XML. */
async function boot(dir: string, make: () => string): Promise<Booted> {
  const text = (path: string) => {
    try {
      return Deno.readTextFileSync(`${dir}/${path}`);
    } catch {
      return "";
    }
  };
  const virsh = new Deno.Command("virsh", {
    args: ["-q", "-c", makeRoot(dir)],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const said = Promise.all([virsh.stdout.text(), virsh.stderr.text()]);
  const writer = virsh.stdin.getWriter();
  const tell = (line: string) => writer.write(new TextEncoder().encode(`${line}\n`));
  try {
    await makeGuest(dir);
    Deno.writeTextFileSync(`${dir}/share/from-host`, "from the host\n");
    Deno.writeTextFileSync(`${dir}/domain.xml`, make());
    await tell(`create ${dir}/domain.xml`);
    const deadline = performance.now() + DEADLINE_MS;
    while (!/@ringfsd exit \d+/.test(text("console"))) {
      if (performance.now() > deadline) break;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  } finally {
    // A guest that has powered off is gone by itself.
    await tell("destroy ringfsd-test");
    await tell("quit");
    await writer.close();
    await virsh.status;
  }
  const [console, log] = [text("console"), text("root/log/qemu/ringfsd-test-fs0-virtiofsd.log")];
  return { console, log, everything: [console, log, ...await said].join("\n") };
}

/** The guest has mounted the share, read a file and written one. */
function checkGuest(dir: string, { console, everything }: Booted): void {
  assert.match(console, /^myfs \/mnt virtiofs [^\n]*\nfrom the host\r?\n/m, everything);
  assert.match(console, /^@ringfsd exit 0\r?$/m, everything);
  assert.equal(Deno.readTextFileSync(`${dir}/share/from-guest`), "from the guest\n");
}

function withDir(body: (dir: string) => Promise<void>): () => Promise<void> {
  return async () => {
    const dir = Deno.makeTempDirSync({ prefix: "ringfsd-libvirt-" });
    Deno.mkdirSync(`${dir}/share`);
    try {
      await body(dir);
    } finally {
      Deno.removeSync(dir, { recursive: true });
    }
  };
}

Deno.test({
  name: `libvirt starts a guest whose share is ringfsd's${cannot && ` (skipped: ${cannot})`}`,
  ignore: cannot !== "",
  fn: withDir(async (dir) => {
    const booted = await boot(dir, () => {
      // A <binary> has no arguments.
      const binary = `${dir}/ringfsd`;
      Deno.writeTextFileSync(binary, `#!/bin/sh\nexec ${daemonCommand().join(" ")} "$@"\n`);
      Deno.chmodSync(binary, 0o755);
      return domain(dir, byBinary(dir, binary));
    });
    checkGuest(dir, booted);
    assert.match(booted.log, /^ringfsd: \S+ shares \S+ on descriptor \d+$/m);
    assert.match(booted.log, /front end \(process \d+\) connected/);
  }),
});

Deno.test({
  name: `libvirt connects a guest to ringfsd share, by the XML that it prints${cannot && ` (skipped: ${cannot})`}`,
  ignore: cannot !== "",
  fn: withDir(async (dir) => {
    const [program, ...words] = daemonCommand();
    const args = [
      ...words,
      "share",
      `${dir}/share`,
      "--tag",
      "myfs",
      "--socket-path",
      `${dir}/socket`,
      "--only",
      "libvirt",
    ];
    const daemon = new Deno.Command(program, { args, stdin: "null", stdout: "piped", stderr: "piped" }).spawn();
    const output = new Output(daemon.stdout, daemon.stderr);
    try {
      await until("the daemon's socket", () => Deno.lstat(`${dir}/socket`).then(() => true, () => false), 20_000);
      const booted = await boot(dir, () => {
        const [memory, external] = output.text.split(/(?=<!-- (?:either|or))/);
        return domain(dir, external, memory);
      });
      checkGuest(dir, booted);
      await until("the front end's leave", () => output.text.includes(" disconnected\n"), 20_000);
    } finally {
      daemon.kill("SIGTERM");
      assert.equal((await daemon.status).code, 0, output.text);
      await output.ended;
    }
  }),
});
