/** A snapshot in the text format of Prometheus (prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4). */
import type { OpMetrics, QueueMetrics, ShareMetrics, Snapshot } from "./metrics.ts";

type Labels = Record<string, string | number>;
/** Where only the value differs: a histogram's samples have a suffix. */
type Sample = [labels: Labels, value: number, suffix?: string];

/** A family of metrics. */
export interface Family {
  name: string;
  type: "counter" | "gauge" | "histogram";
  help: string;
  samples: (snapshot: Snapshot) => Sample[];
}

/** Buckets of times that are shown: powers of two of a microsecond, up to 17 s. The JSON has them finer. */
const SHOWN = Array.from({ length: 25 }, (_, i) => 2 ** i);

function shares(snapshot: Snapshot, value: (share: ShareMetrics) => number): Sample[] {
  return snapshot.shares.map((share) => [{ share: share.share }, value(share)]);
}

function queues(snapshot: Snapshot, each: (queue: QueueMetrics, labels: Labels) => Sample[]): Sample[] {
  return snapshot.shares.flatMap(({ share, queues }) =>
    queues.flatMap((one) => each(one, { share, queue: one.queue }))
  );
}

function ops(snapshot: Snapshot, each: (op: OpMetrics, labels: Labels) => Sample[]): Sample[] {
  return queues(snapshot, (queue, labels) => {
    return Object.entries(queue.ops).flatMap(([op, metrics]) => each(metrics, { ...labels, op }));
  });
}

/** Samples of a histogram; what is counted at up to which bound, and the bounds that are shown. */
function histogram(
  labels: Labels,
  found: readonly [number, number][],
  bounds: readonly number[],
  unit: number,
  sum: number,
): Sample[] {
  const total = found.reduce((all, [, n]) => all + n, 0);
  let at = 0;
  let count = 0;
  const samples = bounds.map((bound): Sample => {
    for (; at < found.length && found[at][0] <= bound; at++) count += found[at][1];
    return [{ ...labels, le: decimal(bound * unit) }, count, "_bucket"];
  });
  return [...samples, [{ ...labels, le: "+Inf" }, total, "_bucket"], [labels, sum, "_sum"], [labels, total, "_count"]];
}

const decimal = (value: number) => String(Number(value.toPrecision(9)));

const perQueue = (value: (queue: QueueMetrics) => number) => (snapshot: Snapshot) =>
  queues(snapshot, (queue, labels) => [[labels, value(queue)]]);
const perShare = (value: (share: ShareMetrics) => number) => (snapshot: Snapshot) => shares(snapshot, value);
const perOp = (value: (op: OpMetrics) => number) => (snapshot: Snapshot) =>
  ops(snapshot, (op, labels) => [[labels, value(op)]]);
const once = (value: (snapshot: Snapshot) => number) => (snapshot: Snapshot): Sample[] => [[{}, value(snapshot)]];

/** All families, in the order in which they are shown. */
export const FAMILIES: readonly Family[] = [
  {
    name: "ringfsd_build_info",
    type: "gauge",
    help: "1; the version is a label.",
    samples: ({ version }) => [[{ version }, 1]],
  },
  {
    name: "ringfsd_share_info",
    type: "gauge",
    help: "1; what a share is of, and where its socket is, are labels.",
    samples: ({ shares }) => shares.map(({ share, dir, socket }) => [{ share, dir, socket }, 1]),
  },
  {
    name: "ringfsd_front_end_connected",
    type: "gauge",
    help: "Whether a front end (hypervisor) is connected.",
    samples: perShare(({ connected }) => connected ? 1 : 0),
  },
  {
    name: "ringfsd_front_end_connections_total",
    type: "counter",
    help: "Front ends that have connected.",
    samples: perShare(({ connections }) => connections),
  },
  {
    name: "ringfsd_requests_total",
    type: "counter",
    help: "Requests that are done, by FUSE operation.",
    samples: perOp(({ count }) => count),
  },
  {
    name: "ringfsd_request_errors_total",
    type: "counter",
    help: "Requests that were answered with an error, by its class.",
    samples: (snapshot) =>
      ops(snapshot, ({ errors }, labels) => Object.entries(errors).map(([error, n]) => [{ ...labels, error }, n])),
  },
  {
    name: "ringfsd_request_duration_seconds",
    type: "histogram",
    help: "From the beginning of the batch in which a request was taken off its queue to its completion.",
    samples: (snapshot) =>
      ops(snapshot, ({ buckets, seconds }, labels) => histogram(labels, buckets, SHOWN, 1e-6, seconds)),
  },
  {
    name: "ringfsd_request_bytes_total",
    type: "counter",
    help: "Bytes that the guest sent, headers included.",
    samples: perOp(({ requestBytes }) => requestBytes),
  },
  {
    name: "ringfsd_response_bytes_total",
    type: "counter",
    help: "Bytes that the guest was sent, headers included.",
    samples: perOp(({ responseBytes }) => responseBytes),
  },
  {
    name: "ringfsd_read_bytes_total",
    type: "counter",
    help: "Bytes of files that the guest has read.",
    samples: perQueue(({ readBytes }) => readBytes),
  },
  {
    name: "ringfsd_write_bytes_total",
    type: "counter",
    help: "Bytes that the guest sent to be written to files.",
    samples: perQueue(({ writeBytes }) => writeBytes),
  },
  {
    name: "ringfsd_inflight_requests",
    type: "gauge",
    help: "Requests in flight: taken off the queue, and not completed.",
    samples: perQueue(({ inFlight }) => inFlight),
  },
  {
    name: "ringfsd_waiting_requests",
    type: "gauge",
    help:
      "Requests in flight by where they wait: for the loop's system call, the ring, a helper, a lock or the session.",
    samples: ({ shares }) =>
      shares.flatMap(({ share, places }) => Object.entries(places).map(([place, n]): Sample => [{ share, place }, n])),
  },
  {
    name: "ringfsd_oldest_request_age_seconds",
    type: "gauge",
    help: "Age of the oldest request in flight.",
    samples: perShare(({ oldestSeconds }) => oldestSeconds),
  },
  {
    name: "ringfsd_queue_running",
    type: "gauge",
    help: "Whether a loop serves the queue.",
    samples: perQueue(({ loop }) => loop === null ? 0 : 1),
  },
  {
    name: "ringfsd_queue_kicks_total",
    type: "counter",
    help: "Times that a kick of the driver was noticed; several kicks may be noticed at once.",
    samples: perQueue(({ kicks }) => kicks),
  },
  {
    name: "ringfsd_queue_calls_total",
    type: "counter",
    help: "Calls (interrupts) made to the driver.",
    samples: perQueue(({ calls }) => calls),
  },
  {
    name: "ringfsd_queue_malformed_chains_total",
    type: "counter",
    help: "Descriptor chains that were malformed and completed with length 0.",
    samples: perQueue(({ malformed }) => malformed),
  },
  {
    name: "ringfsd_queue_broken_total",
    type: "counter",
    help: "Times that the queue was stopped because its ring was impossible.",
    samples: perQueue(({ broken }) => broken),
  },
  {
    name: "ringfsd_queue_batch_chains",
    type: "histogram",
    help: "Descriptor chains that were taken off the queue in one go.",
    samples: (snapshot) =>
      queues(
        snapshot,
        ({ batches, chains }, labels) => histogram(labels, batches, batches.map(([size]) => size), 1, chains),
      ),
  },
  {
    name: "ringfsd_nodes",
    type: "gauge",
    help: "Files that the guest knows.",
    samples: perShare(({ nodes }) => nodes),
  },
  {
    name: "ringfsd_nodes_open",
    type: "gauge",
    help: "Of these, files that hold a descriptor.",
    samples: perShare(({ nodesOpen }) => nodesOpen),
  },
  {
    name: "ringfsd_handles",
    type: "gauge",
    help: "Files and directories that the guest has open.",
    samples: perShare(({ handles }) => handles),
  },
  {
    name: "ringfsd_lock_owners",
    type: "gauge",
    help: "Owners of POSIX locks that hold a descriptor.",
    samples: perShare(({ lockOwners }) => lockOwners),
  },
  {
    name: "ringfsd_descriptors",
    type: "gauge",
    help: "Descriptors that the guest holds.",
    samples: perShare(({ descriptors }) => descriptors),
  },
  {
    name: "ringfsd_descriptors_limit",
    type: "gauge",
    help: "Descriptors that the guest may hold.",
    samples: perShare(({ descriptorsMax }) => descriptorsMax),
  },
  {
    name: "ringfsd_loop_seconds_total",
    type: "counter",
    help: "What a loop's time went to: work, looking for work in vain (poll), sleep.",
    samples: ({ loops }) =>
      loops.flatMap(({ loop, busySeconds, pollSeconds, sleepSeconds }): Sample[] => [
        [{ loop, state: "work" }, busySeconds],
        [{ loop, state: "poll" }, pollSeconds],
        [{ loop, state: "sleep" }, sleepSeconds],
      ]),
  },
  {
    name: "ringfsd_loop_cpu_seconds_total",
    type: "counter",
    help: "CPU time of a loop's thread.",
    samples: ({ loops }) => loops.map(({ loop, cpuSeconds }) => [{ loop }, cpuSeconds]),
  },
  {
    name: "ringfsd_loop_awake_seconds_total",
    type: "counter",
    help: "For so long a loop kept idle processors of the machine from halting.",
    samples: ({ loops }) => loops.map(({ loop, awakeSeconds }) => [{ loop }, awakeSeconds]),
  },
  {
    name: "ringfsd_loop_sleeps_total",
    type: "counter",
    help: "Times that a loop went to sleep.",
    samples: ({ loops }) => loops.map(({ loop, sleeps }) => [{ loop }, sleeps]),
  },
  {
    name: "ringfsd_loop_handoffs_total",
    type: "counter",
    help: "Requests and system calls that a loop gave to helper threads.",
    samples: ({ loops }) => loops.map(({ loop, handoffs }) => [{ loop }, handoffs]),
  },
  {
    name: "ringfsd_helper_threads",
    type: "gauge",
    help: "Helper threads that run.",
    samples: once(({ helpers }) => helpers.started),
  },
  {
    name: "ringfsd_helper_threads_idle",
    type: "gauge",
    help: "Of these, those that wait for something to do.",
    samples: once(({ helpers }) => helpers.idle),
  },
  {
    name: "ringfsd_locks_taken_total",
    type: "counter",
    help: "Spin locks that loops have taken, modulo 2^32.",
    samples: once(({ locks }) => locks.taken),
  },
  {
    name: "ringfsd_locks_contended_total",
    type: "counter",
    help: "Of these, those that another thread held at first, modulo 2^32.",
    samples: once(({ locks }) => locks.contended),
  },
  {
    name: "process_cpu_seconds_total",
    type: "counter",
    help: "CPU time of all threads.",
    samples: once(({ process }) => process.cpuSeconds),
  },
  {
    name: "process_resident_memory_bytes",
    type: "gauge",
    help: "Resident memory, what it has of the guests' included.",
    samples: once(({ process }) => process.residentBytes),
  },
  {
    name: "process_virtual_memory_bytes",
    type: "gauge",
    help: "Address space in use; tables are reserved at their full size.",
    samples: once(({ process }) => process.virtualBytes),
  },
  {
    name: "process_open_fds",
    type: "gauge",
    help: "Open descriptors; 0 on kernels before 6.2, which do not say.",
    samples: once(({ process }) => process.openFiles),
  },
  {
    name: "process_max_fds",
    type: "gauge",
    help: "Descriptors that may be open.",
    samples: once(({ process }) => process.maxFiles),
  },
  {
    name: "process_start_time_seconds",
    type: "gauge",
    help: "When the process started, in seconds since 1970.",
    samples: once(({ process }) => process.startSeconds),
  },
];

export const CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** The whole text. */
export function prometheusText(snapshot: Snapshot): string {
  const parts: string[] = [];
  for (const { name, type, help, samples } of FAMILIES) {
    const all = samples(snapshot);
    if (all.length === 0) continue;
    parts.push(`# HELP ${name} ${help.replaceAll("\\", "\\\\").replaceAll("\n", "\\n")}\n# TYPE ${name} ${type}\n`);
    for (const [labels, value, suffix = ""] of all) parts.push(`${name}${suffix}${shown(labels)} ${value}\n`);
  }
  return parts.join("");
}

function shown(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(String(value))}"`);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

function escaped(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}
