// libvirt itself: its QEMU driver within virsh (qemu:///embed) starts ringfsd as a domain's <binary>, and a guest without KVM.
import assert from "node:assert/strict";
import { daemonCommand } from "../guest/daemon.ts";
import { setUp } from "../guest/guest.ts";

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

/** As docs/LIBVIRT.md has it, around it the least that boots. */
function domain(dir: string, binary: string): string {
  return `<domain type='qemu'>
  <name>ringfsd-test</name>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
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
    <filesystem type='mount' accessmode='passthrough'>
      <driver type='virtiofs' queue='1024'/>
      <binary path='${binary}' xattr='on'><cache mode='always'/></binary>
      <source dir='${dir}/share'/>
      <target dir='myfs'/>
    </filesystem>
    <memballoon model='none'/>
  </devices>
</domain>
`;
}

Deno.test({
  name: `libvirt starts a guest whose share is ringfsd's${cannot && ` (skipped: ${cannot})`}`,
  ignore: cannot !== "",
  fn: async () => {
    const dir = Deno.makeTempDirSync({ prefix: "ringfsd-libvirt-" });
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
    const log = () => text("root/log/qemu/ringfsd-test-fs0-virtiofsd.log");
    try {
      await makeGuest(dir);
      Deno.mkdirSync(`${dir}/share`);
      Deno.writeTextFileSync(`${dir}/share/from-host`, "from the host\n");
      // A <binary> has no arguments.
      const binary = `${dir}/ringfsd`;
      Deno.writeTextFileSync(binary, `#!/bin/sh\nexec ${daemonCommand().join(" ")} "$@"\n`);
      Deno.chmodSync(binary, 0o755);
      Deno.writeTextFileSync(`${dir}/domain.xml`, domain(dir, binary));
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
    try {
      const everything = [text("console"), log(), ...await said].join("\n");
      assert.match(text("console"), /^myfs \/mnt virtiofs [^\n]*\nfrom the host\r?\n/m, everything);
      assert.match(text("console"), /^@ringfsd exit 0\r?$/m, everything);
      assert.equal(text("share/from-guest"), "from the guest\n");
      assert.match(log(), /^ringfsd: \S+ shares \S+ on descriptor \d+$/m);
      assert.match(log(), /front end \(process \d+\) connected/);
    } finally {
      Deno.removeSync(dir, { recursive: true });
    }
  },
});
