/** A shared directory: opened once, with the shared memory that its loops work on. For the control plane. */
import { O_CLOEXEC, O_DIRECTORY, O_PATH } from "../ffi/arch.ts";
import { checked, cString, errno, errorText, libc } from "../ffi/libc.ts";
import type { FsConfig, FsOptions } from "./config.ts";
import { raiseOpenFiles } from "../ffi/limits.ts";
import { allocateHandles } from "./handles.ts";
import { allocateLocks } from "./locks.ts";
import { allocateNodes, NodeTable } from "./nodes.ts";
import { allocateSession } from "./session.ts";
import { StatBuffer } from "./stat.ts";
import { type Kind, KIND_LOCAL, KIND_MEMORY, kindOf } from "./where.ts";
import { virtio_fs_config } from "./wire.ts";

/**
 * Opens a directory to be shared, and takes the memory of its tables. `loops` is how many may serve it. Throws an Error that says
 * what is wrong with the directory.
 */
export function openShare(dir: string, options: FsOptions, loops: number): FsConfig {
  const rootFd = libc.openat(-100, cString(dir), O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
  if (rootFd < 0) throw new Error(`cannot share ${dir}: ${errorText(errno())}`);
  const procFd = checked("open /proc/self/fd", libc.openat(-100, cString("/proc/self/fd"), O_PATH | O_CLOEXEC, 0));
  const nodes = allocateNodes();
  const stat = new StatBuffer();
  const failed = stat.of(rootFd);
  if (failed < 0) throw new Error(`cannot share ${dir}: ${errorText(-failed)}`);
  new NodeTable(nodes).setRoot(rootFd, stat.identity, stat.type);
  return {
    rootFd,
    procFd,
    options,
    kind: kindOf(rootFd),
    privileged: libc.geteuid() === 0,
    descriptors: raiseOpenFiles(0),
    loops,
    session: allocateSession(loops),
    nodes,
    handles: allocateHandles(),
    locks: allocateLocks(),
  };
}

/** Helper threads that requests on such a file system need soon. */
export function helpersAtStart(kind: Kind): number {
  return kind === KIND_MEMORY ? 0 : kind === KIND_LOCAL ? 1 : 2;
}

/** struct virtio_fs_config (VIRTIO 1.3, 5.11.4) with a tag and the number of request queues. */
export function configSpace(tag: string, requestQueues: number): Uint8Array {
  const bytes = new Uint8Array(virtio_fs_config.sizeof);
  bytes.set(new TextEncoder().encode(tag));
  new DataView(bytes.buffer).setUint32(virtio_fs_config.num_request_queues, requestQueues, true);
  return bytes;
}
