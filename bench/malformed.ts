/**
 * Descriptor chains that no sound driver makes, by name: what a hostile or broken guest may put on a queue. Each entry places
 * one chain and returns the head to be offered. What VIRTIO 1.2 says of it stands beside it.
 */
import type { GuestAddr } from "../vq/device.ts";
import { type Virtqueue, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE } from "./driver.ts";

const { NEXT, WRITE, INDIRECT } = {
  NEXT: VRING_DESC_F_NEXT,
  WRITE: VRING_DESC_F_WRITE,
  INDIRECT: VRING_DESC_F_INDIRECT,
};

/** An address that lies in no region, whatever regions a test sets up below 2^46. */
const NOWHERE = 2 ** 46;

type Place = (queue: Virtqueue, addr: GuestAddr, len: number) => number;

/** One descriptor with these fields, at a head of its own. */
function single(queue: Virtqueue, addr: number | bigint, len: number, flags: number, next = 0): number {
  const [head] = queue.takeDescriptors(1);
  queue.setDescriptor(head, { addr, len, flags, next });
  return head;
}

/** An indirect descriptor for a table of `entries`, each pointing to `addr`, the flags given one by one. */
function table(queue: Virtqueue, addr: GuestAddr, len: number, flags: readonly number[], bytes = flags.length * 16) {
  const at = queue.memory.allocate(Math.max(1, flags.length) * 16, 16);
  queue.writeTable(at, flags.map((one, i) => ({ addr, len, flags: one, next: i + 1 })));
  return single(queue, at, bytes, INDIRECT);
}

/**
 * `addr` and `len` are a sound readable buffer that holds a request, so that only what the name says is wrong with the chain.
 * All chains are the device's to refuse: it completes them with length 0 and goes on with the next.
 */
export const malformed: Readonly<Record<string, Place>> = {
  /** 2.7.5.1: drivers must not create a loop. */
  "loop of two": (queue, addr, len) => {
    const [a, b] = queue.takeDescriptors(2);
    queue.setDescriptor(a, { addr, len, flags: NEXT, next: b });
    queue.setDescriptor(b, { addr, len, flags: NEXT, next: a });
    return a;
  },
  "loop on itself": (queue, addr, len) => {
    const [a] = queue.takeDescriptors(1);
    queue.setDescriptor(a, { addr, len, flags: NEXT, next: a });
    return a;
  },
  "address in no region": (queue, _, len) => single(queue, NOWHERE, len, 0),
  "reply address in no region": (queue, addr, len) => {
    const [a, b] = queue.takeDescriptors(2);
    queue.setDescriptor(a, { addr, len, flags: NEXT, next: b });
    queue.setDescriptor(b, { addr: NOWHERE, len: 4096, flags: WRITE, next: 0 });
    return a;
  },
  "address near 2^64": (queue, _, len) => single(queue, 2n ** 64n - 16n, len, 0),
  "length past the region's end": (queue, addr) => single(queue, addr, 0xffff_ffff, 0),
  /** 2.7.4.2: readable buffers come first. */
  "writable before readable": (queue, addr, len) => {
    const [a, b] = queue.takeDescriptors(2);
    queue.setDescriptor(a, { addr, len, flags: WRITE | NEXT, next: b });
    queue.setDescriptor(b, { addr, len, flags: 0, next: 0 });
    return a;
  },
  "next past the table": (queue, addr, len) => single(queue, addr, len, NEXT, queue.size),
  "zero length": (queue, addr) => single(queue, addr, 0, 0),
  "nothing to read": (queue, addr, len) => single(queue, addr, len, WRITE),
  "shorter than a request header": (queue, addr) => single(queue, addr, 39, 0),
  /** 2.7.5.3.1: no chain longer than the queue size. */
  "indirect chain longer than the queue": (queue, addr, len) =>
    table(queue, addr, len, Array.from({ length: queue.size + 8 }, (_, i) => i < queue.size + 7 ? NEXT : 0)),
  "indirect table of zero length": (queue, addr) => single(queue, addr, 0, INDIRECT),
  "indirect table of no whole entries": (queue, addr, len) => table(queue, addr, len, [0], 15),
  "indirect table in no region": (queue) => single(queue, NOWHERE, 64, INDIRECT),
  "indirect next past the table": (queue, addr, len) => table(queue, addr, len, [NEXT]),
  /** 2.7.5.3.1: a table refers to no other table. */
  "indirect within indirect": (queue, addr, len) => table(queue, addr, len, [INDIRECT]),
  /** 2.7.5.3.1: never INDIRECT and NEXT in one. */
  "indirect and next": (queue, addr, len) => {
    const at = queue.memory.allocate(16, 16);
    queue.writeTable(at, [{ addr, len, flags: 0, next: 0 }]);
    const [a, b] = queue.takeDescriptors(2);
    queue.setDescriptor(a, { addr: at, len: 16, flags: INDIRECT | NEXT, next: b });
    queue.setDescriptor(b, { addr, len: 4096, flags: WRITE, next: 0 });
    return a;
  },
  "indirect loop": (queue, addr, len) => {
    const at = queue.memory.allocate(32, 16);
    queue.writeTable(at, [{ addr, len, flags: NEXT, next: 1 }, { addr, len, flags: NEXT, next: 0 }]);
    return single(queue, at, 32, INDIRECT);
  },
};
