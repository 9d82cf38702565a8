/** The lines that hypervisors and guests need for a share: to be copied as they are. */

/** A share as its users see it. */
export interface Recipe {
  tag: string;
  /** The path of the socket. */
  socket: string;
  dir: string;
  /** Request queues. */
  queues: number;
  /** For libvirt: the program, and what it is to do as libvirt says it. */
  binary: string;
  xattr: boolean;
  cache: string;
}

export const TARGETS = ["qemu", "cloud-hypervisor", "libvirt", "uml", "guest"] as const;
export type Target = typeof TARGETS[number];

/** What stands above the lines, where all are shown. */
export const TITLES: Record<Target, string> = {
  qemu: "QEMU, beside your own options; MEM is the guest's memory",
  "cloud-hypervisor": "Cloud Hypervisor, beside your own options; CPUS must not be fewer than the queues",
  libvirt: "libvirt, in the domain's XML (virsh edit); keep one of the two <filesystem>",
  uml: "User-Mode Linux, beside your own options",
  guest: "In the guest",
};

const QUEUE_SIZE = 1024;

/** The lines for one of them, each without a line end. */
export function linesFor(target: Target, recipe: Recipe): string[] {
  return MAKERS[target](recipe);
}

const MAKERS: Record<Target, (recipe: Recipe) => string[]> = {
  // The properties of QEMU's vhost-user-fs-pci; it has one request queue where it is not told how many.
  qemu({ tag, socket, queues }) {
    const id = `fs-${tag.replace(/[^A-Za-z0-9_.-]/g, "-")}`;
    const device = `vhost-user-fs-pci,chardev=${id},tag=${qemuValue(tag)},queue-size=${QUEUE_SIZE},` +
      `num-request-queues=${queues}`;
    return [
      "MEM=1G",
      'qemu-system-x86_64 -m "$MEM" \\',
      '  -object memory-backend-memfd,id=mem,size="$MEM",share=on -numa node,memdev=mem \\',
      `  -chardev ${shellWord(`socket,id=${id},path=${qemuValue(socket)}`)} \\`,
      `  -device ${shellWord(device)}`,
    ];
  },

  "cloud-hypervisor"({ tag, socket, queues }) {
    const device = `tag=${chValue(tag)},socket=${chValue(socket)},num_queues=${queues},queue_size=${QUEUE_SIZE}`;
    return [
      `MEM=1G CPUS=${queues}`,
      'cloud-hypervisor --cpus boot="$CPUS" --memory size="$MEM",shared=on \\',
      `  --fs ${shellWord(device)}`,
    ];
  },

  // It has no word for the number of queues.
  libvirt({ tag, socket, dir, binary, xattr, cache }) {
    const mode = cache === "always" ? "always" : cache === "never" ? "none" : "";
    const path = `<binary path='${xml(binary)}'${xattr ? " xattr='on'" : ""}`;
    return [
      "<memoryBacking>",
      "  <source type='memfd'/>",
      "  <access mode='shared'/>",
      "</memoryBacking>",
      "<!-- either with the ringfsd that serves this socket, which QEMU's user must be able to open (option socket-group) -->",
      "<filesystem type='mount'>",
      `  <driver type='virtiofs' queue='${QUEUE_SIZE}'/>`,
      `  <source socket='${xml(socket)}'/>`,
      `  <target dir='${xml(tag)}'/>`,
      "</filesystem>",
      "<!-- or with one that libvirt starts and ends with the domain -->",
      "<filesystem type='mount' accessmode='passthrough'>",
      `  <driver type='virtiofs' queue='${QUEUE_SIZE}'/>`,
      ...(mode === "" ? [`  ${path}/>`] : [`  ${path}>`, `    <cache mode='${mode}'/>`, "  </binary>"]),
      `  <source dir='${xml(dir)}'/>`,
      `  <target dir='${xml(tag)}'/>`,
      "</filesystem>",
    ];
  },

  // Its memory is a shared file anyway. 26: VIRTIO_ID_FS.
  uml({ socket }) {
    return ["MEM=1G", `linux mem="$MEM" ${shellWord(`virtio_uml.device=${socket}:26:0`)}`];
  },

  guest({ tag }) {
    return [
      `mount -t virtiofs ${shellWord(tag)} /mnt`,
      `${fstabWord(tag)} /mnt virtiofs defaults,nofail 0 0    # in /etc/fstab`,
    ];
  },
};

/** A value in QEMU's options, where a comma begins the next. */
function qemuValue(text: string): string {
  return text.replaceAll(",", ",,");
}

/** A value in Cloud Hypervisor's. */
function chValue(text: string): string {
  return text.includes(",") ? `"${text}"` : text;
}

function xml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll("'", "&apos;");
}

/** fstab(5): white space as \ooo. */
function fstabWord(text: string): string {
  return text.replace(/[\s\\#]/g, (one) => `\\${one.charCodeAt(0).toString(8).padStart(3, "0")}`);
}

/** A word for the shell: as it is where nothing in it means anything to it. */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
