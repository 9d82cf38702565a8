/**
 * `deno run -A bench/nodes.ts [COUNT [DIR]]`: what known files cost the daemon. For each --inode-file-handles, a fresh daemon is asked
 * for COUNT files of a directory in DIR, and its memory and descriptors are compared with those before.
 */
import { ringfsd, startDaemon } from "./daemons.ts";
import { bytes, names, u32, u64 } from "./fuse_encode.ts";
import type { Pending } from "./fuse_client.ts";
import * as op from "./fuse_opcodes.ts";
import { Session } from "./session.ts";

const count = Number(Deno.args[0] ?? 200_000);
const base = Deno.makeTempDirSync({ dir: Deno.args[1] ?? "/dev/shm", prefix: "ringfsd-bench-" });
const share = `${base}/share`;
Deno.mkdirSync(share);

/** A field of /proc/PID/status, in bytes. */
function rss(pid: number): number {
  return Number(/VmRSS:\s*(\d+)/.exec(Deno.readTextFileSync(`/proc/${pid}/status`))![1]) * 1024;
}

const descriptors = (pid: number) => [...Deno.readDirSync(`/proc/${pid}/fd`)].length;

async function measure(how: string): Promise<string> {
  const plain = ringfsd();
  const command = (dir: string, socket: string) => [...plain.command(dir, socket), "--inode-file-handles", how];
  const daemon = await startDaemon({ ...plain, command }, share, `${base}/${how}.sock`);
  try {
    using session = Session.open(daemon.socketPath, { maxData: 4096 });
    const { client } = session;
    /** Sends one request for each number, 32 at a time. Returns how many failed. */
    const each = (most: number, start: (i: number) => Pending): number => {
      let failed = 0;
      for (let i = 0; i < most; i += 32) {
        const sent = Array.from({ length: Math.min(32, most - i) }, (_, k) => start(i + k));
        for (const one of sent) if (client.finish(one).error !== 0) failed++;
      }
      return failed;
    };
    const lookUp = (i: number) => client.start(op.FUSE_LOOKUP, 1, names(`f${i}`), { outSize: 128 });
    // The first file over and over, so that what the code itself takes is there already.
    each(50_000, () => lookUp(0));
    each(50_000, () => client.start(op.FUSE_GETATTR, 1, bytes(u32(0, 0), u64(0)), { outSize: 104 }));
    const before = { rss: rss(daemon.pid), fds: descriptors(daemon.pid) };
    const failed = each(count, lookUp);
    const bytesEach = (rss(daemon.pid) - before.rss) / (count - failed);
    return `${how}: ${count - failed} files known (${failed} refused), ${
      bytesEach.toFixed(0)
    } bytes of the daemon's memory each, ` +
      `${descriptors(daemon.pid) - before.fds} descriptors`;
  } finally {
    await daemon.stop();
  }
}

try {
  const script = 'cd "$1" && seq -f f%.0f 0 "$(($2 - 1))" | xargs touch';
  new Deno.Command("sh", { args: ["-c", script, "sh", share, `${count}`] }).outputSync();
  for (const how of ["never", "prefer", "mandatory"]) console.log(await measure(how));
} finally {
  Deno.removeSync(base, { recursive: true });
}
