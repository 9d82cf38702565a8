/** Directories: what readdir gives, seeking in it, many entries, statfs. */
import * as c from "./constants.ts";
import { memory } from "./call.ts";
import type { Dirent } from "./sys.ts";
import type { Suite } from "./suite.ts";

const plain = (entries: Dirent[]) => entries.map((entry) => entry.name).filter((name) => !/^\.{1,2}$/.test(name));

export function readdir(t: Suite): void {
  const { sys } = t;
  const folder = t.folder(t.path("folder"));
  const list = (path = folder) => t.using(path, c.O_RDONLY | c.O_DIRECTORY, (fd) => sys.entries(fd));
  t.is("an empty directory has '.' and '..'", list().map((entry) => entry.name).sort(), [".", ".."]);
  const kinds: Record<string, [number, () => unknown]> = {
    file: [c.DT_REG, () => t.file(`${folder}/file`)],
    folder: [c.DT_DIR, () => sys.mkdir(`${folder}/folder`)],
    link: [c.DT_LNK, () => sys.symlink("x", `${folder}/link`)],
    pipe: [c.DT_FIFO, () => sys.mknod(`${folder}/pipe`, c.S_IFIFO | 0o600)],
    socket: [c.DT_SOCK, () => sys.mknod(`${folder}/socket`, c.S_IFSOCK | 0o600)],
  };
  for (const [name, [type, make]] of Object.entries(kinds)) {
    make();
    const entry = list().find((one) => one.name === name);
    t.is(`the type of a ${name}`, entry?.type, type);
    t.ok(`the number of a ${name} is stat's`, entry?.ino === sys.stat(`${folder}/${name}`).ino);
  }
  t.is("each name once", plain(list()).sort(), Object.keys(kinds).sort());
  t.is("links: 2, and one for each directory in it", [1, 3].includes(sys.stat(folder).nlink), true);
  const dot = list().find((entry) => entry.name === ".");
  t.ok("the number of '.' is the directory's", dot?.ino === sys.stat(folder).ino);
  sys.unlink(`${folder}/file`);
  t.ok("what was removed is not listed", !plain(list()).includes("file"));
  t.using(folder, c.O_RDONLY, (fd) => {
    const before = plain(sys.entries(fd)).length;
    t.file(`${folder}/late`);
    sys.lseek(fd, 0);
    t.is("rewinding shows what was made since", plain(sys.entries(fd)).length, before + 1);
    t.is("at the end there is nothing", sys.getdents(fd), []);
    t.fails("a buffer too small for an entry", (sys.lseek(fd, 0), sys.getdents(fd, 8)), c.EINVAL);
  });
  t.using(t.file(t.path("file")), c.O_RDONLY, (fd) => t.fails("of a file", sys.getdents(fd), c.ENOTDIR));
  many(t);
  t.using(t.path("."), c.O_RDONLY, (fd) => {
    const up = sys.entries(fd).find((entry) => entry.name === "..");
    t.ok("the number of '..' is not 0", up !== undefined && up.ino !== 0n);
  });
}

function many(t: Suite): void {
  const { sys } = t;
  // 15,000 fit the descriptors of any daemon; more than that makes it use file handles.
  const count = t.options.large ? 100_000 : 15_000;
  const folder = t.folder(t.path("many"));
  const dir = sys.open(folder, c.O_RDONLY);
  let made = 0;
  const name = (i: number) => `entry-with-a-name-of-some-length-${i}`;
  for (let i = 0; i < count; i++) {
    // Links to nothing: the cheapest entries there are.
    if (sys.symlink("x", `${folder}/${name(i)}`) === 0) made++;
  }
  t.is("many entries are made", made, count);
  const all = sys.entries(dir);
  t.is("many: each is listed once", new Set(plain(all)).size, count);
  t.is("many: and none twice", plain(all).length, count);
  sys.lseek(dir, 0);
  t.is("many: rewound, with small buffers", new Set(plain(sys.entries(dir, 1024))).size, count);
  const wrong: number[] = [];
  for (const i of [0, 1, 2, 99, 100, 1000, count >> 1, count - 1, count]) {
    sys.lseek(dir, all[i].off);
    const next = sys.getdents(dir);
    if (!Array.isArray(next) || next[0].name !== all[i + 1].name) wrong.push(i);
  }
  t.is("many: seeking to an offset gives the entry behind it", wrong, []);
  sys.lseek(dir, all[count >> 1].off);
  t.is("many: and from there all the rest", sys.entries(dir).length, all.length - (count >> 1) - 1);
  sys.lseek(dir, all.at(-1)!.off);
  t.is("many: behind the last there is nothing", sys.getdents(dir), []);

  // POSIX: what is neither made nor removed meanwhile is listed exactly once.
  sys.lseek(dir, 0);
  const seen: string[] = [];
  while (true) {
    const some = sys.getdents(dir, 4096);
    if (!Array.isArray(some) || !some.length) break;
    seen.push(...plain(some));
    for (const entry of plain(some)) if (!/[05]$/.test(entry)) sys.unlink(`${folder}/${entry}`);
  }
  const kept = seen.filter((entry) => /[05]$/.test(entry));
  t.is("many: removing while reading skips nothing", [new Set(seen).size, seen.length], [count, count]);
  sys.lseek(dir, 0);
  t.is("many: what is left", plain(sys.entries(dir)).length, kept.length);
  for (const entry of kept) sys.unlink(`${folder}/${entry}`);
  t.works("many: removed all, the directory is empty", sys.rmdir(folder));
  sys.close(dir);
}

export function statfs(t: Suite): void {
  const { sys } = t;
  /** struct statfs, asm-generic/statfs.h: words of 64 bits on x86-64. */
  const words = (buffer: Uint8Array<ArrayBuffer>) => new BigInt64Array(buffer.buffer);
  const buffer = memory(120);
  const path = new TextEncoder().encode(`${t.path(".")}\0`);
  t.works("statfs", sys.call(c.SYS.statfs, path, buffer));
  const [, bsize, blocks, free, available, files, filesFree, , namelen] = words(buffer);
  t.ok("blocks have a size", bsize > 0n && (bsize & (bsize - 1n)) === 0n, bsize);
  t.ok("no more is free than there is", free <= blocks && available <= free && blocks > 0n, {
    blocks,
    free,
    available,
  });
  t.ok("files likewise", filesFree <= files, { files, filesFree });
  t.is("names have 255 bytes", Number(namelen), 255);
  const again = memory(120);
  t.using(t.path("."), c.O_RDONLY, (fd) => t.works("fstatfs", sys.call(c.SYS.fstatfs, fd, again)));
  t.is("says the same size", [words(again)[1], words(again)[2]], [bsize, blocks]);
  t.fails(
    "statfs of nothing",
    sys.call(c.SYS.statfs, new TextEncoder().encode(`${t.path("none")}\0`), again),
    c.ENOENT,
  );
}
