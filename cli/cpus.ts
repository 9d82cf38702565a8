/** CPUs on the command line, in the notation of cpuset(7) and taskset: 0-3,8. */
import { CPUS_MAX } from "../ffi/affinity.ts";

/** The CPUs of a list, in order. Throws an Error with a sentence that begins with `name`. */
export function cpuList(name: string, text: string): number[] {
  const cpus = new Set<number>();
  for (const part of text.split(",")) {
    const [, from, to = from] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(part) ?? [];
    const [first, last] = [Number(from), Number(to)];
    if (from === undefined || first > last || last >= CPUS_MAX) {
      throw new Error(`${name} takes CPUs such as 0-3,8, and ${JSON.stringify(part)} is not such`);
    }
    for (let cpu = first; cpu <= last; cpu++) cpus.add(cpu);
  }
  return [...cpus].sort((a, b) => a - b);
}

/** The lists of several loops, with colons between them: 0:1:2-3. */
export function cpuLists(name: string, text: string): number[][] {
  return text.split(":").map((one) => cpuList(name, one));
}

/** What the kernel says of those that are online. */
export const ONLINE = "/sys/devices/system/cpu/online";

/** How many processors the machine has; 0 where that cannot be known. */
export function onlineCpus(): number {
  try {
    return cpuList(ONLINE, Deno.readTextFileSync(ONLINE).trim()).length;
  } catch {
    return 0;
  }
}

/** The shortest list that says so. */
export function showCpus(cpus: readonly number[]): string {
  const parts: string[] = [];
  for (let i = 0; i < cpus.length;) {
    const first = i;
    while (cpus[i + 1] === cpus[i] + 1) i++;
    parts.push(first === i ? `${cpus[i]}` : `${cpus[first]}-${cpus[i]}`);
    i++;
  }
  return parts.join(",");
}

/** What is wrong with wanting these, or "". */
export function impossible(name: string, wanted: readonly number[], allowed: readonly number[]): string {
  const cpu = wanted.find((one) => !allowed.includes(one));
  return cpu === undefined ? "" : `${name}: ringfsd may not run on CPU ${cpu}, but on ${showCpus(allowed)}`;
}
