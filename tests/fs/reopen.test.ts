// fs/reopen.ts: the files of nodes, by /proc and by file handle.
import assert from "node:assert/strict";
import { O_PATH, O_RDONLY, O_RDWR, O_TRUNC } from "../../ffi/arch.ts";
import { cString, libc } from "../../ffi/libc.ts";
import { defaultOptions } from "../../fs/config.ts";
import { ProcPath } from "../../fs/proc_path.ts";
import { Reopener } from "../../fs/reopen.ts";
import { closeShare, openShare } from "../../fs/share.ts";
import { silent } from "../../vq/log.ts";

const openPath = (path: string) => libc.openat(-100, cString(path), O_PATH, 0);
const link = (fd: number) => Deno.readLinkSync(`/proc/self/fd/${fd}`);

function withFiles(body: (path: (name: string) => string, reopener: Reopener) => void): void {
  const dir = Deno.makeTempDirSync();
  const share = openShare(dir, { ...defaultOptions, inodeFileHandles: "prefer" }, 1, silent);
  try {
    body((name) => `${dir}/${name}`, new Reopener(new ProcPath(share.procFd), share.mountFd));
  } finally {
    closeShare(share);
    Deno.removeSync(dir, { recursive: true });
  }
}

/** Opens a node's file and says what that is; or -errno. */
function opened(reopener: Reopener, fd: number, slot: number, generation: number, flags = O_RDONLY): string | number {
  const file = reopener.open(fd, slot, generation, flags);
  if (file < 0) return file;
  const path = link(file);
  libc.close(file);
  return path;
}

Deno.test("Reopener.open() opens the node's own file each time, whatever had its place before", () =>
  withFiles((path, reopener) => {
    const fds = ["a", "b", "c"].map((name) => {
      Deno.writeTextFileSync(path(name), name);
      return openPath(path(name));
    });
    // Slots 7 and 71 have one place; the last is another file in a slot that was given away.
    const nodes = [[7, 1, "a"], [71, 2, "b"], [7, 3, "c"]] as const;
    for (let round = 0; round < 4; round++) {
      for (const [i, [slot, generation, name]] of nodes.entries()) {
        for (let again = 0; again < 3; again++) assert.equal(opened(reopener, fds[i], slot, generation), path(name));
      }
    }
    assert.equal(opened(reopener, fds[0], 0, 0), path("a"));
    for (const fd of fds) libc.close(fd);
  }));

Deno.test("Reopener.open() passes the flags on, and opens what was renamed or unlinked meanwhile", () =>
  withFiles((path, reopener) => {
    Deno.writeTextFileSync(path("file"), "text");
    const fd = openPath(path("file"));
    for (let i = 0; i < 3; i++) assert.equal(opened(reopener, fd, 9, 1), path("file"));
    Deno.renameSync(path("file"), path("moved"));
    assert.equal(opened(reopener, fd, 9, 1), path("moved"));
    assert.equal(opened(reopener, fd, 9, 1, O_RDWR | O_TRUNC), path("moved"));
    assert.equal(Deno.statSync(path("moved")).size, 0);
    Deno.removeSync(path("moved"));
    assert.equal(opened(reopener, fd, 9, 1), `${path("moved")} (deleted)`);
    libc.close(fd);
  }));
