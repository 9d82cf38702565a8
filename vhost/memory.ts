/**
 * The guest memory that a front end shares: the regions of SET_MEM_TABLE, or of ADD_MEM_REG and REM_MEM_REG, and their
 * descriptors. A change takes effect as a whole or not at all.
 */
import { errno, errorText, libc } from "../ffi/libc.ts";
import type { MemoryRegion, VirtioDevice } from "../vq/device.ts";
import { ProtocolError, reasonOf, Refused } from "./errors.ts";
import { describe } from "./payload.ts";
import { MEM_SLOTS_MAX } from "./wire.ts";

export class MemoryTable {
  readonly #device: VirtioDevice;
  #regions: readonly MemoryRegion[] = [];

  constructor(device: VirtioDevice) {
    this.#device = device;
  }

  get regions(): readonly MemoryRegion[] {
    return this.#regions;
  }

  /**
   * SET_MEM_TABLE: these instead of all others. Descriptors are the table's when it has resolved, the caller's when
   * it rejects.
   */
  async replace(regions: readonly MemoryRegion[], queuesRun: boolean): Promise<void> {
    checkTable(regions);
    const before = this.#regions;
    await this.#apply(regions, queuesRun);
    closeAll(before);
  }

  /** ADD_MEM_REG: one more. The descriptor is as with `replace`. */
  async add(region: MemoryRegion, queuesRun: boolean): Promise<void> {
    if (this.#regions.length >= MEM_SLOTS_MAX) throw new ProtocolError(`more than ${MEM_SLOTS_MAX} regions`);
    const next = [...this.#regions, region];
    checkTable(next);
    await this.#apply(next, queuesRun);
  }

  /** REM_MEM_REG: without the one that has these addresses and this size; its offset and descriptor do not count. */
  async remove(region: MemoryRegion, queuesRun: boolean): Promise<void> {
    const found = this.#regions.find((each) =>
      each.guestAddr === region.guestAddr && each.userAddr === region.userAddr && each.size === region.size
    );
    if (found === undefined) throw new Refused(`${describe(region)} is not in the memory table`);
    await this.#apply(this.#regions.filter((each) => each !== found), queuesRun);
    closeAll([found]);
  }

  /** The device was reset and has forgotten its memory, the front end has not: gives it back. */
  async restore(): Promise<void> {
    if (this.#regions.length > 0) await this.#apply(this.#regions, true);
  }

  /** Closes all descriptors. */
  close(): void {
    closeAll(this.#regions);
    this.#regions = [];
  }

  /**
   * Gives the device a table. A device that rejects one has none and runs no queue: then it gets the old one back,
   * but queues that ran have lost their place, and the session cannot go on.
   */
  async #apply(next: readonly MemoryRegion[], queuesRun: boolean): Promise<void> {
    try {
      await this.#device.setMemory(next);
      this.#regions = next;
    } catch (error) {
      const reason = `the memory cannot be used: ${reasonOf(error)}`;
      if (queuesRun) throw new ProtocolError(reason);
      try {
        if (this.#regions.length > 0) await this.#device.setMemory(this.#regions);
      } catch {
        throw new ProtocolError(reason);
      }
      throw new Refused(reason);
    }
  }
}

function closeAll(regions: readonly MemoryRegion[]): void {
  for (const { fd } of regions) libc.close(fd);
}

/** Throws ProtocolError where guest ranges overlap. */
function checkTable(regions: readonly MemoryRegion[]): void {
  const sorted = [...regions].sort((a, b) => a.guestAddr - b.guestAddr);
  for (let i = 1; i < sorted.length; i++) {
    if (sorted[i - 1].guestAddr + sorted[i - 1].size > sorted[i].guestAddr) {
      throw new ProtocolError(`${describe(sorted[i])} overlaps another`);
    }
  }
}

const AT_EMPTY_PATH = 0x1000;
const STATX_TYPE_AND_SIZE = 0x201;
const S_IFMT = 0o170000;
const S_IFREG = 0o100000;
/** struct statx, linux/stat.h. Byte offsets. */
const statx = { stx_mode: 28, stx_size: 40, sizeof: 256 } as const;

/**
 * Throws ProtocolError where a region reaches beyond the end of its file: a touch there would be a SIGBUS. Files
 * without a size of their own, such as DAX devices, are left to mmap(2).
 */
export function checkWithinFile(region: MemoryRegion): void {
  const info = new Uint8Array(statx.sizeof);
  if (libc.statx(region.fd, Uint8Array.of(0), AT_EMPTY_PATH, STATX_TYPE_AND_SIZE, info) < 0) {
    throw new ProtocolError(`${describe(region)} has an unusable descriptor: ${errorText(errno())}`);
  }
  const view = new DataView(info.buffer);
  if ((view.getUint16(statx.stx_mode, true) & S_IFMT) !== S_IFREG) return;
  const size = view.getBigUint64(statx.stx_size, true);
  if (BigInt(region.mmapOffset + region.size) > size) {
    throw new ProtocolError(
      `${describe(region)} from offset 0x${region.mmapOffset.toString(16)} reaches beyond its file of 0x${
        size.toString(16)
      } bytes`,
    );
  }
}
