// Names in the share change under the guest's requests: a file becomes a symlink that leads out, a directory too, or is moved away.
import assert from "node:assert/strict";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import type { Session } from "../../bench/session.ts";
import { S_IFLNK, S_IFMT, S_IFREG } from "../../ffi/stat_layout.ts";
import { Daemon } from "../fs/daemon.ts";
import { hostStat } from "../fs/host_stat.ts";
import type { Swapping } from "./swapper.ts";

const ROOT = 1;
/** More by hand: each is some dozens of requests, while names are exchanged all the time. */
const ROUNDS = Number(Deno.env.get("RINGFSD_TEST_ROUNDS") ?? 250);
const SECRET = "a secret of the host";
const INSIDE = "inside of the share";
const O_TRUNC = 0o1000, O_RDWR = 2;

/** What lies outside, with its times of access: a look at it would be seen, for the times of access are in the past. */
class Outside {
  readonly #paths: string[];
  readonly #before: string;

  constructor(readonly dir: string) {
    Deno.mkdirSync(`${dir}/outside/d`, { recursive: true });
    for (const name of ["secret", "d/x", "d/secret"]) Deno.writeTextFileSync(`${dir}/outside/${name}`, SECRET);
    this.#paths = ["", "/secret", "/d", "/d/x", "/d/secret"].map((name) => `${dir}/outside${name}`);
    for (const path of this.#paths) Deno.utimeSync(path, 1_000_000_000, 1_500_000_000);
    this.#before = this.#state();
  }

  #state(): string {
    return JSON.stringify(this.#paths.map((path) => hostStat(path)));
  }

  /** Neither touched nor looked at. */
  check(): void {
    assert.equal(this.#state(), this.#before, "what lies outside");
  }

  /** The same, and looks at it, which is seen from then on. */
  close(): void {
    this.check();
    for (const name of ["secret", "d/x", "d/secret"]) {
      assert.equal(Deno.readTextFileSync(`${this.dir}/outside/${name}`), SECRET);
    }
    const listed = (path: string) => [...Deno.readDirSync(path)].map(({ name }) => name).sort();
    assert.deepEqual(listed(`${this.dir}/outside`), ["d", "secret"]);
    assert.deepEqual(listed(`${this.dir}/outside/d`), ["secret", "x"]);
  }
}

/** Whether there is another round: the thread that swaps may not have had its turn yet. */
const goesOn = (round: number, seen: boolean) => round < ROUNDS || (!seen && round < 100 * ROUNDS);

/** Runs `body` while another thread swaps. Returns how often that was done. */
async function swapping(
  daemon: Daemon,
  what: Omit<Swapping, "control">,
  body: () => void,
): Promise<number> {
  const control = new SharedArrayBuffer(8);
  const words = new Int32Array(control);
  const worker = new Worker(new URL("./swapper.ts", import.meta.url), { type: "module" });
  const ended = new Promise((resolve) => worker.onmessage = resolve);
  worker.postMessage({ ...what, control } satisfies Swapping);
  try {
    await daemon.until(() => Atomics.load(words, 1) > 0, "the other thread");
    body();
  } finally {
    Atomics.store(words, 0, 1);
    await ended;
    worker.terminate();
  }
  return words[1];
}

/** Everything that can be done to a node, with what it must never find. Counts what succeeded. */
function attack({ client }: Session, nodeid: bigint, count: (what: string) => void): void {
  const ok = (what: string, error: number) => {
    if (error === 0) count(what);
    return error === 0;
  };
  for (const flags of [0, O_RDWR, O_RDWR | O_TRUNC]) {
    const { error, fh } = client.open(nodeid, flags);
    if (!ok("OPEN", error)) continue;
    const { data } = client.read(nodeid, fh, 0, 100);
    const text = new TextDecoder().decode(data);
    assert.ok(text === "" || text === INSIDE, text);
    client.write(nodeid, fh, 0, new TextEncoder().encode(INSIDE));
    client.release(nodeid, fh);
  }
  ok("SETATTR", client.setattr(nodeid, { size: INSIDE.length }).error);
  ok("SETATTR", client.setattr(nodeid, { mode: 0o644 }).error);
  ok("SETATTR", client.setattr(nodeid, { uid: 0, gid: 0 }).error);
  client.request(op.FUSE_SETATTR, nodeid, bytes(u32(16 | 32, 0), new Uint8Array(80)), 104);
  const value = bytes(u32(3, 0, 0, 0), names("user.mine"), u32(1).subarray(0, 3));
  ok("SETXATTR", client.request(op.FUSE_SETXATTR, nodeid, value).error);
  client.request(op.FUSE_GETXATTR, nodeid, bytes(u32(64, 0), names("user.mine")), 64);
  client.request(op.FUSE_LISTXATTR, nodeid, u32(256, 0), 256);
  client.request(op.FUSE_REMOVEXATTR, nodeid, names("user.mine"));
  ok("SETLK", client.request(op.FUSE_SETLK, nodeid, bytes(u64(0, 1, 0, 1), u32(2, 0), u32(0, 0))).error);
  const { error } = client.link(nodeid, ROOT, "hard");
  if (ok("LINK", error)) client.unlink(ROOT, "hard");
}

const SETUPS: [string, string, string[]][] = [
  ["in memory", "/dev/shm", ["--xattr", "--posix-lock"]],
  ["on a disk", "/tmp", ["--xattr", "--posix-lock"]],
  ["by file handle", "/tmp", ["--xattr", "--posix-lock", "--inode-file-handles=mandatory"]],
];
for (const [where, base, args] of SETUPS) {
  Deno.test(`A share ${where} whose names another process exchanges is left by none of them`, async (t) => {
    if (args.length > 2 && Deno.uid() !== 0) return console.log("  not tried: file handles need root");
    const daemon = await Daemon.start({ base, args });
    const session = daemon.session({ initFlags: undefined });
    const { client } = session;
    const path = (name: string) => daemon.path(name);
    const seen: Record<string, number> = {};
    const count = (what: string) => void (seen[what] = (seen[what] ?? 0) + 1);
    try {
      const outside = new Outside(daemon.dir);
      Deno.mkdirSync(path("d"));
      Deno.writeTextFileSync(path("d/x"), INSIDE);
      Deno.writeTextFileSync(path("file"), INSIDE);
      Deno.symlinkSync("../outside/secret", path("link"));
      Deno.symlinkSync(`${daemon.dir}/outside/d`, path("to-dir"));
      Deno.symlinkSync(`${daemon.dir}/outside/d/x`, path("d/to-x"));
      const exchange = [["file", "link"], ["d", "to-dir"], ["d/x", "d/to-x"]].map(([a, b]) =>
        [path(a), path(b)] as const
      );

      await t.step("a file and a symlink: OPEN, SETATTR, SETXATTR, SETLK and LINK of what LOOKUP found", async () => {
        const swaps = await swapping(daemon, { exchange, move: [] }, () => {
          for (let i = 0; goesOn(i, seen.file > 0 && seen.symlink > 0); i++) {
            for (const name of ["file", "link"]) {
              const { error, nodeid, attr } = client.lookup(ROOT, name);
              if (error !== 0) continue;
              const type = attr.mode & S_IFMT;
              assert.ok(type === S_IFREG || type === S_IFLNK);
              count(type === S_IFREG ? "file" : "symlink");
              attack(session, nodeid, count);
              client.forget(nodeid);
            }
          }
        });
        assert.ok(seen.file > 0 && seen.symlink > 0 && swaps > 0, JSON.stringify({ ...seen, swaps }));
        outside.check();
      });

      await t.step("CREATE and TMPFILE by a name that is a file, then a symlink", async () => {
        await swapping(daemon, { exchange, move: [] }, () => {
          for (let i = 0; goesOn(i, seen.CREATE > 0); i++) {
            const { error, nodeid, fh } = client.create(ROOT, "file", O_RDWR | (i % 2 ? O_TRUNC : 0));
            if (error !== 0) continue;
            count("CREATE");
            const text = new TextDecoder().decode(client.read(nodeid, fh, 0, 100).data);
            assert.ok(text === "" || text === INSIDE, text);
            client.write(nodeid, fh, 0, new TextEncoder().encode(INSIDE));
            client.release(nodeid, fh);
            client.forget(nodeid);
          }
        });
        assert.ok(seen.CREATE > 0);
        outside.check();
      });

      await t.step("a directory and a symlink to one: all that names a file below", async () => {
        await swapping(daemon, { exchange, move: [] }, () => {
          for (let i = 0; goesOn(i, seen.below > 0); i++) {
            for (const name of ["d", "to-dir"]) {
              const dir = client.lookup(ROOT, name);
              if (dir.error !== 0) continue;
              const found = client.lookup(dir.nodeid, "x");
              if (found.error === 0) {
                attack(session, found.nodeid, count);
                client.forget(found.nodeid);
              }
              assert.ok(client.lookup(dir.nodeid, "secret").error < 0, "what is in the directory outside");
              const made = client.create(dir.nodeid, "made", O_RDWR);
              if (made.error === 0) {
                count("below");
                client.release(made.nodeid, made.fh);
                client.forget(made.nodeid);
              }
              client.mkdir(dir.nodeid, "made-dir");
              client.rmdir(dir.nodeid, "made-dir");
              client.symlink(dir.nodeid, "made-link", "x");
              client.rename(dir.nodeid, "made-link", dir.nodeid, "secret");
              client.unlink(dir.nodeid, "secret");
              client.unlink(dir.nodeid, "made");
              const opened = client.opendir(dir.nodeid);
              if (opened.error === 0) {
                const { entries } = client.readdirplus(dir.nodeid, opened.fh);
                assert.ok(!entries.some((one) => one.name === "secret"), "a listing of the directory outside");
                client.request(op.FUSE_RELEASEDIR, dir.nodeid, bytes(u64(opened.fh), u32(0, 0), u64(0)));
              }
              client.forget(dir.nodeid);
            }
          }
        });
        assert.ok(seen.below > 0);
        outside.check();
      });

      await t.step(
        "a directory that goes out of the share and comes back: .. leads to what the guest knows",
        async () => {
          Deno.mkdirSync(path("p/m/below"), { recursive: true });
          Deno.mkdirSync(`${daemon.dir}/away`);
          Deno.writeTextFileSync(`${daemon.dir}/away/secret`, SECRET);
          const p = client.lookup(ROOT, "p").nodeid;
          const m = client.lookup(p, "m").nodeid;
          const below = client.lookup(m, "below").nodeid;
          const known = [BigInt(ROOT), p, m, below];
          const ends = { parent: 0, nowhere: 0 };
          await swapping(daemon, { exchange: [], move: [[path("p/m"), `${daemon.dir}/away/m`]] }, () => {
            for (let i = 0; i < 3 * ROUNDS || (goesOn(i, ends.parent > 0 && ends.nowhere > 0)); i++) {
              const up = client.lookup(m, "..");
              if (up.error === 0) {
                assert.equal(up.nodeid, p);
                ends.parent++;
              } else ends.nowhere++;
              assert.equal(client.lookup(below, "..").nodeid, m);
              assert.equal(client.lookup(ROOT, "..").nodeid, BigInt(ROOT));
              // Named, it is no file to be made, moved or removed.
              for (
                const error of [client.create(m, "..").error, client.mkdir(m, "..").error, client.rmdir(m, "..").error]
              ) {
                assert.ok(error < 0);
              }
              assert.ok(client.rename(m, "..", ROOT, "gone").error < 0);
              assert.ok(client.link(below, m, "..").error < 0);
            }
          });
          assert.ok(ends.parent > 0 && ends.nowhere > 0, JSON.stringify(ends));
          assert.equal(known.length, 4);
          assert.equal(Deno.readTextFileSync(`${daemon.dir}/away/secret`), SECRET);
          outside.check();
        },
      );
    } finally {
      session.close();
      await daemon.stop();
    }
  });
}
