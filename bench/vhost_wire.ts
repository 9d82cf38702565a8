/**
 * The vhost-user protocol's numbers and payloads, as the front end needs them: derived from the specification
 * (docs/interop/vhost-user.rst of QEMU), apart from the back end's own tables, so that a mistake in one shows against the other.
 */
import type { MemoryRegion } from "../vq/device.ts";

/** Request codes, "Front-end message types". */
export const VHOST_USER = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  SET_OWNER: 3,
  RESET_OWNER: 4,
  SET_MEM_TABLE: 5,
  SET_LOG_BASE: 6,
  SET_LOG_FD: 7,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  SET_VRING_BASE: 10,
  GET_VRING_BASE: 11,
  SET_VRING_KICK: 12,
  SET_VRING_CALL: 13,
  SET_VRING_ERR: 14,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
  SET_BACKEND_REQ_FD: 21,
  GET_CONFIG: 24,
  SET_CONFIG: 25,
  GET_INFLIGHT_FD: 31,
  SET_INFLIGHT_FD: 32,
  RESET_DEVICE: 34,
  GET_MAX_MEM_SLOTS: 36,
  ADD_MEM_REG: 37,
  REM_MEM_REG: 38,
  SET_STATUS: 39,
  GET_STATUS: 40,
} as const;

/** Bits of the flags word: version 1, reply, need_reply. */
export const FLAG_VERSION = 1;
export const FLAG_REPLY = 4;
export const FLAG_NEED_REPLY = 8;

/** Header: request, flags, size of the payload; le32 each. */
export const HEADER_BYTES = 12;

/** Feature bits (VIRTIO 1.2 clause 6, and the protocol's own bit 30). */
export const VIRTIO_RING_F_INDIRECT_DESC = 1n << 28n;
export const VIRTIO_RING_F_EVENT_IDX = 1n << 29n;
export const VHOST_USER_F_PROTOCOL_FEATURES = 1n << 30n;
export const VIRTIO_F_VERSION_1 = 1n << 32n;

/** Protocol feature bits, "Protocol features". */
export const PROTOCOL_F_MQ = 1n << 0n;
export const PROTOCOL_F_REPLY_ACK = 1n << 3n;
export const PROTOCOL_F_BACKEND_REQ = 1n << 5n;
export const PROTOCOL_F_CONFIG = 1n << 9n;
export const PROTOCOL_F_INFLIGHT_SHMFD = 1n << 12n;
export const PROTOCOL_F_RESET_DEVICE = 1n << 13n;
export const PROTOCOL_F_CONFIGURE_MEM_SLOTS = 1n << 15n;

/** In the u64 of SET_VRING_KICK, CALL and ERR: no descriptor comes with it. */
export const VRING_NOFD = 0x100n;

/** The name of a request code, for messages. */
export function requestName(code: number): string {
  const found = Object.entries(VHOST_USER).find(([, value]) => value === code);
  return found ? found[0] : `request ${code}`;
}

/** A message: header and payload. */
export function message(request: number, flags: number, payload: Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  bytes.set(words32(request, flags, payload.length));
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

/** Little-endian 32-bit words. */
export function words32(...values: number[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

/** Little-endian 64-bit words. */
export function words64(...values: (number | bigint)[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(BigUint64Array.from(values, BigInt).buffer);
}

/** "Memory region description": guest address, size, user address, mmap offset. */
function regionWords(region: MemoryRegion): number[] {
  return [region.guestAddr, region.size, region.userAddr, region.mmapOffset];
}

/** Payload of SET_MEM_TABLE: number of regions, padding, regions. */
export function memoryTable(regions: readonly MemoryRegion[]): Uint8Array<ArrayBuffer> {
  return words64(regions.length, ...regions.flatMap(regionWords));
}

/** Payload of ADD_MEM_REG and REM_MEM_REG: padding, region. */
export function singleRegion(region: MemoryRegion): Uint8Array<ArrayBuffer> {
  return words64(0, ...regionWords(region));
}

/** "Inflight description": size and offset of the area, queues, descriptors of each, padding. */
export function inflightDescription(size: number, offset: number, queues: number, queueSize: number) {
  const bytes = new Uint8Array(24);
  bytes.set(words64(size, offset));
  bytes.set(words32(queues | queueSize << 16), 16);
  return bytes;
}

/** Payload of SET_VRING_ADDR: index, flags, then descriptor table, used ring, available ring and log as user addresses. */
export function vringAddress(index: number, desc: number, used: number, avail: number, flags = 0) {
  const bytes = new Uint8Array(40);
  bytes.set(words32(index, flags));
  bytes.set(words64(desc, used, avail, 0), 8);
  return bytes;
}
