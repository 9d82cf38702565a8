/** The workloads that `deno task bench` runs, and the files they run on. */
import { join } from "node:path";
import { Session } from "./session.ts";
import type { LoadOptions } from "./load.ts";

/** Read from; its contents are known, see `fillFile`. */
export const READ_FILE = "big";
/** Written to. */
export const WRITE_FILE = "out";

/** One line of the report. */
export interface Item extends Partial<LoadOptions> {
  title: string;
  /** An idle guest, or what the machine does without a daemon; otherwise a load. */
  kind?: "load" | "idle" | "limit";
  /** Measure ringfsd without polling too. */
  noPolling?: boolean;
  /** Idle guests, each of a device of one process; 1 where there is nothing here. */
  devices?: number;
}

const KIB = 1024, MIB = 1024 * KIB;

// Titles that targets.ts compares.
export const RANDREAD = "randread 4k depth 32";
export const RANDREAD_POLLED = `${RANDREAD}, driver polls`;
export const NOTHING = "unknown operation depth 32, driver polls";
export const RANDREAD_1 = "randread 4k depth 1";
export const RANDWRITE = "randwrite 4k depth 32";
export const TWO_QUEUES = "randread 4k depth 32, 2 queues";
export const LIMITS = "randread 4k without a daemon";
export const IDLE = "idle";
export const IDLE_100 = "idle, 100 devices";

const metadata = (["getattr", "lookup", "openclose", "createunlink"] as const).flatMap((mode): Item[] => [
  { title: `${mode} depth 1`, mode, depth: 1 },
  { title: `${mode} depth 32`, mode, depth: 32 },
]);

/**
 * Depths are per queue. The driver sleeps until it is called, as a guest does, unless the title says that it polls. Data is one
 * segment, as in a guest with large folios, unless the title says that it is in pages.
 */
export const SUITE: readonly Item[] = [
  { title: RANDREAD, mode: "randread", depth: 32, noPolling: true },
  { title: RANDREAD_POLLED, mode: "randread", depth: 32, busyPoll: true, noPolling: true },
  { title: TWO_QUEUES, mode: "randread", depth: 32, queues: 2 },
  { title: RANDWRITE, mode: "randwrite", depth: 32, noPolling: true },
  { title: RANDREAD_1, mode: "randread", depth: 1, noPolling: true },
  { title: `${RANDREAD_1}, driver polls`, mode: "randread", depth: 1, busyPoll: true, noPolling: true },
  { title: "seqread 128k depth 8", mode: "seqread", depth: 8, blockBytes: 128 * KIB, segmentBytes: 0 },
  { title: "seqwrite 128k depth 8", mode: "seqwrite", depth: 8, blockBytes: 128 * KIB, segmentBytes: 0 },
  { title: "seqread 1M depth 8", mode: "seqread", depth: 8, blockBytes: MIB, segmentBytes: 0 },
  { title: "seqwrite 1M depth 8", mode: "seqwrite", depth: 8, blockBytes: MIB, segmentBytes: 0 },
  { title: "seqread 1M depth 8, in pages", mode: "seqread", depth: 8, blockBytes: MIB },
  { title: "seqwrite 1M depth 8, in pages", mode: "seqwrite", depth: 8, blockBytes: MIB },
  ...metadata,
  { title: NOTHING, mode: "unknown", depth: 32, busyPoll: true, noPolling: true },
  { title: IDLE, kind: "idle" },
  { title: IDLE_100, kind: "idle", devices: 100 },
  { title: LIMITS, kind: "limit" },
];

/** The file that a workload uses. */
export function fileFor(item: Item): string {
  return item.mode?.endsWith("write") ? WRITE_FILE : READ_FILE;
}

const PAGE = 4096;

/** The first word of a page of READ_FILE: no two pages of a file below 16 TiB have the same. */
function mark(page: number): number {
  return Math.imul(page, 2654435761) >>> 0;
}

/** Makes a file of `sizeBytes` (a multiple of 1 MiB) whose pages each begin with their mark. No page is a hole. */
export async function fillFile(dir: string, name: string, sizeBytes: number): Promise<void> {
  const chunk = new Uint8Array(1 << 20);
  for (let at = 0; at < chunk.length; at += 65536) crypto.getRandomValues(chunk.subarray(at, at + 65536));
  const words = new Uint32Array(chunk.buffer);
  using file = await Deno.create(join(dir, name));
  for (let at = 0; at < sizeBytes; at += chunk.length) {
    for (let i = 0; i < chunk.length; i += PAGE) words[i / 4] = mark((at + i) / PAGE);
    for (let done = 0; done < chunk.length;) done += await file.write(chunk.subarray(done));
  }
}

/** Reads some pages of READ_FILE through a daemon. Throws where one is not what is on the host: then figures mean nothing. */
export function checkContents(socketPath: string, pages = 64): void {
  using session = Session.open(socketPath, { retryMs: 2000 });
  const { client } = session;
  const { error, nodeid, attr } = client.lookup(1, READ_FILE);
  if (error !== 0) throw new Error(`LOOKUP of ${READ_FILE}: error ${error}`);
  const { fh } = client.open(nodeid);
  for (let i = 0; i < pages; i++) {
    const page = Math.floor(attr.size / PAGE * i / pages);
    const { data } = client.read(nodeid, fh, page * PAGE, PAGE);
    const found = data.length === PAGE ? new DataView(data.buffer).getUint32(0, true) : -1;
    if (found !== mark(page)) throw new Error(`page ${page} of ${READ_FILE}: ${data.length} bytes, not the file's`);
  }
  client.release(nodeid, fh);
}
