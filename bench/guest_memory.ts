/**
 * The guest's memory, as a front end owns it: memfds mapped here, handed to the back end region by region. Addresses that
 * tests and driver pass around are guest addresses; only this module turns them into bytes.
 */
import { checked, cString, libc } from "../ffi/libc.ts";
import { type HostAddr, map, MAP_SHARED, type Mapping, PROT_READ, PROT_WRITE, unmap, viewAt } from "../ffi/memory.ts";
import type { GuestAddr, MemoryRegion, UserAddr } from "../vq/device.ts";

const MFD_CLOEXEC = 1;

/** Where guest memory starts unless a caller says otherwise: not 0, so that an address mistaken for an offset shows. */
export const DEFAULT_GUEST_ADDR = 0x10_0000;

/** A region to be made. Sizes and offsets in bytes. */
export interface RegionSpec {
  guestAddr: number;
  size: number;
  /** The address that the back end is told as the front end's own. Default: where the region is mapped here. */
  userAddr?: number;
  /** Where the region begins in its memfd, a multiple of the page size. Default 0. */
  mmapOffset?: number;
}

/** One region with what is needed to reach it from any isolate of this process; it survives structured clone. */
export interface SharedRegion extends MemoryRegion {
  hostAddr: HostAddr;
}

interface Region extends SharedRegion {
  /** This isolate's view. */
  buffer: ArrayBuffer;
  /** First byte that `allocate` has not given away, counted from the region's start. */
  next: number;
  /** Where it must stop. */
  limit: number;
}

/** Guest memory of one or several regions, and a bump allocator on it. */
export class GuestMemory {
  readonly regions: readonly Region[];
  readonly #mappings: readonly Mapping[];

  private constructor(regions: readonly Region[], mappings: readonly Mapping[]) {
    this.regions = regions;
    this.#mappings = mappings;
  }

  /** Makes zeroed memory: one region of `spec` bytes, or the regions listed. Throws SystemError. */
  static create(spec: number | readonly RegionSpec[]): GuestMemory {
    const specs = typeof spec === "number" ? [{ guestAddr: DEFAULT_GUEST_ADDR, size: spec }] : spec;
    const mappings: Mapping[] = [];
    const regions = specs.map((one) => {
      const mmapOffset = one.mmapOffset ?? 0;
      const fd = checked("memfd_create", libc.memfd_create(cString("guest"), MFD_CLOEXEC));
      checked("ftruncate", libc.ftruncate(fd, BigInt(mmapOffset + one.size)));
      const mapping = map(one.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, mmapOffset);
      mappings.push(mapping);
      const userAddr = (one.userAddr ?? mapping.addr) as UserAddr;
      const guestAddr = one.guestAddr as GuestAddr;
      return {
        guestAddr,
        size: one.size,
        userAddr,
        mmapOffset,
        fd,
        hostAddr: mapping.addr,
        buffer: mapping.buffer,
        next: 0,
        limit: one.size,
      };
    });
    return new GuestMemory(regions, mappings);
  }

  /**
   * The memory that another isolate of this process has made. It must not outlive the maker's `close`. `allocate` gives from
   * the arena only: a range of the first region that the maker has allocated for the purpose.
   */
  static attach(shared: readonly SharedRegion[], arena?: { addr: GuestAddr; size: number }): GuestMemory {
    const regions = shared.map((one, i) => {
      const buffer = viewAt(one.hostAddr, one.size);
      if (arena === undefined || i > 0) return { ...one, buffer, next: one.size, limit: one.size };
      const next = arena.addr - one.guestAddr;
      return { ...one, buffer, next, limit: next + arena.size };
    });
    return new GuestMemory(regions, []);
  }

  /** What `attach` takes in another isolate. */
  share(): SharedRegion[] {
    return this.regions.map(({ guestAddr, size, userAddr, mmapOffset, fd, hostAddr }) => (
      { guestAddr, size, userAddr, mmapOffset, fd, hostAddr }
    ));
  }

  /** `size` bytes of region number `index`, aligned to `align` (a power of two). Throws RangeError where it is full. */
  allocate(size: number, align = 8, index = 0): GuestAddr {
    const region = this.regions[index];
    const guestStart = Math.ceil((region.guestAddr + region.next) / align) * align;
    const end = guestStart - region.guestAddr + size;
    if (end > region.limit) throw new RangeError(`guest memory: no room for ${size} bytes in region ${index}`);
    region.next = end;
    return guestStart as GuestAddr;
  }

  /** The region that holds all of [addr, addr + size). Throws RangeError where none does. */
  #find(addr: GuestAddr, size: number): Region {
    for (const region of this.regions) {
      if (addr >= region.guestAddr && addr + size <= region.guestAddr + region.size) return region;
    }
    throw new RangeError(`guest memory: ${size} bytes at 0x${addr.toString(16)} are in no region`);
  }

  /** A view of guest memory. */
  bytes(addr: GuestAddr, size: number): Uint8Array<ArrayBuffer> {
    const region = this.#find(addr, size);
    return new Uint8Array(region.buffer, addr - region.guestAddr, size);
  }

  /** The same as 16-bit words; `addr` must be even. */
  words16(addr: GuestAddr, count: number): Uint16Array<ArrayBuffer> {
    const region = this.#find(addr, count * 2);
    return new Uint16Array(region.buffer, addr - region.guestAddr, count);
  }

  /** The same as 32-bit words; `addr` must be a multiple of 4. */
  words32(addr: GuestAddr, count: number): Uint32Array<ArrayBuffer> {
    const region = this.#find(addr, count * 4);
    return new Uint32Array(region.buffer, addr - region.guestAddr, count);
  }

  /** A little-endian view, for structs of any alignment. */
  view(addr: GuestAddr, size: number): DataView<ArrayBuffer> {
    const region = this.#find(addr, size);
    return new DataView(region.buffer, addr - region.guestAddr, size);
  }

  /** The front end's address for a guest address, as SET_VRING_ADDR wants it. */
  userAddr(addr: GuestAddr): UserAddr {
    const region = this.#find(addr, 1);
    return (region.userAddr + (addr - region.guestAddr)) as UserAddr;
  }

  /** Unmaps and closes everything that `create` made. Other isolates must have let go. */
  close(): void {
    for (const mapping of this.#mappings) unmap(mapping);
    if (this.#mappings.length > 0) { for (const region of this.regions) libc.close(region.fd); }
  }
}
