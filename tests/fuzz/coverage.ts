/**
 * `DENO_COVERAGE_DIR=DIR deno run -A tests/fuzz/coverage.ts [SECONDS] [SEED]`, then `deno coverage DIR`: which lines of fs/ and vq/ the
 * generator of FUSE requests reaches, on a loop in this thread.
 */
import { random } from "../fs/random.ts";
import { defaultOptions, type FsOptions } from "../../fs/config.ts";
import { fuse, Guest, MEMORY } from "./fuse.ts";
import { Inline } from "./inline.ts";
import { prepareShare } from "./target.ts";

const seconds = Number(Deno.args[0] ?? 30);
const next = random(Number(Deno.args[1] ?? 1));
const all = { xattr: true, posixAcl: "auto" as const, posixLock: true, flock: true };
const SETUPS: [string, Partial<FsOptions>][] = [
  ["/tmp", {}],
  ["/dev/shm", { ...all, killprivV2: true, writeback: true, allowDirectIo: true }],
  ["/dev/shm", {
    ...all,
    securityLabel: true,
    inodeFileHandles: "mandatory",
    xattrMap: ":map::user.virtiofs.:",
    cache: "always",
  }],
  ["/tmp", { readonly: true, readdirplus: false, announceSubmounts: true, cache: "never" }],
];
for (const [base, fs] of SETUPS) {
  const dir = Deno.makeTempDirSync({ dir: base });
  Deno.mkdirSync(`${dir}/share`);
  prepareShare(`${dir}/share`);
  const inline = new Inline(`${dir}/share`, { fs: { ...defaultOptions, ...fs }, memory: MEMORY, queues: 2, size: 512 });
  const counts = {};
  const machine = {
    memory: inline.guest,
    queues: inline.drivers,
    turn: () => inline.turn(),
    close: () => inline.close(),
  };
  const guest = new Guest(machine, counts);
  for (const end = performance.now() + seconds * 1000 / SETUPS.length; performance.now() < end;) {
    const one = fuse.generate(next);
    try {
      guest.play(one);
    } catch (error) {
      console.log(`${(error as Error).message.slice(0, 300)}`);
      break;
    }
  }
  console.log(JSON.stringify(fs), counts);
  guest.end();
  Deno.removeSync(dir, { recursive: true });
}
