/** What a loop holds of a running queue and of the device that it belongs to. Neither knows what the requests say. */
import type { Grace } from "./grace.ts";
import type { HostAddr } from "../ffi/memory.ts";
import { ownerOf } from "./flight.ts";
import type { Limiter } from "./limiter.ts";
import type { Log } from "./log.ts";
import type { GuestMemory } from "./memory.ts";
import { QueueMeter } from "./meter.ts";
import type { Requests } from "./requests.ts";
import type { SplitQueue } from "./split.ts";

/** A request's result that comes later, through a completion on the ring or `Loop.finish`. */
export const PENDING = -1;

/** What a service has of the thread that it runs on. A loop has more; a helper, which serves a request to its end, has no ring. */
export interface Host {
  readonly index: number;
  readonly isHelper: boolean;
  /** A helper: it may wait for another request of the guest (a lock) in what it is serving. */
  readonly inLocks: boolean;
  readonly requests: Requests;
  readonly grace: Grace;
  readonly log: Log;
}

/** Makes the service of a device on a thread, from the device's configuration: plain data that survives JSON. */
export type MakeService = (config: unknown, host: Host, device: LoopDevice, bellFds: readonly number[]) => Service;

/**
 * What answers requests: one instance for each device and loop. It reads a request with `Requests.copyIn`, answers with
 * `copyOut`, and says how many bytes it wrote into the guest's memory.
 */
export interface Service {
  /** Requests are about to come, after a time without any in flight. */
  begin(): void;
  /** Serves the request of a slot, and sets its `Requests.kind`. Returns the bytes written, or PENDING. */
  handle(slot: number): number;
  /**
   * The same for a request that a process before this one had taken, and that may be done, half done or not begun. Left out: as any other,
   * for what may be done twice with the same outcome.
   */
  again?(slot: number): number;
  /** The ring operation of a slot ended with `result` (>= 0, or -errno). Returns the bytes written, or PENDING. */
  complete(slot: number, result: number): number;
  /** No request is in flight any more on this loop. */
  end(): void;
  /** Something that it waits for may have come: another loop rang, or a request ended while `LoopDevice.waiting`. */
  bell(): void;
  /**
   * The slot's queue is being stopped: what it waits for without end, such as another's lock, is to be given up. With `gone` nobody
   * will see the answer, and whatever it waits for is to be given up.
   */
  stopping(slot: number, gone: boolean): void;
  /**
   * The loop met a fault of our own and gives the request up, wherever it was in its course; the kernel and helpers do nothing for it any
   * more. Answers it with an error and gives back what was kept for it. Returns the bytes written. The service is not used for requests again.
   */
  abandon(slot: number): number;
  /** The guest is gone: forget all that it had. Every queue of the device is stopped, on all loops. */
  reset(): void;
}

/** A device's part of a loop. */
export class LoopDevice {
  memory: GuestMemory;
  /** Requests in flight on this loop. */
  inFlight = 0;
  /** A batch of its requests is being taken: it stays begun meanwhile, for `begin` and `end` cost as much as a small request. */
  taking = false;
  /** The service waits until but one request is in flight: its bell is rung at each that ends. */
  waiting = false;
  /** What it may do in a second; null: anything. */
  limiter: Limiter | null = null;
  service!: Service;
  readonly queues = new Map<number, Queue>();
  /** The thread's log, whose lines say which device they are about. */
  log: Log | null = null;

  /** `meters` is where the counts of its queues lie. */
  constructor(readonly id: number, memory: GuestMemory, readonly meters?: HostAddr) {
    this.memory = memory;
  }
}

/** A queue that runs on a loop. */
export class Queue {
  inFlight = 0;
  /** No more chains are taken: it waits for those in flight. */
  stopping = false;
  /** The kernel watches its kick eventfd for the loop. */
  watched = false;
  /** Chains completed with length 0 because they were malformed. */
  malformed = 0;
  /** The loop looks at its available ring. Else it is asleep: the driver was asked to kick. */
  active = false;
  /** Looks since there was something. */
  idle = 0;
  /** Since when the driver has a call to get that was put off, in ms of nowMs(); 0: there is none. */
  owedSince = 0;
  /** How many chains were finished then, and how long one took when that was last measured, in ms. */
  owedAt = 0;
  chainMs = 0.002;
  /** With a limit: until when it waits, in ms of nowMs(), or 0; and what it has had since it last did, in ms of the limit. */
  paidAt = 0;
  turnMs = 0;
  /** When chains were seen to wait that are not taken yet, in ms of nowMs(); 0: none were. */
  seenMs = 0;
  /** What others see of it, and as whose they see its requests. */
  readonly meter: QueueMeter;
  readonly owner: number;

  constructor(
    readonly device: LoopDevice,
    readonly index: number,
    /** Small integer that stands for the queue in completions. */
    readonly token: number,
    readonly ring: SplitQueue,
    readonly kickFd: number,
    public callFd: number,
    public errFd: number,
    readonly indirect: boolean,
    /** A limit holds up neither what wants no answer nor, for a while, what does. */
    readonly urgent = false,
  ) {
    this.meter = new QueueMeter(device.meters, index);
    this.owner = ownerOf(device.id, index);
  }
}
