/** The loop's and the file system's own tests inside guests with older kernels: the daemon runs in the guest there, not on the host. */
import assert from "node:assert/strict";
import { basename, dirname } from "node:path";
import {
  IORING_SETUP_CLAMP,
  IORING_SETUP_CQSIZE,
  IORING_SETUP_DEFER_TASKRUN,
  IORING_SETUP_R_DISABLED,
  IORING_SETUP_SINGLE_ISSUER,
  IORING_SETUP_SUBMIT_ALL,
  IORING_SETUP_TASKRUN_FLAG,
} from "../../ffi/uring_layout.ts";
import { withBed } from "../guest/bed.ts";
import { Debian } from "../guest/debian.ts";
import { setUp } from "../guest/guest.ts";

const root = new URL("../../", import.meta.url).pathname;

async function obstacle(): Promise<string | undefined> {
  if (Deno.uid() !== 0) return "a guest's root must be able to read the host's files";
  return await setUp("uml").then(() => undefined, (error) => error.message);
}

const ignore = await obstacle();
if (ignore) console.warn(`skipped: older kernels in a guest, because ${ignore}`);

/** The project and its Deno at places that are left when /tmp becomes a folder in the guest's memory. */
const PREPARE = [
  "mkdir -p /run/project /run/deno",
  `mount --bind ${root} /run/project`,
  `mount --bind ${dirname(Deno.execPath())} /run/deno`,
  "mount -t tmpfs tmp /tmp",
  "mkdir -p /dev/shm",
  "mount -t tmpfs shm /dev/shm",
  "cd /run/project",
].join(" && ");
const DENO = `/run/deno/${basename(Deno.execPath())}`;

const USED = `
  const { openRing } = await import("/run/project/ffi/ring.ts");
  const helper = { offer: () => false, cancel: () => false };
  const opened = openRing({ entries: 8, cqEntries: 32, helper });
  console.log("ring:", opened.plain ? opened.reason : opened.ring.flags);`;

Deno.test({
  name: "kernels: the daemon runs on Linux 6.1 and takes the flags that it has, in a User-Mode Linux guest",
  ignore: ignore !== undefined,
  async fn() {
    await withBed("uml", async (bed) => {
      bed.memMib = 1024;
      await bed.make();
      const debian = await Debian.open(bed);
      assert.match(await debian.run("uname -r"), /^6\.1\./);
      const flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
        IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE |
        // It begins disabled, so that it can be restricted.
        IORING_SETUP_R_DISABLED;
      // In one script: the next would be in the /tmp that it hides. And no test that starts a process of its own, for a signal to one
      // that has just been forked is the end of this User-Mode Linux.
      const said = await debian.run(
        `${PREPARE} && ${DENO} eval '${USED}' && ${DENO} test -A --no-check tests/ffi/uring_sqe.test.ts tests/vq/loop.test.ts && ` +
          "mkdir /tmp/share && " +
          `{ ${DENO} run -A --no-check main.ts --socket-path /tmp/socket --shared-dir /tmp/share --sandbox none & } && ` +
          "for i in $(seq 100); do [ -S /tmp/socket ] && break; sleep 0.2; done && " +
          `${DENO} run -A --no-check tests/guest/session.ts /tmp/socket /tmp/share; kill %1; wait %1; echo "daemon: $?"`,
        400_000,
      );
      assert.match(said, new RegExp(`^ring: ${flags}$`, "m"));
      assert.match(said, /^ok \| [1-9]\d* passed/m);
      assert.match(said, /^session ok$/m);
      assert.match(said, /^daemon: 0$/m);
    });
  },
});
