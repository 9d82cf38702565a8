/** What the control plane shows of a share: names for what vq/ counts by number, and what the guest holds. */
import type { KindCounts } from "../vq/meter.ts";
import type { InFlight } from "../vq/flight.ts";
import type { FsConfig } from "./config.ts";
import { descriptorsFor } from "./descriptors.ts";
import { countHandles } from "./handles.ts";
import { countOwners } from "./locks.ts";
import { countMounts } from "./mounts.ts";
import { countNodes } from "./nodes.ts";
import { opcodes } from "./opcodes.ts";
import { descriptorsOf } from "./session.ts";
import {
  WAITS_AWAY,
  WAITS_AWAY_LOCK,
  WAITS_COPY,
  WAITS_COPY_64,
  WAITS_LOCK,
  WAITS_PLAIN,
  WAITS_READ,
  WAITS_SPARE,
  WAITS_SYNC,
  WAITS_WRITE,
} from "./service.ts";
import {
  FUSE_DESTROY,
  fuse_in_header,
  FUSE_INIT,
  fuse_out_header,
  FUSE_READ,
  FUSE_WRITE,
  fuse_write_in,
} from "./wire.ts";

/** What a kind of requests is called: the FUSE operation's name in small letters; "other" for what is none, or malformed. */
export function operationName(kind: number): string {
  return opcodes[kind]?.name.toLowerCase() ?? "other";
}

/** All names that there may be. */
export function operationNames(): string[] {
  return ["other", ...opcodes.flatMap((operation) => operation?.name.toLowerCase() ?? [])];
}

/** Bytes of files that were read: each READ is answered with a header and its data. */
export function readBytes(kinds: readonly KindCounts[]): number {
  const read = kinds.find(({ kind }) => kind === FUSE_READ);
  return read === undefined ? 0 : Math.max(0, read.bytesOut - read.count * fuse_out_header.sizeof);
}

/** Bytes that came to be written: what is behind the arguments of each WRITE, whether or not it succeeded. */
export function writeBytes(kinds: readonly KindCounts[]): number {
  const write = kinds.find(({ kind }) => kind === FUSE_WRITE);
  const head = fuse_in_header.sizeof + fuse_write_in.sizeof;
  return write === undefined ? 0 : Math.max(0, write.bytesIn - write.count * head);
}

/** Where a request in flight waits. */
export const PLACES = ["loop", "ring", "helper", "lock", "session"] as const;
export type Place = typeof PLACES[number];

const AT: Record<number, Place> = {
  [WAITS_READ]: "ring",
  [WAITS_WRITE]: "ring",
  [WAITS_PLAIN]: "ring",
  [WAITS_SPARE]: "ring",
  [WAITS_COPY]: "helper",
  [WAITS_COPY_64]: "helper",
  [WAITS_SYNC]: "helper",
  [WAITS_AWAY]: "helper",
  [WAITS_LOCK]: "lock",
  [WAITS_AWAY_LOCK]: "lock",
};

/**
 * Where a request waits: for the loop itself, which is in a system call for it; for an operation of the ring; for a helper thread; for
 * a lock that another holds; or until it has the session for itself.
 */
export function placeOf({ kind, waits }: Pick<InFlight, "kind" | "waits">): Place {
  if (waits === 0 && (kind === FUSE_INIT || kind === FUSE_DESTROY)) return "session";
  return AT[waits] ?? "loop";
}

/** The request's unique and nodeid, as the guest's kernel has them. */
export function namesOf({ notes }: Pick<InFlight, "notes">): { unique: string; nodeid: string } {
  const wide = (at: number) => String(BigInt(notes[at]) | BigInt(notes[at + 1]) << 32n);
  return { unique: wide(0), nodeid: wide(2) };
}

/** What a share's guest holds. */
export interface ShareUse {
  /** Files that it knows, and of them those that hold a descriptor. */
  nodes: number;
  nodesOpen: number;
  /** Open files and directories. */
  handles: number;
  lockOwners: number;
  /** Descriptors in all, and how many it may have. */
  descriptors: number;
  descriptorsMax: number;
}

/** Looks at a share's tables. It must not have been closed. */
export function shareUse(config: FsConfig): ShareUse {
  const { known, holding } = countNodes(config.nodes);
  const handles = countHandles(config.handles);
  const lockOwners = countOwners(config.locks);
  return {
    nodes: known,
    nodesOpen: holding,
    handles,
    lockOwners,
    descriptors: holding + handles + lockOwners + countMounts(config.mounts),
    descriptorsMax: descriptorsFor(descriptorsOf(config.session), config.loops),
  };
}
