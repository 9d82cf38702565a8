/** Owners and modes: chmod, chown, set-group-ID directories, clearing of suid and sgid, access(2). */
import * as c from "./constants.ts";
import type { Suite } from "./suite.ts";

const octal = (mode: number) => `0${mode.toString(8)}`;

export function mode(t: Suite): void {
  const { sys } = t;
  const file = t.file(t.path("file")), folder = t.folder(t.path("folder"));
  for (const bits of [0o000, 0o444, 0o755, 0o777, 0o1777, 0o2755, 0o4755, 0o6777]) {
    t.works(`chmod ${octal(bits)}`, sys.chmod(file, bits));
    t.is(`stat after chmod ${octal(bits)}`, octal(sys.stat(file).perm), octal(bits));
    t.works(`chmod of a directory ${octal(bits)}`, sys.chmod(folder, bits));
    t.is(`stat of a directory after chmod ${octal(bits)}`, octal(sys.stat(folder).perm), octal(bits));
  }
  sys.chmod(folder, 0o755);
  const before = sys.stat(file);
  t.tick();
  sys.chmod(file, 0o644);
  t.ok("chmod advances ctime", sys.stat(file).ctime > before.ctime);
  t.is("chmod leaves mtime", sys.stat(file).mtime, before.mtime);
  t.fails("chmod of nothing", sys.chmod(t.path("none"), 0o644), c.ENOENT);
  t.fails("chmod below a file", sys.chmod(`${file}/x`, 0o644), c.ENOTDIR);
  t.using(file, c.O_RDONLY, (fd) => {
    t.works("fchmod of a descriptor for reading", sys.fchmod(fd, 0o640));
    t.is("stat after fchmod", octal(sys.stat(file).perm), "0640");
  });
  t.using(file, c.O_PATH, (fd) => t.fails("fchmod of O_PATH", sys.fchmod(fd, 0o640), c.EBADF));
  if (!t.asRoot) return t.skip("owners", "want root");
  owners(t, file);
  creators(t);
  groupFolders(t);
  clearing(t);
}

function owners(t: Suite, file: string): void {
  const { sys } = t;
  const owner = () => [sys.stat(file).uid, sys.stat(file).gid];
  sys.chown(file, 1234, 4321);
  t.is("chown", owner(), [1234, 4321]);
  sys.chown(file, -1, 77);
  t.is("chown -1, gid", owner(), [1234, 77]);
  sys.chown(file, 88, -1);
  t.is("chown uid, -1", owner(), [88, 77]);
  t.works("chown -1, -1", sys.chown(file, -1, -1));
  t.is("changes nothing", owner(), [88, 77]);
  sys.chown(file, 4000000000, 4000000001);
  t.is("ids over 2^31", owner(), [4000000000, 4000000001]);
  t.using(file, c.O_RDONLY, (fd) => sys.fchown(fd, 1234, 1234));
  t.is("fchown", owner(), [1234, 1234]);
  const before = sys.stat(file);
  t.tick();
  sys.chown(file, 1234, 1000);
  t.ok("chown advances ctime", sys.stat(file).ctime > before.ctime);
  t.fails("chown of nothing", sys.chown(t.path("none"), 1, 1), c.ENOENT);
  sys.chown(file, 1234, 1000);
  t.as(1234, 1000, [2000], () => {
    t.fails("the owner gives the file away", sys.chown(file, 4321, -1), c.EPERM);
    t.works("the owner gives it to a group of his", sys.chown(file, -1, 2000));
    t.is("which it belongs to then", owner(), [1234, 2000]);
    t.fails("the owner gives it to a group not his", sys.chown(file, -1, 3000), c.EPERM);
    t.works("the owner changes the mode", sys.chmod(file, 0o600));
  });
  t.as(4321, 1000, [], () => {
    t.fails("another changes the mode", sys.chmod(file, 0o666), c.EPERM);
    t.fails("another changes the owner", sys.chown(file, 4321, -1), c.EPERM);
    t.fails("another opens 0600", sys.open(file, c.O_RDONLY), c.EACCES);
    t.fails("another truncates 0600", sys.truncate(file, 0), c.EACCES);
  });
}

/** What is created belongs to its creator. */
function creators(t: Suite): void {
  const { sys } = t;
  const folder = t.folder(t.path("theirs"));
  sys.chmod(folder, 0o777);
  t.as(1234, 2345, [3456], () => {
    sys.close(sys.open(`${folder}/f`, c.O_CREAT | c.O_RDWR));
    sys.mkdir(`${folder}/d`);
    sys.symlink("x", `${folder}/l`);
    sys.mknod(`${folder}/p`, c.S_IFIFO | 0o600);
  });
  for (const [name, kind] of Object.entries({ f: "file", d: "directory", l: "link", p: "pipe" })) {
    const { uid, gid } = sys.stat(`${folder}/${name}`);
    t.is(`a user's ${kind} belongs to the user`, [uid, gid], [1234, 2345]);
  }
  const group = t.folder(t.path("by-group"));
  sys.chown(group, 0, 3456);
  sys.chmod(group, 0o770);
  t.as(1234, 2345, [3456], () => {
    t.works("create by right of a supplementary group", sys.open(`${group}/f`, c.O_CREAT | c.O_RDWR));
    t.works("mkdir by right of a supplementary group", sys.mkdir(`${group}/d`));
    t.works("link by right of a supplementary group", sys.link(`${group}/f`, `${group}/f2`));
    t.works("rename by right of a supplementary group", sys.rename(`${group}/f2`, `${group}/f3`));
    t.works("unlink by right of a supplementary group", sys.unlink(`${group}/f3`));
    t.works("symlink by right of a supplementary group", sys.symlink("x", `${group}/l`));
    t.works("mknod by right of a supplementary group", sys.mknod(`${group}/p`, c.S_IFIFO | 0o600));
  });
  t.as(1234, 2345, [], () => {
    t.fails("create without that group", sys.open(`${group}/g`, c.O_CREAT | c.O_RDWR), c.EACCES);
  });
}

function groupFolders(t: Suite): void {
  const { sys } = t;
  const folder = t.folder(t.path("sgid"));
  sys.chown(folder, 0, 5555);
  sys.chmod(folder, 0o2777);
  t.as(1234, 2345, [], () => {
    sys.close(sys.open(`${folder}/f`, c.O_CREAT | c.O_RDWR, 0o644));
    sys.close(sys.open(`${folder}/x`, c.O_CREAT | c.O_RDWR, 0o2775));
    sys.mkdir(`${folder}/d`, 0o755);
    sys.mknod(`${folder}/p`, c.S_IFIFO | 0o600);
    sys.symlink("x", `${folder}/l`);
  });
  t.is("a file in a set-group-ID directory gets its group", sys.stat(`${folder}/f`).gid, 5555);
  t.is("and keeps its owner", sys.stat(`${folder}/f`).uid, 1234);
  t.is("a directory gets its group", sys.stat(`${folder}/d`).gid, 5555);
  t.is("a directory gets the set-group-ID bit", octal(sys.stat(`${folder}/d`).perm), "02755");
  t.is("a pipe gets its group", sys.stat(`${folder}/p`).gid, 5555);
  t.is("a link gets its group", sys.stat(`${folder}/l`).gid, 5555);
  t.is("02775 by one not in the group loses sgid", octal(sys.stat(`${folder}/x`).perm), "0755");
  t.as(1234, 2345, [5555], () => {
    sys.close(sys.open(`${folder}/y`, c.O_CREAT | c.O_RDWR, 0o2775));
  });
  t.is("02775 by one in the group keeps sgid", octal(sys.stat(`${folder}/y`).perm), "02755");
  const file = t.file(t.path("chmod-sgid"));
  sys.chown(file, 1234, 5555);
  t.as(1234, 2345, [], () => sys.chmod(file, 0o2755));
  t.is("chmod g+s by one not in the group loses it", octal(sys.stat(file).perm), "0755");
  t.as(1234, 2345, [5555], () => sys.chmod(file, 0o2755));
  t.is("chmod g+s by one in the group keeps it", octal(sys.stat(file).perm), "02755");
}

/** What an ordinary user does to a set-user-ID file takes the bits off. */
function clearing(t: Suite): void {
  const { sys } = t;
  const actions: Record<string, (path: string) => unknown> = {
    "write": (path) => t.using(path, c.O_WRONLY, (fd) => sys.write(fd, "x")),
    "append": (path) => t.using(path, c.O_WRONLY | c.O_APPEND, (fd) => sys.write(fd, "x")),
    "truncate": (path) => sys.truncate(path, 1),
    "ftruncate": (path) => t.using(path, c.O_WRONLY, (fd) => sys.ftruncate(fd, 2)),
    "O_TRUNC": (path) => t.using(path, c.O_WRONLY | c.O_TRUNC, () => {}),
    "fallocate": (path) => t.using(path, c.O_WRONLY, (fd) => sys.fallocate(fd, 0, 0, 100)),
    "chown to the same": (path) => sys.chown(path, 1234, 1234),
  };
  for (const [name, action] of Object.entries(actions)) {
    const slug = t.fresh("suid");
    t.file(slug, "contents");
    sys.chown(slug, 1234, 1234);
    sys.chmod(slug, 0o6777);
    t.as(1234, 1234, [], () => action(slug));
    t.is(`${name} by a user clears suid and sgid`, octal(sys.stat(slug).perm), "0777");
    // Without group execution sgid is no set-group-ID bit, and a member of the group keeps it.
    sys.chmod(slug, 0o4644);
    t.as(1234, 1234, [], () => action(slug));
    t.is(`${name} by a user clears suid alone`, octal(sys.stat(slug).perm), "0644");
    if (name === "chown to the same") continue;
    sys.chmod(slug, 0o6755);
    action(slug);
    t.is(`${name} by root leaves them`, octal(sys.stat(slug).perm), "06755");
  }
  const file = t.file(t.path("chown-root"));
  sys.chmod(file, 0o6755);
  sys.chown(file, 1234, 1234);
  t.is("chown by root clears suid and sgid", octal(sys.stat(file).perm), "0755");
  sys.chmod(file, 0o2644);
  sys.chown(file, 1235, 1234);
  t.is("chown leaves sgid without group execution", octal(sys.stat(file).perm), "02644");
  const folder = t.folder(t.path("folder-suid"));
  sys.chmod(folder, 0o6755);
  sys.chown(folder, 1234, 1234);
  t.is("chown of a directory leaves its bits", octal(sys.stat(folder).perm), "06755");
}

export function access(t: Suite): void {
  const { sys } = t;
  const file = t.file(t.path("file"));
  t.works("F_OK", sys.access(file, c.F_OK));
  t.fails("F_OK of nothing", sys.access(t.path("none"), c.F_OK), c.ENOENT);
  t.fails("below a file", sys.access(`${file}/x`, c.F_OK), c.ENOTDIR);
  t.fails("an unknown mode", sys.access(file, 64), c.EINVAL);
  if (!t.asRoot) return t.skip("other users", "want root");
  sys.chmod(file, 0o644);
  t.fails("X_OK of root without any x", sys.access(file, c.X_OK), c.EACCES);
  sys.chmod(file, 0o001);
  t.works("X_OK of root with some x", sys.access(file, c.X_OK));
  sys.chmod(file, 0o000);
  t.works("R_OK|W_OK of root with 0000", sys.access(file, c.R_OK | c.W_OK));
  sys.chown(file, 1234, 2345);
  const wants = { R_OK: c.R_OK, W_OK: c.W_OK, X_OK: c.X_OK };
  const users = { owner: [1234, 9, []], group: [9, 2345, []], member: [9, 9, [2345]], other: [9, 9, []] } as const;
  const shift: Record<string, number> = { owner: 6, group: 3, member: 3, other: 0 };
  for (const bits of [0o421, 0o142, 0o214, 0o700, 0o070, 0o007]) {
    sys.chmod(file, bits);
    for (const [who, [uid, gid, groups]] of Object.entries(users)) {
      const results = t.as(
        uid,
        gid,
        [...groups],
        () => Object.values(wants).map((want) => [sys.access(file, want), sys.access(file, want, c.AT_EACCESS)]),
      );
      const expected = Object.values(wants).map((want) =>
        (bits >> shift[who]) & want ? [0, 0] : [-c.EACCES, -c.EACCES]
      );
      t.is(`the ${who} and ${octal(bits)}`, results, expected);
    }
  }
  sys.chmod(file, 0o640);
  t.as(9, 2345, [], () => {
    t.works("the group opens 0640 for reading", sys.open(file, c.O_RDONLY));
    t.fails("but not for writing", sys.open(file, c.O_WRONLY), c.EACCES);
    t.fails("nor truncates it", sys.truncate(file, 0), c.EACCES);
    t.fails("nor sets its times", sys.utimens(file, [1, 1], [1, 1]), c.EPERM);
    t.fails("nor sets them to now", sys.utimens(file, [0, c.UTIME_NOW], [0, c.UTIME_NOW]), c.EACCES);
  });
  readOnlyMount(t, file);
}

/** A read-only mount of the same files. */
function readOnlyMount(t: Suite, file: string): void {
  const { sys } = t;
  const mount = (from: string | null, to: string, flags: number) =>
    sys.call(c.SYS.mount, cText(from), cText(to), null, flags, null);
  if (sys.call(c.SYS.unshare, c.CLONE_NEWNS | c.CLONE_FS) < 0) return t.skip("EROFS", "no mount namespace to be had");
  mount(null, "/", c.MS_REC | c.MS_PRIVATE);
  const source = t.folder(t.path("source")), target = t.folder(t.path("read-only"));
  t.file(`${source}/f`, "contents");
  if (mount(source, target, c.MS_BIND) < 0 || mount(null, target, c.MS_BIND | c.MS_REMOUNT | c.MS_RDONLY) < 0) {
    return t.skip("EROFS", "may not mount");
  }
  const there = `${target}/f`, fresh = `${target}/new`;
  t.is("a read-only mount is read", t.contents(there), "contents");
  t.fails("EROFS: open for writing", sys.open(there, c.O_WRONLY), c.EROFS);
  t.fails("EROFS: create", sys.open(fresh, c.O_CREAT | c.O_RDWR), c.EROFS);
  t.fails("EROFS: mkdir", sys.mkdir(fresh), c.EROFS);
  t.fails("EROFS: mknod", sys.mknod(fresh, c.S_IFIFO | 0o600), c.EROFS);
  t.fails("EROFS: symlink", sys.symlink("x", fresh), c.EROFS);
  t.fails("EROFS: link", sys.link(there, fresh), c.EROFS);
  t.fails("EROFS: unlink", sys.unlink(there), c.EROFS);
  t.fails("EROFS: rename", sys.rename(there, fresh), c.EROFS);
  t.fails("EROFS: chmod", sys.chmod(there, 0o600), c.EROFS);
  t.fails("EROFS: chown", sys.chown(there, 1, 1), c.EROFS);
  t.fails("EROFS: truncate", sys.truncate(there, 0), c.EROFS);
  t.fails("EROFS: utimens", sys.utimens(there, [1, 1], [1, 1]), c.EROFS);
  t.fails("EROFS: setxattr", sys.setxattr(there, "user.a", "b"), c.EROFS);
  t.fails("EROFS: access W_OK", sys.access(there, c.W_OK), c.EROFS);
  t.works("EROFS: O_CREAT of what exists, for reading", sys.open(there, c.O_CREAT | c.O_RDONLY));
  sys.call(c.SYS.umount2, cText(target), 2);
  t.ok("the file outside is as it was", sys.lstatErrno(file) === 0);
}

function cText(value: string | null): Uint8Array<ArrayBuffer> | null {
  return value === null ? null : new TextEncoder().encode(value + "\0");
}
