/**
 * Payloads read and checked by themselves, before any state is looked at; and replies written. Sources: "Payload" in
 * the vhost-user specification. Whatever is out of range throws a ProtocolError without the message's name, which the
 * caller adds.
 */
import type { GuestAddr, MemoryRegion, UserAddr } from "../vq/device.ts";
import { ProtocolError } from "./errors.ts";
import {
  inflight_description,
  memory_region,
  VHOST_USER_VRING_IDX_MASK,
  VHOST_USER_VRING_NOFD_MASK,
  vhost_vring_addr,
  VHOST_VRING_F_LOG,
  vhost_vring_state,
} from "./wire.ts";

/** The largest queue, VIRTIO 2.7: "Queue Size". In descriptors. */
export const QUEUE_SIZE_MAX = 32768;

const LIMIT = 2 ** 53;

/** A u64 that has to be exact as a number: below 2^53. */
export function readNumber(view: DataView, at: number, what: string): number {
  const value = view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
  if (value >= LIMIT) throw new ProtocolError(`${what} 0x${view.getBigUint64(at, true).toString(16)} is beyond 2^53`);
  return value;
}

/** "A vring state description". `num` means what the message says it means. */
export function readVringState(view: DataView): { index: number; num: number } {
  return { index: view.getUint32(vhost_vring_state.index, true), num: view.getUint32(vhost_vring_state.num, true) };
}

/** A queue's size: a power of two, VIRTIO 2.7. */
export function checkedQueueSize(size: number): number {
  if (size >= 1 && size <= QUEUE_SIZE_MAX && (size & (size - 1)) === 0) return size;
  throw new ProtocolError(`queue size ${size} is not a power of two from 1 to ${QUEUE_SIZE_MAX}`);
}

/** Where a queue's rings are, in the front end's addresses. */
export interface RingAddresses {
  desc: UserAddr;
  avail: UserAddr;
  used: UserAddr;
}

/** "A vring address description", with the alignment that VIRTIO 2.7 asks for: 16, 2 and 4 bytes. */
export function readVringAddr(view: DataView): { index: number; log: boolean } & RingAddresses {
  const flags = view.getUint32(vhost_vring_addr.flags, true);
  if ((flags & ~VHOST_VRING_F_LOG) !== 0) throw new ProtocolError(`unknown ring flags 0x${flags.toString(16)}`);
  const aligned = (at: number, what: string, alignment: number) => {
    const address = readNumber(view, at, `${what} address`);
    if (address % alignment === 0) return address as UserAddr;
    throw new ProtocolError(`${what} address 0x${address.toString(16)} is not a multiple of ${alignment}`);
  };
  return {
    index: view.getUint32(vhost_vring_addr.index, true),
    log: flags === VHOST_VRING_F_LOG,
    desc: aligned(vhost_vring_addr.desc_user_addr, "descriptor table", 16),
    avail: aligned(vhost_vring_addr.avail_user_addr, "available ring", 2),
    used: aligned(vhost_vring_addr.used_user_addr, "used ring", 4),
  };
}

/** The u64 of SET_VRING_KICK, _CALL and _ERR, held against the number of descriptors that came with it. */
export function readVringFd(view: DataView, fds: number): { index: number; hasFd: boolean } {
  const low = view.getUint32(0, true);
  const unknown = low & ~(VHOST_USER_VRING_IDX_MASK | VHOST_USER_VRING_NOFD_MASK);
  if (unknown !== 0 || view.getUint32(4, true) !== 0) {
    throw new ProtocolError(`unknown bits in 0x${view.getBigUint64(0, true).toString(16)}`);
  }
  const hasFd = (low & VHOST_USER_VRING_NOFD_MASK) === 0;
  if (hasFd && fds === 0) throw new ProtocolError("the descriptor is missing");
  if (!hasFd && fds !== 0) throw new ProtocolError("a descriptor came although the message says that there is none");
  return { index: low & VHOST_USER_VRING_IDX_MASK, hasFd };
}

/** "Memory region description" at an offset of the payload. `fd` is -1 where only the addresses matter. */
export function readRegion(view: DataView, at: number, fd: number): MemoryRegion {
  const region = {
    guestAddr: readNumber(view, at + memory_region.guest_addr, "guest address") as GuestAddr,
    size: readNumber(view, at + memory_region.size, "region size"),
    userAddr: readNumber(view, at + memory_region.user_addr, "user address") as UserAddr,
    mmapOffset: readNumber(view, at + memory_region.mmap_offset, "mmap offset"),
    fd,
  };
  if (region.size === 0) throw new ProtocolError(`${describe(region)} has size 0`);
  for (const start of [region.guestAddr, region.userAddr, region.mmapOffset]) {
    // Not their sum, which would be rounded.
    if (start > LIMIT - region.size) throw new ProtocolError(`${describe(region)} ends beyond 2^53`);
  }
  return region;
}

/** "Inflight description": what a front end asks for, or where it is. Sizes in bytes and descriptors. */
export interface InflightDescription {
  size: number;
  offset: number;
  queues: number;
  queueSize: number;
}

/** Reads one. Only the numbers of queues and descriptors mean something in what asks for an area. */
export function readInflight(view: DataView): InflightDescription {
  const queueSize = view.getUint16(inflight_description.queue_size, true);
  return {
    size: readNumber(view, inflight_description.mmap_size, "the area's size"),
    offset: readNumber(view, inflight_description.mmap_offset, "the area's offset"),
    queues: view.getUint16(inflight_description.num_queues, true),
    queueSize: checkedQueueSize(queueSize),
  };
}

/** A reply of one, as long as what asked for it. */
export function inflightReply(asked: DataView<ArrayBuffer>, { size, offset }: InflightDescription): Uint8Array {
  const reply = new Uint8Array(asked.buffer.slice(0));
  const view = new DataView(reply.buffer);
  view.setBigUint64(inflight_description.mmap_size, BigInt(size), true);
  view.setBigUint64(inflight_description.mmap_offset, BigInt(offset), true);
  return reply;
}

/** A region in a log line. */
export function describe(region: MemoryRegion): string {
  return `region at guest address 0x${region.guestAddr.toString(16)}, 0x${region.size.toString(16)} bytes,`;
}

/** A reply or acknowledgement of one u64. */
export function u64(value: bigint | number): Uint8Array {
  return new Uint8Array(BigUint64Array.of(BigInt(value)).buffer);
}

/** A reply of a vring state. */
export function vringState(index: number, num: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(index, num).buffer);
}
