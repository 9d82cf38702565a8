/** Time stamps: setting them to the nanosecond, and what sets them. */
import * as c from "./constants.ts";
import type { Path, Time } from "./sys.ts";
import type { Suite } from "./suite.ts";

const nanoseconds = ([sec, nsec]: Time) => BigInt(sec) * 1000000000n + BigInt(nsec);

export function times(t: Suite): void {
  const { sys } = t;
  const file = t.file(t.path("file"), "contents");
  const stamps: Time[] = [[0, 0], [1, 1], [1234567890, 123456789], [1000000000, 999999999], [2 ** 31 - 1, 5]];
  for (const stamp of [...stamps, [2 ** 32, 7], [-1, 3]] as Time[]) {
    t.works(`set to ${stamp}`, sys.utimens(file, [stamp[0], 0], stamp));
    t.is(`read back ${stamp}`, [sys.stat(file).atime, sys.stat(file).mtime], [
      nanoseconds([stamp[0], 0]),
      nanoseconds(stamp),
    ]);
  }
  sys.utimens(file, [100, 1], [200, 2]);
  t.works("OMIT for mtime", sys.utimens(file, [300, 3], [0, c.UTIME_OMIT]));
  t.is("sets atime only", [sys.stat(file).atime, sys.stat(file).mtime], [300000000003n, 200000000002n]);
  t.works("OMIT for atime", sys.utimens(file, [0, c.UTIME_OMIT], [400, 4]));
  t.is("sets mtime only", [sys.stat(file).atime, sys.stat(file).mtime], [300000000003n, 400000000004n]);
  const before = sys.stat(file).ctime;
  t.tick();
  t.works("OMIT for both", sys.utimens(file, [0, c.UTIME_OMIT], [0, c.UTIME_OMIT]));
  t.is("sets nothing", [sys.stat(file).mtime, sys.stat(file).ctime], [400000000004n, before]);
  sys.utimens(file, [1, 1], [1, 1]);
  t.ok("setting them advances ctime", sys.stat(file).ctime > before);
  // Whole seconds of leeway: guest and host may keep their own clocks.
  const near = (time: bigint) => Math.abs(Number(time / 1000000n) - Date.now()) < 5000;
  t.works("NOW for both", sys.utimens(file, [0, c.UTIME_NOW], [0, c.UTIME_NOW]));
  t.ok("is now", near(sys.stat(file).atime) && near(sys.stat(file).mtime), [sys.stat(file).atime, Date.now()]);
  sys.utimens(file, [100, 0], [100, 0]);
  sys.utimens(file, [0, c.UTIME_NOW], [50, 5]);
  t.ok("NOW for atime, a time for mtime", near(sys.stat(file).atime) && sys.stat(file).mtime === 50000000005n);
  sys.utimens(file, [0, c.UTIME_OMIT], [0, c.UTIME_NOW]);
  t.ok("NOW for mtime alone", near(sys.stat(file).mtime));
  t.works("no times at all", sys.call(c.SYS.utimensat, c.AT_FDCWD, new TextEncoder().encode(`${file}\0`), null, 0));
  t.ok("are now", near(sys.stat(file).atime) && near(sys.stat(file).mtime));
  t.fails("nanoseconds out of range", sys.utimens(file, [0, 1000000000], [0, 0]), c.EINVAL);
  t.fails("negative nanoseconds", sys.utimens(file, [0, -1], [0, 0]), c.EINVAL);
  t.fails("of nothing", sys.utimens(t.path("none"), [0, 0], [0, 0]), c.ENOENT);
  const folder = t.folder(t.path("folder"));
  t.works("of a directory", sys.utimens(folder, [11, 12], [13, 14]));
  t.is("a directory's time", sys.stat(folder).mtime, 13000000014n);
  t.using(folder, c.O_RDONLY, (fd) => t.works("of a directory's descriptor", sys.utimens(null, [5, 5], [6, 6], 0, fd)));
  t.is("set by descriptor", sys.stat(folder).mtime, 6000000006n);
  if (t.asRoot) {
    sys.chown(file, 1234, 1234);
    sys.chmod(file, 0o666);
    t.as(4321, 4321, [], () => {
      t.works("one who may write sets them to now", sys.utimens(file, [0, c.UTIME_NOW], [0, c.UTIME_NOW]));
      t.fails("but to no other time", sys.utimens(file, [5, 5], [5, 5]), c.EPERM);
      t.fails("nor one of them to now", sys.utimens(file, [0, c.UTIME_NOW], [0, c.UTIME_OMIT]), c.EPERM);
    });
  }
  updates(t);
}

/** Which times of a file and of its directory an action changes. */
function updates(t: Suite): void {
  const { sys } = t;
  const folder = t.folder(t.path("updates"));
  const name = `${folder}/f`, other = `${folder}/g`;
  const write = (path: Path, flags: number, data: string) => t.using(path, flags, (fd) => sys.write(fd, data));
  const check = (label: string, action: () => unknown, of: Path, changed: string) => {
    const before = sys.stat(of);
    t.tick();
    action();
    const after = sys.stat(of);
    const which = (["mtime", "ctime"] as const).filter((key) => after[key] > before[key]).join(" ");
    t.is(label, which, changed);
  };
  t.file(name, "contents");
  check("write changes mtime and ctime", () => write(name, c.O_WRONLY, "x"), name, "mtime ctime");
  check("append changes mtime and ctime", () => write(name, c.O_WRONLY | c.O_APPEND, "x"), name, "mtime ctime");
  check("a write of nothing changes nothing", () => write(name, c.O_WRONLY, ""), name, "");
  check("read changes neither", () => t.contents(name), name, "");
  check("open changes neither", () => t.using(name, c.O_RDWR, () => {}), name, "");
  check("O_TRUNC changes mtime and ctime", () => t.using(name, c.O_RDWR | c.O_TRUNC, () => {}), name, "mtime ctime");
  check("truncate changes mtime and ctime", () => sys.truncate(name, 5), name, "mtime ctime");
  check("chmod changes ctime", () => sys.chmod(name, 0o600), name, "ctime");
  check("link changes the file's ctime", () => sys.link(name, other), name, "ctime");
  check("unlink changes the other name's ctime", () => sys.unlink(other), name, "ctime");
  check("create changes the directory", () => t.file(`${folder}/new`), folder, "mtime ctime");
  check("writing does not change the directory", () => write(name, c.O_WRONLY, "x"), folder, "");
  check("unlink changes the directory", () => sys.unlink(`${folder}/new`), folder, "mtime ctime");
  check("mkdir changes the directory", () => sys.mkdir(`${folder}/d`), folder, "mtime ctime");
  check("rmdir changes the directory", () => sys.rmdir(`${folder}/d`), folder, "mtime ctime");
  check("symlink changes the directory", () => sys.symlink("x", `${folder}/l`), folder, "mtime ctime");
  check("rename changes the directory", () => sys.rename(`${folder}/l`, `${folder}/k`), folder, "mtime ctime");
  check("readlink does not change it", () => sys.readlink(`${folder}/k`), folder, "");
  check("a failed create changes nothing", () => sys.open(name, c.O_CREAT | c.O_EXCL | c.O_RDWR), folder, "");
  t.using(name, c.O_RDWR, (fd) => {
    check("ftruncate to the same size changes mtime", () => sys.ftruncate(fd, sys.fstat(fd).size), name, "mtime ctime");
  });
  const set = t.file(t.path("kept"), "x");
  t.using(set, c.O_WRONLY, (fd) => {
    sys.write(fd, "y");
    sys.utimens(null, [10, 1], [20, 2], 0, fd);
  });
  t.is("times set after a write are there after close", sys.stat(set).mtime, 20000000002n);
}
