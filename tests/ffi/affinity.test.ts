import assert from "node:assert/strict";
import { allowedCpus, cpuMask, pinProcess, pinThread } from "../../ffi/affinity.ts";
import { threadId } from "../../ffi/interrupt.ts";

/** Cpus_allowed_list of a thread of this process, proc_pid_status(5). */
function listed(thread: number): string {
  return /^Cpus_allowed_list:\s+(\S+)$/m.exec(Deno.readTextFileSync(`/proc/self/task/${thread}/status`))![1];
}

Deno.test("cpuMask() bit n of byte n / 8 is CPU n", () => {
  assert.deepEqual([...cpuMask([0, 9, 8]).slice(0, 3)], [1, 3, 0]);
  assert.equal(cpuMask([]).length, 1024);
  assert.throws(() => cpuMask([8192]), /no CPU 8192/);
  assert.throws(() => cpuMask([-1]), /no CPU -1/);
});

Deno.test("allowedCpus() has as many as nproc counts", () => {
  const { stdout } = new Deno.Command("nproc", { env: { OMP_NUM_THREADS: "", OMP_THREAD_LIMIT: "" } }).outputSync();
  assert.equal(allowedCpus().length, Number(new TextDecoder().decode(stdout)));
  assert.throws(() => allowedCpus(2 ** 30), /sched_getaffinity/);
});

Deno.test("pinThread() pins one thread, pinProcess() all", () => {
  const all = allowedCpus();
  const last = all.at(-1)!;
  try {
    pinThread([last]);
    assert.deepEqual(allowedCpus(), [last]);
    assert.equal(listed(threadId()), `${last}`);
    assert.throws(() => pinThread([8000]), /sched_setaffinity: Invalid argument/);
    pinProcess([last]);
    for (const { name } of Deno.readDirSync("/proc/self/task")) assert.equal(listed(Number(name)), `${last}`);
  } finally {
    pinProcess(all);
  }
  assert.deepEqual(allowedCpus(), all);
});
