// The commands of the documentation, run as they stand there, in a mount namespace of its own: /srv and /run are empty there.
import assert from "node:assert/strict";
import { blocksOf, type Command, documents } from "../documents.ts";
import { daemonCommand } from "../guest/daemon.ts";
import { setUp } from "../guest/guest.ts";

const DEADLINE_MS = 120_000;

/** Why it cannot be run here, or "". */
function obstacle(): string {
  if (Deno.uid() !== 0) return "needs root";
  const { success } = new Deno.Command("unshare", { args: ["--mount", "true"], stderr: "null" }).outputSync();
  return success ? "" : "no mount namespace can be made here";
}

const PRELUDE = `set -eu
mount -t tmpfs none /srv
mount -t tmpfs -o mode=755 none /run
mkdir -p /srv/vm1 /srv/vm2 /srv/home /srv/docs /srv/a /srv/b "$HOME/vm1" "$XDG_RUNTIME_DIR"
echo hello > /srv/vm1/greeting
cp /etc/group group
grep -q ^kvm: group || echo kvm:x:65533: >> group
mount --bind group /etc/group
pids=
trap 'kill $pids 2> /dev/null || true; wait' EXIT
serve() { # LINE: starts a daemon, and waits until each socket that it names is there
  local sockets socket
  eval "$1 > \\"\\$PWD/log\\" 2>&1 &"
  pids="$! $pids"
  sockets=$(eval "printf '%s\\\\n' \${1#*ringfsd }" | grep -oE '/[^ ,=]*\\.sock\\b' || true)
  for _ in $(seq 200); do
    sleep 0.1
    kill -0 "\${pids%% *}" 2> /dev/null || break
    ! grep -q 'mount -t virtiofs' log || return 0
    [ -n "$sockets" ] || continue
    for socket in $sockets; do [ -S "$socket" ] || continue 2; done
    return 0
  done
  cat log
  return 1
}
run_qemu() { # LINE: QEMU takes it all, finds the daemon, and stands before the guest's first instruction
  eval "$1 -display none -S -daemonize -pidfile \\"\\$PWD/qemu.pid\\""
  pids="$(cat qemu.pid) $pids"
}
end_all() { kill $pids 2> /dev/null || true; wait; pids=; rm -rf /run/*; mkdir -p "$XDG_RUNTIME_DIR"; }
`;

/** How the script has a command run. */
function lineOf({ text, where }: Command): string {
  const plain = text.replace(/\s+#\s.*$/, "").replace(/\s*…\s*$/, "").replace(/\bsudo (-E )?/g, "");
  const quoted = `'${plain.replaceAll("'", `'\\''`)}'`;
  const say = `echo ${quoted.replace(/^'/, `'${where}: `)} >&2`;
  const serves = /^(dist\/)?ringfsd /.test(plain) &&
    !/--(print|help|version|once|json)|ringfsd (doctor|top|ctl) /.test(plain);
  if (serves) return `${say}; serve ${quoted}`;
  if (/^qemu-system-/.test(plain)) return `${say}; run_qemu ${quoted}`;
  return `${say}; ${plain}`;
}

const cannot = obstacle();
for (const file of documents()) {
  const blocks = blocksOf(file).filter(({ language }) => language === "sh")
    .map((block) => block.commands.filter(({ mark }) => mark === "")).filter((commands) => commands.length > 0);
  if (blocks.length === 0) continue;
  Deno.test({
    name: `the commands of ${file}${cannot && ` (skipped: ${cannot})`}`,
    ignore: cannot !== "",
    fn: async () => {
      if (blocks.flat().some(({ text }) => text.startsWith("qemu-system-"))) await setUp("tcg");
      const dir = Deno.makeTempDirSync({ prefix: "ringfsd-documents-" });
      try {
        Deno.mkdirSync(`${dir}/bin`);
        const words = daemonCommand().map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ");
        Deno.writeTextFileSync(`${dir}/bin/ringfsd`, `#!/bin/sh\nexec ${words} "$@"\n`, { mode: 0o755 });
        const lines = blocks.map((commands) => commands.map(lineOf).join("\n"));
        // A block that starts a daemon begins anew; others have that of the block before.
        const script = PRELUDE +
          lines.map((text) => /; serve /.test(text) ? `end_all\n${text}\n` : `${text}\n`).join("");
        const { success, stdout, stderr } = await new Deno.Command("unshare", {
          args: ["--mount", "--propagation", "private", "bash", "-c", script],
          cwd: dir,
          env: {
            PATH: `${dir}/bin:${Deno.env.get("PATH")}`,
            HOME: `${dir}/home`,
            XDG_RUNTIME_DIR: "/run/user/0",
            NO_COLOR: "1",
          },
          stdin: "null",
          signal: AbortSignal.timeout(DEADLINE_MS),
        }).output();
        const said = new TextDecoder().decode(stderr) + new TextDecoder().decode(stdout);
        assert.ok(success, said);
      } finally {
        Deno.removeSync(dir, { recursive: true });
      }
    },
  });
}
