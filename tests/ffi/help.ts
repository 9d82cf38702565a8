/** What the tests under tests/ffi share: rings that are closed again, memory with an address, temporary files. */
import assert from "node:assert/strict";
import { O_CLOEXEC, O_CREAT, O_EXCL, O_RDWR } from "../../ffi/arch.ts";
import { checked, cString, libc, type Pointer } from "../../ffi/libc.ts";
import { allocate, unmap } from "../../ffi/memory.ts";
import { AT_FDCWD, EFD_CLOEXEC, EFD_NONBLOCK } from "../../ffi/stat_layout.ts";
import { Ring, type RingOptions } from "../../ffi/uring.ts";

/** Runs `body` with a ring of the best flags, or of exactly `options` where given. */
export function withRing(entries: number, body: (ring: Ring) => void, options?: RingOptions): void {
  const ring = options === undefined ? Ring.queue_init_best(entries) : Ring.queue_init(entries, options);
  try {
    body(ring);
  } finally {
    ring.queue_exit();
  }
}

/** Memory that the kernel may hold on to, as bytes, with the halves of its address. */
export interface Memory {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly addr: number;
  readonly pointer: Pointer;
  readonly lo: number;
  readonly hi: number;
}

export function withMemory(size: number, body: (memory: Memory) => void): void {
  const mapping = allocate(size);
  try {
    const { lo, hi } = halves(mapping.addr);
    body({ bytes: new Uint8Array(mapping.buffer), addr: mapping.addr, pointer: mapping.pointer, lo, hi });
  } finally {
    unmap(mapping);
  }
}

export function halves(value: number): { lo: number; hi: number } {
  return { lo: value >>> 0, hi: Math.floor(value / 2 ** 32) };
}

/** A new directory in memory (so that sparse files of any size are cheap); gone afterwards. */
export function withDirectory(body: (path: string) => void): void {
  const dir = Deno.makeTempDirSync({ dir: "/dev/shm" });
  try {
    body(dir);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
}

/** A new file in such a directory, open for reading and writing. */
export function withFile(body: (fd: number, path: string) => void): void {
  withDirectory((dir) => {
    const path = `${dir}/file`;
    const fd = checked("openat", libc.openat(AT_FDCWD, cString(path), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600));
    try {
      body(fd, path);
    } finally {
      libc.close(fd);
    }
  });
}

export interface Completion {
  readonly data: number;
  readonly res: number;
  readonly flags: number;
}

/** Takes what has completed. */
export function reap(ring: Ring): Completion[] {
  const n = ring.peek_batch_cqe();
  const done: Completion[] = [];
  for (let i = 0; i < n; i++) {
    done.push({ data: ring.cqe_data_lo(i), res: ring.cqe_res(i), flags: ring.cqe_flags(i) });
  }
  ring.cq_advance(n);
  return done;
}

/** Submits what is prepared and waits for `count` completions. */
export function complete(ring: Ring, count: number): Completion[] {
  const done: Completion[] = [];
  while (done.length < count) {
    const result = ring.submit_and_wait(1);
    assert.ok(result >= 0, `submit_and_wait gave ${result}`);
    done.push(...reap(ring));
  }
  return done;
}

/** Prepares one request with `prep`, completes it and returns its result. */
export function one(ring: Ring, prep: (sqe: number) => void): number {
  const sqe = ring.get_sqe();
  prep(sqe);
  ring.sqe_set_data(sqe, 77, 0);
  const done = complete(ring, 1);
  assert.deepEqual(done.map((completion) => completion.data), [77]);
  return done[0].res;
}

/** eventfd(2) */
export function withEventFd(body: (fd: number) => void): void {
  const fd = checked("eventfd", libc.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  try {
    body(fd);
  } finally {
    libc.close(fd);
  }
}

export function signalEvent(fd: number): void {
  checked("write", libc.write(fd, new Uint8Array(BigUint64Array.of(1n).buffer), 8));
}

/** The eventfd's count, which is zero afterwards. */
export function takeEvent(fd: number): bigint {
  const value = new BigUint64Array(1);
  return libc.read(fd, new Uint8Array(value.buffer), 8) === 8 ? value[0] : 0n;
}
