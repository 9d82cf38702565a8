/**
 * io_uring_register(2) in the words of liburing: io_uring_register_files(&ring, …) is register_files(ring, …).
 *
 * None of this is for the hot path. Each returns a number that is not negative or -errno; the kernel copies every argument
 * during the call. On a ring made with SINGLE_ISSUER only the ring's own thread may call them (else -EEXIST).
 */
import { SYS } from "./arch.ts";
import { EINVAL } from "./errno.ts";
import { errno, libc } from "./libc.ts";
import { allocate, unmap } from "./memory.ts";
import type { Ring } from "./uring.ts";
import {
  IO_URING_OP_SUPPORTED,
  io_uring_probe,
  io_uring_probe_op,
  io_uring_restriction,
  io_uring_rsrc_register,
  io_uring_rsrc_update,
  IORING_REGISTER_BUFFERS,
  IORING_REGISTER_ENABLE_RINGS,
  IORING_REGISTER_EVENTFD,
  IORING_REGISTER_FILES,
  IORING_REGISTER_FILES2,
  IORING_REGISTER_FILES_UPDATE,
  IORING_REGISTER_IOWQ_AFF,
  IORING_REGISTER_IOWQ_MAX_WORKERS,
  IORING_REGISTER_PERSONALITY,
  IORING_REGISTER_PROBE,
  IORING_REGISTER_RESTRICTIONS,
  IORING_REGISTER_RING_FDS,
  IORING_RSRC_REGISTER_SPARSE,
  IORING_UNREGISTER_BUFFERS,
  IORING_UNREGISTER_EVENTFD,
  IORING_UNREGISTER_FILES,
  IORING_UNREGISTER_IOWQ_AFF,
  IORING_UNREGISTER_PERSONALITY,
  IORING_UNREGISTER_RING_FDS,
} from "./uring_layout.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** int io_uring_register(unsigned fd, unsigned opcode, void *arg, unsigned nr_args), or -errno */
function register(ring: Ring, opcode: number, arg: Bytes | null, nrArgs: number): number {
  const result = libc.io_uring_register(SYS.io_uring_register, ring.ring_fd, opcode, arg, nrArgs);
  return result < 0 ? -errno() : result;
}

/** A table of descriptors for IOSQE_FIXED_FILE; -1 leaves a slot empty. */
export function register_files(ring: Ring, fds: readonly number[]): number {
  return register(ring, IORING_REGISTER_FILES, bytesOf(Int32Array.from(fds)), fds.length);
}

/** A table of `nr` empty slots. Linux 5.19; before, the same by register_files with -1. EMFILE beyond RLIMIT_NOFILE. */
export function register_files_sparse(ring: Ring, nr: number): number {
  const arg = new Uint32Array(io_uring_rsrc_register.sizeof >> 2);
  arg[io_uring_rsrc_register.nr >> 2] = nr;
  arg[io_uring_rsrc_register.flags >> 2] = IORING_RSRC_REGISTER_SPARSE;
  const result = register(ring, IORING_REGISTER_FILES2, bytesOf(arg), io_uring_rsrc_register.sizeof);
  return result === -EINVAL ? register_files(ring, new Array(nr).fill(-1)) : result;
}

/** Puts descriptors into the slots from `offset` on; -1 empties one. Returns the number of slots done. */
export function register_files_update(ring: Ring, offset: number, fds: readonly number[]): number {
  // The argument points to the descriptors, so they need an address that stays.
  const memory = allocate(fds.length * 4);
  try {
    new Int32Array(memory.buffer).set(fds);
    const arg = new BigUint64Array(io_uring_rsrc_update.sizeof >> 3);
    arg[0] = BigInt(offset);
    arg[io_uring_rsrc_update.data >> 3] = BigInt(memory.addr);
    return register(ring, IORING_REGISTER_FILES_UPDATE, bytesOf(arg), fds.length);
  } finally {
    unmap(memory);
  }
}

export function unregister_files(ring: Ring): number {
  return register(ring, IORING_UNREGISTER_FILES, null, 0);
}

/** Pins buffers for prep_read_fixed and prep_write_fixed. ENOMEM beyond RLIMIT_MEMLOCK; at most 1 GiB each. */
export function register_buffers(ring: Ring, buffers: readonly { addr: number; size: number }[]): number {
  const iovecs = BigUint64Array.from(buffers.flatMap((buffer) => [BigInt(buffer.addr), BigInt(buffer.size)]));
  return register(ring, IORING_REGISTER_BUFFERS, bytesOf(iovecs), buffers.length);
}

export function unregister_buffers(ring: Ring): number {
  return register(ring, IORING_UNREGISTER_BUFFERS, null, 0);
}

/** An eventfd that is written with each CQE. EBUSY where there is one. */
export function register_eventfd(ring: Ring, eventFd: number): number {
  return register(ring, IORING_REGISTER_EVENTFD, bytesOf(Int32Array.of(eventFd)), 1);
}

export function unregister_eventfd(ring: Ring): number {
  return register(ring, IORING_UNREGISTER_EVENTFD, null, 0);
}

/**
 * Bounds io-wq's threads for this thread's rings: bounded work (files) and unbounded work (sockets, fifos); 0 leaves a
 * bound as it is. Returns the bounds before the call, or -errno.
 */
export function register_iowq_max_workers(ring: Ring, bounded: number, unbounded: number): [number, number] | number {
  const values = Uint32Array.of(bounded, unbounded);
  const result = register(ring, IORING_REGISTER_IOWQ_MAX_WORKERS, bytesOf(values), 2);
  return result < 0 ? result : [values[0], values[1]];
}

/** Pins io-wq's threads to CPUs: bit n of byte n >> 3 is CPU n (cpu_set_t). Linux 5.14. */
export function register_iowq_aff(ring: Ring, cpuMask: Bytes): number {
  return register(ring, IORING_REGISTER_IOWQ_AFF, cpuMask, cpuMask.byteLength);
}

export function unregister_iowq_aff(ring: Ring): number {
  return register(ring, IORING_UNREGISTER_IOWQ_AFF, null, 0);
}

/** Which IORING_OP_* the kernel has: the set of their numbers, or -errno. */
export function register_probe(ring: Ring): Set<number> | number {
  const arg = new Uint8Array(io_uring_probe.sizeof + 256 * io_uring_probe_op.sizeof);
  const result = register(ring, IORING_REGISTER_PROBE, arg, 256);
  if (result < 0) return result;
  const supported = new Set<number>();
  for (let i = 0; i < arg[io_uring_probe.ops_len]; i++) {
    const entry = io_uring_probe.ops + i * io_uring_probe_op.sizeof;
    if (arg[entry + io_uring_probe_op.flags] & IO_URING_OP_SUPPORTED) supported.add(arg[entry + io_uring_probe_op.op]);
  }
  return supported;
}

/**
 * io_uring_register_ring_fd: saves the look-up of the descriptor in each io_uring_enter. The index belongs to the
 * calling thread, which must be the ring's own. Returns 1, or -errno (-EINVAL before Linux 5.18; the ring works on).
 */
export function register_ring_fd(ring: Ring): number {
  const arg = new Uint32Array(io_uring_rsrc_update.sizeof >> 2);
  arg[io_uring_rsrc_update.offset >> 2] = 0xffffffff; // any free index
  arg[io_uring_rsrc_update.data >> 2] = ring.ring_fd;
  const result = register(ring, IORING_REGISTER_RING_FDS, bytesOf(arg), 1);
  if (result === 1) ring.useRegisteredRing(arg[io_uring_rsrc_update.offset >> 2]);
  return result;
}

/** io_uring_unregister_ring_fd. Returns 1 or -errno. */
export function unregister_ring_fd(ring: Ring): number {
  const index = ring.registered_index;
  if (index < 0) return -EINVAL;
  const arg = new Uint32Array(io_uring_rsrc_update.sizeof >> 2);
  arg[io_uring_rsrc_update.offset >> 2] = index;
  const result = register(ring, IORING_UNREGISTER_RING_FDS, bytesOf(arg), 1);
  if (result === 1) ring.useRegisteredRing(-1);
  return result;
}

/** Keeps the calling thread's credentials; the id that is returned is for sqe_set_personality. */
export function register_personality(ring: Ring): number {
  return register(ring, IORING_REGISTER_PERSONALITY, null, 0);
}

export function unregister_personality(ring: Ring, id: number): number {
  return register(ring, IORING_UNREGISTER_PERSONALITY, null, id);
}

/** One permission: `opcode` an IORING_RESTRICTION_*, `value` an IORING_REGISTER_*, IORING_OP_* or IOSQE_* bits. */
export interface Restriction {
  readonly opcode: number;
  readonly value: number;
}

/** Allows only what is listed, once; the ring must have been made with R_DISABLED (else -EBADFD). Others get -EACCES. */
export function register_restrictions(ring: Ring, restrictions: readonly Restriction[]): number {
  const arg = new Uint8Array(io_uring_restriction.sizeof * restrictions.length);
  restrictions.forEach(({ opcode, value }, i) => {
    arg[i * io_uring_restriction.sizeof + io_uring_restriction.opcode] = opcode;
    arg[i * io_uring_restriction.sizeof + io_uring_restriction.sqe_op] = value;
  });
  return register(ring, IORING_REGISTER_RESTRICTIONS, arg, restrictions.length);
}

/** io_uring_enable_rings: starts a ring made with R_DISABLED. With SINGLE_ISSUER the caller becomes the one thread. */
export function enable_rings(ring: Ring): number {
  return register(ring, IORING_REGISTER_ENABLE_RINGS, null, 0);
}

function bytesOf(view: ArrayBufferView<ArrayBuffer>): Bytes {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}
