/** The end-to-end tests, the same for every kind of guest. Boots are dear, so that most tests share one guest. */
import assert from "node:assert/strict";
import { Bed } from "./bed.ts";
import { TAG } from "./daemon.ts";
import { makeSmallFiles, writeRandom } from "./data.ts";
import { type Kind, setUp } from "./guest.ts";
import { compareSides, opsInGuest, opsOnHost } from "./ops.ts";
import { until } from "./poll.ts";
import { checksum, compareTrees } from "./tree.ts";

const MIB = 1024 * 1024;

/** Why the end-to-end tests cannot run here; undefined when they can. In CI they run whatever the circumstances. */
async function obstacle(kind: Kind): Promise<string | undefined> {
  if (Deno.env.get("CI") || Deno.uid() === 0) return undefined;
  return await setUp(kind).then(() => undefined, (error) => error.message);
}

/** Runs ops.sh in the guest and on the host; throws what differs. */
async function compareOperations(bed: Bed): Promise<void> {
  const host = await opsOnHost(bed.cache, bed.dir, bed.dir, "host");
  const guest = await opsInGuest(bed.guest, { host: bed.shared, guest: "/mnt" }, "ops");
  expectNone(compareSides({ log: host, tree: `${bed.dir}/host` }, { log: guest, tree: `${bed.shared}/ops` }));
}

function expectNone(differences: string[]): void {
  if (differences.length) throw new Error(`guest and host differ:\n${differences.slice(0, 20).join("\n")}`);
}

/**
 * Declares the end-to-end tests for one kind of guest.
 * @param moreCaches cache policies other than "never" to run the file operations with, each in a guest of its own
 */
export async function declareSuite(kind: Kind, label: string, moreCaches: string[] = []): Promise<void> {
  const ignore = await obstacle(kind);
  if (ignore) console.warn(`skipped: all tests in ${label}, because\n${ignore}`);
  const bed = new Bed(kind);

  const declare = (name: string, fn: () => Promise<void>) =>
    // The guest and the daemon live from one test to the next.
    Deno.test({
      name: `${label}: ${name}`,
      ignore: ignore !== undefined,
      sanitizeOps: false,
      sanitizeResources: false,
      fn,
    });

  const test = (name: string, body: () => Promise<void>) =>
    declare(name, async () => {
      if (bed.failure) throw new Error("there is no guest to test with: see the first test's error");
      try {
        await body();
      } catch (error) {
        console.error(bed.report());
        // The next test shall not suffer for it.
        await bed.renew();
        throw error;
      }
    });

  test("a guest boots and mounts the share", async () => {
    await bed.make("--cache", "never");
    assert.match(await bed.guest.run("grep /mnt /proc/mounts"), new RegExp(`^${TAG} /mnt virtiofs `));
    await bed.guest.run("echo from the guest > /mnt/first");
    assert.equal(await Deno.readTextFile(`${bed.shared}/first`), "from the guest\n");
  });

  test("file operations do what they do on the host", async () => {
    await compareOperations(bed);
  });

  test("64 MiB of the guest's random data arrive on the host", async () => {
    // The checksum is of a copy that never was in the share.
    const output = await bed.guest.run(
      "head -c 67108864 /dev/urandom > /tmp/r && sha256sum < /tmp/r && cp /tmp/r /mnt/up && sync && rm /tmp/r",
      180_000,
    );
    assert.equal((await Deno.stat(`${bed.shared}/up`)).size, 64 * MIB);
    assert.equal(checksum(`${bed.shared}/up`), output.slice(0, 64));
    await Deno.remove(`${bed.shared}/up`);
  });

  test("64 MiB of the host's random data arrive in the guest", async () => {
    writeRandom(`${bed.shared}/down`, 64 * MIB);
    const expected = checksum(`${bed.shared}/down`);
    const output = await bed.guest.run(
      "sha256sum < /mnt/down; dd if=/mnt/down bs=64k 2> /dev/null | sha256sum",
      180_000,
    );
    assert.deepEqual(output.match(/^[0-9a-f]{64}/gm), [expected, expected]);
    await Deno.remove(`${bed.shared}/down`);
  });

  test("5,000 small files unpacked by the guest are the same as on the host", async () => {
    await makeSmallFiles(`${bed.dir}/small`, 5000);
    const tar = await new Deno.Command("tar", {
      args: ["-C", bed.dir, "-cf", `${bed.shared}/small.tar`, "small"],
    }).output();
    assert(tar.success, "tar failed on the host");
    await bed.guest.run("cd /mnt && tar xf small.tar && rm small.tar", 240_000);
    expectNone(compareTrees(`${bed.dir}/small`, `${bed.shared}/small`));
    const counted = await bed.guest.run(
      "cd /mnt/small && find . | wc -l && find . -type f | sort | xargs cat | md5sum",
      120_000,
    );
    const here = await new Deno.Command("sh", {
      args: ["-c", "find . | wc -l && find . -type f | LC_ALL=C sort | xargs cat | md5sum"],
      cwd: `${bed.dir}/small`,
    }).output();
    assert.equal(counted, new TextDecoder().decode(here.stdout));
    await bed.guest.run("rm -r /mnt/small", 120_000);
    await assert.rejects(Deno.stat(`${bed.shared}/small`), Deno.errors.NotFound);
  });

  test("the share can be unmounted and mounted again and again", async () => {
    for (let i = 1; i <= 5; i++) {
      await bed.guest.run(
        `cd / && umount /mnt && [ -z "$(ls /mnt)" ] && mount -t virtiofs ${TAG} /mnt && echo ${i} >> /mnt/mounts`,
      );
    }
    assert.equal(await Deno.readTextFile(`${bed.shared}/mounts`), "1\n2\n3\n4\n5\n");
    const { status } = await bed.guest.try("mount -t virtiofs wrong-tag /tmp");
    assert.notEqual(status, 0);
  });

  test("cache=never: each side sees the other's changes at once", async () => {
    const path = `${bed.shared}/coherent`;
    for (const text of ["first", "second", "a longer third", "4"]) {
      await Deno.writeTextFile(path, text);
      assert.equal(await bed.guest.run("stat -c %s /mnt/coherent; cat /mnt/coherent"), `${text.length}\n${text}`);
    }
    // A file that is replaced, a mode that is changed, a name that comes and goes.
    await Deno.writeTextFile(`${bed.shared}/new`, "replaced");
    await Deno.rename(`${bed.shared}/new`, path);
    await Deno.chmod(path, 0o640);
    assert.equal(
      await bed.guest.run("cat /mnt/coherent; stat -c ' %a' /mnt/coherent; ls /mnt/new || :"),
      [
        "replaced 640",
        "ls: /mnt/new: No such file or directory",
        "",
      ].join("\n"),
    );
    await Deno.remove(path);
    assert.equal((await bed.guest.try("cat /mnt/coherent")).status, 1);
    // A descriptor that the guest holds open reads what the host has appended since.
    await Deno.writeTextFile(path, "one\n");
    await bed.guest.start(
      "exec 3< /mnt/coherent; read a <&3; : > /mnt/opened; until [ -e /mnt/go ]; do usleep 10000; done; read b <&3; echo $a $b > /mnt/answer.new; mv /mnt/answer.new /mnt/answer",
    );
    await until("the guest to open the file", () => Deno.stat(`${bed.shared}/opened`).catch(() => null), 20_000);
    await Deno.writeTextFile(path, "two\n", { append: true });
    await Deno.writeTextFile(`${bed.shared}/go`, "");
    await until("the guest's answer", () => Deno.stat(`${bed.shared}/answer`).catch(() => null), 20_000);
    assert.equal(await Deno.readTextFile(`${bed.shared}/answer`), "one two\n");
    // And the reverse, without sync, close or unmount.
    for (const text of ["from", "the guest", "at once"]) {
      await bed.guest.run(`printf '${text}' > /mnt/coherent`);
      assert.equal(await Deno.readTextFile(path), text);
    }
    await bed.guest.run("mv /mnt/coherent /mnt/elsewhere; chmod 600 /mnt/elsewhere");
    assert.equal((await Deno.stat(`${bed.shared}/elsewhere`)).mode! & 0o777, 0o600);
    await assert.rejects(Deno.stat(path), Deno.errors.NotFound);
  });

  test("the guest reboots and mounts the share again", async () => {
    for (const time of ["first", "second"]) {
      await bed.guest.run(`echo before the ${time} reboot > /mnt/reboot`);
      await bed.guest.reboot();
      assert.equal(await bed.guest.run("cat /mnt/reboot"), `before the ${time} reboot\n`);
    }
    await bed.guest.run("cp /mnt/reboot /mnt/after");
    assert.equal(await Deno.readTextFile(`${bed.shared}/after`), "before the second reboot\n");
  });

  let idle: number | undefined;

  test("the daemon outlives the guest and leaks no descriptor", async () => {
    await bed.guest.powerOff();
    await bed.expectDaemonIdle();
    // From now on there are two CPUs, where the guest can have them, and so two queues: twice, for the first starts Workers.
    for (const _ of [1, 2]) {
      await bed.boot(2);
      await bed.guest.run("find /mnt > /dev/null; echo again > /mnt/again");
      await bed.guest.powerOff();
      idle = await bed.expectDaemonIdle(idle);
    }
  });

  test("the daemon outlives a guest that is killed while it reads and writes", async () => {
    await bed.boot(2);
    await bed.guest.run("for i in $(seq 1 200); do echo $i > /mnt/open-$i; done");
    await bed.guest.start(
      "exec 3< /mnt/open-1 4>> /mnt/open-2; for f in 1 2 3; do dd if=/dev/zero of=/mnt/big-$f bs=64k count=4096 & find /mnt > /dev/null & done; while :; do cat /mnt/open-* > /mnt/all; done",
    );
    await until("the guest's writing", async () => {
      const stat = await Deno.stat(`${bed.shared}/big-2`).catch(() => null);
      return stat && stat.size > 4 * MIB;
    }, 60_000);
    await bed.guest.kill();
    await bed.expectDaemonIdle(idle);
    await bed.boot();
    assert.equal(await bed.guest.run("cat /mnt/open-200 && rm /mnt/big-* && echo next > /mnt/next"), "200\n");
    assert.equal(await Deno.readTextFile(`${bed.shared}/next`), "next\n");
    await bed.guest.powerOff();
    await bed.expectDaemonIdle(idle);
  });

  for (const cache of moreCaches) {
    declare(`file operations with cache=${cache} do what they do on the host`, async () => {
      const other = new Bed(kind);
      try {
        await other.make("--cache", cache);
        await compareOperations(other);
        await other.guest.powerOff();
        await other.expectDaemonIdle();
      } catch (error) {
        console.error(other.report());
        throw error;
      } finally {
        await other.clear();
      }
    });
  }

  declare("the daemon ends when it is told to", async () => {
    try {
      assert(!bed.failure, "there was no guest to test with: see the first test's error");
      assert.equal(await bed.daemon.stop(), "politely");
    } finally {
      await bed.clear();
    }
  });
}
