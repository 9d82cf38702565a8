// Several shares in one process, from the command line to the guests.
import assert from "node:assert/strict";
import { memoryUse } from "../../bench/process.ts";
import { Session } from "../../bench/session.ts";
import { allowedCpus } from "../../ffi/affinity.ts";
import { ENFILE, ENOENT, EROFS } from "../../ffi/errno.ts";

/** As in tests/fs/daemon.ts. */
const SANDBOX = Deno.env.get("RINGFSD_TEST_SANDBOX") ?? "none";
const main = new URL("../../main.ts", import.meta.url).pathname;
const ROOT = 1;
const DEADLINE_MS = 20_000;
const MIB = 1 << 20;

/** A daemon with the shares 0 to count - 1, each with a directory and a socket of that number. */
class Daemon {
  log = "";
  #ended = false;
  readonly #collected: Promise<void>;

  private constructor(readonly dir: string, readonly child: Deno.ChildProcess) {
    this.#collected = this.#collect();
    child.status.then(() => this.#ended = true);
  }

  /** Starts it; `options` are those of each share, `args` what stands beside. Resolves when it listens. */
  static async start(options: readonly string[], args: readonly string[] = []): Promise<Daemon> {
    const dir = Deno.makeTempDirSync({ prefix: "ringfsd-devices-" });
    const shares = options.map((more, i) => {
      Deno.mkdirSync(`${dir}/${i}`);
      return `--share=tag=t${i},dir=${dir}/${i},socket=${dir}/${i}.sock${more && `,${more}`}`;
    });
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", main, "--sandbox", SANDBOX, ...shares, ...args],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    const daemon = new Daemon(dir, child);
    await daemon.until(() => daemon.log.split(" shares ").length > options.length, "it listens");
    return daemon;
  }

  get pid(): number {
    return this.child.pid;
  }

  guest(share: number, requestQueues = 1): Session {
    return Session.open(`${this.dir}/${share}.sock`, { requestQueues, memory: 4 * MIB });
  }

  async until(condition: () => boolean, what: string): Promise<void> {
    for (const deadline = performance.now() + DEADLINE_MS; !condition();) {
      const late = performance.now() > deadline;
      if (this.#ended || late) assert.fail(`${late ? "timed out" : "ended"}: ${what}; the daemon said:\n${this.log}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  /** Threads of the loops that run, by the debug log. */
  get loops(): number[] {
    const loops: number[] = [];
    for (const [, loop, thread] of this.log.matchAll(/loop (\d+) is thread (\d+)/g)) {
      loops[Number(loop)] = Number(thread);
    }
    return loops;
  }

  /** Waits until so many loops run. */
  running(count: number): Promise<void> {
    return this.until(() => this.loops.length === count, `${count} loops run`);
  }

  /** A field of a thread's status, proc_pid_status(5). */
  status(thread: number, field: string): string {
    const text = Deno.readTextFileSync(`/proc/${this.pid}/task/${thread}/status`);
    return new RegExp(`^${field}:\\s*(.*)$`, "m").exec(text)![1];
  }

  /** Resolves with the exit status. */
  async ends(): Promise<number> {
    const timer = setTimeout(() => this.child.kill("SIGKILL"), DEADLINE_MS);
    const { code } = await this.child.status;
    clearTimeout(timer);
    await this.#collected;
    return code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#ended) this.child.kill("SIGTERM");
    const code = await this.ends();
    const left = [...Deno.readDirSync(this.dir)].filter(({ name }) => name.endsWith(".sock"));
    Deno.removeSync(this.dir, { recursive: true });
    assert.equal(code, 0, this.log);
    // The paths of sockets cannot be reached from inside a sandbox.
    if (SANDBOX === "none") assert.deepEqual(left, []);
  }

  async #collect(): Promise<void> {
    for await (const text of this.child.stderr.pipeThrough(new TextDecoderStream())) this.log += text;
  }
}

/** Creates a file as the guest and fills it. */
function write({ client }: Session, name: string, text: string): void {
  const { error, nodeid, fh } = client.create(ROOT, name);
  assert.equal(error, 0);
  assert.equal(client.write(nodeid, fh, 0, new TextEncoder().encode(text)).size, text.length);
  client.release(nodeid, fh);
}

/** What is in a file, as the guest sees it. */
function read({ client }: Session, name: string): string {
  const { nodeid } = client.lookup(ROOT, name);
  const { error, fh } = client.open(nodeid);
  assert.equal(error, 0);
  const { data } = client.read(nodeid, fh, 0, 4096);
  client.release(nodeid, fh);
  return new TextDecoder().decode(data);
}

Deno.test("serve() two guests at once, each in its own directory with its own options", async () => {
  await using daemon = await Daemon.start(["", "readonly"]);
  Deno.writeTextFileSync(`${daemon.dir}/1/kept`, "of the second");
  using second = daemon.guest(1);
  {
    using first = daemon.guest(0);
    write(first, "made", "by the first");
    assert.equal(Deno.readTextFileSync(`${daemon.dir}/0/made`), "by the first");
    assert.equal(read(second, "kept"), "of the second");
    assert.equal(first.client.lookup(ROOT, "kept").error, -ENOENT);
    assert.equal(second.client.lookup(ROOT, "made").error, -ENOENT);
    assert.equal(second.client.create(ROOT, "new").error, -EROFS);
    // A nodeid or handle of the one means nothing to the other.
    const { nodeid } = first.client.lookup(ROOT, "made");
    const { fh } = first.client.open(nodeid);
    assert.notEqual(second.client.read(nodeid, fh, 0, 4096).error, 0);
  }
  await daemon.until(() => /share t0: front end .* disconnected/.test(daemon.log), "the first has gone");
  assert.equal(read(second, "kept"), "of the second");
  using again = daemon.guest(0);
  assert.equal(read(again, "made"), "by the first");
  assert.equal(read(second, "kept"), "of the second");
});

Deno.test("serve() a front end that talks rubbish and a guest with an impossible ring leave the others alone", async () => {
  // One loop, so that all share it.
  await using daemon = await Daemon.start(["num-request-queues=1", "num-request-queues=1"], [
    `--cpu-affinity=${allowedCpus()[0]}`,
  ]);
  Deno.writeTextFileSync(`${daemon.dir}/1/kept`, "of the second");
  using second = daemon.guest(1);
  const rubbish = await Deno.connect({ transport: "unix", path: `${daemon.dir}/0.sock` });
  await rubbish.write(new Uint8Array(64).fill(0xee));
  await daemon.until(() => /share t0: closed the connection/.test(daemon.log), "the rubbish was refused");
  rubbish.close();
  assert.equal(read(second, "kept"), "of the second");
  {
    using first = daemon.guest(0);
    write(first, "made", "by the first");
    const queue = first.queues[1];
    const avail = first.memory.words16(queue.state.avail, 2);
    avail[1] += queue.state.size + 1;
    queue.kick(true);
    await daemon.until(() => daemon.log.includes("available ring is impossible"), "the queue was stopped");
    assert.equal(read(second, "kept"), "of the second");
  }
  await daemon.until(() => /share t0: front end .* disconnected/.test(daemon.log), "the first has gone");
  using again = daemon.guest(0);
  assert.equal(read(again, "made"), "by the first");
  assert.equal(read(second, "kept"), "of the second");
});

Deno.test("serve() numbers of one device's nodes and open files name nothing on another", async () => {
  await using daemon = await Daemon.start(["", ""]);
  using mine = daemon.guest(0);
  using other = daemon.guest(1);
  const secret = new TextEncoder().encode("secret");
  const held = Array.from({ length: 40 }, (_, i) => {
    const { error, nodeid, fh } = mine.client.create(ROOT, `secret${i}`);
    assert.equal(error, 0);
    assert.equal(mine.client.write(nodeid, fh, 0, secret).size, secret.length);
    return { nodeid, fh };
  });
  const { client } = other;
  for (const { nodeid, fh } of held) {
    assert.ok(client.getattr(nodeid).error < 0);
    assert.ok(client.open(nodeid).error < 0);
    assert.ok(client.lookup(nodeid, "x").error < 0);
    assert.ok(client.link(nodeid, ROOT, "stolen").error < 0);
    // The handle with its own node, and with one that the guest may use.
    for (const node of [nodeid, ROOT]) {
      assert.ok(client.read(node, fh, 0, 4096).error < 0);
      assert.ok(client.write(node, fh, 0, new Uint8Array([33])).error < 0);
      client.release(node, fh);
    }
    client.forget(nodeid, 1);
  }
  // The owner has noticed nothing of it.
  for (const { nodeid, fh } of held) {
    assert.equal(new TextDecoder().decode(mine.client.read(nodeid, fh, 0, 4096).data), "secret");
    assert.equal(mine.client.getattr(nodeid).error, 0);
  }
  assert.deepEqual([...Deno.readDirSync(`${daemon.dir}/1`)], []);
});

Deno.test("serve() a guest that opens all that it may leaves descriptors for the others", async () => {
  await using daemon = await Daemon.start(["", ""], ["--rlimit-nofile=600", "--num-request-queues=1"]);
  using greedy = daemon.guest(0);
  using other = daemon.guest(1);
  let error = 0;
  let files = 0;
  while (error === 0 && files < 600) error = greedy.client.create(ROOT, `file${files++}`).error;
  assert.equal(error, -ENFILE, `after ${files} files`);
  assert.ok(files > 50);
  for (let i = 0; i < 50; i++) assert.equal(other.client.create(ROOT, `file${i}`).error, 0);
});

Deno.test("serve() one share that cannot be served at start, and none is", async () => {
  const dir = Deno.makeTempDirSync({ prefix: "ringfsd-devices-" });
  const run = async (second: string) => {
    const args = ["run", "-A", main, `--share=tag=a,dir=${dir},socket=${dir}/a`, `--share=tag=b,${second}`];
    const { code, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
    assert.equal(code, 1);
    assert.deepEqual([...Deno.readDirSync(dir)].filter((entry) => entry.name === "a"), []);
    return new TextDecoder().decode(stderr);
  };
  try {
    assert.match(await run(`dir=${dir}/gone,socket=${dir}/b`), /^ringfsd: [^\n]*\/gone: No such file[^\n]*\n$/);
    assert.match(await run(`dir=${dir},socket=${dir}/no/b`), /^ringfsd: [^\n]*\/no\/b: [^\n]*No such file[^\n]*\n$/);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});

Deno.test("serve() --exit-on-disconnect ends each share with its front end, and the process with the last share", async () => {
  await using daemon = await Daemon.start(["", ""], ["--exit-on-disconnect"]);
  const second = daemon.guest(1);
  daemon.guest(0).close();
  const gone = () => !Deno.readTextFileSync("/proc/net/unix").includes(`${daemon.dir}/0.sock`);
  await daemon.until(gone, "the first share has ended");
  assert.equal(second.client.getattr(ROOT).error, 0);
  second.close();
  assert.equal(await daemon.ends(), 0, daemon.log);
});

Deno.test("serve() devices spread over the loops as guests come, and one guest's queues over all", async () => {
  await using daemon = await Daemon.start(["", "", ""], ["--num-request-queues=2", "--log-level=debug"]);
  await daemon.running(1);
  using first = daemon.guest(0);
  assert.equal(first.client.getattr(ROOT).error, 0);
  using _second = daemon.guest(1);
  await daemon.running(2);
  using third = daemon.guest(2, 2);
  assert.equal(third.client.getattr(ROOT).error, 0);
});

/** What a daemon with so many shares takes, with a guest connected to each that has looked at its directory. */
async function memoryOf(shares: number): Promise<{ bytes: number; switches: number }> {
  await using daemon = await Daemon.start(new Array(shares).fill(""), ["--num-request-queues=2", "--log-level=debug"]);
  const guests: Session[] = [];
  try {
    for (let i = 0; i < shares; i++) {
      Deno.writeTextFileSync(`${daemon.dir}/${i}/file`, "text");
      const guest = daemon.guest(i, 2);
      guests.push(guest);
      assert.equal(read(guest, "file"), "text");
    }
    await daemon.running(2);
    const switched = () => {
      return daemon.loops.reduce((sum, thread) => sum + Number(daemon.status(thread, "voluntary_ctxt_switches")), 0);
    };
    // Nothing is to be waited for but time that passes: half a second in which nobody wants anything.
    await new Promise((resolve) => setTimeout(resolve, 200));
    const before = switched();
    await new Promise((resolve) => setTimeout(resolve, 500));
    return { bytes: memoryUse([daemon.pid]).pssOwn, switches: switched() - before };
  } finally {
    for (const guest of guests) guest.close();
  }
}

Deno.test("serve() a hundred devices take less than 1 MiB each, and none wakes a loop while its guest is quiet", async () => {
  const one = await memoryOf(1);
  const hundred = await memoryOf(100);
  const each = (hundred.bytes - one.bytes) / 99;
  assert.ok(each < MIB, `${each} bytes for each further device`);
  // A loop that collects garbage, or compiles, is woken by V8 now and then.
  assert.ok(hundred.switches < 20, `loops were woken ${hundred.switches} times`);
});

const cpus = allowedCpus();

Deno.test({
  name: "--queue-affinity and --cpu-affinity pin loops, helpers and io_uring's threads" +
    (cpus.length < 2 ? " (skipped: needs two CPUs)" : ""),
  ignore: cpus.length < 2,
  fn: async (t) => {
    const [a, b] = cpus;
    /** Has both loops run and the kernel make a thread for each, and returns who runs where. */
    const allowed = async (args: string[]) => {
      await using daemon = await Daemon.start(["", ""], [...args, "--log-level=debug", "--num-request-queues=2"]);
      using first = daemon.guest(0);
      using second = daemon.guest(1);
      for (const guest of [first, second]) {
        // On the ring, and never done within the submit.
        const { nodeid, fh } = guest.client.create(ROOT, "file");
        assert.equal(guest.client.fsync(nodeid, fh).error, 0);
      }
      const list = (thread: number) => daemon.status(thread, "Cpus_allowed_list");
      const tasks = () => [...Deno.readDirSync(`/proc/${daemon.pid}/task`)].map((task) => Number(task.name));
      const workers = (loop: number) => tasks().filter((task) => daemon.status(task, "Name") === `iou-wrk-${loop}`);
      await daemon.running(2);
      const { loops } = daemon;
      await daemon.until(
        () => loops.every((loop) => workers(loop).length > 0),
        "each loop has a thread of the kernel's",
      );
      return {
        loops: loops.map(list),
        workers: loops.map((loop) => [...new Set(workers(loop).map(list))].join(" and ")),
        all: [...new Set(tasks().map(list))],
      };
    };
    await t.step("--queue-affinity", async () => {
      const { loops, workers } = await allowed([`--queue-affinity=${a}:${b}`]);
      assert.deepEqual(loops, [`${a}`, `${b}`]);
      assert.deepEqual(workers, [`${a}`, `${b}`]);
    });
    await t.step("--cpu-affinity", async () => {
      assert.deepEqual((await allowed([`--cpu-affinity=${b}`])).all, [`${b}`]);
    });
    await t.step("both", async () => {
      const { loops, workers } = await allowed([`--queue-affinity=${a}`, `--cpu-affinity=${b}`]);
      assert.deepEqual(loops, [`${a}`, `${a}`]);
      assert.deepEqual(workers, [`${b}`, `${b}`]);
    });
  },
});
