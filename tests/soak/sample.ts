/** What the daemon holds at a moment, by proc(5): memory, descriptors, threads, mappings. */
import { processTree } from "../../bench/process.ts";

export interface Sample {
  /** Since the beginning, in seconds. */
  atS: number;
  /** Done until then: sessions ended and requests answered. */
  sessions: number;
  requests: number;
  /** Bytes: resident; of these anonymous, which neither guests' memory nor pages of files are; writable private mappings. */
  rss: number;
  anonymous: number;
  vmData: number;
  /** The daemon's own threads; and those that the runtime starts for its calls and ends when they are idle. Without io_uring's. */
  threads: number;
  runtimeThreads: number;
  /** Mappings, and those of the guests' memory. */
  maps: number;
  guestMaps: number;
  /** Descriptors, in all and by kind. */
  descriptors: number;
  kinds: Record<string, number>;
  /** The shares' sockets in the host's table: one listens for each, and one is there for each connection. */
  sockets: number;
}

/** Nothing where what is looked at has ended meanwhile. */
function read(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return "";
  }
}

function list(path: string): string[] {
  try {
    return [...Deno.readDirSync(path)].map(({ name }) => name);
  } catch {
    return [];
  }
}

/** What a descriptor is, by where its link in /proc/pid/fd leads. */
export function kindOf(target: string, shares: readonly string[]): string {
  if (shares.some((dir) => target === dir || target.startsWith(`${dir}/`))) return "file of a share";
  if (target.startsWith("/memfd:guest")) return "guest memory";
  const [, kind] = /^(?:anon_inode:)?\[?([a-z_]+)[\]:]/.exec(target) ?? [];
  return kind ?? "other file";
}

/** `done`: sessions ended and requests answered so far. */
export function sample(
  pid: number,
  shares: readonly { dir: string; socket: string }[],
  done: { atS: number; sessions: number; requests: number },
): Sample {
  const pids = processTree(pid);
  const dirs = shares.map(({ dir }) => dir);
  const sum: Sample = {
    ...done,
    ...{
      rss: 0,
      anonymous: 0,
      vmData: 0,
      threads: 0,
      runtimeThreads: 0,
      maps: 0,
      guestMaps: 0,
      descriptors: 0,
      kinds: {},
      sockets: 0,
    },
  };
  for (const each of pids) {
    const status = read(`/proc/${each}/status`);
    const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(status)?.[1] ?? 0) * 1024;
    sum.rss += field("VmRSS");
    sum.anonymous += field("RssAnon");
    sum.vmData += field("VmData");
    for (const task of list(`/proc/${each}/task`)) {
      const name = read(`/proc/${each}/task/${task}/comm`);
      if (/^(tokio|V8)/.test(name)) sum.runtimeThreads++;
      else if (name !== "" && !name.startsWith("iou-")) sum.threads++;
    }
    const maps = read(`/proc/${each}/maps`).trimEnd().split("\n");
    sum.maps += maps.length;
    sum.guestMaps += maps.filter((line) => line.includes("/memfd:guest")).length;
    for (const fd of list(`/proc/${each}/fd`)) {
      let target: string;
      try {
        target = Deno.readLinkSync(`/proc/${each}/fd/${fd}`);
      } catch {
        continue;
      }
      const kind = kindOf(target, dirs);
      sum.kinds[kind] = (sum.kinds[kind] ?? 0) + 1;
      sum.descriptors++;
    }
  }
  for (const line of read("/proc/net/unix").split("\n")) {
    if (shares.some(({ socket }) => line.endsWith(` ${socket}`))) sum.sockets++;
  }
  return sum;
}
