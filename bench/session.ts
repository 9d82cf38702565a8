/**
 * A guest in one call: connects, negotiates, shares memory, sets up the high-priority queue and request queues, and has a FUSE
 * client on the first of them. For tests and for the benchmark's preparations.
 */
import { type ConnectOptions, Frontend, type NegotiateOptions } from "./frontend.ts";
import type { Virtqueue, VirtqueueOptions } from "./driver.ts";
import { type ClientOptions, FuseClient } from "./fuse_client.ts";
import { GuestMemory, type RegionSpec } from "./guest_memory.ts";

export interface SessionOptions extends ConnectOptions, NegotiateOptions, Omit<ClientOptions, "hiprio"> {
  /** Size in bytes of one region, or all regions. Default 64 MiB, of which only what is touched takes memory. */
  memory?: number | readonly RegionSpec[];
  /** Request queues. Default 1. */
  requestQueues?: number;
  queue?: VirtqueueOptions;
  /** Send INIT, and throw where it fails. Default true. */
  init?: boolean;
  /** FUSE minor version and flags of that INIT. */
  minor?: number;
  initFlags?: bigint;
}

/** What is to be measured is not to be had here: a reason to leave it out, no failure. */
export class NotHereError extends Error {
  override name = "NotHereError";
}

/** The back end serves fewer queues than were asked for. */
export class QueueCountError extends NotHereError {
  override name = "QueueCountError";
}

function checkQueueCount(frontend: Frontend, requestQueues: number): void {
  const most = frontend.hasMultiqueue ? frontend.getQueueNum() - 1 : 1;
  if (requestQueues > most) {
    throw new QueueCountError(`${requestQueues} request queues wanted, ${most} served`);
  }
}

/** A running guest. `queues[0]` is the high-priority queue. */
export class Session {
  private constructor(
    readonly frontend: Frontend,
    readonly memory: GuestMemory,
    readonly queues: readonly Virtqueue[],
    readonly client: FuseClient,
    /** The reply to INIT. */
    readonly initReply: ReturnType<FuseClient["init"]> | undefined,
  ) {}

  /** Opens a session with the back end that listens at `socketPath`. */
  static open(socketPath: string, options: SessionOptions = {}): Session {
    const memory = GuestMemory.create(options.memory ?? 64 << 20);
    const frontend = Frontend.connect(socketPath, options);
    try {
      return Session.#start(frontend, memory, options);
    } catch (error) {
      frontend.close();
      memory.close();
      throw error;
    }
  }

  static #start(frontend: Frontend, memory: GuestMemory, options: SessionOptions): Session {
    const { requestQueues = 1, init = true } = options;
    frontend.negotiate(options);
    if (requestQueues > 1) checkQueueCount(frontend, requestQueues);
    frontend.setMemory(memory);
    const queues: Virtqueue[] = [];
    for (let i = 0; i <= requestQueues; i++) queues.push(frontend.addQueue(memory, i, options.queue));
    const client = new FuseClient(queues[1], { ...options, hiprio: queues[0] });
    const reply = init ? client.init(options.minor, options.initFlags) : undefined;
    if (reply !== undefined && reply.error !== 0) throw new Error(`INIT failed with error ${reply.error}`);
    return new Session(frontend, memory, queues, client, reply);
  }

  /** Hangs up without a word, as a guest does that is switched off. */
  close(): void {
    this.frontend.close();
    this.memory.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }
}
