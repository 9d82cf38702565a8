/** Less common ways to a file: O_TMPFILE, statx, ioctl, file handles of the process table. */
import { memory } from "./call.ts";
import * as c from "./constants.ts";
import type { Suite } from "./suite.ts";

export function tmpfile(t: Suite): void {
  const { sys } = t;
  const fd = sys.open(t.path("."), c.O_TMPFILE | c.O_RDWR, 0o640);
  if (fd === -c.EOPNOTSUPP) return t.skip("O_TMPFILE", "this file system has none (EOPNOTSUPP)");
  t.works("O_TMPFILE", fd);
  if (fd < 0) return;
  t.is("has no name", t.using(t.path("."), c.O_RDONLY, (dir) => sys.entries(dir)).length, 2);
  t.is("has no link", sys.fstat(fd).nlink, 0);
  t.is("is a file with its mode", sys.fstat(fd).mode, c.S_IFREG | 0o640);
  t.is("writes", sys.write(fd, "contents"), 8);
  t.is("reads", sys.pread(fd, 10, 0), "contents");
  const path = t.path("named");
  t.works("linkat gives it a name", sys.link(`/proc/self/fd/${fd}`, path, c.AT_SYMLINK_FOLLOW));
  t.is("by which it is read", t.contents(path), "contents");
  t.is("and has a link", [sys.fstat(fd).nlink, sys.stat(path).nlink], [1, 1]);
  t.ok("the same node", sys.fstat(fd).ino === sys.stat(path).ino);
  sys.write(fd, " more");
  t.is("written on", t.contents(path), "contents more");
  sys.close(fd);
  const closed = sys.open(t.path("."), c.O_TMPFILE | c.O_RDWR | c.O_EXCL, 0o600);
  t.works("with O_EXCL", closed);
  const result = sys.link(`/proc/self/fd/${closed}`, t.path("never"), c.AT_SYMLINK_FOLLOW);
  t.fails("that one gets no name", result, c.ENOENT);
  sys.close(closed);
  t.fails("O_TMPFILE for reading only", sys.open(t.path("."), c.O_TMPFILE | c.O_RDONLY), c.EINVAL);
  t.fails("O_TMPFILE in a file", sys.open(path, c.O_TMPFILE | c.O_RDWR), c.ENOTDIR);
  t.fails("O_TMPFILE in nothing", sys.open(t.path("none"), c.O_TMPFILE | c.O_RDWR), c.ENOENT);
  if (!t.asRoot) return;
  const folder = t.folder(t.path("sgid"));
  sys.chown(folder, 0, 5555);
  sys.chmod(folder, 0o2777);
  t.as(1234, 2345, [], () => {
    t.using(folder, c.O_TMPFILE | c.O_RDWR, (temp) => {
      t.is("belongs to the user and the folder's group", [sys.fstat(temp).uid, sys.fstat(temp).gid], [1234, 5555]);
    });
  });
}

export function statx(t: Suite): void {
  const { sys } = t;
  const path = t.file(t.path("file"), "contents");
  const buffer = memory(256);
  const name = new TextEncoder().encode(`${path}\0`);
  const view = new DataView(buffer.buffer);
  /** struct statx, linux/stat.h: mask 0, nlink 16, uid 20, gid 24, mode 28, ino 32, size 40, blocks 48. */
  const BASIC = 0x7ff;
  t.works("statx", sys.call(c.SYS.statx, c.AT_FDCWD, name, c.AT_SYMLINK_NOFOLLOW, BASIC, buffer));
  const stat = sys.stat(path);
  t.is("has the basic fields", view.getUint32(0, true) & BASIC, BASIC);
  t.is("the same mode", view.getUint16(28, true), stat.mode);
  t.is("the same size", view.getBigUint64(40, true), BigInt(stat.size));
  t.is("the same node", view.getBigUint64(32, true), stat.ino);
  t.is("the same link count", view.getUint32(16, true), stat.nlink);
  t.is("the same mtime", view.getBigInt64(112, true) * 1000000000n + BigInt(view.getUint32(120, true)), stat.mtime);
  const AT_STATX_FORCE_SYNC = 0x2000, AT_STATX_DONT_SYNC = 0x4000;
  for (const [label, flag] of [["FORCE_SYNC", AT_STATX_FORCE_SYNC], ["DONT_SYNC", AT_STATX_DONT_SYNC]] as const) {
    t.works(label, sys.call(c.SYS.statx, c.AT_FDCWD, name, c.AT_SYMLINK_NOFOLLOW | flag, BASIC, buffer));
    t.is(`${label}: the same size`, view.getBigUint64(40, true), BigInt(stat.size));
  }
  t.fails("a reserved bit in the mask", sys.call(c.SYS.statx, c.AT_FDCWD, name, 0, 0x80000000, buffer), c.EINVAL);
}

export function ioctl(t: Suite): void {
  const { sys } = t;
  const path = t.file(t.path("file"), "contents");
  t.using(path, c.O_RDWR, (fd) => {
    t.fails("TCGETS", sys.call(c.SYS.ioctl, fd, 0x5401, memory(64)), c.ENOTTY);
    const flags = memory(8);
    const get = sys.call(c.SYS.ioctl, fd, c.FS_IOC_GETFLAGS, flags);
    if (get === -c.ENOTTY || get === -c.EOPNOTSUPP) return t.skip("FS_IOC_GETFLAGS", "this file system has no flags");
    t.works("FS_IOC_GETFLAGS", get);
    const word = new Uint32Array(flags.buffer);
    word[0] |= c.FS_NOATIME_FL;
    const set = sys.call(c.SYS.ioctl, fd, c.FS_IOC_SETFLAGS, flags);
    if (set === -c.EOPNOTSUPP) return t.skip("FS_IOC_SETFLAGS", "this file system does not set noatime");
    t.works("FS_IOC_SETFLAGS", set);
    word[0] = 0;
    sys.call(c.SYS.ioctl, fd, c.FS_IOC_GETFLAGS, flags);
    t.is("the flag is set", word[0] & c.FS_NOATIME_FL, c.FS_NOATIME_FL);
  });
}

/** O_APPEND writers do not overwrite each other: two processes, many small records. */
export function append(t: Suite): void {
  const { sys } = t;
  const path = t.file(t.path("log"));
  const other = t.process();
  try {
    const a = sys.open(path, c.O_WRONLY | c.O_APPEND), b = other.sys.open(path, c.O_WRONLY | c.O_APPEND);
    const record = (who: string, i: number) => `${who}${String(i).padStart(6, "0")}\n`;
    for (let i = 0; i < 300; i++) {
      other.beginWith((s) => s.write(b, record("b", i)));
      sys.write(a, record("a", i));
      other.end();
    }
    const lines = String(t.contents(path)).split("\n");
    t.is("the length is that of all records", sys.stat(path).size, 4800);
    for (const who of ["a", "b"]) {
      const ours = lines.filter((line) => line.startsWith(who));
      t.is(
        `each record of ${who} is there, in order`,
        ours.join("\n") + "\n",
        [...Array(300).keys()].map((i) => record(who, i)).join(""),
      );
    }
  } finally {
    other.stop();
  }
}
