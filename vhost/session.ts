/**
 * One front end's session: what it has negotiated, and one handler for each message. A message arrives here
 * well-formed (connection.ts); its handler checks the payload (payload.ts), then acts on the device. Messages are
 * handled one after the other.
 */
import { libc } from "../ffi/libc.ts";
import { isEvent } from "../ffi/eventfd.ts";
import type { VirtioDevice } from "../vq/device.ts";
import type { Log } from "../vq/log.ts";
import type { Connection, Message } from "./connection.ts";
import { ProtocolError, reasonOf, Refused } from "./errors.ts";
import { Inflight } from "./inflight.ts";
import { checkWithinFile, MemoryTable } from "./memory.ts";
import {
  checkedQueueSize,
  inflightReply,
  readInflight,
  readRegion,
  readVringAddr,
  readVringFd,
  readVringState,
  u64,
  vringState,
} from "./payload.ts";
import { Ring, type RingContext, type RingFd } from "./ring.ts";
import * as wire from "./wire.ts";

const ACK = 0;
const NACK = 1;
/** Refused requests in one session before it is ended: a bound on what a front end can make the log grow by. */
const REFUSALS_MAX = 32;
const NO_MEMORY = "has shared no memory: give the virtual machine shared memory (QEMU: -object " +
  "memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem; libvirt: <memoryBacking> with <access mode='shared'/>)";

/** A payload with a descriptor, which is closed when both are sent. */
interface WithFd {
  payload: Uint8Array;
  fd: number;
}

/** A handler's result is the payload of the message's own reply; none for messages without one. */
type Reply = Uint8Array | WithFd | void;
type Handler = (session: Session, message: Message) => Reply | Promise<Reply>;

export class Session {
  readonly #connection: Connection;
  readonly #device: VirtioDevice;
  readonly #log: Log;
  readonly #memory: MemoryTable;
  readonly #inflight: Inflight;
  readonly #rings: readonly Ring[];
  readonly #offered: bigint;
  readonly #protocolOffered: bigint;
  #features = 0n;
  #protocolFeatures = 0n;
  /** SET_BACKEND_REQ_FD, or -1. Nothing is asked of the front end so far; but User-Mode Linux takes its end for the device's. */
  #backendFd = -1;
  #refusals = 0;
  #toldOfMemory = false;
  #messages = 0;
  /** It ends by our wish: the front end is there, and the guest will see what its requests are answered. */
  #ended = false;
  /** The front end has taken back memory that it had shared. */
  #lost = false;

  constructor(connection: Connection, device: VirtioDevice, log: Log) {
    this.#connection = connection;
    this.#device = device;
    this.#log = log;
    this.#offered = wire.VIRTIO_F_VERSION_1 | wire.VIRTIO_RING_F_EVENT_IDX | wire.VIRTIO_RING_F_INDIRECT_DESC |
      wire.VHOST_USER_F_PROTOCOL_FEATURES | device.features;
    this.#protocolOffered = wire.VHOST_USER_PROTOCOL_F_MQ | wire.VHOST_USER_PROTOCOL_F_REPLY_ACK |
      wire.VHOST_USER_PROTOCOL_F_BACKEND_REQ | wire.VHOST_USER_PROTOCOL_F_RESET_DEVICE |
      wire.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS | wire.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD |
      // QEMU 7.1 to 8.0 crash on it where they do not expect it.
      (device.config.length > 0 ? wire.VHOST_USER_PROTOCOL_F_CONFIG : 0n);
    const memory = this.#memory = new MemoryTable(device);
    this.#inflight = new Inflight(device);
    device.onLost = () => {
      this.#lost = true;
      connection.end();
    };
    const hasFeature = (bit: bigint) => (this.#features & bit) !== 0n;
    const context: RingContext = {
      get eventIdx() {
        return hasFeature(wire.VIRTIO_RING_F_EVENT_IDX);
      },
      get indirect() {
        return hasFeature(wire.VIRTIO_RING_F_INDIRECT_DESC);
      },
      get hasMemory() {
        return memory.regions.length > 0;
      },
    };
    this.#rings = Array.from({ length: device.queueCount }, (_, index) => new Ring(index, device, context));
  }

  /** Complete messages so far. */
  get messages(): number {
    return this.#messages;
  }

  /** Serves until the front end goes or `end` is called. Rejects with a ProtocolError where it has to be thrown out. */
  async run(): Promise<void> {
    for (;;) {
      const message = await this.#connection.read();
      if (this.#lost) {
        message?.closeFds();
        throw new ProtocolError("it has truncated memory that it had shared: the device ends");
      }
      if (message === null) return;
      this.#messages++;
      try {
        await this.#serve(message);
      } finally {
        message.closeFds();
      }
    }
  }

  /** Lets `run` end after the message that it is at. */
  end(): void {
    this.#ended = true;
    this.#connection.end();
  }

  /**
   * To be called once after `run`: resets the device and closes every descriptor. Rejects where the device cannot be
   * reset.
   */
  async close(): Promise<void> {
    this.#device.onLost = null;
    try {
      await this.#device.reset(this.#ended);
    } finally {
      for (const ring of this.#rings) ring.close();
      this.#memory.close();
      this.#inflight.close();
      if (this.#backendFd >= 0) libc.close(this.#backendFd);
      this.#connection.close();
    }
  }

  async #serve(message: Message): Promise<void> {
    const { request, shape } = message;
    let reply: Reply;
    try {
      reply = await this.#handle(message);
    } catch (error) {
      if (!(error instanceof Refused)) throw new ProtocolError(`${shape.name}: ${reasonOf(error)}`, { cause: error });
      const refused = `${shape.name}: ${error.message}`;
      if (shape.replies || !this.#wantsAck(message)) throw new ProtocolError(refused);
      this.#logRefusal(refused);
      return await this.#connection.reply(request, u64(NACK));
    }
    if (reply !== undefined) await this.#reply(request, reply);
    else if (this.#wantsAck(message)) await this.#connection.reply(request, u64(ACK));
  }

  async #reply(request: number, reply: Uint8Array | WithFd): Promise<void> {
    if (reply instanceof Uint8Array) return await this.#connection.reply(request, reply);
    try {
      await this.#connection.reply(request, reply.payload, [reply.fd]);
    } finally {
      libc.close(reply.fd);
    }
  }

  #logRefusal(refused: string): void {
    if (++this.#refusals > REFUSALS_MAX) throw new ProtocolError(`${refused}; and ${REFUSALS_MAX} refusals before`);
    this.#log.warn(`refused a request of the front end: ${refused}`);
  }

  #handle(message: Message): Reply | Promise<Reply> {
    const handler = Session.#handlers.get(message.request);
    if (handler === undefined) throw new Refused("not supported, and not offered either");
    const { feature } = message.shape;
    if ((this.#protocolFeatures & feature) !== feature) throw new Refused("its protocol feature was not negotiated");
    return handler(this, message);
  }

  /** "VHOST_USER_PROTOCOL_F_REPLY_ACK". The message that negotiates it is acknowledged already. */
  #wantsAck(message: Message): boolean {
    return message.needReply && (this.#protocolFeatures & wire.VHOST_USER_PROTOCOL_F_REPLY_ACK) !== 0n;
  }

  #ring(index: number): Ring {
    const ring = this.#rings[index];
    const count = this.#rings.length;
    if (ring === undefined) {
      throw new ProtocolError(
        `queue ${index}, where the device has ${count}: give the front end fewer (num-request-queues), or the device more (--num-request-queues)`,
      );
    }
    return ring;
  }

  get #queuesRun(): boolean {
    return this.#rings.some((ring) => ring.running);
  }

  /** Rings that waited for something may be able to run now. */
  async #updateRings(): Promise<void> {
    for (const ring of this.#rings) await ring.update();
  }

  #getFeatures(): Reply {
    return u64(this.#offered);
  }

  async #setFeatures(payload: DataView): Promise<void> {
    const features = payload.getBigUint64(0, true);
    checkOffered(features, this.#offered, "feature");
    const changed = features ^ this.#features;
    this.#features = features;
    if ((changed & (wire.VIRTIO_RING_F_EVENT_IDX | wire.VIRTIO_RING_F_INDIRECT_DESC)) !== 0n) {
      for (const ring of this.#rings) await ring.restart();
    }
    // "Ring states": without the feature nobody will send SET_VRING_ENABLE.
    if ((features & wire.VHOST_USER_F_PROTOCOL_FEATURES) === 0n) {
      for (const ring of this.#rings) await ring.setEnabled(true);
    }
  }

  #getProtocolFeatures(): Reply {
    return u64(this.#protocolOffered);
  }

  #setProtocolFeatures(payload: DataView): void {
    const features = payload.getBigUint64(0, true);
    checkOffered(features, this.#protocolOffered, "protocol feature");
    this.#protocolFeatures = features;
  }

  /** Deprecated; the specification lets it disable all rings. */
  async #resetOwner(): Promise<void> {
    for (const ring of this.#rings) await ring.setEnabled(false);
  }

  /** Memory and in-flight area stay: they are the front end's, which sends only changes to it where memory slots are negotiated. */
  async #resetDevice(): Promise<void> {
    await this.#device.reset();
    for (const ring of this.#rings) ring.reset();
    this.#features = 0n;
    await this.#memory.restore();
    await this.#inflight.restore();
  }

  #getQueueNum(): Reply {
    return u64(this.#rings.length);
  }

  async #setMemTable(message: Message): Promise<void> {
    const { payload, fds } = message;
    const count = payload.getUint32(wire.memory_table.num_regions, true);
    const room = Math.floor((payload.byteLength - wire.memory_table.regions) / wire.memory_region.sizeof);
    if (count === 0) throw new ProtocolError(`the front end ${NO_MEMORY}`);
    if (count > room) throw new ProtocolError(`${count} regions in a payload with room for ${room}`);
    if (count !== fds.length) throw new ProtocolError(`${count} regions with ${fds.length} descriptors`);
    const regions = fds.map((fd, i) =>
      readRegion(payload, wire.memory_table.regions + i * wire.memory_region.sizeof, fd)
    );
    regions.forEach(checkWithinFile);
    await this.#memory.replace(regions, this.#queuesRun);
    message.takeFds();
    await this.#updateRings();
  }

  async #addMemReg(message: Message): Promise<void> {
    const region = readRegion(message.payload, wire.single_region.region, message.fds[0]);
    checkWithinFile(region);
    await this.#memory.add(region, this.#queuesRun);
    message.takeFds();
    await this.#updateRings();
  }

  async #remMemReg(message: Message): Promise<void> {
    await this.#memory.remove(readRegion(message.payload, wire.single_region.region, -1), this.#queuesRun);
    await this.#updateRings();
  }

  async #setVringNum(payload: DataView): Promise<void> {
    const { index, num } = readVringState(payload);
    await this.#ring(index).setSize(checkedQueueSize(num));
  }

  async #setVringAddr(payload: DataView): Promise<void> {
    const { index, log, ...addresses } = readVringAddr(payload);
    const ring = this.#ring(index);
    if (log) throw new Refused("logging of dirty pages is not supported");
    await ring.setAddresses(addresses);
  }

  async #setVringBase(payload: DataView): Promise<void> {
    const { index, num } = readVringState(payload);
    if (num > 0xffff) throw new ProtocolError(`base index ${num} has more than 16 bits`);
    await this.#ring(index).setBase(num);
  }

  async #getVringBase(payload: DataView): Promise<Reply> {
    const { index } = readVringState(payload);
    return vringState(index, await this.#ring(index).takeBase());
  }

  async #setVringEnable(payload: DataView): Promise<void> {
    const { index, num } = readVringState(payload);
    if (num > 1) throw new ProtocolError(`${num} is neither 0 (disable) nor 1 (enable)`);
    const ring = this.#ring(index);
    this.#tellOfMemory(num === 1);
    await ring.setEnabled(num === 1);
  }

  /** QEMU leaves out what it cannot share, says nothing where memory goes by slots, and its guest waits for answers for ever. */
  #tellOfMemory(enabled: boolean): void {
    if (!enabled || this.#toldOfMemory || this.#memory.regions.length > 0) return;
    this.#toldOfMemory = true;
    this.#log.error(`the front end enables its queues, and it ${NO_MEMORY}`);
  }

  async #setVringFd(which: RingFd, message: Message): Promise<void> {
    const { index, hasFd } = readVringFd(message.payload, message.fds.length);
    const ring = this.#ring(index);
    // A socket is never read (see Connection), and so no kick comes by it.
    if (hasFd && !isEvent(message.fds[0], which !== "kick")) {
      throw new ProtocolError("its descriptor is neither an eventfd nor a pipe");
    }
    await ring.setFd(which, () => hasFd ? message.takeFds()[0] : -1);
  }

  #setBackendReqFd(message: Message): void {
    if (this.#backendFd >= 0) libc.close(this.#backendFd);
    this.#backendFd = message.takeFds()[0] ?? -1;
  }

  #getInflightFd(payload: DataView<ArrayBuffer>): Reply {
    const asked = readInflight(payload);
    const { fd, size } = this.#inflight.create(asked);
    return { payload: inflightReply(payload, { ...asked, size, offset: 0 }), fd };
  }

  async #setInflightFd(message: Message): Promise<void> {
    await this.#inflight.set(readInflight(message.payload), message.fds[0]);
    message.takeFds();
    await this.#updateRings();
  }

  /**
   * The payload comes back filled in. Bytes beyond the device's own are 0, as a driver takes fields that a device
   * does not have. No payload at all is the protocol's way to refuse.
   */
  #getConfig(payload: DataView<ArrayBuffer>): Reply {
    const offset = payload.getUint32(wire.device_config.offset, true);
    const size = payload.getUint32(wire.device_config.size, true);
    if (size === 0 || offset + size > wire.CONFIG_SIZE_MAX) {
      this.#logRefusal(`VHOST_USER_GET_CONFIG: ${size} bytes from ${offset} of at most ${wire.CONFIG_SIZE_MAX}`);
      return new Uint8Array(0);
    }
    const reply = new Uint8Array(wire.device_config.payload + size);
    reply.set(new Uint8Array(payload.buffer, 0, wire.device_config.payload));
    reply.set(this.#device.config.subarray(offset, offset + size), wire.device_config.payload);
    return reply;
  }

  /** Every message that is understood. The others of the specification are refused. */
  static readonly #handlers: ReadonlyMap<number, Handler> = new Map<number, Handler>([
    [wire.VHOST_USER_GET_FEATURES, (s) => s.#getFeatures()],
    [wire.VHOST_USER_SET_FEATURES, (s, m) => s.#setFeatures(m.payload)],
    [wire.VHOST_USER_GET_PROTOCOL_FEATURES, (s) => s.#getProtocolFeatures()],
    [wire.VHOST_USER_SET_PROTOCOL_FEATURES, (s, m) => s.#setProtocolFeatures(m.payload)],
    [wire.VHOST_USER_SET_OWNER, () => {}],
    [wire.VHOST_USER_RESET_OWNER, (s) => s.#resetOwner()],
    [wire.VHOST_USER_RESET_DEVICE, (s) => s.#resetDevice()],
    [wire.VHOST_USER_GET_QUEUE_NUM, (s) => s.#getQueueNum()],
    [wire.VHOST_USER_SET_MEM_TABLE, (s, m) => s.#setMemTable(m)],
    [wire.VHOST_USER_GET_MAX_MEM_SLOTS, () => u64(wire.MEM_SLOTS_MAX)],
    [wire.VHOST_USER_ADD_MEM_REG, (s, m) => s.#addMemReg(m)],
    [wire.VHOST_USER_REM_MEM_REG, (s, m) => s.#remMemReg(m)],
    [wire.VHOST_USER_SET_VRING_NUM, (s, m) => s.#setVringNum(m.payload)],
    [wire.VHOST_USER_SET_VRING_ADDR, (s, m) => s.#setVringAddr(m.payload)],
    [wire.VHOST_USER_SET_VRING_BASE, (s, m) => s.#setVringBase(m.payload)],
    [wire.VHOST_USER_GET_VRING_BASE, (s, m) => s.#getVringBase(m.payload)],
    [wire.VHOST_USER_SET_VRING_KICK, (s, m) => s.#setVringFd("kick", m)],
    [wire.VHOST_USER_SET_VRING_CALL, (s, m) => s.#setVringFd("call", m)],
    [wire.VHOST_USER_SET_VRING_ERR, (s, m) => s.#setVringFd("err", m)],
    [wire.VHOST_USER_SET_VRING_ENABLE, (s, m) => s.#setVringEnable(m.payload)],
    [wire.VHOST_USER_GET_INFLIGHT_FD, (s, m) => s.#getInflightFd(m.payload)],
    [wire.VHOST_USER_SET_INFLIGHT_FD, (s, m) => s.#setInflightFd(m)],
    [wire.VHOST_USER_SET_BACKEND_REQ_FD, (s, m) => s.#setBackendReqFd(m)],
    [wire.VHOST_USER_GET_CONFIG, (s, m) => s.#getConfig(m.payload)],
    [wire.VHOST_USER_SET_CONFIG, () => refuse("the device's configuration cannot be written")],
  ]);
}

function checkOffered(features: bigint, offered: bigint, what: string): void {
  const surplus = features & ~offered;
  if (surplus !== 0n) throw new ProtocolError(`${what} bits 0x${surplus.toString(16)} were not offered`);
}

function refuse(reason: string): never {
  throw new Refused(reason);
}
