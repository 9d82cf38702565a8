// The mistakes that people make most, made for real; docs/MISTAKES.md has the line that each gives.
import assert from "node:assert/strict";
import { Session } from "../../bench/session.ts";
import { ENOSYS } from "../../ffi/errno.ts";
import { libc } from "../../ffi/libc.ts";
import { connectUnix } from "../../ffi/socket.ts";
import { expectRow, IN_GUESTS, plain, readTable } from "./mistakes_table.ts";
import { Place, Started, type StartOptions, useShare } from "./started.ts";

const deny = new URL("../ffi/deny.ts", import.meta.url).pathname;
const NOBODY = 65534;
/** SYS_io_uring_setup, on every architecture. */
const IO_URING_SETUP = 425;
const table = readTable();

interface Mistake {
  /** The command line. The share and the socket are added, unless it has them. */
  args: (place: Place) => string[];
  start?: StartOptions;
  /** What is there before. The result is taken away in the end. */
  before?: (place: Place) => void | Promise<() => void | Promise<void>>;
  /** Where it serves, what a guest does. */
  use?: (place: Place, daemon: Started) => Promise<void> | void;
  /** It serves all the same, and says this line besides others. */
  line?: RegExp;
}

const base = ({ share, socket }: Place) => ["--shared-dir", share, "--socket-path", socket];
const asNobody: StartOptions = { uid: NOBODY, cwd: "/", env: { HOME: "/" } };

const MISTAKES: Record<string, Mistake> = {
  "A directory that is not there": {
    args: ({ path, socket }) => ["--shared-dir", `${path}/vm2`, "--socket-path", socket],
  },
  "A file instead of a directory": {
    before: ({ path }) => Deno.writeTextFileSync(`${path}/file`, ""),
    args: ({ path, socket }) => ["--shared-dir", `${path}/file`, "--socket-path", socket],
  },
  "A directory that the user may not reach": {
    start: asNobody,
    before: ({ path }) => Deno.mkdirSync(`${path}/locked`, { mode: 0o700 }),
    args: ({ path, socket }) => ["--shared-dir", `${path}/locked/vm1`, "--socket-path", socket],
  },
  "A directory that the user may not read": {
    start: asNobody,
    before: ({ share }) => Deno.chmodSync(share, 0o711),
    args: base,
    line: /may not read/,
  },
  "No option before the directory": { args: ({ share }) => [share] },
  "No directory": { args: ({ socket }) => ["--socket-path", socket] },
  "No socket": { args: ({ share }) => ["--shared-dir", share] },
  "A word that is no command": { args: ({ share }) => ["shar", share] },
  "A socket that another daemon has open": {
    before: async (place) => {
      const other = Started.start(base(place));
      await other.socket(place.socket);
      return async () => void await other.end("SIGTERM");
    },
    args: base,
  },
  "Something else where the socket is to be": {
    before: ({ socket }) => Deno.writeTextFileSync(socket, ""),
    args: base,
  },
  "A path for the socket that is too long": {
    args: ({ share }) => ["--shared-dir", share, "--socket-path", `/run/${"x".repeat(110)}.sock`],
  },
  "The socket's directory is not there": {
    args: ({ path, share }) => ["--shared-dir", share, "--socket-path", `${path}/run/vm1.sock`],
  },
  "A socket where the user may not make files": {
    start: asNobody,
    before: ({ path }) => Deno.chmodSync(path, 0o755),
    args: base,
  },
  "A descriptor that is no socket": { args: ({ share }) => ["--shared-dir", share, "--fd", "0"] },
  "A tag that is too long": { args: (place) => [...base(place), "--tag", "x".repeat(37)] },
  "An option that is misspelled": { args: (place) => [...base(place), "--cahe", "always"] },
  "A value that there is not": { args: (place) => [...base(place), "--cache", "allways"] },
  "An option without its value": { args: ({ share }) => ["--shared-dir", share, "--socket-path"] },
  "Options that exclude each other": {
    args: (place) => [...base(place), "--posix-acl", "--translate-uid", "map:0:1000:1"],
  },
  "A group that there is not": { args: (place) => [...base(place), "--socket-group", "vms"] },
  "A configuration that is no JSON": {
    before: ({ path }) =>
      Deno.writeTextFileSync(`${path}/vm1.json`, '{ "shares": [ { "tag": "a" "dir": "/srv/a" } ] }'),
    args: ({ path }) => ["--config", `${path}/vm1.json`],
  },
  "A share's option that is misspelled": {
    args: ({ share, socket }) => ["--share", `tag=a,dir=${share},socket=${socket},cahe=never`],
  },
  "Two shares on one socket": {
    args: (
      { path, share, socket },
    ) => ["--share", `dir=${share},socket=${socket}`, "--share", `dir=${path},socket=${socket}`],
  },
  "`--xattr` where the file system has none": {
    args: ({ socket }) => ["--shared-dir", "/proc", "--socket-path", socket, "--xattr"],
    line: /extended attributes/,
  },
  "No io_uring: an old kernel, or a container's profile": {
    start: { before: `set -- "$1" run -A --no-check ${deny} ${ENOSYS} ${IO_URING_SETUP} "$@"` },
    args: base,
    line: /io_uring/,
  },
  "Too few descriptors": {
    args: (place) => [...base(place), "--rlimit-nofile", "400", "--inode-file-handles", "never"],
    use: ({ socket, share }) => {
      for (let i = 0; i < 400; i++) Deno.writeTextFileSync(`${share}/${i}`, "");
      const guest = Session.open(socket, { memory: 4 << 20 });
      for (let i = 0; i < 400; i++) guest.client.lookup(1, `${i}`);
      guest.close();
    },
    line: /descriptors/,
  },
  "File handles that the user may not open": {
    start: asNobody,
    args: (place) => [...base(place), "--inode-file-handles", "mandatory"],
  },
  "A second virtual machine on one socket": {
    args: base,
    use: async ({ socket, share }, daemon) => {
      const first = useShare(socket, share);
      const second = connectUnix(socket);
      await daemon.until(() => daemon.log.includes("another"), "a word about the second");
      libc.close(second);
      first.close();
    },
    line: /another/,
  },
  "An option of virtiofsd's that is not there": { args: (place) => [...base(place), "--daemonize"] },
};

/** Why no other user can run the daemon from here, or "". */
function noOtherUser(): string {
  if (Deno.uid() !== 0) return "needs root to become another user";
  try {
    const run = new Deno.Command(Deno.execPath(), { args: ["--version"], uid: NOBODY, stdout: "null", stderr: "null" });
    return run.outputSync().success ? "" : "other users cannot run Deno from here";
  } catch {
    return "other users cannot reach the folder that Deno is in";
  }
}
const cannotBe = noOtherUser();

/** Makes a mistake, and returns the line that it gives. */
async function make({ args, start, before, use, line }: Mistake): Promise<string> {
  using place = new Place();
  const after = await before?.(place);
  const daemon = Started.start(args(place), start);
  try {
    if (line === undefined) {
      const { code } = await daemon.end();
      assert.ok(code === 1 || code === 2, `ended with ${code}: ${daemon.log}`);
      assert.match(daemon.log, /^[^\n]+\n$/);
    } else {
      await daemon.socket(place.socket);
      await use?.(place, daemon);
      await daemon.until(() => line.test(daemon.log), `a line like ${line}`);
      assert.equal((await daemon.end("SIGTERM")).code, 0, daemon.log);
    }
    const lines = daemon.log.trimEnd().split("\n");
    const said = line === undefined ? lines : lines.filter((one) => line.test(one));
    assert.equal(said.length, 1, daemon.log);
    const paths = [[place.share, "/srv/vm1"], [place.socket, "/run/vm1.sock"], [place.path, "/srv"]] as const;
    return plain(said[0], paths).replace(
      /holds \d+ of \d+ descriptors \(files that it knows: \d+, open files: \d+\)/,
      (text) => {
        return text.replace(/\d+/g, "N");
      },
    );
  } finally {
    await daemon.end("SIGKILL");
    await after?.();
  }
}

for (const [name, mistake] of Object.entries(MISTAKES)) {
  const skip = mistake.start?.uid === undefined ? "" : cannotBe;
  Deno.test({
    name: `mistake: ${name}${skip && ` (skipped: ${skip})`}`,
    ignore: skip !== "",
    fn: async () => expectRow(table, name, [await make(mistake)]),
  });
}

Deno.test("docs/MISTAKES.md has no mistake that nobody makes", () => {
  assert.deepEqual([...table.keys()].sort(), [...Object.keys(MISTAKES), ...IN_GUESTS].sort());
});
