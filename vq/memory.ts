/**
 * Guest memory: the front end's regions, mapped side by side into one window of this process, so that each loop needs one
 * ArrayBuffer for all of it. This module alone turns one kind of address into another, and it checks addr + len within one
 * region whenever it does.
 */
import { AT_EMPTY_PATH, S_IFMT, S_IFREG, statfs, statx, STATX_BASIC_STATS } from "../ffi/stat_layout.ts";
import { type Guard, guardMapping, noteAt, pageSize } from "../ffi/guard.ts";
import { checked, libc } from "../ffi/libc.ts";
import {
  type HostAddr,
  map,
  MAP_FIXED,
  MAP_NORESERVE,
  MAP_SHARED,
  type Mapping,
  PROT_READ,
  PROT_WRITE,
  reserve,
  unmap,
  viewAt,
} from "../ffi/memory.ts";
import type { GuestAddr, MemoryRegion, UserAddr } from "./device.ts";

declare const windowOffset: unique symbol;
/** A byte offset into the window of guest memory: what a checked guest address becomes. */
export type WindowOffset = number & { readonly [windowOffset]: true };

/** One region as the loops know it. All in bytes. */
export interface PlacedRegion {
  readonly guestAddr: GuestAddr;
  readonly userAddr: UserAddr;
  readonly size: number;
  readonly offset: WindowOffset;
}

/** The window, in a form that can be sent to Workers. */
export interface MemoryLayout {
  readonly addr: HostAddr;
  readonly size: number;
  readonly regions: readonly PlacedRegion[];
  /** Where the word lies that is not 0 when the front end has taken part of the memory away; 0: nothing would note that. */
  readonly lost?: HostAddr | 0;
}

/** A window that is mapped, as its owner (the control plane) holds it. */
export interface GuestWindow {
  readonly layout: MemoryLayout;
  readonly mapping: Mapping;
  readonly guard: Guard | null;
}

// Regions start at multiples of 2 MiB, so that transparent huge pages and the alignment of rings are kept.
const REGION_ALIGN = 2 * 1024 * 1024;
// A multiple of every page size in use on x86-64 and arm64.
const MAP_ALIGN = 65536;
const HUGETLBFS_MAGIC = 0x958458f6;
/** V8 makes no ArrayBuffer above this. */
const WINDOW_MAX = 2 ** 42;

const roundUp = (value: number, to: number) => Math.ceil(value / to) * to;
const empty = new Uint8Array(1);

/** The alignment that mmap wants for a descriptor: the page size of its hugetlbfs, else MAP_ALIGN. */
function mapAlignment(fd: number): number {
  const buffer = new Uint8Array(statfs.sizeof);
  checked("fstatfs", libc.fstatfs(fd, buffer));
  const view = new DataView(buffer.buffer);
  const huge = view.getUint32(statfs.f_type, true) === HUGETLBFS_MAGIC;
  return huge ? Number(view.getBigUint64(statfs.f_bsize, true)) : MAP_ALIGN;
}

/** Throws where a file ends before the region does: a touch behind its end would be a SIGBUS. */
function checkFileSize(region: MemoryRegion): void {
  const buffer = new Uint8Array(statx.sizeof);
  checked("statx", libc.statx(region.fd, empty, AT_EMPTY_PATH, STATX_BASIC_STATS, buffer));
  const view = new DataView(buffer.buffer);
  if ((view.getUint16(statx.stx_mode, true) & S_IFMT) !== S_IFREG) return;
  const size = Number(view.getBigUint64(statx.stx_size, true));
  if (region.mmapOffset + region.size > size) {
    throw new Error(
      `guest memory region of ${region.size} bytes at offset ${region.mmapOffset} ends behind its file of ${size} bytes`,
    );
  }
}

/** Where each region goes in the window. */
function place(regions: readonly MemoryRegion[]) {
  let cursor = 0;
  const places = regions.map((region) => {
    checkFileSize(region);
    const align = mapAlignment(region.fd);
    const fileStart = Math.floor(region.mmapOffset / align) * align;
    const lead = region.mmapOffset - fileStart;
    const start = roundUp(cursor, Math.max(REGION_ALIGN, align));
    const length = roundUp(lead + region.size, align);
    cursor = start + length;
    return { region, align, fileStart, start, length, offset: (start + lead) as WindowOffset };
  });
  return { places, size: roundUp(cursor, REGION_ALIGN) };
}

/**
 * Maps the regions of a front end. Throws an Error that names the region where one cannot be mapped; nothing stays mapped then.
 */
export function mapGuestMemory(regions: readonly MemoryRegion[]): GuestWindow {
  const { places, size } = place(regions);
  if (size > WINDOW_MAX) throw new Error(`guest memory of ${size} bytes is more than can be mapped (${WINDOW_MAX})`);
  // Room to move the window's start to a multiple of the largest alignment.
  const slack = Math.max(REGION_ALIGN, ...places.map((p) => p.align));
  const mapping = reserve(Math.max(size, REGION_ALIGN) + slack);
  const base = roundUp(mapping.addr, slack);
  try {
    for (const { region, fileStart, start, length } of places) {
      map(length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, region.fd, fileStart, base + start);
    }
  } catch (cause) {
    unmap(mapping);
    throw new Error(`guest memory cannot be mapped: ${(cause as Error).message}`, { cause });
  }
  // As little as can be, so that what the kernel alone has to do with is still found gone.
  const guard = guardMapping(places.map(({ align, start, length }) => {
    return { addr: base + start, size: length, page: align === MAP_ALIGN ? pageSize() : align };
  }));
  const placed = places.map(({ region, offset }) => ({
    guestAddr: region.guestAddr,
    userAddr: region.userAddr,
    size: region.size,
    offset,
  }));
  return { layout: { addr: base as HostAddr, size, regions: placed, lost: guard?.note ?? 0 }, mapping, guard };
}

/** Unmaps a window. No loop may hold a view of it any more, nor the kernel a request into it. */
export function unmapGuestMemory(window: GuestWindow): void {
  window.guard?.release();
  unmap(window.mapping);
}

/** The window offset of a front end's address, or -1 where [addr, addr + len) is not within one region. */
export function fromUserAddr(layout: MemoryLayout, addr: UserAddr, len: number): WindowOffset | -1 {
  for (const region of layout.regions) {
    const delta = addr - region.userAddr;
    if (delta >= 0 && len <= region.size - delta) return (region.offset + delta) as WindowOffset;
  }
  return -1;
}

/** A loop's views of guest memory. */
export class GuestMemory {
  readonly addr: HostAddr;
  readonly u8: Uint8Array<ArrayBuffer>;
  readonly u32: Uint32Array<ArrayBuffer>;
  readonly data: DataView<ArrayBuffer>;
  readonly buffer: ArrayBuffer;
  readonly regionCount: number;
  readonly #lost: Int32Array<ArrayBuffer>;
  // Per region, in the order of the table: first address, first address behind, what to add for the window offset.
  readonly #start: Float64Array;
  readonly #end: Float64Array;
  readonly #delta: Float64Array;

  constructor(layout: MemoryLayout) {
    const { regions } = layout;
    this.addr = layout.addr;
    this.buffer = regions.length > 0 ? viewAt(layout.addr, layout.size) : new ArrayBuffer(0);
    this.u8 = new Uint8Array(this.buffer);
    this.u32 = new Uint32Array(this.buffer);
    this.data = new DataView(this.buffer);
    this.regionCount = regions.length;
    this.#lost = noteAt(layout.lost ?? 0);
    this.#start = Float64Array.from(regions, (r) => r.guestAddr);
    this.#end = Float64Array.from(regions, (r) => r.guestAddr + r.size);
    this.#delta = Float64Array.from(regions, (r) => r.offset - r.guestAddr);
  }

  /** Part of the memory is gone: the front end has truncated its file. What is read there is zeros, and what is written nobody sees. */
  get lost(): boolean {
    return this.#lost[0] !== 0;
  }

  /** The window offset of guest address `addr`, or -1 where [addr, addr + len) is not within one region. */
  translate(addr: number, len: number): number {
    const n = this.regionCount;
    for (let i = 0; i < n; i++) {
      // Not addr + len, which would be rounded near 2^53.
      if (addr >= this.#start[i] && len <= this.#end[i] - addr) return addr + this.#delta[i];
    }
    return -1;
  }

  /** How many bytes from `addr` on lie in the region that holds it: 0 where none does. */
  contiguous(addr: number): number {
    for (let i = 0; i < this.regionCount; i++) {
      if (addr >= this.#start[i] && addr < this.#end[i]) return this.#end[i] - addr;
    }
    return 0;
  }

  /** Lets go of the memory: every view becomes empty, so that nothing can touch what is about to be unmapped. */
  detach(): void {
    if (this.buffer.byteLength > 0) this.buffer.transfer(0);
  }
}
