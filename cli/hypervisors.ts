/** Hypervisors that are installed, and what of their known faults concerns virtio-fs. */
import { type Finding, isBefore, ok, versionOf, warn } from "./finding.ts";
import type { Machine } from "./machine.ts";

/** What is known of versions before one, or of all where there is none. */
interface Known {
  since?: readonly number[];
  before?: readonly number[];
  text: string;
  todo: string;
}

interface Hypervisor {
  name: string;
  /** Where it is looked for, besides PATH. */
  paths: readonly string[];
  /** What makes it say its version. */
  args: readonly string[];
  /** The line of what it says. */
  line: RegExp;
  known: readonly Known[];
}

const FOLDERS = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/libexec", "/opt/kata/bin"];

const QEMU: readonly Known[] = [
  // hw/virtio/vhost-user-fs-pci.c came with 4.2.
  { before: [4, 2], text: "it has no vhost-user-fs-pci", todo: "QEMU 4.2 or later" },
  // Seen here (tests/guest/boot.sh): kernels of guests from 6.11 on use the instruction in their allocator.
  {
    since: [7, 2],
    before: [8, 0],
    text: "without KVM it emulates cmpxchg16b wrongly: guests with new kernels crash",
    todo: "where there is no KVM, -cpu max,-cx16",
  },
];

// Cloud Hypervisor's numbers are of its issues and pull requests.
const CLOUD_HYPERVISOR: readonly Known[] = [
  // #4314, mended by #4341.
  {
    before: [26],
    text: "it cannot boot by firmware with a virtio-fs device",
    todo: "v26 or later, or boot the kernel directly",
  },
  // #7640: num_queues above what the daemon offers ends in BadQueueNum.
  {
    text: "it must not be given more num_queues than --num-request-queues, else it ends with BadQueueNum",
    todo: "",
  },
];

// libvirt's documentation (docs/kbase/virtiofs.rst, docs/news) has the versions.
const LIBVIRT: readonly Known[] = [
  { before: [6, 2], text: "it has no virtiofs", todo: "libvirt 6.2 or later" },
  {
    since: [6, 2],
    before: [6, 9],
    text: "it wants NUMA cells for shared memory: <numa> with memAccess='shared'",
    todo: "libvirt 6.9 or later takes <memoryBacking> alone",
  },
  {
    before: [10],
    text: "it starts no virtiofs daemon in a user's session (qemu:///session)",
    todo: "there, ringfsd share and <source socket=…>; or libvirt 10.0 or later",
  },
];

const HYPERVISORS: readonly Hypervisor[] = [
  ...["x86_64", "aarch64", "riscv64", "s390x", "ppc64"].map((arch) => ({
    name: `qemu-system-${arch}`,
    paths: arch === "x86_64" ? ["/usr/libexec/qemu-kvm"] : [],
    args: ["--version"],
    line: /^QEMU emulator version (\S+)/m,
    known: QEMU,
  })),
  {
    name: "cloud-hypervisor",
    paths: [],
    args: ["--version"],
    line: /^cloud-hypervisor v?(\S+)/m,
    known: CLOUD_HYPERVISOR,
  },
  { name: "libvirtd", paths: [], args: ["--version"], line: /\(libvirt\) (\S+)/, known: LIBVIRT },
  { name: "virtqemud", paths: [], args: ["--version"], line: /\(libvirt\) (\S+)/, known: LIBVIRT },
  {
    name: "crosvm",
    paths: [],
    args: ["version"],
    line: /^crosvm (\S+)/m,
    // microvm-nix/microvm.nix#375
    known: [{ text: "it asks the daemon for the tag: it needs --tag", todo: "" }],
  },
  {
    name: "kata-runtime",
    paths: [],
    args: ["--version"],
    line: /^kata-runtime\s*:\s*(\S+)/m,
    known: [{ text: "it starts what virtio_fs_daemon in its configuration.toml names", todo: "" }],
  },
];

/** A line for each that is there, and one for each of its faults. */
export function hypervisors(machine: Machine): Finding[] {
  const found = HYPERVISORS.flatMap((one) => {
    const path = [...FOLDERS.map((folder) => `${folder}/${one.name}`), ...one.paths].find((path) =>
      machine.exists(path)
    );
    if (path === undefined) return [];
    const said = one.line.exec(machine.run(path, ...one.args) ?? "")?.[1];
    if (said === undefined) {
      return [warn(one.name, `${path} does not say its version`, `try ${[path, ...one.args].join(" ")}`)];
    }
    const version = versionOf(said);
    const known = one.known.filter(({ since, before }) => {
      return !(since && isBefore(version, since)) && !(before && !isBefore(version, before));
    });
    return [
      ok(one.name, `version ${said.replace(/[,;].*/, "")}`),
      ...known.map(({ text, todo }) => todo === "" ? ok(one.name, text) : warn(one.name, text, todo)),
    ];
  });
  if (found.length === 0) {
    found.push(
      warn(
        "hypervisor",
        "there is none in the usual places",
        "apt-get install qemu-system-x86, or what this distribution has",
      ),
    );
  }
  // The driver is in Linux from 5.4 on; fs/fuse/virtio_fs.c spreads requests over all queues from 6.11 on.
  return [
    ...found,
    ok("guests", "need Linux 5.4 or later (Windows: virtio-win's driver), and use more than one queue from 6.11 on"),
  ];
}
