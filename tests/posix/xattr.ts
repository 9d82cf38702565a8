/** Extended attributes and POSIX access-control lists. */
import { memory } from "./call.ts";
import * as c from "./constants.ts";
import { pattern } from "./io.ts";
import { text } from "./sys.ts";
import type { Suite } from "./suite.ts";

const octal = (mode: number) => `0${mode.toString(8)}`;

export function xattr(t: Suite): void {
  const { sys } = t;
  const file = t.file(t.path("file"));
  const first = sys.setxattr(file, "user.first", "value");
  t.works("set", first);
  t.is("get", sys.getxattr(file, "user.first"), "value");
  t.is("list", sys.listxattr(file), ["user.first"]);
  t.fails("XATTR_CREATE of what is there", sys.setxattr(file, "user.first", "x", c.XATTR_CREATE), c.EEXIST);
  t.fails("XATTR_REPLACE of what is not", sys.setxattr(file, "user.none", "x", c.XATTR_REPLACE), c.ENODATA);
  t.works("XATTR_REPLACE", sys.setxattr(file, "user.first", "other", c.XATTR_REPLACE));
  t.is("replaced", sys.getxattr(file, "user.first"), "other");
  t.works("XATTR_CREATE", sys.setxattr(file, "user.second", "", c.XATTR_CREATE));
  t.is("an empty value", sys.getxattr(file, "user.second"), "");
  t.works("zeros in a value", sys.setxattr(file, "user.zeros", "a\0b\0"));
  t.is("are kept", sys.getxattr(file, "user.zeros"), "a\0b\0");
  const names = sys.listxattr(file);
  t.is("list of three", Array.isArray(names) ? names.sort() : names, ["user.first", "user.second", "user.zeros"]);
  t.is("the size of a value", sys.getxattr(file, "user.first", 0), 5);
  t.is("the size of the list", sys.listxattr(file, 0), 34);
  t.fails("a buffer too small for the value", sys.getxattr(file, "user.first", 2), c.ERANGE);
  t.fails("a buffer too small for the list", sys.listxattr(file, 5), c.ERANGE);
  t.fails("get of what is not there", sys.getxattr(file, "user.none"), c.ENODATA);
  t.fails("remove of what is not there", sys.removexattr(file, "user.none"), c.ENODATA);
  t.works("remove", sys.removexattr(file, "user.first"));
  t.fails("it is gone", sys.getxattr(file, "user.first"), c.ENODATA);
  t.works("a name of 255 bytes", sys.setxattr(file, `user.${"n".repeat(250)}`, "x"));
  t.is("its value", sys.getxattr(file, `user.${"n".repeat(250)}`), "x");
  t.fails("a name of 256 bytes", sys.setxattr(file, `user.${"n".repeat(251)}`, "x"), c.ERANGE);
  t.fails("the empty name", sys.setxattr(file, "", "x"), c.ERANGE);
  t.fails("an unknown flag", sys.setxattr(file, "user.flag", "x", 8), c.EINVAL);
  t.fails("both flags", sys.setxattr(file, "user.both", "x", 3), c.ENODATA);
  t.fails("a value over 64 KiB", sys.setxattr(file, "user.long", memory(65537)), 7);
  t.fails("no such name space", sys.setxattr(file, "nonsense.a", "x"), c.EOPNOTSUPP);
  t.fails("of nothing", sys.setxattr(t.path("none"), "user.a", "x"), c.ENOENT);
  for (const size of [1000, 3000]) {
    t.works(`a value of ${size} bytes`, sys.setxattr(file, "user.big", pattern(size)));
    t.is(`comes back, ${size}`, sys.getxattr(file, "user.big") === text(pattern(size)), true);
  }
  const folder = t.folder(t.path("folder"));
  t.works("of a directory", sys.setxattr(folder, "user.d", "dir"));
  t.is("a directory's value", sys.getxattr(folder, "user.d"), "dir");
  t.using(file, c.O_RDWR, (fd) => {
    t.works("by descriptor", sys.setxattr(fd, "user.fd", "by fd"));
    t.is("get by descriptor", sys.getxattr(fd, "user.fd"), "by fd");
    t.ok("list by descriptor", (sys.listxattr(fd) as string[]).includes?.("user.fd") ?? false);
    t.works("remove by descriptor", sys.removexattr(fd, "user.fd"));
    sys.unlink(file);
    t.works("of an unlinked file", sys.setxattr(fd, "user.gone", "x"));
    t.is("which keeps it", sys.getxattr(fd, "user.gone"), "x");
  });
  const link = t.path("link");
  sys.symlink("file", link);
  t.fails("user attributes of a link", sys.setxattr(link, "user.a", "x"), c.EPERM);
  sys.mknod(t.path("pipe"), c.S_IFIFO | 0o600);
  t.fails("user attributes of a pipe", sys.setxattr(t.path("pipe"), "user.a", "x"), c.EPERM);
  const other = t.file(t.path("other"));
  const ctime = sys.stat(other).ctime;
  t.tick();
  sys.setxattr(other, "user.a", "x");
  t.ok("setting advances ctime", sys.stat(other).ctime > ctime);
  sys.rename(other, t.path("moved"));
  t.is("a renamed file keeps its attributes", sys.getxattr(t.path("moved"), "user.a"), "x");
  if (!t.asRoot) return t.skip("permissions", "want root");
  t.works("trusted by root", sys.setxattr(t.path("moved"), "trusted.a", "secret"));
  t.is("read by root", sys.getxattr(t.path("moved"), "trusted.a"), "secret");
  sys.chmod(t.path("moved"), 0o644);
  t.as(1234, 1234, [], () => {
    t.is("get by one who may read", sys.getxattr(t.path("moved"), "user.a"), "x");
    t.fails("set by one who may not write", sys.setxattr(t.path("moved"), "user.a", "y"), c.EACCES);
    t.fails("trusted by a user", sys.getxattr(t.path("moved"), "trusted.a"), c.ENODATA);
    t.fails("setting trusted by a user", sys.setxattr(t.path("moved"), "trusted.b", "y"), c.EPERM);
  });
  capabilities(t);
}

/** File capabilities go when the file is written. */
function capabilities(t: Suite): void {
  const { sys } = t;
  const value = new Uint8Array(new Uint32Array([0x02000001, 1 << 10, 0, 0, 0]).buffer);
  const actions: Record<string, (path: string) => unknown> = {
    write: (path) => t.using(path, c.O_WRONLY, (fd) => sys.write(fd, "x")),
    truncate: (path) => sys.truncate(path, 1),
    chown: (path) => sys.chown(path, 1234, 1234),
  };
  for (const [name, action] of Object.entries(actions)) {
    const file = t.file(t.fresh("caps"), "contents");
    t.works(`${name}: setting capabilities`, sys.setxattr(file, "security.capability", value));
    t.is(`${name}: they are there`, sys.getxattr(file, "security.capability"), text(value));
    action(file);
    t.fails(`${name} removes them`, sys.getxattr(file, "security.capability"), c.ENODATA);
  }
}

const ACCESS = "system.posix_acl_access", DEFAULT = "system.posix_acl_default";
const USER_OBJ = 1, USER = 2, GROUP_OBJ = 4, GROUP = 8, MASK = 16, OTHER = 32, NONE = 0xffffffff;

/** struct posix_acl_xattr_header and its entries, linux/posix_acl_xattr.h. */
function encodeAcl(...entries: [tag: number, perm: number, id: number][]): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(4 + 8 * entries.length));
  view.setUint32(0, 2, true);
  entries.forEach(([tag, perm, id], i) => {
    view.setUint16(4 + i * 8, tag, true);
    view.setUint16(6 + i * 8, perm, true);
    view.setUint32(8 + i * 8, id, true);
  });
  return new Uint8Array(view.buffer);
}

export function acl(t: Suite): void {
  const { sys } = t;
  if (!t.asRoot) return t.skip("access-control lists", "want root");
  const file = t.file(t.path("file"), "contents");
  sys.chmod(file, 0o640);
  const value = encodeAcl([USER_OBJ, 6, NONE], [USER, 6, 1234], [GROUP_OBJ, 4, NONE], [MASK, 6, NONE], [
    OTHER,
    0,
    NONE,
  ]);
  const result = sys.setxattr(file, ACCESS, value);
  if (result === -c.EOPNOTSUPP) return t.skip("access-control lists", "this file system has none (EOPNOTSUPP)");
  t.works("set an access list", result);
  t.is("get it", sys.getxattr(file, ACCESS), text(value));
  t.is("the mask is the group's part of the mode", octal(sys.stat(file).perm), "0660");
  t.as(1234, 9, [], () => {
    t.works("the user named in it writes", sys.open(file, c.O_RDWR));
    t.works("access says so", sys.access(file, c.W_OK));
  });
  t.as(1235, 9, [], () => t.fails("another does not", sys.open(file, c.O_RDONLY), c.EACCES));
  sys.chmod(file, 0o600);
  t.as(1234, 9, [], () => t.fails("chmod takes the mask away", sys.open(file, c.O_RDONLY), c.EACCES));
  sys.chmod(file, 0o640);
  t.as(1234, 9, [], () => {
    t.works("chmod gives a mask for reading", sys.open(file, c.O_RDONLY));
    t.fails("not for writing", sys.open(file, c.O_RDWR), c.EACCES);
  });
  const group = encodeAcl([USER_OBJ, 6, NONE], [GROUP_OBJ, 0, NONE], [GROUP, 6, 777], [MASK, 6, NONE], [
    OTHER,
    0,
    NONE,
  ]);
  t.works("a list with a group", sys.setxattr(file, ACCESS, group));
  t.as(55, 9, [777], () => t.works("a member of the group writes", sys.open(file, c.O_RDWR)));
  t.fails("a list without owner", sys.setxattr(file, ACCESS, encodeAcl([OTHER, 6, NONE])), c.EINVAL);
  t.works("remove it", sys.removexattr(file, ACCESS));
  t.fails("it is gone", sys.getxattr(file, ACCESS), c.ENODATA);
  t.fails("a default list of a file", sys.setxattr(file, DEFAULT, value), c.EACCES);
  t.as(1234, 9, [], () => t.fails("another sets a list", sys.setxattr(file, ACCESS, value), c.EPERM));

  const folder = t.folder(t.path("folder"));
  const inherited = encodeAcl([USER_OBJ, 7, NONE], [USER, 7, 1234], [GROUP_OBJ, 5, NONE], [MASK, 7, NONE], [
    OTHER,
    0,
    NONE,
  ]);
  t.works("a default list of a directory", sys.setxattr(folder, DEFAULT, inherited));
  t.is("get the default list", sys.getxattr(folder, DEFAULT), text(inherited));
  sys.umask(0o077);
  t.using(`${folder}/f`, c.O_CREAT | c.O_RDWR, () => {}, 0o666);
  sys.mkdir(`${folder}/d`, 0o777);
  sys.mknod(`${folder}/p`, c.S_IFIFO | 0o666);
  sys.umask(0o022);
  t.is("a new file's mode follows it, not the umask", octal(sys.stat(`${folder}/f`).perm), "0660");
  t.is("a new pipe's mode, too", octal(sys.stat(`${folder}/p`).perm), "0660");
  t.is("a new directory's mode, too", octal(sys.stat(`${folder}/d`).perm), "0770");
  t.is("a new directory inherits it", sys.getxattr(`${folder}/d`, DEFAULT), text(inherited));
  t.as(1234, 9, [], () => {
    t.works("the user named in it writes the new file", sys.open(`${folder}/f`, c.O_RDWR));
    t.works("and makes files in the new directory", sys.open(`${folder}/d/x`, c.O_CREAT | c.O_RDWR));
  });
  t.works("remove the default list", sys.removexattr(folder, DEFAULT));
  const plain = t.file(`${folder}/plain`);
  t.is("new files follow the umask again", octal(sys.stat(plain).perm), "0644");
}
