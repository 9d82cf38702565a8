/** The control plane of one device over the loops that serve its queues. vhost/ calls it; what the service does is not known here. */
import { type HostAddr, map, MAP_SHARED, type Mapping, PROT_READ, PROT_WRITE, unmap, unmapAt } from "../ffi/memory.ts";
import type { InflightArea, MemoryRegion, QueueSetup, VirtioDevice } from "./device.ts";
import { type InflightRegion, regionBytes } from "./inflight.ts";
import { type Limit, LIMITER_BYTES, UNLIMITED } from "./limiter.ts";
import { fromUserAddr, type GuestWindow, mapGuestMemory, unmapGuestMemory } from "./memory.ts";
import type { QueueStart, SharedLimit } from "./messages.ts";
import { allocateQueueMeters, type QueueCounts, readQueueMeters } from "./meter.ts";
import type { LoopHandle, LoopPool } from "./pool.ts";
import { availRingBytes, descTableBytes, layoutFault, usedRingBytes } from "./split.ts";

export interface DeviceOptions {
  /** Unique among the devices of the process. */
  id: number;
  /** What the log calls it. */
  name?: string;
  pool: LoopPool;
  queueCount: number;
  features: bigint;
  config: Uint8Array;
  /** What the service is made from on each loop; plain data. */
  service: unknown;
  /** Which loop serves a queue, counted from the one that has the fewest queues when the device's first is started. */
  loopOf: (queue: number) => number;
  /** Helper threads that its requests will probably need, to be started beforehand. */
  helpers?: number;
  /** Queues that a limit does not hold up, as long as little comes there that wants an answer. */
  urgent?: (queue: number) => boolean;
  /** What it may do in a second, all queues together. */
  limit?: Limit;
}

/** Devices that ever were. */
let devices = 0;

export class DeviceControl implements VirtioDevice {
  readonly queueCount: number;
  readonly features: bigint;
  readonly config: Uint8Array;
  onLost: (() => void) | null = null;
  readonly #options: DeviceOptions;
  readonly #serial = devices++;
  /** Loops that know the device. */
  readonly #loops = new Set<LoopHandle>();
  /** Queues that run, with what they were started with. */
  readonly #running = new Map<number, QueueSetup>();
  #window: GuestWindow | null = null;
  /** Where requests in flight are kept, if they are. */
  #inflight: { mapping: Mapping; area: InflightArea } | null = null;
  /** The loop from which the device's are counted; -1: none of its queues has run since the last reset. */
  #first = -1;
  #limit: SharedLimit;
  /** Where its queues are counted, by whichever loop serves them. */
  readonly #meters: ReturnType<typeof allocateQueueMeters>;
  #closed = false;

  constructor(options: DeviceOptions) {
    this.#options = options;
    this.#limit = { shared: new SharedArrayBuffer(LIMITER_BYTES), ...(options.limit ?? UNLIMITED) };
    this.queueCount = options.queueCount;
    this.features = options.features;
    this.config = options.config;
    options.pool.lost.set(options.id, () => this.onLost?.());
    this.#meters = allocateQueueMeters(options.queueCount);
  }

  /** What was counted of each queue since the device is there: over all front ends that it had. None once it is closed. */
  get counts(): QueueCounts[] {
    return this.#closed ? [] : readQueueMeters(this.#meters.addr, this.queueCount);
  }

  /** Starts the first loop and makes the device known to it, so that the first front end does not wait for a thread to start. */
  async prepare(): Promise<void> {
    this.#options.pool.startHelpers(this.#options.helpers ?? 0);
    await this.#join(0);
  }

  async setMemory(regions: readonly MemoryRegion[]): Promise<void> {
    const running = await this.#stopAll();
    await this.#dropMemory();
    this.#window = mapGuestMemory(regions);
    const { id, pool, service, name = `device ${id}` } = this.#options;
    const record = { serial: this.#serial, config: service, memory: this.#window.layout, name };
    pool.directory.publish(id, record);
    for (const loop of this.#loops) await this.#giveMemory(loop);
    for (const [index, setup] of running) await this.startQueue(index, setup);
  }

  async setInflight(area: InflightArea | null): Promise<void> {
    const running = await this.#stopAll();
    this.#dropInflight();
    if (area !== null) {
      const size = area.queues * regionBytes(area.queueSize);
      this.#inflight = { mapping: map(size, PROT_READ | PROT_WRITE, MAP_SHARED, area.fd, area.offset), area };
    }
    for (const [index, setup] of running) await this.startQueue(index, setup);
  }

  /** Stops every queue that runs. Resolves with what each is to be started with. */
  async #stopAll(): Promise<[number, QueueSetup][]> {
    const running = [...this.#running];
    // All at once: what one queue's requests wait for may be another's to give.
    await Promise.all(running.map(async ([index, setup]) => setup.base = await this.stopQueue(index)));
    return running;
  }

  /** Unmaps the area. No queue runs. */
  #dropInflight(): void {
    if (this.#inflight) unmap(this.#inflight.mapping);
    this.#inflight = null;
  }

  async startQueue(index: number, setup: QueueSetup): Promise<void> {
    const { pool, id } = this.#options;
    const queue = this.#place(index, setup);
    // Devices spread over the loops as they are used, and the queues of one keep their order.
    if (this.#first < 0) this.#first = pool.lightest;
    const loop = this.#loopOf(index);
    pool.countQueue(loop, 1);
    try {
      await this.#join(index);
      await loop.ask({ op: "start-queue", device: id, queue });
    } catch (error) {
      pool.countQueue(loop, -1);
      throw error;
    }
    this.#running.set(index, { ...setup });
  }

  async setCall(index: number, callFd: number, errFd: number): Promise<void> {
    const setup = this.#running.get(index);
    if (!setup) throw new Error(`queue ${index} does not run`);
    await this.#loopOf(index).ask({ op: "set-call", device: this.#options.id, index, callFd, errFd });
    setup.callFd = callFd;
    setup.errFd = errFd;
  }

  stopQueue(index: number): Promise<number> {
    return this.#stop(index, false);
  }

  async #stop(index: number, gone: boolean): Promise<number> {
    const loop = this.#loopOf(index);
    if (this.#running.delete(index)) this.#options.pool.countQueue(loop, -1);
    return await loop.ask({ op: "stop-queue", device: this.#options.id, index, gone });
  }

  async reset(finish = false): Promise<void> {
    // All at once: what one queue's requests wait for may be another's to give.
    await Promise.all([...this.#running.keys()].map((index) => this.#stop(index, !finish)));
    await this.#dropMemory();
    this.#dropInflight();
    // The service's state is shared by the loops: one clears it, and the others learn of it by the session's epoch.
    const [loop] = this.#loops;
    await loop?.ask({ op: "reset", device: this.#options.id });
    this.#first = -1;
    const { options, locks } = this.#options.pool;
    options.log.debug(`locks taken: ${locks.taken}, of which others held ${locks.contended}`);
  }

  /** Stops every queue when its requests in flight are done, or given up after a while; no more are taken. Before `close`. */
  async drain(): Promise<void> {
    await Promise.all([...this.#running.keys()].map((index) => this.#stop(index, false)));
  }

  /** Takes the device off every loop: no loop uses what its service was made from any more. Nothing may be asked of it afterwards. */
  async close(): Promise<void> {
    await this.reset();
    for (const loop of this.#loops) await loop.ask({ op: "remove-device", device: this.#options.id });
    this.#loops.clear();
    this.#options.pool.directory.publish(this.#options.id, null);
    this.#options.pool.lost.delete(this.#options.id);
    if (!this.#closed) unmapAt(this.#meters.addr, this.#meters.size);
    this.#closed = true;
  }

  get limit(): Limit {
    const { iops, mbps } = this.#limit;
    return { iops, mbps };
  }

  /** Sets what the device may do in a second, at any time. Resolves when all its loops keep to it. */
  async setLimit(limit: Limit): Promise<void> {
    this.#limit = { shared: this.#limit.shared, ...limit };
    const request = { op: "limit", device: this.#options.id, limit: this.#limit } as const;
    await Promise.all([...this.#loops].map((loop) => loop.ask(request)));
  }

  #loopOf(index: number): LoopHandle {
    return this.#options.pool.loop(Math.max(0, this.#first) + this.#options.loopOf(index));
  }

  /** The loop of a queue, which knows the device and its memory then. */
  async #join(index: number): Promise<LoopHandle> {
    const loop = this.#loopOf(index);
    if (!this.#loops.has(loop)) {
      const { id: device, service: config, name = `device ${device}` } = this.#options;
      const limit = this.#limit;
      await loop.ask({ op: "add-device", device, config, name, meters: this.#meters.addr, limit });
      this.#loops.add(loop);
      // It may have been set meanwhile.
      if (limit !== this.#limit) await loop.ask({ op: "limit", device, limit: this.#limit });
      if (this.#window) await this.#giveMemory(loop);
    }
    return loop;
  }

  async #giveMemory(loop: LoopHandle): Promise<void> {
    await loop.ask({ op: "memory", device: this.#options.id, layout: this.#window!.layout });
  }

  /** Unmaps guest memory after every loop has let go of it. No queue runs. */
  async #dropMemory(): Promise<void> {
    if (!this.#window) return;
    for (const loop of this.#loops) await loop.ask({ op: "memory", device: this.#options.id, layout: null });
    // No queue runs, so no helper has a request of the device.
    this.#options.pool.directory.publish(this.#options.id, null);
    unmapGuestMemory(this.#window);
    this.#window = null;
  }

  /** Turns the front end's ring addresses into places in guest memory. Throws where a ring is not within one region. */
  #place(index: number, setup: QueueSetup): QueueStart {
    const layout = this.#window?.layout;
    if (!layout) throw new Error(`queue ${index} was started before there was guest memory`);
    const { size } = setup;
    const start = {
      ...setup,
      index,
      urgent: this.#options.urgent?.(index) ?? false,
      desc: fromUserAddr(layout, setup.desc, descTableBytes(size)),
      avail: fromUserAddr(layout, setup.avail, availRingBytes(size)),
      used: fromUserAddr(layout, setup.used, usedRingBytes(size)),
      inflight: this.#inflightOf(index, size),
    };
    const { desc, avail, used } = start;
    if (desc < 0) throw new Error(`queue ${index}: the descriptor table is not within guest memory`);
    if (avail < 0) throw new Error(`queue ${index}: the available ring is not within guest memory`);
    if (used < 0) throw new Error(`queue ${index}: the used ring is not within guest memory`);
    const fault = layoutFault(start as QueueStart);
    if (fault) throw new Error(`queue ${index}: ${fault}`);
    return start as QueueStart;
  }

  /** A queue's part of the area, if there is one with room for the queue. Without it is served as well, and the log says so. */
  #inflightOf(index: number, size: number): InflightRegion | null {
    if (this.#inflight === null) return null;
    const { mapping, area } = this.#inflight;
    const { queues, queueSize } = area;
    if (index >= queues || size > queueSize) {
      const room = `the in-flight area has room for ${queues} queues of ${queueSize}`;
      this.#options.pool.options.log.warn(
        `queue ${index} of ${size} descriptors: ${room}; its requests are not kept there`,
      );
      return null;
    }
    const bytes = regionBytes(queueSize);
    return { addr: mapping.addr + index * bytes as HostAddr, size: bytes };
  }
}
