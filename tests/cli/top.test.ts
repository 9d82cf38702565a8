import assert from "node:assert/strict";
import { COMMANDS, runCommand } from "../../cli/commands.ts";
import { serveHttp } from "../../cli/http.ts";
import type { Snapshot } from "../../cli/metrics.ts";
import { findSocket } from "../../cli/top.ts";
import { quantile, ratesBetween, tableOf, type TopRates } from "../../cli/top_table.ts";
import { snapshot } from "./snapshot.ts";
import { Place } from "./started.ts";

/** The snapshot two seconds later, with twice as much of everything. */
function twice(): Snapshot {
  const after: Snapshot = JSON.parse(JSON.stringify(snapshot));
  after.time += 2;
  after.loops[0].pollSeconds += 0.5;
  after.loops[0].busySeconds += 1;
  for (const { queues } of after.shares) {
    for (const queue of queues) {
      queue.readBytes *= 2;
      queue.calls *= 2;
      queue.ops.read.count *= 2;
      queue.ops.read.errors = { io: 4, not_found: 1 };
      queue.ops.read.buckets = queue.ops.read.buckets.map(([upTo, n]) => [upTo, n * 2]);
    }
  }
  return after;
}

Deno.test("ratesBetween() has what happened in a second, per share, queue and operation", () => {
  const { shares, seconds } = ratesBetween(snapshot, twice());
  const [share] = shares;
  const [queue] = share.queues;
  assert.equal(seconds, 2);
  for (const one of [share, queue, share.ops.read]) assert.deepEqual([one.opsPerSecond, one.errorsPerSecond], [5, 1]);
  assert.deepEqual([share.readBytesPerSecond, queue.callsPerSecond], [20_000, 3]);
  assert.deepEqual([queue.workShare, queue.pollShare], [0.5, 0.25]);
  assert.ok(share.p50Us! > 5 && share.p50Us! <= 8, `${share.p50Us}`);
  assert.ok(share.p99Us! > 2 ** 25, `${share.p99Us}`);
});

Deno.test("ratesBetween() of a daemon that was started anew, and of one that does nothing", () => {
  const again = structuredClone(snapshot);
  again.time += 1;
  again.process.startSeconds += 50;
  assert.equal(ratesBetween(snapshot, again).shares[0].opsPerSecond, 10);
  const idle = structuredClone(snapshot);
  idle.time += 1;
  const [share] = ratesBetween(snapshot, idle).shares;
  assert.deepEqual([share.opsPerSecond, share.p50Us, share.p99Us], [0, null, null]);
});

Deno.test("quantile() is within the bucket that has it", () => {
  assert.equal(quantile(new Map(), 0.5), null);
  assert.equal(quantile(new Map([[8, 1]]), 1), 8);
  assert.equal(quantile(new Map([[1, 50], [10, 50]]), 0.5), 1);
  assert.equal(quantile(new Map([[1, 50], [10, 50]]), 0.75), 9);
  assert.equal(quantile(new Map([[4, 10]]), 0.1), 3.1);
});

Deno.test("tableOf() fits the width, names every share and queue, and lets no control character through", () => {
  const rates = ratesBetween(snapshot, twice());
  rates.shares[0].share = `\x1b[2J${"x".repeat(300)}`;
  for (const width of [40, 80, 200]) {
    for (const line of tableOf(rates, { width, ops: true })) {
      assert.ok(line.length <= width, line);
      // deno-lint-ignore no-control-regex
      assert.doesNotMatch(line, /[\x00-\x1f]/);
    }
  }
  const lines = tableOf(rates, { ops: true });
  assert.match(lines.join("\n"), /^SHARE +OPS\/S +READ\/S/m);
  assert.equal(lines.filter((line) => /^ {2}queue 1 /.test(line)).length, 2);
  assert.match(lines.join("\n"), /^ {4}read +5.0 +/m);
  assert.match(lines.join("\n"), /^ {2}queue 1 .* 2 +50% +25%$/m);
});

async function run(...args: string[]): Promise<{ code: number; out: string; complaint: string }> {
  let [out, complaint] = ["", ""];
  const io = {
    say: (text: string) => void (out += text),
    complain: (text: string) => void (complaint += text),
    url: "",
  };
  return { code: await runCommand(COMMANDS.get("top")!, args, io), out, complaint };
}

Deno.test("ringfsd top asks a socket twice, and prints a table or JSON", async () => {
  using place = new Place();
  const path = `${place.path}/metrics.sock`;
  let asked = 0;
  const server = serveHttp({ path }, () => Response.json(asked++ % 2 === 0 ? snapshot : twice()));
  try {
    const table = await run("--once", "--interval", "0.1", path);
    assert.deepEqual([table.code, table.complaint, asked], [0, "", 2]);
    assert.match(table.out, /^ringfsd 1\.2\.3\+g0, process 42: CPU 0%/);
    const { code, out } = await run("--once", "--json", "--interval=0.1", `unix:${path}`);
    assert.equal(code, 0);
    assert.equal((JSON.parse(out) as TopRates).shares.length, 2);
  } finally {
    await server.close();
  }
  const gone = await run("--once", path);
  assert.equal(gone.code, 1);
  assert.match(gone.complaint, /^ringfsd top: nobody answers at .*metrics\.sock: No such file or directory\n$/);
});

Deno.test("ringfsd top says what is wrong with its words", async () => {
  assert.match((await run("--interval", "0", "x")).complaint, /--interval takes seconds from 0\.1 to 3600/);
  assert.match((await run("a", "b")).complaint, /ringfsd top: /);
  assert.match((await run("10.0.0.1:9100")).complaint, /takes an address of this host alone/);
  assert.match((await run("--help")).out, /Shows what a running ringfsd does/);
});

Deno.test("findSocket() takes the one that there is, and names those that there are", () => {
  using place = new Place();
  const dirs = [place.path, `${place.path}/nowhere`];
  assert.throws(() => findSocket(dirs), /there is no metrics socket in .* or .*: start ringfsd with --metrics-socket/);
  for (const name of ["vm1.sock", "metrics.sock"]) Deno.writeTextFileSync(`${place.path}/${name}`, "");
  assert.deepEqual(findSocket(dirs), { path: `${place.path}/metrics.sock` });
  Deno.writeTextFileSync(`${place.path}/vm2-metrics.sock`, "");
  assert.throws(() => findSocket(dirs), /which of them\? .*\/metrics\.sock, .*\/vm2-metrics\.sock/);
});
