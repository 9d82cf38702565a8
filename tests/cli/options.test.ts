import assert from "node:assert/strict";
import { allowedCpus } from "../../ffi/affinity.ts";
import { defaultOptions } from "../../fs/config.ts";
import { flags } from "../../cli/flags.ts";
import { COMMON, GROUPS } from "../../cli/option_table.ts";
import { type Options, parseOptions } from "../../cli/options.ts";

async function parse(...args: string[]) {
  let said = "";
  let complained = "";
  const parsed = await parseOptions(args, (text) => void (said += text), (text) => void (complained += text));
  return { parsed, said, complained };
}

async function options(...args: string[]): Promise<Options> {
  const { parsed, complained } = await parse(...args);
  assert.equal(complained, "");
  assert.ok("options" in parsed);
  return parsed.options;
}

/** What is wrong must be one line that has all of `words`, and the status 2. */
async function refused(args: string[], ...words: string[]) {
  const { parsed, said, complained } = await parse(...args);
  assert.deepEqual(parsed, { exit: 2 }, args.join(" "));
  assert.equal(said, "");
  assert.match(complained, /^ringfsd: [^\n]+\n$/);
  for (const word of words) assert.ok(complained.includes(word), `${complained.trim()} lacks ${word}`);
}

const base = ["--socket-path", "/s", "--shared-dir", "/d"];

Deno.test("parseOptions() defaults", async () => {
  const numRequestQueues = Math.min(64, allowedCpus().length);
  assert.deepEqual(await options(...base), {
    shares: [{ sharedDir: "/d", socketPath: "/s", fs: defaultOptions, numRequestQueues, exitOnDisconnect: false }],
    loops: numRequestQueues,
    threadPoolSize: 0,
    pollMaxUs: 100,
    logLevel: "info",
  });
});

Deno.test("parseOptions() takes both ways to give a value", async () => {
  const given = await options(
    "--fd=3",
    "--shared-dir=/d",
    "--tag=t",
    "--cache=never",
    "--num-request-queues=3",
    "--poll-max-us",
    "0",
    "--exit-on-disconnect",
    "--log-level=off",
    "--sandbox=none",
    "--seccomp",
    "log",
    "--modcaps=-mknod:+SYS_ADMIN",
  );
  const fs = { ...defaultOptions, cache: "never" };
  assert.deepEqual(given, {
    shares: [{ sharedDir: "/d", fd: 3, tag: "t", fs, numRequestQueues: 3, exitOnDisconnect: true }],
    loops: 3,
    threadPoolSize: 0,
    pollMaxUs: 0,
    logLevel: "off",
    sandbox: "none",
    seccomp: "log",
    capabilities: ["chown", "dac_override", "fowner", "fsetid", "setgid", "setuid", "setfcap", "sys_admin"],
  });
});

Deno.test("parseOptions() reads cache=none as never", async () => {
  assert.equal((await options(...base, "--cache", "none")).shares[0].fs.cache, "never");
});

Deno.test("parseOptions() refuses with a line that says what and why", async () => {
  await refused([], "--shared-dir");
  await refused(["--shared-dir", "/d"], "--socket-path");
  await refused(["--socket-path", "/s"], "--shared-dir");
  await refused([...base, "--fd=3"], "--fd", "--socket-path");
  await refused([...base, "--cache=sometimes"], "sometimes", "never");
  await refused([...base, "--num-request-queues=0"], "--num-request-queues", "1 to 64");
  await refused([...base, "--num-request-queues=1e1"], "--num-request-queues");
  await refused([...base, "--poll-max-us=-1"], "poll-max-us");
  await refused([...base, "--fd=x"], "--fd", "whole number");
  await refused([...base, "--tag="], "--tag");
  await refused([...base, "--tag", "t".repeat(37)], "--tag", "36");
  await refused([...base, "--sandbox=jail"], "jail", "namespace");
  await refused([...base, "--log-level=loud"], "loud");
  await refused([...base, "--shraed-dir=/d"], "--shared-dir");
  await refused([...base, "more"], "more");
});

Deno.test("parseOptions() --version, --help and --print-capabilities say and end with 0", async () => {
  const { parsed, said } = await parse("--version");
  assert.deepEqual(parsed, { exit: 0 });
  assert.match(said, /^ringfsd \S+\n$/);
  const help = await parse("--help");
  assert.deepEqual(help.parsed, { exit: 0 });
  // What most people need, with examples; --help=all and its like have every option, below the same headings.
  for (const option of COMMON) assert.match(help.said, new RegExp(`^  --${option}[ [\n]`, "m"), option);
  assert.doesNotMatch(help.said, /poll-max-us/);
  assert.match(help.said, /^Examples:\n {2}ringfsd share /m);
  assert.ok(help.said.split("\n").every((line) => line.length <= 110));
  assert.deepEqual(await parse("-h"), help);
  assert.deepEqual(await parse("help"), help);
  const all = await parse("--help=all");
  assert.deepEqual(await parse("--help-all"), all);
  for (const option of Object.keys(flags)) {
    assert.match(all.said, new RegExp(`^  --(\\[no-\\])?${option}[ [\n]`, "m"), option);
  }
  for (const [title] of GROUPS) for (const { said } of [help, all]) assert.ok(said.includes(`\n${title}:\n`), title);
  const capabilities = await parse("--print-capabilities");
  assert.equal(JSON.parse(capabilities.said).type, "fs");
});

Deno.test("parseOptions() a first word that is no option is answered by what was meant", async () => {
  const commands = [{ name: "ringfsd share", brief: "" }, { name: "ringfsd doctor", brief: "" }];
  const line = async (...args: string[]) => {
    let complaint = "";
    const parsed = await parseOptions(args, () => {}, (text) => void (complaint += text), { commands });
    assert.deepEqual(parsed, { exit: 2 });
    return complaint;
  };
  assert.match(await line("shar", "x"), /^ringfsd: there is no command "shar", did you mean share\? /);
  assert.match(await line("doctro"), /did you mean doctor\?/);
  assert.match(await line("frobnicate"), /^ringfsd: there is no command "frobnicate" \(/);
  assert.match(await line("/usr"), /^ringfsd: \/usr is no option: to share that directory, ringfsd share \/usr \(/);
});

Deno.test("parseOptions() tag of 36 bytes is the longest", async () => {
  assert.equal((await options(...base, "--tag", "t".repeat(36))).shares[0].tag?.length, 36);
});
