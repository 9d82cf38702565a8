// `ringfsd doctor`: each finding, on machines that are made up; and one look at the real one.
import assert from "node:assert/strict";
import { type Finding, isBefore, versionOf } from "../../cli/finding.ts";
import { examine } from "../../cli/findings.ts";
import { report } from "../../cli/doctor_command.ts";
import { type DirectoryFacts, type Machine, thisMachine } from "../../cli/machine.ts";
import { Place } from "./started.ts";

const main = new URL("../../main.ts", import.meta.url).pathname;
const ALL_CAPABILITIES = "CapEff:\t000001ffffffffff\nSeccomp:\t0\n";
const MOUNTS = [
  "20 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw",
  "21 20 0:20 / /dev/shm rw,nosuid - tmpfs tmpfs rw",
  "22 20 0:30 / /mnt/a\\040b rw - nfs4 server:/ rw",
  "23 20 0:31 / /tmp rw,noexec - tmpfs tmpfs rw",
];

/** A machine with nothing to be said against it, and what differs: files (null: not there), and facts. */
interface Difference {
  files?: Record<string, string | null>;
  programs?: Record<string, string | null>;
  facts?: Partial<Machine>;
  directory?: Partial<DirectoryFacts>;
}

function machine({ files = {}, programs = {}, facts = {}, directory = {} }: Difference = {}): Machine {
  const there: Record<string, string | null> = {
    "/proc/sys/kernel/osrelease": "6.12.1\n",
    "/proc/self/status": ALL_CAPABILITIES,
    "/proc/sys/fs/nr_open": "1048576\n",
    "/proc/self/limits": "Max open files            1024                 524288               files\n",
    "/proc/meminfo": "MemAvailable:   16777216 kB\n",
    "/proc/sys/user/max_user_namespaces": "15000\n",
    "/proc/self/mountinfo": MOUNTS.join("\n"),
    "/proc/self/cgroup": "0::/\n",
    "/proc/cpuinfo": "flags: vmx\n",
    "/dev/kvm": "",
    "/tmp": "",
    "/root": "",
    "/run/systemd/system": "",
    ...files,
  };
  for (const path of Object.keys(programs)) there[path] = "";
  return {
    uid: 0,
    arch: "x86_64",
    env: (name) => name === "HOME" ? "/root" : undefined,
    read: (path) => there[path] ?? null,
    list: (path) =>
      Object.keys(there).filter((one) => one.startsWith(`${path}/`) && there[one] !== null)
        .map((one) => one.slice(path.length + 1)),
    exists: (path) => (there[path] ?? null) !== null,
    canOpen: () => "",
    run: (program) => programs[program] ?? null,
    ring: () => "",
    landlock: () => 5,
    cpus: () => 8,
    space: () => ({ total: 2 ** 34, free: 2 ** 33 }),
    directory: () => ({ open: "", read: "", write: "", xattr: "", acl: "", handles: "", ...directory }),
    ...facts,
  };
}

function about(what: string, difference: Difference, dir?: string): Finding[] {
  return examine(machine(difference), dir).filter((one) => one.about === what);
}

/** That there is such a finding, alone on its subject, and what can be done about it. */
function finds(level: string, what: string, text: RegExp, todo: RegExp, difference: Difference, dir?: string): void {
  const [found, ...more] = about(what, difference, dir);
  assert.ok(found, `nothing about ${what}`);
  assert.equal(found.level, level, found.text);
  assert.match(found.text, text);
  assert.match(found.todo, todo);
  assert.deepEqual(more, []);
}

Deno.test("examine() a machine that has everything is well, but for what is not installed", () => {
  const findings = examine(machine(), "/srv");
  assert.deepEqual(findings.filter(({ level }) => level !== "ok").map(({ about }) => about), ["hypervisor"]);
  for (const { text, level, todo } of findings) {
    assert.ok(text.length > 0);
    if (level === "ok") assert.equal(todo, "");
    else assert.notEqual(todo, "");
  }
});

Deno.test("examine() kernel and io_uring", () => {
  const release = (text: string) => ({ "/proc/sys/kernel/osrelease": text });
  finds("warn", "kernel", /5\.10\.0-28-amd64 has no io_uring/, /5\.13 or later/, { files: release("5.10.0-28-amd64") });
  finds("ok", "kernel", /5\.15\.0 will do/, /^$/, { files: release("5.15.0") });
  finds("fail", "processor", /riscv64 is not one/, /x86-64 or arm64/, { facts: { arch: "riscv64" } });
  const ring = () => "Operation not permitted";
  finds("warn", "io_uring", /plain calls/, /Linux 5\.13/, { facts: { ring } });
  finds("warn", "io_uring", /not permitted/, /^sysctl kernel\.io_uring_disabled=0 \(it is 2\)$/, {
    facts: { ring },
    files: { "/proc/sys/kernel/io_uring_disabled": "2\n" },
  });
  finds("warn", "io_uring", /not permitted/, /seccomp profile allow io_uring_setup/, {
    facts: { ring },
    files: { "/proc/self/status": ALL_CAPABILITIES.replace("Seccomp:\t0", "Seccomp:\t2") },
  });
  const locked = { "/proc/self/limits": "Max locked memory         65536                65536                bytes\n" };
  finds("warn", "memlock", /there is 0 MiB/, /ulimit -l/, { files: { ...release("5.10.0"), ...locked } });
  assert.deepEqual(about("memlock", { files: locked }), []);
});

Deno.test("examine() user, capabilities and limits", () => {
  finds("warn", "user", /user 1000: all that guests make belongs to it/, /sudo/, { facts: { uid: 1000 } });
  const none = { "/proc/self/status": "CapEff:\t0000000000000000\n" };
  finds("warn", "user", /without CAP_DAC_READ_SEARCH/, /add that capability/, { files: none });
  finds("ok", "descriptors", /up to 524288 open files, enough/, /^$/, { files: none });
  const few = { "/proc/self/limits": "Max open files            1024                 4096                 files\n" };
  finds("warn", "descriptors", /only 4096/, /ulimit -Hn 1000000/, { files: { ...none, ...few } });
  // Who may raise the limit is bound by the kernel's own.
  finds("ok", "descriptors", /up to 1000000/, /^$/, { files: few });
  finds("warn", "descriptors", /only 20000/, /^sysctl fs\.nr_open=1000000$/, {
    files: { "/proc/sys/fs/nr_open": "20000" },
  });
});

Deno.test("examine() memory and CPUs, and what a control group leaves of them", () => {
  const group = { "/proc/self/cgroup": "0::/a/b\n" };
  finds("ok", "memory", /available are 16\.0 GiB/, /^$/, {});
  finds("warn", "memory", /available are only 100 MiB/, /add memory/, {
    files: { "/proc/meminfo": "MemAvailable: 102400 kB" },
  });
  finds("warn", "memory", /the control group allows only 128 MiB/, /MemoryMax=/, {
    files: { ...group, "/sys/fs/cgroup/a/memory.max": "134217728\n", "/sys/fs/cgroup/a/b/memory.max": "max\n" },
  });
  finds("warn", "cpus", /allows 0\.50 of a CPU/, /CPUQuota=/, {
    files: { ...group, "/sys/fs/cgroup/a/b/cpu.max": "50000 100000\n" },
  });
  finds("warn", "cpus", /allows 2\.5 of them/, /^--num-request-queues 2$/, {
    files: { ...group, "/sys/fs/cgroup/a/cpu.max": "250000 100000\n" },
  });
  finds("ok", "cpus", /^8: /, /^$/, { files: { ...group, "/sys/fs/cgroup/a/cpu.max": "max 100000\n" } });
});

Deno.test("examine() namespaces and Landlock", () => {
  const sysctl = (name: string, value: string | null) => ({ [`/proc/sys/${name}`]: value });
  finds("warn", "namespaces", /the kernel has none|no user namespaces/, /CONFIG_USER_NS/, {
    files: sysctl("user/max_user_namespaces", null),
  });
  finds("warn", "namespaces", /turned off/, /max_user_namespaces=/, {
    files: sysctl("user/max_user_namespaces", "0\n"),
  });
  const other = { facts: { uid: 1000 } };
  const clone = { files: sysctl("kernel/unprivileged_userns_clone", "0\n") };
  finds("warn", "namespaces", /only root/, /unprivileged_userns_clone=1/, { ...clone, ...other });
  finds("ok", "namespaces", /can be made/, /^$/, clone);
  const restricted = { files: sysctl("kernel/apparmor_restrict_unprivileged_userns", "1\n") };
  finds("warn", "namespaces", /AppArmor/, /userns/, { ...restricted, ...other });
  finds("warn", "landlock", /no Landlock/, /lsm=landlock/, { facts: { landlock: () => 0 } });
});

Deno.test("examine() KVM, /dev/shm and places to execute from", () => {
  finds("warn", "kvm", /no \/dev\/kvm/, /modprobe/, { files: { "/dev/kvm": null } });
  finds("warn", "kvm", /no \/dev\/kvm/, /firmware/, { files: { "/dev/kvm": null, "/proc/cpuinfo": "flags: fpu" } });
  finds("warn", "kvm", /Permission denied/, /usermod -aG kvm/, { facts: { canOpen: () => "Permission denied" } });
  finds("warn", "/dev/shm", /only 64 MiB/, /--shm-size/, {
    facts: { space: () => ({ total: 2 ** 26, free: 2 ** 26 }) },
  });
  finds("warn", "/dev/shm", /not mounted/, /mount -t tmpfs/, { files: { "/proc/self/mountinfo": MOUNTS[0] } });
  finds("warn", "/dev/shm", /noexec/, /remount,exec/, {
    files: { "/proc/self/mountinfo": MOUNTS.join("\n").replace("rw,nosuid", "rw,noexec") },
  });
  finds("warn", "noexec", /\/root, \/tmp are mounted noexec/, /RINGFSD_CACHE/, {
    files: { "/proc/self/mountinfo": MOUNTS.join("\n").replace("rw,relatime", "rw,noexec") },
  });
});

Deno.test("examine() a directory", () => {
  finds(
    "fail",
    "directory",
    /cannot share \/srv: gone/,
    /^$/,
    { directory: { open: "cannot share /srv: gone" } },
    "/srv",
  );
  finds("fail", "directory", /cannot be read/, /chmod/, { directory: { read: "Permission denied" } }, "/srv");
  finds("warn", "directory", /cannot be written to \(Read-only/, /--readonly/, {
    directory: { write: "Read-only file system" },
  }, "/srv");
  finds("ok", "directory", /\/srv can be read and written to, on ext4/, /^$/, {}, "/srv");
  finds("warn", "remote", /^nfs4 may keep/, /--cache always/, {}, "/mnt/a b/c");
  finds("warn", "xattr", /Operation not supported/, /leave --xattr out/, {
    directory: { xattr: "Operation not supported" },
  }, "/srv");
  finds("warn", "acl", /Operation not supported/, /leave --posix-acl out/, {
    directory: { acl: "Operation not supported" },
  }, "/srv");
  finds("warn", "handles", /known by descriptor alone \(no handles\)/, /raise the limit/, {
    directory: { handles: "no handles" },
  }, "/srv");
});

Deno.test("examine() hypervisors and what is known of their versions", () => {
  const qemu = (version: string) =>
    about("qemu-system-x86_64", { programs: { "/usr/bin/qemu-system-x86_64": version } });
  const texts = (findings: Finding[]) => findings.map(({ level, text }) => `${level} ${text}`).join("; ");
  const said = (version: string) => `QEMU emulator version ${version} (Debian 1:9)\nCopyright\n`;
  assert.equal(texts(qemu(said("9.2.0"))), "ok version 9.2.0");
  assert.match(texts(qemu(said("4.1.0"))), /^ok version 4\.1\.0; warn it has no vhost-user-fs-pci$/);
  assert.match(texts(qemu(said("7.2.22"))), /^ok version 7\.2\.22; warn without KVM it emulates cmpxchg16b wrongly/);
  assert.match(texts(qemu("what?")), /^warn \S+ does not say its version$/);
  const known = (path: string, version: string, name = path.split("/").at(-1)!) =>
    texts(about(name, { programs: { [path]: version } }));
  assert.match(
    known("/usr/local/bin/cloud-hypervisor", "cloud-hypervisor v25.0.0\n"),
    /^ok version 25\.0\.0; warn it cannot boot by firmware/,
  );
  assert.match(
    known("/usr/bin/cloud-hypervisor", "cloud-hypervisor v48.0\n"),
    /^ok version 48\.0; ok it must not be given more num_queues/,
  );
  assert.match(
    known("/usr/sbin/libvirtd", "/usr/sbin/libvirtd (libvirt) 9.0.0\n"),
    /^ok version 9\.0\.0; warn it starts no virtiofs daemon in a user's/,
  );
  assert.match(known("/usr/sbin/virtqemud", "virtqemud (libvirt) 6.3.0\n"), /warn it wants NUMA cells/);
  assert.equal(known("/usr/sbin/virtqemud", "virtqemud (libvirt) 10.1.0\n"), "ok version 10.1.0");
  assert.match(known("/usr/bin/crosvm", "crosvm 0.1.0-abc\n"), /needs --tag$/);
  assert.match(
    known("/opt/kata/bin/kata-runtime", "kata-runtime  : 3.2.0\n"),
    /^ok version 3\.2\.0; ok it starts what virtio_fs_daemon/,
  );
  finds("warn", "hypervisor", /there is none/, /apt-get install/, {});
});

Deno.test("examine() systemd, descriptions, AppArmor and SELinux", () => {
  finds("ok", "systemd", /it does not run here/, /^$/, { files: { "/run/systemd/system": null } });
  const description = (binary: string) => JSON.stringify({ type: "fs", binary });
  const theirs = { "/usr/share/qemu/vhost-user/50-virtiofsd.json": description("/usr/libexec/virtiofsd") };
  finds("ok", "description", /takes what \S+50-virtiofsd\.json names/, /^$/, { files: theirs });
  const ours = { "/usr/share/qemu/vhost-user/50-ringfsd.json": description("/usr/bin/ringfsd") };
  finds("ok", "description", /takes ringfsd by itself/, /^$/, { files: { ...theirs, ...ours } });

  const enabled = {
    "/sys/module/apparmor/parameters/enabled": "Y\n",
    "/etc/apparmor.d/usr.sbin.libvirtd": "/usr/libexec/virtiofsd PUx,",
  };
  const denied = about("apparmor", { files: enabled });
  assert.deepEqual(denied.map(({ level }) => level), ["warn", "warn"]);
  assert.match(
    denied[0].todo,
    /'\/usr\/bin\/ringfsd PUx,' >> \/etc\/apparmor\.d\/local\/usr\.sbin\.libvirtd; apparmor_parser -r/,
  );
  assert.match(denied[1].todo, /local\/abstractions\/libvirt-qemu/);
  const local = {
    "/etc/apparmor.d/local/usr.sbin.libvirtd": "/usr/bin/ringfsd PUx,\n",
    "/etc/apparmor.d/local/abstractions/libvirt-qemu": "/run/ringfsd/*.sock rw,\n",
  };
  finds("ok", "apparmor", /knows ringfsd/, /^$/, { files: { ...enabled, ...local } });
  assert.deepEqual(about("apparmor", { files: { ...enabled, "/sys/module/apparmor/parameters/enabled": "N\n" } }), []);
  finds("warn", "selinux", /enforcing/, /chcon/, { files: { "/sys/fs/selinux/enforce": "1" } });
  finds("ok", "selinux", /permissive/, /^$/, { files: { "/sys/fs/selinux/enforce": "0" } });
});

Deno.test("versionOf() and isBefore() compare versions by their numbers", () => {
  assert.deepEqual(versionOf("v10.2-rc1"), [10, 2]);
  assert.deepEqual(versionOf("none"), [0]);
  assert.ok(isBefore([9, 99], [10]));
  assert.ok(!isBefore([10], [10]));
  assert.ok(!isBefore([6, 1], [6]));
  assert.ok(isBefore([6], [6, 1]));
});

Deno.test("report() puts what is to be done below each line, and counts", () => {
  const text = report([{ level: "ok", about: "a", text: "well", todo: "" }, {
    level: "fail",
    about: "long",
    text: "bad",
    todo: "mend it",
  }]);
  assert.equal(text, "ok    a     well\nfail  long  bad\n            -> mend it\n\n1 ok, 0 warn, 1 fail\n");
});

Deno.test("thisMachine() finds out what is so of a directory", () => {
  using place = new Place();
  const facts = thisMachine().directory(place.share);
  assert.deepEqual([facts.open, facts.read, facts.write], ["", "", ""]);
  assert.deepEqual([...Deno.readDirSync(place.share)], []);
  assert.match(thisMachine().directory(`${place.path}/none`).open, /No such file/);
  const proc = thisMachine().directory("/proc/self");
  assert.notEqual(proc.xattr, "");
  assert.notEqual(proc.handles, "");
});

Deno.test("doctor looks at this machine, for people and for programs", async () => {
  using place = new Place();
  const run = async (...args: string[]) => {
    const options = { args: ["run", "-A", "--no-check", main, "doctor", ...args] };
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), options).output();
    assert.equal(new TextDecoder().decode(stderr), "");
    return { code, said: new TextDecoder().decode(stdout) };
  };
  const plain = await run(place.share);
  const json = await run(place.share, "--json");
  assert.equal(json.code, plain.code);
  const findings: Finding[] = JSON.parse(json.said);
  assert.equal(plain.code, findings.some(({ level }) => level === "fail") ? 1 : 0);
  for (const what of ["directory", "kernel", "io_uring", "descriptors", "memory", "kvm"]) {
    assert.ok(findings.some((one) => one.about === what), what);
    assert.match(plain.said, new RegExp(`^(ok|warn|fail) +${what} +\\S`, "m"));
  }
  assert.match(plain.said, /\n\d+ ok, \d+ warn, \d+ fail\n$/);
  const gone = await run(`${place.path}/none`);
  assert.equal(gone.code, 1);
  assert.match(gone.said, /^fail +directory +cannot share \S+: No such file/m);
});
