/**
 * Guests with Linux 6.12, which is Debian 13's, whatever Debian this is: a FUSE client of 7.41, which spreads its CPUs over the
 * request queues (since 6.11) and maps files shared without a cache where it may (since 6.6).
 */
import assert from "node:assert/strict";
import { type Bed, withBed } from "../guest/bed.ts";
import { setUp } from "../guest/guest.ts";
import { expectAsKnown, FLAGS, makeRoot, onHost, parse } from "../guest/posix.ts";
import { checksum } from "../guest/tree.ts";
import { writeRandom } from "../guest/data.ts";
import { KNOWN } from "../posix/known.ts";

const MIB = 1024 * 1024;
const KERNEL = "linux-6.12";

/** Why there is no such guest; undefined when there is one. In CI there must be. */
async function obstacle(): Promise<string | undefined> {
  if (Deno.env.get("CI")) return undefined;
  if (Deno.uid() !== 0) return "the guest's users and groups want a daemon that is root";
  return await setUp("tcg", KERNEL).then(() => undefined, (error) => error.message);
}

const ignore = await obstacle();
if (ignore) console.warn(`skipped: guests with Linux 6.12, because\n${ignore}`);

function test(name: string, body: (bed: Bed) => Promise<void>): void {
  Deno.test({
    name: `Linux 6.12 in QEMU: ${name}`,
    ignore: ignore !== undefined,
    async fn() {
      await withBed("tcg", async (bed) => {
        bed.machine = { kernel: KERNEL };
        await body(bed);
      });
    },
  });
}

/** Runs a part of the POSIX suite in the bed's guest. Returns what it says. */
async function posix(bed: Bed, choice: string): Promise<string> {
  await makeRoot(`${bed.shared}/root`);
  await bed.guest.run(
    "cd /mnt/root && mount --bind /proc proc && mount --bind /dev dev && mount -t tmpfs tmp tmp",
  );
  const command = `env -i HOME=/tmp NO_COLOR=1 chroot /mnt/root /deno ${FLAGS} /posix/main.ts /work --quiet ${choice}`;
  const { output } = await bed.guest.try(command, 300_000);
  await bed.guest.run("cd /mnt/root && umount proc dev tmp");
  return output;
}

test("the POSIX suite holds with the usual cache", async (bed) => {
  bed.memMib = 1024;
  await bed.make("--xattr", "--modcaps", "+sys_admin", "--posix-acl", "--log-level", "debug");
  assert.match(await bed.guest.run("uname -r"), /^6\.12\./);
  assert.match(bed.daemon.output.text, /client of 7\.41/);
  const host = await onHost(bed.shared);
  // Directories of many thousand files are made where it takes less time.
  const output = await posix(bed, "--without=readdir");
  expectAsKnown(parse(output), {}, [...host.rest.keys()]);
  await bed.guest.powerOff();
  await bed.expectDaemonIdle();
});

test("without a cache files are mapped shared where --allow-mmap says so", async (bed) => {
  bed.memMib = 1024;
  await bed.make("--cache", "never", "--allow-mmap");
  const output = await posix(bed, "--only=mmap,io,truncate");
  expectAsKnown(parse(output), {}, []);
  await bed.guest.powerOff();
  await bed.expectDaemonIdle();
});

test("without a cache and --allow-mmap they are not", async (bed) => {
  bed.memMib = 1024;
  await bed.make("--cache", "never");
  const known = KNOWN["cache=never"];
  assert("mmap: MAP_SHARED" in known);
  expectAsKnown(parse(await posix(bed, "--only=mmap")), { "mmap: MAP_SHARED": known["mmap: MAP_SHARED"] }, []);
});

test("two CPUs have a queue each, and each queue a loop", async (bed) => {
  bed.memMib = 512;
  bed.machine = { ...bed.machine, cpus: 2, queues: 2, queueSize: 256 };
  await bed.make("--cache", "never", "--num-request-queues", "2");
  for (const i of [0, 1]) writeRandom(`${bed.shared}/down-${i}`, 16 * MIB);
  const before = bed.daemon.bytesRead();
  const job = (i: number) =>
    `taskset ${1 << i} sh -c 'dd if=/mnt/down-${i} bs=16k 2> /dev/null | tee /mnt/up-${i} | sha256sum > /tmp/sum-${i}'`;
  const output = await bed.guest.run(`${job(0)} & ${job(1)} & wait; cat /tmp/sum-0 /tmp/sum-1`, 120_000);
  const expected = [0, 1].map((i) => checksum(`${bed.shared}/down-${i}`));
  assert.deepEqual(output.match(/^[0-9a-f]{64}/gm), expected);
  assert.deepEqual([0, 1].map((i) => checksum(`${bed.shared}/up-${i}`)), expected);
  const each = [...bed.daemon.bytesRead()].map(([thread, bytes]) => bytes - (before.get(thread) ?? 0));
  const shares = each.filter((bytes) => bytes >= MIB);
  assert.equal(shares.length, 2, `bytes read by each thread of the daemon: ${each}`);
  // One job alone is served by one loop, as long as its reads are too small for workers on other processors.
  const between = bed.daemon.bytesRead();
  await bed.guest.run("taskset 2 dd if=/mnt/down-0 of=/dev/null bs=16k");
  const alone = [...bed.daemon.bytesRead()].map(([thread, bytes]) => bytes - (between.get(thread) ?? 0));
  assert.equal(alone.filter((bytes) => bytes >= 16 * MIB).length, 1, `bytes read by each thread: ${alone}`);
  await bed.guest.powerOff();
  await bed.expectDaemonIdle();
});

test("QEMU may have fewer queues than the daemon offers, and is told when it has more", async (bed) => {
  bed.machine = { ...bed.machine, cpus: 2, queues: 2 };
  await bed.make("--cache", "never", "--num-request-queues", "3");
  const job = "for i in 1 2 3 4 5 6 7 8; do taskset 1 cp /mnt/a /mnt/b; taskset 2 cp /mnt/b /mnt/a; done; cat /mnt/a";
  assert.equal(await bed.guest.run(`echo text > /mnt/a; ${job}`), "text\n");
  bed.machine = { ...bed.machine, queues: 4 };
  // QEMU does not compare, and ends or goes on without the share, as the timing has it: it is the daemon that says why.
  await bed.boot().catch(() => {});
  assert.match(
    bed.daemon.output.text,
    /queue 4, where the device has 4: give the front end fewer \(num-request-queues\)/,
  );
  // It is there for the next.
  bed.machine = { ...bed.machine, queues: 1 };
  await bed.boot();
  assert.equal(await bed.guest.run("cat /mnt/a"), "text\n");
});
