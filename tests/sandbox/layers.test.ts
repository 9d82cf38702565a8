// Each layer of the sandbox, by trying to cross it from inside: probe.ts confines itself as the daemon does, and then tries.
import assert from "node:assert/strict";
import type { Options } from "../../cli/options.ts";
import { EAFNOSUPPORT, ECONNREFUSED, ENOSYS, EPERM, ESRCH } from "../../ffi/errno.ts";
import { capabilitySet } from "../../ffi/capabilities.ts";
import { landlockVersion } from "../../ffi/landlock.ts";
import { defaultOptions } from "../../fs/config.ts";
import { withoutNamespaces } from "./namespaces.ts";

const probe = new URL("./probe.ts", import.meta.url).pathname;
const KEPT = ["chown", "dac_override", "fowner", "fsetid", "setgid", "setuid", "mknod", "setfcap"];

const noNamespaces = withoutNamespaces();
const noLandlock = landlockVersion() > 0 ? "" : "the kernel has no Landlock";
const noScopes = landlockVersion() >= 6 ? "" : "Landlock has no scopes before Linux 6.12";

interface Outcome {
  value: unknown;
  signal: string | null;
  said: string;
}

/** A directory with a share in it, and a file beside that. */
async function withShare(body: (share: string, secret: string) => Promise<void>): Promise<void> {
  const dir = Deno.makeTempDirSync({ prefix: "ringfsd-sandbox-" });
  Deno.chmodSync(dir, 0o755);
  Deno.mkdirSync(`${dir}/share`);
  Deno.writeTextFileSync(`${dir}/share/inside`, "inside");
  Deno.writeTextFileSync(`${dir}/secret`, "secret");
  try {
    await body(`${dir}/share`, `${dir}/secret`);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
}

interface How extends Partial<Options> {
  readonly?: boolean;
  /** A program that runs the probe: setpriv, say. */
  through?: string[];
}

async function attempt(share: string, how: How, name: string, ...args: string[]): Promise<Outcome> {
  const { readonly = false, through = [], ...options } = how;
  const all: Partial<Options> = {
    shares: [{
      sharedDir: share,
      fd: 0,
      fs: { ...defaultOptions, readonly },
      numRequestQueues: 1,
      exitOnDisconnect: false,
    }],
    loops: 1,
    ...options,
  };
  const words = [...through, Deno.execPath(), "run", "-A", probe, JSON.stringify(all), name, ...args];
  const { signal, stdout, stderr } = await new Deno.Command(words[0], { args: words.slice(1), stdin: "null" }).output();
  const text = new TextDecoder().decode(stdout);
  const said = new TextDecoder().decode(stderr);
  assert.ok(signal !== null || text !== "", said);
  return { value: text === "" ? null : JSON.parse(text), signal, said };
}

function layer(name: string, cannot: string, fn: (share: string, secret: string) => Promise<void>): void {
  Deno.test({
    name: `${name}${cannot && ` (skipped: ${cannot})`}`,
    ignore: cannot !== "",
    fn: () => withShare(fn),
  });
}

layer("seccomp kill and trap end the process at a call outside the list, log does not", "", async (share) => {
  const none = { sandbox: "none" } as const;
  for (const seccomp of ["kill", "trap"] as const) {
    assert.equal((await attempt(share, { ...none, seccomp }, "forbidden")).signal, "SIGSYS", seccomp);
  }
  assert.equal((await attempt(share, none, "forbidden")).signal, "SIGSYS", "kill is the default");
  for (const seccomp of ["log", "none"] as const) {
    const { value, signal } = await attempt(share, { ...none, seccomp }, "forbidden");
    assert.equal(signal, null, seccomp);
    assert.notEqual(value, 0);
  }
});

layer("seccomp looks at arguments: other processes, namespaces, networks", "", async (share) => {
  const how = { sandbox: "none", seccomp: "kill" } as const;
  const other = String(Deno.pid);
  assert.equal((await attempt(share, how, "tgkillOther", other)).signal, "SIGSYS");
  assert.equal((await attempt(share, how, "newNamespace")).signal, "SIGSYS");
  assert.equal((await attempt(share, how, "signal", other)).signal, "SIGSYS");
  // What libraries and the runtime try of themselves is refused, not punished.
  assert.equal((await attempt(share, how, "inet")).value, -EAFNOSUPPORT);
  assert.equal((await attempt(share, how, "clone3")).value, -ENOSYS);
  assert.equal((await attempt(share, how, "unknown")).value, -ENOSYS);
});

layer("namespace: there is no file but the share and what the program needs", noNamespaces, async (share, secret) => {
  const how = { sandbox: "namespace", seccomp: "none" } as const;
  const outside = [secret, "/etc/passwd", "/proc/1/environ", `/proc/${Deno.pid}/environ`, "/sys/kernel/notes"];
  const { value } = await attempt(share, how, "files", ...outside) as { value: Record<string, unknown> };
  for (const path of outside) assert.notEqual(value[path], "", path);
  assert.notEqual(value.make, "");
  assert.notEqual(value.program, "");
  assert.equal(value.inside, "inside");
  assert.equal(value.change, "");
  assert.ok(Deno.lstatSync(`${share}/made`).isFile);
  const readonly = await attempt(share, { ...how, readonly: true }, "files");
  assert.notEqual((readonly.value as Record<string, unknown>).change, "");
});

layer("namespace: no network, no abstract sockets, no mounts", noNamespaces, async (share) => {
  const how = { sandbox: "namespace", seccomp: "none" } as const;
  const name = `ringfsd-test-${Deno.pid}`;
  const listener = new Deno.Command("python3", {
    args: [
      "-c",
      "import socket,sys;s=socket.socket(socket.AF_UNIX);s.bind('\\0'+sys.argv[1]);s.listen();print(1,flush=True);sys.stdin.read()",
      name,
    ],
    stdin: "piped",
    stdout: "piped",
  });
  const child = listener.spawn();
  const reader = child.stdout.getReader();
  try {
    await reader.read();
    assert.equal((await attempt(share, { ...how, sandbox: "none" }, "abstract", name)).value, 0);
    const { value } = await attempt(share, how, "abstract", name);
    assert.ok(value === -ECONNREFUSED || value === -EPERM, `${value}`);
  } finally {
    await child.stdin.close();
    await reader.cancel();
    await child.status;
  }
  assert.equal((await attempt(share, how, "mount")).value, -EPERM);
});

layer("capabilities are the listed ones on every thread, and --modcaps changes them", noNamespaces, async (share) => {
  const expect = async (names: string[], more: Partial<Options>) => {
    const { value } = await attempt(share, { sandbox: "namespace", ...more }, "state");
    const { capabilities, threads } = value as { capabilities: string; threads: string[] };
    const set = capabilitySet(names).toString(16);
    assert.equal(capabilities, set);
    const padded = set.padStart(16, "0");
    assert.ok(threads.length > 1);
    for (const thread of threads) assert.equal(thread, `${padded} ${padded} 1 2`);
  };
  await expect(KEPT, {});
  await expect(["chown", "sys_admin"], { capabilities: ["chown", "sys_admin"] });
});

const noSetpriv = noNamespaces || noLandlock || (() => {
  try {
    return new Deno.Command("setpriv", { args: ["--version"] }).outputSync().success ? "" : "needs setpriv";
  } catch {
    return "needs setpriv";
  }
})();
const cut = { through: ["setpriv", "--bounding-set", "-sys_admin", "--"] };

layer("Landlock alone holds where there can be no namespaces", noSetpriv, async (share, secret) => {
  const how = { seccomp: "none", ...cut } as const;
  const outside = [secret, "/etc/passwd", "/proc/1/environ"];
  const { value, said } = await attempt(share, how, "files", ...outside) as Outcome & {
    value: Record<string, unknown>;
  };
  assert.match(said, /^cannot make namespaces: .*Landlock and seccomp must do[^\n]*\n$/);
  for (const path of outside) assert.notEqual(value[path], "", path);
  assert.notEqual(value.above, "");
  assert.notEqual(value.program, "");
  assert.equal(value.inside, "inside");
  assert.equal(value.change, "");
  const readonly = await attempt(share, { ...how, readonly: true }, "files");
  assert.notEqual((readonly.value as Record<string, unknown>).change, "");
});

layer("a namespace that was asked for and cannot be is refused in one line", noSetpriv, async (share) => {
  const main = new URL("../../main.ts", import.meta.url).pathname;
  const args = ["run", "-A", main, "--shared-dir", share, "--socket-path", `${share}/s`, "--sandbox=namespace"];
  const [program, ...rest] = [...cut.through, Deno.execPath(), ...args];
  const { code, stderr } = await new Deno.Command(program, { args: rest, stdin: "null" }).output();
  assert.match(
    new TextDecoder().decode(stderr),
    /^ringfsd: error: --sandbox namespace: cannot make namespaces: unshare: [^\n]*CAP_SYS_ADMIN[^\n]*--sandbox none\n$/,
  );
  assert.equal(code, 1);
  assert.throws(() => Deno.lstatSync(`${share}/s`), Deno.errors.NotFound);
});

layer("signals reach no process outside", noNamespaces || noScopes, async (share) => {
  const how = { sandbox: "namespace", seccomp: "none" } as const;
  const { value } = await attempt(share, how, "signal", String(Deno.pid));
  assert.ok(value === -EPERM || value === -ESRCH, `${value}`);
});
