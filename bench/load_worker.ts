/**
 * One thread of the load generator: drives one queue at a fixed depth until it is told to stop. It blocks its isolate: what it
 * is told comes through the words of a SharedArrayBuffer.
 */
/// <reference lib="deno.worker" />
import type { GuestAddr } from "../vq/device.ts";
import { Virtqueue, type VirtqueueState } from "./driver.ts";
import { GuestMemory, type SharedRegion } from "./guest_memory.ts";
import { Histogram } from "./histogram.ts";
import { monotonicNs } from "./process.ts";
import { type Job, Workload } from "./workloads.ts";

/** Values of the phase word. */
export const WARM_UP = 0, MEASURE = 1, STOP = 2;

/** After this time without a completion the daemon is taken for dead or stuck. */
const TIMEOUT_MS = 5000;

/** How a Worker is started. */
export interface LoadStart {
  regions: SharedRegion[];
  arena: { addr: GuestAddr; size: number };
  queue: VirtqueueState;
  /** One word: the phase. */
  phase: Int32Array<SharedArrayBuffer>;
  job: Job;
}

/** What it answers at the end, after a "ready" when it starts.  Times in nanoseconds. */
export interface LoadEnd {
  ops: number;
  bytes: number;
  errors: number;
  firstError: number;
  kicks: number;
  calls: number;
  elapsedNs: number;
  latency: { counts: Uint32Array; max: number };
  /** Why it gave up, where it did. */
  failure?: string;
}

class Runner {
  readonly #latency = new Histogram();
  readonly #startedNs: Float64Array;
  #ops = 0;
  #inFlight = 0;
  /** Counters as they stood when measuring began. */
  #since = { ns: 0, kicks: 0, calls: 0, bytes: 0 };

  constructor(
    readonly queue: Virtqueue,
    readonly workload: Workload,
    readonly phase: Int32Array<SharedArrayBuffer>,
  ) {
    this.#startedNs = new Float64Array(workload.job.depth);
  }

  run(): LoadEnd {
    const { queue, workload, phase } = this;
    this.#fillAll();
    let current = WARM_UP;
    let end: LoadEnd | undefined;
    while (this.#inFlight > 0) {
      if (!queue.waitUsed(TIMEOUT_MS)) {
        return { ...(end ?? this.#end()), failure: `no completion within ${TIMEOUT_MS / 1000} s` };
      }
      const wanted = Atomics.load(phase, 0);
      if (wanted !== current) {
        if (wanted === MEASURE) this.#begin();
        else end = this.#end();
        current = wanted;
      }
      this.#turn(current !== STOP);
    }
    return { ...(end ?? this.#end()), errors: workload.errors, firstError: workload.firstError };
  }

  #fillAll(): void {
    for (let slot = 0; slot < this.#startedNs.length; slot++) {
      this.#startedNs[slot] = monotonicNs();
      this.queue.offer(this.workload.next(slot));
      this.#inFlight++;
    }
    this.queue.publish();
    this.queue.kick();
  }

  /** Takes all that the device has given back, and with `refill` sends each slot's next request. */
  #turn(refill: boolean): void {
    const { queue, workload } = this;
    let sent = false;
    for (let head = queue.reap(); head >= 0; head = queue.reap()) {
      const slot = workload.slotOf(head);
      const now = monotonicNs();
      const tookNs = now - this.#startedNs[slot];
      const counts = workload.check(slot, queue.usedLength);
      // A slot that is to stop goes on to the end of its cycle: no file stays behind.
      if (refill || !workload.atStart(slot)) {
        this.#startedNs[slot] = now;
        queue.offer(workload.next(slot));
        queue.publish();
        sent = true;
      } else {
        this.#inFlight--;
      }
      // The next request is on its way already: what follows does not hold up the device.
      if (counts) {
        this.#latency.record(tookNs);
        this.#ops++;
      }
    }
    if (sent) queue.kick();
  }

  #begin(): void {
    const { queue, workload } = this;
    this.#latency.clear();
    this.#ops = 0;
    this.#since = { ns: monotonicNs(), kicks: queue.kicks, calls: queue.calls, bytes: workload.bytes };
  }

  #end(): LoadEnd {
    const { queue, workload } = this;
    return {
      ops: this.#ops,
      bytes: workload.bytes - this.#since.bytes,
      errors: workload.errors,
      firstError: workload.firstError,
      kicks: queue.kicks - this.#since.kicks,
      calls: queue.calls - this.#since.calls,
      elapsedNs: monotonicNs() - this.#since.ns,
      latency: { counts: this.#latency.counts.slice(), max: this.#latency.max },
    };
  }
}

self.onmessage = (event: MessageEvent<LoadStart>) => {
  const { regions, arena, queue: state, phase, job } = event.data;
  const queue = new Virtqueue(GuestMemory.attach(regions, arena), state);
  const workload = new Workload(queue, job);
  self.postMessage("ready");
  self.postMessage(new Runner(queue, workload, phase).run());
};
