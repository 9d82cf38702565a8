/** The POSIX suite (tests/posix) on the host's file systems, which validates it, and in guests on the share. */
import assert from "node:assert/strict";
import { withBed } from "../guest/bed.ts";
import { Debian } from "../guest/debian.ts";
import { expectAsKnown, FLAGS, large, MAIN, makeRoot, onHost, parse } from "../guest/posix.ts";
import { KNOWN } from "../posix/known.ts";

Deno.test("posix: every assertion holds on the host's own file systems", async () => {
  const folder = await Deno.makeTempDir({ prefix: "ringfsd-posix-" });
  try {
    await Deno.chmod(folder, 0o755);
    for (const place of [folder, "/dev/shm"]) {
      const { assertions, rest } = await onHost(place);
      assert(assertions >= 500, `only ${assertions} assertions`);
      assert.deepEqual([...rest.values()].filter((line) => line.startsWith("not ok")), [], place);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

const ignore = Deno.uid() === 0 ? undefined : "the guest's users and groups want a daemon that is root";
if (ignore) console.warn(`skipped: the POSIX suite in a guest, because ${ignore}`);

interface Configuration {
  name: string;
  options: string[];
  /** Which subjects. */
  choice?: string;
}

/** Attributes of the trusted kind are an administrator's, whom the sandbox has by request alone. */
const XATTR = ["--xattr", ...(Deno.uid() === 0 ? ["--modcaps", "+sys_admin"] : [])];

const configurations: Configuration[] = [
  { name: "cache=never", options: ["--cache", "never", ...XATTR, "--posix-acl"] },
  { name: "cache=auto", options: ["--cache", "auto", ...XATTR, "--posix-acl"] },
  {
    name: "write-back and killpriv",
    options: ["--cache", "always", "--writeback", "--killpriv-v2", ...XATTR, "--posix-acl"],
    choice: "--without=readdir,names,locks",
  },
  {
    name: "file handles",
    options: ["--inode-file-handles", "mandatory", "--cache", "auto", ...XATTR, "--posix-acl"],
  },
  {
    name: "remote locks",
    options: ["--cache", "auto", "--posix-lock", "--flock"],
    choice: "--only=locks,append,io,unlink",
  },
];

for (const { name, options, choice = "" } of configurations) {
  Deno.test({
    name: `posix: every assertion holds in a User-Mode Linux guest with ${name}`,
    ignore: ignore !== undefined,
    async fn() {
      await withBed("uml", async (bed) => {
        bed.memMib = 768;
        await bed.make(...options);
        const debian = await Debian.open(bed);
        // What the shared file system lacks, the share lacks.
        const host = await onHost(bed.shared);
        // malloc, when it wants an arena more, looks for the number of CPUs in a file that User-Mode Linux does not have, and leaves
        // ENOENT in errno; between a call of the suite and its look at errno, now and then.
        const command = `MALLOC_ARENA_MAX=1 ${Deno.execPath()} ${FLAGS} ${MAIN} /mnt --quiet ${choice}${large}`;
        const { output } = await debian.try(command, large ? 900_000 : 240_000);
        expectAsKnown(parse(output), KNOWN[name] ?? {}, [...host.rest.keys()]);
        await bed.guest.powerOff();
        await bed.expectDaemonIdle();
      });
    },
  });
}

Deno.test({
  name: "posix: a part of the suite holds in a QEMU guest",
  ignore: ignore !== undefined,
  async fn() {
    await withBed("tcg", async (bed) => {
      bed.memMib = 1024;
      await bed.make("--cache", "auto", ...XATTR);
      await makeRoot(`${bed.shared}/root`);
      await bed.guest.run(
        "mount --bind /proc /mnt/root/proc && mount --bind /dev /mnt/root/dev && mount -t tmpfs tmp /mnt/root/tmp",
      );
      const choice = "--only=create,mode,rename,link,unlink,io,mmap,truncate,fallocate,statx,tmpfile,xattr,locks";
      const command =
        `env -i HOME=/tmp NO_COLOR=1 chroot /mnt/root /deno ${FLAGS} /posix/main.ts /work --quiet ${choice}`;
      const { output } = await bed.guest.try(command, 240_000);
      expectAsKnown(parse(output), {}, ["locks: a deadlock is found"]);
      await bed.guest.run("umount /mnt/root/proc /mnt/root/dev /mnt/root/tmp");
      await bed.guest.powerOff();
      await bed.expectDaemonIdle();
    });
  },
});
