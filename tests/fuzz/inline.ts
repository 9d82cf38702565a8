/**
 * The file system on a loop in the calling thread, with a driver of its queues: for what has to look into the memory that it reads, or at
 * which of its lines were run (V8 tells that of the main thread only). There are no helpers: what would wait for one is given up.
 */
import assert from "node:assert/strict";
import { Virtqueue } from "../../bench/driver.ts";
import { GuestMemory as Guest } from "../../bench/guest_memory.ts";
import { createEventfd, drain, signal } from "../../ffi/eventfd.ts";
import { installInterrupt } from "../../ffi/interrupt.ts";
import { libc } from "../../ffi/libc.ts";
import { defaultOptions, type FsOptions } from "../../fs/config.ts";
import { FsService } from "../../fs/service.ts";
import { closeShare, openShare } from "../../fs/share.ts";
import { Calls, createCalls } from "../../vq/calls.ts";
import type { GuestAddr } from "../../vq/device.ts";
import { Grace, graceBytes } from "../../vq/grace.ts";
import { silent } from "../../vq/log.ts";
import { Loop } from "../../vq/loop.ts";
import { fromUserAddr, GuestMemory, mapGuestMemory, unmapGuestMemory } from "../../vq/memory.ts";
import { LoopDevice, Queue } from "../../vq/queue.ts";
import { Spare } from "../../vq/spare.ts";
import { SplitQueue } from "../../vq/split.ts";

/** Slots of requests that are looked at for calls that no helper makes. */
const SLOTS = 32;

export interface InlineOptions {
  fs?: Partial<FsOptions>;
  memory?: number;
  queues?: number;
  size?: number;
  eventIdx?: boolean;
  /** What the loop has in place of guest memory, and of each descriptor table. */
  watch?: (memory: GuestMemory) => { view: GuestMemory; table: (desc: SplitQueue["desc"]) => SplitQueue["desc"] };
}

export class Inline {
  readonly guest: Guest;
  readonly memory: GuestMemory;
  readonly drivers: Virtqueue[];
  readonly #window;
  readonly #control = createEventfd();
  readonly #bell = createEventfd();
  readonly #loop: Loop;
  readonly #config;
  readonly #queues: Queue[];

  constructor(dir: string, options: InlineOptions = {}) {
    const { fs = {}, memory = 4 << 20, queues = 1, size = 64, eventIdx = false, watch } = options;
    installInterrupt();
    this.guest = Guest.create(memory);
    this.#window = mapGuestMemory(this.guest.regions);
    this.memory = new GuestMemory(this.#window.layout);
    this.drivers = Array.from({ length: queues }, (_, i) => Virtqueue.create(this.guest, i, { size, eventIdx }));
    this.#config = openShare(dir, { ...defaultOptions, ...fs }, 1, silent);
    const calls = new Calls(createCalls(1), 0, () => {}, this.#bell);
    const grace = new Grace(new SharedArrayBuffer(graceBytes(1, 1)), 0, 1);
    this.#loop = new Loop(0, this.#control, this.#bell, grace, calls, 0, new Spare(1, -1), silent);
    const watched = watch?.(this.memory);
    const device = new LoopDevice(0, watched?.view ?? this.memory);
    device.service = new FsService(this.#config, this.#loop, device, [this.#bell]);
    this.#loop.devices.set(0, device);
    this.#queues = this.drivers.map((driver, i) => {
      const { desc, avail, used, kickFd, callFd } = driver.state;
      const layout = {
        size,
        desc: this.#place(desc, size * 16),
        avail: this.#place(avail, size * 2 + 6),
        used: this.#place(used, size * 8 + 6),
        base: 0,
        eventIdx,
      };
      const ring = new SplitQueue(this.memory, layout);
      if (watched) (ring as { desc: SplitQueue["desc"] }).desc = watched.table(ring.desc);
      const queue = new Queue(device, i, 0, ring, kickFd, callFd, -1, true);
      this.#loop.add(queue);
      return queue;
    });
  }

  #place(addr: GuestAddr, bytes: number) {
    const offset = fromUserAddr(this.#window.layout, this.guest.userAddr(addr), bytes);
    assert.ok(offset >= 0);
    return offset as Exclude<typeof offset, -1>;
  }

  /** Where a guest address lies in the window. */
  at(addr: GuestAddr): number {
    return this.memory.translate(addr, 1);
  }

  /** Has the loop take what is on the queues, and what the kernel has finished. */
  turn(): void {
    signal(this.#control);
    this.#loop.run();
    drain(this.#control);
    for (let slot = 0; slot < SLOTS; slot++) this.#loop.cancelCall(slot);
  }

  close(): void {
    for (const queue of this.#queues) this.#loop.remove(queue, true);
    this.#loop.close();
    this.memory.detach();
    unmapGuestMemory(this.#window);
    for (const driver of this.drivers) driver.close();
    this.guest.close();
    closeShare(this.#config);
    libc.close(this.#control);
    libc.close(this.#bell);
  }
}
