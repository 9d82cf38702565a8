// What the guest may rewrite while it is in use is read once: a guest whose memory changes behind each read is served as if it stood still.
import assert from "node:assert/strict";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { EINVAL, ENOSYS, ENOTTY, EOPNOTSUPP } from "../../ffi/errno.ts";
import { opcodes } from "../../fs/opcodes.ts";
import type { GuestAddr } from "../../vq/device.ts";
import type { GuestMemory } from "../../vq/memory.ts";
import { Inline } from "../fuzz/inline.ts";

const GARBAGE = 0xe7;
/** Bytes at the start of a WRITE that are looked at; what is behind them is the kernel's to read. */
const WRITE_HEAD = 80;

/**
 * Guest memory as a loop sees it, that counts how often each byte is read, and changes the bytes in `changing` as soon as they were
 * read.
 */
class Watched {
  readonly reads: Uint8Array;
  /** By byte of the window: whether it is changed once it was read. */
  readonly changing: Uint8Array;
  /** The first byte that was read again, or -1. */
  twice = -1;

  constructor(readonly memory: GuestMemory) {
    this.reads = new Uint8Array(memory.u8.length);
    this.changing = new Uint8Array(memory.u8.length);
  }

  #read(at: number, length: number): void {
    for (let i = at; i < at + length; i++) {
      if (++this.reads[i] > 1 && this.twice < 0) this.twice = i;
      if (this.changing[i]) this.memory.u8[i] ^= GARBAGE;
    }
  }

  /** A typed array whose elements are counted, byte `from` of the window on. */
  array<T extends Uint8Array<ArrayBuffer> | Uint32Array<ArrayBuffer>>(array: T): T {
    const size = array.BYTES_PER_ELEMENT;
    const from = array.byteOffset;
    return new Proxy(array, {
      get: (target, key) => {
        if (key === "subarray") {
          // Whoever takes a part copies it at once: a copy is handed out, as that of a guest that changes it then.
          return (begin: number, end: number) => {
            const copy = target.slice(begin, end);
            this.#read(from + begin * size, (end - begin) * size);
            return copy;
          };
        }
        const value = Reflect.get(target, key, target);
        if (typeof key === "string" && /^\d+$/.test(key)) this.#read(from + Number(key) * size, size);
        return typeof value === "function" ? value.bind(target) : value;
      },
      set: (target, key, value) => Reflect.set(target, key, value, target),
    });
  }

  /** What a loop is given in place of the memory. */
  get view(): GuestMemory {
    const { memory } = this;
    const data = new Proxy(memory.data, {
      get: (target, key) => {
        if (key !== "getUint32") throw new Error(`DataView.${String(key)}() is not watched`);
        return (at: number, little: boolean) => {
          const value = target.getUint32(at, little);
          this.#read(at, 4);
          return value;
        };
      },
    });
    return {
      addr: memory.addr,
      buffer: memory.buffer,
      regionCount: memory.regionCount,
      u8: this.array(memory.u8),
      u32: this.array(memory.u32),
      data,
      translate: (addr: number, len: number) => memory.translate(addr, len),
      contiguous: (addr: number) => memory.contiguous(addr),
      detach: () => memory.detach(),
    } as unknown as GuestMemory;
  }
}

Deno.test("Every byte of a request, a descriptor and an indirect table is read once", async (t) => {
  // In memory, where nothing is a helper's, of which there is none.
  const dir = Deno.makeTempDirSync({ dir: "/dev/shm" });
  let watched!: Watched;
  const bed = new Inline(dir, {
    fs: { xattr: true, posixLock: true, flock: true },
    watch: (memory) => {
      watched = new Watched(memory);
      return { view: watched.view, table: (desc) => watched.array(desc) };
    },
  });
  const { guest } = bed;
  const [driver] = bed.drivers;
  /** Serves what is on the queue. A worker of the ring makes some. Returns the bytes written. */
  const serve = (): number => {
    for (const end = performance.now() + 5000; performance.now() < end;) {
      bed.turn();
      const head = driver.reap();
      if (head < 0) continue;
      driver.free(head);
      return driver.usedLength;
    }
    throw new Error("a request was not served");
  };
  const request = guest.allocate(256 * 1024, 8);
  const reply = guest.allocate(64 * 1024, 8);
  const long = "n".repeat(250);
  /** Every opcode that a handler serves, with arguments for it; those with names have long ones, which come in two copies. */
  const requests: [number, (known: { node: bigint; fh: bigint; dh: bigint }) => Uint8Array, bigint?][] = [
    [op.FUSE_INIT, () => bytes(u32(7, 45, 0, 0xffff_ffff, 0), new Uint8Array(44)), 0n],
    [op.FUSE_CREATE, () => bytes(u32(2, 0o644, 0, 0), names(long))],
    [op.FUSE_LOOKUP, () => names(long)],
    [op.FUSE_MKNOD, () => bytes(u32(0o100644, 0, 0, 0), names("m" + long))],
    [op.FUSE_MKDIR, () => bytes(u32(0o755, 0), names("d" + long))],
    [op.FUSE_SYMLINK, () => names("s" + long, "x".repeat(3000))],
    [op.FUSE_LINK, ({ node }) => bytes(u64(node), names("l" + long))],
    [op.FUSE_RENAME, () => bytes(u64(1), names("l" + long, "r" + long))],
    [op.FUSE_RENAME2, () => bytes(u64(1), u32(0, 0), names("r" + long, "l" + long))],
    [op.FUSE_UNLINK, () => names("l" + long)],
    [op.FUSE_RMDIR, () => names("d" + long)],
    [op.FUSE_OPENDIR, () => u32(0, 0)],
    [op.FUSE_READDIR, ({ dh }) => bytes(u64(dh, 0), u32(4096, 0), u64(0, 0))],
    [op.FUSE_READDIRPLUS, ({ dh }) => bytes(u64(dh, 0), u32(8192, 0), u64(0, 0))],
    [op.FUSE_FSYNCDIR, ({ dh }) => bytes(u64(dh), u32(0, 0))],
    [op.FUSE_RELEASEDIR, ({ dh }) => bytes(u64(dh), u32(0, 0), u64(0))],
    [op.FUSE_WRITE, ({ fh }) => bytes(u64(fh, 0), u32(5000, 0), u64(0, 0), new Uint8Array(5000).fill(7))],
    [op.FUSE_READ, ({ fh }) => bytes(u64(fh, 0), u32(5000, 0), u64(0, 0))],
    [op.FUSE_GETATTR, ({ fh }) => bytes(u32(1, 0), u64(fh))],
    [op.FUSE_SETATTR, () => bytes(u32(1 | 8 | 16, 0), new Uint8Array(60), u32(0o600, 0, 0, 0, 0))],
    [op.FUSE_STATFS, () => bytes()],
    [op.FUSE_STATX, () => bytes(u32(0, 0), u64(0), u32(0, 0x7ff))],
    [op.FUSE_ACCESS, () => u32(4, 0)],
    [op.FUSE_LSEEK, ({ fh }) => bytes(u64(fh, 0), u32(0, 0))],
    [op.FUSE_FALLOCATE, ({ fh }) => bytes(u64(fh, 0, 4096), u32(0, 0))],
    [op.FUSE_FSYNC, ({ fh }) => bytes(u64(fh), u32(0, 0))],
    [op.FUSE_FLUSH, ({ fh }) => bytes(u64(fh), u32(0, 0), u64(1))],
    [op.FUSE_SETXATTR, () => bytes(u32(3000, 0, 0, 0), names("user.long"), new Uint8Array(3000).fill(9))],
    [op.FUSE_GETXATTR, () => bytes(u32(4096, 0), names("user.long"))],
    [op.FUSE_LISTXATTR, () => u32(4096, 0)],
    [op.FUSE_REMOVEXATTR, () => names("user.long")],
    [op.FUSE_SETLK, ({ fh }) => bytes(u64(fh, 5, 0, 10), u32(1, 0), u32(0, 0))],
    [op.FUSE_GETLK, ({ fh }) => bytes(u64(fh, 6, 0, 10), u32(1, 0), u32(0, 0))],
    [op.FUSE_SETLKW, ({ fh }) => bytes(u64(fh, 5, 0, 10), u32(2, 0), u32(0, 0))],
    [op.FUSE_IOCTL, ({ fh }) => bytes(u64(fh), u32(0, 0x80086601), u64(0), u32(0, 8))],
    [op.FUSE_TMPFILE, () => bytes(u32(2, 0o600, 0, 0), names("/" + long))],
    [op.FUSE_RELEASE, ({ fh }) => bytes(u64(fh), u32(0, 0), u64(0))],
    [op.FUSE_OPEN, () => u32(2, 0)],
    [op.FUSE_READLINK, () => bytes()],
    [op.FUSE_SYNCFS, () => u64(0)],
    [op.FUSE_BATCH_FORGET, ({ node }) => bytes(u32(20, 0), ...Array.from({ length: 20 }, () => u64(node + 1n, 1)))],
    [op.FUSE_FORGET, () => u64(1)],
    [op.FUSE_INTERRUPT, () => u64(999)],
    [op.FUSE_DESTROY, () => bytes()],
    [op.FUSE_BMAP, () => bytes(u64(0), u32(512, 0))],
    [op.FUSE_POLL, () => new Uint8Array(24)],
    [op.FUSE_SETUPMAPPING, () => new Uint8Array(40)],
    [op.FUSE_REMOVEMAPPING, () => new Uint8Array(20)],
    [op.FUSE_COPY_FILE_RANGE, ({ fh, node }) => bytes(u64(fh, 0, node, fh, 4096, 16, 0))],
    [53, ({ fh, node }) => bytes(u64(fh, 0, node, fh, 4096, 16, 0))],
  ];
  /** Those that a helper makes, of which there is none here. */
  const handedOver: readonly number[] = [op.FUSE_COPY_FILE_RANGE, 53, op.FUSE_SYNCFS];
  /** On the file that CREATE made; others are on the root, or go by a handle. */
  const onFile: readonly number[] = [op.FUSE_SETLK, op.FUSE_GETLK, op.FUSE_SETLKW, op.FUSE_SETATTR, op.FUSE_OPEN];
  const absent: readonly number[] = [op.FUSE_BMAP, op.FUSE_POLL, op.FUSE_SETUPMAPPING, op.FUSE_REMOVEMAPPING];
  /** What tmpfs may not have. */
  const maybe: readonly number[] = [
    op.FUSE_IOCTL,
    op.FUSE_TMPFILE,
    op.FUSE_SETXATTR,
    op.FUSE_GETXATTR,
    op.FUSE_LISTXATTR,
    op.FUSE_REMOVEXATTR,
  ];

  await t.step("all opcodes are tried", () => {
    const tried = new Set(requests.map(([opcode]) => opcode));
    const all = opcodes.flatMap((one, opcode) => one ? [opcode] : []);
    assert.deepEqual(all.filter((opcode) => !tried.has(opcode)), []);
  });

  /** Sends one, with memory that changes behind the reads. Returns error and reply. */
  const send = (opcode: number, args: Uint8Array, node: bigint, indirect: boolean, pieces: number[]) => {
    const whole = bytes(u32(40 + args.length, opcode), u64(77, node), u32(0, 0, 1, 0), args);
    guest.bytes(request, whole.length).set(whole);
    const segments = [];
    let at = 0;
    for (const piece of [...pieces, whole.length]) {
      const len = Math.min(piece, whole.length - at);
      if (len > 0) segments.push({ addr: (request + at) as GuestAddr, len });
      at += len;
    }
    segments.push({ addr: reply, len: 16, write: true }, { addr: (reply + 64) as GuestAddr, len: 9000, write: true });
    const head = driver.place(segments, indirect);
    watched.reads.fill(0);
    watched.twice = -1;
    watched.changing.fill(0);
    // The kernel reads a WRITE's data, from where they are.
    const mine = opcode === op.FUSE_WRITE ? WRITE_HEAD : whole.length;
    watched.changing.fill(1, bed.at(request), bed.at(request) + mine);
    const table = driver.state.desc;
    watched.changing.fill(1, bed.at(table), bed.at(table) + driver.size * 16);
    const desc = guest.words32((table + head * 16) as GuestAddr, 4);
    if (indirect) {
      const tableAt = bed.at((desc[0] + desc[1] * 2 ** 32) as GuestAddr);
      watched.changing.fill(1, tableAt, tableAt + desc[2]);
    }
    driver.offer(head);
    driver.publish();
    driver.kick();
    const used = serve();
    const name = `${opcodes[opcode]?.name} ${indirect ? "indirect" : "direct"}, pieces ${pieces}`;
    const { twice } = watched;
    assert.equal(
      twice,
      -1,
      `${name}: byte ${twice - bed.at(request)} of the request was read ${watched.reads[twice]} times`,
    );
    const read = watched.reads.subarray(bed.at(request), bed.at(request) + Math.min(40, mine));
    assert.ok(read.every((count) => count === 1), `${name}: its header was read`);
    const header = guest.view(reply, 16);
    if (used > 0) {
      assert.equal(header.getUint32(0, true), used, name);
      assert.equal(header.getUint32(8, true), 77, name);
    }
    const data = guest.view((reply + 64) as GuestAddr, 256);
    return { error: used > 0 ? header.getInt32(4, true) : 0, data };
  };

  for (
    const [indirect, pieces] of [[false, []], [true, [40]], [true, [3, 50, 7, 100, 97]], [false, [41, 300]]] as const
  ) {
    await t.step(`${indirect ? "an indirect table" : "a chain"}, cut at ${pieces}`, () => {
      const known = { node: 1n, fh: 0n, dh: 0n };
      for (const [opcode, args, fixed] of requests) {
        const node = fixed ?? (onFile.includes(opcode) ? known.node : 1n);
        const { error, data } = send(opcode, args(known), node, indirect, [...pieces]);
        if (opcode === op.FUSE_CREATE) {
          known.node = data.getBigUint64(0, true);
          known.fh = data.getBigUint64(128, true);
        }
        if (opcode === op.FUSE_OPENDIR) known.dh = data.getBigUint64(0, true);
        const what = `${opcodes[opcode]!.name}: error ${error}`;
        if (absent.includes(opcode)) assert.equal(error, -ENOSYS, what);
        else if (handedOver.includes(opcode)) assert.ok(error < 0, what);
        else if (opcode === op.FUSE_READLINK) assert.equal(error, -EINVAL, what);
        else if (maybe.includes(opcode)) assert.ok(error === 0 || error === -EOPNOTSUPP || error === -ENOTTY, what);
        else assert.equal(error, 0, what);
      }
      for (const { name } of [...Deno.readDirSync(dir)]) Deno.removeSync(`${dir}/${name}`);
    });
  }
  await t.step("what reads twice is found", () => {
    watched.reads.fill(0);
    const at = bed.at(request);
    const { u8, u32: words } = watched.view;
    assert.equal(u8[at] === u8[at] && words[at / 4] === words[at / 4], false, "it has changed in between");
    assert.ok(watched.reads[at] >= 2);
  });
  bed.close();
  Deno.removeSync(dir, { recursive: true });
});
