// The front end, the FUSE client and the load generator against a virtiofsd that others wrote, where one is installed.
import assert from "node:assert/strict";
import { join } from "node:path";
import { peers, type Running, startDaemon } from "../../bench/daemons.ts";
import { runLoad } from "../../bench/load.ts";
import { Session } from "../../bench/session.ts";
import { MODES } from "../../bench/workloads.ts";
import { ENOENT } from "../../ffi/errno.ts";

const peer = peers([])[0];

function withPeer(name: string, use: (daemon: Running, share: string) => Promise<void> | void): void {
  const title = peer
    ? `${name} [${peer.name}]`
    : `${name} [skipped: no virtiofsd found in $VIRTIOFSD, /usr/libexec or PATH]`;
  Deno.test({
    name: title,
    ignore: peer === undefined,
    fn: async () => {
      const base = await Deno.makeTempDir({ prefix: "ringfsd-test-" });
      const share = join(base, "share");
      await Deno.mkdir(share);
      await Deno.writeFile(join(share, "big"), new Uint8Array(1 << 20).fill(7));
      let daemon: Running | undefined;
      try {
        daemon = await startDaemon(peer, share, join(base, "s"));
        await use(daemon, share);
      } finally {
        await daemon?.stop();
        await Deno.remove(base, { recursive: true });
      }
    },
  });
}

const RETRY = { retryMs: 2000 };

withPeer("FuseClient does a file's whole life", ({ socketPath }, share) => {
  using session = Session.open(socketPath, RETRY);
  const { client } = session;
  assert.equal(client.lookup(1, "missing").error, -ENOENT);
  const file = client.create(1, "new");
  assert.equal(file.error, 0);
  const data = crypto.getRandomValues(new Uint8Array(65536));
  assert.equal(client.write(file.nodeid, file.fh, 5, data).size, data.length);
  assert.deepEqual(client.read(file.nodeid, file.fh, 5, data.length).data, data);
  assert.deepEqual(Deno.readFileSync(join(share, "new")).subarray(5), data);
  assert.equal(client.setattr(file.nodeid, { size: 100, mode: 0o600 }).attr.size, 100);
  assert.equal(client.getattr(file.nodeid).attr.mode, 0o100600);
  assert.equal(client.lseek(file.nodeid, file.fh, 0, 2).offset, 100n);
  assert.equal(client.release(file.nodeid, file.fh).error, 0);
  assert.equal(client.rename2(1, "new", 1, "newer", 1).error, 0);
  assert.equal(client.unlink(1, "newer").error, 0);
  assert.equal(client.forget(file.nodeid).error, 0);
  assert.equal(client.destroy().error, 0);
});

withPeer("FuseClient makes and lists directories and links", ({ socketPath }) => {
  using session = Session.open(socketPath, { ...RETRY, segmentBytes: 0 });
  const { client } = session;
  const { nodeid } = client.mkdir(1, "dir");
  assert.equal(client.symlink(nodeid, "link", "../big").error, 0);
  assert.equal(client.readlink(client.lookup(nodeid, "link").nodeid).target, "../big");
  assert.equal(client.link(client.lookup(1, "big").nodeid, nodeid, "hard").attr.nlink, 2);
  for (const plus of [false, true]) {
    const names = client.list(nodeid, plus, 256).entries.map((entry) => entry.name);
    assert.deepEqual(names.filter((name) => !name.startsWith(".")).sort(), ["hard", "link"]);
  }
  assert.equal(client.statfs().namelen, 255);
});

for (const [name, options] of Object.entries({ eventIdx: { eventIdx: true }, flags: { eventIdx: false } })) {
  withPeer(`Virtqueue wraps at 65535 with ${name}, and goes on after GET_VRING_BASE`, ({ socketPath }) => {
    const queue = { size: 64, base: 65_500 };
    using session = Session.open(socketPath, { ...RETRY, ...options, queue });
    const { client, frontend } = session;
    for (let i = 0; i < 100; i++) assert.equal(client.getattr(1).error, 0);
    const base = frontend.stopQueue(1);
    assert.equal(base, session.queues[1].nextAvail);
    assert.equal(base, (65_500 + 101) & 0xffff);
    frontend.startQueue(session.queues[1]);
    assert.equal(client.getattr(1).error, 0);
  });
}

withPeer("Frontend shares several regions, rings in one and buffers in another", ({ socketPath }) => {
  const memory = [{ guestAddr: 0, size: 8 << 20 }, { guestAddr: 2 ** 32, size: 1 << 20, mmapOffset: 4096 }];
  using session = Session.open(socketPath, { ...RETRY, memory, queue: { region: 1 } });
  assert.equal(session.client.lookup(1, "big").attr.size, 1 << 20);
});

withPeer("FuseClient.start() keeps requests in flight and finish() takes them in any order", ({ socketPath }) => {
  using session = Session.open(socketPath, RETRY);
  const { client } = session;
  const flight = Array.from({ length: 8 }, () => client.start(3, 1, new Uint8Array(16), { outSize: 104 }));
  for (const pending of flight.reverse()) assert.equal(client.finish(pending).error, 0);
});

withPeer("waitDisconnect() sees a back end refuse rubbish", ({ socketPath }) => {
  using session = Session.open(socketPath, RETRY);
  session.frontend.sendRaw(new Uint8Array(64).fill(0xff));
  assert.equal(session.frontend.waitDisconnect(3000), true);
});

for (const mode of MODES) {
  withPeer(`runLoad() ${mode} has no wrong reply and leaves no file`, async ({ socketPath, pid }, share) => {
    const short = { seconds: 0.1, warmUpSeconds: 0.05, depth: 4, retryMs: 2000 };
    const r = await runLoad(socketPath, { ...short, mode, pid });
    assert.equal(r.errors, 0);
    assert.ok(r.opsPerSecond > 100 && r.cpuPerOp > 0 && r.p50 > 0 && r.p50 <= r.max);
    assert.deepEqual(Array.from(Deno.readDirSync(share), (entry) => entry.name), ["big"]);
  });
}
