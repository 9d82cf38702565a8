/**
 * A ring that takes only what a loop submits: seccomp does not see what is done through a ring. io_uring_register(2),
 * IORING_REGISTER_RESTRICTIONS. Anything else ends with EACCES, whoever submits it.
 */
import { EINVAL } from "./errno.ts";
import { SystemError } from "./libc.ts";
import type { Ring } from "./uring.ts";
import {
  IORING_OP_ASYNC_CANCEL,
  IORING_OP_FALLOCATE,
  IORING_OP_FSYNC,
  IORING_OP_NOP,
  IORING_OP_POLL_ADD,
  IORING_OP_POLL_REMOVE,
  IORING_OP_READ,
  IORING_OP_READV,
  IORING_OP_WRITE,
  IORING_OP_WRITEV,
  IORING_REGISTER_IOWQ_AFF,
  IORING_REGISTER_IOWQ_MAX_WORKERS,
  IORING_REGISTER_PROBE,
  IORING_RESTRICTION_REGISTER_OP,
  IORING_RESTRICTION_SQE_FLAGS_ALLOWED,
  IORING_RESTRICTION_SQE_OP,
  IORING_SETUP_R_DISABLED,
  IOSQE_ASYNC,
} from "./uring_layout.ts";
import { enable_rings, register_restrictions, type Restriction } from "./uring_register.ts";

const permit = (opcode: number, values: readonly number[]): Restriction[] => values.map((value) => ({ opcode, value }));

/** What loops and services submit, and what is registered with their rings. */
const RESTRICTIONS: readonly Restriction[] = [
  ...permit(IORING_RESTRICTION_SQE_OP, [
    IORING_OP_NOP,
    IORING_OP_READ,
    IORING_OP_READV,
    IORING_OP_WRITE,
    IORING_OP_WRITEV,
    IORING_OP_FSYNC,
    IORING_OP_FALLOCATE,
    IORING_OP_POLL_ADD,
    IORING_OP_POLL_REMOVE,
    IORING_OP_ASYNC_CANCEL,
  ]),
  ...permit(IORING_RESTRICTION_SQE_FLAGS_ALLOWED, [IOSQE_ASYNC]),
  ...permit(IORING_RESTRICTION_REGISTER_OP, [
    IORING_REGISTER_PROBE,
    IORING_REGISTER_IOWQ_AFF,
    IORING_REGISTER_IOWQ_MAX_WORKERS,
  ]),
];

/**
 * A ring with restrictions. `make` makes one with these IORING_SETUP_* flags added, as queue_init_best does. A kernel that has no
 * restrictions (before 5.10), or does not let them be made, gives a ring without.
 */
export function restrictedRing(make: (flags: number) => Ring): Ring {
  let ring: Ring;
  try {
    ring = make(IORING_SETUP_R_DISABLED);
  } catch (error) {
    if (!(error instanceof SystemError) || error.code !== EINVAL) throw error;
    return make(0);
  }
  if (register_restrictions(ring, RESTRICTIONS) >= 0 && enable_rings(ring) >= 0) return ring;
  ring.queue_exit();
  return make(0);
}
