/**
 * What helpers must know of the devices whose requests they serve: configuration and memory layout of each, as text in shared memory
 * that the control plane writes. A helper blocks in system calls and gets no messages; it compares a generation before each request,
 * and reads anew where that is another. A record changes only while none of the device's queues runs, so that no helper has one of
 * its requests then.
 */
import { allocate, type HostAddr, type Mapping, unmap, viewAt } from "../ffi/memory.ts";
import type { MemoryLayout } from "./memory.ts";

/** Devices that a process may have. */
export const DEVICES = 1024;
const WORDS = 4;
const BYTES = DEVICES * WORDS * 4;

// Words of a device: raised at each change; bytes of the text, 0: none; its address.
const GENERATION = 0;
const LENGTH = 1;
const ADDR_LO = 2;
const ADDR_HI = 3;
const TWO32 = 2 ** 32;

export interface DeviceRecord {
  /** Another for each device that ever was: numbers are given again. */
  serial: number;
  /** The service's own. */
  config: unknown;
  memory: MemoryLayout;
  /** What the log calls it. */
  name?: string;
}

export class Directory {
  readonly #words: Int32Array<ArrayBuffer>;
  readonly #texts = new Map<number, Mapping>();
  readonly #taken = new Set<number>();

  /** A new one; or, with an address, another thread's view of it. */
  constructor(readonly addr: HostAddr = allocate(BYTES).addr) {
    this.#words = new Int32Array(viewAt(addr, BYTES));
  }

  /** A number for a device, the least that none has. Throws an Error where there are as many as there may be. */
  take(): number {
    let device = 0;
    while (this.#taken.has(device)) device++;
    if (device >= DEVICES) throw new Error(`there are ${DEVICES} devices, and may be no more in one process`);
    this.#taken.add(device);
    return device;
  }

  /** The device is off every loop: another may have its number. */
  give(device: number): void {
    this.#taken.delete(device);
  }

  /** Sets a device's record; null: it has none (any more). For one thread, while no request of the device is in flight. */
  publish(device: number, record: DeviceRecord | null): void {
    if (device >= DEVICES) throw new Error(`device ${device}: there may be ${DEVICES}`);
    const w = this.#words;
    const at = device * WORDS;
    const old = this.#texts.get(device);
    this.#texts.delete(device);
    w[at + LENGTH] = 0;
    if (record !== null) {
      const text = new TextEncoder().encode(JSON.stringify(record));
      const mapping = allocate(text.length);
      new Uint8Array(mapping.buffer).set(text);
      this.#texts.set(device, mapping);
      w[at + LENGTH] = text.length;
      w[at + ADDR_LO] = mapping.addr >>> 0;
      w[at + ADDR_HI] = Math.floor(mapping.addr / TWO32);
    }
    Atomics.add(w, at + GENERATION, 1);
    if (old) unmap(old);
  }

  generation(device: number): number {
    return Atomics.load(this.#words, device * WORDS + GENERATION);
  }

  /** A device's record. Throws where it has none. */
  read(device: number): DeviceRecord {
    const w = this.#words;
    const at = device * WORDS;
    if (w[at + LENGTH] === 0) throw new Error(`device ${device} has no guest memory`);
    const addr = ((w[at + ADDR_LO] >>> 0) + w[at + ADDR_HI] * TWO32) as HostAddr;
    const text = new Uint8Array(viewAt(addr, w[at + LENGTH])).slice();
    return JSON.parse(new TextDecoder().decode(text)) as DeviceRecord;
  }
}
