/**
 * What the machine does without a daemon, on the same file: a loop of pread in this process, and fio where it is installed.
 * A daemon cannot be faster than the system call it makes for each request.
 */
import { delimiter, join } from "node:path";
import { checked, cString, libc } from "../ffi/libc.ts";
import { addressOf, allocate, unmap } from "../ffi/memory.ts";
import { childrenCpuNs, cpuNs, monotonicNs } from "./process.ts";
import type { LimitResult } from "./results.ts";
import { NotHereError } from "./session.ts";

export const PREAD = "pread loop";
export const FIO_PSYNC = "fio psync, depth 1";
export const FIO_URING = "fio io_uring, depth 32";

/** Something that reads a file at random for a while, 4 KiB at a time. */
export interface Limit {
  name: string;
  version: string;
  run: (path: string, seconds: number) => Promise<LimitResult>;
}

const AT_FDCWD = -100;
const BLOCK = 4096;
/** Offsets are made before; this many, then again. */
const OFFSETS = 1 << 16;
/** Calls between two looks at the clock. */
const BATCH = 4096;

/** All of them; fio's throw where there is no fio. */
export function limits(): Limit[] {
  return [
    { name: PREAD, version: "", run: preadLoop },
    { name: FIO_PSYNC, version: "", run: (path, seconds) => fio(path, "psync", 1, seconds) },
    { name: FIO_URING, version: "", run: (path, seconds) => fio(path, "io_uring", 32, seconds) },
  ];
}

/** preadv(2) of one block at random offsets, as fast as one thread can. Some 20 ns of each are the way through FFI. */
export async function preadLoop(path: string, seconds: number): Promise<LimitResult> {
  const blocks = Math.floor((await Deno.stat(path)).size / BLOCK);
  const offsets = BigUint64Array.from({ length: OFFSETS }, () => BigInt(Math.floor(Math.random() * blocks) * BLOCK));
  const fd = checked("openat", libc.openat(AT_FDCWD, cString(path), 0, 0));
  const memory = allocate(BLOCK * 2);
  try {
    // A struct iovec in the first page that points to the second.
    const iovec = new BigUint64Array(memory.buffer, 0, 2);
    iovec[0] = BigInt(memory.addr + BLOCK);
    iovec[1] = BigInt(BLOCK);
    const iovAddr = BigUint64Array.of(BigInt(addressOf(iovec)));
    readMany(fd, iovAddr, offsets, 0);
    const end = monotonicNs() + seconds * 1e9;
    const [startNs, startCpu] = [monotonicNs(), cpuNs(Deno.pid)];
    let ops = 0, now = startNs;
    while (now < end) {
      readMany(fd, iovAddr, offsets, ops);
      ops += BATCH;
      now = monotonicNs();
    }
    return { opsPerSecond: ops / (now - startNs) * 1e9, cpuPerOp: (cpuNs(Deno.pid) - startCpu) / ops / 1000 };
  } finally {
    unmap(memory);
    libc.close(fd);
  }
}

function readMany(fd: number, iovAddr: BigUint64Array, offsets: BigUint64Array, from: number): void {
  for (let i = 0; i < BATCH; i++) {
    const n = libc.preadv(fd, iovAddr[0], 1, offsets[(from + i) & (OFFSETS - 1)]);
    if (n !== BLOCK) throw new Error(`preadv returned ${n}`);
  }
}

function findFio(): string {
  for (const dir of (Deno.env.get("PATH") ?? "").split(delimiter)) {
    try {
      const path = join(dir, "fio");
      if (Deno.statSync(path).isFile) return path;
    } catch { /* not there */ }
  }
  throw new NotHereError("fio is not installed (Debian: apt install fio)");
}

/** One job of fio. Its CPU time is that of the process with all its threads, from its start to its end. */
async function fio(path: string, engine: string, depth: number, seconds: number): Promise<LimitResult> {
  const program = findFio();
  const args = [
    ...["--name=limit", `--filename=${path}`, "--rw=randread", `--bs=${BLOCK}`, `--ioengine=${engine}`],
    ...[`--iodepth=${depth}`, "--numjobs=1", "--readonly", "--time_based", `--runtime=${Math.ceil(seconds * 1000)}ms`],
    // The daemons find the file in the cache too.
    ...["--norandommap", "--invalidate=0", "--output-format=json"],
  ];
  const before = childrenCpuNs();
  const output = await new Deno.Command(program, { args, stdin: "null" }).output();
  const spent = childrenCpuNs() - before;
  const text = new TextDecoder().decode(output.stdout);
  if (!output.success) throw new Error(`fio: ${new TextDecoder().decode(output.stderr).trim().split("\n").at(-1)}`);
  const { opsPerSecond, ops } = readFio(text);
  return { opsPerSecond, cpuPerOp: spent / ops / 1000 };
}

/** The figures of the first job in what fio --output-format=json prints, notes before it included. */
export function readFio(text: string): { opsPerSecond: number; ops: number } {
  const start = text.indexOf("{");
  const job = start < 0 ? undefined : JSON.parse(text.slice(start)).jobs?.[0];
  const { iops, total_ios: ops } = job?.read ?? {};
  if (job === undefined || job.error !== 0 || !(iops > 0)) throw new Error(`fio: ${job ? `error ${job.error}` : text}`);
  return { opsPerSecond: iops, ops };
}
