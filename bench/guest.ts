/**
 * deno task bench:guest [--rounds=3] [--seconds=4] [--cpus=1] [--memory=1024] [--msize=1048576] [--only=WORDS] [--json=FILE] [-- OPTION…]
 * compares virtio-fs by ringfsd and 9p by QEMU on the same directory of a tmpfs, in one guest under QEMU's emulation (TCG), by fio in
 * that guest. Both take turns in each round; what counts is the ratio, for the emulated CPU is slow. OPTIONs are ringfsd's.
 */
import assert from "node:assert/strict";
import { parseArgs } from "node:util";
import { Bed } from "../tests/guest/bed.ts";
import { missing } from "../tests/guest/debian.ts";
import { median, table } from "./report.ts";

const { values, positionals } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    seconds: { type: "string", default: "4" },
    cpus: { type: "string", default: "1" },
    memory: { type: "string", default: "1024" },
    msize: { type: "string", default: "1048576" },
    only: { type: "string", default: "" },
    json: { type: "string" },
  },
  allowPositionals: true,
});
const rounds = Number(values.rounds), seconds = Number(values.seconds);

interface Row {
  name: string;
  /** fio's options. */
  job: string;
  direction: "read" | "write";
}

const ROWS: Row[] = [
  { name: "1 MiB random write, direct", job: "--rw=randwrite --bs=1m --direct=1", direction: "write" },
  { name: "1 MiB random read, direct", job: "--rw=randread --bs=1m --direct=1", direction: "read" },
  { name: "4 KiB random read, direct", job: "--rw=randread --bs=4k --direct=1", direction: "read" },
  { name: "4 KiB random write, direct", job: "--rw=randwrite --bs=4k --direct=1", direction: "write" },
  // As 9p is mounted by default, every read of it asks the host. virtio-fs has the guest's page cache, empty when fio starts.
  { name: "4 KiB random read", job: "--rw=randread --bs=4k --invalidate=1", direction: "read" },
  { name: "4 KiB sequential read", job: "--rw=read --bs=4k --invalidate=1", direction: "read" },
];
const rows = ROWS.filter(({ name }) => name.includes(values.only));
const MOUNTS = { "virtio-fs": "/share", "9p": "/9p" };
type Mount = keyof typeof MOUNTS;

/** One run: operations and bytes in a second; CPU time of the host for each operation in microseconds, QEMU's and the daemon's. */
interface Result {
  round: number;
  row: string;
  mount: Mount;
  iops: number;
  bytesPerSecond: number;
  qemuUs: number;
  daemonUs: number;
}

/** A folder to chroot into, with fio and its libraries. */
async function makeRoot(root: string): Promise<void> {
  const script = `set -e; mkdir -p "$1"/proc "$1"/tmp "$1"/dev "$1"/share "$1"/9p; fio=$(command -v fio)
    for file in "$fio" $(ldd "$fio" | grep -o '/[^ ]*'); do cp -L --parents "$file" "$1"; done; cp "$fio" "$1/fio"`;
  const { success, stderr } = await new Deno.Command("sh", { args: ["-c", script, "sh", root] }).output();
  assert(success, new TextDecoder().decode(stderr));
}

/** Boots the guest, both file systems mounted in the folder that fio runs in. */
async function prepare(bed: Bed): Promise<void> {
  bed.shared = await Deno.makeTempDir({ dir: "/dev/shm", prefix: "ringfsd-bench-" });
  bed.memMib = Number(values.memory);
  bed.machine = {
    kernel: "linux-6.12-9p",
    cpus: Number(values.cpus),
    qemu: [
      "-fsdev",
      `local,id=p9,path=${bed.shared},security_model=passthrough`,
      "-device",
      "virtio-9p-pci,fsdev=p9,mount_tag=p9",
    ],
  };
  await makeRoot(`${bed.shared}/root`);
  await bed.make(...positionals);
  await bed.guest.run("cp -r /mnt/root /tmp/root && mount --bind /mnt /tmp/root/share", 120_000);
  // The client takes as much of msize as its virtqueue has room for.
  await bed.guest.run(`mount -t 9p -o trans=virtio,version=9p2000.L,msize=${values.msize} p9 /tmp/root/9p`);
  await bed.guest.run("cd /tmp/root && mount -t proc proc proc && mount --bind /dev dev");
  await Deno.remove(`${bed.shared}/root`, { recursive: true });
  const { success } = await new Deno.Command("dd", {
    args: ["if=/dev/urandom", `of=${bed.shared}/file`, "bs=1M", "count=256"],
    stderr: "null",
  }).output();
  assert(success, "no room for a file of 256 MiB in /dev/shm");
}

/** CPU time of a process so far (proc_pid_stat(5)), at 100 ticks a second. fio's start is in it, the same for both. */
function cpuUs(pid: number): number {
  const fields = Deno.readTextFileSync(`/proc/${pid}/stat`).replace(/^.*\) /s, "").split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10_000;
}

async function run(bed: Bed, round: number, row: Row, mount: Mount): Promise<Result> {
  const line =
    `chroot /tmp/root /fio --name=job --filename=${MOUNTS[mount]}/file --size=256m --ioengine=psync ${row.job} ` +
    `--randrepeat=0 --time_based --runtime=${seconds} --output-format=json --output=/share/result`;
  const spent = () => [cpuUs(bed.guest.pid), cpuUs(bed.daemon.pid)];
  const before = spent();
  await bed.guest.run(line, 60_000 + seconds * 1000);
  const [qemu, daemon] = spent().map((us, i) => us - before[i]);
  const { jobs: [job] } = JSON.parse(await Deno.readTextFile(`${bed.shared}/result`));
  assert.equal(job.error, 0, `fio: error ${job.error}`);
  const { iops, bw_bytes, total_ios } = job[row.direction];
  const [qemuUs, daemonUs] = [qemu / total_ios, daemon / total_ios];
  return { round, row: row.name, mount, iops, bytesPerSecond: bw_bytes, qemuUs, daemonUs };
}

/** Medians of the rounds, and virtio-fs divided by 9p. */
function report(results: Result[]): string[][] {
  const lines = [[
    "work",
    "virtio-fs op/s",
    "MiB/s",
    "9p op/s",
    "MiB/s",
    "ratio",
    "lowest",
    "highest",
    "CPU us/op",
    "daemon's",
    "9p",
  ]];
  for (const { name } of rows) {
    const of = (mount: Mount) => results.filter((one) => one.row === name && one.mount === mount);
    const [own, peer] = [of("virtio-fs"), of("9p")];
    const figures = (list: Result[]) => [
      median(list.map((one) => one.iops)).toFixed(0),
      (median(list.map((one) => one.bytesPerSecond)) / 2 ** 20).toFixed(1),
    ];
    const ratios = own.map((one, i) => one.iops / peer[i].iops);
    const spread = [median(ratios), Math.min(...ratios), Math.max(...ratios)].map((ratio) => ratio.toFixed(2));
    const cpu = [
      median(own.map((one) => one.qemuUs + one.daemonUs)),
      median(own.map((one) => one.daemonUs)),
      median(peer.map((one) => one.qemuUs)),
    ].map((us) => us.toFixed(0));
    lines.push([name, ...figures(own), ...figures(peer), ...spread, ...cpu]);
  }
  return lines;
}

const lacking = await missing({ fio: "fio" });
if (lacking) {
  console.error(lacking);
  Deno.exit(1);
}
const bed = new Bed("tcg");
const results: Result[] = [];
try {
  await prepare(bed);
  for (let round = 1; round <= rounds; round++) {
    // Who begins changes from round to round.
    const order: Mount[] = round % 2 ? ["virtio-fs", "9p"] : ["9p", "virtio-fs"];
    for (const row of rows) {
      for (const mount of order) {
        const result = await run(bed, round, row, mount);
        results.push(result);
        console.error(`round ${round}: ${row.name}, ${mount}: ${result.iops.toFixed(0)} op/s`);
      }
    }
  }
  const lines = report(results);
  console.log(table(lines, 1));
  const kernel = (await bed.guest.run("uname -r")).trim();
  const facts = {
    kernel,
    cpus: Number(values.cpus),
    rounds,
    seconds,
    msize: Number(values.msize),
    options: positionals,
    results,
  };
  if (values.json) await Deno.writeTextFile(values.json, JSON.stringify(facts, null, 2) + "\n");
  await bed.guest.powerOff();
} catch (error) {
  console.error(bed.report());
  throw error;
} finally {
  await bed.clear();
  await Deno.remove(bed.shared, { recursive: true });
}
