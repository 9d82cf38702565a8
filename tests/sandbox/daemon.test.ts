// The daemon itself in its sandbox, with guests.
import assert from "node:assert/strict";
import { Session } from "../../bench/session.ts";
import { ROOT } from "../../bench/fuse_client.ts";

const main = new URL("../../main.ts", import.meta.url).pathname;
const DEADLINE_MS = 15_000;

/** Runs the daemon on a directory as some user, and talks to it. */
async function served(
  args: readonly string[],
  uid: number,
  body: (pid: number, share: string, guest: Session) => void | Promise<void>,
  program: readonly string[] = [Deno.execPath(), "run", "-A", main],
): Promise<string> {
  const dir = Deno.makeTempDirSync({ prefix: "ringfsd-sandboxed-" });
  const share = `${dir}/share`;
  Deno.mkdirSync(share);
  Deno.writeTextFileSync(`${share}/file`, "text");
  Deno.chmodSync(dir, 0o755);
  Deno.chmodSync(share, 0o777);
  Deno.chownSync(dir, uid, uid);
  const words = [...program.slice(1), "--socket-path", `${dir}/s`, "--shared-dir", share, "--num-request-queues=2"];
  const child = new Deno.Command(program[0], {
    args: [...words, ...args],
    // Not this process's own directory, which a test of extended attributes may have left in /proc.
    cwd: "/",
    ...(uid === 0 ? {} : { uid, gid: uid, env: { HOME: "/" } }),
    stdin: "null",
    stderr: "piped",
  }).spawn();
  let said = "";
  const collected = child.stderr.pipeThrough(new TextDecoderStream()).pipeTo(
    new WritableStream({ write: (text) => void (said += text) }),
  );
  let ended = false;
  child.status.then(() => ended = true);
  try {
    for (const end = performance.now() + DEADLINE_MS; !said.includes(" shares ");) {
      if (ended || performance.now() > end) assert.fail(`the daemon does not serve: ${said}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    const guest = Session.open(`${dir}/s`, { requestQueues: 2, memory: 1 << 22 });
    try {
      await body(child.pid, share, guest);
    } finally {
      guest.close();
    }
  } finally {
    child.kill("SIGTERM");
    const { code } = await child.status;
    await collected;
    Deno.removeSync(dir, { recursive: true });
    assert.equal(code, 0, said);
  }
  return said;
}

/** Fields of the status of each thread, proc_pid_status(5). */
function threads(pid: number, ...fields: string[]): string[] {
  return [...Deno.readDirSync(`/proc/${pid}/task`)].map(({ name }) => {
    const status = Deno.readTextFileSync(`/proc/${pid}/task/${name}/status`);
    return fields.map((field) => new RegExp(`^${field}:\\s*(\\S+)`, "m").exec(status)![1]).join(" ");
  });
}

function namespaces(pid: number | "self"): Record<string, string> {
  const names = ["mnt", "net", "ipc", "uts", "user"];
  return Object.fromEntries(names.map((name) => [name, Deno.readLinkSync(`/proc/${pid}/ns/${name}`)]));
}

/** Why root has no namespaces here, or another user none, or "". */
const needsRoot = Deno.uid() === 0 ? "" : "needs root";
const root = needsRoot || tried("unshare", ["--mount", "--net", "true"], {}, "needs CAP_SYS_ADMIN");
const NOBODY = { uid: 65534, gid: 65534, cwd: "/", env: { HOME: "/" } };
const nobody = needsRoot ||
  tried("unshare", ["--user", "--map-current-user", "--mount", "true"], NOBODY, "no user namespaces here") ||
  tried(Deno.execPath(), ["run", "-A", main, "--version"], NOBODY, "this checkout is not readable for other users");

function tried(program: string, args: string[], how: Partial<Deno.CommandOptions>, reason: string): string {
  try {
    return new Deno.Command(program, { args, ...how, stdout: "null", stderr: "null" }).outputSync().success
      ? ""
      : reason;
  } catch {
    return reason;
  }
}

function test(name: string, cannot: string, fn: () => Promise<unknown>): void {
  Deno.test({
    name: `${name}${cannot && ` (skipped: ${cannot})`}`,
    ignore: cannot !== "",
    fn: async () => void await fn(),
  });
}

test(
  "every thread is confined, with a guest served, and the root holds what the program needs",
  root,
  () =>
    served([], 0, (pid, share, guest) => {
      const { client } = guest;
      assert.equal(client.create(ROOT, "made").error, 0);
      assert.ok(Deno.lstatSync(`${share}/made`).isFile);
      const seen = new Set(threads(pid, "CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp"));
      const kept = "00000000880000db";
      assert.deepEqual([...seen], [`${kept} ${kept} ${kept} 1 2`]);
      const own = namespaces("self");
      for (const [name, id] of Object.entries(namespaces(pid))) {
        if (name === "user") assert.equal(id, own[name]);
        else assert.notEqual(id, own[name], name);
      }
      assert.deepEqual([...Deno.readDirSync(`/proc/${pid}/root/share`)].map(({ name }) => name), ["0"]);
      const proc = [...Deno.readDirSync(`/proc/${pid}/root/proc`)].map(({ name }) => name).sort();
      assert.deepEqual(proc.filter((name) => !["cpuinfo", "loadavg", "meminfo", "self"].includes(name)), []);
      // The directory of descriptors leads no further up than to that.
      const fd = [...Deno.readDirSync(`/proc/${pid}/fd`)].find(({ name }) => {
        try {
          return Deno.readLinkSync(`/proc/${pid}/fd/${name}`).endsWith("/fd");
        } catch {
          return false;
        }
      });
      assert.ok(fd, "an open /proc/self/fd");
      const above = [...Deno.readDirSync(`/proc/${pid}/fd/${fd.name}/../..`)].map(({ name }) => name).sort();
      assert.deepEqual(above, proc);
    }),
);

test("an ordinary user has a user namespace, no capability, and files of its own", nobody, async () => {
  const said = await served([], NOBODY.uid, (pid, share, guest) => {
    assert.equal(guest.client.create(ROOT, "made").error, 0);
    assert.equal(Deno.lstatSync(`${share}/made`).uid, NOBODY.uid);
    const none = "0000000000000000";
    assert.deepEqual([...new Set(threads(pid, "CapEff", "CapPrm", "NoNewPrivs", "Seccomp"))], [`${none} ${none} 1 2`]);
    const own = namespaces("self");
    for (const [name, id] of Object.entries(namespaces(pid))) assert.notEqual(id, own[name], name);
  });
  assert.match(said, /not root: all that the guest creates belongs to this user/);
});

test("--uid-map and --gid-map: the user is another in the guest", nobody, () => {
  const maps = ["--uid-map=:0:65534:1:", "--gid-map=:0:65534:1:"];
  return served(maps, NOBODY.uid, (pid, share, guest) => {
    assert.equal(Deno.readTextFileSync(`/proc/${pid}/uid_map`).trim().replace(/\s+/g, " "), "0 65534 1");
    assert.equal(guest.client.create(ROOT, "made").error, 0);
    assert.equal(Deno.lstatSync(`${share}/made`).uid, NOBODY.uid);
  });
});

const compiled = new URL("../../dist/ringfsd", import.meta.url).pathname;
const noProgram = needsRoot || tried(compiled, ["--version"], {}, "needs dist/ringfsd: run ./compile.sh");

test(
  "--sandbox chroot: the root is empty, and nothing can be made in it",
  noProgram,
  () =>
    served(["--sandbox", "chroot"], 0, (pid, share, guest) => {
      assert.equal(guest.client.create(ROOT, "made").error, 0);
      assert.ok(Deno.lstatSync(`${share}/made`).isFile);
      assert.deepEqual([...Deno.readDirSync(`/proc/${pid}/root/`)], []);
      assert.match(Deno.readLinkSync(`/proc/${pid}/root`), / \(deleted\)$/);
      // A loop cannot leave it: that would take CAP_SYS_CHROOT, which the runtime's own threads keep; seccomp keeps all from the call.
      const seen = threads(pid, "Name", "CapEff", "NoNewPrivs", "Seccomp");
      const loops = seen.filter((one) => one.startsWith("worker-"));
      assert.ok(loops.length > 0, `${seen}`);
      for (const one of loops) assert.match(one, / 00000000880000db 1 2$/);
      for (const one of seen) assert.match(one, / 00000000880[04]00db 1 2$/);
      const own = namespaces("self");
      assert.deepEqual(namespaces(pid), own);
    }, [compiled]),
);

test("--rlimit-nofile is the limit in the sandbox", root, () =>
  served(["--rlimit-nofile=4096"], 0, (pid) => {
    const limits = Deno.readTextFileSync(`/proc/${pid}/limits`);
    assert.match(limits, /^Max open files +4096 /m);
  }));

test("who is told to end before it serves ends with 0, whenever that is", root, async () => {
  const dir = Deno.makeTempDirSync({ prefix: "ringfsd-early-" });
  try {
    for (let round = 0; round < 8; round++) {
      const args = ["run", "-A", "--no-check", main, "--socket-path", `${dir}/s`, "--shared-dir", dir];
      const child = new Deno.Command(Deno.execPath(), { args, stdin: "null", stderr: "null" }).spawn();
      // From the moment on when there is a socket of this round's.
      const listens = (line: string) => line.endsWith(` ${dir}/s`);
      for (const end = performance.now() + DEADLINE_MS; performance.now() < end;) {
        if (Deno.readTextFileSync("/proc/net/unix").split("\n").some(listens)) break;
      }
      await new Promise((resolve) => setTimeout(resolve, round * 20));
      child.kill("SIGTERM");
      const { code, signal } = await child.status;
      assert.deepEqual([code, signal], [0, null], `round ${round}`);
    }
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});

test("--uid-map of a range asks newuidmap(1), and one that it refuses is refused in a line", nobody, async () => {
  const dir = Deno.makeTempDirSync({ prefix: "ringfsd-map-" });
  Deno.chmodSync(dir, 0o777);
  try {
    for (const name of ["newuidmap", "newgidmap"]) {
      const script = `#!/bin/sh\necho "$0 $*" >> ${dir}/asked\necho "$0: not allowed" >&2\nexit 1\n`;
      Deno.writeTextFileSync(`${dir}/${name}`, script);
      Deno.chmodSync(`${dir}/${name}`, 0o755);
    }
    const maps = ["--uid-map=:0:100000:65536:", "--gid-map=:0:200000:65536:"];
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", main, "--socket-path", `${dir}/s`, "--shared-dir", dir, ...maps],
      ...NOBODY,
      env: { HOME: "/", PATH: `${dir}:/usr/bin:/bin` },
    }).output();
    assert.equal(code, 1);
    assert.match(new TextDecoder().decode(stderr), /^ringfsd: error: [^\n]*user namespace[^\n]*\n$/);
    const asked = Deno.readTextFileSync(`${dir}/asked`);
    assert.match(asked, /newuidmap \d+ 0 100000 65536/);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});

Deno.test("--sandbox none --seccomp none leaves the process as it was started", () =>
  served(["--sandbox", "none", "--seccomp=none"], Deno.uid()!, (pid) => {
    const fields = ["CapEff", "NoNewPrivs", "Seccomp"] as const;
    assert.deepEqual([...new Set(threads(pid, ...fields))], [...new Set(threads(Deno.pid, ...fields))]);
    assert.deepEqual(namespaces(pid), namespaces("self"));
  }).then(() => {}));
