/**
 * A virtio device as the control plane sees it: memory, queues, configuration space. vhost/ drives it by the messages of a
 * front end; what the device does with the requests (a file system, a disk) is not known here.
 */

declare const user: unique symbol;
/** An address in the front end's process (SET_VRING_ADDR, memory table), below 2^53. */
export type UserAddr = number & { readonly [user]: true };

declare const guest: unique symbol;
/** A guest-physical address, below 2^53. */
export type GuestAddr = number & { readonly [guest]: true };

/** One region of guest memory, as the front end shared it (vhost-user, "Memory region description"). Sizes in bytes. */
export interface MemoryRegion {
  guestAddr: GuestAddr;
  size: number;
  userAddr: UserAddr;
  /** Where the region starts in `fd`. */
  mmapOffset: number;
  /** Owned by whoever holds the region list; the device only maps it. */
  fd: number;
}

/** A queue ready to run. Descriptors stay the caller's, and open until `stopQueue` has resolved. */
export interface QueueSetup {
  /** Number of descriptors, a power of two up to 32768. */
  size: number;
  /** Descriptor table, available ring and used ring, in the front end's addresses. */
  desc: UserAddr;
  avail: UserAddr;
  used: UserAddr;
  /** The next available index to take. */
  base: number;
  /** Kick eventfd, or -1: the front end asked for polling. */
  kickFd: number;
  /** Call eventfd, or -1: the front end polls. */
  callFd: number;
  /** Error eventfd, or -1. */
  errFd: number;
  /** VIRTIO_RING_F_EVENT_IDX was negotiated. */
  eventIdx: boolean;
  /** VIRTIO_RING_F_INDIRECT_DESC was negotiated. */
  indirect: boolean;
}

/** Memory in which requests in flight are kept for a back end that takes over (vhost-user, "Inflight description"). Sizes in bytes. */
export interface InflightArea {
  /** Stays the caller's, who has seen to it that the file is large enough and nobody can cut it short. */
  fd: number;
  /** Where the area begins in the file, a multiple of the page size. */
  offset: number;
  /** Queues that it has room for, and descriptors of each. */
  queues: number;
  queueSize: number;
}

/** The control plane of one device. Calls are made one after the other, each after the last has resolved. */
export interface VirtioDevice {
  /** All queues that a front end may set up. */
  readonly queueCount: number;
  /** Device-type feature bits, to be offered beside the transport's own. */
  readonly features: bigint;
  /** The configuration space, or an empty array where the device shows none. */
  readonly config: Uint8Array;
  /**
   * Called when part of the guest's memory turns out to be gone, truncated by whoever has made it: the queues serve no more. Set by whom
   * the device is driven by; maybe called more than once.
   */
  onLost: (() => void) | null;
  /**
   * Replaces the guest's memory. Running queues are quiesced, moved over and resumed. Rejects with the reason where a
   * region cannot be mapped; then no memory is mapped and no queue runs.
   */
  setMemory(regions: readonly MemoryRegion[]): Promise<void>;
  /**
   * Requests in flight are kept there from now on, and what was in flight there when another process ended is taken up when its queue
   * starts; null: nowhere. Running queues are quiesced and resumed. Rejects with the reason where it cannot be mapped; then there is none,
   * and no queue runs.
   */
  setInflight(area: InflightArea | null): Promise<void>;
  /** Starts serving a queue that is not running. Rejects with the reason where its rings are not within guest memory. */
  startQueue(index: number, setup: QueueSetup): Promise<void>;
  /** Gives a running queue other call and error eventfds (-1: none). When it has resolved, the old ones are not used any more. */
  setCall(index: number, callFd: number, errFd: number): Promise<void>;
  /** Stops a running queue when its requests in flight are done. Resolves with the next available index. */
  stopQueue(index: number): Promise<number>;
  /**
   * Stops every queue and forgets the guest, its memory, in-flight area, nodes and open files: the front end went, or reset the device.
   * What its requests wait for is given up at once, unless they are to be finished first, as `stopQueue` does.
   */
  reset(finish?: boolean): Promise<void>;
}
