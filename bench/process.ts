/**
 * What a daemon costs: CPU time and memory of a process and all its descendants, by proc(5) and the CPU clocks of clock_getres(2).
 */
import { libc } from "../ffi/libc.ts";
import { allocate } from "../ffi/memory.ts";

const CLOCK_MONOTONIC = 1;

const timespec = allocate(4096);
const timespecWords = new Uint32Array(timespec.buffer, 0, 4);

/** clock_gettime(2) in nanoseconds, exact as a number for the clocks used here; NaN where it fails. Costs about 40 ns. */
function clockNs(clock: number): number {
  if (libc.clock_gettime(clock, timespec.pointer) !== 0) return NaN;
  return (timespecWords[0] + timespecWords[1] * 0x1_0000_0000) * 1e9 + timespecWords[2];
}

/** The monotonic clock in nanoseconds. */
export function monotonicNs(): number {
  return clockNs(CLOCK_MONOTONIC);
}

/**
 * CPU time in nanoseconds of a process, its threads that have ended included: the clock that clock_getcpuclockid(3) names.
 * io_uring's workers (io-wq) and its submission thread are threads of the process that made the ring, and are counted too.
 * 0 where there is no such process.
 */
export function cpuNs(pid: number): number {
  const ns = clockNs((~pid << 3) | 2);
  return Number.isNaN(ns) ? 0 : ns;
}

function read(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return "";
  }
}

/** A process and its living descendants. */
export function processTree(pid: number): number[] {
  const list = [pid];
  for (let i = 0; i < list.length; i++) {
    let tasks: string[] = [];
    try {
      tasks = Array.from(Deno.readDirSync(`/proc/${list[i]}/task`), (entry) => entry.name);
    } catch { /* it has ended */ }
    for (const task of tasks) {
      const children = read(`/proc/${list[i]}/task/${task}/children`).trim();
      if (children !== "") list.push(...children.split(" ").map(Number));
    }
  }
  return list;
}

/** CPU time in nanoseconds of a process and its living descendants. */
export function treeCpuNs(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + cpuNs(pid), 0);
}

/** CPU time in nanoseconds of children that have ended and were waited for, and theirs, by /proc/self/stat; steps of 10 ms. */
export function childrenCpuNs(): number {
  const text = read("/proc/self/stat");
  // cutime and cstime are fields 16 and 17; the second, the name, may have spaces.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[13]) + Number(fields[14])) * 1e7;
}

/** Memory in bytes: resident, proportional, and proportional without the guest's, as front ends here and vubench make it. */
export interface MemoryUse {
  rss: number;
  pss: number;
  pssOwn: number;
}

/** What both call the memfd that is the guest's memory. */
const GUEST_MEMFD = "/memfd:guest";

/** The memory of some processes together, from smaps. */
export function memoryUse(pids: readonly number[]): MemoryUse {
  const sum = { rss: 0, pss: 0, pssOwn: 0 };
  for (const pid of pids) addMemory(sum, read(`/proc/${pid}/smaps`));
  return sum;
}

/** Adds what /proc/pid/smaps says, proc_pid_smaps(5). */
export function addMemory(sum: MemoryUse, smaps: string): void {
  let guest = false;
  for (const line of smaps.split("\n")) {
    const [key, value] = line.split(/\s+/, 2);
    if (!key.endsWith(":")) guest = line.includes(GUEST_MEMFD);
    else if (key === "Rss:") sum.rss += Number(value) * 1024;
    else if (key === "Pss:") {
      sum.pss += Number(value) * 1024;
      if (!guest) sum.pssOwn += Number(value) * 1024;
    }
  }
}

/** CPU time in nanoseconds of the whole machine, stolen time included, by /proc/stat; steps of 10 ms. */
export function machineBusyNs(): number {
  // user nice system idle iowait irq softirq steal
  const ticks = read("/proc/stat").split("\n", 1)[0].split(/\s+/).slice(1, 9).map(Number);
  return ticks.reduce((sum, value, i) => i === 3 || i === 4 ? sum : sum + value, 0) * 1e7;
}

/** The type of the file system that holds a path, such as "tmpfs", by /proc/self/mounts; empty where that does not say. */
export function fileSystemOf(path: string): string {
  let type = "", longest = -1;
  for (const line of read("/proc/self/mounts").split("\n")) {
    const [, at, name] = line.split(" ");
    const holds = at !== undefined && (at === "/" || path === at || path.startsWith(at + "/"));
    // Of two mounts on one place the later covers the other.
    if (holds && at.length >= longest) [type, longest] = [name, at.length];
  }
  return type;
}
