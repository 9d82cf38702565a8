/**
 * Memory that is not on the JS heap: mmap(2) with its address, and views on it.
 *
 * The garbage collector never unmaps it, and a touch after `unmap` is a SIGSEGV: `unmap` detaches this isolate's
 * buffer first, and whoever shares a mapping with other isolates must see to it that they have let go.
 */
import { checked, errno, libc, type Pointer, SystemError } from "./libc.ts";

declare const host: unique symbol;
/** An address in this process, below 2^47 and so exact as a number. */
export type HostAddr = number & { readonly [host]: true };

export const PROT_NONE = 0;
export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const MAP_SHARED = 0x01;
export const MAP_PRIVATE = 0x02;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_NORESERVE = 0x4000;
export const MAP_POPULATE = 0x8000;
export const MADV_DONTNEED = 4;
export const MADV_DONTFORK = 10;
export const MADV_NOHUGEPAGE = 15;

export const PAGE = 4096;
/** From here on the kernel may put huge pages into a mapping, where it is told to do so for all (transparent_hugepage=always). */
const HUGE_PAGE = 2 * 1024 * 1024;

/** One mapping. `buffer` is this isolate's view of all of it. */
export interface Mapping {
  readonly addr: HostAddr;
  readonly size: number;
  readonly pointer: Pointer;
  readonly buffer: ArrayBuffer;
}

/** The pointer object for an address. Costs hundreds of nanoseconds: make it once. */
export function pointerTo(addr: number): Pointer {
  return Deno.UnsafePointer.create(BigInt(addr));
}

/** The address of a typed array's first byte. It holds as long as the array is alive and not moved: mmapped memory only. */
export function addressOf(view: ArrayBufferView<ArrayBuffer>): HostAddr {
  return Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(view))) as HostAddr;
}

/** A view of memory that is mapped already, maybe by another isolate of this process. Sizes above 4 TiB are refused by V8. */
export function viewAt(addr: HostAddr, size: number): ArrayBuffer {
  return Deno.UnsafePointerView.getArrayBuffer(pointerTo(addr)!, size);
}

/** mmap(2). Throws SystemError. The memory stays until `unmap`. */
export function map(size: number, prot: number, flags: number, fd = -1, offset = 0, addr = 0): Mapping {
  const pointer = libc.mmap(BigInt(addr), BigInt(size), prot, flags, fd, BigInt(offset));
  const value = Deno.UnsafePointer.value(pointer);
  // MAP_FAILED is (void *) -1
  if (pointer === null || BigInt(value) === 0xffff_ffff_ffff_ffffn) throw new SystemError("mmap", errno());
  const buffer = prot === PROT_NONE ? new ArrayBuffer(0) : Deno.UnsafePointerView.getArrayBuffer(pointer, size);
  return { addr: Number(value) as HostAddr, size, pointer, buffer };
}

/** Zeroed private memory, taken from the system page by page as it is touched: a table of which little is used costs little. */
export function allocate(size: number): Mapping {
  const mapping = map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  // A kernel without huge pages says EINVAL, and gives none.
  if (size >= HUGE_PAGE) libc.madvise(BigInt(mapping.addr), BigInt(size), MADV_NOHUGEPAGE);
  return mapping;
}

/** Address space without memory, to put other mappings into with MAP_FIXED. */
export function reserve(size: number): Mapping {
  return map(size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
}

/** munmap(2). This isolate's views become empty; other isolates' views must be gone already. */
export function unmap(mapping: Mapping): void {
  if (mapping.buffer.byteLength > 0) mapping.buffer.transfer(0);
  checked("munmap", libc.munmap(BigInt(mapping.addr), BigInt(mapping.size)));
}

/** The same for memory of which only the address is known: no view of it may be used any more, by any isolate. */
export function unmapAt(addr: HostAddr, size: number): void {
  checked("munmap", libc.munmap(BigInt(addr), BigInt(size)));
}

/** madvise(MADV_DONTNEED): gives the pages of private memory back; they read as zeros afterwards. */
export function discard(addr: HostAddr, size: number): void {
  checked("madvise", libc.madvise(BigInt(addr), BigInt(size), MADV_DONTNEED));
}
