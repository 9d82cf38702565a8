// The man page and the completions, each read by the program that it is for.
import assert from "node:assert/strict";
import { COMMANDS } from "../../cli/commands.ts";
import { flags } from "../../cli/flags.ts";
import { bashCompletion, fishCompletion, manPage, options, zshCompletion } from "../../packaging/documents.ts";
import { have, run, tempDir } from "./helpers.ts";

const names = Object.keys(flags);
const without = (program: string) => have(program) ? "" : ` (skipped: there is no ${program})`;

Deno.test("options() has every option once, and each document names it", () => {
  assert.deepEqual(options().map(({ name }) => name), names);
  const man = manPage("1.2.3", "2026-01-02").replaceAll("\\-", "-");
  for (const name of names) {
    assert.equal(man.split(`\n.BR --${name} `).length, 2, `${name} in the man page`);
    assert.match(bashCompletion(), new RegExp(`[" ]--${name}[" ]`));
    assert.equal(zshCompletion().split(`'*--${name}`).length > 1, true, `${name} for zsh`);
    assert.match(fishCompletion(), new RegExp(`^complete -c ringfsd -n 'not .*' -l ${name} `, "m"));
  }
});

Deno.test("each command and each of its options is in all documents", () => {
  const man = manPage("1.2.3", "2026-01-02").replaceAll("\\-", "-");
  assert.ok(COMMANDS.size > 0);
  for (const [word, command] of COMMANDS) {
    assert.match(man, new RegExp(`^\\.SS ringfsd ${word} `, "m"));
    assert.match(bashCompletion(), new RegExp(`^_ringfsd_${word}\\(\\) \\{$`, "m"));
    assert.match(zshCompletion(), new RegExp(`^ +'${word}:`, "m"));
    assert.match(fishCompletion(), new RegExp(`^complete -c ringfsd -n __fish_is_first_arg -a ${word} `, "m"));
    for (const name of Object.keys(command.flags as object)) {
      assert.ok(man.includes(`\n.BR --${name} `), `${word} --${name} in the man page`);
      assert.match(fishCompletion(), new RegExp(`^complete .*from ${word}' -l ${name} `, "m"));
    }
  }
});

Deno.test({
  name: `manPage() is read by groff without a warning${without("groff")}`,
  ignore: !have("groff"),
  async fn() {
    using dir = tempDir();
    Deno.writeTextFileSync(`${dir.path}/ringfsd.1`, manPage("0.1.0+g1a2b3c4-dirty", "2026-01-02"));
    const { code, stdout, stderr } = await run("groff", ["-man", "-ww", "-Tascii", "-P-cbou", `${dir.path}/ringfsd.1`]);
    assert.deepEqual([code, stderr], [0, ""]);
    assert.match(stdout, /^RINGFSD\(1\) +User Commands +RINGFSD\(1\)/);
    assert.match(stdout, /--cache never\|none\|auto\|metadata\|always\n/);
    assert.match(stdout, /--readdirplus, --no-readdirplus\n/);
    assert.match(stdout, /--posix-acl\[=on\|/);
    assert.match(stdout, /0\.1\.0\+g1a2b3c4-dirty +2026-01-02/);
  },
});

/** What bash offers when the last of the words is completed. */
async function bash(...words: string[]): Promise<string[]> {
  const script = `${bashCompletion()}
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
_ringfsd
printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { code, stdout, stderr } = await run("bash", ["-uc", script, "bash", "ringfsd", ...words]);
  assert.deepEqual([code, stderr], [0, ""], words.join(" "));
  return stdout.split("\n").filter((line) => line !== "");
}

Deno.test({
  name: `bashCompletion() offers names, values, directories and groups${without("bash")}`,
  ignore: !have("bash"),
  async fn() {
    assert.deepEqual(await bash("--socket-"), ["--socket-path", "--socket-group"]);
    assert.deepEqual(await bash("--no-readd"), ["--no-readdirplus"]);
    assert.deepEqual(await bash("--cache", "a"), ["auto", "always"]);
    assert.deepEqual(await bash("--cache", "=", "me"), ["metadata"]);
    assert.deepEqual(await bash("--cache", "="), ["never", "none", "auto", "metadata", "always"]);
    assert.deepEqual(await bash("--posix-acl", "=", "al"), ["always"]);
    assert.deepEqual(await bash("--posix-acl", "--xattrm"), ["--xattrmap"]);
    assert.deepEqual(await bash("--socket-group", "roo"), ["root"]);
    using dir = tempDir();
    Deno.mkdirSync(`${dir.path}/share a`);
    Deno.writeTextFileSync(`${dir.path}/share.json`, "");
    assert.deepEqual(await bash("--shared-dir", `${dir.path}/sh`), [`${dir.path}/share a`]);
    assert.deepEqual((await bash("--config", `${dir.path}/sh`)).length, 2);
    // Commands, and what is theirs.
    assert.deepEqual(await bash("sh"), ["share"]);
    assert.ok((await bash("")).includes("share"));
    assert.deepEqual(await bash("share", `${dir.path}/sh`), [`${dir.path}/share a`]);
    assert.deepEqual(await bash("share", "--on"), ["--only"]);
    assert.deepEqual(await bash("share", "--only", "cl"), ["cloud-hypervisor"]);
    assert.deepEqual(await bash("share", dir.path, "--only=", "--cache", "=", "me"), ["metadata"]);
    assert.deepEqual(await bash("share", "--shared-"), []);
    assert.deepEqual(await bash("share", "--posix-acl", "=", "al"), ["always"]);
  },
});

Deno.test({
  name: `bashCompletion() has nothing that shellcheck minds${without("shellcheck")}`,
  ignore: !have("shellcheck"),
  async fn() {
    using dir = tempDir();
    Deno.writeTextFileSync(`${dir.path}/ringfsd`, bashCompletion());
    assert.equal((await run("shellcheck", ["-s", "bash", `${dir.path}/ringfsd`])).stdout, "");
  },
});

Deno.test({
  name: `fishCompletion() offers names and values${without("fish")}`,
  ignore: !have("fish"),
  async fn() {
    using dir = tempDir();
    Deno.writeTextFileSync(`${dir.path}/ringfsd.fish`, fishCompletion());
    const offered = async (line: string) => {
      const script = `source ${dir.path}/ringfsd.fish; complete -C${JSON.stringify(line)}`;
      const { code, stdout, stderr } = await run("fish", ["--no-config", "-c", script], { env: { HOME: dir.path } });
      assert.deepEqual([code, stderr], [0, ""], line);
      return stdout.split("\n").map((one) => one.split("\t")[0]).filter((one) => one !== "");
    };
    assert.deepEqual(await offered("ringfsd --socket-"), ["--socket-group", "--socket-path"]);
    assert.deepEqual((await offered("ringfsd --cache ")).sort(), ["always", "auto", "metadata", "never", "none"]);
    assert.deepEqual(await offered("ringfsd --log-level=w"), ["--log-level=warn"]);
    assert.deepEqual(await offered("ringfsd sh"), ["share"]);
    assert.deepEqual(await offered("ringfsd share --onl"), ["--only"]);
    assert.deepEqual((await offered("ringfsd share --only c")).sort(), ["cloud-hypervisor"]);
    assert.deepEqual(await offered("ringfsd share --shared-d"), []);
    Deno.mkdirSync(`${dir.path}/folder`);
    assert.deepEqual(await offered(`ringfsd share ${dir.path}/fol`), [`${dir.path}/folder/`]);
  },
});

Deno.test({
  name: `zshCompletion() is zsh, and each of its specifications is one of _arguments'${without("zsh")}`,
  ignore: !have("zsh"),
  async fn() {
    using dir = tempDir();
    Deno.writeTextFileSync(`${dir.path}/_ringfsd`, zshCompletion());
    // What _arguments itself makes of them: comparguments fails on one that it cannot read, but works in a completion only.
    const specsOf = async (...words: string[]) => {
      const stubs = '_arguments() { print -rl -- "$@" }\n_describe() { print -rl -- "--$2" "${(@P)2}" }';
      const set = `words=(ringfsd ${words.join(" ")}) CURRENT=${words.length + 1}`;
      const args = ["-fc", `${stubs}\n${set}\nsource ${dir.path}/_ringfsd`];
      const { code, stdout, stderr } = await run("zsh", args);
      assert.deepEqual([code, stderr], [0, ""]);
      return stdout.trimEnd().split("\n");
    };
    const specs = await specsOf("--cache");
    assert.ok(specs.length > names.length);
    const ofShare = await specsOf("share", "''");
    for (const spec of [...specs, ...ofShare]) {
      assert.match(spec, /^\*?(--[a-z0-9-]+(=-?)?\[(\\.|[^\]\\])+\])?(:?:(\\.|[^:\\])+:.+)?$/, spec);
    }
    assert.ok(specs.some((spec) => spec.endsWith(":(never none auto metadata always)")));
    assert.ok(ofShare.includes("*:DIR:_directories"));
    assert.ok(ofShare.some((spec) => spec.startsWith("*--only=[")));
    assert.ok(!ofShare.some((spec) => spec.startsWith("*--shared-dir")));
    const first = await specsOf("''");
    assert.equal(first[0], "--commands");
    for (const [i, word] of [...COMMANDS.keys()].entries()) {
      assert.ok(first[1 + i].startsWith(`${word}:`), first[1 + i]);
    }
  },
});

Deno.test({
  name: `zshCompletion() completes in an interactive zsh${without("zsh")}`,
  ignore: !have("zsh") || !have("timeout"),
  async fn() {
    using dir = tempDir();
    Deno.mkdirSync(`${dir.path}/folder`);
    Deno.writeTextFileSync(`${dir.path}/_ringfsd`, zshCompletion());
    const setUp = "PS1='rea''dy> '; unsetopt zle_bracketed_paste; bindkey '^I' complete-word; " +
      `cd ${dir.path}; fpath=(${dir.path} $fpath); autoload -U compinit; compinit -u -D`;
    const cases = [
      ["ringfsd sh", "are"],
      ["ringfsd share fo", "lder"],
      ["ringfsd share --on", "ly"],
      ["ringfsd share --only cl", "oud-hypervisor"],
      ["ringfsd --cache me", "tadata"],
      ["ringfsd doctor --js", "on"],
    ];
    // A pattern that never comes is ended by timeout(1). What is typed is not what is printed, so that its echo is no answer.
    const tries = cases.map(([line, rest], i) =>
      `zpty -w -n z ${JSON.stringify(line)}$'\\t'; zpty -r z out '*${rest}*'
zpty -w z $'\\C-u'"print mar''k${i}."; zpty -r z out '*mark${i}.*'; print done`
    );
    const script = `zmodload zsh/zpty; zpty z zsh -f -i; zpty -w z ${JSON.stringify(setUp).replaceAll("$", "\\$")}
zpty -r z out '*ready> *'\n${tries.join("\n")}\nzpty -d z`;
    const { code, stdout } = await run("timeout", ["30", "zsh", "-fc", script], {
      env: { HOME: dir.path, TERM: "vt100" },
    });
    assert.deepEqual([code, stdout.split("\n")], [0, cases.map(() => "done")]);
  },
});
