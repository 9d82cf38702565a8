/** A shared directory: opened once, with the shared memory that its loops work on. For the control plane. */
import { O_CLOEXEC, O_DIRECTORY, O_PATH } from "../ffi/arch.ts";
import { checked, cString, errno, errorText, libc } from "../ffi/libc.ts";
import type { FsConfig, FsOptions } from "./config.ts";
import { raiseOpenFiles } from "../ffi/limits.ts";
import { allocateHandles, freeHandles } from "./handles.ts";
import { allocateLocks, freeLocks } from "./locks.ts";
import { allocateNodes, freeNodes, NodeTable } from "./nodes.ts";
import { allocateSession, freeSession } from "./session.ts";
import { StatBuffer } from "./stat.ts";
import { virtio_fs_config } from "./wire.ts";

/** Throws an Error that says what is wrong with a directory, where it cannot be shared. */
export function checkDirectory(dir: string): void {
  libc.close(openRoot(dir));
}

function openRoot(dir: string): number {
  const fd = libc.openat(-100, cString(dir), O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
  if (fd < 0) throw new Error(`cannot share ${dir}: ${errorText(errno())}`);
  return fd;
}

/**
 * Opens a directory to be shared, and takes the memory of its tables. `loops` is how many may serve it. Throws an Error that says
 * what is wrong with the directory.
 */
export function openShare(dir: string, options: FsOptions, loops: number): FsConfig {
  const rootFd = openRoot(dir);
  const stat = new StatBuffer();
  const failed = stat.of(rootFd);
  if (failed < 0) {
    libc.close(rootFd);
    throw new Error(`cannot share ${dir}: ${errorText(-failed)}`);
  }
  const procFd = checked("open /proc/self/fd", libc.openat(-100, cString("/proc/self/fd"), O_PATH | O_CLOEXEC, 0));
  const nodes = allocateNodes();
  new NodeTable(nodes).setRoot(rootFd, stat.identity, stat.type);
  return {
    rootFd,
    procFd,
    options,
    privileged: libc.geteuid() === 0,
    descriptors: raiseOpenFiles(0),
    loops,
    session: allocateSession(loops),
    nodes,
    handles: allocateHandles(),
    locks: allocateLocks(),
  };
}

/** Gives back what `openShare` took. No loop may use any of it any more. */
export function closeShare({ rootFd, procFd, session, loops, nodes, handles, locks }: FsConfig): void {
  libc.close(rootFd);
  libc.close(procFd);
  freeSession(session, loops);
  freeNodes(nodes);
  freeHandles(handles);
  freeLocks(locks);
}

/** struct virtio_fs_config (VIRTIO 1.3, 5.11.4) with a tag and the number of request queues. */
export function configSpace(tag: string, requestQueues: number): Uint8Array {
  const bytes = new Uint8Array(virtio_fs_config.sizeof);
  bytes.set(new TextEncoder().encode(tag));
  new DataView(bytes.buffer).setUint32(virtio_fs_config.num_request_queues, requestQueues, true);
  return bytes;
}
