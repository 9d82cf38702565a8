/** open(2), creat, mkdir and mknod: what they make, with which owner and mode, and when they refuse. */
import * as c from "./constants.ts";
import { bytes } from "./sys.ts";
import type { Suite } from "./suite.ts";

const octal = (mode: number) => `0${mode.toString(8)}`;

export function create(t: Suite): void {
  const { sys } = t;
  for (const umask of [0o000, 0o022, 0o077, 0o777]) {
    sys.umask(umask);
    for (const mode of [0o644, 0o666, 0o600, 0o400, 0o000, 0o755, 0o777]) {
      const path = t.fresh();
      sys.close(sys.open(path, c.O_CREAT | c.O_WRONLY | c.O_EXCL, mode));
      t.is(`open ${octal(mode)} with umask ${octal(umask)}`, octal(sys.stat(path).perm), octal(mode & ~umask));
    }
    for (const mode of [0o755, 0o700, 0o1777]) {
      const path = t.fresh("d");
      sys.mkdir(path, mode);
      t.is(`mkdir ${octal(mode)} with umask ${octal(umask)}`, octal(sys.stat(path).perm), octal(mode & ~umask));
    }
    const fifo = t.fresh("p");
    sys.mknod(fifo, c.S_IFIFO | 0o666);
    t.is(`mkfifo 0666 with umask ${octal(umask)}`, octal(sys.stat(fifo).perm), octal(0o666 & ~umask));
    sys.umask(0o022);
  }
  const link = t.fresh("l");
  sys.umask(0o777);
  sys.symlink("x", link);
  sys.umask(0o022);
  t.is("a symbolic link has mode 0777 whatever the umask", octal(sys.stat(link).perm), "0777");
  openFlags(t);
  openErrors(t);
  types(t);
}

function openFlags(t: Suite): void {
  const { sys } = t;
  const path = t.file(t.path("flags"), "contents");
  t.fails("O_CREAT|O_EXCL on a file that exists", sys.open(path, c.O_CREAT | c.O_EXCL | c.O_WRONLY), c.EEXIST);
  t.is("it has its contents still", t.contents(path), "contents");
  const dangling = t.path("dangling");
  sys.symlink("nowhere", dangling);
  t.fails("O_CREAT|O_EXCL on a dangling link", sys.open(dangling, c.O_CREAT | c.O_EXCL | c.O_WRONLY), c.EEXIST);
  t.works("O_CREAT on a dangling link", sys.open(dangling, c.O_CREAT | c.O_WRONLY));
  t.is("it makes the target", sys.stat(t.path("nowhere")).type, c.S_IFREG);
  t.using(path, c.O_RDWR | c.O_CREAT, () => t.is("O_CREAT alone keeps the contents", t.contents(path), "contents"));
  t.using(path, c.O_WRONLY | c.O_TRUNC, () => t.is("O_TRUNC empties", sys.stat(path).size, 0));
  sys.chmod(path, 0o640);
  t.using(path, c.O_WRONLY | c.O_TRUNC | c.O_CREAT, () => {}, 0o600);
  t.is("O_CREAT on a file that exists leaves its mode", octal(sys.stat(path).perm), "0640");

  const log = t.file(t.path("log"), "12345");
  t.using(log, c.O_WRONLY | c.O_APPEND, (fd) => {
    sys.lseek(fd, 0);
    sys.write(fd, "67");
    t.is("O_APPEND writes at the end", t.contents(log), "1234567");
    t.is("and leaves the offset there", sys.lseek(fd, 0, c.SEEK_CUR), 7);
    t.using(log, c.O_WRONLY | c.O_APPEND, (other) => sys.write(other, "89"));
    sys.write(fd, "0");
    t.is("O_APPEND of two descriptors", t.contents(log), "1234567890");
    // pwrite(2), BUGS: on Linux O_APPEND wins over the offset.
    sys.pwrite(fd, "a", 0);
    t.is("pwrite to an O_APPEND file appends, on Linux", t.contents(log), "1234567890a");
    sys.fcntl(fd, c.F_SETFL, 0);
    sys.pwrite(fd, "X", 0);
    t.is("F_SETFL takes O_APPEND off", t.contents(log), "X234567890a");
    sys.fcntl(fd, c.F_SETFL, c.O_APPEND);
    sys.lseek(fd, 0);
    sys.write(fd, "b");
    t.is("F_SETFL puts O_APPEND on", t.contents(log), "X234567890ab");
    t.is("F_GETFL says so", sys.fcntl(fd, c.F_GETFL) & c.O_APPEND, c.O_APPEND);
  });

  t.using(path, c.O_RDONLY, (fd) => t.fails("writing to O_RDONLY", sys.write(fd, "x"), c.EBADF));
  t.using(path, c.O_WRONLY, (fd) => t.fails("reading from O_WRONLY", sys.read(fd, 1), c.EBADF));
  t.using(path, c.O_PATH, (fd) => {
    t.fails("reading from O_PATH", sys.read(fd, 1), c.EBADF);
    t.is("fstat of O_PATH", sys.fstat(fd).ino === sys.stat(path).ino, true);
  });
  const strict = t.path("strict");
  t.using(strict, c.O_CREAT | c.O_EXCL | c.O_RDWR, (fd) => {
    t.is("a descriptor of a file created 0000 writes", sys.write(fd, "abc"), 3);
    t.is("and reads", sys.pread(fd, 3, 0), "abc");
  }, 0o000);
  const readOnly = t.path("read-only");
  t.using(readOnly, c.O_CREAT | c.O_RDWR, (fd) => {
    t.is("a descriptor of a file created 0444 writes", sys.write(fd, "abc"), 3);
  }, 0o444);
  t.using(t.path("sync"), c.O_CREAT | c.O_RDWR | c.O_DSYNC, (fd) => {
    t.is("O_DSYNC writes", sys.write(fd, "abc"), 3);
    t.is("fdatasync", sys.call(c.SYS.fdatasync, fd), 0);
    t.is("fsync", sys.fsync(fd), 0);
    t.is("syncfs", sys.call(c.SYS.syncfs, fd), 0);
  });
  t.using(t.path("noatime"), c.O_CREAT | c.O_RDWR, () => {});
  t.works("O_NOATIME of the owner", sys.open(t.path("noatime"), c.O_RDONLY | c.O_NOATIME));
  t.using(t.path("."), c.O_RDONLY | c.O_DIRECTORY, (fd) => t.is("fsync of a directory", sys.fsync(fd), 0));
}

function openErrors(t: Suite): void {
  const { sys } = t;
  const file = t.file(t.path("plain")), folder = t.folder(t.path("folder"));
  const link = t.path("link"), folderLink = t.path("folder-link");
  sys.symlink(file, link);
  sys.symlink(folder, folderLink);
  t.fails("open of nothing", sys.open(t.path("none"), c.O_RDONLY), c.ENOENT);
  t.fails("open below nothing", sys.open(t.path("none/x"), c.O_CREAT | c.O_RDWR), c.ENOENT);
  t.fails("open below a file", sys.open(`${file}/x`, c.O_RDONLY), c.ENOTDIR);
  t.fails("create below a file", sys.open(`${file}/x`, c.O_CREAT | c.O_RDWR), c.ENOTDIR);
  t.fails("a file with a slash behind it", sys.open(`${file}/`, c.O_RDONLY), c.ENOTDIR);
  t.fails("create with a slash behind it", sys.open(t.path("new/"), c.O_CREAT | c.O_RDWR), c.EISDIR);
  t.fails("the empty name", sys.open("", c.O_RDONLY), c.ENOENT);
  t.fails("a directory for writing", sys.open(folder, c.O_WRONLY), c.EISDIR);
  t.fails("a directory for both", sys.open(folder, c.O_RDWR), c.EISDIR);
  t.fails("a directory with O_CREAT", sys.open(folder, c.O_CREAT | c.O_RDONLY), c.EISDIR);
  t.fails("a directory with O_TRUNC", sys.open(folder, c.O_TRUNC | c.O_WRONLY), c.EISDIR);
  t.fails("O_DIRECTORY on a file", sys.open(file, c.O_RDONLY | c.O_DIRECTORY), c.ENOTDIR);
  t.fails("O_NOFOLLOW on a link", sys.open(link, c.O_RDONLY | c.O_NOFOLLOW), c.ELOOP);
  t.fails("O_DIRECTORY|O_NOFOLLOW on a link", sys.open(folderLink, c.O_DIRECTORY | c.O_NOFOLLOW), c.ENOTDIR);
  t.works("O_NOFOLLOW with the link on the way", sys.open(`${folderLink}/.`, c.O_RDONLY | c.O_NOFOLLOW));
  t.using(
    link,
    c.O_PATH | c.O_NOFOLLOW,
    (fd) => t.is("O_PATH|O_NOFOLLOW gets the link", sys.fstat(fd).type, c.S_IFLNK),
  );
  t.using(folder, c.O_RDONLY, (fd) => {
    t.fails("read of a directory", sys.read(fd, 10), c.EISDIR);
    t.fails("pread of a directory", sys.pread(fd, 10, 0), c.EISDIR);
    t.fails("ftruncate of a directory", sys.ftruncate(fd, 0), c.EINVAL);
    t.works("openat relative to it", sys.open("inside", c.O_CREAT | c.O_RDWR, 0o644, fd));
    t.is("made the file in it", sys.stat(`${folder}/inside`).type, c.S_IFREG);
  });
  t.fails("close of a closed descriptor", sys.close(9999), c.EBADF);
  t.fails("mkdir of what exists", sys.mkdir(folder), c.EEXIST);
  t.fails("mkdir of what is a file", sys.mkdir(file), c.EEXIST);
  t.fails("mkdir of what is a link", sys.mkdir(link), c.EEXIST);
  t.fails("mkdir below nothing", sys.mkdir(t.path("none/x")), c.ENOENT);
  t.fails("mkdir below a file", sys.mkdir(`${file}/x`), c.ENOTDIR);
  t.works("mkdir with a slash behind it", sys.mkdir(`${t.path("slash")}/`));
  t.fails("mknod of what exists", sys.mknod(file, c.S_IFREG | 0o644), c.EEXIST);
  t.fails("mknod of a directory", sys.mknod(t.path("none"), c.S_IFDIR | 0o644), c.EPERM);
  t.fails("mknod below nothing", sys.mknod(t.path("none/x"), c.S_IFREG | 0o644), c.ENOENT);
  const socket = t.path("socket");
  sys.mknod(socket, c.S_IFSOCK | 0o644);
  t.fails("open of a socket", sys.open(socket, c.O_RDONLY), c.ENXIO);
  const fifo = t.path("fifo");
  sys.mknod(fifo, c.S_IFIFO | 0o644);
  t.fails("a pipe nobody reads, O_WRONLY|O_NONBLOCK", sys.open(fifo, c.O_WRONLY | c.O_NONBLOCK), c.ENXIO);
  t.using(fifo, c.O_RDONLY | c.O_NONBLOCK, (reader) => {
    t.using(fifo, c.O_WRONLY | c.O_NONBLOCK, (writer) => {
      t.is("a named pipe is written", sys.write(writer, "hello"), 5);
      t.is("and read", sys.read(reader, 10), "hello");
    });
  });
}

function types(t: Suite): void {
  const { sys } = t;
  const kinds = { file: c.S_IFREG, pipe: c.S_IFIFO, socket: c.S_IFSOCK };
  for (const [name, type] of Object.entries(kinds)) {
    const path = t.path(`mknod-${name}`);
    t.works(`mknod of a ${name}`, sys.mknod(path, type | 0o640));
    t.is(`the ${name}'s type and mode`, octal(sys.stat(path).mode), octal(type | 0o640));
    t.is(`the ${name}'s links and size`, [sys.stat(path).nlink, sys.stat(path).size], [1, 0]);
  }
  if (!t.asRoot) return t.skip("devices", "only root makes them");
  for (const [name, type] of [["character", c.S_IFCHR], ["block", c.S_IFBLK]] as const) {
    const path = t.path(`mknod-${name}`);
    t.works(`mknod of a ${name} device`, sys.mknod(path, type | 0o600, 0x123));
    t.is(`the ${name} device's type`, sys.stat(path).type, type);
    t.is(`the ${name} device's number`, sys.stat(path).rdev, 0x123);
  }
  const open = t.folder(t.path("open"));
  sys.chmod(open, 0o777);
  t.as(1234, 1234, [], () => {
    t.fails("an ordinary user makes no device", sys.mknod(`${open}/mine`, c.S_IFCHR | 0o600, 0x123), c.EPERM);
  });
}

/** Names: up to 255 bytes, any byte but zero and slash, paths up to 4095. */
export function names(t: Suite): void {
  const { sys } = t;
  const full = t.path("n".repeat(255));
  t.works("a name of 255 bytes", sys.open(full, c.O_CREAT | c.O_RDWR));
  t.works("its stat", sys.lstatErrno(full));
  t.works("a directory of 255 bytes", sys.mkdir(t.path("d".repeat(255))));
  t.works("a file of 255 bytes in it", sys.open(`${t.path("d".repeat(255))}/${"f".repeat(255)}`, c.O_CREAT | c.O_RDWR));
  t.works("rename to a name of 255 bytes", sys.rename(full, t.path("m".repeat(255))));
  t.works("unlink of a name of 255 bytes", sys.unlink(t.path("m".repeat(255))));
  const long = t.path("n".repeat(256)), file = t.file(t.path("file"));
  t.fails("open of 256 bytes", sys.open(long, c.O_RDONLY), c.ENAMETOOLONG);
  t.fails("create of 256 bytes", sys.open(long, c.O_CREAT | c.O_RDWR), c.ENAMETOOLONG);
  t.fails("mkdir of 256 bytes", sys.mkdir(long), c.ENAMETOOLONG);
  t.fails("rmdir of 256 bytes", sys.rmdir(long), c.ENAMETOOLONG);
  t.fails("mknod of 256 bytes", sys.mknod(long, c.S_IFIFO | 0o644), c.ENAMETOOLONG);
  t.fails("unlink of 256 bytes", sys.unlink(long), c.ENAMETOOLONG);
  t.fails("link to 256 bytes", sys.link(file, long), c.ENAMETOOLONG);
  t.fails("symlink of 256 bytes", sys.symlink("x", long), c.ENAMETOOLONG);
  t.fails("rename to 256 bytes", sys.rename(file, long), c.ENAMETOOLONG);
  t.fails("rename from 256 bytes", sys.rename(long, file), c.ENAMETOOLONG);
  t.fails("stat of 256 bytes", sys.lstatErrno(long), c.ENAMETOOLONG);
  t.fails("chmod of 256 bytes", sys.chmod(long, 0o600), c.ENAMETOOLONG);
  t.fails("truncate of 256 bytes", sys.truncate(long, 0), c.ENAMETOOLONG);
  t.fails("access to 256 bytes", sys.access(long, c.F_OK), c.ENAMETOOLONG);
  t.fails("readlink of 256 bytes", sys.readlink(long), c.ENAMETOOLONG);
  t.fails("a path of 4096 bytes", sys.open("/".repeat(4096), c.O_RDONLY), c.ENAMETOOLONG);
  t.works("a path of 4095 bytes", sys.open(`${"/".repeat(4095 - file.length)}${file}`, c.O_RDONLY));

  // Each byte that a name may hold, in one directory.
  const folder = t.folder(t.path("bytes"));
  const inFolder = (name: string) => bytes(`${folder}/${name}`);
  const odd = Array.from({ length: 255 }, (_, i) => String.fromCharCode(i + 1)).filter((byte) => byte !== "/");
  const all = odd.map((byte) => `${byte}x`);
  const made = all.filter((name) => sys.close(sys.open(inFolder(name), c.O_CREAT | c.O_RDWR)) === 0);
  t.is("names with each byte but zero and slash can be made", made.length, 254);
  const listed = t.using(folder, c.O_RDONLY, (fd) => sys.entries(fd)).map((entry) => entry.name);
  t.is("and are listed as they are", listed.filter((name) => !/^\.{1,2}$/.test(name)).sort().join(), all.sort().join());
  t.is("and are found", all.filter((name) => sys.lstatErrno(inFolder(name)) === 0).length, 254);
  t.is("and removed", all.filter((name) => sys.unlink(inFolder(name)) === 0).length, 254);
  for (const name of [" ", "...", "..a", "-rf", "*", "\n", "\\", "é", "\xff\xfe", "a\tb", ".hidden", "名"]) {
    const path = bytes(`${folder}/${name === "名" ? "\xe5\x90\x8d" : name}`);
    const result = sys.close(sys.open(path, c.O_CREAT | c.O_RDWR));
    t.is(`the name ${JSON.stringify(name)}`, [result, sys.unlink(path)], [0, 0]);
  }
  const [lower, upper] = [t.file(t.path("case"), "lower"), t.file(t.path("CASE"), "upper")];
  t.is("names that differ in case only", [t.contents(lower), t.contents(upper)], ["lower", "upper"]);
  deepPaths(t);
}

function deepPaths(t: Suite): void {
  const { sys } = t;
  let path = t.path("deep"), depth = 0;
  sys.mkdir(path);
  while (path.length < 3800) {
    path += "/" + "0123456789".repeat(5);
    if (sys.mkdir(path) < 0) break;
    depth++;
  }
  t.ok("a path of 3,800 bytes", path.length >= 3800, { depth });
  t.works("a file at its end", sys.open(`${path}/f`, c.O_CREAT | c.O_RDWR));
  t.is("found again", sys.stat(`${path}/f`).type, c.S_IFREG);
  t.is("the way up again ends where it began", sys.stat(path + "/..".repeat(40)).type, c.S_IFDIR);
}
