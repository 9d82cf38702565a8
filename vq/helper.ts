/** A helper's life inside its Worker: it serves requests that a loop handed over, by services of its own, and makes system calls. */
import { EIO } from "../ffi/errno.ts";
import { signal } from "../ffi/eventfd.ts";
import type { HostAddr } from "../ffi/memory.ts";
import { type CallsInit, type HelperWork, runHelper } from "./calls.ts";
import { Directory } from "./directory.ts";
import { Grace } from "./grace.ts";
import { type Log, logAbout } from "./log.ts";
import { GuestMemory } from "./memory.ts";
import { type Host, LoopDevice, type MakeService } from "./queue.ts";
import { Chains, Requests } from "./requests.ts";

/** How a helper starts. */
export interface HelperInit {
  /** Among the helpers. */
  index: number;
  loops: number;
  calls: CallsInit;
  bellFds: number[];
  /** The grace counters of all loops and helpers: see grace.ts. */
  grace: SharedArrayBuffer;
  /** Where the directory of devices lies. */
  devices: HostAddr;
  /** See LoopInit. */
  debug: SharedArrayBuffer;
}

/** The slot of the one request that a helper has. */
const SLOT = 0;

interface Known {
  generation: number;
  serial: number;
  device: LoopDevice;
}

class Helper implements Host, HelperWork {
  readonly requests = new Requests();
  readonly grace: Grace;
  readonly index: number;
  readonly isHelper = true;
  inLocks = false;
  readonly #directory: Directory;
  readonly #known = new Map<number, Known>();
  readonly #chains = new Map<HostAddr, Chains>();
  #faults = 0;
  readonly #ring: (loop: number) => void;

  constructor(readonly init: HelperInit, readonly makeService: MakeService, readonly log: Log) {
    this.index = init.loops + init.index;
    this.grace = new Grace(init.grace, this.index, init.loops);
    this.#directory = new Directory(init.devices);
    this.#ring = (loop) => void signal(init.bellFds[loop]);
  }

  serve(id: number, chains: HostAddr, slot: number, inLocks: boolean): number {
    this.inLocks = inLocks;
    try {
      const device = this.#device(id);
      let from = this.#chains.get(chains);
      if (!from) this.#chains.set(chains, from = new Chains(chains));
      this.requests.copyChain(from, slot, SLOT);
      this.grace.enter();
      const written = device.service.handle(SLOT);
      from.error[slot] = this.requests.error[SLOT];
      this.requests.error[SLOT] = 0;
      return written < 0 ? -EIO : written;
    } finally {
      // The service may have left the batch before it waited for something.
      if (this.grace.inside) this.grace.leave();
      // Here and not when it is idle: a close may wait, and the request is known to keep a helper.
      if (this.grace.waiting) this.grace.settle();
      this.grace.sleepers(this.#ring);
    }
  }

  fault(error: unknown): void {
    this.#faults++;
    // Powers of two: a guest that knows how to cause it cannot flood the log.
    if ((this.#faults & (this.#faults - 1)) !== 0) return;
    const reason = (error as Error).stack ?? error;
    this.log.error(`a helper met a fault of ringfsd's own (${this.#faults} so far), please report it: ${reason}`);
  }

  idle(): boolean {
    this.grace.collect();
    return this.grace.waiting;
  }

  #device(id: number): LoopDevice {
    const generation = this.#directory.generation(id);
    const known = this.#known.get(id);
    if (known?.generation === generation) return known.device;
    const { serial, config, memory, name } = this.#directory.read(id);
    const same = known?.serial === serial;
    const device = same ? known.device : new LoopDevice(id, new GuestMemory(memory));
    // What the old views pointed to may be unmapped: they are dropped, and not touched.
    device.memory = new GuestMemory(memory);
    device.log ??= logAbout(this.log, { share: name ?? `device ${id}` });
    if (!same) device.service = this.makeService(config, this, device, this.init.bellFds);
    this.#known.set(id, { generation, serial, device });
    return device;
  }
}

/** Turns the calling Worker into a helper, and tells the control plane when it is one. */
export function help(
  init: HelperInit,
  makeService: MakeService,
  log: Log,
  scope: { postMessage(message: { ready: true }): void },
): never {
  const helper = new Helper(init, makeService, log);
  scope.postMessage({ ready: true });
  runHelper(init.calls, init.bellFds, helper);
}
