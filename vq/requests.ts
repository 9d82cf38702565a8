/**
 * The request table of one loop: each request in flight has a slot, and a slot is all there is to a request, so that serving one
 * allocates nothing. A slot holds the descriptor chain, read once out of guest memory into private numbers and checked there
 * (VIRTIO 1.3, 2.7.13); the guest may rewrite its descriptors afterwards as it likes.
 */
import { allocate, type HostAddr, viewAt } from "../ffi/memory.ts";
import { Flight, SLOTS } from "./flight.ts";
import type { GuestMemory } from "./memory.ts";
import type { Queue } from "./queue.ts";

export const VRING_DESC_F_NEXT = 1;
export const VRING_DESC_F_WRITE = 2;
export const VRING_DESC_F_INDIRECT = 4;

/** Segments of one chain at most, which is also UIO_MAXIOV: a chain can become one readv. */
export const MAX_SEGMENTS = 1024;
export { SLOTS };
/** Bytes of a request that are copied out of guest memory at most: an operation's header, arguments and names, not its data. */
export const IN_BYTES = 192 * 1024;
/** Bytes of a reply that are built before they are copied to the guest at most, directory contents included. */
export const OUT_BYTES = 1024 * 1024 + 4096;

const IOVEC_BYTES = 16;
const TWO32 = 2 ** 32;

/** Bytes of the chains of all slots: segment offsets and lengths, then what is known of each slot. */
const CHAINS_BYTES = SLOTS * MAX_SEGMENTS * 12 + SLOTS * 21;

/** The checked chains of a loop's slots, in memory that other threads of the process can look at. */
export class Chains {
  /** How many segments the device reads, how many it writes, and their bytes. Readable ones come first. */
  readonly readable: Uint16Array<ArrayBuffer>;
  readonly writable: Uint16Array<ArrayBuffer>;
  readonly readableBytes: Float64Array<ArrayBuffer>;
  readonly writableBytes: Float64Array<ArrayBuffer>;
  /** Segment k of slot s at [s * MAX_SEGMENTS + k]: its window offset and length in bytes. */
  readonly segOffset: Float64Array<ArrayBuffer>;
  readonly segLen: Uint32Array<ArrayBuffer>;
  /** The errno that a slot's request was answered with, until it is counted; 0: none. */
  readonly error: Uint8Array<ArrayBuffer>;

  constructor(readonly addr: HostAddr = allocate(CHAINS_BYTES).addr) {
    const buffer = viewAt(addr, CHAINS_BYTES);
    const segments = SLOTS * MAX_SEGMENTS;
    this.segOffset = new Float64Array(buffer, 0, segments);
    this.readableBytes = new Float64Array(buffer, segments * 8, SLOTS);
    this.writableBytes = new Float64Array(buffer, segments * 8 + SLOTS * 8, SLOTS);
    this.segLen = new Uint32Array(buffer, segments * 8 + SLOTS * 16, segments);
    this.readable = new Uint16Array(buffer, segments * 12 + SLOTS * 16, SLOTS);
    this.writable = new Uint16Array(buffer, segments * 12 + SLOTS * 18, SLOTS);
    this.error = new Uint8Array(buffer, segments * 12 + SLOTS * 20, SLOTS);
  }
}

export class Requests {
  /** The queue that a slot's chain came from. */
  readonly queue: (Queue | null)[] = new Array(SLOTS).fill(null);
  readonly head = new Uint16Array(SLOTS);
  /** Where the slots' chains lie: the fields below are its. */
  readonly chains = new Chains();
  readonly readable = this.chains.readable;
  readonly writable = this.chains.writable;
  readonly readableBytes = this.chains.readableBytes;
  readonly writableBytes = this.chains.writableBytes;
  readonly segOffset = this.chains.segOffset;
  readonly segLen = this.chains.segLen;
  readonly error = this.chains.error;
  /** And what others can see of them: see flight.ts. `kind`, `waits` and `notes` are the service's to set. */
  readonly since: Float64Array<ArrayBuffer>;
  readonly notes: Uint32Array<ArrayBuffer>;
  readonly owner: Uint32Array<ArrayBuffer>;
  readonly kind: Uint8Array<ArrayBuffer>;
  readonly waits: Uint8Array<ArrayBuffer>;

  /** The request being handled: its first bytes, copied out of guest memory by `copyIn`. */
  readonly in: Uint8Array<ArrayBuffer>;
  readonly in32: Uint32Array<ArrayBuffer>;
  /** The reply being built, copied to the guest by `copyOut`. */
  readonly out: Uint8Array<ArrayBuffer>;
  readonly out32: Uint32Array<ArrayBuffer>;

  /** Where each slot's iovec array lies: a bigint comes out of here cheaply, as FFI wants it. */
  readonly iovAddr = new BigUint64Array(SLOTS);
  /** Words of all iovec arrays: base lo, base hi, length, 0; slot s begins at s * MAX_SEGMENTS * 4. */
  readonly iov32: Uint32Array<ArrayBuffer>;
  /** The same, a base as the bigint that FFI wants; slot s begins at s * MAX_SEGMENTS * 2. */
  readonly iov64: BigUint64Array<ArrayBuffer>;

  readonly #iovWords = new Uint32Array(this.iovAddr.buffer);
  readonly #free = new Uint16Array(SLOTS);
  #freeCount = SLOTS;
  // The chain being read.
  #segments = 0;
  #written = false;

  constructor(flight = new Flight()) {
    this.since = flight.since;
    this.notes = flight.notes;
    this.owner = flight.owner;
    this.kind = flight.kind;
    this.waits = flight.waits;
    const iov = allocate(SLOTS * MAX_SEGMENTS * IOVEC_BYTES);
    this.iov32 = new Uint32Array(iov.buffer);
    this.iov64 = new BigUint64Array(iov.buffer);
    for (let i = 0; i < SLOTS; i++) this.iovAddr[i] = BigInt(iov.addr + i * MAX_SEGMENTS * IOVEC_BYTES);
    this.in = new Uint8Array(allocate(IN_BYTES).buffer);
    this.in32 = new Uint32Array(this.in.buffer);
    this.out = new Uint8Array(allocate(OUT_BYTES).buffer);
    this.out32 = new Uint32Array(this.out.buffer);
    for (let i = 0; i < SLOTS; i++) this.#free[i] = SLOTS - 1 - i;
  }

  get inFlight(): number {
    return SLOTS - this.#freeCount;
  }

  get full(): boolean {
    return this.#freeCount === 0;
  }

  /** Takes a free slot; only when not `full`. `now` is the time in ms of nowMs(), or a little earlier. */
  take(queue: Queue, head: number, now = 0): number {
    const slot = this.#free[--this.#freeCount];
    this.queue[slot] = queue;
    this.head[slot] = head;
    this.since[slot] = now;
    this.owner[slot] = queue.owner;
    return slot;
  }

  /** Makes the chain of another thread's slot that of slot `to` here. */
  copyChain(from: Chains, slot: number, to: number): void {
    const count = from.readable[slot] + from.writable[slot];
    this.readable[to] = from.readable[slot];
    this.writable[to] = from.writable[slot];
    this.readableBytes[to] = from.readableBytes[slot];
    this.writableBytes[to] = from.writableBytes[slot];
    for (let i = 0; i < count; i++) {
      this.segOffset[to * MAX_SEGMENTS + i] = from.segOffset[slot * MAX_SEGMENTS + i];
      this.segLen[to * MAX_SEGMENTS + i] = from.segLen[slot * MAX_SEGMENTS + i];
    }
  }

  release(slot: number): void {
    this.queue[slot] = null;
    this.since[slot] = 0;
    this.#free[this.#freeCount++] = slot;
  }

  /**
   * Reads the chain of a slot. False where it is malformed: an index beyond the table, more than MAX_SEGMENTS, memory outside the
   * regions, a readable segment behind a writable one, an indirect table that is empty, nested, not offered or no multiple of 16.
   */
  readChain(slot: number, memory: GuestMemory, desc: Uint32Array, size: number, indirectOffered: boolean): boolean {
    this.#segments = 0;
    this.#written = false;
    this.readable[slot] = this.writable[slot] = 0;
    this.readableBytes[slot] = this.writableBytes[slot] = 0;
    let index = this.head[slot];
    for (let hops = 0; hops < MAX_SEGMENTS && hops < size; hops++) {
      const at = index * 4;
      const addr = desc[at] + desc[at + 1] * TWO32;
      const len = desc[at + 2];
      const word = desc[at + 3];
      if ((word & VRING_DESC_F_INDIRECT) !== 0) {
        // 2.7.5.3.1: a table ends its chain, and NEXT beside INDIRECT is forbidden.
        if (!indirectOffered || (word & VRING_DESC_F_NEXT) !== 0) return false;
        return this.#readTable(slot, memory, addr, len);
      }
      if (!this.#addSegment(slot, memory, addr, len, (word & VRING_DESC_F_WRITE) !== 0)) return false;
      if ((word & VRING_DESC_F_NEXT) === 0) return true;
      index = word >>> 16;
      if (index >= size) return false;
    }
    return false;
  }

  /** The same for the indirect table at guest address `table`. */
  #readTable(slot: number, memory: GuestMemory, table: number, bytes: number): boolean {
    if (bytes === 0 || bytes % 16 !== 0) return false;
    const offset = memory.translate(table, bytes);
    if (offset < 0) return false;
    const count = bytes / 16;
    const { data } = memory;
    let index = 0;
    for (let hops = 0; hops < MAX_SEGMENTS && hops < count; hops++) {
      const at = offset + index * 16;
      const addr = data.getUint32(at, true) + data.getUint32(at + 4, true) * TWO32;
      const len = data.getUint32(at + 8, true);
      const word = data.getUint32(at + 12, true);
      if ((word & VRING_DESC_F_INDIRECT) !== 0) return false;
      if (!this.#addSegment(slot, memory, addr, len, (word & VRING_DESC_F_WRITE) !== 0)) return false;
      if ((word & VRING_DESC_F_NEXT) === 0) return true;
      index = word >>> 16;
      if (index >= count) return false;
    }
    return false;
  }

  #addSegment(slot: number, memory: GuestMemory, addr: number, len: number, write: boolean): boolean {
    if (write) {
      this.#written = true;
      this.writableBytes[slot] += len;
    } else {
      if (this.#written) return false;
      this.readableBytes[slot] += len;
    }
    const offset = memory.translate(addr, len);
    if (offset >= 0) return this.#append(slot, offset, len, write);
    // Regions may touch in guest memory and be apart in ours: one descriptor, several segments.
    while (len > 0) {
      const part = Math.min(len, memory.contiguous(addr));
      if (part === 0 || !this.#append(slot, memory.translate(addr, part), part, write)) return false;
      addr += part;
      len -= part;
    }
    return true;
  }

  #append(slot: number, offset: number, len: number, write: boolean): boolean {
    if (this.#segments === MAX_SEGMENTS) return false;
    const at = slot * MAX_SEGMENTS + this.#segments++;
    this.segOffset[at] = offset;
    this.segLen[at] = len;
    if (write) this.writable[slot]++;
    else this.readable[slot]++;
    return true;
  }

  /**
   * Copies the first `bytes` that the guest wrote, or as many as there are, to `in`. Returns how many. The first `had` of them were
   * copied before, and are not read again: the guest may have changed them since they were checked.
   */
  copyIn(slot: number, memory: GuestMemory, bytes: number, had = 0): number {
    let at = slot * MAX_SEGMENTS;
    const end = at + this.readable[slot];
    let done = 0;
    for (; at < end && done < bytes; at++) {
      let offset = this.segOffset[at];
      let n = Math.min(this.segLen[at], bytes - done);
      let to = done;
      done += n;
      if (to < had) {
        if (done <= had) continue;
        offset += had - to;
        n -= had - to;
        to = had;
      }
      if (((offset | to | n) & 3) === 0 && n <= 256) {
        const { in32 } = this;
        const { u32 } = memory;
        const from = offset / 4;
        to >>= 2;
        for (let i = 0; i < n >> 2; i++) in32[to + i] = u32[from + i];
      } else if (n <= 64) {
        for (let i = 0; i < n; i++) this.in[to + i] = memory.u8[offset + i];
      } else {
        this.in.set(memory.u8.subarray(offset, offset + n), to);
      }
    }
    return done;
  }

  /** Copies the first `bytes` of `out` to where the guest may be written. The caller has compared them with `writableBytes`. */
  copyOut(slot: number, memory: GuestMemory, bytes: number): void {
    let at = slot * MAX_SEGMENTS + this.readable[slot];
    const end = at + this.writable[slot];
    let done = 0;
    for (; at < end && done < bytes; at++) {
      const offset = this.segOffset[at];
      const n = Math.min(this.segLen[at], bytes - done);
      if (((offset | done | n) & 3) === 0 && n <= 256) {
        const { out32 } = this;
        const { u32 } = memory;
        const to = offset / 4;
        for (let i = 0, from = done >> 2; i < n >> 2; i++) u32[to + i] = out32[from + i];
      } else if (n <= 64) {
        for (let i = 0; i < n; i++) memory.u8[offset + i] = this.out[done + i];
      } else {
        memory.u8.set(this.out.subarray(done, done + n), offset);
      }
      done += n;
    }
  }

  /**
   * Makes the slot's iovec array over `bytes` of its readable (or writable) segments behind the first `skip`. There must be as many.
   * Returns the number of iovecs.
   */
  iovecs(slot: number, memory: GuestMemory, write: boolean, skip: number, bytes: number): number {
    const iov = this.iov32;
    const base = slot * MAX_SEGMENTS;
    let at = base + (write ? this.readable[slot] : 0);
    const end = at + (write ? this.writable[slot] : this.readable[slot]);
    while (at < end && skip >= this.segLen[at]) skip -= this.segLen[at++];
    let count = 0;
    for (; at < end && bytes > 0; at++) {
      const rest = this.segLen[at] - skip;
      const n = rest < bytes ? rest : bytes;
      const addr = memory.addr + this.segOffset[at] + skip;
      const to = (base + count++) * 4;
      iov[to] = addr >>> 0;
      iov[to + 1] = (addr / TWO32) >>> 0;
      iov[to + 2] = n;
      iov[to + 3] = 0;
      bytes -= n;
      skip = 0;
    }
    return count;
  }

  /** The halves of the address of a slot's iovec array. */
  iovAddrLo(slot: number): number {
    return this.#iovWords[slot * 2];
  }

  iovAddrHi(slot: number): number {
    return this.#iovWords[slot * 2 + 1];
  }
}
