/** vhost-user messages: sessions that are right, with messages left out, doubled, exchanged and changed, and descriptors of any kind. */
import { Frontend } from "../../bench/frontend.ts";
import * as wire from "../../bench/vhost_wire.ts";
import { bytes, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { libc } from "../../ffi/libc.ts";
import { map, MAP_SHARED, PROT_READ, PROT_WRITE, unmap } from "../../ffi/memory.ts";
import { makers } from "./descriptors.ts";
import type { Case, Counts, Kind, Player } from "./kind.ts";
import { hexText, pieces } from "./pieces.ts";
import { type Next, pick } from "./skeletons.ts";
import type { Target } from "./target.ts";

const { VHOST_USER } = wire;
const REPLY_MS = 5000;
const NEED_REPLY = 8;
const REGION = 0x10_0000;
/** Where the front end says that it has its memory, and where the guest does. */
const USER_AT = 0x7f00_0000_0000, GUEST_AT = 0x10_0000;
const SIZE = 16;
/** In the region: each queue's table, available and used ring, a request and room for its reply. */
const QUEUE_BYTES = 0x2000, AVAIL = 0x400, USED = 0x600, REQUEST = 0x1000, REPLY = 0x1800;

const FEATURES = wire.VIRTIO_F_VERSION_1 | wire.VHOST_USER_F_PROTOCOL_FEATURES | wire.VIRTIO_RING_F_EVENT_IDX |
  wire.VIRTIO_RING_F_INDIRECT_DESC;
const PROTOCOL = wire.PROTOCOL_F_MQ | wire.PROTOCOL_F_REPLY_ACK | wire.PROTOCOL_F_RESET_DEVICE |
  wire.PROTOCOL_F_CONFIGURE_MEM_SLOTS;

export interface Step {
  request: number;
  /** Pieces, as of a FUSE request. */
  payload?: string;
  flags?: number;
  /** Said in the header, where it is not the payload's. */
  size?: number;
  /** Kinds of descriptors, see descriptors.ts. */
  fds?: string[];
  /** Sent in parts of so many bytes. */
  part?: number;
  /** Bytes that are sent of it, where not all are. */
  sent?: number;
}

const isReplied: ReadonlySet<number> = new Set([
  VHOST_USER.GET_FEATURES,
  VHOST_USER.GET_PROTOCOL_FEATURES,
  VHOST_USER.GET_QUEUE_NUM,
  VHOST_USER.GET_VRING_BASE,
  VHOST_USER.GET_CONFIG,
  VHOST_USER.GET_MAX_MEM_SLOTS,
  VHOST_USER.GET_INFLIGHT_FD,
]);

const region = (guest: number, user: number, size = REGION, offset = 0) =>
  `u64:${guest} u64:${size} u64:${user} u64:${offset}`;
const vring = (index: number, user: number) =>
  `u32:${index} u32:0 u64:${user + index * QUEUE_BYTES} u64:${user + index * QUEUE_BYTES + USED} ` +
  `u64:${user + index * QUEUE_BYTES + AVAIL} u64:0`;

/** A session as QEMU begins it, with two queues, a message of every other kind, and an end. */
function session(next: Next): Step[] {
  const steps: Step[] = [
    { request: VHOST_USER.GET_FEATURES },
    { request: VHOST_USER.GET_PROTOCOL_FEATURES },
    { request: VHOST_USER.SET_PROTOCOL_FEATURES, payload: `u64:0x${PROTOCOL.toString(16)}` },
    { request: VHOST_USER.GET_QUEUE_NUM },
    { request: VHOST_USER.GET_MAX_MEM_SLOTS },
    { request: VHOST_USER.SET_OWNER },
    { request: VHOST_USER.SET_FEATURES, payload: `u64:0x${FEATURES.toString(16)}` },
  ];
  const added = next(2) === 0;
  const regions = [region(GUEST_AT, USER_AT), region(GUEST_AT + 4 * REGION, USER_AT + 4 * REGION)].slice(
    0,
    1 + next(2),
  );
  if (added) {
    for (const one of regions) steps.push({ request: VHOST_USER.ADD_MEM_REG, payload: `u64:0 ${one}`, fds: ["memfd"] });
  } else {
    steps.push({
      request: VHOST_USER.SET_MEM_TABLE,
      payload: `u64:${regions.length} ${regions.join(" ")}`,
      fds: regions.map(() => "memfd"),
    });
  }
  for (const index of [0, 1]) {
    steps.push(
      { request: VHOST_USER.SET_VRING_NUM, payload: `u32:${index} u32:${SIZE}` },
      { request: VHOST_USER.SET_VRING_BASE, payload: `u32:${index} u32:0` },
      { request: VHOST_USER.SET_VRING_ADDR, payload: vring(index, USER_AT) },
      { request: VHOST_USER.SET_VRING_KICK, payload: `u64:${index}`, fds: ["signalled"] },
      { request: VHOST_USER.SET_VRING_CALL, payload: `u64:${index}`, fds: ["eventfd"] },
      { request: VHOST_USER.SET_VRING_ERR, payload: `u64:${index}`, fds: ["eventfd"] },
      { request: VHOST_USER.SET_VRING_ENABLE, payload: `u32:${index} u32:1` },
    );
  }
  const later: Step[] = [
    { request: VHOST_USER.SET_VRING_CALL, payload: "u64:1", fds: ["eventfd"] },
    { request: VHOST_USER.SET_VRING_KICK, payload: "u64:1", fds: ["signalled"] },
    { request: VHOST_USER.SET_VRING_KICK, payload: "u64:0x101" },
    { request: VHOST_USER.SET_VRING_ENABLE, payload: "u32:1 u32:0" },
    { request: VHOST_USER.SET_VRING_ENABLE, payload: "u32:1 u32:1" },
    { request: VHOST_USER.GET_VRING_BASE, payload: "u32:1 u32:0" },
    { request: VHOST_USER.GET_CONFIG, payload: "u32:0 u32:40 u32:0 zeros:40" },
    { request: VHOST_USER.SET_CONFIG, payload: "u32:0 u32:40 u32:0 zeros:40" },
    { request: VHOST_USER.REM_MEM_REG, payload: `u64:0 ${regions[0]}` },
    {
      request: VHOST_USER.ADD_MEM_REG,
      payload: `u64:0 ${region(GUEST_AT + 8 * REGION, USER_AT + 8 * REGION)}`,
      fds: ["sealed"],
    },
    { request: VHOST_USER.SET_MEM_TABLE, payload: `u64:1 ${regions[0]}`, fds: ["memfd"] },
    { request: VHOST_USER.SET_FEATURES, payload: `u64:0x${FEATURES.toString(16)}` },
    { request: VHOST_USER.SET_BACKEND_REQ_FD, fds: ["own"] },
    { request: VHOST_USER.GET_INFLIGHT_FD, payload: "u64:0 u64:0 u32:2" },
    { request: VHOST_USER.SET_INFLIGHT_FD, payload: `u64:4096 u64:0 u32:2 u32:${SIZE}`, fds: ["memfd"] },
    { request: VHOST_USER.RESET_DEVICE },
    { request: VHOST_USER.RESET_OWNER },
  ];
  for (let i = next(6); i > 0; i--) steps.push(pick(next, later));
  return steps.map((step) => isReplied.has(step.request) || next(3) === 0 ? step : { ...step, flags: 1 | NEED_REPLY });
}

const NUMBERS = [
  "0",
  "1",
  "2",
  "3",
  "0xff",
  "0x100",
  "0x101",
  "0xffff",
  "0x7fffffff",
  "0x80000000",
  "0xffffffff",
  "0x100000000",
  "0x1fffffffffffff",
  "0x20000000000000",
  "0x7fffffffffffffff",
  "0xffffffffffffffff",
];
const KINDS = Object.keys(makers);

function mutated(next: Next, step: Step): Step {
  const changed: Step = { ...step };
  switch (next(9)) {
    case 0:
      changed.request = next(4) ? 1 + next(45) : pick(next, [0, 46, 255, 0x7fffffff, 0xffffffff]);
      break;
    case 1:
      changed.flags = pick(next, [0, 1, 2, 3, 5, 9, 13, 0x11, 0x80000001, 0xffffffff]);
      break;
    case 2:
      changed.size = pick(next, [
        0,
        1,
        4,
        7,
        8,
        9,
        12,
        32,
        40,
        264,
        1032,
        1033,
        4108,
        4109,
        65536,
        0x7fffffff,
        0xffffffff,
      ]);
      break;
    case 3:
      changed.fds = Array.from({ length: pick(next, [0, 1, 2, 2, 8, 31, 32, 33]) }, () => pick(next, KINDS));
      break;
    case 4:
      changed.fds = (step.fds ?? ["eventfd"]).map(() => pick(next, KINDS));
      break;
    case 5:
      changed.part = 1 + next(20);
      break;
    case 6:
      changed.payload = `${step.payload ?? ""} ${pick(next, ["zeros:1", "zeros:8", "zeros:4096", "long:300"])}`;
      break;
    default: {
      const parts = (step.payload ?? "").split(" ");
      const at = next(parts.length);
      const [kind, value] = parts[at].split(":");
      if (kind !== "u32" && kind !== "u64") break;
      const near = () =>
        `0x${
          BigInt.asUintN(64, BigInt(value) + BigInt(pick(next, [-4096, -16, -1, 1, 2, 8, 4096, REGION]))).toString(16)
        }`;
      parts[at] = `${kind}:${next(2) ? pick(next, NUMBERS) : near()}`;
      changed.payload = parts.join(" ");
    }
  }
  return changed;
}

class Front implements Player<Step> {
  /** REPLY_ACK was negotiated, or so it was meant. */
  #acks = false;
  /** All messages so far were as long as they said. */
  #inStep = true;

  constructor(readonly target: Target, readonly counts: Counts) {}

  play(one: Case<Step>): void {
    const frontend = Frontend.connect(this.target.daemon.socketPath, { timeoutMs: REPLY_MS });
    const kept: number[] = [];
    this.#acks = false;
    this.#inStep = true;
    try {
      for (const step of one.steps) {
        this.counts.messages = (this.counts.messages ?? 0) + 1;
        if (!this.#send(frontend, step, kept)) {
          this.counts["thrown out"] = (this.counts["thrown out"] ?? 0) + 1;
          return;
        }
      }
    } finally {
      frontend.close();
      for (const fd of kept) libc.close(fd);
    }
  }

  /** Sends a message, and waits for its reply where there must be one. False where the back end has hung up. */
  #send(frontend: Frontend, step: Step, kept: number[]): boolean {
    const payload = pieces(step.payload ?? "", { nodes: [1n], fhs: [0n] });
    const flags = step.flags ?? 1;
    const whole = bytes(u32(step.request, flags, step.size ?? payload.length), payload).subarray(0, step.sent);
    const fds: number[] = [];
    for (const kind of step.fds ?? []) {
      const made = makers[kind](REGION, frontend.fd);
      if (kind === "memfd" || kind === "sealed" || kind === "file") fill(made.fd);
      fds.push(made.fd);
      kept.push(...made.kept ?? []);
    }
    let open = true;
    const part = step.part ?? whole.length;
    for (let at = 0; at < whole.length && open; at += part) {
      open = frontend.sendRaw(whole.subarray(at, at + part), at === 0 ? fds : []);
    }
    for (const fd of fds) libc.close(fd);
    if (!open) return false;
    if (step.request === VHOST_USER.SET_PROTOCOL_FEATURES && payload.length === 8) {
      this.#acks = (payload[0] & Number(wire.PROTOCOL_F_REPLY_ACK)) !== 0;
    }
    this.#inStep &&= (step.size ?? payload.length) === payload.length && step.sent === undefined;
    const answers = isReplied.has(step.request) || (flags & NEED_REPLY) !== 0;
    if (!answers || !this.#inStep || !(isReplied.has(step.request) || this.#acks)) return true;
    try {
      const reply = frontend.receiveMessage(REPLY_MS);
      for (const fd of reply?.fds ?? []) libc.close(fd);
      return reply !== undefined;
    } catch (error) {
      throw new Error(`${JSON.stringify(step)}: ${(error as Error).message}`);
    }
  }

  end(): void {}
}

/** Two queues with a request each, as a guest would have them: INIT on one, GETATTR on the other. */
function fill(fd: number): void {
  const { mapping, view } = mapped(fd);
  for (const index of [0, 1]) {
    const at = index * QUEUE_BYTES;
    const request = index === 0
      ? bytes(u32(104, op.FUSE_INIT), u64(2, 0), u32(0, 0, 0, 0), u32(7, 38, 0, 0, 0), new Uint8Array(44))
      : bytes(u32(56, op.FUSE_GETATTR), u64(4, 1), u32(0, 0, 0, 0), new Uint8Array(16));
    new Uint8Array(mapping.buffer).set(request, at + REQUEST);
    const desc = (i: number, addr: number, len: number, flags: number, next: number) => {
      view.setBigUint64(at + i * 16, BigInt(addr), true);
      view.setUint32(at + i * 16 + 8, len, true);
      view.setUint32(at + i * 16 + 12, flags | next << 16, true);
    };
    desc(0, GUEST_AT + at + REQUEST, request.length, 1, 1);
    desc(1, GUEST_AT + at + REPLY, 256, 2, 0);
    view.setUint16(at + AVAIL + 4, 0, true);
    view.setUint16(at + AVAIL + 2, 1, true);
  }
  unmap(mapping);
}

function mapped(fd: number) {
  const mapping = map(REGION, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return { mapping, view: new DataView(mapping.buffer) };
}

export const vhost: Kind<Step> = {
  name: "vhost",
  generate: (next) => {
    const steps = session(next);
    for (let i = next(5); i > 0; i--) {
      const at = next(steps.length);
      switch (next(8)) {
        case 0:
          steps.splice(at, 1);
          break;
        case 1:
          steps.splice(at, 0, steps[next(steps.length)]);
          break;
        case 2: {
          const other = next(steps.length);
          [steps[at], steps[other]] = [steps[other], steps[at]];
          break;
        }
        case 3:
          // The last that is sent, and not all of it.
          steps.splice(at + 1);
          steps[at] = { ...steps[at], sent: 1 + next(30) };
          break;
        case 4:
          steps.splice(at, 0, {
            request: next(64),
            payload: `hex:${hexText(Uint8Array.from({ length: next(64) }, () => next(256)))}`,
            fds: next(2) ? [pick(next, KINDS)] : [],
          });
          break;
        default:
          steps[at] = mutated(next, steps[at]);
      }
      if (steps.length === 0) break;
    }
    return { steps };
  },
  simpler: (step) => {
    const plain: Step[] = [];
    for (const key of ["part", "sent", "size", "flags"] as const) {
      if (step[key] === undefined) continue;
      const { [key]: _, ...rest } = step;
      plain.push(rest);
    }
    if (step.fds && step.fds.length > 1) plain.push({ ...step, fds: step.fds.slice(0, -1) });
    return plain;
  },
  begin: (target, counts) => new Front(target, counts),
};
