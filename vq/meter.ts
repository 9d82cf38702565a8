/**
 * What is counted of loops, queues and kinds of requests, where the control plane can read it at any time: in shared memory that it
 * owns, so that counts outlive a loop. Each word has one writer, the loop that serves the queue at present, so there are neither
 * locks nor atomics. A word is a 64-bit float: a count does not wrap before 2^53, and an aligned load of 64 bits is never torn on
 * x86-64 and arm64. Two words may be of different moments.
 *
 * Nothing here knows what a request says: a kind is a number that the service gives it (see `Requests.kind`).
 */
import {
  EACCES,
  EAGAIN,
  ECANCELED,
  EDQUOT,
  EEXIST,
  EFBIG,
  EINTR,
  EIO,
  EMFILE,
  ENFILE,
  ENODATA,
  ENOENT,
  ENOMEM,
  ENOSPC,
  ENOSYS,
  ENOTEMPTY,
  EOPNOTSUPP,
  EPERM,
  EROFS,
  ESTALE,
} from "../ffi/errno.ts";
import { allocate, type HostAddr, viewAt } from "../ffi/memory.ts";

/** Kinds of requests that a service may tell apart; kind 0 is that of what is malformed or unknown. */
export const KINDS = 64;

// --- latencies: a bucket for each quarter of an octave, of microseconds. Bucket k holds what took longer than bucketUs(k), and no
// longer than bucketUs(k + 1). Below 4 µs they are of 1 µs; the last one has all from two minutes on.

/** Buckets of an octave: two bits. */
const PARTS = 4;
const OCTAVES = 26;
export const BUCKETS = OCTAVES * PARTS;
const US_MAX = 2 ** 30;

/** The bucket of a time in milliseconds. */
export function bucketOf(ms: number): number {
  const us = Math.ceil(ms * 1000) - 1;
  if (us < PARTS) return us < 0 ? 0 : us;
  const whole = us < US_MAX ? us : US_MAX;
  const octave = 31 - Math.clz32(whole);
  const bucket = (octave - 1) * PARTS + (whole >> (octave - 2) & 3);
  return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

/** Where a bucket begins, in microseconds. */
export function bucketUs(bucket: number): number {
  if (bucket < PARTS) return bucket;
  return (PARTS + bucket % PARTS) * 2 ** (Math.floor(bucket / PARTS) - 1);
}

// --- errors

/** What errors are told apart as. */
export const ERRORS = [
  "not_found",
  "denied",
  "exists",
  "no_attribute",
  "no_space",
  "limit",
  "unsupported",
  "interrupted",
  "io",
  "other",
] as const;

const CLASSES: Record<string, readonly number[]> = {
  not_found: [ENOENT, ESTALE],
  denied: [EACCES, EPERM, EROFS],
  exists: [EEXIST, ENOTEMPTY],
  no_attribute: [ENODATA],
  no_space: [ENOSPC, EDQUOT, EFBIG],
  limit: [EMFILE, ENFILE, ENOMEM],
  unsupported: [ENOSYS, EOPNOTSUPP],
  interrupted: [EINTR, EAGAIN, ECANCELED],
  io: [EIO],
};

/** By errno, the index in ERRORS. */
const errorClass = new Uint8Array(256).fill(ERRORS.length - 1);
ERRORS.forEach((name, i) => CLASSES[name]?.forEach((code) => errorClass[code] = i));

// --- a queue's words

const KICKS = 0;
const CALLS = 1;
const MALFORMED = 2;
const BROKEN = 3;
/** The loop that serves it, and 1; 0: it does not run. */
const SERVED = 4;
const CHAINS = 5;
/** Batches by the chains taken: 1, 2, up to 4, 8, 16. */
const BATCHES = 8;
export const BATCH_SIZES = [1, 2, 4, 8, 16] as const;
const QUEUE_HEAD = 64;

// Words of each kind of its requests.
const MS = 0;
const BYTES_IN = 1;
const BYTES_OUT = 2;
const FAILED = 4;
const TOOK = 16;
const KIND_WORDS = 128;
if (FAILED + ERRORS.length > TOOK || TOOK + BUCKETS > KIND_WORDS) throw new Error("a kind's words do not fit");

const QUEUE_WORDS = QUEUE_HEAD + KINDS * KIND_WORDS;
/** Takes memory as kinds of requests come: four share a page. */
const queueBytes = (queues: number) => queues * QUEUE_WORDS * 8;

/** Memory for the counts of a device's queues. */
export function allocateQueueMeters(queues: number): { addr: HostAddr; size: number } {
  return allocate(queueBytes(queues));
}

/** The loop's side of one queue's counts. */
export class QueueMeter {
  readonly #words: Float64Array<ArrayBuffer>;

  /** `queues`: where the counts of the device's queues lie. Where that is left out, they are nobody else's. */
  constructor(queues: HostAddr | undefined, queue: number) {
    const at = queueBytes(queue);
    this.#words = new Float64Array(
      viewAt((queues === undefined ? allocate(queueBytes(1)).addr : queues + at) as HostAddr, queueBytes(1)),
    );
  }

  /** A loop serves the queue from now on; -1: none does. */
  served(loop: number): void {
    this.#words[SERVED] = loop + 1;
  }

  kicked(): void {
    this.#words[KICKS]++;
  }

  called(): void {
    this.#words[CALLS]++;
  }

  malformed(): void {
    this.#words[MALFORMED]++;
  }

  broke(): void {
    this.#words[BROKEN]++;
  }

  /** So many chains were taken in one go. */
  batch(chains: number): void {
    this.#words[CHAINS] += chains;
    this.#words[BATCHES + 32 - Math.clz32(chains - 1)]++;
  }

  /** A request of a kind is done: bytes that the driver gave and got, and the errno that it was answered with, or 0. */
  moved(kind: number, bytesIn: number, bytesOut: number, error: number): void {
    const w = this.#words;
    const at = QUEUE_HEAD + kind * KIND_WORDS;
    w[at + BYTES_IN] += bytesIn;
    w[at + BYTES_OUT] += bytesOut;
    if (error !== 0) w[at + FAILED + errorClass[error]]++;
  }

  /** And it took so long, in milliseconds, which `bucket` is of; or `times` of them did. These are what is counted. */
  took(kind: number, ms: number, bucket: number, times = 1): void {
    const w = this.#words;
    const at = QUEUE_HEAD + kind * KIND_WORDS;
    w[at + MS] += ms * times;
    w[at + TOOK + bucket] += times;
  }
}

/** What was counted of the requests of a kind. */
export interface KindCounts {
  kind: number;
  count: number;
  seconds: number;
  bytesIn: number;
  bytesOut: number;
  /** As ERRORS has them. */
  errors: number[];
  /** As `bucketUs` has them. */
  buckets: number[];
}

/** What was counted of a queue. */
export interface QueueCounts {
  /** The loop that serves it; -1: it does not run. */
  loop: number;
  kicks: number;
  calls: number;
  malformed: number;
  broken: number;
  chains: number;
  /** As BATCH_SIZES has them. */
  batches: number[];
  /** Those that there were. */
  kinds: KindCounts[];
}

/** Reads the counts of a device's queues, whose first `count` lie there. For the control plane, at any time. */
export function readQueueMeters(addr: HostAddr, count: number): QueueCounts[] {
  const w = new Float64Array(viewAt(addr, queueBytes(count)));
  return Array.from({ length: count }, (_, queue) => {
    const head = queue * QUEUE_WORDS;
    const batches = [...w.subarray(head + BATCHES, head + BATCHES + BATCH_SIZES.length)];
    const kinds: KindCounts[] = [];
    // A queue that never ran has touched no memory, and this does not either.
    const some = w[head + SERVED] > 0 || w[head + CHAINS] > 0;
    for (let kind = 0; some && kind < KINDS; kind++) {
      const at = head + QUEUE_HEAD + kind * KIND_WORDS;
      const buckets = [...w.subarray(at + TOOK, at + TOOK + BUCKETS)];
      const count = buckets.reduce((sum, one) => sum + one, 0);
      if (count === 0) continue;
      kinds.push({
        kind,
        count,
        seconds: w[at + MS] / 1000,
        bytesIn: w[at + BYTES_IN],
        bytesOut: w[at + BYTES_OUT],
        errors: [...w.subarray(at + FAILED, at + FAILED + ERRORS.length)],
        buckets,
      });
    }
    return {
      loop: w[head + SERVED] - 1,
      kicks: w[head + KICKS],
      calls: w[head + CALLS],
      malformed: w[head + MALFORMED],
      broken: w[head + BROKEN],
      chains: w[head + CHAINS],
      batches,
      kinds,
    };
  });
}

// --- a loop's words

/** When it began to sleep, in ms of nowMs(); 0: it does not. */
export const ASLEEP = 0;
export const SLEEPS = 1;
export const SLEPT_MS = 2;
/** Looking for work in vain. */
export const POLLED_MS = 3;
export const STARTED_MS = 4;
/** Calls and requests that were handed to helpers. */
export const AWAY = 5;
/** The thread, by its id. */
export const THREAD = 6;
/** For so long idle processors were kept awake, see awake.ts. */
export const AWAKE_MS = 7;
const LOOP_WORDS = 16;

/** Takes the memory for a loop's counts. */
export function allocateLoopMeter(): HostAddr {
  return allocate(LOOP_WORDS * 8).addr;
}

/** The words of a loop's counts, for the loop to write and the control plane to read. */
export function loopMeter(addr: HostAddr): Float64Array<ArrayBuffer> {
  return new Float64Array(viewAt(addr, LOOP_WORDS * 8));
}

/** What was counted of a loop. Times in milliseconds since it started. */
export interface LoopCounts {
  thread: number;
  upMs: number;
  sleptMs: number;
  polledMs: number;
  sleeps: number;
  /** Calls and requests that were handed to helpers. */
  away: number;
  /** For so long idle processors were kept awake. */
  awakeMs: number;
}

/** Reads a loop's counts, as of `now` in ms of nowMs(). */
export function readLoopMeter(w: Float64Array, now: number): LoopCounts {
  const asleep = w[ASLEEP];
  return {
    thread: w[THREAD],
    upMs: now - w[STARTED_MS],
    sleptMs: w[SLEPT_MS] + (asleep > 0 ? Math.max(0, now - asleep) : 0),
    polledMs: w[POLLED_MS],
    sleeps: w[SLEEPS],
    away: w[AWAY],
    awakeMs: w[AWAKE_MS],
  };
}
