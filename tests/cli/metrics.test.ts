// Metrics of daemons that run: counts are exact, shares are kept apart, and a loop that hangs is seen.
import assert from "node:assert/strict";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import { FuseClient } from "../../bench/fuse_client.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { request } from "../../cli/http.ts";
import type { OpMetrics, ShareMetrics, Snapshot } from "../../cli/metrics.ts";
import { ENOENT } from "../../ffi/errno.ts";
import { F_UNLCK, F_WRLCK } from "../../ffi/stat_layout.ts";
import { Daemon } from "../fs/daemon.ts";
import { cannotMount, SlowHost } from "../fs/slow_host.ts";
import { readExposition } from "./exposition.ts";
import { Place, Started, useShare } from "./started.ts";

const ROOT = 1;
const TO_END = 0x7fff_ffff_ffff_ffffn;

async function look(socket: string): Promise<Snapshot> {
  const { status, text } = await request(socket, "GET", "/metrics.json");
  assert.equal(status, 200, text);
  return JSON.parse(text);
}

/** An operation's counts, of all queues of a share. */
function ofShare({ queues }: ShareMetrics, name: string): OpMetrics[] {
  return queues.flatMap(({ ops }) => ops[name] ?? []);
}

const count = (share: ShareMetrics, name: string) => ofShare(share, name).reduce((sum, one) => sum + one.count, 0);

/** A daemon with metrics. The socket's place is removed with the daemon's. */
async function start(args: string[] = [], options = {}): Promise<{ daemon: Daemon; socket: string; place: Place }> {
  const place = new Place();
  const socket = `${place.path}/metrics.sock`;
  const daemon = await Daemon.start({ args: ["--metrics-socket", socket, ...args], ...options });
  return { daemon, socket, place };
}

Deno.test("every request is counted once: by operation, queue, bytes and error, over two front ends", async () => {
  const { daemon, socket, place } = await start(["--tag", "here"]);
  try {
    assert.equal(Deno.statSync(socket).mode! & 0o777, 0o600);
    assert.equal((await look(socket)).shares[0].connected, false);
    const first = daemon.session({ requestQueues: 2 });
    const { client } = first;
    const second = new FuseClient(first.queues[2], { hiprio: first.queues[0] });
    const made = client.create(ROOT, "file");
    for (let i = 0; i < 7; i++) {
      assert.equal(client.write(made.nodeid, made.fh, i * 1000, new Uint8Array(1000)).size, 1000);
    }
    for (let i = 0; i < 5; i++) assert.equal(client.read(made.nodeid, made.fh, 0, 2048).data.length, 2048);
    for (let i = 0; i < 3; i++) assert.equal(client.lookup(ROOT, "nothing").error, -ENOENT);
    for (let i = 0; i < 11; i++) assert.equal(second.getattr(ROOT).error, 0);
    client.forget(made.nodeid, 1);
    assert.equal(client.request(63, ROOT).error, -38, "an operation that there is not");
    const { shares: [share] } = await look(socket);
    assert.deepEqual([share.share, share.connected, share.connections], ["here", true, 1]);
    const [hiprio, one, two] = share.queues;
    assert.deepEqual([hiprio.queue, one.queue, two.queue], [0, 1, 2]);
    const counts = (ops: Record<string, OpMetrics>) =>
      Object.fromEntries(Object.entries(ops).map(([name, { count }]) => [name, count]));
    assert.deepEqual(counts(hiprio.ops), { forget: 1 });
    assert.deepEqual(counts(one.ops), { init: 1, create: 1, write: 7, read: 5, lookup: 3, other: 1 });
    assert.deepEqual(counts(two.ops), { getattr: 11 });
    assert.deepEqual([one.readBytes, one.writeBytes, two.readBytes], [5 * 2048, 7000, 0]);
    assert.deepEqual([one.ops.lookup.errors, one.ops.other.errors, one.ops.read.errors], [
      { not_found: 3 },
      { unsupported: 1 },
      {},
    ]);
    assert.deepEqual([one.ops.read.requestBytes, one.ops.read.responseBytes], [5 * 80, 5 * (16 + 2048)]);
    for (const { ops, chains, batches } of share.queues) {
      for (const { count, buckets, seconds } of Object.values(ops)) {
        assert.equal(buckets.reduce((sum, [, n]) => sum + n, 0), count);
        assert.ok(seconds * 1e6 <= buckets.reduce((sum, [upTo, n]) => sum + upTo * n, 0));
      }
      assert.equal(chains, Object.values(ops).reduce((sum, { count }) => sum + count, 0));
      assert.ok(batches.reduce((sum, [, n]) => sum + n, 0) <= chains);
    }
    assert.deepEqual([share.nodes, share.handles], [0, 1], "the node was forgotten, and its file is open");
    first.close();
    await daemon.until(() => daemon.log.includes("disconnected"), "the front end to go");
    const again = daemon.session();
    again.client.getattr(ROOT);
    const { shares: [after], loops, process } = await look(socket);
    assert.deepEqual([after.connections, count(after, "init"), count(after, "getattr")], [2, 2, 12]);
    assert.deepEqual([after.handles, after.inFlight, after.places], [0, 0, {}]);
    assert.equal(process.pid, daemon.pid);
    assert.ok(loops.length >= 1 && loops[0].cpuSeconds > 0);
    again.close();
  } finally {
    await daemon.stop();
    place[Symbol.dispose]();
  }
});

Deno.test("metrics of two shares are kept apart, on one loop, on a socket and on loopback", async () => {
  using place = new Place();
  const at = (name: string) => `${place.path}/${name}`;
  for (const name of ["a", "b"]) Deno.mkdirSync(at(name));
  const shares = ["a", "b"].flatMap((name) => ["--share", `tag=${name},dir=${at(name)},socket=${at(name)}.sock`]);
  const metrics = ["--metrics-socket", at("m"), "--metrics-address", "127.0.0.1:0"];
  await using daemon = Started.start([...shares, ...metrics, "--num-request-queues", "1", "--log-format", "json"]);
  await daemon.socket(at("b.sock"));
  using a = useShare(at("a.sock"), at("a"));
  using b = useShare(at("b.sock"), at("b"));
  for (let i = 0; i < 9; i++) a.client.getattr(ROOT);
  for (let i = 0; i < 4; i++) b.client.statfs(ROOT);
  const found = await look(at("m"));
  assert.deepEqual(found.shares.map((share) => [share.share, count(share, "getattr"), count(share, "statfs")]), [
    ["a", 9, 0],
    ["b", 0, 4],
  ]);
  const [, port] = /"metrics at 127\.0\.0\.1:(\d+)"/.exec(daemon.log) ?? [];
  const there = { hostname: "127.0.0.1", port: Number(port) };
  const { status, text } = await request(there, "GET", "/metrics");
  assert.equal(status, 200);
  const requests = readExposition(text).get("ringfsd_requests_total")!.samples;
  assert.deepEqual(
    requests.filter(({ labels }) => labels.op === "getattr").map((
      { labels, value },
    ) => [labels.share, labels.queue, value]),
    [["a", "1", 9]],
  );
  const json = await request(there, "GET", "/metrics", undefined, { headers: { accept: "application/json" } });
  assert.equal((JSON.parse(json.text) as Snapshot).shares.length, 2);
  assert.equal((await request(there, "GET", "/")).status, 404);
  assert.equal((await request(there, "POST", "/metrics", "")).status, 405);
  // Every line of the log is an object, and says what it is about.
  const lines = daemon.log.trim().split("\n").map((line) => JSON.parse(line));
  for (const line of lines) {
    assert.ok(!Number.isNaN(Date.parse(line.time)) && line.level && line.message, JSON.stringify(line));
  }
  const connected = lines.filter(({ message }) => /front end .* connected/.test(message)).map(({ share }) => share);
  assert.deepEqual(connected, ["a", "b"]);
});

Deno.test("a request that waits for a lock is seen in flight, and SIGUSR1 has the log name it", async () => {
  const { daemon, socket, place } = await start(["--posix-lock", "--tag", "locks"]);
  try {
    using session = daemon.session();
    const { client } = session;
    const { nodeid, fh } = client.create(ROOT, "file");
    const lk = (owner: number, type: number) => bytes(u64(fh, owner), u64(0, TO_END), u32(type, 0), u32(0, 0));
    assert.equal(client.request(op.FUSE_SETLK, nodeid, lk(1, F_WRLCK)).error, 0);
    const pending = client.start(op.FUSE_SETLKW, nodeid, lk(2, F_WRLCK));
    // What comes behind it is answered: the loop has taken both.
    assert.equal(client.getattr(nodeid).error, 0);
    const { shares: [share] } = await look(socket);
    assert.deepEqual([share.inFlight, share.places, share.queues[1].inFlight], [1, { lock: 1 }, 1]);
    daemon.child.kill("SIGUSR1");
    await daemon.until(() => daemon.log.includes("setlkw"), "the request in the log");
    assert.match(daemon.log, /requests in flight: 1\n/);
    const [, named, unique] = /setlkw of nodeid (\d+), unique (\d+), queue 1, loop 0, waits for: a lock\n/.exec(
      daemon.log,
    )!;
    assert.deepEqual([named, unique], [String(nodeid), String(pending.unique)]);
    assert.equal(client.request(op.FUSE_SETLK, nodeid, lk(1, F_UNLCK)).error, 0);
    assert.equal(client.finish(pending).error, 0);
    const { shares: [after], loops } = await look(socket);
    assert.deepEqual([after.inFlight, count(after, "setlkw"), count(after, "setlk"), loops[0].handoffs], [0, 1, 2, 1]);
    assert.equal(after.lockOwners, 2);
  } finally {
    await daemon.stop();
    place[Symbol.dispose]();
  }
});

const cannot = cannotMount();
const because = cannot && ` (skipped: ${cannot})`;

Deno.test({
  name: `requests that helpers serve are counted by their loop, with their errors and their time${because}`,
  ignore: cannot !== "",
  async fn() {
    let host: SlowHost | undefined;
    const prepare = async (share: string) => {
      await (host = new SlowHost(share)).ready();
      return () => host!.close();
    };
    const { daemon, socket, place } = await start([], { prepare });
    try {
      using session = daemon.session();
      const { client } = session;
      assert.equal(client.lookup(ROOT, "nothing").error, -ENOENT);
      host!.hold(op.FUSE_LOOKUP);
      const pending = client.start(op.FUSE_LOOKUP, ROOT, bytes(names("slow-nothing")), { outSize: 128 });
      host!.untilHeld(1);
      const { shares: [held] } = await look(socket);
      assert.deepEqual([held.inFlight, held.places], [1, { helper: 1 }]);
      await new Promise((resolve) => setTimeout(resolve, 50));
      host!.hold(0);
      assert.equal(client.finish(pending).error, -ENOENT);
      const { shares: [after], loops, helpers } = await look(socket);
      const [lookup] = ofShare(after, "lookup");
      assert.deepEqual([lookup.count, lookup.errors], [2, { not_found: 2 }]);
      assert.ok(lookup.seconds >= 0.05 && Math.max(...lookup.buckets.map(([upTo]) => upTo)) >= 50_000);
      assert.ok(loops[0].handoffs >= 2 && helpers.started >= 1);
    } finally {
      await daemon.stop();
      place[Symbol.dispose]();
    }
  },
});

Deno.test({
  name: `a loop that hangs in a system call is seen, by metrics and by SIGUSR1${because}`,
  ignore: cannot !== "",
  async fn() {
    // What is mounted below the share is taken for as quick as the share: a loop may hang there.
    let host: SlowHost | undefined;
    const prepare = async (share: string) => {
      Deno.mkdirSync(`${share}/below`);
      await (host = new SlowHost(`${share}/below`)).ready();
      return () => host!.close();
    };
    const { daemon, socket, place } = await start([], { base: "/dev/shm", prepare });
    try {
      using session = daemon.session();
      const { client } = session;
      const below = client.create(client.lookup(ROOT, "below").nodeid, "slow-file").nodeid;
      host!.hold(op.FUSE_STATFS);
      const pending = client.start(op.FUSE_STATFS, below, bytes(), { outSize: 80 });
      host!.untilHeld(1);
      const { shares: [share] } = await look(socket);
      assert.deepEqual([share.inFlight, share.places], [1, { loop: 1 }]);
      daemon.child.kill("SIGUSR1");
      await daemon.until(() => daemon.log.includes("statfs of nodeid"), "the request in the log");
      assert.match(daemon.log, new RegExp(`statfs of nodeid ${below}, .* waits for: the loop's own system call\n`));
      host!.hold(0);
      assert.equal(client.finish(pending).error, 0);
      assert.equal((await look(socket)).shares[0].inFlight, 0);
    } finally {
      await daemon.stop();
      place[Symbol.dispose]();
    }
  },
});

Deno.test("--metrics-socket and --metrics-address refuse what cannot be, before anything is served", async () => {
  using place = new Place();
  const shared = ["--shared-dir", place.share, "--socket-path", place.socket];
  const said = async (...args: string[]) => {
    const daemon = Started.start([...shared, ...args]);
    const { code } = await daemon.end();
    assert.throws(() => Deno.statSync(place.socket), Deno.errors.NotFound);
    return `${code}: ${daemon.log}`;
  };
  assert.match(
    await said("--metrics-address", "0.0.0.0:9100"),
    /^2: .*--metrics-address takes an address of this host alone/,
  );
  assert.match(
    await said("--metrics-socket", `${place.path}/no/where`),
    /^1: ringfsd: error: cannot listen on .*No such file/,
  );
});
