import assert from "node:assert/strict";
import { WriteWatch } from "../../fs/write_watch.ts";

/** Runs `body` with a clock that stands still but for `pass`, in milliseconds. */
function withClock(body: (pass: (ms: number) => void) => void) {
  const { now } = performance;
  let time = 1000;
  performance.now = () => time;
  try {
    body((ms) => void (time += ms));
  } finally {
    performance.now = now;
  }
}

/** Some writes of a duration each. */
function write(watch: WriteWatch, count: number, took: () => void) {
  for (let i = 0; i < count; i++) {
    watch.before();
    took();
    watch.after();
  }
}

Deno.test("WriteWatch.throttled is false while writes are quick", () =>
  withClock((pass) => {
    const watch = new WriteWatch();
    write(watch, 1000, () => pass(1));
    assert.ok(!watch.throttled);
  }));

Deno.test("WriteWatch.throttled is true after slow writes, for a while", () =>
  withClock((pass) => {
    const watch = new WriteWatch();
    write(watch, 16, () => pass(10));
    assert.ok(watch.throttled);
    pass(400);
    for (let i = 0; i < 200; i++) assert.ok(watch.throttled);
    pass(200);
    let asked = 0;
    while (watch.throttled) assert.ok(++asked <= 64, "the clock is looked at every 64 writes");
    assert.ok(!watch.throttled);
    write(watch, 16, () => pass(0));
    assert.ok(!watch.throttled);
    write(watch, 16, () => pass(10));
    assert.ok(watch.throttled, "and again");
  }));
