/** A loop's life inside its Worker: it runs, comes out when messages wait, does what they say, and runs again. */
import { allowedCpus } from "../ffi/affinity.ts";
import { nowMs } from "../ffi/clock.ts";
import { drain } from "../ffi/eventfd.ts";
import { threadId } from "../ffi/interrupt.ts";
import { Awake } from "./awake.ts";
import { Calls } from "./calls.ts";
import { help } from "./helper.ts";
import { Grace } from "./grace.ts";
import { Flight } from "./flight.ts";
import { TrackedQueue } from "./inflight.ts";
import { Limiter } from "./limiter.ts";
import { type About, type Log, logAbout } from "./log.ts";
import { Loop } from "./loop.ts";
import { GuestMemory, type MemoryLayout } from "./memory.ts";
import { AWAKE_MS, AWAY, loopMeter, STARTED_MS, THREAD } from "./meter.ts";
import type { LoopAnswer, LoopInit, LoopRequest, Numbered, QueueStart, SharedLimit } from "./messages.ts";
import { placeThread, placeWorkers } from "./placement.ts";
import { LoopDevice, type MakeService, Queue } from "./queue.ts";
import { Requests } from "./requests.ts";
import { Spare } from "./spare.ts";
import { countLocksIn, locksHeld } from "./spin.ts";
import { SplitQueue } from "./split.ts";

/** The part of a Worker's global scope that is used, so that a test can stand in for it. */
export interface LoopScope {
  postMessage(message: LoopAnswer): void;
  onmessage: ((event: MessageEvent<Numbered>) => void) | null;
  close(): void;
}

/** Faults of our own within this time, after which a loop does not begin anew once more. */
const FAULTS_MAX = 5;
const FAULTS_MS = 60_000;

const noMemory: MemoryLayout = { addr: 0 as MemoryLayout["addr"], size: 0, regions: [] };

/** Lines that a thread says in a second at most: each is a message, and a guest that causes them must not fill the memory. */
const LINES_MAX = 100;

/** A log whose lines the control plane writes. */
export function logTo(scope: { postMessage(message: LoopAnswer): void }, wanted: SharedArrayBuffer): Log {
  const debug = new Int32Array(wanted);
  let since = 0;
  let lines = 0;
  const say = (log: "error" | "warn" | "info" | "debug") => (message: string, about?: About) => {
    if (log === "debug" && Atomics.load(debug, 0) === 0) return;
    const now = nowMs();
    if (now - since >= 1000) {
      const left = lines - LINES_MAX;
      if (left > 0) scope.postMessage({ log: "warn", message: `${left} lines of this thread's log were left out` });
      since = now;
      lines = 0;
    }
    if (lines++ < LINES_MAX) scope.postMessage({ log, message, ...(about === undefined ? {} : { about }) });
  };
  return { error: say("error"), warn: say("warn"), info: say("info"), debug: say("debug") };
}

/** A log whose lines say which queue is meant. */
function withQueue(log: Log, index: number): Log {
  const say = (level: keyof Log) => (message: string) => log[level](`queue ${index}: ${message}`, { queue: index });
  return { error: say("error"), warn: say("warn"), info: say("info"), debug: say("debug") };
}

/** Serves as a loop until an "exit" message. Resolves then. Or as a helper, if that is the first message. */
export async function runLoop(scope: LoopScope, makeService: MakeService): Promise<void> {
  const inbox: Numbered[] = [];
  let wake = () => {};
  scope.onmessage = (event) => {
    inbox.push(event.data);
    wake();
  };
  const next = async (): Promise<Numbered> => {
    while (inbox.length === 0) await new Promise<void>((resolve) => wake = resolve);
    return inbox.shift()!;
  };
  const first = await next();
  if (first.request.op === "help") {
    const { init } = first.request;
    help(init, makeService, logTo(scope, init.debug), scope);
  }
  if (first.request.op !== "init") throw new Error("a loop starts with an init message");
  let member: Member | null = null;
  try {
    member = new Member(scope, first.request.init, makeService);
    await serve(scope, member, first, next);
  } catch (error) {
    scope.postMessage({ fatal: (error as Error).stack ?? String(error) });
    member?.loop.close();
  }
}

async function serve(scope: LoopScope, member: Member, first: Numbered, next: () => Promise<Numbered>): Promise<void> {
  const { init } = member;
  const posted = new Int32Array(init.posted);
  scope.postMessage({ id: first.id, value: 0 });
  for (let handled = 1;;) {
    drain(init.controlFd);
    for (const target = Atomics.load(posted, 0); handled !== target; handled = (handled + 1) | 0) {
      const { id, request } = await next();
      scope.postMessage(member.answer(id, request));
      if (request.op === "exit") {
        member.loop.close();
        return scope.close();
      }
    }
    try {
      member.loop.run();
    } catch (fault) {
      member.restart(fault);
    }
  }
}

/** A loop and what the control plane may ask of it. */
class Member {
  loop: Loop;
  readonly #log: Log;
  readonly #meter: Float64Array<ArrayBuffer>;
  /** What each device's service is made from. */
  readonly #configs = new Map<number, unknown>();
  /** When this thread met faults of our own, in ms. */
  #faults: number[] = [];

  constructor(readonly scope: LoopScope, readonly init: LoopInit, readonly makeService: MakeService) {
    const { index, bellFds, loops, locks, placement } = init;
    placeThread(placement);
    countLocksIn(locks, index);
    this.#log = logAbout(logTo(scope, init.debug), { loop: index });
    this.#meter = loopMeter(init.meter);
    this.#meter[STARTED_MS] = nowMs();
    this.#meter[THREAD] = threadId();
    const calls = new Calls(init.calls, index, () => scope.postMessage({ want: "helper" }), bellFds[index]);
    calls.counts = this.#meter;
    calls.countAt = AWAY;
    const flight = new Flight(init.flight);
    // What a loop left that ended.
    flight.since.fill(0);
    flight.waits.fill(0);
    this.loop = this.#makeLoop(calls, new Grace(init.grace, index, loops), new Requests(flight));
    this.#log.debug(`loop ${index} is thread ${threadId()}`);
  }

  #makeLoop(calls: Calls, grace: Grace, requests: Requests): Loop {
    const { index, controlFd, bellFds, pollMaxUs, placement, ringFlags, awake } = this.init;
    const cpus = (placement.workers ?? allowedCpus()).length;
    const spare = new Spare(cpus, this.init.load);
    const log = this.#log;
    const loop = new Loop(
      index,
      controlFd,
      bellFds[index],
      grace,
      calls,
      pollMaxUs,
      spare,
      log,
      ringFlags,
      requests,
      this.#meter,
      awake === null ? null : new Awake(awake.fd, awake.cpus, this.#meter, AWAKE_MS),
    );
    loop.onLost = ({ id }) => this.scope.postMessage({ lost: id });
    placeWorkers(loop.ring, placement, log);
    return loop;
  }

  /**
   * After a fault of our own: requests in flight are answered with an error, and the queues go on on a loop with a new ring and with
   * services made anew. The thread stays, so that what the control plane has asked meanwhile is answered in its order. Throws where that
   * cannot be, or happens again and again.
   */
  restart(fault: unknown): void {
    const now = performance.now();
    this.#faults = this.#faults.filter((at) => now - at < FAULTS_MS);
    // A table that is half changed can be the end of more than this loop; and its lock is never let go of.
    if (locksHeld() > 0 || this.#faults.push(now) > FAULTS_MAX) throw fault;
    const reason = (fault as Error).stack ?? fault;
    const old = this.loop;
    let given: number;
    try {
      given = old.abandon();
    } catch (cause) {
      throw new Error(`${(cause as Error).message}; after: ${reason}`, { cause });
    }
    this.loop = this.#makeLoop(old.calls, old.grace, old.requests);
    for (const device of old.devices.values()) {
      this.#serve(device);
      const queues = [...device.queues.values()];
      device.queues.clear();
      for (const { index, ring, kickFd, callFd, errFd, indirect, urgent } of queues) {
        const queue = new Queue(device, index, 0, ring, kickFd, callFd, errFd, indirect, urgent);
        device.limiter?.join(queue);
        this.loop.add(queue);
      }
    }
    this.#log.error(
      `loop ${this.init.index} met a fault of ringfsd's own, please report it; it has answered the ${given} request(s) that it had with ` +
        `an error, and goes on: ${reason}`,
    );
  }

  answer(id: number, request: LoopRequest): LoopAnswer {
    try {
      return { id, value: this.#do(request) };
    } catch (error) {
      // Not the message's fault: a service failed while a queue was being drained.
      if (this.loop.grace.inside) {
        this.restart(error);
        return this.answer(id, request);
      }
      return { id, error: (error as Error).message };
    }
  }

  #do(request: LoopRequest): number {
    if (request.op === "init" || request.op === "help") throw new Error("a thread starts once");
    if (request.op === "exit" || request.op === "ping") return 0;
    if (request.op === "add-device") return this.#addDevice(request);
    const device = this.loop.devices.get(request.device);
    if (!device) throw new Error(`loop ${this.init.index} does not serve device ${request.device}`);
    switch (request.op) {
      case "remove-device":
        this.#checkStopped(device);
        device.memory.detach();
        this.loop.devices.delete(device.id);
        this.#configs.delete(device.id);
        return 0;
      case "memory":
        this.#checkStopped(device);
        device.memory.detach();
        device.memory = new GuestMemory(request.layout ?? noMemory);
        return 0;
      case "start-queue":
        if (device.queues.has(request.queue.index)) throw new Error(`queue ${request.queue.index} runs already`);
        this.loop.add(this.#queue(device, request.queue));
        return 0;
      case "limit":
        limit(device, request.limit);
        return 0;
      case "set-call": {
        const queue = device.queues.get(request.index);
        if (!queue) throw new Error(`queue ${request.index} does not run`);
        queue.callFd = request.callFd;
        queue.errFd = request.errFd;
        return 0;
      }
      case "stop-queue": {
        const queue = device.queues.get(request.index);
        if (!queue) throw new Error(`queue ${request.index} does not run`);
        return this.loop.remove(queue, request.gone);
      }
      case "reset":
        device.service.reset();
        return 0;
    }
  }

  /** What the control plane unmaps nobody may use. */
  #checkStopped(device: LoopDevice): void {
    if (device.queues.size > 0) throw new Error(`device ${device.id} has queues that run on loop ${this.init.index}`);
  }

  #addDevice(request: Extract<LoopRequest, { op: "add-device" }>): number {
    const { device: id, config, name, meters, limit: its } = request;
    const device = new LoopDevice(id, new GuestMemory(noMemory), meters);
    device.log = logAbout(this.#log, { share: name });
    this.#configs.set(id, config);
    this.#serve(device);
    limit(device, its);
    return 0;
  }

  /** Gives the loop a device, with a new service. */
  #serve(device: LoopDevice): void {
    device.service = this.makeService(this.#configs.get(device.id), this.loop, device, this.init.bellFds);
    this.loop.devices.set(device.id, device);
  }

  #queue(device: LoopDevice, start: QueueStart): Queue {
    const { index, kickFd, callFd, errFd, indirect, urgent, inflight } = start;
    const ring = inflight === null
      ? new SplitQueue(device.memory, start)
      : new TrackedQueue(device.memory, start, inflight, withQueue(device.log ?? this.#log, index));
    const queue = new Queue(device, index, 0, ring, kickFd, callFd, errFd, indirect, urgent);
    device.limiter?.join(queue);
    return queue;
  }
}

/** Gives a device a limit, or none. Queues that wait go on when the new one lets them. */
function limit(device: LoopDevice, { shared, iops, mbps }: SharedLimit): void {
  device.limiter = iops === 0 && mbps === 0 ? null : new Limiter(shared, { iops, mbps });
  for (const queue of device.queues.values()) device.limiter?.join(queue);
}
