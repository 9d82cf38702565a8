// What a running daemon is told: ringfsd ctl, its control socket, SIGHUP.
import assert from "node:assert/strict";
import { Session } from "../../bench/session.ts";
import { whyNoAdd } from "../../cli/control.ts";
import { absolute } from "../../cli/ctl.ts";
import { request } from "../../cli/http.ts";
import { ENFILE } from "../../ffi/errno.ts";
import type { Options } from "../../cli/options.ts";
import type { ShareState } from "../../cli/running_shares.ts";
import { withoutNamespaces } from "../sandbox/namespaces.ts";
import { Place, Started, useShare } from "./started.ts";

const main = new URL("../../main.ts", import.meta.url).pathname;
const ROOT = 1;

/** A place with directories of these names, and a daemon that is told things there. */
class Told extends Place {
  readonly control = `${this.path}/control`;

  /** A share as --share has it, with a directory of its own. */
  text(tag: string, more = ""): string {
    Deno.mkdirSync(`${this.path}/${tag}`, { recursive: true });
    return `tag=${tag},dir=${this.path}/${tag},socket=${this.path}/${tag}.sock${more}`;
  }

  async start(args: readonly string[], options = {}): Promise<Started> {
    const daemon = Started.start(["--control-socket", this.control, "--sandbox", "none", ...args], options);
    await daemon.socket(this.control);
    return daemon;
  }

  async ask(method: string, path: string, body?: unknown): Promise<{ status: number; answer: never }> {
    const said = body === undefined ? undefined : JSON.stringify(body);
    const { status, text } = await request(this.control, method, `/v1/${path}`, said);
    return { status, answer: JSON.parse(text) as never };
  }

  /** The same, and it must be well. */
  async told(method: string, path: string, body?: unknown): Promise<never> {
    const { status, answer } = await this.ask(method, path, body);
    assert.equal(status, 200, JSON.stringify(answer));
    return answer;
  }

  async states(): Promise<Map<string, ShareState>> {
    const { shares } = await this.told("GET", "shares") as { shares: ShareState[] };
    return new Map(shares.map((share) => [share.name, share]));
  }

  /** ringfsd ctl as one types it. */
  async ctl(...words: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
    const args = ["run", "-A", "--no-check", main, "ctl", "--socket", this.control, ...words];
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args, cwd: this.path }).output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    return { code, stdout: text(stdout), stderr: text(stderr) };
  }

  guest(tag: string): Session {
    return Session.open(`${this.path}/${tag}.sock`, { memory: 4 << 20 });
  }
}

const exists = (path: string) => {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
};

Deno.test("ringfsd ctl lists, adds, limits and removes shares of a running daemon", async () => {
  using place = new Told();
  await using _daemon = await place.start([`--share=${place.text("a", ",readonly")}`]);
  assert.equal(Deno.statSync(place.control).mode! & 0o777, 0o600);
  const listed = await place.ctl("list");
  assert.equal(listed.code, 0, listed.stderr);
  assert.match(listed.stdout, /^SHARE +STATE .*\na +waiting +\d+ +- +- +\S+\/a +\S+a\.sock\n$/);
  Deno.mkdirSync(`${place.path}/b`);
  const added = await place.ctl("add", "tag=b,dir=b,socket=b.sock,limit-iops=5000");
  assert.deepEqual(added, { code: 0, stdout: "added: b\n", stderr: "" });
  using guest = useShare(`${place.path}/b.sock`, `${place.path}/b`);
  const { name, state, limit } = (await place.states()).get("b")!;
  assert.deepEqual({ name, state, limit }, { name: "b", state: "connected", limit: { iops: 5000, mbps: 0 } });
  const limited = await place.ctl("limit", "b", "iops=0", "mbps=7", "--json");
  assert.deepEqual(JSON.parse(limited.stdout), { iops: 0, mbps: 7 });
  assert.equal(guest.client.getattr(ROOT).error, 0);
  const removed = await place.ctl("remove", "b");
  assert.match(removed.stdout, /^removed: b\na guest had it: .*unmount/);
  assert.equal(exists(`${place.path}/b.sock`), false);
  assert.deepEqual([...(await place.states()).keys()], ["a"]);
  assert.match((await place.ctl("ping")).stdout, /^ringfsd \S+, process \d+, up \d+ s: shares 1, loops \d+/);
});

Deno.test("ringfsd ctl says in one line what cannot be", async () => {
  using place = new Told();
  await using _daemon = await place.start([`--share=${place.text("a")}`]);
  const refused = async (pattern: RegExp, ...words: string[]) => {
    const { code, stdout, stderr } = await place.ctl(...words);
    assert.deepEqual({ code, stdout }, { code: 1, stdout: "" }, stderr);
    assert.match(stderr, /^ringfsd ctl: [^\n]+\n$/);
    assert.match(stderr, pattern);
  };
  await refused(/there is no share x/, "remove", "x");
  await refused(/there is no dance/, "dance");
  await refused(/iops=N/, "limit", "a", "iops=many");
  await refused(/there is a share with tag a already/, "add", place.text("a"));
  await refused(/\/gone: No such file/, "add", `tag=c,dir=gone,socket=c.sock`);
  await refused(/nonsense is no option/, "add", place.text("c", ",nonsense"));
  await refused(/whole process/, "add", place.text("c", ",syslog"));
  await refused(/from the start/, "add", `tag=c,dir=a,fd=3`);
  await refused(/one of error, warn/, "log-level", "loud");
  assert.equal((await place.ctl("--nothing")).code, 2);
  assert.deepEqual([...(await place.states()).keys()], ["a"]);
  (place as { control: string }).control = `${place.path}/nowhere`;
  await refused(/nobody answers at .*nowhere/, "list");
});

Deno.test("the control socket answers what it does not understand, and goes on", async () => {
  using place = new Told();
  await using _daemon = await place.start([]);
  const cases: [string, string, unknown?][] = [
    ["GET", "nothing"],
    ["PUT", "shares"],
    ["POST", "shares", []],
    ["POST", "shares", { tag: { deep: 1 } }],
    ["PATCH", "shares/%2Fa/limit", { iops: 1 }],
    ["PATCH", "shares/a/limit", { iops: -1 }],
    ["PATCH", "shares/a/limit", { iops: 1e300 }],
    ["PATCH", "shares/a/limit", { other: 1 }],
    ["PATCH", "shares/a/limit", {}],
    ["PUT", "log-level", { level: 1 }],
    ["DELETE", "shares/%E0"],
  ];
  for (const [method, path, body] of cases) {
    const { status, answer } = await place.ask(method, path, body);
    assert.ok(status === 400 || status === 404, `${method} ${path}: ${status}`);
    assert.match((answer as { error: string }).error, /./);
  }
  assert.deepEqual([...(await place.states()).keys()], []);
  await place.told("POST", "shares", { tag: "o", dir: place.share, socket: `${place.path}/o.sock`, cache: "never" });
  using guest = place.guest("o");
  assert.equal(guest.client.getattr(ROOT).error, 0);
});

Deno.test("removing a share leaves the other's load alone, and a daemon with a control socket stays without any", async () => {
  using place = new Told();
  await using daemon = await place.start(["a", "b"].map((tag) => `--share=${place.text(tag)}`));
  using staying = place.guest("a");
  for (let round = 0; round < 3; round++) {
    using going = place.guest("b");
    assert.equal(going.client.create(ROOT, `f${round}`).error, 0);
    const removal = place.told("DELETE", `shares/b${round === 1 ? "?force" : ""}`);
    let answered = 0;
    let over = false;
    removal.finally(() => over = true);
    while (!over || answered < 100) {
      assert.equal(staying.client.getattr(ROOT).error, 0);
      if (++answered % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 0));
    }
    await removal;
    await place.told("POST", "shares", { share: place.text("b") });
  }
  for (const tag of ["a", "b"]) await place.told("DELETE", `shares/${tag}`);
  assert.equal((await place.states()).size, 0);
  assert.doesNotMatch(daemon.log, /error|fault/);
});

Deno.test("a share is removed while its requests wait for its limit", async () => {
  using place = new Told();
  await using _daemon = await place.start([
    `--share=${place.text("a", ",limit-iops=1")}`,
    `--share=${place.text("b")}`,
  ]);
  {
    using guest = Session.open(`${place.path}/a.sock`, { memory: 4 << 20 });
    using other = place.guest("b");
    const queue = guest.queues[1];
    // Chains without sense wait like others.
    for (let i = 0; i < 8; i++) {
      const head = queue.place([{ addr: guest.memory.allocate(64), len: 64 }]);
      queue.offer(head);
    }
    queue.publish();
    queue.kick(true);
    assert.equal(other.client.getattr(ROOT).error, 0);
    await place.told("DELETE", "shares/a");
  }
  assert.deepEqual([...(await place.states()).keys()], ["b"]);
});

Deno.test("helpers know a share from the one whose number it has got", async () => {
  using place = new Told();
  await using _daemon = await place.start([]);
  // On a file system that is neither a disk's nor in memory, requests are the helpers'.
  const dirs = ["/sys/kernel", "/sys/bus"];
  const names = dirs.map((dir) => new Set([...Deno.readDirSync(dir)].map(({ name }) => name)));
  for (let round = 0; round < 3; round++) {
    for (const [i, dir] of dirs.entries()) {
      await place.told("POST", "shares", { tag: "a", dir, socket: `${place.path}/a.sock` });
      {
        using guest = place.guest("a");
        const found = guest.client.list(ROOT).entries.map(({ name }) => name).filter((name) => !/^\.\.?$/.test(name));
        assert.deepEqual(new Set(found), names[i]);
        for (const name of names[i]) assert.equal(guest.client.lookup(ROOT, name).error, 0);
        for (const name of names[1 - i]) {
          if (!names[i].has(name)) assert.notEqual(guest.client.lookup(ROOT, name).error, 0);
        }
      }
      await place.told("DELETE", "shares/a");
    }
  }
});

Deno.test("1,500 shares come and go, and descriptors and memory stay", async () => {
  using place = new Told();
  await using daemon = await place.start([]);
  const descriptors = () => [...Deno.readDirSync(`/proc/${daemon.pid}/fd`)].length;
  const pages = () => Number(Deno.readTextFileSync(`/proc/${daemon.pid}/statm`).split(" ")[1]);
  const mappings = () => Deno.readTextFileSync(`/proc/${daemon.pid}/maps`).split("\n").length;
  // One connection for all.
  using client = Deno.createHttpClient({ proxy: { transport: "unix", path: place.control } });
  const told = async (method: string, path: string, body?: string) => {
    const answer = await fetch(`http://localhost/v1/${path}`, { client, method, ...(body ? { body } : {}) });
    assert.equal(answer.status, 200, await answer.text());
  };
  const body = JSON.stringify({ share: place.text("a") });
  const round = async (guest: boolean) => {
    await told("POST", "shares", body);
    if (guest) {
      using session = place.guest("a");
      assert.equal(session.client.getattr(ROOT).error, 0);
    }
    await told("DELETE", "shares/a");
  };
  const measure = () => ({ descriptors: descriptors(), pages: pages(), mappings: mappings() });
  let before = measure();
  for (let i = 0; i < 1500; i++) {
    await round(i % 10 === 0);
    if (i === 300) before = measure();
  }
  const after = measure();
  assert.ok(
    after.descriptors <= before.descriptors + 4,
    `${before.descriptors} descriptors, then ${after.descriptors}`,
  );
  assert.ok(after.mappings <= before.mappings + 40, `${before.mappings} mappings, then ${after.mappings}`);
  // 20 KiB a share that stayed would be 24 MiB; V8 may take some of its own.
  assert.ok((after.pages - before.pages) / 256 < 16, `${before.pages} pages, then ${after.pages}`);
});

Deno.test({
  name: "the log level changes in loops too, while they run" + (Deno.uid() === 0 ? "" : " (skipped: needs root)"),
  ignore: Deno.uid() !== 0,
  async fn() {
    using place = new Told();
    await using daemon = await place.start([
      `--share=${place.text("a", ",inode-file-handles=prefer")}`,
      ...["--rlimit-nofile=500", "--num-request-queues=1", "--sandbox=none"],
    ]);
    using guest = place.guest("a");
    assert.equal(guest.client.getattr(ROOT).error, 0);
    await place.told("PUT", "log-level", { level: "debug" });
    // What the loop says when it has known many files.
    for (let i = 0; i < 300; i++) {
      const { error, nodeid, fh } = guest.client.create(ROOT, `f${i}`);
      assert.equal(error, 0);
      guest.client.release(nodeid, fh);
    }
    await daemon.until(() => /debug: .*more by file handle from now on/.test(daemon.log), "the loop is heard");
    await place.told("PUT", "log-level", { level: "off" });
    const { length } = daemon.log;
    await place.told("DELETE", "shares/a");
    assert.equal(daemon.log.length, length);
  },
});

Deno.test("what descriptors there are is divided anew as shares come and go", async () => {
  using place = new Told();
  const alone = ",inode-file-handles=never";
  await using _daemon = await place.start([
    `--share=${place.text("a", alone)}`,
    ...["--rlimit-nofile=600", "--num-request-queues=1", "--sandbox=none"],
  ]);
  using guest = place.guest("a");
  /** Opens files until there may be no more, and gives them up. */
  const most = () => {
    const open: { nodeid: bigint | number; fh: bigint | number }[] = [];
    for (let i = 0;; i++) {
      const made = guest.client.create(ROOT, `f${i}`);
      if (made.error === -ENFILE) break;
      assert.equal(made.error, 0);
      open.push(made);
    }
    open.forEach(({ nodeid, fh }, i) => {
      guest.client.release(nodeid as never, fh as never);
      guest.client.forget(nodeid as never, 1);
      guest.client.unlink(ROOT, `f${i}`);
    });
    return open.length;
  };
  const before = most();
  for (const tag of ["b", "c"]) await place.told("POST", "shares", { share: place.text(tag, alone) });
  const shared = most();
  for (const tag of ["b", "c"]) await place.told("DELETE", `shares/${tag}`);
  const after = most();
  assert.ok(shared < before / 2, `${before} alone, ${shared} of three`);
  // FORGET goes another way than CREATE, and may come behind it.
  assert.ok(after > before * 0.8, `${before}, then ${after}`);
});

Deno.test("--limit-iops holds a guest back, beside one that is not", async () => {
  using place = new Told();
  await using _daemon = await place.start([
    `--share=${place.text("a", ",limit-iops=30")}`,
    `--share=${place.text("b")}`,
  ]);
  using slow = place.guest("a");
  using fast = place.guest("b");
  const time = (guest: Session, count: number) => {
    const start = performance.now();
    for (let i = 0; i < count; i++) assert.equal(guest.client.getattr(ROOT).error, 0);
    return (performance.now() - start) / 1000;
  };
  const seconds = time(slow, 60);
  assert.ok(60 <= 30 * seconds + 3 + 2, `${seconds} s for 60`);
  assert.ok(time(fast, 60) < seconds);
  await place.told("PATCH", "shares/a/limit", { iops: 0 });
  assert.ok(time(slow, 60) < seconds);
});

Deno.test("--limit-mbps holds data back, in both directions", async () => {
  using place = new Told();
  await using _daemon = await place.start([`--share=${place.text("a", ",limit-mbps=10")}`]);
  using guest = place.guest("a");
  const { nodeid, fh } = guest.client.create(ROOT, "file");
  const data = new Uint8Array(1 << 17);
  const time = (action: () => void) => {
    const start = performance.now();
    for (let i = 0; i < 40; i++) action();
    return (performance.now() - start) / 1000;
  };
  const moved = 40 * data.length;
  // The burst, the turn and one request over.
  const free = 1e6 + 5e4 + data.length + 1e4;
  const writing = time(() => assert.equal(guest.client.write(nodeid, fh, 0, data).size, data.length));
  assert.ok(moved <= 1e7 * writing + free, `wrote in ${writing} s`);
  const reading = time(() => assert.equal(guest.client.read(nodeid, fh, 0, data.length).data.length, data.length));
  assert.ok(moved <= 1e7 * reading + free, `read in ${reading} s`);
  // What is not there costs nothing: 40 reads of 128 KiB beyond the end of the file would take half a second.
  await place.told("PATCH", "shares/a/limit", { mbps: 1 });
  const nothing = time(() => assert.equal(guest.client.read(nodeid, fh, 1 << 20, data.length).data.length, 0));
  assert.ok(nothing < moved / 1e6 / 2, `read nothing in ${nothing} s`);
});

/** Writes a configuration file, with shares of these tags and options. */
function configure(place: Told, shares: Record<string, Record<string, unknown>>, more: Record<string, unknown> = {}) {
  const list = Object.entries(shares).map(([tag, own]) => {
    Deno.mkdirSync(`${place.path}/${tag}`, { recursive: true });
    return { tag, dir: `${place.path}/${tag}`, socket: `${place.path}/${tag}.sock`, ...own };
  });
  Deno.writeTextFileSync(`${place.path}/config.json`, JSON.stringify({ ...more, shares: list }));
}

Deno.test("SIGHUP makes what is served what the configuration says, and a broken file changes nothing", async () => {
  using place = new Told();
  configure(place, { a: {}, b: {}, c: {}, d: {} });
  await using daemon = await place.start([`--config=${place.path}/config.json`]);
  await place.told("POST", "shares", { share: place.text("by-hand") });
  using guest = place.guest("d");
  let heard = 0;
  const hup = async () => {
    daemon.child.kill("SIGHUP");
    heard++;
    await daemon.until(() => daemon.log.split("SIGHUP: ").length > heard, "it has read the configuration");
    return daemon.log.slice(daemon.log.lastIndexOf("SIGHUP: "));
  };
  configure(place, { a: { "limit-iops": 50 }, c: { readonly: true }, d: { readonly: true }, e: {} }, {
    "log-level": "debug",
    "poll-max-us": 3,
  });
  const said = await hup();
  assert.match(said, /added e; removed b; limited a; restarted c/);
  assert.match(daemon.log, /share d: its options have changed, which needs a restart of that share: remove and add it/);
  assert.match(daemon.log, /poll-max-us has changed, which takes a restart of ringfsd/);
  const states = await place.states();
  assert.deepEqual([...states.keys()].sort(), ["a", "by-hand", "c", "d", "e"]);
  assert.deepEqual(states.get("a")!.limit, { iops: 50, mbps: 0 });
  assert.equal(states.get("c")!.options.readonly, true);
  assert.equal(states.get("d")!.options.readonly, false);
  assert.equal((await place.told("GET", "ping") as { logLevel: string }).logLevel, "debug");
  assert.equal(guest.client.getattr(ROOT).error, 0);
  Deno.writeTextFileSync(`${place.path}/config.json`, '{ "shares": [ { "tag": "a", "nonsense": 1 } ] }');
  assert.match(await hup(), /^SIGHUP: nothing was changed: .*config\.json: share "a": nonsense is no option\n$/);
  Deno.writeTextFileSync(`${place.path}/config.json`, "{");
  assert.match(await hup(), /^SIGHUP: nothing was changed: .*config\.json: [^\n]*\n$/);
  Deno.removeSync(`${place.path}/config.json`);
  assert.match(await hup(), /^SIGHUP: nothing was changed: .*No such file[^\n]*\n$/);
  assert.deepEqual([...(await place.states()).keys()].sort(), ["a", "by-hand", "c", "d", "e"]);
});

Deno.test("SIGHUP opens --log-file anew, and ringfsd ctl reload says what was done", async () => {
  using place = new Told();
  const path = `${place.path}/log`;
  await using daemon = await place.start([`--share=${place.text("a")}`, "--log-file", path]);
  const text = (name = path) => exists(name) ? Deno.readTextFileSync(name) : "";
  assert.match(text(), /^\d{4}-\d\d-\d\dT[\d:.]+Z info: share a: \S+ shares .*\n/);
  Deno.renameSync(path, `${path}.1`);
  place.guest("a").close();
  await daemon.until(() => /disconnected/.test(text(`${path}.1`)), "the old file is written to");
  daemon.child.kill("SIGHUP");
  await daemon.until(() => /SIGHUP: nothing has changed/.test(text()), "the new file is written to");
  const { stdout, stderr } = await place.ctl("reload");
  assert.equal(stdout, "nothing has changed\n", stderr);
  assert.equal(daemon.log, "");
});

const cannotConfine = withoutNamespaces();
Deno.test({
  name: `a reload in a sandbox finds nothing changed where nothing is${
    cannotConfine && ` (skipped: ${cannotConfine})`
  }`,
  ignore: cannotConfine !== "",
  fn: async () => {
    using place = new Told();
    const metrics = ["--metrics-socket", `${place.path}/m.sock`, "--metrics-address", "127.0.0.1:0"];
    await using daemon = await place.start(["--share", place.text("a"), ...metrics, "--sandbox", "namespace"]);
    await daemon.until(() => /listens to ringfsd ctl/.test(daemon.log), "it serves");
    const { stdout, stderr } = await place.ctl("reload");
    assert.deepEqual([stdout, stderr], ["nothing has changed\n", ""]);
  },
});

Deno.test("whyNoAdd() is one line, where directories are out of reach", () => {
  const options = { shares: [] } as unknown as Options;
  const carried = {};
  assert.equal(whyNoAdd({ ...options, carried, sandbox: "none" } as Options), "");
  for (const sandbox of ["namespace", "chroot", undefined]) {
    assert.match(whyNoAdd({ ...options, carried, sandbox } as Options), /^add needs --sandbox none [^\n]*$/);
  }
});

Deno.test("absolute() makes the paths of a share mean the same elsewhere", () => {
  assert.equal(absolute("tag=a,dir=b,socket=c/d", "/x"), "tag=a,dir=/x/b,socket=/x/c/d");
  assert.equal(absolute("shared-dir=/b,socket-path=s", "/x,y"), "shared-dir=/b,socket-path=/x,,y/s");
  assert.equal(absolute("tag=a,,dir=b,dir=.", "/x"), "tag=a,,dir=b,dir=/x/.");
});
