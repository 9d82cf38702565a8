// vq/awake.ts. The clock is the test's, and what is written goes into a memfd.
import assert from "node:assert/strict";
import { checked, cString, libc } from "../../ffi/libc.ts";
import { Awake, openAwake } from "../../vq/awake.ts";

const ANY = 2_000_000_000;

/** A machine on which a call and what comes with it takes `slow` µs, and `fast` while processors are kept awake. */
class Machine implements Disposable {
  readonly fd = checked("memfd_create", libc.memfd_create(cString("latencies"), 0));
  readonly counts = new Float64Array(1);
  now = 1000;
  /** How long they stay fast afterwards, in ms. */
  lastsMs = 0;
  #until = 0;
  readonly awake: Awake;

  constructor(cpus: number, public slow: number, public fast: number, readonly perCall = 1) {
    this.awake = new Awake(this.fd, cpus, this.counts, 0, () => this.now);
  }

  /** What was written so far, in µs. */
  get written(): number[] {
    const bytes = new Uint8Array(65536);
    const n = libc.pread(this.fd, bytes, bytes.length, 0n);
    return [...new Int32Array(bytes.buffer, 0, n / 4)];
  }

  /** How often processors were kept awake. */
  get times(): number {
    return this.written.filter((us) => us === 0).length;
  }

  run(ms: number): void {
    for (const end = this.now + ms; this.now < end;) {
      if (this.awake.held) this.#until = this.now + this.lastsMs;
      this.now += (this.awake.held || this.now < this.#until ? this.fast : this.slow) / 1000;
      this.awake.requests += this.perCall;
      this.awake.called();
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

Deno.test("Awake does it again where requests come faster afterwards, and for a small part of the time", () => {
  for (const [slow, fast, lastsMs, perCall] of [[16, 7, 500, 1], [66, 58, 100, 30]]) {
    using machine = new Machine(2, slow, fast, perCall);
    machine.lastsMs = lastsMs;
    const before = machine.now;
    machine.run(10_000);
    const { times, written, counts: [heldMs] } = machine;
    assert.ok(times >= 10_000 / lastsMs / 3 && times < 10_000 / 70, `${times} times in 10 s`);
    assert.deepEqual(written.slice(0, 4), [0, ANY, 0, ANY]);
    assert.ok(heldMs > 0 && heldMs < 0.1 * (machine.now - before), `${heldMs} ms in 10 s`);
  }
});

Deno.test("Awake is kept up where requests come twice as fast, and only meanwhile", () => {
  using machine = new Machine(2, 16, 8);
  machine.run(2000);
  assert.equal(machine.awake.held, true);
  assert.equal(machine.times, 2);
  assert.ok(machine.counts[0] > 1800, `${machine.counts[0]} of 2000 ms were counted`);
  // Compared anew after a while: requests are quick by now, whatever is done.
  machine.slow = 8;
  machine.run(6000);
  assert.equal(machine.awake.held, false);
});

Deno.test("Awake tries later and later where it is in vain", () => {
  using machine = new Machine(2, 16, 16);
  const tries: number[] = [];
  for (let times = 0; machine.now < 30_000;) {
    machine.run(1);
    if (machine.times > times) tries.push(machine.now);
    times = machine.times;
  }
  assert.ok(tries.length >= 6 && tries.length <= 12, `${tries.length} times in 29 s`);
  const gaps = tries.slice(1).map((at, i) => at - tries[i]);
  assert.ok(gaps.every((gap, i) => i === 0 || gap > gaps[i - 1] - 20), `${gaps} ms between`);
  assert.ok(machine.counts[0] < 100, `${machine.counts[0]} of 29,000 ms`);
  // Other requests come: that is tried soon.
  machine.slow = 40;
  machine.fast = 20;
  machine.lastsMs = 500;
  const { times } = machine;
  machine.run(300);
  assert.ok(machine.times > times, "tried soon");
});

Deno.test("Awake wants more where more processors would be kept awake", () => {
  for (const [cpus, fast, pays] of [[2, 8, true], [3, 8, false], [4, 8, false], [3, 6, true], [4, 4, true]] as const) {
    using machine = new Machine(cpus, 16, fast);
    machine.run(100);
    assert.equal(machine.awake.held, pays, `${cpus} processors, ${fast} µs`);
  }
});

Deno.test("Awake does nothing for a loop that calls seldom", () => {
  using machine = new Machine(2, 250, 100);
  machine.run(2000);
  assert.deepEqual(machine.written, []);
});

Deno.test("Awake lets processors halt before the loop sleeps, and begins again afterwards", () => {
  using machine = new Machine(2, 16, 8);
  machine.run(100);
  machine.sleep(100);
  assert.equal(machine.awake.held, false);
  const { written } = machine;
  assert.equal(written.at(-1), ANY);
  machine.sleep(1);
  machine.sleep(1);
  assert.deepEqual(machine.written, written, "what is let go of is not let go of again");
  machine.run(300);
  assert.equal(machine.awake.held, true);
});

Deno.test("Awake does it seldom for a driver that comes in bursts, too short to tell", () => {
  using machine = new Machine(2, 16, 8);
  for (let burst = 0; burst < 5000; burst++) {
    machine.run(6);
    machine.sleep(1);
  }
  assert.ok(machine.times >= 1 && machine.times < 20, `${machine.times} times in 35 s`);
  // Bursts that differ are tried anew, but seldom all the same.
  const { times, now } = machine;
  for (let burst = 0; burst < 2000; burst++) {
    machine.slow = burst % 2 === 0 ? 16 : 40;
    machine.run(6);
    machine.sleep(1);
  }
  const each = (machine.now - now) / (machine.times - times);
  assert.ok(each > 70, `every ${each} ms`);
});

Deno.test("Awake lets processors halt when it has stopped to pay, and not for one slow window", () => {
  using machine = new Machine(2, 16, 8);
  machine.run(100);
  const { written } = machine;
  machine.fast = 16;
  machine.run(4);
  machine.fast = 8;
  machine.run(50);
  assert.deepEqual(machine.written, written);
  machine.fast = 16;
  machine.run(50);
  assert.equal(machine.awake.held, false);
});

Deno.test("openAwake() opens nothing where there are too many processors, or but one, or none is known", () => {
  for (const cpus of [0, 1, 5, 100]) assert.deepEqual(openAwake(8, cpus), { fds: [], cpus });
});
