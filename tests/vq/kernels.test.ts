// The batteries of the loop and of the file system as they run on other kernels: with the flags that an older io_uring takes, and without
// any io_uring, which a seccomp filter takes away as a container's profile does.
import assert from "node:assert/strict";
import { SYS } from "../../ffi/arch.ts";
import { EPERM } from "../../ffi/errno.ts";

const path = (name: string) => new URL(`../${name}`, import.meta.url).pathname;
const LOOP = path("vq/loop.test.ts");
const TEST = [Deno.execPath(), "test", "-A", "--no-check"];
const IO_URING = [SYS.io_uring_setup, SYS.io_uring_enter, SYS.io_uring_register].join();
const DENY = [Deno.execPath(), "run", "-A", "--no-check", path("ffi/deny.ts"), `${EPERM}`, IO_URING];

/** Runs tests in a process of their own, which must all pass. Returns what it said. */
async function battery(command: string[], env: Record<string, string> = {}): Promise<string> {
  const [program, ...args] = command;
  const { success, stdout, stderr } = await new Deno.Command(program, { args, env: { NO_COLOR: "1", ...env } })
    .output();
  const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  assert.ok(success, said);
  const [, passed] = /ok \| (\d+) passed/.exec(said) ?? [];
  assert.ok(Number(passed) > 0, said);
  return said;
}

for (const kernel of ["5.13", "5.19"]) {
  Deno.test(`loops serve with the io_uring flags of Linux ${kernel}`, async () => {
    // Those that are about submitting, waiting and waking up.
    const filter = "/^(loop |stopQueue|startQueue\\(\\) and|requests|several|setMemory\\(\\) (under|waits)|bell)/";
    await battery([...TEST, "--filter", filter, LOOP], { RINGFSD_TEST_RING: kernel });
  });
}

Deno.test("loops serve without io_uring", async () => {
  await battery([...DENY, ...TEST, LOOP, path("vq/calls.test.ts"), path("faults/restart.test.ts")]);
});

Deno.test("the daemon serves without io_uring", async () => {
  const files = ["files", "hostile", "locking", "more"].map((name) => path(`fs/${name}.test.ts`));
  await battery([...DENY, ...TEST, ...files]);
  // But for the test that counts descriptors: helpers that start meanwhile have some of their own.
  await battery([...DENY, ...TEST, "--filter", "/^(INIT|DeviceControl)/", path("fs/init.test.ts")]);
});
