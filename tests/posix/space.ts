/** A file's length and its holes: truncate, fallocate, SEEK_DATA and SEEK_HOLE, copy_file_range. */
import * as c from "./constants.ts";
import { pattern } from "./io.ts";
import { text } from "./sys.ts";
import { must, type Suite } from "./suite.ts";

const MAX = 2n ** 63n - 1n;

export function truncate(t: Suite): void {
  const { sys } = t;
  const path = t.file(t.path("file"), "0123456789");
  const before = sys.stat(path);
  t.tick();
  t.works("to less", sys.truncate(path, 4));
  t.is("cuts", t.contents(path), "0123");
  t.ok("advances mtime", sys.stat(path).mtime > before.mtime);
  t.ok("advances ctime", sys.stat(path).ctime > before.ctime);
  t.works("to more", sys.truncate(path, 8));
  t.is("fills with zeros, not with what was there", t.contents(path), "0123\0\0\0\0");
  t.works("to nothing", sys.truncate(path, 0));
  t.is("empties", sys.stat(path).size, 0);
  t.works("to 1 TiB", sys.truncate(path, 2 ** 40));
  t.is("is that long", sys.stat(path).size, 2 ** 40);
  t.ok("and takes no room", sys.stat(path).blocks < 100, sys.stat(path).blocks);
  t.fails("to a negative length", sys.truncate(path, -1), c.EINVAL);
  t.fails("of nothing", sys.truncate(t.path("none"), 0), c.ENOENT);
  t.fails("of a directory", sys.truncate(t.folder(t.path("folder")), 0), c.EISDIR);
  t.fails("below a file", sys.truncate(`${path}/x`, 0), c.ENOTDIR);
  const page = t.file(t.path("page"), text(pattern(10000)));
  sys.truncate(page, 5000);
  sys.truncate(page, 10000);
  t.is("the rest of a page is zeros", t.contents(page), text(pattern(5000)) + "\0".repeat(5000));
  t.using(page, c.O_RDWR, (fd) => {
    sys.lseek(fd, 9000);
    t.works("ftruncate", sys.ftruncate(fd, 100));
    t.is("leaves the offset", sys.lseek(fd, 0, c.SEEK_CUR), 9000);
    t.is("a write there makes a hole", sys.write(fd, "x"), 1);
    t.is("up to it", sys.pread(fd, 9901, 100), "\0".repeat(8900) + "x");
    t.fails("ftruncate to a negative length", sys.ftruncate(fd, -1), c.EINVAL);
  });
  t.using(page, c.O_RDONLY, (fd) => t.fails("ftruncate of O_RDONLY", sys.ftruncate(fd, 0), c.EINVAL));
  sys.chmod(page, 0o444);
  if (t.asRoot) t.works("root truncates 0444", sys.truncate(page, 10));
}

export function fallocate(t: Suite): void {
  const { sys } = t;
  const path = t.path("file"), KEEP = c.FALLOC_FL_KEEP_SIZE;
  t.using(path, c.O_CREAT | c.O_RDWR, (fd) => {
    if (sys.fallocate(fd, 0, 0, 100000) === -c.EOPNOTSUPP) return t.skip("fallocate", "this file system has none");
    t.is("allocates and extends", sys.fstat(fd).size, 100000);
    t.ok("takes blocks", sys.fstat(fd).blocks >= 195, sys.fstat(fd).blocks);
    t.is("of zeros", sys.pread(fd, 10, 50000), "\0".repeat(10));
    sys.pwrite(fd, pattern(100000), 0);
    t.works("over data", sys.fallocate(fd, 0, 0, 50000));
    t.is("leaves it", sys.pread(fd, 50, 25000), text(pattern(100000).subarray(25000, 25050)));
    t.works("KEEP_SIZE behind the end", sys.fallocate(fd, KEEP, 100000, 100000));
    t.is("keeps the size", sys.fstat(fd).size, 100000);
    t.fails("of length 0", sys.fallocate(fd, 0, 0, 0), c.EINVAL);
    t.fails("at a negative offset", sys.fallocate(fd, 0, -1, 10), c.EINVAL);
    t.fails("of a negative length", sys.fallocate(fd, 0, 0, -10), c.EINVAL);
    t.fails("PUNCH_HOLE without KEEP_SIZE", sys.fallocate(fd, c.FALLOC_FL_PUNCH_HOLE, 0, 10), c.EOPNOTSUPP);
    t.fails("an unknown mode", sys.fallocate(fd, 0x4000, 0, 10), c.EOPNOTSUPP);
    const blocks = sys.fstat(fd).blocks, before = sys.fstat(fd).mtime;
    t.tick();
    const hole = sys.fallocate(fd, KEEP | c.FALLOC_FL_PUNCH_HOLE, 8192, 40960);
    if (hole === -c.EOPNOTSUPP) t.skip("PUNCH_HOLE", "this file system has none");
    else {
      t.works("PUNCH_HOLE", hole);
      t.is("makes zeros", sys.pread(fd, 40960, 8192), "\0".repeat(40960));
      t.is("only there: before", sys.pread(fd, 1, 8191), text(pattern(8192).subarray(8191)));
      t.is("only there: behind", sys.pread(fd, 1, 49152), text(pattern(49153).subarray(49152)));
      t.ok("gives blocks back", sys.fstat(fd).blocks < blocks, [blocks, sys.fstat(fd).blocks]);
      t.ok("advances mtime", sys.fstat(fd).mtime > before);
      t.works("PUNCH_HOLE of parts of pages", sys.fallocate(fd, KEEP | c.FALLOC_FL_PUNCH_HOLE, 60001, 5003));
      const wanted = pattern(70000).subarray(60000);
      wanted.fill(0, 1, 5004);
      t.is("makes zeros of just these", sys.pread(fd, 10000, 60000), text(wanted));
      t.works("PUNCH_HOLE behind the end", sys.fallocate(fd, KEEP | c.FALLOC_FL_PUNCH_HOLE, 200000, 5003));
      t.is("leaves the size", sys.fstat(fd).size, 100000);
    }
    zeroRange(t, fd);
  });
  t.using(path, c.O_RDONLY, (fd) => t.fails("of O_RDONLY", sys.fallocate(fd, 0, 0, 10), c.EBADF));
  t.using(t.path("."), c.O_RDONLY, (fd) => t.fails("of a directory", sys.fallocate(fd, 0, 0, 10), c.EBADF));
}

function zeroRange(t: Suite, fd: number): void {
  const { sys } = t;
  sys.pwrite(fd, pattern(100000), 0);
  const result = sys.fallocate(fd, c.FALLOC_FL_ZERO_RANGE, 80000, 40000);
  if (result === -c.EOPNOTSUPP) return t.skip("ZERO_RANGE", "this file system has none");
  t.works("ZERO_RANGE over the end", result);
  t.is("extends", sys.fstat(fd).size, 120000);
  t.is("makes zeros there", sys.pread(fd, 40000, 80000), "\0".repeat(40000));
  t.works("ZERO_RANGE|KEEP_SIZE", sys.fallocate(fd, c.FALLOC_FL_ZERO_RANGE | c.FALLOC_FL_KEEP_SIZE, 119000, 5000));
  t.is("does not extend", sys.fstat(fd).size, 120000);
}

export function seekHole(t: Suite): void {
  const { sys } = t;
  const MIB = 1 << 20;
  t.using(t.path("sparse"), c.O_CREAT | c.O_RDWR, (fd) => {
    sys.ftruncate(fd, 10 * MIB);
    sys.pwrite(fd, pattern(65536), 2 * MIB);
    sys.pwrite(fd, pattern(65536), 6 * MIB);
    sys.fsync(fd);
    if (sys.lseek(fd, 0, c.SEEK_DATA) === 0) return t.skip("SEEK_DATA", "this file system knows no holes");
    t.is("SEEK_DATA from 0", sys.lseek(fd, 0, c.SEEK_DATA), 2 * MIB);
    t.is("the offset moved", sys.lseek(fd, 0, c.SEEK_CUR), 2 * MIB);
    t.is("SEEK_DATA in data", sys.lseek(fd, 2 * MIB + 5, c.SEEK_DATA), 2 * MIB + 5);
    t.is("SEEK_HOLE in data", sys.lseek(fd, 2 * MIB + 5, c.SEEK_HOLE), 2 * MIB + 65536);
    t.is("SEEK_HOLE in a hole", sys.lseek(fd, 5, c.SEEK_HOLE), 5);
    t.is("SEEK_DATA from the hole", sys.lseek(fd, 3 * MIB, c.SEEK_DATA), 6 * MIB);
    t.fails("SEEK_DATA in the last hole", sys.lseek(fd, 7 * MIB, c.SEEK_DATA), c.ENXIO);
    t.fails("SEEK_DATA at the end", sys.lseek(fd, 10 * MIB, c.SEEK_DATA), c.ENXIO);
    t.fails("SEEK_HOLE behind the end", sys.lseek(fd, 11 * MIB, c.SEEK_HOLE), c.ENXIO);
    sys.ftruncate(fd, 6 * MIB + 65536);
    t.is("the end is a hole", sys.lseek(fd, 6 * MIB, c.SEEK_HOLE), 6 * MIB + 65536);
  });
}

export function copyRange(t: Suite): void {
  const { sys } = t;
  const [from, to] = [t.path("from"), t.path("to")];
  t.using(from, c.O_CREAT | c.O_RDWR, (source) => {
    t.using(to, c.O_CREAT | c.O_RDWR, (target) => {
      const data = pattern(300000);
      sys.write(source, data);
      sys.lseek(source, 0);
      /** Short copies are allowed: copies until all is there. */
      const copy = (fromAt: number, toAt: number, length: number) => {
        let done = 0;
        while (done < length) {
          const result = sys.copyRange(source, fromAt + done, target, toAt + done, length - done);
          if (result <= 0) return result || done;
          done += result;
        }
        return done;
      };
      t.is("between two files", copy(1000, 5000, 200000), 200000);
      t.is("copies", sys.pread(target, 200000, 5000) === text(data.subarray(1000, 201000)), true);
      t.is("and extends", sys.fstat(target).size, 205000);
      t.is("before it are zeros", sys.pread(target, 5000, 0) === "\0".repeat(5000), true);
      t.is("with offsets of its own the files' stay", sys.lseek(source, 0, c.SEEK_CUR), 0);
      const moved = must(sys.copyRange(source, null, target, null, 100), "copy_file_range");
      t.is("without, they move", [sys.lseek(source, 0, c.SEEK_CUR), sys.lseek(target, 0, c.SEEK_CUR)], [moved, moved]);
      t.is("at the end it copies nothing", sys.copyRange(source, 300000, target, 0, 10), 0);
      t.is("over the end it copies what is there", copy(299990, 0, 100), 10);
      t.is("no bytes", sys.copyRange(source, 0, target, 0, 0), 0);
      t.fails("flags", sys.copyRange(source, 0, target, 0, 10, 1), c.EINVAL);
      t.fails("overlapping in one file", sys.copyRange(source, 0, source, 5, 10), c.EINVAL);
      t.is("apart in one file", sys.copyRange(source, 0, source, 400000, 10), 10);
      t.is("what is there then", sys.pread(source, 20, 400000), text(data.subarray(0, 10)));
      t.using(t.path("."), c.O_RDONLY, (dir) => {
        t.fails("from a directory", sys.copyRange(dir, 0, target, 0, 10), c.EISDIR);
      });
      t.using(to, c.O_RDONLY, (reader) => {
        t.fails("to O_RDONLY", sys.copyRange(source, 0, reader, 0, 10), c.EBADF);
      });
      t.using(to, c.O_WRONLY | c.O_APPEND, (appender) => {
        t.fails("to O_APPEND", sys.copyRange(source, 0, appender, 0, 10), c.EBADF);
        t.fails("from O_WRONLY", sys.copyRange(appender, 0, target, 0, 10), c.EBADF);
      });
      const before = sys.stat(to).mtime;
      t.tick();
      copy(0, 0, 10);
      t.ok("advances mtime", sys.stat(to).mtime > before);
    });
  });
}

/** Where a file may end at most. */
export function limits(t: Suite): void {
  const { sys } = t;
  t.using(t.path("file"), c.O_CREAT | c.O_RDWR, (fd) => {
    t.fails("lseek to 2^63-1 and further", sys.lseek(fd, MAX) < 0 ? -c.EINVAL : sys.lseek(fd, 1, c.SEEK_CUR), c.EINVAL);
    const at = (offset: bigint) => sys.call(c.SYS.pwrite64, fd, pattern(10), 10, offset);
    t.fails("pwrite at 2^63-1", at(MAX), at(MAX) === -c.EINVAL ? c.EINVAL : c.EFBIG);
    t.is("pread at 2^63-11", sys.call(c.SYS.pread64, fd, pattern(10), 10, MAX - 10n), 0);
    const result = sys.call(c.SYS.ftruncate, fd, MAX);
    t.ok("ftruncate to 2^63-1", [0, -c.EFBIG, -c.EINVAL].includes(result), result);
    if (result === 0) t.is("is that long", sys.call(c.SYS.lseek, fd, 0, c.SEEK_END) > 2 ** 62, true);
    t.fails("fallocate over 2^63", sys.call(c.SYS.fallocate, fd, 0, MAX, 10), c.EFBIG);
  });
}
