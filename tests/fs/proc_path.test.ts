import assert from "node:assert/strict";
import { O_CLOEXEC, O_NOFOLLOW, O_PATH, O_RDONLY } from "../../ffi/arch.ts";
import { ELOOP, ENOENT } from "../../ffi/errno.ts";
import { checked, cString, libc } from "../../ffi/libc.ts";
import { AT_FDCWD } from "../../ffi/stat_layout.ts";
import { ProcPath } from "../../fs/proc_path.ts";

const text = (name: Uint8Array) => new TextDecoder().decode(name.subarray(0, name.indexOf(0)));

Deno.test("ProcPath.of() writes any descriptor's digits", () => {
  const proc = new ProcPath(-1);
  for (const fd of [0, 1, 9, 10, 11, 99, 100, 101, 999, 1000, 65535, 99999, 1_000_000, 2 ** 31 - 1, 7, 10, 0]) {
    assert.equal(text(proc.of(fd)), String(fd));
  }
});

Deno.test("ProcPath.open() opens the file that a descriptor stands for, and no symlink", () => {
  const dir = Deno.makeTempDirSync({ prefix: "ringfsd-proc-" });
  const open = (path: string, flags: number) =>
    checked("openat", libc.openat(AT_FDCWD, cString(path), flags | O_CLOEXEC, 0));
  const procFd = open("/proc/self/fd", O_PATH);
  const fds = [procFd];
  try {
    const proc = new ProcPath(procFd);
    Deno.writeTextFileSync(`${dir}/file`, "this");
    Deno.symlinkSync("/etc/passwd", `${dir}/link`);
    const file = open(`${dir}/file`, O_PATH);
    const link = open(`${dir}/link`, O_PATH | O_NOFOLLOW);
    fds.push(file, link);
    // Its name is of no matter any more.
    Deno.renameSync(`${dir}/file`, `${dir}/other`);
    Deno.writeTextFileSync(`${dir}/file`, "that");
    const fd = proc.open(file, O_RDONLY | O_NOFOLLOW);
    assert.ok(fd >= 0);
    fds.push(fd);
    const bytes = new Uint8Array(8);
    assert.equal(libc.read(fd, bytes, 8), 4);
    assert.equal(text(bytes), "this");
    assert.equal(proc.open(link, O_RDONLY), -ELOOP);
    assert.equal(proc.open(2 ** 31 - 1, O_RDONLY), -ENOENT);
  } finally {
    for (const fd of fds) libc.close(fd);
    Deno.removeSync(dir, { recursive: true });
  }
});
