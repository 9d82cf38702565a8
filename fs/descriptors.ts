/**
 * What descriptors there are left. Every open file holds one, and so does every node that the guest knows, up to a budget: beyond that
 * nodes are known by their file handles, where the share can have that. Else a creation that found no descriptor for its
 * new node would fail although the name was made; so it is refused before.
 */
import { ENFILE } from "../ffi/errno.ts";
import type { Log } from "../vq/log.ts";
import type { FsConfig } from "./config.ts";
import type { HandleTable } from "./handles.ts";
import type { LockTable } from "./locks.ts";
import type { MountTable } from "./mounts.ts";
import type { NodeTable } from "./nodes.ts";
import type { Session } from "./session.ts";

/** For all that is not the guest's: sockets, rings, the runtime, what a request opens and closes; and for each loop. */
export const KEPT = 128;
const KEPT_LOOP = 16;
/** What several loops may take beyond the limit at once, each having seen that there was one left. */
const SLACK = 32;
/** Nodes with a descriptor, where there are handles: a struct file and a pinned inode each, about a KiB of the host's kernel. */
const NODES_MAX = 1 << 17;
/** The part of these that is for directories alone: every name in them that is asked for needs theirs. */
const FOR_DIRECTORIES = 0.25;
/** The log is told at the first part of what there is for the guest, and again only after use fell below the second. */
const WARN_AT = 0.9;
const CALM_AT = 0.8;

/** Descriptors that a share's guest may hold, of so many that are the share's part. */
export function descriptorsFor(descriptors: number, loops: number): number {
  return Math.max(descriptors - KEPT - loops * KEPT_LOOP, descriptors >> 1);
}

export class Descriptors {
  readonly #handles: boolean;
  #told = false;

  constructor(
    readonly config: FsConfig,
    readonly session: Session,
    readonly nodes: NodeTable,
    readonly handles: HandleTable,
    readonly locks: LockTable,
    readonly mounts: MountTable,
    readonly log: Log,
  ) {
    this.#handles = config.fileHandles !== "never";
  }

  /** Descriptors for the guest. They become fewer or more as other shares come and go. */
  get most(): number {
    return descriptorsFor(this.session.descriptors, this.config.loops);
  }

  /** Of these for nodes. */
  get budget(): number {
    if (this.config.fileHandles === "mandatory") return 0;
    return this.#handles ? Math.min(this.most >> 1, NODES_MAX) : this.most;
  }

  /** Descriptors that the guest holds. */
  get used(): number {
    return this.nodes.holding + this.handles.open + this.locks.owners + this.mounts.open;
  }

  /** 0 where there is one for an open file, or -ENFILE. */
  room(): number {
    const { used } = this;
    this.#watch(used);
    return used >= this.most ? -ENFILE : 0;
  }

  /** 0 where a file that is to be made will be known, or -ENFILE. */
  roomForNode(): number {
    return this.#handles ? 0 : this.room();
  }

  /** Whether a new node is to hold a descriptor. Where it is not, and has no handle, `lastResort` says whether it may. */
  hold(isDirectory: boolean): boolean {
    if (!this.#handles) return this.lastResort;
    const budget = isDirectory ? this.budget : this.budget * (1 - FOR_DIRECTORIES);
    const held = this.nodes.holding < budget && this.used < this.most;
    if (!held && !this.#told && this.config.fileHandles === "prefer") {
      this.#told = true;
      this.log.debug(`${this.nodes.holding} files are known by descriptor, more by file handle from now on`);
    }
    return held;
  }

  get lastResort(): boolean {
    const { used } = this;
    this.#watch(used);
    return used < this.most + SLACK;
  }

  #watch(used: number): void {
    const { most } = this;
    if (used > most * WARN_AT && this.handles.setWarned(true)) {
      const { inodeFileHandles } = this.config.options;
      this.log.warn(
        `the guest holds ${used} of ${this.session.descriptors} descriptors (files that it knows: ${this.nodes.holding}, open files: ` +
          `${this.handles.open}): raise the limit of open files, as with LimitNOFILE= or ulimit -n` +
          (inodeFileHandles === "never" ? ", or give --inode-file-handles prefer" : ""),
      );
    }
    if (used < most * CALM_AT) this.handles.setWarned(false);
  }
}
