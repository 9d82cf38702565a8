/** Framing: pieces, wrong headers, rubbish. */
import assert from "node:assert/strict";
import { libc } from "../../ffi/libc.ts";
import * as W from "../../vhost/wire.ts";
import {
  type Bench,
  FEATURES,
  type FrontEnd,
  memTable,
  message,
  openDescriptors,
  u32,
  u64,
  until,
  withRunningQueue,
  withServer,
} from "./harness.ts";

Deno.test("Connection.read() puts a message together from single bytes", () =>
  withServer(async ({ connect, device, memory }) => {
    const end = connect();
    const bytes = message(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]));
    for (let i = 0; i < bytes.length; i++) {
      await end.raw(bytes.subarray(i, i + 1), i === 0 ? [memory()] : []);
      // Now and then the server is given the time to see the piece by itself.
      if (i % 7 === 0) await new Promise((resolve) => setTimeout(resolve, 0));
    }
    await end.settle();
    assert.deepEqual(device.calls, ["setMemory 1"]);
  }));

Deno.test("Connection.read() takes descriptors that come with the payload", () =>
  withServer(async ({ connect, device, memory }) => {
    const end = connect();
    const bytes = message(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]));
    await end.raw(bytes.subarray(0, 12));
    await end.raw(bytes.subarray(12), [memory()]);
    await end.settle();
    assert.deepEqual(device.calls, ["setMemory 1"]);
  }));

Deno.test("Connection.read() takes apart messages that were sent at once", () =>
  withServer(async ({ connect }) => {
    const end = connect();
    const get = message(W.VHOST_USER_GET_FEATURES);
    const set = message(W.VHOST_USER_SET_FEATURES, u64(FEATURES));
    await end.raw(new Uint8Array([...get, ...set, ...get, ...set, ...get]));
    for (let i = 0; i < 3; i++) assert.deepEqual((await end.receive()).payload, u64(FEATURES));
  }));

Deno.test("Connection.reply() waits for a front end that is slow to read", () =>
  withServer(async ({ negotiated }) => {
    const end = await negotiated();
    const count = 300;
    const request = message(W.VHOST_USER_GET_CONFIG, u32(0, 4096, 0));
    const sending = (async () => {
      for (let i = 0; i < count; i++) await end.raw(request);
    })();
    for (let i = 0; i < count; i++) assert.equal((await end.receive()).payload.length, 12 + 4096);
    await sending;
  }));

Deno.test("Server.close() does not wait for a front end that never reads", () =>
  withServer(async ({ negotiated, reactor }) => {
    const end = await negotiated();
    const request = message(W.VHOST_USER_GET_CONFIG, u32(0, 4096, 0));
    let stuck = false;
    (async () => {
      while (!stuck) await end.raw(request);
    })().catch(() => {});
    let before = -1;
    // Nothing moves any more when the front end waits to write.
    await until(() => {
      const now = libc.poll(new Uint8Array([...u32(end.fd), 4, 0, 0, 0]), 1, 0);
      const same = now === 0 && before === 0;
      before = now;
      return same;
    }, "the buffers to fill");
    stuck = true;
    reactor.forget(end.fd);
  }));

/** Headers that must end the session, by request, flags and size, with what the log says. */
const headers: [number, number, number, RegExp][] = [
  [0, 1, 0, /request 0: there is no such message/],
  [45, 1, 0, /request 45: there is no such message/],
  [0xffffffff, 1, 0, /request 4294967295: there is no such/],
  [1, 0, 0, /VHOST_USER_GET_FEATURES: protocol version 0, expected 1/],
  [1, 2, 0, /protocol version 2/],
  [1, 3, 0, /protocol version 3/],
  [1, 5, 0, /VHOST_USER_GET_FEATURES: a reply/],
  [1, 0x11, 0, /VHOST_USER_GET_FEATURES: unknown flags 0x11/],
  [1, 0x80000001, 0, /unknown flags 0x80000001/],
  [1, 1, 8, /VHOST_USER_GET_FEATURES: payload of 8 bytes, expected 0/],
  [2, 1, 0, /VHOST_USER_SET_FEATURES: payload of 0 bytes, expected 8/],
  [2, 1, 9, /payload of 9 bytes/],
  [2, 1, 0xffffffff, /payload of 4294967295 bytes/],
  [24, 1, 11, /VHOST_USER_GET_CONFIG: payload of 11 bytes/],
  [24, 1, 4109, /VHOST_USER_GET_CONFIG: payload of 4109 bytes, expected 12 to 4108/],
  [44, 1, 1 << 20, /VHOST_USER_GET_SHMEM_CONFIG: payload of 1048576 bytes/],
];

async function oneLine(bench: Bench, end: FrontEnd, why: RegExp): Promise<void> {
  await end.closed();
  const lines = bench.log.take("error");
  assert.equal(lines.length, 1, lines.join("\n"));
  assert.match(lines[0], why);
  assert.match(lines[0], new RegExp(`^error: closed the connection of front end \\(process ${Deno.pid}\\): `));
}

Deno.test("wrong headers end the session with one line", () =>
  withServer(async (bench) => {
    for (const [request, flags, size, why] of headers) {
      const end = bench.connect();
      await end.raw(u32(request, flags, size));
      await oneLine(bench, end, why);
    }
  }));

Deno.test("every message of fixed size ends the session with another size", () =>
  withServer(async (bench) => {
    for (const [request, { minSize, maxSize, name }] of W.shapes) {
      for (const size of [minSize - 1, maxSize + 1]) {
        if (size < 0) continue;
        const end = bench.connect();
        await end.raw(u32(request, 1, size));
        await oneLine(bench, end, new RegExp(`${name}: payload of ${size} bytes`));
      }
    }
  }));

Deno.test("every message ends the session with too many or too few descriptors, and they are closed", () =>
  withServer(async (bench) => {
    const event = bench.event();
    for (const [request, { minSize, minFds, maxFds, name }] of W.shapes) {
      for (const count of [minFds - 1, maxFds + 1, 250]) {
        if (count < 0) continue;
        const before = openDescriptors();
        const end = bench.connect();
        await end.raw(message(request, new Uint8Array(minSize)), new Array(count).fill(event));
        await oneLine(bench, end, new RegExp(`${name}: came with ${count} descriptors`));
        assert.equal(openDescriptors(), before + 1);
      }
    }
  }));

Deno.test("descriptors that come piecemeal are counted and closed", () =>
  withServer(async (bench) => {
    const event = bench.event();
    const before = openDescriptors();
    const end = bench.connect();
    const bytes = message(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]));
    for (let i = 0; i < bytes.length; i++) await end.raw(bytes.subarray(i, i + 1), [event]);
    await oneLine(bench, end, /SET_MEM_TABLE: came with \d+ descriptors/);
    assert.equal(openDescriptors(), before + 1);
  }));

Deno.test("a front end that goes away in the middle of a message is noted, its descriptors closed", () =>
  withServer(async (bench) => {
    const event = bench.event();
    const bytes = message(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]));
    for (const length of [1, 11, 12, 13, bytes.length - 1]) {
      const before = openDescriptors();
      const end = bench.connect();
      await end.raw(bytes.subarray(0, length), [event]);
      end.close();
      await until(() => bench.log.lines.some((line) => line.startsWith("error")), "the log");
      await until(() => openDescriptors() === before, "the server to close everything");
      const lines = bench.log.take("error");
      assert.equal(lines.length, 1, lines.join("\n"));
      assert.match(lines[0], /the front end went away in the middle of the message/);
    }
  }));

/** A seeded generator, mulberry32: numbers below a limit. */
function generator(seed: number): (limit: number) => number {
  return (limit) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % limit;
  };
}

/** A message whose header is right more often than not, with anything inside. */
function randomMessage(random: (limit: number) => number): Uint8Array {
  const request = random(20) === 0 ? random(2 ** 32) : random(46);
  const { minSize, maxSize } = W.shapes.get(request) ?? { minSize: 0, maxSize: 64 };
  const size = random(10) === 0 ? random(300) : Math.min(maxSize, minSize + 32 * random(3));
  const payload = new Uint8Array(size);
  for (let at = 0; at + 4 <= size; at += 4) {
    payload.set(u32([random(3), random(2 ** 32), 1 << random(16), random(16) * 4096, 0, 0][random(6)]), at);
  }
  return message(request, payload, [1, 9, 1, 9, 1, 9, random(2 ** 32)][random(7)]);
}

async function sendRubbish(bench: Bench, seed: number, rounds: number): Promise<void> {
  const random = generator(seed);
  const descriptors = [bench.memory(), bench.event(), bench.event()];
  for (let round = 0; round < rounds; round++) {
    const running = random(4) === 0;
    const end = running ? await withRunningQueue(bench) : random(2) === 0 ? await bench.negotiated() : bench.connect();
    const count = 1 + random(12);
    for (let i = 0; i < count; i++) {
      const bytes = randomMessage(random);
      const fds = Array.from({ length: random(3) === 0 ? random(4) : 0 }, () => descriptors[random(3)]);
      await end.raw(random(10) === 0 ? bytes.subarray(0, random(bytes.length) + 1) : bytes, fds);
    }
    end.close();
  }
}

Deno.test("random rubbish ends sessions and nothing else; the next front end is served", () =>
  withServer(async (bench) => {
    const seed = Number(Deno.env.get("RINGFSD_TEST_SEED") ?? 20240607);
    await sendRubbish(bench, seed, 400);
    const end = await withRunningQueue(bench);
    await end.settle();
    assert.ok(bench.log.take("error").length > 50);
    assert.ok(bench.log.take("info: front end").length >= 400);
  }));
