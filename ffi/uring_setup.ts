/**
 * Making an io_uring: the io_uring_setup(2) call and the mappings of what it made. The rest is in uring.ts.
 */
import { SYS } from "./arch.ts";
import { checked, libc } from "./libc.ts";
import { allocate, map, MAP_POPULATE, MAP_SHARED, type Mapping, PAGE, PROT_READ, PROT_WRITE, unmap } from "./memory.ts";
import {
  io_cqring_offsets,
  io_sqring_offsets,
  io_uring_cqe,
  io_uring_params,
  io_uring_sqe,
  IORING_FEAT_EXT_ARG,
  IORING_FEAT_NODROP,
  IORING_FEAT_RSRC_TAGS,
  IORING_FEAT_SINGLE_MMAP,
  IORING_OFF_CQ_RING,
  IORING_OFF_SQ_RING,
  IORING_OFF_SQES,
  IORING_SETUP_COOP_TASKRUN,
  IORING_SETUP_CQE32,
  IORING_SETUP_CQSIZE,
  IORING_SETUP_DEFER_TASKRUN,
  IORING_SETUP_NO_SQARRAY,
  IORING_SETUP_SINGLE_ISSUER,
  IORING_SETUP_SQE128,
  IORING_SETUP_SUBMIT_ALL,
  IORING_SETUP_TASKRUN_FLAG,
} from "./uring_layout.ts";

/** What queue_init takes besides the number of entries. */
export interface RingOptions {
  /** IORING_SETUP_* bits. */
  flags?: number;
  /** Entries of the completion queue; twice the submission queue's if left out. */
  cqEntries?: number;
  /** With IORING_SETUP_SQ_AFF: the CPU of the submission thread. */
  sqThreadCpu?: number;
  /** With IORING_SETUP_SQPOLL: how long its thread looks for work before it sleeps. */
  sqThreadIdleMs?: number;
  /** With IORING_SETUP_ATTACH_WQ: the ring whose workers are shared. */
  wqFd?: number;
}

/**
 * The sets of flags that queue_init_best tries, from the newest kernel to the oldest: 6.6, 6.1, 5.19, 5.18, 5.13. TASKRUN_FLAG
 * goes with them so that one load of shared memory tells whether completions wait in the kernel.
 */
export const BEST_FLAGS = [
  IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL |
  IORING_SETUP_NO_SQARRAY,
  IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
  IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
  IORING_SETUP_SUBMIT_ALL,
  0,
];

/** RSRC_TAGS came with multishot polls, which have no bit of their own: Linux 5.13. */
const FEATURES_NEEDED = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_RSRC_TAGS;

/** There is an io_uring, and it lacks what is needed. */
export class RingUnfit extends Error {
  override name = "RingUnfit";
}

/** A ring's descriptor, what the kernel wrote into struct io_uring_params (as u32 words), and its mappings. */
export interface RingParts {
  readonly fd: number;
  readonly params: Uint32Array;
  /** Submission ring, completion ring (maybe the same mapping), SQEs, a page of our own. */
  readonly mappings: Mapping[];
}

/** int io_uring_setup(u32 entries, struct io_uring_params *), and the mappings. Throws as Ring.queue_init says. */
export function setUpRing(entries: number, options: RingOptions): RingParts {
  const flags = (options.flags ?? 0) | (options.cqEntries === undefined ? 0 : IORING_SETUP_CQSIZE);
  if (flags & (IORING_SETUP_SQE128 | IORING_SETUP_CQE32)) throw new TypeError("only 64-byte SQEs and 16-byte CQEs");
  const bytes = new Uint8Array(io_uring_params.sizeof);
  const params = new Uint32Array(bytes.buffer);
  params[io_uring_params.flags >> 2] = flags;
  params[io_uring_params.cq_entries >> 2] = options.cqEntries ?? 0;
  params[io_uring_params.sq_thread_cpu >> 2] = options.sqThreadCpu ?? 0;
  params[io_uring_params.sq_thread_idle >> 2] = options.sqThreadIdleMs ?? 0;
  params[io_uring_params.wq_fd >> 2] = options.wqFd ?? 0;
  const fd = checked("io_uring_setup", libc.io_uring_setup(SYS.io_uring_setup, entries, bytes));
  const mappings: Mapping[] = [];
  try {
    const features = params[io_uring_params.features >> 2];
    if ((features & FEATURES_NEEDED) !== FEATURES_NEEDED) {
      throw new RingUnfit("this kernel's io_uring is older than Linux 5.13's");
    }
    mapRings(fd, params, mappings);
    return { fd, params, mappings };
  } catch (error) {
    unmapRing(mappings);
    libc.close(fd);
    throw error;
  }
}

/** Since Linux 5.4 both rings are in one mapping. */
function mapRings(fd: number, params: Uint32Array, mappings: Mapping[]): void {
  const field = (at: number) => params[at >> 2];
  const mapPart = (size: number, offset: number) => {
    const mapping = map(size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
    mappings.push(mapping);
    return mapping;
  };
  const { sq_off, cq_off, sq_entries, cq_entries, features } = io_uring_params;
  const sqSize = field(sq_off + io_sqring_offsets.array) + field(sq_entries) * 4;
  const cqSize = field(cq_off + io_cqring_offsets.cqes) + field(cq_entries) * io_uring_cqe.sizeof;
  if (field(features) & IORING_FEAT_SINGLE_MMAP) {
    mappings.push(mapPart(Math.max(sqSize, cqSize), IORING_OFF_SQ_RING));
  } else {
    mapPart(sqSize, IORING_OFF_SQ_RING);
    mapPart(cqSize, IORING_OFF_CQ_RING);
  }
  mapPart(field(sq_entries) * io_uring_sqe.sizeof, IORING_OFF_SQES);
  mappings.push(allocate(PAGE));
}

/** Unmaps each mapping once, also where one stands for two rings. */
export function unmapRing(mappings: Mapping[]): void {
  for (const mapping of new Set(mappings)) unmap(mapping);
  mappings.length = 0;
}
