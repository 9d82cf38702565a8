// Operations on open files, against a daemon, on a disk's file system and in memory: READ takes different ways there.
import assert from "node:assert/strict";
import type { Segment } from "../../bench/driver.ts";
import { bytes, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import type { Session } from "../../bench/session.ts";
import { O_APPEND, O_NONBLOCK, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY } from "../../ffi/arch.ts";
import { EBADF, EFBIG, EINVAL, EISDIR, ELOOP, ENXIO, EOPNOTSUPP } from "../../ffi/errno.ts";
import {
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  FALLOC_FL_ZERO_RANGE,
  S_IFIFO,
  SEEK_CUR,
  SEEK_DATA,
  SEEK_END,
  SEEK_HOLE,
  SEEK_SET,
} from "../../ffi/stat_layout.ts";
import type { GuestAddr } from "../../vq/device.ts";
import { byHandle, type Daemon, type Step, withDaemon } from "./daemon.ts";
import { hostStat } from "./host_stat.ts";
import { random } from "./random.ts";

const ROOT = 1;
const MIB = 1 << 20;
/** Some of them are descriptors of the daemon, which an fh is not. */
const BAD_FHS = [0n, 1n, 20n, 2n ** 31n + 7n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 64n - 1n];

/** Bytes that differ from place to place. */
function pattern(size: number, seed = 1): Uint8Array<ArrayBuffer> {
  const next = random(seed);
  const words = new Uint32Array(Math.ceil(size / 4));
  for (let i = 0; i < words.length; i++) words[i] = next(2 ** 32);
  return new Uint8Array(words.buffer, 0, size);
}

/** A file opened on the host for reading at an offset. */
function hostRead(path: string, offset: number, size: number): Uint8Array {
  using file = Deno.openSync(path);
  file.seekSync(offset, Deno.SeekMode.Start);
  const data = new Uint8Array(size);
  let have = 0;
  for (let n: number | null = 0; have < size && n !== null; have += n ?? 0) n = file.readSync(data.subarray(have));
  return data.subarray(0, have);
}

/** Cuts [0, size) into pieces of 1 to `most` bytes and puts them, with gaps, into guest memory. Returns the segments. */
function scatter(session: Session, size: number, most: number, seed: number, write: boolean): Segment[] {
  const next = random(seed);
  const list: Segment[] = [];
  for (let at = 0; at < size;) {
    const len = Math.min(size - at, 1 + next(most));
    list.push({ addr: session.memory.allocate(len + next(5), 1), len, write });
    at += len;
  }
  return list;
}

function putInto(session: Session, segments: Segment[], data: Uint8Array) {
  let at = 0;
  for (const { addr, len } of segments) {
    session.memory.bytes(addr, len).set(data.subarray(at, at + len));
    at += len;
  }
}

function takeFrom(session: Session, segments: Segment[]): Uint8Array<ArrayBuffer> {
  return bytes(...segments.map(({ addr, len }) => session.memory.bytes(addr as GuestAddr, len)));
}

/** A request and its reply, both cut into pieces at odd places; returns the reply's error and data. */
function scattered(session: Session, request: Uint8Array, room: number, most: number, seed: number, indirect: boolean) {
  const readable = scatter(session, request.length, most, seed, false);
  const writable = scatter(session, room, most, seed + 1, true);
  putInto(session, readable, request);
  const used = session.queues[1].run([...readable, ...writable], 5000, indirect);
  const reply = takeFrom(session, writable);
  const view = new DataView(reply.buffer);
  assert.equal(view.getUint32(0, true), used, "used length and the reply's");
  assert.equal(view.getBigUint64(8, true), 0x1234_5678_9abc_def0n, "unique");
  return { error: view.getInt32(4, true), data: reply.subarray(16, used) };
}

function header(opcode: number, nodeid: bigint, argBytes: number): Uint8Array {
  return bytes(u32(40 + argBytes, opcode), u64(0x1234_5678_9abc_def0n, nodeid), u32(0, 0, 1, 0));
}

async function fileSteps(daemon: Daemon, session: Session, step: Step) {
  const { client } = session;
  const path = (name: string) => daemon.path(name);
  const made = client.create(ROOT, "file", O_RDWR);
  const { nodeid: file, fh } = made;
  assert.equal(made.error, 0);

  await step("WRITE and READ carry data of any size and offset", () => {
    const data = pattern(MIB);
    for (const [offset, size] of [[0, 1], [1, 4095], [4095, 2], [10_000, 100_000], [3, 65537], [4096, MIB], [7, MIB]]) {
      const part = data.subarray(0, size);
      assert.deepEqual([client.write(file, fh, offset, part).error, client.write(file, fh, offset, part).size], [
        0,
        size,
      ]);
      assert.deepEqual(client.read(file, fh, offset, size).data, part);
      assert.deepEqual(hostRead(path("file"), offset, size), part);
    }
  });
  await step("READ is short at the end of the file, and empty behind it", () => {
    const data = pattern(10_000, 2);
    client.setattr(file, { size: 0 });
    client.write(file, fh, 0, data);
    assert.deepEqual(client.read(file, fh, 0, 65536).data, data);
    assert.deepEqual(client.read(file, fh, 9_999, 4096).data, data.subarray(9_999));
    for (const offset of [10_000, 10_001, 2 ** 40, 2n ** 62n]) {
      const { error, data } = client.read(file, fh, offset, 4096);
      assert.deepEqual([error, data.length], [0, 0], `${offset}`);
    }
    assert.equal(client.read(file, fh, 0, 0).data.length, 0);
  });
  await step("READ and WRITE reach beyond 4 GiB", () => {
    for (const offset of [2 ** 32 - 3, 2 ** 32 + 1, 2 ** 40 + 12345]) {
      const data = pattern(5000, offset % 1000);
      assert.equal(client.write(file, fh, offset, data).size, 5000);
      assert.deepEqual(client.read(file, fh, offset, 5000).data, data);
      assert.deepEqual(hostRead(path("file"), offset, 5000), data);
      assert.equal(hostStat(path("file")).size, offset + 5000);
    }
    assert.ok(client.read(file, fh, 2 ** 32 + 100_000, 4096).data.every((byte) => byte === 0), "a hole");
    client.setattr(file, { size: 0 });
  });
  await step("READ and WRITE refuse negative offsets, and those no file has", () => {
    for (const offset of [2n ** 63n, 2n ** 64n - 1n]) {
      assert.equal(client.read(file, fh, offset, 10).error, -EINVAL);
      assert.equal(client.write(file, fh, offset, pattern(10)).error, -EINVAL);
    }
    assert.ok([-EFBIG, -EINVAL].includes(client.write(file, fh, 2n ** 63n - 5n, pattern(10)).error));
    assert.equal(hostStat(path("file")).size, 0);
  });
  await step("READ and WRITE take requests cut at any byte, by direct and indirect descriptors", () => {
    for (const [i, most] of [[0, 1], [1, 7], [2, 300], [3, 4097], [4, 50_000]]) {
      const size = Math.min(100_000, most * 200);
      const data = pattern(size, most);
      const offset = 4090 + i * 3;
      for (const indirect of [false, true]) {
        const args = bytes(u64(fh, offset), u32(size, 0), u64(0), u32(0, 0));
        const write = bytes(header(op.FUSE_WRITE, file, 40 + size), args, data);
        // One byte a segment is too much for the queue's table: only the data's, then.
        if (write.length / Math.max(1, most / 2) < (indirect ? 900 : 400)) {
          const { error, data: out } = scattered(session, write, 24, most, i * 10, indirect);
          assert.deepEqual(
            [error, new DataView(out.slice().buffer).getUint32(0, true)],
            [0, size],
            `${most} ${indirect}`,
          );
        } else {
          client.write(file, fh, offset, data);
        }
        assert.deepEqual(hostRead(path("file"), offset, size), data);
        const read = bytes(header(op.FUSE_READ, file, 40), args);
        const got = scattered(session, read, 16 + size, most, i * 10 + 5, indirect);
        assert.equal(got.error, 0);
        assert.deepEqual(got.data, data);
      }
      client.setattr(file, { size: 0 });
    }
  });
  await step("READ gives no more than there is room for", () => {
    client.write(file, fh, 0, pattern(100));
    const args = bytes(u64(fh, 0), u32(100, 0), u64(0), u32(0, 0));
    const { error, data } = client.request(op.FUSE_READ, file, args, 0, { dataOut: 10 });
    assert.deepEqual([error, data], [0, pattern(100).slice(0, 10)]);
    assert.equal(client.request(op.FUSE_READ, file, args).data.length, 0);
  });
  await step("WRITE refuses a size larger than the data that came, and takes a smaller one", () => {
    const before = hostRead(path("file"), 0, 1000);
    const args = (size: number) => bytes(u64(fh, 0), u32(size, 0), u64(0), u32(0, 0));
    for (const size of [101, 4096, 2 ** 31, 2 ** 32 - 1]) {
      assert.equal(client.request(op.FUSE_WRITE, file, args(size), 8, { dataIn: new Uint8Array(100) }).error, -EINVAL);
    }
    assert.deepEqual(hostRead(path("file"), 0, 1000), before);
    const { error, data } = client.request(op.FUSE_WRITE, file, args(3), 8, { dataIn: Uint8Array.of(9, 9, 9, 9, 9) });
    assert.deepEqual([error, data[0]], [0, 3]);
    assert.deepEqual([...hostRead(path("file"), 0, 4)], [9, 9, 9, before[3]]);
    assert.equal(client.write(file, fh, 0, new Uint8Array(0)).error, 0);
  });
  await step("READ and its like answer EBADF for an fh that names nothing, or a directory", () => {
    const dir = client.opendir(ROOT);
    for (const bad of [...BAD_FHS, fh + 2n ** 20n, fh + 2n ** 32n, dir.fh]) {
      assert.equal(client.read(file, bad, 0, 10).error, -EBADF, `${bad}`);
      assert.equal(client.write(file, bad, 0, new Uint8Array(10)).error, -EBADF);
      assert.equal(client.flush(file, bad).error, -EBADF);
      assert.equal(client.fsync(file, bad).error, -EBADF);
      assert.equal(client.release(file, bad).error, -EBADF);
      assert.equal(client.lseek(file, bad, 0, SEEK_DATA).error, -EBADF);
      assert.equal(client.fallocate(file, bad, 0, 10).error, -EBADF);
    }
    for (const bad of [...BAD_FHS, fh]) {
      assert.equal(client.readdir(ROOT, bad).error, -EBADF);
      assert.equal(client.readdirplus(ROOT, bad).error, -EBADF);
      assert.equal(client.releasedir(ROOT, bad).error, -EBADF);
      assert.equal(client.fsyncdir(ROOT, bad).error, -EBADF);
    }
    assert.equal(client.releasedir(ROOT, dir.fh).error, 0);
  });
  await step("OPEN gives the access that was asked for", () => {
    const reading = client.open(file, O_RDONLY);
    const writing = client.open(file, O_WRONLY);
    assert.equal(client.write(file, reading.fh, 0, pattern(1)).error, -EBADF);
    assert.equal(client.read(file, writing.fh, 0, 1).error, -EBADF);
    for (const { fh } of [reading, writing]) {
      assert.equal(client.release(file, fh).error, 0);
      assert.equal(client.release(file, fh).error, -EBADF, "it is closed once");
      assert.equal(client.read(file, fh, 0, 1).error, -EBADF);
    }
  });
  await step("OPEN with O_TRUNC empties the file, and with O_APPEND writes at its end", () => {
    const appending = client.open(file, O_WRONLY | O_APPEND);
    const { size } = hostStat(path("file"));
    assert.equal(client.write(file, appending.fh, 0, pattern(3), O_WRONLY | O_APPEND).size, 3);
    assert.equal(hostStat(path("file")).size, size + 3);
    assert.deepEqual(hostRead(path("file"), size, 3), pattern(3));
    client.release(file, appending.fh);
    client.release(file, client.open(file, O_WRONLY | O_TRUNC).fh);
    assert.equal(hostStat(path("file")).size, 0);
  });
  await step("OPEN refuses what is no regular file, and does not wait", () => {
    const fifo = client.mknod(ROOT, "fifo", S_IFIFO | 0o600).nodeid;
    const link = client.symlink(ROOT, "link", "file").nodeid;
    for (const flags of [O_RDONLY, O_WRONLY, O_RDWR]) {
      assert.equal(client.open(fifo, flags).error, -ENXIO);
      assert.equal(client.open(ROOT, flags).error, -EISDIR);
      assert.equal(client.open(link, flags).error, -ELOOP);
    }
  });
  await step("A file that is open can be used when its name is gone", () => {
    const { nodeid, fh } = client.create(ROOT, "gone", O_RDWR);
    assert.equal(client.unlink(ROOT, "gone").error, 0);
    assert.equal(client.write(nodeid, fh, 0, pattern(100)).size, 100);
    assert.deepEqual(client.read(nodeid, fh, 0, 200).data, pattern(100).slice());
    const second = client.open(nodeid, O_RDONLY);
    assert.deepEqual(client.read(nodeid, second.fh, 0, 200).data, pattern(100).slice());
    assert.equal(client.setattr(nodeid, { size: 10 }).attr.size, 10);
    for (const one of [fh, second.fh]) assert.equal(client.release(nodeid, one).error, 0);
  });
  await step("FLUSH, FSYNC and FSYNCDIR succeed", () => {
    assert.equal(client.flush(file, fh).error, 0);
    for (const dataOnly of [false, true]) assert.equal(client.fsync(file, fh, dataOnly).error, 0);
    const dir = client.opendir(ROOT);
    for (const dataOnly of [false, true]) assert.equal(client.fsyncdir(ROOT, dir.fh, dataOnly).error, 0);
    assert.equal(client.releasedir(ROOT, dir.fh).error, 0);
    assert.equal(client.read(file, fh, 0, 1).error, 0, "FLUSH leaves the file open");
  });
  await step("FALLOCATE reserves, extends, punches and zeroes", () => {
    client.setattr(file, { size: 0 });
    assert.equal(client.fallocate(file, fh, 0, 65536).error, 0);
    assert.equal(hostStat(path("file")).size, 65536);
    assert.ok(hostStat(path("file")).blocks >= 128);
    assert.equal(client.fallocate(file, fh, 65536, 65536, FALLOC_FL_KEEP_SIZE).error, 0);
    assert.equal(hostStat(path("file")).size, 65536);
    client.write(file, fh, 0, new Uint8Array(65536).fill(5));
    assert.equal(client.fallocate(file, fh, 8192, 8192, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE).error, 0);
    const data = hostRead(path("file"), 0, 65536);
    assert.ok(data.every((byte, i) => byte === (i >= 8192 && i < 16384 ? 0 : 5)));
    const zeroed = client.fallocate(file, fh, 3, 5, FALLOC_FL_ZERO_RANGE).error;
    assert.ok(zeroed === -EOPNOTSUPP || hostRead(path("file"), 0, 9).join("") === "555000005", `${zeroed}`);
  });
  await step("FALLOCATE refuses nonsense", () => {
    assert.equal(client.fallocate(file, fh, 0, 0).error, -EINVAL);
    assert.equal(client.fallocate(file, fh, 2n ** 63n, 10).error, -EINVAL);
    assert.equal(client.fallocate(file, fh, 0, 2n ** 64n - 1n).error, -EINVAL);
    assert.equal(client.fallocate(file, fh, 2n ** 63n - 10n, 100).error, -EFBIG);
    assert.equal(client.fallocate(file, fh, 0, 10, FALLOC_FL_PUNCH_HOLE).error, -EOPNOTSUPP);
    assert.equal(client.fallocate(file, fh, 0, 10, 0x8000).error, -EOPNOTSUPP);
  });
  await step("LSEEK finds data and holes", () => {
    client.setattr(file, { size: 0 });
    client.setattr(file, { size: MIB });
    client.write(file, fh, 256 * 1024, pattern(4096));
    const seek = (offset: number, whence: number) => Number(client.lseek(file, fh, offset, whence).offset);
    assert.equal(seek(0, SEEK_DATA), 256 * 1024);
    assert.equal(seek(0, SEEK_HOLE), 0);
    assert.equal(seek(256 * 1024 + 1, SEEK_HOLE), 260 * 1024);
    assert.equal(seek(5, SEEK_SET), 5);
    assert.equal(seek(0, SEEK_END), MIB);
    assert.equal(client.lseek(file, fh, 300 * 1024, SEEK_DATA).error, -ENXIO);
    assert.equal(client.lseek(file, fh, 2 * MIB, SEEK_HOLE).error, -ENXIO);
    assert.equal(client.lseek(file, fh, 2n ** 64n - 1n, SEEK_SET).error, -EINVAL);
    assert.equal(client.lseek(file, fh, 0, 99).error, -EINVAL);
    // The place that a descriptor stands at is of no matter to READ.
    client.lseek(file, fh, 100, SEEK_CUR);
    assert.deepEqual(client.read(file, fh, 256 * 1024, 4096).data, pattern(4096));
  });
  await step("READ waits for what is not in the page cache", () => {
    const data = pattern(4 * MIB, 77);
    Deno.writeFileSync(path("cold"), data);
    const { nodeid } = client.lookup(ROOT, "cold");
    const cold = client.open(nodeid);
    for (let round = 0; round < 3; round++) {
      const dd = ["if=" + path("cold"), "iflag=nocache", "count=0"];
      new Deno.Command("sync", { args: [path("cold")] }).outputSync();
      assert.ok(new Deno.Command("dd", { args: dd, stderr: "null" }).outputSync().success);
      const reads = Array.from({ length: 16 }, (_, i) => {
        const args = bytes(u64(cold.fh, i * 262_144 + round), u32(65536, 0), u64(0), u32(0, 0));
        return client.start(op.FUSE_READ, nodeid, args, { dataOut: 65536 });
      });
      reads.forEach((pending, i) => {
        const at = i * 262_144 + round;
        assert.deepEqual(client.finish(pending).data, data.slice(at, at + 65536));
      });
    }
    client.release(nodeid, cold.fh);
  });
  await step("OPEN leaves no O_NONBLOCK, with which the ring would wait itself", () => {
    const flags = [...Deno.readDirSync(`/proc/${daemon.pid}/fd`)].flatMap(({ name }) => {
      try {
        if (Deno.readLinkSync(`/proc/${daemon.pid}/fd/${name}`) !== daemon.inside("file")) return [];
      } catch {
        return [];
      }
      return [parseInt(/flags:\s*(\d+)/.exec(Deno.readTextFileSync(`/proc/${daemon.pid}/fdinfo/${name}`))![1], 8)];
    });
    assert.ok(flags.length >= 2, "the node and the open file");
    for (const one of flags) assert.equal(one & O_NONBLOCK, 0);
  }, byHandle);
  await step("READ and WRITE of many at once do not mix their data", () => {
    client.setattr(file, { size: 0 });
    const blocks = Array.from({ length: 24 }, (_, i) => pattern(16384 + i, i));
    const writes = blocks.map((data, i) => {
      const args = bytes(u64(fh, i * 20_000), u32(data.length, 0), u64(0), u32(0, 0));
      return client.start(op.FUSE_WRITE, file, args, { outSize: 8, dataIn: data });
    });
    for (const pending of writes) assert.equal(client.finish(pending).error, 0);
    const reads = blocks.map((data, i) => {
      const args = bytes(u64(fh, i * 20_000), u32(data.length, 0), u64(0), u32(0, 0));
      return client.start(op.FUSE_READ, file, args, { dataOut: data.length });
    });
    reads.forEach((pending, i) => assert.deepEqual(client.finish(pending).data, blocks[i]));
  });
}

const session = { memory: 256 * MIB, queue: { size: 1024 } };
withDaemon("Files on disk", { session }, fileSteps);
withDaemon("Files in memory", { base: "/dev/shm", session }, fileSteps);
