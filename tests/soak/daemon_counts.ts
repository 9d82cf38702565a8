/** The daemon's own count of requests, against the front ends'. */
import assert from "node:assert/strict";
import { get } from "node:http";
import type { Counts } from "./line.ts";

/** What is read of /metrics.json. */
interface Snapshot {
  shares: {
    share: string;
    inFlight: number;
    connections: number;
    nodes: number;
    handles: number;
    lockOwners: number;
    queues: { malformed: number; broken: number; ops: Record<string, { count: number }> }[];
  }[];
}

/** One share, since the daemon started. */
export interface DaemonCounts {
  /** Requests given back, those without a reply among them; in flight; and what was no request. */
  requests: number;
  inFlight: number;
  malformed: number;
  connections: number;
  /** Entries of its tables: nodes, handles, owners of locks. */
  tables: [nodes: number, handles: number, lockOwners: number];
}

/** By tag, what the daemon says on its metrics socket; null where it has none. */
export async function daemonCounts(metricsSocket: string | null): Promise<Map<string, DaemonCounts> | null> {
  if (metricsSocket === null) return null;
  const { shares } = JSON.parse(await fetchText(metricsSocket, "/metrics.json")) as Snapshot;
  return new Map(shares.map(({ share, inFlight, connections, nodes, handles, lockOwners, queues }) => {
    const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
    return [share, {
      requests: sum(queues.flatMap(({ ops }) => Object.values(ops).map(({ count }) => count))),
      malformed: sum(queues.map((queue) => queue.malformed + queue.broken)),
      inFlight,
      connections,
      tables: [nodes, handles, lockOwners],
    }];
  }));
}

function fetchText(socketPath: string, path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = get({ socketPath, path, headers: { host: "ringfsd", connection: "close" } }, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (part: string) => text += part);
      response.on("error", reject);
      response.on("end", () => {
        if (response.statusCode === 200) resolve(text);
        else reject(new Error(`${path}: ${response.statusCode} ${text}`));
      });
    });
    request.on("error", reject);
  });
}

/** Both sides have counted the same, at rest. `counts`: of each share's front ends. Throws otherwise. Returns what was compared. */
export function compareCounts(
  daemon: ReadonlyMap<string, DaemonCounts> | null,
  counts: ReadonlyMap<string, Counts>,
): string {
  for (const [tag, { submitted, answered, givenUp, connections }] of counts) {
    assert.equal(answered + givenUp, submitted, `${tag}: requests answered and given up, and submitted`);
    if (daemon === null) continue;
    const of = daemon.get(tag);
    assert.ok(of !== undefined, `the daemon has no counts of ${tag}`);
    assert.equal(of.requests, answered, `${tag}: requests by the daemon's count, and answered`);
    assert.equal(of.connections, connections, `${tag}: connections by the daemon's count, and made`);
    assert.deepEqual([of.inFlight, of.malformed], [0, 0], `${tag}: in flight, malformed`);
    assert.deepEqual(of.tables, [0, 0, 0], `${tag}: nodes, handles, owners of locks`);
  }
  return daemon === null
    ? "by the front ends: the daemon has no metrics socket"
    : "by the front ends, and the same by the daemon";
}
