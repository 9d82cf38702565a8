import assert from "node:assert/strict";
import { WriteWatch } from "../../fs/write_watch.ts";

/** Runs `body` with a watch whose clock stands still but for `pass`, in milliseconds. */
function withClock(body: (pass: (ms: number) => void, watch: WriteWatch) => void) {
  let time = 1000;
  body((ms) => void (time += ms), new WriteWatch(8, 2, () => time));
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
  withClock((pass, watch) => {
    write(watch, 1000, () => pass(1));
    assert.ok(!watch.throttled);
  }));

Deno.test("WriteWatch.throttled is true after slow writes, for a while", () =>
  withClock((pass, watch) => {
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
