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
}

const KIB = 1024;

/** Depths are per queue. */
export const SUITE: readonly Item[] = [
  { title: "randread 4k depth 32", mode: "randread", depth: 32 },
  { title: "randread 4k depth 1", mode: "randread", depth: 1 },
  { title: "randread 4k depth 32, driver polls", mode: "randread", depth: 32, busyPoll: true },
  { title: "randread 4k depth 16, 2 queues", mode: "randread", depth: 16, queues: 2 },
  { title: "randwrite 4k depth 32", mode: "randwrite", depth: 32 },
  { title: "seqread 128k depth 8", mode: "seqread", depth: 8, blockBytes: 128 * KIB },
  { title: "seqread 1M depth 4", mode: "seqread", depth: 4, blockBytes: 1024 * KIB },
  { title: "seqwrite 128k depth 8", mode: "seqwrite", depth: 8, blockBytes: 128 * KIB },
  { title: "getattr depth 32", mode: "getattr", depth: 32 },
  { title: "getattr depth 1", mode: "getattr", depth: 1 },
  { title: "lookup depth 32", mode: "lookup", depth: 32 },
  { title: "lookup depth 1", mode: "lookup", depth: 1 },
  { title: "openclose depth 8", mode: "openclose", depth: 8 },
  { title: "createunlink depth 8", mode: "createunlink", depth: 8 },
];

/** The title of the measurement that `runIdle` makes. */
export const IDLE = "idle";

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
