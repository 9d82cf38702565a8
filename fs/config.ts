/** What a shared directory is served with: plain data, made by cli/ and sent to every loop. */
import type { HostAddr } from "../ffi/memory.ts";
import type { Kind } from "./where.ts";

/** How long the guest may keep what it was told, as virtiofsd's --cache names it. */
export type CachePolicy = "never" | "auto" | "metadata" | "always";

/** As virtiofsd's --inode-file-handles names it. */
export type FileHandles = "never" | "prefer" | "mandatory";

/** What the command line says about the file system; virtiofsd's options of the same names say more. */
export interface FsOptions {
  cache: CachePolicy;
  /** Extended attributes reach the host's files, mapped by the rules (--xattrmap's language; empty: unchanged). */
  xattr: boolean;
  xattrMap: string;
  /** Access and default ACLs; "auto": where the guest can have them, else none. */
  posixAcl: boolean | "auto";
  securityLabel: boolean;
  /** Every change is refused with EROFS. */
  readonly: boolean;
  /** Set-user-ID, set-group-ID bits and capabilities are cleared here, not by the client. */
  killprivV2: boolean;
  writeback: boolean;
  allowDirectIo: boolean;
  allowMmap: boolean;
  readdirplus: boolean;
  /** O_NOATIME of the client is kept; else it is not passed on. */
  preserveNoatime: boolean;
  announceSubmounts: boolean;
  /** Whether files are known by file handle instead of descriptor: never, where that is needed and possible, or all of them. */
  inodeFileHandles: FileHandles;
  /** Locks of the client are taken on the host. */
  posixLock: boolean;
  flock: boolean;
  /** --translate-uid and --translate-gid, one rule each. */
  translateUid: string[];
  translateGid: string[];
}

export const defaultOptions: FsOptions = {
  cache: "auto",
  xattr: false,
  xattrMap: "",
  posixAcl: false,
  securityLabel: false,
  readonly: false,
  killprivV2: false,
  writeback: false,
  allowDirectIo: false,
  allowMmap: false,
  readdirplus: true,
  preserveNoatime: false,
  announceSubmounts: true,
  inodeFileHandles: "prefer",
  posixLock: false,
  flock: false,
  translateUid: [],
  translateGid: [],
};

export interface FsConfig {
  /** O_PATH descriptor of the shared directory. */
  rootFd: number;
  /** The shared directory's mount, and a descriptor of it that is not O_PATH, where file handles can be used; -1. */
  mount: number;
  mountFd: number;
  /** Its device. */
  dev: number;
  /** What of options.inodeFileHandles is possible. */
  fileHandles: FileHandles;
  /** O_PATH descriptor of /proc/self/fd, through which O_PATH descriptors are opened. */
  procFd: number;
  options: FsOptions;
  /** What the shared directory's file system may wait for. */
  kind: Kind;
  /** The daemon may act as any user: it is root. */
  privileged: boolean;
  /** Loops of the process at most. */
  loops: number;
  /** Shared memory: session, node table, handle table, lock owners, mounts. */
  session: HostAddr;
  nodes: HostAddr;
  handles: HostAddr;
  locks: HostAddr;
  mounts: HostAddr;
}

/** Validity of names and of attributes in seconds. */
export function timeoutSeconds(cache: CachePolicy): number {
  if (cache === "never") return 0;
  return cache === "auto" ? 1 : 86400;
}
