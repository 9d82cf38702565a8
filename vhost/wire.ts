/**
 * The vhost-user protocol in numbers: messages, flags, feature bits, layouts. Source: QEMU
 * docs/interop/vhost-user.rst, and linux/vhost_types.h for the structs that the protocol borrows. All of it is in the
 * machine's byte order, which is little-endian on both machines that ringfsd runs on.
 */

/** Message header ("Header"). Byte offsets. */
export const header = { request: 0, flags: 4, size: 8, sizeof: 12 } as const;

export const VHOST_USER_VERSION = 1;
export const VHOST_USER_VERSION_MASK = 0x3;
export const VHOST_USER_REPLY_MASK = 0x4;
export const VHOST_USER_NEED_REPLY_MASK = 0x8;

/** In the u64 of SET_VRING_KICK, _CALL and _ERR. */
export const VHOST_USER_VRING_IDX_MASK = 0xff;
export const VHOST_USER_VRING_NOFD_MASK = 0x100;

/** struct vhost_vring_state. Byte offsets. */
export const vhost_vring_state = { index: 0, num: 4, sizeof: 8 } as const;
/** struct vhost_vring_addr. Byte offsets. */
export const vhost_vring_addr = {
  index: 0,
  flags: 4,
  desc_user_addr: 8,
  used_user_addr: 16,
  avail_user_addr: 24,
  log_guest_addr: 32,
  sizeof: 40,
} as const;
export const VHOST_VRING_F_LOG = 1;
/** "Memory region description". Byte offsets. */
export const memory_region = { guest_addr: 0, size: 8, user_addr: 16, mmap_offset: 24, sizeof: 32 } as const;
/** "Multiple memory regions description". Byte offsets. */
export const memory_table = { num_regions: 0, regions: 8 } as const;
/** "Single memory region description". Byte offsets. */
export const single_region = { region: 8, sizeof: 40 } as const;
/** "Virtio device config space". Byte offsets. */
export const device_config = { offset: 0, size: 4, flags: 8, payload: 12 } as const;
/** "Inflight description". Byte offsets. QEMU's struct ends in four bytes of padding. */
export const inflight_description = {
  mmap_size: 0,
  mmap_offset: 8,
  num_queues: 16,
  queue_size: 18,
  sizeof: 20,
  padded: 24,
} as const;

/** Regions, and so descriptors, of one SET_MEM_TABLE. The specification has 8; rust-vmm's front ends send up to 32. */
export const REGIONS_MAX = 32;
/** What GET_MAX_MEM_SLOTS answers. Each slot in use costs a descriptor and a mapping. */
export const MEM_SLOTS_MAX = 509;
/** The end of the configuration space that a front end may ask for, in bytes. */
export const CONFIG_SIZE_MAX = 4096;
/** Descriptors with one message. */
export const FDS_MAX = REGIONS_MAX;

// Feature bits, VIRTIO 6 and vhost.
export const VHOST_F_LOG_ALL = 1n << 26n;
export const VIRTIO_RING_F_INDIRECT_DESC = 1n << 28n;
export const VIRTIO_RING_F_EVENT_IDX = 1n << 29n;
export const VHOST_USER_F_PROTOCOL_FEATURES = 1n << 30n;
export const VIRTIO_F_VERSION_1 = 1n << 32n;

// Protocol features.
export const VHOST_USER_PROTOCOL_F_MQ = 1n << 0n;
export const VHOST_USER_PROTOCOL_F_LOG_SHMFD = 1n << 1n;
export const VHOST_USER_PROTOCOL_F_REPLY_ACK = 1n << 3n;
export const VHOST_USER_PROTOCOL_F_BACKEND_REQ = 1n << 5n;
export const VHOST_USER_PROTOCOL_F_CONFIG = 1n << 9n;
export const VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD = 1n << 12n;
export const VHOST_USER_PROTOCOL_F_RESET_DEVICE = 1n << 13n;
export const VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 1n << 15n;
export const VHOST_USER_PROTOCOL_F_DEVICE_STATE = 1n << 19n;
export const VHOST_USER_PROTOCOL_F_SHMEM = 1n << 22n;

/** "Front-end message types". */
export const VHOST_USER_GET_FEATURES = 1;
export const VHOST_USER_SET_FEATURES = 2;
export const VHOST_USER_SET_OWNER = 3;
export const VHOST_USER_RESET_OWNER = 4;
export const VHOST_USER_SET_MEM_TABLE = 5;
export const VHOST_USER_SET_LOG_BASE = 6;
export const VHOST_USER_SET_LOG_FD = 7;
export const VHOST_USER_SET_VRING_NUM = 8;
export const VHOST_USER_SET_VRING_ADDR = 9;
export const VHOST_USER_SET_VRING_BASE = 10;
export const VHOST_USER_GET_VRING_BASE = 11;
export const VHOST_USER_SET_VRING_KICK = 12;
export const VHOST_USER_SET_VRING_CALL = 13;
export const VHOST_USER_SET_VRING_ERR = 14;
export const VHOST_USER_GET_PROTOCOL_FEATURES = 15;
export const VHOST_USER_SET_PROTOCOL_FEATURES = 16;
export const VHOST_USER_GET_QUEUE_NUM = 17;
export const VHOST_USER_SET_VRING_ENABLE = 18;
export const VHOST_USER_SEND_RARP = 19;
export const VHOST_USER_NET_SET_MTU = 20;
export const VHOST_USER_SET_BACKEND_REQ_FD = 21;
export const VHOST_USER_IOTLB_MSG = 22;
export const VHOST_USER_SET_VRING_ENDIAN = 23;
export const VHOST_USER_GET_CONFIG = 24;
export const VHOST_USER_SET_CONFIG = 25;
export const VHOST_USER_CREATE_CRYPTO_SESSION = 26;
export const VHOST_USER_CLOSE_CRYPTO_SESSION = 27;
export const VHOST_USER_POSTCOPY_ADVISE = 28;
export const VHOST_USER_POSTCOPY_LISTEN = 29;
export const VHOST_USER_POSTCOPY_END = 30;
export const VHOST_USER_GET_INFLIGHT_FD = 31;
export const VHOST_USER_SET_INFLIGHT_FD = 32;
export const VHOST_USER_GPU_SET_SOCKET = 33;
export const VHOST_USER_RESET_DEVICE = 34;
export const VHOST_USER_VRING_KICK = 35;
export const VHOST_USER_GET_MAX_MEM_SLOTS = 36;
export const VHOST_USER_ADD_MEM_REG = 37;
export const VHOST_USER_REM_MEM_REG = 38;
export const VHOST_USER_SET_STATUS = 39;
export const VHOST_USER_GET_STATUS = 40;
export const VHOST_USER_GET_SHARED_OBJECT = 41;
export const VHOST_USER_SET_DEVICE_STATE_FD = 42;
export const VHOST_USER_CHECK_DEVICE_STATE = 43;
export const VHOST_USER_GET_SHMEM_CONFIG = 44;

/** What a message must look like before anybody looks into it. */
export interface Shape {
  readonly name: string;
  /** Bounds of the payload's size in bytes. */
  readonly minSize: number;
  readonly maxSize: number;
  /** Bounds of the number of descriptors. Messages that decide by their payload say so to the handler's check. */
  readonly minFds: number;
  readonly maxFds: number;
  /** It is answered by a message of its own, so NEED_REPLY asks for nothing more. */
  readonly replies: boolean;
  /** The protocol feature that must have been negotiated, or 0n. */
  readonly feature: bigint;
}

/** Anything up to the largest payload that a known message has: for messages that are refused unread. */
export const PAYLOAD_MAX = device_config.payload + CONFIG_SIZE_MAX;

type Bounds = number | readonly [min: number, max: number];

function shape(name: string, size: Bounds, fds: Bounds, replies = false, feature = 0n): Shape {
  const [minSize, maxSize] = typeof size === "number" ? [size, size] : size;
  const [minFds, maxFds] = typeof fds === "number" ? [fds, fds] : fds;
  return { name: `VHOST_USER_${name}`, minSize, maxSize, minFds, maxFds, replies, feature };
}

const ANY_SIZE = [0, PAYLOAD_MAX] as const;
const ANY_FDS = [0, FDS_MAX] as const;
const U64 = 8;
const STATE = vhost_vring_state.sizeof;
const MEM_TABLE = [
  memory_table.regions + memory_region.sizeof,
  memory_table.regions + REGIONS_MAX * memory_region.sizeof,
] as const;
const MEM_SLOTS = VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS;
const INFLIGHT = [inflight_description.sizeof, inflight_description.padded] as const;
const SHMFD = VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD;

/** Every message of the specification by its number: name, payload, descriptors, own reply, protocol feature. */
export const shapes: ReadonlyMap<number, Shape> = new Map([
  [VHOST_USER_GET_FEATURES, shape("GET_FEATURES", 0, 0, true)],
  [VHOST_USER_SET_FEATURES, shape("SET_FEATURES", U64, 0)],
  [VHOST_USER_SET_OWNER, shape("SET_OWNER", 0, 0)],
  [VHOST_USER_RESET_OWNER, shape("RESET_OWNER", 0, 0)],
  // User-Mode Linux sends room for two regions and says one, so the size may exceed what the count needs.
  [VHOST_USER_SET_MEM_TABLE, shape("SET_MEM_TABLE", MEM_TABLE, [1, REGIONS_MAX])],
  [VHOST_USER_SET_LOG_BASE, shape("SET_LOG_BASE", ANY_SIZE, ANY_FDS)],
  [VHOST_USER_SET_LOG_FD, shape("SET_LOG_FD", ANY_SIZE, ANY_FDS)],
  [VHOST_USER_SET_VRING_NUM, shape("SET_VRING_NUM", STATE, 0)],
  [VHOST_USER_SET_VRING_ADDR, shape("SET_VRING_ADDR", vhost_vring_addr.sizeof, 0)],
  [VHOST_USER_SET_VRING_BASE, shape("SET_VRING_BASE", STATE, 0)],
  [VHOST_USER_GET_VRING_BASE, shape("GET_VRING_BASE", STATE, 0, true)],
  [VHOST_USER_SET_VRING_KICK, shape("SET_VRING_KICK", U64, [0, 1])],
  [VHOST_USER_SET_VRING_CALL, shape("SET_VRING_CALL", U64, [0, 1])],
  [VHOST_USER_SET_VRING_ERR, shape("SET_VRING_ERR", U64, [0, 1])],
  [VHOST_USER_GET_PROTOCOL_FEATURES, shape("GET_PROTOCOL_FEATURES", 0, 0, true)],
  [VHOST_USER_SET_PROTOCOL_FEATURES, shape("SET_PROTOCOL_FEATURES", U64, 0)],
  [VHOST_USER_GET_QUEUE_NUM, shape("GET_QUEUE_NUM", 0, 0, true, VHOST_USER_PROTOCOL_F_MQ)],
  [VHOST_USER_SET_VRING_ENABLE, shape("SET_VRING_ENABLE", STATE, 0)],
  [VHOST_USER_SEND_RARP, shape("SEND_RARP", ANY_SIZE, ANY_FDS)],
  [VHOST_USER_NET_SET_MTU, shape("NET_SET_MTU", ANY_SIZE, ANY_FDS)],
  [VHOST_USER_SET_BACKEND_REQ_FD, shape("SET_BACKEND_REQ_FD", 0, 1, false, VHOST_USER_PROTOCOL_F_BACKEND_REQ)],
  [VHOST_USER_IOTLB_MSG, shape("IOTLB_MSG", ANY_SIZE, ANY_FDS, true)],
  [VHOST_USER_SET_VRING_ENDIAN, shape("SET_VRING_ENDIAN", ANY_SIZE, ANY_FDS)],
  [VHOST_USER_GET_CONFIG, shape("GET_CONFIG", [12, PAYLOAD_MAX], 0, true, VHOST_USER_PROTOCOL_F_CONFIG)],
  [VHOST_USER_SET_CONFIG, shape("SET_CONFIG", [12, PAYLOAD_MAX], 0, false, VHOST_USER_PROTOCOL_F_CONFIG)],
  [VHOST_USER_CREATE_CRYPTO_SESSION, shape("CREATE_CRYPTO_SESSION", ANY_SIZE, ANY_FDS, true)],
  [VHOST_USER_CLOSE_CRYPTO_SESSION, shape("CLOSE_CRYPTO_SESSION", ANY_SIZE, ANY_FDS)],
  [VHOST_USER_POSTCOPY_ADVISE, shape("POSTCOPY_ADVISE", ANY_SIZE, ANY_FDS, true)],
  [VHOST_USER_POSTCOPY_LISTEN, shape("POSTCOPY_LISTEN", ANY_SIZE, ANY_FDS)],
  [VHOST_USER_POSTCOPY_END, shape("POSTCOPY_END", ANY_SIZE, ANY_FDS, true)],
  [VHOST_USER_GET_INFLIGHT_FD, shape("GET_INFLIGHT_FD", INFLIGHT, 0, true, SHMFD)],
  [VHOST_USER_SET_INFLIGHT_FD, shape("SET_INFLIGHT_FD", INFLIGHT, 1, false, SHMFD)],
  [VHOST_USER_GPU_SET_SOCKET, shape("GPU_SET_SOCKET", ANY_SIZE, ANY_FDS)],
  [VHOST_USER_RESET_DEVICE, shape("RESET_DEVICE", 0, 0, false, VHOST_USER_PROTOCOL_F_RESET_DEVICE)],
  [VHOST_USER_VRING_KICK, shape("VRING_KICK", ANY_SIZE, ANY_FDS)],
  [VHOST_USER_GET_MAX_MEM_SLOTS, shape("GET_MAX_MEM_SLOTS", 0, 0, true, MEM_SLOTS)],
  [VHOST_USER_ADD_MEM_REG, shape("ADD_MEM_REG", single_region.sizeof, 1, false, MEM_SLOTS)],
  // A descriptor is not needed, but QEMU sends one.
  [VHOST_USER_REM_MEM_REG, shape("REM_MEM_REG", single_region.sizeof, [0, 1], false, MEM_SLOTS)],
  [VHOST_USER_SET_STATUS, shape("SET_STATUS", ANY_SIZE, ANY_FDS)],
  [VHOST_USER_GET_STATUS, shape("GET_STATUS", ANY_SIZE, ANY_FDS, true)],
  [VHOST_USER_GET_SHARED_OBJECT, shape("GET_SHARED_OBJECT", ANY_SIZE, ANY_FDS, true)],
  [VHOST_USER_SET_DEVICE_STATE_FD, shape("SET_DEVICE_STATE_FD", ANY_SIZE, ANY_FDS, true)],
  [VHOST_USER_CHECK_DEVICE_STATE, shape("CHECK_DEVICE_STATE", ANY_SIZE, ANY_FDS, true)],
  [VHOST_USER_GET_SHMEM_CONFIG, shape("GET_SHMEM_CONFIG", ANY_SIZE, ANY_FDS, true)],
]);
