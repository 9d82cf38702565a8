/** The mistakes of docs/MISTAKES.md that need a hypervisor, made in QEMU and User-Mode Linux. */
import assert from "node:assert/strict";
import { expectRow, type IN_GUESTS, plain, readTable } from "../cli/mistakes_table.ts";
import { Place, Started } from "../cli/started.ts";
import { Guest, type Kind, setUp } from "../guest/guest.ts";
import { until } from "../guest/poll.ts";

const NOBODY = 65534;
const SHARED_MEMORY = "-object memory-backend-memfd,id=mem,size=256M,share=on -numa node,memdev=mem";
const table = readTable();

async function obstacle(kind: Kind): Promise<string> {
  if (Deno.env.get("CI") || Deno.uid() === 0) return "";
  return await setUp(kind).then(() => "", (error) => error.message);
}
const cannot = { tcg: await obstacle("tcg"), uml: await obstacle("uml") };

function isQemuOfTable(): boolean {
  const { stdout } = new Deno.Command("qemu-system-x86_64", { args: ["--version"] }).outputSync();
  return new TextDecoder().decode(stdout).includes(" version 7.2.");
}

/** What a mistake leads to: QEMU's lines and ours. */
function mistake(name: typeof IN_GUESTS[number], kind: "tcg" | "uml", make: (place: Place) => Promise<string[]>): void {
  const skip = cannot[kind] ||
    (name.includes("user who") && Deno.uid() !== 0 ? "needs root to become another user" : "");
  Deno.test({
    name: `mistake: ${name}${skip && ` (skipped: ${skip})`}`,
    ignore: skip !== "",
    fn: async () => {
      using place = new Place();
      Deno.mkdirSync(`${place.path}/run`);
      const said = await make(place);
      const paths = [[place.share, "/srv/vm1"], [place.socket, "/run/vm1.sock"]] as const;
      const lines = said.map((line) => plain(line, paths));
      if (isQemuOfTable()) return expectRow(table, name, lines);
      // Another QEMU may say it otherwise; our own lines are the same.
      const ours = (list: readonly string[]) => list.filter((line) => line.startsWith("ringfsd: "));
      assert.deepEqual(ours(lines), ours(table.get(name)!));
    },
  });
}

/** Serves the share while something is done; returns what that returned, then the daemon's lines of that pattern. */
async function serving(
  place: Place,
  options: string[],
  line: RegExp,
  body: () => Promise<string[]>,
): Promise<string[]> {
  const daemon = Started.start(["--shared-dir", place.share, "--socket-path", place.socket, ...options]);
  try {
    await daemon.socket(place.socket);
    const said = await body();
    if (line.source !== "(?:)") await daemon.until(() => line.test(daemon.log), `a line like ${line}`);
    return [...said, ...line.source === "(?:)" ? [] : daemon.log.split("\n").filter((one) => line.test(one))];
  } finally {
    await daemon.end("SIGTERM");
  }
}

/** Starts QEMU without a guest in it. Returns what it says until it ends, or has said something. */
async function qemu(socket: string, memory: string, device: string, uid?: number): Promise<string[]> {
  const args = `-nodefaults -display none -S -m 256M ${memory} -chardev socket,id=fs,path=${socket}`.split(/ +/);
  const child = new Deno.Command("qemu-system-x86_64", {
    args: [...args, "-device", `vhost-user-fs-pci,chardev=fs,tag=myfs${device}`],
    ...(uid === undefined ? {} : { uid, gid: uid }),
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  let said = "";
  const collected = (async () => {
    for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) said += text;
  })();
  try {
    await until("a word of QEMU's", () => said.endsWith("\n"), 20_000);
    return said.trimEnd().split("\n");
  } finally {
    try {
      child.kill("SIGKILL");
    } catch { /* it has ended */ }
    await child.status;
    await collected;
  }
}

/** Boots a guest on the socket, in which nothing is mounted yet. */
async function inGuest<T>(
  place: Place,
  kind: "tcg" | "uml",
  memory: string,
  body: (guest: Guest) => Promise<T>,
): Promise<T> {
  const lines = `${place.path}/lines`;
  Deno.writeTextFileSync(
    lines,
    `qemu-system-x86_64 -m 256M ${memory} -chardev socket,id=fs,path=${place.socket} \\\n` +
      "  -device vhost-user-fs-pci,chardev=fs,tag=myfs",
  );
  const which = kind === "tcg" ? { socket: "", lines } : { socket: place.socket };
  const guest = await Guest.boot({ kind, tag: "", runDir: `${place.path}/run`, ...which });
  try {
    return await body(guest);
  } finally {
    await guest.kill();
  }
}

/** What the guest says of a mount that fails, and its kernel. */
async function mount(guest: Guest, tag: string): Promise<string[]> {
  const { status, output } = await guest.try(
    `mount -t virtiofs ${tag} /mnt; s=$?; dmesg | grep -i virtio | tail -n 1; exit $s`,
  );
  assert.notEqual(status, 0);
  return output.split("\n").map((line) => line.replace(/^\[[ .\d]+\] /, "").trim()).filter((line) => line !== "");
}

const NONE = /(?:)/;

mistake("The virtual machine has no shared memory", "tcg", (place) => {
  return serving(place, [], /shared no memory/, () => inGuest(place, "tcg", "", () => Promise.resolve([])));
});

mistake("More queues than are offered", "tcg", (place) => {
  const device = ",num-request-queues=9";
  return serving(place, ["--num-request-queues=2"], /queue 3/, () => qemu(place.socket, SHARED_MEMORY, device));
});

mistake("QEMU runs as a user who may not open the socket", "tcg", (place) => {
  return serving(place, [], NONE, () => qemu(place.socket, SHARED_MEMORY, "", NOBODY));
});

mistake("Nobody listens on the socket", "tcg", (place) => qemu(place.socket, SHARED_MEMORY, ""));

mistake("The guest mounts another tag", "tcg", (place) => {
  return serving(place, [], NONE, () => inGuest(place, "tcg", SHARED_MEMORY, (guest) => mount(guest, "other")));
});

mistake("User-Mode Linux, and no `--tag`", "uml", (place) => {
  return serving(place, [], NONE, () => inGuest(place, "uml", "", (guest) => mount(guest, "myfs")));
});
