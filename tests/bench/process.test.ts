// bench/process.ts: whose CPU time counts.
import assert from "node:assert/strict";
import { O_RDONLY } from "../../ffi/arch.ts";
import { checked, cString, libc } from "../../ffi/libc.ts";
import { AT_FDCWD } from "../../ffi/stat_layout.ts";
import { Ring } from "../../ffi/uring.ts";
import { IOSQE_ASYNC } from "../../ffi/uring_layout.ts";
import { addMemory, childrenCpuNs, cpuNs, fileSystemOf, memoryUse } from "../../bench/process.ts";
import { withMemory, withRing } from "../ffi/help.ts";

/** CPU time in nanoseconds of this process's io-wq threads that live, by /proc; steps of 10 ms. */
function workersNs(): number {
  let sum = 0;
  for (const { name } of Deno.readDirSync("/proc/self/task")) {
    let text = "";
    try {
      text = Deno.readTextFileSync(`/proc/self/task/${name}/stat`);
    } catch { /* it has ended */ }
    if (!text.includes("(iou-wrk-")) continue;
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    sum += (Number(fields[11]) + Number(fields[12])) * 1e7;
  }
  return sum;
}

function canUseRing(): boolean {
  try {
    Ring.queue_init_best(8).queue_exit();
    return true;
  } catch {
    return false;
  }
}

const ring = canUseRing();

Deno.test({
  name: `cpuNs() has the time of io_uring's workers in it${ring ? "" : " [skipped: no io_uring here]"}`,
  ignore: !ring,
  fn: () =>
    withMemory(1 << 20, ({ lo, hi }) =>
      withRing(8, (ring) => {
        const fd = checked("openat", libc.openat(AT_FDCWD, cString("/dev/zero"), O_RDONLY, 0));
        const [process, workers] = [cpuNs(Deno.pid), workersNs()];
        const deadline = performance.now() + 20_000;
        // This thread sleeps while a worker fills the memory.
        while (workersNs() - workers < 100e6) {
          assert.ok(performance.now() < deadline, "no worker has used any time");
          for (let i = 0; i < 20; i++) {
            const sqe = ring.get_sqe();
            ring.prep_read(sqe, fd, lo, hi, 1 << 20, 0, 0);
            ring.sqe_set_flags(sqe, IOSQE_ASYNC);
            ring.submit_and_wait(1);
            ring.cq_advance(ring.cq_ready());
          }
        }
        libc.close(fd);
        const spent = workersNs() - workers;
        assert.ok(cpuNs(Deno.pid) - process >= spent - 20e6, `${cpuNs(Deno.pid) - process} of ${spent}`);
      })),
});

Deno.test("childrenCpuNs() counts a child when it has ended, and fileSystemOf() goes by the innermost mount", async () => {
  const before = childrenCpuNs();
  const child = new Deno.Command("sh", { args: ["-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"] });
  assert.equal((await child.output()).success, true);
  assert.ok(childrenCpuNs() - before >= 10e6);
  assert.equal(fileSystemOf("/proc/self"), "proc");
  assert.notEqual(fileSystemOf("/processor"), "proc");
});

Deno.test("addMemory() leaves the guest's memory out of what is the daemon's own, and nothing else that is shared", () => {
  const mapping = (name: string, rss: number, pss: number) =>
    `7f0000000000-7f0000100000 rw-s 00000000 00:01 1 ${name}\nSize: 4096 kB\nRss: ${rss} kB\nPss: ${pss} kB\n` +
    "Pss_Shmem: 1 kB\nVmFlags: rd wr sh\n";
  const sum = { rss: 0, pss: 0, pssOwn: 0 };
  addMemory(
    sum,
    mapping("/memfd:guest (deleted)", 100, 50) + mapping("/dev/zero (deleted)", 10, 8) + mapping("", 4, 3),
  );
  assert.deepEqual(sum, { rss: 114 * 1024, pss: 61 * 1024, pssOwn: 11 * 1024 });
});

Deno.test("memoryUse() agrees with smaps_rollup, and is 0 for a process that is not there", () => {
  const { pss, pssOwn } = memoryUse([Deno.pid]);
  const rollup = Number(/^Pss:\s+(\d+)/m.exec(Deno.readTextFileSync("/proc/self/smaps_rollup"))![1]) * 1024;
  assert.ok(Math.abs(pss - rollup) < 0.1 * rollup, `${pss}, ${rollup}`);
  assert.equal(pssOwn, pss);
  assert.equal(memoryUse([2 ** 30]).pss, 0);
});
