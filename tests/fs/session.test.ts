// The session's state, as several loops see it.
import assert from "node:assert/strict";
import { allocateSession, Session, STATE_DRAINING, STATE_NEW, STATE_RUNNING } from "../../fs/session.ts";

function loops(n: number): Session[] {
  const addr = allocateSession(n);
  return Array.from({ length: n }, (_, i) => new Session(addr, n, i));
}

Deno.test("Session starts new, and start() is seen by all loops", () => {
  const [a, b] = loops(2);
  assert.equal(b.state, STATE_NEW);
  assert.ok(a.drain());
  a.forget();
  assert.equal(b.state, STATE_DRAINING, "nobody begins between forget() and start()");
  a.start(38, 0x8000_0001, 5);
  assert.deepEqual([b.state, b.minor, b.flags >>> 0, b.flags2], [STATE_RUNNING, 38, 0x8000_0001, 5]);
  a.close();
  assert.equal(b.state, STATE_NEW);
});

Deno.test("Session.drain() is granted to one loop", () => {
  const [a, b] = loops(2);
  a.start(38, 0, 0);
  assert.ok(a.drain());
  assert.equal(a.state, STATE_DRAINING);
  assert.ok(!b.drain());
  assert.ok(!a.drain());
  // The refused one has not taken the winner's place.
  b.begin();
  assert.equal(b.end(), 0);
  a.close();
  assert.ok(b.drain());
  a.begin();
  assert.equal(a.end(), 1);
});

Deno.test("Session.end() names the loop that waits, and none otherwise", () => {
  const [a, b, c] = loops(3);
  a.start(38, 0, 0);
  b.begin();
  assert.equal(b.end(), -1);
  b.begin();
  c.begin();
  a.begin();
  assert.ok(a.drain());
  assert.ok(!a.othersIdle);
  assert.equal(b.end(), 0);
  assert.ok(!a.othersIdle);
  assert.equal(c.end(), 0);
  assert.ok(a.othersIdle);
});

Deno.test("Session.forget() raises the epoch", () => {
  const [a, b] = loops(2);
  const before = b.epoch;
  a.drain();
  a.forget();
  assert.equal(b.epoch, before + 1);
});
