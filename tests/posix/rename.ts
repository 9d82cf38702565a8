/** rename(2) and renameat2(2): every pair of kinds, every errno, NOREPLACE and EXCHANGE. */
import * as c from "./constants.ts";
import type { Suite } from "./suite.ts";

/** What stands at a name; "full" is a directory with something in it. */
type Kind = "nothing" | "file" | "empty" | "full" | "link" | "pipe";
const KINDS: Kind[] = ["nothing", "file", "empty", "full", "link", "pipe"];
const isFolder = (kind: Kind) => kind === "empty" || kind === "full";

function make(t: Suite, kind: Kind, path: string): bigint {
  if (kind === "nothing") return 0n;
  if (kind === "file") t.file(path, `file ${path}`);
  if (isFolder(kind)) t.folder(path);
  if (kind === "full") t.file(`${path}/inside`);
  if (kind === "link") t.sys.symlink("nowhere", path);
  if (kind === "pipe") t.sys.mknod(path, c.S_IFIFO | 0o600);
  return t.sys.stat(path).ino;
}

/** What rename(2) says of this pair: 0 or the errno. */
function plain(from: Kind, to: Kind): number {
  if (from === "nothing") return c.ENOENT;
  if (to === "nothing") return 0;
  if (isFolder(from) && !isFolder(to)) return c.ENOTDIR;
  if (!isFolder(from) && isFolder(to)) return c.EISDIR;
  return to === "full" ? c.ENOTEMPTY : 0;
}

export function rename(t: Suite): void {
  const { sys } = t;
  for (const from of KINDS) {
    for (const to of KINDS) {
      const cases = [
        ["rename", 0, plain(from, to)],
        ["NOREPLACE", c.RENAME_NOREPLACE, from === "nothing" ? c.ENOENT : to === "nothing" ? 0 : c.EEXIST],
        ["EXCHANGE", c.RENAME_EXCHANGE, from === "nothing" || to === "nothing" ? c.ENOENT : 0],
      ] as const;
      for (const [what, flags, errno] of cases) {
        const [a, b] = [t.fresh("a"), t.fresh("b")];
        const [inoA, inoB] = [make(t, from, a), make(t, to, b)];
        const name = `${what} of ${from} to ${to}`;
        t.is(name, sys.rename(a, b, flags), errno ? -errno : 0);
        const now = [a, b].map((path) => sys.lstatErrno(path) < 0 ? 0n : sys.stat(path).ino);
        const moved = errno ? [inoA, inoB] : flags === c.RENAME_EXCHANGE ? [inoB, inoA] : [0n, inoA];
        t.is(`${name}: what is where`, now.map((ino) => ino !== 0n), moved.map((ino) => ino !== 0n));
        if (!errno) t.ok(`${name}: the same nodes`, now[0] === moved[0] && now[1] === moved[1], { now, moved });
      }
    }
  }
  errors(t);
  effects(t);
  sticky(t);
}

function errors(t: Suite): void {
  const { sys } = t;
  const file = t.file(t.path("file"), "contents"), folder = t.folder(t.path("folder"));
  t.fails("a directory into itself", sys.rename(folder, `${folder}/sub`), c.EINVAL);
  t.folder(`${folder}/x`);
  t.fails("a directory into its child", sys.rename(folder, `${folder}/x/y`), c.EINVAL);
  t.fails("a child onto its parent", sys.rename(`${folder}/x`, folder), c.ENOTEMPTY);
  t.fails("exchange of child and parent", sys.rename(`${folder}/x`, folder, c.RENAME_EXCHANGE), c.EINVAL);
  t.fails("below a file", sys.rename(`${file}/x`, t.path("y")), c.ENOTDIR);
  t.fails("to below a file", sys.rename(folder, `${file}/x`), c.ENOTDIR);
  t.fails("to below nothing", sys.rename(file, t.path("none/x")), c.ENOENT);
  t.fails("a file to a name with a slash behind it", sys.rename(file, `${t.path("new")}/`), c.ENOTDIR);
  t.fails("of '.'", sys.rename(`${folder}/.`, t.path("y")), c.EBUSY);
  t.fails("to '..'", sys.rename(file, `${folder}/..`), c.EBUSY);
  t.fails("of the empty name", sys.rename("", t.path("y")), c.ENOENT);
  t.fails("NOREPLACE|EXCHANGE", sys.rename(file, folder, c.RENAME_NOREPLACE | c.RENAME_EXCHANGE), c.EINVAL);
  t.fails("an unknown flag", sys.rename(file, folder, 1 << 20), c.EINVAL);
  t.works("a file to itself", sys.rename(file, file));
  t.is("and it is there", t.contents(file), "contents");
  t.fails("NOREPLACE of a file to itself", sys.rename(file, file, c.RENAME_NOREPLACE), c.EEXIST);
  const hard = t.path("hard");
  sys.link(file, hard);
  t.works("a file to another name of it", sys.rename(file, hard));
  t.is("leaves both", [t.contents(file), t.contents(hard)], ["contents", "contents"]);
  if (sys.stat("/proc").dev !== sys.stat(file).dev) {
    t.fails("to another file system", sys.rename(file, "/proc/x"), c.EXDEV);
    t.fails("from another file system", sys.rename("/proc/uptime", t.path("z")), c.EXDEV);
  }
}

function effects(t: Suite): void {
  const { sys } = t;
  const [a, b] = [t.file(t.path("open-a"), "a"), t.file(t.path("open-b"), "b")];
  t.using(b, c.O_RDWR, (old) => {
    t.using(a, c.O_RDWR, (moved) => {
      sys.rename(a, b);
      t.is("a descriptor of the moved file reads", sys.pread(moved, 9, 0), "a");
      t.is("and writes", sys.pwrite(moved, "A", 0), 1);
      t.is("what it wrote is at the new name", t.contents(b), "A");
      t.is("a descriptor of the replaced file reads", sys.pread(old, 9, 0), "b");
      t.is("whose link count is 0", sys.fstat(old).nlink, 0);
    });
  });
  const folder = t.folder(t.path("parent")), other = t.folder(t.path("other"));
  t.folder(`${folder}/child`);
  t.file(`${folder}/child/f`, "deep");
  const before = sys.stat(folder).nlink - sys.stat(other).nlink;
  sys.rename(`${folder}/child`, `${other}/child`);
  t.is("what is below a moved directory moves with it", t.contents(`${other}/child/f`), "deep");
  const after = sys.stat(other).nlink - sys.stat(folder).nlink;
  t.ok("the parents' link counts follow", before === after, { before, after });
  const up = sys.stat(`${other}/child/..`).ino;
  t.ok("'..' of the moved directory is its new parent", up === sys.stat(other).ino);
  const file = t.file(`${folder}/f`, "x");
  const [ctime, from, to] = [sys.stat(file).ctime, sys.stat(folder).mtime, sys.stat(other).mtime];
  t.tick();
  sys.rename(file, `${other}/f`);
  t.ok("the old parent's mtime advances", sys.stat(folder).mtime > from);
  t.ok("the new parent's mtime advances", sys.stat(other).mtime > to);
  t.ok("the file's ctime does not go back", sys.stat(`${other}/f`).ctime >= ctime);
}

/** Sticky directories, and directories without rights. */
function sticky(t: Suite): void {
  const { sys } = t;
  if (!t.asRoot) return t.skip("sticky directories", "wants root");
  const folder = t.folder(t.path("sticky"));
  sys.chmod(folder, 0o1777);
  const [mine, theirs] = [t.file(`${folder}/mine`), t.file(`${folder}/theirs`)];
  sys.chown(mine, 1234, 1234);
  sys.chown(theirs, 4321, 4321);
  t.as(1234, 1234, [], () => {
    t.fails("another's file out of a sticky directory", sys.rename(theirs, `${folder}/x`), c.EPERM);
    t.fails("onto another's file in a sticky directory", sys.rename(mine, theirs), c.EPERM);
    t.fails("unlink of another's file in it", sys.unlink(theirs), c.EPERM);
    t.works("one's own file", sys.rename(mine, `${folder}/mine2`));
    t.works("unlink of one's own file", sys.unlink(`${folder}/mine2`));
  });
  const closed = t.folder(t.path("closed"), 0o755);
  const file = t.file(`${closed}/f`);
  // One's own: fs.protected_hardlinks forbids links to others' files anyhow.
  sys.chown(file, 1234, 1234);
  t.as(1234, 1234, [], () => {
    t.fails("rename without write permission", sys.rename(file, `${closed}/g`), c.EACCES);
    t.fails("unlink without write permission", sys.unlink(file), c.EACCES);
    t.fails("link without write permission", sys.link(file, `${closed}/h`), c.EACCES);
    t.fails("mkdir without write permission", sys.mkdir(`${closed}/d`), c.EACCES);
    t.fails("symlink without write permission", sys.symlink("x", `${closed}/s`), c.EACCES);
    t.fails("create without write permission", sys.open(`${closed}/c`, c.O_CREAT | c.O_RDWR), c.EACCES);
  });
  sys.chmod(closed, 0o700);
  t.as(1234, 1234, [], () => {
    t.fails("stat without search permission", sys.lstatErrno(file), c.EACCES);
    t.fails("open without search permission", sys.open(file, c.O_RDONLY), c.EACCES);
    t.fails("readdir without read permission", sys.open(closed, c.O_RDONLY), c.EACCES);
    t.fails("rename without search permission", sys.rename(file, `${closed}/g`), c.EACCES);
  });
}
