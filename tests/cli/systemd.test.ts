// Socket activation, notification, the watchdog, the journal and the system's logger.
import assert from "node:assert/strict";
import { Session } from "../../bench/session.ts";
import { nowMs } from "../../ffi/clock.ts";
import { cString, libc } from "../../ffi/libc.ts";
import { receive } from "../../ffi/socket.ts";
import { connectLog, Syslog } from "../../cli/syslog.ts";
import { Place, Started, type StartOptions, useShare } from "./started.ts";

const loadProgram = new URL("../../bench/load.ts", import.meta.url).pathname;
const AF_UNIX = 1;
const SOCK_DGRAM_NONBLOCK = 2 | 0o4000;
/** What systemd sets for so many sockets. */
const listen = (count: number, ...names: string[]) => ({
  before: `export LISTEN_PID=$$ LISTEN_FDS=${count} LISTEN_FDNAMES=${names.join(":")}`,
});

/** Receives datagrams at a path, or at an abstract name where it begins with "@". */
class Mailbox {
  readonly #fd = libc.socket(AF_UNIX, SOCK_DGRAM_NONBLOCK, 0);
  readonly letters: string[] = [];

  constructor(readonly path: string) {
    const where = new Uint8Array([AF_UNIX, 0, ...cString(path)]);
    if (path.startsWith("@")) where[2] = 0;
    assert.equal(libc.bind(this.#fd, where, path.startsWith("@") ? where.length - 1 : where.length), 0);
  }

  /** All that has come so far. */
  take(): string[] {
    const buffer = new Uint8Array(16384);
    for (;;) {
      const { n } = receive(this.#fd, buffer, 0);
      if (n <= 0) return this.letters;
      this.letters.push(new TextDecoder().decode(buffer.subarray(0, n)));
    }
  }

  /** Lines that begin so, in the order in which they came. */
  lines(start: string): string[] {
    return this.take().flatMap((letter) => letter.split("\n")).filter((line) => line.startsWith(start));
  }

  [Symbol.dispose](): void {
    libc.close(this.#fd);
  }
}

/** Starts it with wrong sockets: it must end with a line that has all of `words`. */
async function refused(args: string[], options: StartOptions, ...words: string[]) {
  const daemon = Started.start(args, options);
  const { code } = await daemon.end();
  assert.equal(code, 2, daemon.log);
  assert.match(daemon.log, /^ringfsd: [^\n]+\n$/);
  for (const word of words) assert.ok(daemon.log.includes(word), `${daemon.log.trim()} lacks ${word}`);
}

Deno.test("passedSockets() one socket is the one share's, whatever they are called", async () => {
  using place = new Place();
  const sockets = [{ at: 3, path: place.socket }];
  await using daemon = Started.start(["--shared-dir", place.share], { sockets, ...listen(1, "some.socket") });
  useShare(place.socket, place.share).close();
  await daemon.end("SIGTERM");
  // It is the service manager's, and stays.
  assert.ok(Deno.lstatSync(place.socket).isSocket);
});

Deno.test("passedSockets() several go to the shares whose tags they have", async () => {
  using place = new Place();
  const at = (name: string) => `${place.path}/${name}.sock`;
  const shares = ["home", "docs", "own"].map((name) => {
    Deno.mkdirSync(`${place.path}/${name}`);
    return `--share=tag=${name},dir=${place.path}/${name}${name === "own" ? `,socket=${at(name)}` : ""}`;
  });
  const sockets = [{ at: 3, path: at("docs") }, { at: 4, path: at("home") }];
  await using daemon = Started.start(shares, { sockets, ...listen(2, "docs", "home") });
  await daemon.socket(at("own"));
  for (const name of ["home", "docs", "own"]) useShare(at(name), `${place.path}/${name}`).close();
});

Deno.test("passedSockets() a configuration file's share gets its socket", async () => {
  using place = new Place();
  Deno.writeTextFileSync(`${place.path}/c.json`, JSON.stringify({ shares: [{ tag: "t", dir: place.share }] }));
  const sockets = [{ at: 3, path: place.socket }];
  await using _ = Started.start(["--config", `${place.path}/c.json`], { sockets, ...listen(1, "t") });
  useShare(place.socket, place.share).close();
});

Deno.test("passedSockets() what is not for this process, or for no share, is refused", async () => {
  using place = new Place();
  const sockets = [{ at: 3, path: place.socket }];
  const share = ["--shared-dir", place.share];
  await refused(share, { sockets, before: "export LISTEN_PID=1 LISTEN_FDS=1" }, "listen where?");
  await refused([...share, "--socket-path", `${place.path}/own`], { sockets, ...listen(1, "x") }, '"x"', "which share");
  const two = [...sockets, { at: 4, path: `${place.path}/b` }];
  await refused([...share, "--tag", "a"], { sockets: two, ...listen(2, "a", "b") }, '"b"', "which share");
});

Deno.test("Notifier tells READY, STATUS, WATCHDOG and STOPPING, on a path or an abstract name", async () => {
  for (const abstract of [false, true]) {
    using place = new Place();
    using box = new Mailbox(abstract ? `@${place.path}` : `${place.path}/notify`);
    const env = { NOTIFY_SOCKET: box.path, WATCHDOG_USEC: "20000" };
    await using daemon = Started.start(["--shared-dir", place.share, "--socket-path", place.socket], { env });
    await daemon.until(() => box.lines("READY=1").length === 1, "READY=1");
    // Whoever waits for that can connect.
    const guest = useShare(place.socket, place.share);
    await daemon.until(() => box.lines("STATUS=").some((line) => line.endsWith(" connected: 1")), "a guest is counted");
    guest.close();
    await daemon.until(() => box.lines("STATUS=").at(-1)!.endsWith(" connected: 0"), "it has gone");
    const before = box.lines("WATCHDOG=1").length;
    await daemon.until(() => box.lines("WATCHDOG=1").length > before + 2, "the watchdog hears");
    assert.equal((await daemon.end("SIGTERM")).code, 0, daemon.log);
    assert.equal(box.lines("STOPPING=1").length, 1);
    assert.deepEqual(box.lines("STATUS=")[0], `STATUS=Sharing ${place.share}; front ends connected: 0`);
  }
});

Deno.test("Notifier a loop that does not turn keeps the watchdog silent", async () => {
  using place = new Place();
  using box = new Mailbox(`${place.path}/notify`);
  const env = { NOTIFY_SOCKET: box.path, WATCHDOG_USEC: "20000" };
  const args = [
    "--shared-dir",
    place.share,
    "--socket-path",
    place.socket,
    "--num-request-queues=1",
    "--log-level=debug",
  ];
  await using daemon = Started.start(args, { env });
  await daemon.until(() => box.lines("WATCHDOG=1").length > 2, "the watchdog hears");
  const thread = /loop 0 is thread (\d+)/.exec(daemon.log)![1];
  using _stopped = stopThread(Number(thread));
  // What was under way may still come.
  let last = box.lines("WATCHDOG=1").length;
  const quiet = async () => {
    await new Promise((resolve) => setTimeout(resolve, 200));
    const now = box.lines("WATCHDOG=1").length;
    const same = now === last;
    last = now;
    return same;
  };
  for (let i = 0; !await quiet(); i++) assert.ok(i < 20, "the watchdog still hears");
});

/** Stops one thread, as a disk does that does not answer: ptrace(2). It goes on when this goes out of scope. */
function stopThread(tid: number): { [Symbol.dispose](): void } {
  const [SYS_ptrace, SYS_wait4] = Deno.build.arch === "x86_64" ? [101n, 61n] : [117n, 260n];
  const PTRACE_SEIZE = 0x4206, PTRACE_INTERRUPT = 0x4207, PTRACE_DETACH = 17;
  const WNOHANG_WALL = 0x4000_0001n;
  const ptrace = (request: number) => libc.syscall6(SYS_ptrace, BigInt(request), BigInt(tid), 0n, 0n, 0n, 0n);
  // Asleep in io_uring_enter(2), whose number is 426 everywhere: it may else hold a lock that the whole process waits for.
  const asleep = () => Deno.readTextFileSync(`/proc/${tid}/syscall`).startsWith("426 ");
  for (const deadline = performance.now() + 5000; !asleep();) {
    assert.ok(performance.now() < deadline, "the loop sleeps");
  }
  assert.equal(ptrace(PTRACE_SEIZE), 0n);
  assert.equal(ptrace(PTRACE_INTERRUPT), 0n);
  return {
    [Symbol.dispose]: () => {
      // Where its process has ended meanwhile, it is the tracer's to be buried.
      for (const deadline = performance.now() + 5000; ptrace(PTRACE_DETACH) !== 0n;) {
        if (libc.syscall6(SYS_wait4, BigInt(tid), 0n, WNOHANG_WALL, 0n, 0n, 0n) < 0n) return;
        assert.ok(performance.now() < deadline, "the thread neither goes on nor ends");
      }
    },
  };
}

Deno.test("Notifier a service that cannot start says why", async () => {
  using place = new Place();
  using box = new Mailbox(`${place.path}/notify`);
  const args = ["--shared-dir", `${place.path}/gone`, "--socket-path", place.socket];
  const { code } = await Started.start(args, { env: { NOTIFY_SOCKET: box.path } }).end();
  assert.equal(code, 1);
  assert.match(box.lines("STATUS=").join(), /gone.*No such file/);
  assert.equal(box.lines("READY=1").length, 0);
});

Deno.test("standardError() has priorities where the journal reads it, and nowhere else", async () => {
  using place = new Place();
  const args = ["--shared-dir", place.share, "--socket-path", place.socket];
  const stream = "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/$$/fd/2)";
  for (
    const [before, line] of [[stream, /^<6>\S+ shares /m], [
      "export JOURNAL_STREAM=8:1",
      /^ringfsd: \S+ shares /m,
    ]] as const
  ) {
    await using daemon = Started.start(args, { before });
    await daemon.until(() => line.test(daemon.log), "a line of that form");
    await daemon.end("SIGTERM");
  }
  const wrong = Started.start(["--nonsense"], { before: stream });
  assert.equal((await wrong.end()).code, 2);
  assert.match(wrong.log, /^<3>ringfsd: .*nonsense[^\n]*\n$/);
});

Deno.test("Syslog sends what syslog(3) does, and finds a logger that was started anew", () => {
  using place = new Place();
  const path = `${place.path}/log`;
  const syslog = new Syslog("ringfsd", connectLog(path), path);
  assert.match(syslog.send("info", "nobody there"), /log: No such file/);
  const line = (priority: number, text: string) =>
    new RegExp(`^<${priority}>[A-Z][a-z]{2} [ 1-3]\\d \\d\\d:\\d\\d:\\d\\d ringfsd\\[${Deno.pid}\\]: ${text}$`);
  for (const round of ["first", "second"]) {
    using box = new Mailbox(path);
    assert.equal(syslog.send("error", round), "");
    assert.equal(syslog.send("debug", round), "");
    const [one, two] = box.take();
    // LOG_USER is 1 << 3.
    assert.match(one, line(8 + 3, round));
    assert.match(two, line(8 + 7, round));
    Deno.removeSync(path);
  }
  assert.notEqual(syslog.send("info", "gone again"), "");
  syslog.close();
});

Deno.test("serve() with --syslog and no logger says so once, and goes on on standard error", async () => {
  try {
    Deno.lstatSync("/dev/log");
    return; // There is one, and what it gets is the machine's.
  } catch {
    // As in a container.
  }
  using place = new Place();
  await using daemon = Started.start(["--syslog", "--shared-dir", place.share, "--socket-path", place.socket]);
  await daemon.socket(place.socket);
  useShare(place.socket, place.share).close();
  await daemon.end("SIGTERM");
  assert.equal(daemon.log.match(/cannot be reached/g)?.length, 1, daemon.log);
  assert.match(daemon.log, /\/dev\/log: No such file/);
  assert.match(daemon.log, /SIGTERM: ending/);
});

/** From source, a confined daemon compiles the modules of each thread anew: on a busy machine that takes longer than these tests give it. */
const QUICK = ["--sandbox", "none"];

Deno.test("serve() ends with 0 at SIGTERM while guests are at work", async () => {
  using place = new Place();
  const args = ["--shared-dir", place.share, "--socket-path", place.socket, ...QUICK];
  await using daemon = Started.start(args);
  await daemon.socket(place.socket);
  Deno.writeFileSync(`${place.share}/big`, new Uint8Array(8 << 20));
  const mtime = () => Deno.statSync(`${place.share}/big`).mtime!.getTime();
  const untouched = mtime();
  // Another process, for its requests must go on while this one waits.
  const load = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "--no-check",
      loadProgram,
      "--socket-path",
      place.socket,
      "--mode",
      "randwrite",
      "--seconds",
      "60",
    ],
    stdout: "null",
    stderr: "null",
  }).spawn();
  try {
    await daemon.until(() => mtime() !== untouched, "the guest writes");
    const begun = performance.now();
    const { code } = await daemon.end("SIGTERM");
    assert.equal(code, 0, daemon.log);
    assert.ok(performance.now() - begun < 5000, "within five seconds");
    assert.doesNotMatch(daemon.log, /did not finish/);
  } finally {
    // It gives up by itself when the daemon hangs up.
    try {
      load.kill("SIGKILL");
    } catch {
      // So it has.
    }
    await load.status;
  }
});

Deno.test("serve() ends soon at SIGTERM even where requests do not, and says so", async () => {
  using place = new Place();
  const more = ["--num-request-queues=1", "--log-level=debug"];
  const daemon = Started.start(["--shared-dir", place.share, "--socket-path", place.socket, ...more]);
  try {
    await daemon.until(() => daemon.log.includes("is thread"), "a loop runs");
    {
      using _stopped = stopThread(Number(/loop 0 is thread (\d+)/.exec(daemon.log)![1]));
      daemon.child.kill("SIGTERM");
      await daemon.until(() => daemon.log.includes("did not finish"), "it gives up");
    }
    const { code, signal } = await daemon.end();
    assert.deepEqual([code, signal], [1, null], daemon.log);
    assert.match(daemon.log, /^ringfsd: error: [^\n]*did not finish[^\n]*$/m);
  } finally {
    await daemon.end("SIGKILL");
  }
});

Deno.test("serve() told to end twice ends once", async () => {
  using place = new Place();
  await using daemon = Started.start(["--shared-dir", place.share, "--socket-path", place.socket, ...QUICK]);
  await daemon.socket(place.socket);
  using _guest = Session.open(place.socket, { memory: 4 << 20 });
  daemon.child.kill("SIGTERM");
  daemon.child.kill("SIGINT");
  assert.equal((await daemon.end()).code, 0, daemon.log);
});

Deno.test("SIGHUP tells RELOADING with the time of the monotonic clock, and READY when it is done", async () => {
  using place = new Place();
  using box = new Mailbox(`${place.path}/notify`);
  const args = ["--shared-dir", place.share, "--socket-path", place.socket];
  await using daemon = Started.start(args, { env: { NOTIFY_SOCKET: box.path } });
  await daemon.until(() => box.lines("READY=1").length === 1, "READY=1");
  const before = nowMs() * 1000;
  daemon.child.kill("SIGHUP");
  await daemon.until(() => box.lines("READY=1").length === 2, "READY=1 again");
  const told = box.take().slice(1);
  const reloading = told.findIndex((letter) => letter.startsWith("RELOADING=1\n"));
  assert.ok(reloading >= 0 && reloading < told.findIndex((letter) => letter.startsWith("READY=1")));
  const micros = Number(/^MONOTONIC_USEC=(\d+)$/m.exec(told[reloading])?.[1]);
  assert.ok(micros >= Math.floor(before) && micros <= nowMs() * 1000, `${micros}`);
});
