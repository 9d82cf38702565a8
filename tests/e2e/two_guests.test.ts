/** Two User-Mode Linux guests at once on one directory, each with a daemon of its own. */
import assert from "node:assert/strict";
import { Bed } from "../guest/bed.ts";
import { Debian, missing } from "../guest/debian.ts";
import { setUp } from "../guest/guest.ts";

async function obstacle(): Promise<string | undefined> {
  if (Deno.env.get("CI") || Deno.uid() === 0) return undefined;
  return await setUp("uml").then(() => undefined, (error) => error.message);
}

const ignore = await obstacle();
if (ignore) console.warn(`skipped: two guests on one directory, because ${ignore}`);
const noSqlite = await missing({ sqlite3: "sqlite3" });

/** Two guests that share one folder. */
async function withTwo(options: string[], body: (one: Bed, two: Bed) => Promise<void>): Promise<void> {
  const [one, two] = [new Bed("uml"), new Bed("uml")];
  try {
    await one.make(...options);
    two.shared = one.shared;
    await two.make(...options);
    await body(one, two);
  } catch (error) {
    console.error(`${one.report()}\n${two.report()}`);
    throw error;
  } finally {
    await two.clear();
    await one.clear();
  }
}

function test(name: string, options: string[], body: (one: Bed, two: Bed) => Promise<void>, skip?: string): void {
  if (skip) console.warn(`skipped: two guests: ${name}, because ${skip}`);
  Deno.test({
    name: `two guests: ${name}`,
    ignore: ignore !== undefined || skip !== undefined,
    fn: () => withTwo(options, body),
  });
}

test(
  "appends interleave without loss, and each sees the other's writes at once",
  ["--cache", "never"],
  async (one, two) => {
    const count = 400;
    const loop = (who: string) =>
      `exec 3>>/mnt/log; i=0; while [ $i -lt ${count} ]; do echo ${who}-$i >&3; i=$((i + 1)); done; echo done > /mnt/done-${who}`;
    await Promise.all([one.guest.run(loop("a")), two.guest.run(loop("b"))]);
    const lines = (await Deno.readTextFile(`${one.shared}/log`)).trimEnd().split("\n");
    for (const who of ["a", "b"]) {
      const expected = Array.from({ length: count }, (_, i) => `${who}-${i}`);
      assert.deepEqual(lines.filter((line) => line.startsWith(who)), expected);
    }
    assert.equal(lines.length, 2 * count);

    for (let i = 0; i < 15; i++) {
      const [writer, reader] = i % 2 ? [one, two] : [two, one];
      const text = `${"line ".repeat(i % 4)}${i}\n`;
      await writer.guest.run(`echo '${text.trimEnd()}' > /mnt/talk; touch /mnt/new-${i}; rm -f /mnt/new-${i - 1}`);
      assert.equal(await reader.guest.run("cat /mnt/talk; stat -c %s /mnt/talk"), `${text}${text.length}\n`);
      assert.equal(await reader.guest.run("cd /mnt; echo new-*"), `new-${i}\n`);
    }
  },
);

const HOLD = "flock lock sh -c 'echo > held; while [ -e held ]; do sleep 0.02; done' > /dev/null 2>&1 &\n" +
  "while [ ! -e held ]; do sleep 0.02; done";

test("locks exclude", ["--cache", "never", "--posix-lock", "--flock"], async (one, two) => {
  const [first, second] = [await Debian.open(one), await Debian.open(two)];
  await first.run("echo x > lock");
  assert.equal((await first.try("flock -n lock true")).status, 0);
  await first.run(HOLD);
  assert.equal((await second.try("flock -n lock true")).status, 1, "the other guest took a lock that is held");
  assert.equal((await second.try("flock -n -s lock true")).status, 1, "the other guest shared an exclusive lock");
  // The host is excluded likewise.
  const host = await new Deno.Command("flock", { args: ["-n", `${one.shared}/lock`, "true"] }).output();
  assert.equal(host.code, 1, "the host took a lock that a guest holds");
  const waiting = second.run("flock lock true");
  assert.equal(await first.run("cat lock"), "x\n");
  await first.run("rm held");
  await waiting;
  // A guest that dies leaves no lock behind.
  await second.run(HOLD);
  assert.equal((await first.try("flock -n lock true")).status, 1);
  await two.guest.kill();
  await first.run("timeout 10 flock lock true", 15_000);
});

test("both write one sqlite3 database", ["--cache", "never", "--posix-lock", "--flock"], async (one, two) => {
  const [first, second] = [await Debian.open(one), await Debian.open(two)];
  await first.run("sqlite3 base.db 'create table t(a)'");
  const add = `for i in $(seq 40); do echo "insert into t values('$i');"; done | sqlite3 -cmd '.timeout 60000' base.db`;
  await Promise.all([first.run(add, 120_000), second.run(add, 120_000)]);
  const check = "sqlite3 base.db 'select count(*) from t; pragma integrity_check'";
  assert.equal(await first.run(check), "80\nok\n");
  assert.equal(await second.run(check), "80\nok\n");
}, noSqlite);
