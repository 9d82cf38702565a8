/** The lines that `ringfsd share` prints for QEMU and for the guest, run as they are printed. */
import assert from "node:assert/strict";
import { daemonCommand } from "../guest/daemon.ts";
import { Guest, setUp } from "../guest/guest.ts";
import { Output } from "../guest/output.ts";
import { until } from "../guest/poll.ts";
import { removeTree } from "../guest/tree.ts";

async function obstacle(): Promise<string> {
  if (Deno.env.get("CI") || Deno.uid() === 0) return "";
  return await setUp("tcg").then(() => "", (error) => error.message);
}
const cannot = await obstacle();

/** What `share` prints for one of its targets. */
async function printed(dir: string, ...args: string[]): Promise<string> {
  const [program, ...words] = daemonCommand();
  const command = new Deno.Command(program, { args: [...words, "share", dir, "--print", ...args] });
  const { success, stdout, stderr } = await command.output();
  assert.ok(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

Deno.test({
  name: `a guest in QEMU, started and mounted by the lines that share prints${cannot && ` (skipped: ${cannot})`}`,
  ignore: cannot !== "",
  fn: async () => {
    const dir = await Deno.makeTempDir({ prefix: "ringfsd-e2e-share-" });
    const shared = `${dir}/it's shared`;
    await Deno.mkdir(shared);
    const [program, ...words] = daemonCommand();
    // Its own directory for sockets: the machine's is left alone.
    const socket = `${dir}/a,b.sock`;
    const process = new Deno.Command(program, {
      args: [...words, "share", shared, "--socket-path", socket],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const daemon = new Output(process.stdout, process.stderr);
    let guest: Guest | undefined;
    try {
      const lines = await printed(shared, "--socket-path", socket, "--only", "qemu");
      await Deno.writeTextFile(`${dir}/lines`, lines.trimEnd());
      await until("the daemon's socket", () => Deno.lstat(socket).then(() => true, () => false), 20_000);
      // What it prints of all is the same, indented.
      for (const line of lines.trimEnd().split("\n")) assert.ok(daemon.text.includes(`  ${line}\n`), line);
      guest = await Guest.boot({
        kind: "tcg",
        socket: "",
        tag: "it-s-shared",
        runDir: dir,
        lines: `${dir}/lines`,
        cpus: 2,
      });
      // Mounted by the agent already: once more, by the printed line.
      const [mount, fstab] = (await printed(shared, "--only", "guest")).split("\n");
      await guest.run("umount /mnt");
      await guest.run(mount);
      await guest.run("echo from the guest > /mnt/first");
      assert.equal(await Deno.readTextFile(`${shared}/first`), "from the guest\n");
      await guest.run(`umount /mnt; echo '${fstab}' > /etc/fstab; mount -a`);
      assert.equal(await guest.run("cat /mnt/first"), "from the guest\n");
      assert.match(await guest.run("free -m"), /Mem: +(9\d\d|10[0-2]\d) /);
      await guest.powerOff();
      await until("the front end's leave", () => daemon.text.includes(" disconnected\n"), 20_000, () => daemon.text);
      assert.match(daemon.text, /^ringfsd: front end \(process \d+\) connected$/m);
      process.kill("SIGINT");
      assert.equal((await process.status).code, 0, daemon.text);
      // In its sandbox the socket's file is out of its reach; nobody listens there any more.
      await assert.rejects(Deno.connect({ transport: "unix", path: socket }));
    } catch (error) {
      console.error(daemon.text);
      throw error;
    } finally {
      await guest?.kill();
      try {
        process.kill("SIGKILL");
      } catch { /* it has ended */ }
      await process.status;
      await daemon.ended;
      await removeTree(dir);
    }
  },
});
