// The units for systemd, by systemd-analyze, which needs no running systemd; and the description for libvirt.
import assert from "node:assert/strict";
import { parseConfig } from "../../cli/shares.ts";
import { parseOptions } from "../../cli/options.ts";
import { have, run, tempDir } from "./helpers.ts";

const root = new URL("../..", import.meta.url).pathname;
const service = `${root}packaging/systemd/ringfsd@.service`;
const socket = `${root}packaging/systemd/ringfsd@.socket`;

/** Why systemd-analyze cannot be asked, or "". */
async function cannotAnalyze(): Promise<string> {
  if (!have("systemd-analyze")) return "there is no systemd-analyze";
  const { stdout } = await run("systemd-analyze", ["--version"]);
  return Number(/^systemd (\d+)/.exec(stdout)?.[1]) >= 250 ? "" : "systemd is older than 250";
}
const cannot = await cannotAnalyze();
const skipped = cannot && ` (skipped: ${cannot})`;

Deno.test({
  name: `ringfsd@.service has no more exposure than docs/SYSTEMD.md says${skipped}`,
  ignore: cannot !== "",
  async fn() {
    const { stdout } = await run("systemd-analyze", ["security", "--offline=true", "--no-pager", service]);
    const level = Number(/exposure level for \S+: (\d+\.\d)/.exec(stdout)?.[1]);
    const said = Number(/rates it (\d+\.\d)/.exec(Deno.readTextFileSync(`${root}docs/SYSTEMD.md`))![1]);
    // Other versions of systemd weigh a little differently.
    assert.ok(level > 0 && level <= said + 0.3, `${level}, and ${said} is said`);
  },
});

Deno.test({
  name: `ringfsd@.service and .socket have no mistake that systemd finds${skipped}`,
  ignore: cannot !== "",
  async fn() {
    using dir = tempDir();
    // An instance, with an executable that is there.
    Deno.writeTextFileSync(
      `${dir.path}/ringfsd@home.service`,
      Deno.readTextFileSync(service).replace("ExecStart=/usr/bin/ringfsd", "ExecStart=/bin/true"),
    );
    Deno.copyFileSync(socket, `${dir.path}/ringfsd@home.socket`);
    const units = ["service", "socket"].map((kind) => `${dir.path}/ringfsd@home.${kind}`);
    const { stdout, stderr } = await run("systemd-analyze", ["verify", "--man=no", ...units]);
    // Other units of the machine may have mistakes of their own.
    assert.doesNotMatch(stdout + stderr, /ringfsd/);
  },
});

Deno.test("ringfsd@.service starts what the command line takes", async () => {
  using dir = tempDir();
  const [, line] = /^ExecStart=\/usr\/bin\/ringfsd (.*)$/m.exec(Deno.readTextFileSync(service))!;
  const text = Deno.readTextFileSync(`${root}packaging/systemd/home.json`);
  Deno.writeTextFileSync(`${dir.path}/home.json`, text);
  const args = line.replace("/etc/ringfsd/%i.json", `${dir.path}/home.json`).split(" ");
  let complaint = "";
  const start = { sockets: [{ fd: 3, name: "home" }] };
  const parsed = await parseOptions(args, () => {}, (said) => void (complaint += said), start);
  assert.equal(complaint, "");
  assert.ok("options" in parsed);
  const [{ fd, tag, sharedDir }] = parsed.options.shares;
  assert.deepEqual([fd, tag, sharedDir], [3, "home", "/srv/home"]);
  assert.equal(parseConfig(text, "home.json").shares.length, 1);
});

Deno.test("50-ringfsd.json says what --print-capabilities says, and where the package has the executable", async () => {
  const { binary, description, ...rest } = JSON.parse(Deno.readTextFileSync(`${root}packaging/50-ringfsd.json`));
  let said = "";
  await parseOptions(["--print-capabilities"], (text) => void (said += text), () => {});
  assert.deepEqual(rest, JSON.parse(said));
  assert.equal(binary, "/usr/bin/ringfsd");
  assert.ok(description);
});
