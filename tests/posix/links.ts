/** Hard links, symbolic links, removal, and files that are open without a name. */
import * as c from "./constants.ts";
import type { Suite } from "./suite.ts";
import { text } from "./sys.ts";

export function link(t: Suite): void {
  const { sys } = t;
  const file = t.file(t.path("file"), "contents"), other = t.path("other");
  const before = sys.stat(file);
  t.tick();
  t.works("link", sys.link(file, other));
  t.is("two links", [sys.stat(file).nlink, sys.stat(other).nlink], [2, 2]);
  t.ok("one node", sys.stat(other).ino === before.ino);
  t.ok("its ctime advances", sys.stat(file).ctime > before.ctime);
  t.is("its mtime stays", sys.stat(file).mtime, before.mtime);
  t.using(other, c.O_WRONLY, (fd) => sys.write(fd, "CONT"));
  t.is("written by one name, read by the other", t.contents(file), "CONTents");
  sys.chmod(file, 0o601);
  t.is("mode changed by one name, seen by the other", sys.stat(other).perm, 0o601);
  t.works("unlink of the first name", sys.unlink(file));
  t.is("one link", sys.stat(other).nlink, 1);
  t.fails("the first name is gone", sys.lstatErrno(file), c.ENOENT);
  t.is("the contents are there", t.contents(other), "CONTents");
  const many = Array.from({ length: 100 }, (_, i) => t.path(`many-${i}`));
  t.is("a hundred links", many.filter((path) => sys.link(other, path) === 0).length, 100);
  t.is("are counted", sys.stat(other).nlink, 101);
  many.forEach((path) => sys.unlink(path));
  t.is("and counted down", sys.stat(other).nlink, 1);

  const folder = t.folder(t.path("folder")), soft = t.path("soft");
  sys.symlink("other", soft);
  t.fails("of nothing", sys.link(t.path("none"), t.path("x")), c.ENOENT);
  t.fails("onto what exists", sys.link(other, folder), c.EEXIST);
  t.fails("onto itself", sys.link(other, other), c.EEXIST);
  t.fails("of a directory", sys.link(folder, t.path("x")), c.EPERM);
  t.fails("below a file", sys.link(other, `${other}/x`), c.ENOTDIR);
  t.fails("to below nothing", sys.link(other, t.path("none/x")), c.ENOENT);
  t.works("of a symbolic link", sys.link(soft, t.path("soft2")));
  t.is("makes a second name of the link itself", sys.stat(t.path("soft2")).type, c.S_IFLNK);
  t.works("with AT_SYMLINK_FOLLOW", sys.link(soft, t.path("followed"), c.AT_SYMLINK_FOLLOW));
  t.is("makes a name of its target", sys.stat(t.path("followed")).type, c.S_IFREG);
  sys.mknod(t.path("pipe"), c.S_IFIFO | 0o600);
  t.works("of a pipe", sys.link(t.path("pipe"), t.path("pipe2")));
  if (sys.stat("/dev").dev !== sys.stat(other).dev) {
    t.fails("to another file system", sys.link(other, "/dev/posix-suite"), c.EXDEV);
  }
}

export function symlink(t: Suite): void {
  const { sys } = t;
  const path = t.path("link");
  for (const target of ["x", "/", "a/b/../c", "x".repeat(255), "y/".repeat(2000), "é \n", "z".repeat(4095)]) {
    const label = target.length > 20 ? `of ${target.length} bytes` : JSON.stringify(target);
    t.works(`a target ${label}`, sys.symlink(target, path));
    const expected = text(new TextEncoder().encode(target));
    t.ok(`readlink of ${label}`, sys.readlink(path, 5000) === expected, sys.readlink(path, 5000));
    t.is(`the size of ${label}`, sys.stat(path).size, expected.length);
    t.works(`unlink of ${label}`, sys.unlink(path));
  }
  t.fails("an empty target", sys.symlink("", path), c.ENOENT);
  t.fails("a target of 4096 bytes", sys.symlink("z".repeat(4096), path), c.ENAMETOOLONG);
  const file = t.file(t.path("file"), "contents"), folder = t.folder(t.path("folder"));
  t.file(`${folder}/f`, "in folder");
  t.fails("onto what exists", sys.symlink("x", file), c.EEXIST);
  t.fails("below nothing", sys.symlink("x", t.path("none/x")), c.ENOENT);
  t.fails("below a file", sys.symlink("x", `${file}/x`), c.ENOTDIR);
  sys.symlink("file", path);
  t.is("readlink is cut to the buffer", sys.readlink(path, 2), "fi");
  t.fails("readlink of a file", sys.readlink(file), c.EINVAL);
  t.fails("readlink of a directory", sys.readlink(folder), c.EINVAL);
  t.fails("readlink of nothing", sys.readlink(t.path("none")), c.ENOENT);
  t.is("read through a link", t.contents(path), "contents");
  t.is("stat follows", sys.stat(path, 0).type, c.S_IFREG);
  t.is("lstat does not", sys.stat(path).type, c.S_IFLNK);
  sys.symlink("folder", t.path("to-folder"));
  t.is("a link on the way", t.contents(t.path("to-folder/f")), "in folder");
  sys.symlink("../file", `${folder}/up`);
  t.is("a relative link is relative to its folder", t.contents(`${folder}/up`), "contents");
  sys.symlink(file, t.path("absolute"));
  t.is("an absolute link", t.contents(t.path("absolute")), "contents");
  t.fails("rmdir of a link to a directory", sys.rmdir(t.path("to-folder")), c.ENOTDIR);
  t.works("chmod through a link", sys.chmod(path, 0o604));
  t.is("changes the target", sys.stat(file).perm, 0o604);
  t.works("utimens of the link itself", sys.utimens(path, [100, 5], [200, 7]));
  t.is("sets its mtime", sys.stat(path).mtime, 200000000007n);
  t.ok("and not its target's mtime", sys.stat(file).mtime !== 200000000007n);
  if (t.asRoot) {
    t.works("chown of the link itself", sys.chown(path, 12, 34));
    t.is("sets its owner", [sys.stat(path).uid, sys.stat(path).gid], [12, 34]);
    t.is("and not its target's owner", sys.stat(file).uid, 0);
  }
  loops(t);
}

function loops(t: Suite): void {
  const { sys } = t;
  const [self, a, b] = [t.path("self"), t.path("loop-a"), t.path("loop-b")];
  sys.symlink("self", self);
  sys.symlink("loop-b", a);
  sys.symlink("loop-a", b);
  for (const [name, path] of [["a link to itself", self], ["two links to each other", a]]) {
    t.fails(`open of ${name}`, sys.open(path, c.O_RDONLY), c.ELOOP);
    t.fails(`create through ${name}`, sys.open(path, c.O_CREAT | c.O_RDWR), c.ELOOP);
    t.fails(`stat of ${name}`, sys.lstatErrno(path, 0), c.ELOOP);
    t.fails(`chmod of ${name}`, sys.chmod(path, 0o600), c.ELOOP);
    t.fails(`truncate of ${name}`, sys.truncate(path, 0), c.ELOOP);
    t.fails(`access to ${name}`, sys.access(path, c.F_OK), c.ELOOP);
    t.fails(`mkdir below ${name}`, sys.mkdir(`${path}/x`), c.ELOOP);
    t.works(`lstat of ${name}`, sys.lstatErrno(path));
  }
  t.file(t.path("chain-0"), "end");
  for (let i = 1; i <= 41; i++) sys.symlink(`chain-${i - 1}`, t.path(`chain-${i}`));
  t.is("a chain of 40 links", t.contents(t.path("chain-40")), "end");
  t.fails("a chain of 41 links", t.contents(t.path("chain-41")), c.ELOOP);
}

export function unlink(t: Suite): void {
  const { sys } = t;
  const file = t.file(t.path("file"), "contents"), folder = t.folder(t.path("folder"));
  t.fails("unlink of nothing", sys.unlink(t.path("none")), c.ENOENT);
  t.fails("unlink of a directory", sys.unlink(folder), c.EISDIR);
  t.fails("unlink below a file", sys.unlink(`${file}/x`), c.ENOTDIR);
  t.fails("unlink of a file with a slash behind it", sys.unlink(`${file}/`), c.ENOTDIR);
  t.fails("rmdir of nothing", sys.rmdir(t.path("none")), c.ENOENT);
  t.fails("rmdir of a file", sys.rmdir(file), c.ENOTDIR);
  t.fails("rmdir of '.'", sys.rmdir(`${folder}/.`), c.EINVAL);
  t.fails("rmdir of '..'", sys.rmdir(`${folder}/..`), c.ENOTEMPTY);
  t.file(`${folder}/f`);
  t.fails("rmdir of a directory with a file", sys.rmdir(folder), c.ENOTEMPTY);
  const mtime = sys.stat(folder).mtime;
  t.tick();
  sys.unlink(`${folder}/f`);
  t.ok("unlink advances the directory's mtime", sys.stat(folder).mtime > mtime);
  t.folder(`${folder}/sub`);
  t.fails("rmdir of a directory with a directory", sys.rmdir(folder), c.ENOTEMPTY);
  t.works("rmdir of the inner one", sys.rmdir(`${folder}/sub`));
  t.using(folder, c.O_RDONLY, (fd) => {
    t.works("rmdir of the empty one, which is open", sys.rmdir(folder));
    t.fails("it is gone", sys.lstatErrno(folder), c.ENOENT);
    t.fails("nothing can be made in it", sys.open("x", c.O_CREAT | c.O_RDWR, 0o644, fd), c.ENOENT);
    const rest = sys.getdents(fd);
    t.ok("it lists nothing", rest === -c.ENOENT || (Array.isArray(rest) && !rest.some((e) => !e.name.startsWith("."))));
    t.is("fstat of it", sys.fstat(fd).type, c.S_IFDIR);
  });
  openWithoutName(t, file);
}

function openWithoutName(t: Suite, file: string): void {
  const { sys } = t;
  t.using(file, c.O_RDWR, (fd) => {
    const { ino } = sys.fstat(fd);
    t.works("unlink of an open file", sys.unlink(file));
    t.fails("the name is gone", sys.lstatErrno(file), c.ENOENT);
    t.is("fstat: no links", sys.fstat(fd).nlink, 0);
    t.ok("fstat: the same node", sys.fstat(fd).ino === ino);
    t.is("it reads", sys.pread(fd, 20, 0), "contents");
    t.is("it writes", sys.pwrite(fd, "more", 8), 4);
    t.is("it reads what was written", sys.pread(fd, 20, 0), "contentsmore");
    t.is("fstat: the new size", sys.fstat(fd).size, 12);
    t.works("ftruncate", sys.ftruncate(fd, 4));
    t.is("cuts it", sys.pread(fd, 20, 0), "cont");
    t.works("fchmod", sys.fchmod(fd, 0o612));
    t.is("sets the mode", sys.fstat(fd).perm, 0o612);
    t.works("futimens", sys.utimens(null, [5, 6], [7, 8], 0, fd));
    t.is("sets the time", sys.fstat(fd).mtime, 7000000008n);
    if (t.asRoot) {
      t.works("fchown", sys.fchown(fd, 7, 8));
      t.is("sets the owner", [sys.fstat(fd).uid, sys.fstat(fd).gid], [7, 8]);
    }
    t.works("fsync", sys.fsync(fd));
    t.works("fallocate", sys.fallocate(fd, 0, 0, 8192));
    t.is("makes it longer", sys.fstat(fd).size, 8192);
    t.is("a new file of the same name is another one", t.contents(t.file(file, "new")), "new");
    t.is("the old one is what it was", sys.pread(fd, 4, 0), "cont");
    t.using(`/proc/self/fd/${fd}`, c.O_RDONLY, (again) => {
      t.is("reopened through /proc/self/fd", sys.pread(again, 4, 0), "cont");
    });
    t.fails("linkat of it", sys.link(`/proc/self/fd/${fd}`, t.path("back"), c.AT_SYMLINK_FOLLOW), c.ENOENT);
  });
}
