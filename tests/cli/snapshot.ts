/** A snapshot of a daemon that never ran. */
import type { OpMetrics, ShareMetrics, Snapshot } from "../../cli/metrics.ts";

/** The name of its first share. */
export const ODD = 'a "quoted" \\ back\\slash\nand a line';

const read: OpMetrics = {
  count: 10,
  seconds: 0.25,
  requestBytes: 800,
  responseBytes: 40960,
  errors: { io: 2, not_found: 1 },
  buckets: [[1, 1], [5, 2], [8, 3], [2 ** 24, 2], [2 ** 26, 1], [Number.MAX_SAFE_INTEGER, 1]],
};

function share(name: string, id: number): ShareMetrics {
  return {
    ...{ share: name, id, dir: "/srv/a", socket: ODD, connected: id === 0, connections: 3 },
    ...{ nodes: 5, nodesOpen: 4, handles: 3, lockOwners: 2, descriptors: 9, descriptorsMax: 1000 },
    ...{ inFlight: 2, places: { ring: 1, lock: 1 }, oldestSeconds: 1.5 },
    queues: [{
      ...{ queue: 1, loop: 0, inFlight: 2, kicks: 7, calls: 6, malformed: 1, broken: 0, chains: 12 },
      ...{ batches: [[1, 2], [2, 1], [4, 0], [8, 1], [16, 0]], readBytes: 40000, writeBytes: 0, ops: { read } },
    }],
  };
}

export const snapshot: Snapshot = {
  version: "1.2.3+g0",
  time: 1000,
  process: {
    ...{ pid: 42, startSeconds: 900, cpuSeconds: 5, residentBytes: 1e8, virtualBytes: 1e10, openFiles: 60 },
    maxFiles: 1000,
  },
  helpers: { started: 2, idle: 1 },
  locks: { taken: 10, contended: 1 },
  loops: [{
    ...{ loop: 0, thread: 43, cpuSeconds: 4, sleepSeconds: 50, pollSeconds: 1, busySeconds: 49, sleeps: 100 },
    ...{ handoffs: 3, inFlight: 2, awakeSeconds: 0.25 },
  }],
  shares: [share(ODD, 0), share("b", 1)],
};
