/** A loop's life inside its Worker: it runs, comes out when messages wait, does what they say, and runs again. */
import { allowedCpus } from "../ffi/affinity.ts";
import { nowMs } from "../ffi/clock.ts";
import { drain } from "../ffi/eventfd.ts";
import { threadId } from "../ffi/interrupt.ts";
import { Calls } from "./calls.ts";
import { help } from "./helper.ts";
import { Grace } from "./grace.ts";
import { Flight } from "./flight.ts";
import { Limiter } from "./limiter.ts";
import { type About, type Log, logAbout } from "./log.ts";
import { Loop } from "./loop.ts";
import { GuestMemory, type MemoryLayout } from "./memory.ts";
import { AWAY, loopMeter, STARTED_MS, THREAD } from "./meter.ts";
import type { LoopAnswer, LoopInit, LoopRequest, Numbered, QueueStart, SharedLimit } from "./messages.ts";
import { placeThread, placeWorkers } from "./placement.ts";
import { LoopDevice, type MakeService, Queue } from "./queue.ts";
import { Requests } from "./requests.ts";
import { Spare } from "./spare.ts";
import { countLocksIn } from "./spin.ts";
import { SplitQueue } from "./split.ts";

/** The part of a Worker's global scope that is used, so that a test can stand in for it. */
export interface LoopScope {
  postMessage(message: LoopAnswer): void;
  onmessage: ((event: MessageEvent<Numbered>) => void) | null;
  close(): void;
}

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
  try {
    await serve(scope, new Member(scope, first.request.init, makeService), first, next);
  } catch (error) {
    scope.postMessage({ fatal: (error as Error).stack ?? String(error) });
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
    member.loop.run();
  }
}

/** A loop and what the control plane may ask of it. */
class Member {
  readonly loop: Loop;

  constructor(scope: LoopScope, readonly init: LoopInit, readonly makeService: MakeService) {
    const { index, controlFd, bellFds, loops, locks, pollMaxUs, placement, ringFlags } = init;
    placeThread(placement);
    countLocksIn(locks, index);
    const log = logAbout(logTo(scope, init.debug), { loop: index });
    const cpus = (placement.workers ?? allowedCpus()).length;
    const calls = new Calls(init.calls, index, () => scope.postMessage({ want: "helper" }), bellFds[index]);
    const meter = loopMeter(init.meter);
    meter[STARTED_MS] = nowMs();
    meter[THREAD] = threadId();
    calls.counts = meter;
    calls.countAt = AWAY;
    const flight = new Flight(init.flight);
    // What a loop left that ended.
    flight.since.fill(0);
    flight.waits.fill(0);
    const grace = new Grace(init.grace, index, loops);
    this.loop = new Loop(
      index,
      controlFd,
      bellFds[index],
      grace,
      calls,
      pollMaxUs,
      new Spare(cpus, init.load),
      log,
      ringFlags,
      new Requests(flight),
      meter,
    );
    placeWorkers(this.loop.ring, placement, log);
    log.debug(`loop ${index} is thread ${threadId()}`);
  }

  answer(id: number, request: LoopRequest): LoopAnswer {
    try {
      return { id, value: this.#do(request) };
    } catch (error) {
      // Not the message's fault: a service failed while a queue was being drained.
      if (this.loop.grace.inside) throw error;
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
    device.log = logAbout(this.loop.log, { share: name });
    device.service = this.makeService(config, this.loop, device, this.init.bellFds);
    limit(device, its);
    this.loop.devices.set(id, device);
    return 0;
  }

  #queue(device: LoopDevice, start: QueueStart): Queue {
    const ring = new SplitQueue(device.memory, start);
    const { index, kickFd, callFd, errFd, indirect, urgent } = start;
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
