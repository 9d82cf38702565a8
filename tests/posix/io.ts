/** Reading, writing and mapping file data. */
import { mapped, memory } from "./call.ts";
import * as c from "./constants.ts";
import { SYS } from "./constants.ts";
import { bytes, text } from "./sys.ts";
import type { Suite } from "./suite.ts";

/** Bytes that differ from place to place. */
export function pattern(size: number, seed = 1): Uint8Array<ArrayBuffer> {
  const data = memory(size);
  for (let i = 0; i < size; i++) data[i] = (i * 31 + (i >> 8) * 7 + seed * 97) & 0xff;
  return data;
}

export function io(t: Suite): void {
  const { sys } = t;
  const path = t.path("file");
  t.using(path, c.O_CREAT | c.O_RDWR, (fd) => {
    t.is("write", sys.write(fd, "hello world"), 11);
    t.is("the offset moved", sys.lseek(fd, 0, c.SEEK_CUR), 11);
    t.is("read at the end", sys.read(fd, 10), "");
    t.is("SEEK_SET", sys.lseek(fd, 6), 6);
    t.is("read from there", sys.read(fd, 100), "world");
    t.is("SEEK_END", sys.lseek(fd, -5, c.SEEK_END), 6);
    t.is("SEEK_CUR back", sys.lseek(fd, -2, c.SEEK_CUR), 4);
    t.is("pread", sys.pread(fd, 5, 6), "world");
    t.is("pwrite", sys.pwrite(fd, "W", 6), 1);
    t.is("neither moves the offset", sys.lseek(fd, 0, c.SEEK_CUR), 4);
    t.is("pread behind the end", sys.pread(fd, 5, 100), "");
    t.is("pread over the end", sys.pread(fd, 50, 6), "World");
    t.is("read of no bytes", sys.read(fd, 0), "");
    t.is("write of no bytes", sys.write(fd, ""), 0);
    t.is("pwrite of no bytes behind the end", sys.pwrite(fd, "", 1000), 0);
    t.is("leaves the size", sys.fstat(fd).size, 11);
    t.fails("a negative offset to seek to", sys.lseek(fd, -1), c.EINVAL);
    t.fails("a negative offset to read from", sys.pread(fd, 1, -1), c.EINVAL);
    t.fails("a negative offset to write to", sys.pwrite(fd, "x", -1), c.EINVAL);
    t.fails("an unknown whence", sys.lseek(fd, 0, 99), c.EINVAL);
    sys.lseek(fd, 20);
    t.is("write behind the end", sys.write(fd, "x"), 1);
    t.is("fills with zeros", sys.pread(fd, 30, 9), "ld" + "\0".repeat(9) + "x");
    const twin = sys.call(SYS.dup, fd);
    sys.lseek(fd, 3);
    t.is("a duplicate shares the offset", sys.lseek(twin, 0, c.SEEK_CUR), 3);
    sys.close(twin);
  });
  vectors(t);
  sizes(t);
  large(t);
  coherence(t);
}

function vectors(t: Suite): void {
  const { sys } = t;
  t.using(t.path("vectors"), c.O_CREAT | c.O_RDWR, (fd) => {
    t.is("writev", sys.vector(SYS.writev, fd, [bytes("ab"), bytes(""), bytes("cdef")]), 6);
    t.is("pwritev", sys.vector(SYS.pwritev, fd, [bytes("X"), bytes("YZ")], 2), 3);
    t.is("what they wrote", sys.pread(fd, 10, 0), "abXYZf");
    sys.lseek(fd, 0);
    const [a, b] = [memory(2), memory(10)];
    t.is("readv", sys.vector(SYS.readv, fd, [a, b]), 6);
    t.is("what it read", [text(a), text(b.subarray(0, 4))], ["ab", "XYZf"]);
    t.is("preadv", sys.vector(SYS.preadv, fd, [a, b], 3), 3);
    t.is("what preadv read", [text(a), text(b.subarray(0, 1))], ["YZ", "f"]);
    const many = Array.from({ length: 1024 }, (_, i) => pattern(7, i));
    t.is("writev of 1,024 pieces", sys.vector(SYS.writev, fd, many), 7168);
    const back = many.map(() => memory(7));
    t.is("preadv of 1,024 pieces", sys.vector(SYS.preadv, fd, back, 6), 7168);
    t.ok("the same pieces", back.every((piece, i) => text(piece) === text(many[i])));
    t.fails("writev of 1,025 pieces", sys.vector(SYS.writev, fd, [...many, bytes("x")]), c.EINVAL);
  });
}

/** Sizes and offsets around pages, requests and powers of two. */
function sizes(t: Suite): void {
  const { sys } = t;
  t.using(t.path("sizes"), c.O_CREAT | c.O_RDWR, (fd) => {
    for (const size of [1, 511, 512, 4095, 4096, 4097, 65536, 131071, 131073, 1 << 20, (1 << 20) + 1, 3_000_001]) {
      for (const offset of [0, 1, 4095, 123457]) {
        const data = pattern(size, size + offset), back = memory(size);
        sys.ftruncate(fd, 0);
        const written = sys.pwrite(fd, data, offset);
        const read = sys.call(SYS.pread64, fd, back, size, offset);
        const same = back.every((byte, i) => byte === data[i]);
        const { size: total } = sys.fstat(fd);
        t.is(`${size} bytes at ${offset}`, [written, read, same, total], [size, size, true, offset + size]);
      }
    }
  });
}

function large(t: Suite): void {
  const { sys } = t;
  const GIB = 2 ** 30;
  t.using(t.path("large"), c.O_CREAT | c.O_RDWR, (fd) => {
    for (const offset of [2 * GIB - 2, 4 * GIB - 2, 5 * GIB + 1, 1024 * GIB]) {
      const result = sys.pwrite(fd, "over", offset);
      if (result === -c.EFBIG) {
        t.skip(`a file of ${offset} bytes`, "too large for this file system");
        continue;
      }
      t.is(`write at ${offset}`, result, 4);
      t.is(`the size after a write at ${offset}`, sys.fstat(fd).size, offset + 4);
      t.is(`read at ${offset}`, sys.pread(fd, 10, offset), "over");
      t.is(`SEEK_END after ${offset}`, sys.lseek(fd, 0, c.SEEK_END), offset + 4);
    }
    t.is("between there are zeros", sys.pread(fd, 4, 3 * GIB), "\0\0\0\0");
    t.ok("and few blocks", sys.fstat(fd).blocks < 2048, sys.fstat(fd).blocks);
    t.works("cut to 4 GiB + 1", sys.ftruncate(fd, 4 * GIB + 1));
    t.is("read over that end", sys.pread(fd, 10, 4 * GIB - 2), "ove");
  });
  sys.unlink(t.path("large"));
}

/** What one descriptor writes another reads at once, and so does stat by name. */
function coherence(t: Suite): void {
  const { sys } = t;
  const path = t.file(t.path("coherence"));
  t.using(path, c.O_RDWR, (one) => {
    t.using(path, c.O_RDWR, (two) => {
      const seen: unknown[] = [];
      for (let i = 0; i < 20; i++) {
        sys.pwrite(one, String.fromCharCode(65 + i), i);
        seen.push(sys.pread(two, 100, i), sys.stat(path).size);
      }
      const expected = Array.from({ length: 20 }, (_, i) => [String.fromCharCode(65 + i), i + 1]).flat();
      t.is("two descriptors and stat agree", seen, expected);
      sys.ftruncate(two, 3);
      t.is("also after ftruncate", [sys.fstat(one).size, sys.pread(one, 9, 0)], [3, "ABC"]);
    });
  });
  t.using(path, c.O_RDONLY, (from) => {
    t.using(t.path("sent"), c.O_CREAT | c.O_RDWR, (to) => {
      t.is("sendfile", sys.call(SYS.sendfile, to, from, null, 10), 3);
      t.is("what it sent", sys.pread(to, 10, 0), "ABC");
    });
  });
  direct(t);
  for (const advice of [0, 1, 2, 3, 4, 5]) {
    t.using(path, c.O_RDONLY, (fd) => t.works(`fadvise ${advice}`, sys.call(SYS.fadvise64, fd, 0, 0, advice)));
  }
}

function direct(t: Suite): void {
  const { sys } = t;
  const path = t.path("direct");
  const fd = sys.open(path, c.O_CREAT | c.O_RDWR | c.O_DIRECT);
  if (fd === -c.EINVAL) return t.skip("O_DIRECT", "this file system has none");
  const start = sys.call(SYS.mmap, null, 8192, c.PROT_READ | c.PROT_WRITE, c.MAP_PRIVATE | 0x20, -1, 0);
  const page = mapped(start, 8192);
  page.set(pattern(8192));
  const result = sys.call(SYS.pwrite64, fd, BigInt(start), 8192, 4096);
  t.is("O_DIRECT write", result, 8192);
  page.fill(0);
  t.is("O_DIRECT read", sys.call(SYS.pread64, fd, BigInt(start), 8192, 4096), 8192);
  t.is("O_DIRECT: the same data", text(page), text(pattern(8192)));
  t.is("read through the page cache", t.using(path, c.O_RDONLY, (other) => sys.pread(other, 8192, 4096)), text(page));
  sys.call(SYS.munmap, start, 8192);
  sys.close(fd);
}

export function mmap(t: Suite): void {
  const { sys } = t;
  const path = t.path("file"), size = 10000;
  t.using(path, c.O_CREAT | c.O_RDWR, (fd) => {
    sys.write(fd, pattern(size));
    const privately = sys.call(SYS.mmap, null, size, c.PROT_READ | c.PROT_WRITE, c.MAP_PRIVATE, fd, 0);
    t.works("mmap MAP_PRIVATE", privately);
    const mine = mapped(privately, size);
    t.ok("the mapping has the contents", mine.every((byte, i) => byte === pattern(size)[i]));
    t.ok(
      "behind the end of the file it has zeros",
      mapped(privately, 12288).subarray(size).every((byte) => byte === 0),
    );
    mine[0] = 1;
    mine[5000] = 2;
    t.is("writing to it leaves the file", sys.pread(fd, 1, 0), text(pattern(1)));
    sys.call(SYS.munmap, privately, size);
    t.using(path, c.O_RDONLY, (reader) => {
      const page = sys.call(SYS.mmap, null, 4096, c.PROT_READ, c.MAP_PRIVATE, reader, 4096);
      t.is("mmap of the second page", text(mapped(page, 4)), text(pattern(size).subarray(4096, 4100)));
      sys.call(SYS.munmap, page, 4096);
    });
    shared(t, fd, path, size);
  });
  t.using(path, c.O_WRONLY, (fd) => {
    t.fails("mmap of O_WRONLY", sys.call(SYS.mmap, null, size, c.PROT_READ, c.MAP_PRIVATE, fd, 0), c.EACCES);
  });
}

function shared(t: Suite, fd: number, path: string, size: number): void {
  const { sys } = t;
  const both = c.PROT_READ | c.PROT_WRITE;
  const start = sys.call(SYS.mmap, null, size, both, c.MAP_SHARED, fd, 0);
  // FUSE files opened with FOPEN_DIRECT_IO cannot be mapped so: ENODEV.
  if (start === -19) return t.skip("MAP_SHARED", "this file system's mode of caching forbids it (ENODEV)");
  t.works("mmap MAP_SHARED", start);
  const ours = mapped(start, size);
  ours.set(bytes("mapped"), 100);
  t.is("read sees what was stored", sys.pread(fd, 6, 100), "mapped");
  t.works("msync", sys.call(SYS.msync, start, 12288, c.MS_SYNC));
  t.is("another descriptor sees it", t.using(path, c.O_RDONLY, (other) => sys.pread(other, 6, 100)), "mapped");
  sys.pwrite(fd, "written", 5000);
  t.is("the mapping sees what was written", text(ours.subarray(5000, 5007)), "written");
  const before = sys.stat(path).mtime;
  t.tick();
  ours[7000] = 99;
  sys.call(SYS.msync, start, 12288, c.MS_SYNC);
  // Nobody tells tmpfs that a page was written: it has no write-back.
  const TMPFS = 0x01021994n, kind = new BigInt64Array(memory(120).buffer);
  sys.call(SYS.fstatfs, fd, new Uint8Array(kind.buffer));
  if (kind[0] === TMPFS) t.skip("msync advances mtime", "tmpfs does not notice");
  else t.ok("msync advances mtime", sys.stat(path).mtime > before);
  sys.ftruncate(fd, 20000);
  const far = sys.call(SYS.mmap, null, 4096, both, c.MAP_SHARED, fd, 16384);
  mapped(far, 4).set(bytes("far!"));
  sys.call(SYS.munmap, far, 4096);
  sys.call(SYS.munmap, start, size);
  t.is("what was stored stays after munmap", sys.pread(fd, 4, 16384), "far!");
  t.works("fsync after it", sys.fsync(fd));
  t.using(path, c.O_RDONLY, (reader) => {
    t.fails("shared and writable of O_RDONLY", sys.call(SYS.mmap, null, 4096, both, c.MAP_SHARED, reader, 0), c.EACCES);
  });
  const hidden = t.path("hidden");
  t.using(hidden, c.O_CREAT | c.O_RDWR, (open) => {
    sys.ftruncate(open, 4096);
    const page = sys.call(SYS.mmap, null, 4096, both, c.MAP_SHARED, open, 0);
    sys.unlink(hidden);
    mapped(page, 6).set(bytes("unlink"));
    t.works("msync of an unlinked file", sys.call(SYS.msync, page, 4096, c.MS_SYNC));
    t.is("its contents", sys.pread(open, 6, 0), "unlink");
    sys.call(SYS.munmap, page, 4096);
  });
}
