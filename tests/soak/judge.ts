/**
 * Whether what the daemon holds is flat: the first and the last third of the samples are compared that were taken at rest, with no front end
 * connected, after a warm-up in which heaps grow and threads start. The tolerances are for growth by session and by request, so that a
 * longer run finds smaller leaks.
 */
import type { Sample } from "./sample.ts";

/** The part of the samples that is not judged. */
export const WARM_UP = 1 / 4;
/** Bytes of garbage in V8's heaps, of which each thread has one: a loop that has little of it collects it after minutes. */
export const NOISE_BYTES = 24 << 20;
/** Bytes by which memory may grow for each session and each request beyond that: less than the smallest thing that could be left over. */
export const BYTES_PER_SESSION = 256;
export const BYTES_PER_REQUEST = 0.25;
/** V8 maps its heaps in pieces, and libc its arenas: such mappings come and go. Beyond that, for each session: */
const NOISE_MAPS = 64, MAPS_PER_SESSION = 0.02;
/** The runtime's threads: it ends them after ten idle seconds. */
const NOISE_THREADS = 3;

export interface Verdict {
  what: string;
  /** The median of the first third and that of the last one; for what is judged strictly, the most of each. */
  first: number;
  last: number;
  most: number;
  /** Between the middles of the two. */
  sessions: number;
  requests: number;
  ok: boolean;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Nothing where there are too few samples to say anything. */
export function judge(samples: readonly Sample[]): Verdict[] {
  const judged = samples.slice(Math.floor(samples.length * WARM_UP));
  const third = Math.floor(judged.length / 3);
  if (third < 2) return [];
  const first = judged.slice(0, third), last = judged.slice(-third);
  const between = (pick: (sample: Sample) => number) => median(last.map(pick)) - median(first.map(pick));
  const sessions = between((one) => one.sessions), requests = between((one) => one.requests);
  const verdict = (what: string, reduce: typeof median, pick: (sample: Sample) => number, noise: number): Verdict => {
    const [before, after] = [reduce(first.map(pick)), reduce(last.map(pick))];
    return { what, first: before, last: after, most: before + noise, sessions, requests, ok: after <= before + noise };
  };
  const most = (values: readonly number[]) => Math.max(...values);
  const bytes = NOISE_BYTES + sessions * BYTES_PER_SESSION + requests * BYTES_PER_REQUEST;
  const kinds = [...new Set(judged.flatMap((one) => Object.keys(one.kinds)))].sort();
  return [
    verdict("resident memory", median, (one) => one.rss, bytes),
    verdict("anonymous memory", median, (one) => one.anonymous, bytes),
    verdict("data (VmData)", median, (one) => one.vmData, bytes),
    verdict("mappings", median, (one) => one.maps, NOISE_MAPS + sessions * MAPS_PER_SESSION),
    verdict("threads", most, (one) => one.threads, 0),
    verdict("threads of the runtime", most, (one) => one.runtimeThreads, NOISE_THREADS),
    verdict("descriptors", most, (one) => one.descriptors, 0),
    ...kinds.map((kind) => verdict(`descriptors: ${kind}`, most, (one) => one.kinds[kind] ?? 0, 0)),
    verdict("sockets of the shares", most, (one) => one.sockets, 0),
    nothing("guests' memory mapped", judged, (one) => one.guestMaps),
    nothing("files of the shares open beyond the roots", judged, (one) => one.kinds["file of a share"] ?? 0, first),
  ];

  function nothing(
    what: string,
    all: readonly Sample[],
    pick: (sample: Sample) => number,
    allowed?: Sample[],
  ): Verdict {
    const most = allowed === undefined ? 0 : Math.min(...allowed.map(pick));
    const found = Math.max(...all.map(pick));
    return { what, first: most, last: found, most, sessions, requests, ok: found <= most };
  }
}
