/** What the control plane and a loop say to each other, over the Worker's message port. All of it is plain data. */
import type { HostAddr } from "../ffi/memory.ts";
import type { CallsInit } from "./calls.ts";
import type { HelperInit } from "./helper.ts";
import type { InflightRegion } from "./inflight.ts";
import type { Limit } from "./limiter.ts";
import type { About } from "./log.ts";
import type { MemoryLayout, WindowOffset } from "./memory.ts";
import type { Placement } from "./placement.ts";

/** How a loop starts: the first message it gets. Descriptors are the process's, so a number is enough. */
export interface LoopInit {
  index: number;
  controlFd: number;
  /** Bell eventfds of all loops that there may be, this one's at `index`. */
  bellFds: number[];
  /** Count of messages posted so far, so that a loop woken by the control eventfd knows for how many it has to wait. */
  posted: SharedArrayBuffer;
  /** The grace counters of all loops and helpers: see grace.ts. */
  grace: SharedArrayBuffer;
  /** Where loops count the locks that they take: see spin.ts. */
  locks: SharedArrayBuffer;
  /** Loops that there may be. */
  loops: number;
  /** Calls that helper threads make for the loops. */
  calls: CallsInit;
  /** What `openLoad` of spare.ts returned. */
  load: number;
  pollMaxUs: number;
  /** What keeps idle processors awake, see awake.ts, and how many there are. */
  awake: { fd: number; cpus: number } | null;
  /** Where its counts and its requests in flight are seen: see meter.ts, flight.ts. */
  meter: HostAddr;
  flight: HostAddr;
  placement: Placement;
  /** A word: whether debug lines are wanted. */
  debug: SharedArrayBuffer;
  /** Sets of IORING_SETUP_* to try instead of the usual ones, for tests; none: no io_uring. */
  ringFlags: readonly number[] | undefined;
}

/** A queue to start, its rings' places checked and turned into window offsets. */
export interface QueueStart {
  index: number;
  size: number;
  desc: WindowOffset;
  avail: WindowOffset;
  used: WindowOffset;
  base: number;
  kickFd: number;
  callFd: number;
  errFd: number;
  eventIdx: boolean;
  indirect: boolean;
  /** Where its requests in flight are kept, if they are. */
  inflight: InflightRegion | null;
  /** See Queue. */
  urgent: boolean;
}

/** A device's limit, with the memory that its loops share for it. */
export interface SharedLimit extends Limit {
  shared: SharedArrayBuffer;
}

export type LoopRequest =
  | { op: "init"; init: LoopInit }
  /** Instead of "init": the thread is to be a helper. There is no answer. */
  | { op: "help"; init: HelperInit }
  /** `config` is the service's own, `name` is for the log, `meters` where its queues are counted. */
  | { op: "add-device"; device: number; config: unknown; name: string; meters: HostAddr; limit: SharedLimit }
  /** It is another from now on, for queues that run too. */
  | { op: "limit"; device: number; limit: SharedLimit }
  /** Every queue of the device is stopped, and its memory let go of. The loop uses nothing of the service's from then on. */
  | { op: "remove-device"; device: number }
  /** null: let go of the memory. Every queue of the device is stopped. */
  | { op: "memory"; device: number; layout: MemoryLayout | null }
  | { op: "start-queue"; device: number; queue: QueueStart }
  /** A running queue's call and error eventfds from now on. */
  | { op: "set-call"; device: number; index: number; callFd: number; errFd: number }
  /** Answers with the next available index. `gone`: nobody will see what the requests in flight answer. */
  | { op: "stop-queue"; device: number; index: number; gone: boolean }
  | { op: "reset"; device: number }
  /** Nothing but an answer: the loop turns. */
  | { op: "ping" }
  | { op: "exit" };

/** A request with its number, which the answer repeats. */
export interface Numbered {
  id: number;
  request: LoopRequest;
}

export type LoopAnswer =
  | { id: number; value: number }
  | { id: number; error: string }
  | { log: "error" | "warn" | "info" | "debug"; message: string; about?: About }
  /** Part of a device's guest memory is gone. Its queues on this loop are stopped. */
  | { lost: number }
  /** No helper waits for the next call. */
  | { want: "helper" }
  /** The helper can make calls. */
  | { ready: true }
  /** The loop cannot go on: a fault of our own. */
  | { fatal: string };
