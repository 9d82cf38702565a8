/** One loop of tests/fs/nodes.test.ts: looks up and forgets the same few inodes as the others do, at random, and says what it saw. */
import type { HostAddr } from "../../ffi/memory.ts";
import { FileHandle } from "../../fs/file_handle.ts";
import { NEEDS_HANDLE, NodeTable } from "../../fs/nodes.ts";
import { random } from "./random.ts";

export interface Job {
  addr: HostAddr;
  seed: number;
  rounds: number;
  inodes: number;
  /** Counted up by each that is ready: all begin together. */
  gate: Int32Array;
  loops: number;
  /** Forgets what is not its own too, as a hostile guest does. */
  hostile: boolean;
  /** Makes every second node by handle. */
  handles: boolean;
}

export interface Seen {
  /** Descriptors that the table took, and those that it gave back. */
  taken: number[];
  retired: number[];
  /** Nodes made by handle, less those that were forgotten. */
  byHandle: number;
  complaints: string[];
}

const TYPE = 0o100000;

export const inode = (n: number) => ({ inoLo: n * 7919, inoHi: n, dev: 3, mount: 9 });

/** A handle, a different one for each number: of 12 bytes, or of 40 that differ in the last ones alone. */
export function handleOf(n: number, long = false): FileHandle {
  const handle = new FileHandle();
  if (long) handle.get(new Int32Array([1 << 8 | 40, 1, 2, 3, 4, 5, 6, 7, 8, 9, n]), 0, 7);
  else handle.get(new Int32Array([1 << 8 | 12, n, ~n, 7, 0, 0, 0, 0, 0, 0, 0]), 0, 7);
  return handle;
}

function hammer({ addr, seed, rounds, inodes, gate, loops, hostile, handles }: Job): Seen {
  const nodes = new NodeTable(addr);
  const next = random(seed);
  const seen: Seen = { taken: [], retired: [], byHandle: 0, complaints: [] };
  const held = Array.from({ length: inodes }, () => ({ lo: 0, hi: 0, count: 0 }));
  const retire = (fd: number) => void (fd < 0 ? seen.byHandle-- : seen.retired.push(fd));
  let fd = seed * 1_000_000;
  const lookup = (n: number) => {
    let slot = nodes.acquire(inode(n), retire);
    if (slot === NEEDS_HANDLE) slot = nodes.acquire(inode(n), retire, handleOf(n));
    if (slot === 0 && handles && next(2)) {
      slot = nodes.insert(inode(n), -1, TYPE, handleOf(n));
      if (nodes.inserted) seen.byHandle++;
    } else if (slot === 0) {
      slot = nodes.insert(inode(n), ++fd, TYPE);
      if (slot === NEEDS_HANDLE) slot = nodes.insert(inode(n), fd, TYPE, handleOf(n));
      if (nodes.inserted) seen.taken.push(fd);
    }
    const mine = held[n];
    if (!hostile && mine.count > 0 && (mine.lo !== slot || mine.hi !== nodes.generation(slot))) {
      seen.complaints.push(`inode ${n} is a second node, though the first is known`);
    }
    held[n] = { lo: slot, hi: nodes.generation(slot), count: mine.count + 1 };
  };
  Atomics.add(gate, 0, 1);
  while (Atomics.load(gate, 0) < loops);
  for (let i = 0; i < rounds; i++) {
    const n = next(inodes);
    const mine = held[n];
    if (mine.count === 0 || next(3) === 0) lookup(n);
    else {
      const count = hostile ? 1 + next(1000) : 1 + next(mine.count);
      // A hostile guest tries generations as well.
      nodes.forget(mine.lo, hostile ? mine.hi + next(3) - 1 : mine.hi, count, retire);
      mine.count = hostile ? 0 : mine.count - count;
    }
  }
  if (!hostile) { for (const mine of held) nodes.forget(mine.lo, mine.hi, mine.count, retire); }
  return seen;
}

if ("WorkerGlobalScope" in globalThis) {
  const scope = globalThis as unknown as {
    onmessage: (event: MessageEvent<Job>) => void;
    postMessage(seen: Seen): void;
  };
  scope.onmessage = ({ data }) => scope.postMessage(hammer(data));
}
