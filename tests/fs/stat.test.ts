// statx(2) as a reply, against what stat(1) says of the same file.
import assert from "node:assert/strict";
import { O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_PATH } from "../../ffi/arch.ts";
import { EBADF, ENOENT, ENOTDIR } from "../../ffi/errno.ts";
import { checked, cString, libc } from "../../ffi/libc.ts";
import { AT_FDCWD, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG } from "../../ffi/stat_layout.ts";
import { StatBuffer } from "../../fs/stat.ts";
import { fuse_attr } from "../../fs/wire.ts";
import { hostStat } from "./host_stat.ts";

/** The fields of struct fuse_attr as they stand in a reply that was full of other things. */
function attrOf(stat: StatBuffer): Record<keyof typeof fuse_attr, number> {
  const out = new Uint32Array(64).fill(0xdead_beef);
  stat.putAttr(out, 8);
  const view = new DataView(out.buffer, 32);
  const wide = ["ino", "size", "blocks", "atime", "mtime", "ctime"];
  const fields = Object.entries(fuse_attr).map(([name, at]) => [
    name,
    wide.includes(name) ? Number(view.getBigInt64(at, true)) : name === "sizeof" ? at : view.getUint32(at, true),
  ]);
  assert.equal(out[7], 0xdead_beef);
  assert.equal(out[8 + fuse_attr.sizeof / 4], 0xdead_beef);
  return Object.fromEntries(fields);
}

const expected = (path: string) => ({ ...hostStat(path), flags: 0, sizeof: fuse_attr.sizeof });

/** Runs `body` with a directory that holds one of each kind, and its descriptor. */
function withKinds(body: (dir: string, fd: number) => void) {
  const dir = Deno.makeTempDirSync({ prefix: "ringfsd-stat-" });
  const fd = checked("openat", libc.openat(AT_FDCWD, cString(dir), O_PATH | O_DIRECTORY | O_CLOEXEC, 0));
  try {
    Deno.writeFileSync(`${dir}/file`, new Uint8Array(12345), { mode: 0o640 });
    Deno.utimeSync(`${dir}/file`, -1.75, 2 ** 33 + 0.25);
    Deno.mkdirSync(`${dir}/dir`, { mode: 0o711 });
    Deno.symlinkSync("nowhere", `${dir}/link`);
    checked("mknodat", libc.mknodat(fd, cString("fifo"), S_IFIFO | 0o600, 0n));
    body(dir, fd);
  } finally {
    libc.close(fd);
    Deno.removeSync(dir, { recursive: true });
  }
}

Deno.test("StatBuffer.at() and of() give what lstat gives", () =>
  withKinds((dir, fd) => {
    const stat = new StatBuffer();
    for (const [name, type] of [["file", S_IFREG], ["dir", S_IFDIR], ["link", S_IFLNK], ["fifo", S_IFIFO]] as const) {
      assert.equal(stat.at(fd, cString(name)), 0);
      const path = `${dir}/${name}`;
      assert.deepEqual(attrOf(stat), expected(path), name);
      assert.equal(stat.type, type);
      assert.equal(stat.mode, hostStat(path).mode);
      const id = { ...stat.identity };
      const own = checked("openat", libc.openat(fd, cString(name), O_PATH | O_NOFOLLOW | O_CLOEXEC, 0));
      try {
        assert.equal(stat.of(own), 0);
        assert.deepEqual(attrOf(stat), expected(path), name);
        assert.deepEqual({ ...stat.identity }, id);
      } finally {
        libc.close(own);
      }
    }
  }));

Deno.test("StatBuffer passes errno on", () =>
  withKinds((_, fd) => {
    const stat = new StatBuffer();
    assert.equal(stat.at(fd, cString("none")), -ENOENT);
    assert.equal(stat.at(fd, cString("file/x")), -ENOTDIR);
    assert.equal(stat.of(-1), -EBADF);
  }));

Deno.test({
  name: "StatBuffer.putAttr() encodes device numbers as the kernel does" +
    (Deno.uid() === 0 ? "" : " (skipped: mknod needs root)"),
  ignore: Deno.uid() !== 0,
  fn: () =>
    withKinds((_, fd) => {
      const stat = new StatBuffer();
      // Each beside makedev(major, minor) of linux/kdev_t.h, new_encode_dev(): minor bits 0-7, major 8-19, minor 20-31.
      const devices: [number, number, number][] = [
        [1, 3, 0x103],
        [8, 0, 0x800],
        [0xfff, 0xff, 0xfffff],
        [259, 0x12345, 0x12310345],
        [0xfff, 0xfffff, 0xffffffff],
      ];
      for (const [major, minor, rdev] of devices) {
        for (const type of [S_IFCHR, S_IFBLK]) {
          const name = cString("device");
          const made = libc.mknodat(fd, name, type | 0o600, BigInt(rdev));
          assert.equal(made, 0, "mknod");
          assert.equal(stat.at(fd, name), 0);
          assert.equal(attrOf(stat).rdev, rdev, `${major}:${minor}`);
          libc.unlinkat(fd, name, 0);
        }
      }
    }),
});
