/** What ringfsd needs of a machine, looked at one by one. Each look gives lines: how it stands, what that means, what to do. */
import { fail, type Finding, isBefore, ok, versionOf, warn } from "./finding.ts";
import { hypervisors } from "./hypervisors.ts";
import type { Machine } from "./machine.ts";

const GIB = 2 ** 30;
const MIB = 2 ** 20;
/** capabilities(7) */
const CAP_DAC_READ_SEARCH = 2n, CAP_SYS_RESOURCE = 24n;
/** What ringfsd asks for (serve.ts), and what is too few for a tree of some size. */
const OPEN_FILES = 1_000_000;
const FEW_FILES = 65_536;
/** What the daemon takes at its start, with some room. */
const MEMORY_LEAST = 256 * MIB;

/** Everything, in the order in which it is shown. `dir` is what is to be shared, if it is known. */
export function examine(machine: Machine, dir?: string): Finding[] {
  const looks = [kernel, ring, user, openFiles, memoryLimit, memory, cpus, namespaces, landlock, kvm, shm, executable];
  return [
    ...(dir === undefined ? [] : directory(machine, dir)),
    ...looks.flatMap((look) => look(machine)),
    ...hypervisors(machine),
    ...[systemd, descriptions, appArmor, seLinux].flatMap((look) => look(machine)),
  ];
}

function size(bytes: number): string {
  return bytes >= GIB ? `${(bytes / GIB).toFixed(1)} GiB` : `${Math.floor(bytes / MIB)} MiB`;
}

function word(machine: Machine, path: string): string | null {
  return machine.read(path)?.trim() ?? null;
}

function capabilities(machine: Machine): bigint {
  const hex = /^CapEff:\s*([0-9a-f]+)/m.exec(machine.read("/proc/self/status") ?? "")?.[1];
  return hex === undefined ? 0n : BigInt(`0x${hex}`);
}

function has(machine: Machine, capability: bigint): boolean {
  return (capabilities(machine) >> capability & 1n) === 1n;
}

function directory(machine: Machine, dir: string): Finding[] {
  const facts = machine.directory(dir);
  if (facts.open !== "") return [fail("directory", facts.open, "")];
  const mount = mountOf(machine, dir);
  const findings: Finding[] = [];
  if (facts.read !== "") {
    findings.push(
      fail(
        "directory",
        `${dir} cannot be read by this user (${facts.read}): the guest cannot list it`,
        "chmod u+rx it, or start ringfsd as its owner",
      ),
    );
  } else if (facts.write !== "") {
    findings.push(
      warn(
        "directory",
        `${dir} cannot be written to (${facts.write}): so the guest will find`,
        "give --readonly, or this user the right to write",
      ),
    );
  } else findings.push(ok("directory", `${dir} can be read and written to${mount ? `, on ${mount.type}` : ""}`));
  if (mount !== null && /^(nfs|cifs|smb|ceph|9p|fuse|glusterfs|lustre)/.test(mount.type)) {
    findings.push(
      warn(
        "remote",
        `${mount.type} may keep requests waiting: helper threads serve them, more slowly than a local disk`,
        "--cache always where nobody else changes the files",
      ),
    );
  }
  findings.push(
    facts.xattr === "" ? ok("xattr", `--xattr works in ${dir}`) : warn(
      "xattr",
      `extended attributes cannot be had in ${dir} (${facts.xattr})`,
      "leave --xattr out, or mount the file system with them",
    ),
    facts.acl === "" ? ok("acl", `--posix-acl works in ${dir}`) : warn(
      "acl",
      `ACLs cannot be had in ${dir} (${facts.acl})`,
      "leave --posix-acl out, or mount the file system with acl",
    ),
    facts.handles === ""
      ? ok("handles", "files can be known by file handle: a guest may look up more files than there are descriptors")
      : warn(
        "handles",
        `files are known by descriptor alone (${facts.handles}): a guest that looks up many files needs as many`,
        "raise the limit of open files; CAP_DAC_READ_SEARCH on a file system that has handles does without",
      ),
  );
  return findings;
}

interface Mount {
  point: string;
  type: string;
  options: string[];
}

/** Where a path is mounted, by proc_pid_mountinfo(5). */
function mountOf(machine: Machine, path: string): Mount | null {
  let best: Mount | null = null;
  for (const line of (machine.read("/proc/self/mountinfo") ?? "").split("\n")) {
    const [before, after] = line.split(" - ");
    if (after === undefined) continue;
    const [, , , , quoted, options] = before.split(" ");
    const point = quoted.replace(/\\(\d{3})/g, (_, octal) => String.fromCharCode(parseInt(octal, 8)));
    const inside = path === point || path.startsWith(point === "/" ? "/" : `${point}/`);
    // Of several on one point, the last one counts.
    if (inside && point.length >= (best?.point.length ?? 0)) {
      best = { point, type: after.split(" ")[0], options: options.split(",") };
    }
  }
  return best;
}

function kernel(machine: Machine): Finding[] {
  const release = word(machine, "/proc/sys/kernel/osrelease") ?? "?";
  const version = versionOf(release);
  const arch = machine.arch === "x86_64" || machine.arch === "aarch64" ? [] : [
    fail("processor", `${machine.arch} is not one that ringfsd is made for`, "take x86-64 or arm64"),
  ];
  if (isBefore(version, [5, 13])) {
    return [
      ...arch,
      warn(
        "kernel",
        `Linux ${release} has no io_uring that ringfsd can use: it serves with plain calls, more slowly`,
        "Linux 5.13 or later, best 6.1 or later",
      ),
    ];
  }
  if (isBefore(version, [6, 1])) {
    return [...arch, ok("kernel", `Linux ${release} will do; from 6.1 on, a loop's ring costs it less`)];
  }
  return [...arch, ok("kernel", `Linux ${release}`)];
}

function ring(machine: Machine): Finding[] {
  const why = machine.ring();
  if (why === "") return [ok("io_uring", "it works, with all that ringfsd uses of it")];
  const sysctl = word(machine, "/proc/sys/kernel/io_uring_disabled");
  const seccomp = /^Seccomp:\s*2/m.test(machine.read("/proc/self/status") ?? "");
  const todo = sysctl !== null && sysctl !== "0"
    ? `sysctl kernel.io_uring_disabled=0 (it is ${sysctl})`
    : seccomp
    ? "have the container's seccomp profile allow io_uring_setup, io_uring_enter and io_uring_register"
    : "Linux 5.13 or later, with CONFIG_IO_URING";
  return [warn("io_uring", `it cannot be used (${why}): reads and writes are plain calls, slower`, todo)];
}

function user(machine: Machine): Finding[] {
  if (machine.uid !== 0) {
    return [
      warn(
        "user",
        `user ${machine.uid}: all that guests make belongs to it; no owners, no devices, no file handles`,
        "sudo, or the systemd unit, if guests shall have users of their own",
      ),
    ];
  }
  if (has(machine, CAP_DAC_READ_SEARCH)) {
    return [ok("user", "root, with CAP_DAC_READ_SEARCH: files can be known by file handle")];
  }
  return [
    warn(
      "user",
      "root without CAP_DAC_READ_SEARCH: each file that a guest knows takes a descriptor",
      "add that capability, or leave it so where guests know few files",
    ),
  ];
}

function openFiles(machine: Machine): Finding[] {
  const hard = /^Max open files\s+\S+\s+(\S+)/m.exec(machine.read("/proc/self/limits") ?? "")?.[1];
  const most = Number(word(machine, "/proc/sys/fs/nr_open") ?? OPEN_FILES);
  const limit = has(machine, CAP_SYS_RESOURCE) ? most : hard === "unlimited" ? most : Number(hard ?? 0);
  if (limit >= OPEN_FILES) return [ok("descriptors", `up to ${Math.min(limit, OPEN_FILES)} open files`)];
  const todo = has(machine, CAP_SYS_RESOURCE)
    ? `sysctl fs.nr_open=${OPEN_FILES}`
    : `ulimit -Hn ${OPEN_FILES}, or LimitNOFILE=${OPEN_FILES} in the unit`;
  if (limit >= FEW_FILES) {
    return [ok("descriptors", `up to ${limit} open files, enough for most; ${todo} makes it more`)];
  }
  return [
    warn(
      "descriptors",
      `only ${limit} open files: where file handles cannot be used, guests get ENFILE after as many files`,
      todo,
    ),
  ];
}

function memoryLimit(machine: Machine): Finding[] {
  const release = versionOf(word(machine, "/proc/sys/kernel/osrelease") ?? "");
  if (!isBefore(release, [5, 12])) return [];
  const hard = /^Max locked memory\s+\S+\s+(\S+)/m.exec(machine.read("/proc/self/limits") ?? "")?.[1];
  if (hard === undefined || hard === "unlimited" || Number(hard) >= 8 * MIB) return [];
  return [
    warn(
      "memlock",
      `before Linux 5.12 io_uring counts as locked memory, of which there is ${size(Number(hard))}`,
      "ulimit -l 8192, or LimitMEMLOCK=8M in the unit",
    ),
  ];
}

/** The limits that a control group sets, its own and those of all above it: the least of them. */
function groupLimit(machine: Machine, file: string, read: (text: string) => number): number {
  const path = /^0::(\/.*)$/m.exec(machine.read("/proc/self/cgroup") ?? "")?.[1];
  let least = Infinity;
  if (path === undefined) return least;
  for (let at = path === "/" ? "" : path;; at = at.slice(0, at.lastIndexOf("/"))) {
    const text = word(machine, `/sys/fs/cgroup${at}/${file}`);
    if (text !== null) least = Math.min(least, read(text));
    if (at === "") return least;
  }
}

function memory(machine: Machine): Finding[] {
  const kib = /^MemAvailable:\s*(\d+)/m.exec(machine.read("/proc/meminfo") ?? "")?.[1];
  const available = kib === undefined ? Infinity : Number(kib) * 1024;
  const limit = groupLimit(machine, "memory.max", (text) => text === "max" ? Infinity : Number(text));
  const least = Math.min(available, limit);
  if (least === Infinity) return [];
  const whose = limit < available ? "the control group allows" : "available are";
  if (least >= MEMORY_LEAST) return [ok("memory", `${whose} ${size(least)}`)];
  return [
    warn(
      "memory",
      `${whose} only ${size(least)}: ringfsd takes about 80 MiB, and its guests' memory comes to that`,
      limit < available ? "raise the control group's memory.max (MemoryMax=)" : "end something, or add memory",
    ),
  ];
}

function cpus(machine: Machine): Finding[] {
  const count = machine.cpus();
  const quota = groupLimit(machine, "cpu.max", (text) => {
    const [most, period] = text.split(" ");
    return most === "max" ? Infinity : Number(most) / Number(period);
  });
  if (quota < 1) {
    return [
      warn(
        "cpus",
        `the control group allows ${quota.toFixed(2)} of a CPU: guests wait when that is used up`,
        "raise cpu.max (CPUQuota=), and give --poll-max-us 0 meanwhile",
      ),
    ];
  }
  if (quota < count) {
    return [
      warn(
        "cpus",
        `${count} CPUs, but the control group allows ${
          quota.toFixed(1)
        } of them: as many loops as CPUs would be too many`,
        `--num-request-queues ${Math.floor(quota)}`,
      ),
    ];
  }
  return [ok("cpus", `${count}: as many request queues are offered`)];
}

function namespaces(machine: Machine): Finding[] {
  const most = word(machine, "/proc/sys/user/max_user_namespaces");
  const clone = word(machine, "/proc/sys/kernel/unprivileged_userns_clone");
  const restricted = word(machine, "/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
  if (most === null) {
    return [
      warn(
        "namespaces",
        "the kernel has no user namespaces: nothing can be confined by them",
        "a kernel with CONFIG_USER_NS",
      ),
    ];
  }
  if (most === "0") {
    return [
      warn(
        "namespaces",
        "user namespaces are turned off: nothing can be confined by them",
        "sysctl user.max_user_namespaces=15000",
      ),
    ];
  }
  if (machine.uid !== 0 && clone === "0") {
    return [
      warn(
        "namespaces",
        "only root may make user namespaces: what an ordinary user starts cannot be confined by them",
        "sysctl kernel.unprivileged_userns_clone=1",
      ),
    ];
  }
  if (machine.uid !== 0 && restricted === "1") {
    return [
      warn(
        "namespaces",
        "AppArmor keeps ordinary users' programs from having rights in user namespaces",
        "an AppArmor profile for ringfsd with `userns,`, or sysctl kernel.apparmor_restrict_unprivileged_userns=0",
      ),
    ];
  }
  return [ok("namespaces", "user namespaces can be made")];
}

function landlock(machine: Machine): Finding[] {
  const version = machine.landlock();
  if (version > 0) return [ok("landlock", `it is there, version ${version}`)];
  return [
    warn(
      "landlock",
      "the kernel has no Landlock, or it is not turned on: one fence fewer around the share",
      "Linux 5.13 or later with lsm=landlock,… on its command line",
    ),
  ];
}

function kvm(machine: Machine): Finding[] {
  if (!machine.exists("/dev/kvm")) {
    const flags = /\b(vmx|svm)\b/.test(machine.read("/proc/cpuinfo") ?? "");
    return [
      warn(
        "kvm",
        "there is no /dev/kvm: guests are emulated, many times slower",
        flags
          ? "modprobe kvm_intel or kvm_amd"
          : "turn virtualization on in the firmware, or nested virtualization in the hypervisor around this machine",
      ),
    ];
  }
  const why = machine.canOpen("/dev/kvm");
  if (why === "") return [ok("kvm", "/dev/kvm can be used")];
  return [
    warn(
      "kvm",
      `/dev/kvm cannot be used (${why}): guests are emulated, many times slower`,
      /permission/i.test(why)
        ? `usermod -aG kvm USER, and a new login`
        : "modprobe kvm_intel or kvm_amd; it may be that this is a virtual machine itself",
    ),
  ];
}

function shm(machine: Machine): Finding[] {
  const about = "/dev/shm";
  const mount = mountOf(machine, about);
  const space = machine.space(about);
  if (mount?.point !== about || space === null) {
    return [
      warn(
        about,
        "it is not mounted: User-Mode Linux and memory-backend-file,mem-path=/dev/shm want it (memfd does not)",
        "mount -t tmpfs tmpfs /dev/shm",
      ),
    ];
  }
  if (space.free < 512 * MIB) {
    return [
      warn(
        about,
        `only ${size(space.free)} are free: too little for a guest's memory, where that is a file there (memfd is not)`,
        "mount -o remount,size=50% /dev/shm, or docker run --shm-size",
      ),
    ];
  }
  if (mount.options.includes("noexec")) {
    return [
      warn(
        about,
        "it is mounted noexec, and User-Mode Linux executes from there (QEMU does not mind)",
        "mount -o remount,exec /dev/shm, or start it with TMPDIR elsewhere",
      ),
    ];
  }
  return [ok(about, `${size(space.free)} free`)];
}

/** Where the self-extractor (packaging/selfextract.sh) puts its runtime: one place that is executable is enough. */
function executable(machine: Machine): Finding[] {
  const home = machine.env("HOME");
  const places = [...(home ? [home] : []), ...(machine.uid === 0 ? ["/var/cache"] : []), `/run/user/${machine.uid}`];
  const all = [...places, "/tmp", "/var/tmp", "/dev/shm"].filter((path) => machine.exists(path));
  if (all.some((path) => !mountOf(machine, path)?.options.includes("noexec"))) return [];
  return [
    warn(
      "noexec",
      `${all.join(", ")} are mounted noexec: the ringfsd that is a shell script cannot put its runtime there`,
      "set RINGFSD_CACHE to a directory that is not; the other kinds need none",
    ),
  ];
}

function systemd(machine: Machine): Finding[] {
  if (!machine.exists("/run/systemd/system")) {
    return [ok("systemd", "it does not run here: start ringfsd by hand, or from another supervisor")];
  }
  return [ok("systemd", "it runs: ringfsd@NAME.socket and .service")];
}

/** What libvirt chooses by, where a domain has no <binary path=…>. */
function descriptions(machine: Machine): Finding[] {
  const found = ["/etc/qemu/vhost-user", "/usr/share/qemu/vhost-user"].flatMap((dir) =>
    machine.list(dir).map((name) => `${dir}/${name}`)
  );
  const programs = found.filter((path) => /"type"\s*:\s*"fs"/.test(machine.read(path) ?? ""));
  const first = [...programs].sort((a, b) => a.slice(a.lastIndexOf("/")) < b.slice(b.lastIndexOf("/")) ? -1 : 1)[0];
  if (first === undefined) return [];
  if (/ringfsd/.test(machine.read(first) ?? "")) {
    return [ok("description", `libvirt takes ringfsd by itself (${first})`)];
  }
  return [
    ok(
      "description",
      `libvirt takes what ${first} names; ringfsd where a domain says <binary path=…>, or once its package is installed`,
    ),
  ];
}

// libvirtd runs only what its profile names: kubevirt/kubevirt#4290 and virtio-win/kvm-guest-drivers-windows#1136 met such denials, of
// virtiofsd's mounts and of QEMU's access to its socket.
function appArmor(machine: Machine): Finding[] {
  if (word(machine, "/sys/module/apparmor/parameters/enabled") !== "Y") return [];
  const profile = machine.read("/etc/apparmor.d/usr.sbin.libvirtd");
  if (profile === null) return [];
  const local = "/etc/apparmor.d/local/usr.sbin.libvirtd";
  const findings: Finding[] = [];
  if (/ringfsd/.test(profile + (machine.read(local) ?? ""))) {
    findings.push(ok("apparmor", "libvirtd's profile knows ringfsd"));
  } else {
    findings.push(
      warn(
        "apparmor",
        "libvirtd's profile lets it start virtiofsd only: <binary path='/usr/bin/ringfsd'> is denied",
        `echo '/usr/bin/ringfsd PUx,' >> ${local}; apparmor_parser -r /etc/apparmor.d/usr.sbin.libvirtd`,
      ),
    );
  }
  const guests = "/etc/apparmor.d/local/abstractions/libvirt-qemu";
  if (!/ringfsd/.test(machine.read(guests) ?? "")) {
    findings.push(
      warn(
        "apparmor",
        "QEMU under libvirt may not open /run/ringfsd/*.sock, for <source socket=…>",
        `echo '/run/ringfsd/*.sock rw,' >> ${guests}, then start the domain anew`,
      ),
    );
  }
  return findings;
}

function seLinux(machine: Machine): Finding[] {
  const enforcing = word(machine, "/sys/fs/selinux/enforce");
  if (enforcing === null) return [];
  if (enforcing === "0") return [ok("selinux", "it only warns (permissive)")];
  return [
    warn(
      "selinux",
      "it is enforcing: what libvirt starts needs virtiofsd's label",
      "chcon --reference=/usr/libexec/virtiofsd /usr/bin/ringfsd; for <source socket=…>, chcon -t svirt_image_t on the socket",
    ),
  ];
}
