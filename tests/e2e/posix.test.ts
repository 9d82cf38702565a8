/** The POSIX suite (tests/posix) on the host's file systems, which validates it, and in guests on the share. */
import assert from "node:assert/strict";
import { dirname } from "node:path";
import { Bed } from "../guest/bed.ts";
import { Debian } from "../guest/debian.ts";
import { KNOWN } from "../posix/known.ts";

const MAIN = new URL("../posix/main.ts", import.meta.url).pathname;
const FLAGS = "run --allow-all --no-check --no-config";
const large = Deno.env.has("RINGFSD_POSIX_LARGE") ? " --large" : "";

interface Outcome {
  assertions: number;
  /** Each assertion that failed or was skipped, with what the suite said of it. */
  rest: Map<string, string>;
}

function parse(output: string): Outcome {
  const summary = /^# (\d+) assertions: /m.exec(output);
  assert(summary, `the suite did not end:\n${output.slice(-2000)}`);
  const rest = new Map<string, string>();
  for (const [line, name] of output.matchAll(/^(?:not ok|skip) - (.*?)(?: # .*)?$/gm)) rest.set(name, line);
  return { assertions: Number(summary[1]), rest };
}

/** The suite on a folder of the host's. */
async function onHost(folder: string): Promise<Outcome> {
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...FLAGS.split(" "), MAIN, folder, "--quiet", ...large.split(" ").filter(Boolean)],
    stdin: "null",
  }).output();
  return parse(new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr));
}

/**
 * Nothing fails and nothing is skipped but what KNOWN names; and what KNOWN names does not work.
 * @param hostSkips what the suite skips on the file system that is shared
 */
function expectAsKnown({ assertions, rest }: Outcome, known: Record<string, string>, hostSkips: string[]): void {
  const surprises = [...rest].filter(([name]) => !(name in known) && !hostSkips.includes(name)).map(([, line]) => line);
  const wrong = Object.keys(known).filter((name) => !rest.has(name) && !known[name].startsWith("sometimes"));
  const better = wrong.map((name) => `works, but is in KNOWN: ${name}`);
  const all = [...surprises, ...better];
  assert.equal(all.length, 0, `${all.length} of ${assertions} assertions:\n${all.join("\n")}`);
}

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

const configurations: Configuration[] = [
  { name: "cache=never", options: ["--cache", "never", "--xattr", "--posix-acl"] },
  { name: "cache=auto", options: ["--cache", "auto", "--xattr", "--posix-acl"] },
  {
    name: "write-back and killpriv",
    options: ["--cache", "always", "--writeback", "--killpriv-v2", "--xattr", "--posix-acl"],
    choice: "--without=readdir,names,locks",
  },
  {
    name: "file handles",
    options: ["--inode-file-handles", "mandatory", "--cache", "auto", "--xattr", "--posix-acl"],
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
      const bed = new Bed("uml");
      bed.memMib = 768;
      try {
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
      } catch (error) {
        console.error(bed.report());
        throw error;
      } finally {
        await bed.clear();
      }
    },
  });
}

/** A folder that one can chroot into to run the suite: Deno, its libraries, the suite. */
async function makeRoot(root: string): Promise<void> {
  const script = `set -e; mkdir -p "$1"/proc "$1"/tmp "$1"/dev "$1"/work
    for file in "$2" $(ldd "$2" | grep -o '/[^ ]*'); do cp -L --parents "$file" "$1"; done
    cp "$2" "$1/deno" && cp -r "$3" "$1/posix"`;
  const args = ["-c", script, "sh", root, Deno.execPath(), dirname(MAIN)];
  const { success, stderr } = await new Deno.Command("sh", { args }).output();
  assert(success, new TextDecoder().decode(stderr));
}

Deno.test({
  name: "posix: a part of the suite holds in a QEMU guest",
  ignore: ignore !== undefined,
  async fn() {
    const bed = new Bed("tcg");
    bed.memMib = 1024;
    try {
      await bed.make("--cache", "auto", "--xattr");
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
    } catch (error) {
      console.error(bed.report());
      throw error;
    } finally {
      await bed.clear();
    }
  },
});
