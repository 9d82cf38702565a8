/**
 * What descriptors there are left. Every node that the guest knows holds one, and so does every open file. A creation that found
 * none for its new node would fail although the name was made; so it is refused before.
 */
import { ENFILE } from "../ffi/errno.ts";
import type { Log } from "../vq/log.ts";
import type { HandleTable } from "./handles.ts";
import type { LockTable } from "./locks.ts";
import type { NodeTable } from "./nodes.ts";

/** For all that is not the guest's: sockets, eventfds, rings, what a request opens and closes, the runtime. */
const KEPT = 128;
/** The log is told at the first part of what there is for the guest, and again only after use fell below the second. */
const WARN_AT = 0.9;
const CALM_AT = 0.8;

export class Descriptors {
  /** `limit` is RLIMIT_NOFILE as it is in force. */
  constructor(
    readonly limit: number,
    readonly nodes: NodeTable,
    readonly handles: HandleTable,
    readonly locks: LockTable,
    readonly log: Log,
  ) {}

  /** Descriptors that the guest holds. */
  get used(): number {
    return this.nodes.known + this.handles.open + this.locks.owners;
  }

  /** 0 where there is one for a new file, or -ENFILE. */
  room(): number {
    const { used } = this;
    const most = this.limit - KEPT;
    if (used > most * WARN_AT && this.handles.setWarned(true)) {
      this.log.warn(
        `the guest holds ${used} of ${this.limit} descriptors (files that it knows: ${this.nodes.known}): raise the limit of open files, ` +
          `as with LimitNOFILE= or ulimit -n`,
      );
    }
    if (used < most * CALM_AT) this.handles.setWarned(false);
    return used >= most ? -ENFILE : 0;
  }
}
