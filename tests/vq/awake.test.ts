// vq/awake.ts. The clock is the test's, and what is written goes into a memfd.
import assert from "node:assert/strict";
import { checked, cString, libc } from "../../ffi/libc.ts";
import { Awake, countCpus } from "../../vq/awake.ts";

const WINDOW = 256;
const ANY = 2_000_000_000;

/** A machine whose requests come `fast` µs apart while processors are kept awake, else `slow` µs. */
class Machine implements Disposable {
  readonly fd = checked("memfd_create", libc.memfd_create(cString("latencies"), 0));
  readonly counts = new Float64Array(1);
  now = 1000;
  readonly awake: Awake;

  /** How long they stay so afterwards, in windows. */
  lasts = 0;
  #until = 0;

  constructor(cpus: number, public slow: number, public fast: number) {
    this.awake = new Awake(this.fd, cpus, this.counts, 0, () => this.now);
  }

  /** What was written so far, in µs. */
  get written(): number[] {
    const bytes = new Uint8Array(4096);
    const n = libc.pread(this.fd, bytes, bytes.length, 0n);
    return [...new Int32Array(bytes.buffer, 0, n / 4)];
  }

  windows(count: number): void {
    for (let i = 0; i < count * WINDOW; i++) {
      if (this.awake.held) this.#until = this.now + this.lasts * WINDOW * this.fast / 1000;
      this.now += (this.awake.held || this.now < this.#until ? this.fast : this.slow) / 1000;
      this.awake.found();
    }
  }

  sleep(ms: number): void {
    this.awake.sleeping();
    this.now += ms;
    this.awake.woke();
  }

  [Symbol.dispose](): void {
    libc.close(this.fd);
  }
}

Deno.test("Awake keeps processors awake where requests come twice as fast by that, and only as long as it is done", () => {
  using machine = new Machine(2, 16, 8);
  machine.windows(200);
  assert.equal(machine.awake.held, true);
  assert.deepEqual(machine.written, [0, ANY, 0], "once more, for longer, since it has not lasted");
  const heldMs = machine.counts[0];
  assert.ok(heldMs > 180 * WINDOW * 0.008, `${heldMs} ms were counted`);
});

Deno.test("Awake lets go at once where processors stay quick, and begins again when they are slow", () => {
  using machine = new Machine(2, 16, 8);
  machine.lasts = 50;
  machine.windows(5);
  assert.deepEqual(machine.written, [0, ANY]);
  machine.windows(40);
  assert.deepEqual(machine.written, [0, ANY]);
  machine.windows(400);
  const { written } = machine;
  assert.ok(written.length >= 12 && written.length <= 20, `${written.length} writes`);
  assert.ok(machine.counts[0] < 0.1 * machine.now, `${machine.counts[0]} of ${machine.now} ms`);
});

Deno.test("Awake lets go before the loop sleeps, and begins again afterwards", () => {
  using machine = new Machine(2, 16, 8);
  machine.windows(20);
  machine.sleep(100);
  assert.equal(machine.awake.held, false);
  assert.deepEqual(machine.written, [0, ANY, 0, ANY]);
  machine.windows(10);
  assert.deepEqual(machine.written, [0, ANY, 0, ANY, 0]);
  machine.sleep(1);
  machine.sleep(1);
  assert.deepEqual(machine.written, [0, ANY, 0, ANY, 0, ANY], "what is let go of is not let go of again");
});

Deno.test("Awake gives up what does not pay, and tries again later and later", () => {
  using machine = new Machine(2, 16, 12);
  const tries: number[] = [];
  let held = false;
  while (machine.now < 20_000) {
    machine.windows(1);
    if (machine.awake.held && !held) tries.push(machine.now);
    held = machine.awake.held;
  }
  assert.ok(tries.length >= 6 && tries.length <= 10, `${tries.length} times in 19 s`);
  const gaps = tries.slice(1).map((at, i) => at - tries[i]);
  assert.ok(gaps.every((gap, i) => i === 0 || gap > gaps[i - 1]), `${gaps} ms between`);
  assert.ok(machine.counts[0] < 200, `${machine.counts[0]} of 19,000 ms`);
});

Deno.test("Awake wants more where more processors would be kept awake", () => {
  for (const [cpus, fast, pays] of [[2, 8, true], [3, 8, false], [4, 8, false], [3, 6, true], [4, 4, true]] as const) {
    using machine = new Machine(cpus, 16, fast);
    machine.windows(20);
    assert.equal(machine.awake.held, pays, `${cpus} processors, ${fast} µs`);
  }
});

Deno.test("Awake does nothing for a driver that is not waiting for answers", () => {
  using machine = new Machine(2, 150, 50);
  machine.windows(20);
  assert.deepEqual(machine.written, []);
});

Deno.test("Awake lets go when it has stopped to pay, and not for one slow window", () => {
  using machine = new Machine(2, 16, 8);
  machine.windows(10);
  const before = machine.written;
  machine.fast = 16;
  machine.windows(1);
  machine.fast = 8;
  machine.windows(5);
  assert.deepEqual(machine.written, before);
  machine.fast = 16;
  machine.windows(5);
  assert.deepEqual(machine.written, [...before, ANY]);
});

Deno.test("Awake compares anew after a while", () => {
  using machine = new Machine(2, 16, 8);
  machine.windows(10);
  // Requests are quick by now, whatever is done.
  machine.slow = 8;
  while (machine.now < 8000) machine.windows(1);
  assert.equal(machine.awake.held, false);
});

Deno.test("countCpus() reads what the kernel lists", () => {
  for (const [text, count] of [["0\n", 1], ["0-1\n", 2], ["0-3,8,10-11", 7], ["", 0], ["all", 0]] as const) {
    assert.equal(countCpus(text), count, text);
  }
});
