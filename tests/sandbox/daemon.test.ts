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
): Promise<string> {
  const dir = Deno.makeTempDirSync({ prefix: "ringfsd-sandboxed-" });
  const share = `${dir}/share`;
  Deno.mkdirSync(share);
  Deno.writeTextFileSync(`${share}/file`, "text");
  Deno.chmodSync(dir, 0o755);
  Deno.chmodSync(share, 0o777);
  Deno.chownSync(dir, uid, uid);
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", main, "--socket-path", `${dir}/s`, "--shared-dir", share, "--num-request-queues=2", ...args],
    ...(uid === 0 ? {} : { uid, gid: uid, cwd: "/", env: { HOME: "/" } }),
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

Deno.test("--sandbox none --seccomp none leaves the process as it was started", () =>
  served(["--sandbox", "none", "--seccomp=none"], Deno.uid()!, (pid) => {
    const fields = ["CapEff", "NoNewPrivs", "Seccomp"] as const;
    assert.deepEqual([...new Set(threads(pid, ...fields))], [...new Set(threads(Deno.pid, ...fields))]);
    assert.deepEqual(namespaces(pid), namespaces("self"));
  }).then(() => {}));
