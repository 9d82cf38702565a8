/** What a shared directory is served with: plain data, made by cli/ and sent to every loop. */
import type { HostAddr } from "../ffi/memory.ts";

/** How long the guest may keep what it was told, as virtiofsd's --cache names it. */
export type CachePolicy = "never" | "auto" | "metadata" | "always";

export interface FsConfig {
  /** O_PATH descriptor of the shared directory. */
  rootFd: number;
  /** O_PATH descriptor of /proc/self/fd, through which O_PATH descriptors are opened. */
  procFd: number;
  cache: CachePolicy;
  /** The daemon may act as any user: it is root. */
  privileged: boolean;
  /** Loops of the process at most. */
  loops: number;
  /** Shared memory: session, node table, handle table. */
  session: HostAddr;
  nodes: HostAddr;
  handles: HostAddr;
}

/** Validity of names and of attributes in seconds. */
export function timeoutSeconds(cache: CachePolicy): number {
  if (cache === "never") return 0;
  return cache === "auto" ? 1 : 86400;
}
