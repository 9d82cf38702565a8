/** GET_INFLIGHT_FD and SET_INFLIGHT_FD. */
import assert from "node:assert/strict";
import { cString, libc } from "../../ffi/libc.ts";
import { receive, wouldBlock } from "../../ffi/socket.ts";
import * as W from "../../vhost/wire.ts";
import { regionBytes } from "../../vq/inflight.ts";
import {
  type Bench,
  type FrontEnd,
  isOpen,
  message,
  openDescriptors,
  soon,
  u64,
  withRunningQueue,
  withServer,
} from "./harness.ts";

const SIZE = 3 * regionBytes(128);
const F_GET_SEALS = 1034;
const SEAL = 1, SHRINK = 2, GROW = 4;
const MFD_ALLOW_SEALING = 2;

interface Fields {
  size?: number | bigint;
  offset?: number | bigint;
  queues?: number;
  queueSize?: number;
  padded?: boolean;
}

function description({ size = 0, offset = 0, queues = 3, queueSize = 128, padded = true }: Fields = {}): Uint8Array {
  const payload = new Uint8Array(padded ? 24 : 20);
  const view = new DataView(payload.buffer);
  view.setBigUint64(0, BigInt(size), true);
  view.setBigUint64(8, BigInt(offset), true);
  view.setUint16(16, queues, true);
  view.setUint16(18, queueSize, true);
  return payload;
}

/** Asks for an area. Resolves with the reply and its descriptor, which the test closes. */
async function getInflight(end: FrontEnd, fields: Fields = {}): Promise<[DataView, number]> {
  const { fd, reactor } = end;
  await end.raw(message(W.VHOST_USER_GET_INFLIGHT_FD, description(fields), 9));
  const bytes = new Uint8Array(12 + (fields.padded === false ? 20 : 24));
  const got: number[] = [];
  for (let at = 0; at < bytes.length;) {
    const { n, fds } = receive(fd, bytes.subarray(at), 1);
    got.push(...fds);
    if (wouldBlock(n)) await soon(reactor.readable(fd), "the area");
    else if (n > 0) at += n;
    else assert.fail("the server hung up");
  }
  assert.deepEqual([...new Uint32Array(bytes.buffer, 0, 3)], [W.VHOST_USER_GET_INFLIGHT_FD, 5, bytes.length - 12]);
  assert.equal(got.length, 1);
  return [new DataView(bytes.buffer, 12), got[0]];
}

/** A file for an area; closed behind the test. */
function file(bench: Bench, size: number, flags = MFD_ALLOW_SEALING): number {
  const fd = bench.memory(0);
  libc.close(fd);
  // In its place, so that the bench closes it.
  assert.equal(libc.memfd_create(cString("area"), flags | 1), fd);
  assert.equal(libc.ftruncate(fd, BigInt(size)), 0);
  return fd;
}

Deno.test("GET_INFLIGHT_FD hands over zeroed memory that cannot be cut short, with room for the queues", () =>
  withServer(async ({ negotiated, device }) => {
    const end = await negotiated();
    for (const padded of [true, false]) {
      const before = openDescriptors();
      const [reply, fd] = await getInflight(end, { padded });
      assert.deepEqual([reply.getBigUint64(0, true), reply.getBigUint64(8, true)], [BigInt(SIZE), 0n]);
      assert.deepEqual([reply.getUint16(16, true), reply.getUint16(18, true)], [3, 128]);
      await end.settle();
      assert.equal(openDescriptors(), before + 1, "the server keeps none");
      assert.equal(Number(libc.lseek(fd, 0n, 2)), SIZE);
      assert.equal(libc.fcntl(fd, F_GET_SEALS, 0), SEAL | SHRINK | GROW);
      const bytes = new Uint8Array(SIZE).fill(1);
      assert.equal(libc.pread(fd, bytes, SIZE, 0n), SIZE);
      assert.ok(bytes.every((byte) => byte === 0));
      libc.close(fd);
    }
    assert.deepEqual(device.calls, []);
  }));

Deno.test("SET_INFLIGHT_FD takes back what GET_INFLIGHT_FD gave, and one instead of the one before", () =>
  withServer(async ({ negotiated, device }) => {
    const end = await negotiated();
    const [, fd] = await getInflight(end);
    const before = openDescriptors();
    for (let i = 0; i < 3; i++) {
      assert.equal(await end.tell(W.VHOST_USER_SET_INFLIGHT_FD, description({ size: SIZE }), [fd]), 0);
      assert.equal(openDescriptors(), before + 1);
      assert.ok(isOpen(device.inflight!.fd));
      assert.deepEqual({ ...device.inflight, fd: 0 }, { fd: 0, offset: 0, queues: 3, queueSize: 128 });
    }
    libc.close(fd);
    end.close();
  }));

Deno.test("SET_INFLIGHT_FD takes any file that can be sealed, from a place within it", () =>
  withServer(async (bench) => {
    const end = await bench.negotiated();
    const fd = file(bench, 65536 + SIZE);
    const fields = { size: SIZE, offset: 65536, padded: false };
    assert.equal(await end.tell(W.VHOST_USER_SET_INFLIGHT_FD, description(fields), [fd]), 0);
    assert.deepEqual(bench.device.inflight!.offset, 65536);
    assert.equal(libc.fcntl(fd, F_GET_SEALS, 0), SHRINK);
    assert.equal(libc.ftruncate(fd, 0n), -1);
    end.close();
  }));

Deno.test("SET_INFLIGHT_FD refuses a file that somebody could cut short", () =>
  withServer(async (bench) => {
    const end = await bench.negotiated();
    const before = openDescriptors();
    for (const fd of [file(bench, SIZE, 0), bench.event()]) {
      assert.equal(await end.tell(W.VHOST_USER_SET_INFLIGHT_FD, description({ size: SIZE }), [fd]), 1);
    }
    assert.match(bench.log.take("warn").join(), /could be cut short, and cannot be sealed: (Operation not|Invalid)/);
    assert.deepEqual(bench.device.calls, []);
    assert.equal(openDescriptors(), before + 2, "the test's own");
  }));

for (
  const [what, fields, fileSize, reason] of [
    ["no queue", { queues: 0 }, SIZE, /0 queues, where the device has 3/],
    ["more queues than there are", { queues: 4 }, SIZE, /4 queues, where the device has 3/],
    ["a size that is no power of two", { queueSize: 100 }, SIZE, /queue size 100/],
    ["no descriptors", { queueSize: 0 }, SIZE, /queue size 0/],
    ["too small an area", { size: SIZE - 1 }, SIZE, /3 queues need/],
    ["a file that ends before", { size: SIZE }, SIZE - 1, /in a file of/],
    ["an offset behind the file's end", { size: SIZE, offset: 65536 }, SIZE, /from offset 65536 in a file of/],
    ["an offset where no page begins", { size: SIZE, offset: 64 }, SIZE * 2, /offset 64 is no multiple/],
    ["an offset beyond 2^53", { size: SIZE, offset: 1n << 60n }, SIZE, /beyond 2\^53/],
    ["a size beyond 2^53", { size: 1n << 63n }, SIZE, /beyond 2\^53/],
  ] as const
) {
  Deno.test(`SET_INFLIGHT_FD ends the session at ${what}`, () =>
    withServer(async (bench) => {
      const end = await bench.negotiated();
      const fd = file(bench, fileSize);
      await end.raw(message(W.VHOST_USER_SET_INFLIGHT_FD, description(fields), 9), [fd]);
      await end.closed();
      assert.match(bench.log.take("error").join(), reason);
      assert.deepEqual(bench.device.calls.filter((call) => call !== "reset"), []);
    }));
}

Deno.test("GET_INFLIGHT_FD ends the session where it asks for more queues than there are, or for none", async () => {
  for (const queues of [0, 4, 65535]) {
    await withServer(async (bench) => {
      const end = await bench.negotiated();
      await end.raw(message(W.VHOST_USER_GET_INFLIGHT_FD, description({ queues })));
      await end.closed();
      assert.match(bench.log.take("error").join(), /GET_INFLIGHT_FD: \d+ queues/);
    });
  }
});

Deno.test("GET_INFLIGHT_FD and SET_INFLIGHT_FD want their protocol feature", async () => {
  for (const request of [W.VHOST_USER_GET_INFLIGHT_FD, W.VHOST_USER_SET_INFLIGHT_FD]) {
    await withServer(async (bench) => {
      const end = bench.connect();
      await end.tell(W.VHOST_USER_SET_PROTOCOL_FEATURES, u64(W.VHOST_USER_PROTOCOL_F_REPLY_ACK));
      const fds = request === W.VHOST_USER_SET_INFLIGHT_FD ? [file(bench, SIZE)] : [];
      await end.raw(message(request, description({ size: SIZE }), 9), fds);
      if (fds.length > 0) {
        const { payload } = await end.receive();
        assert.deepEqual(payload, u64(1));
      } else await end.closed();
    });
  }
});

Deno.test("SET_INFLIGHT_FD leaves running queues to the device; RESET_DEVICE gives the area back", () =>
  withServer(async (bench) => {
    const end = await withRunningQueue(bench);
    const fd = file(bench, SIZE);
    assert.equal(await end.tell(W.VHOST_USER_SET_INFLIGHT_FD, description({ size: SIZE }), [fd]), 0);
    assert.deepEqual(bench.device.calls, ["setInflight 3 of 128"]);
    assert.equal(await end.tell(W.VHOST_USER_RESET_DEVICE), 0);
    assert.deepEqual(bench.device.calls.slice(1), ["reset", "setMemory 1", "setInflight 3 of 128"]);
    end.close();
  }));

Deno.test("SET_INFLIGHT_FD that the device rejects ends the session, and closes the descriptor", () =>
  withServer(async (bench) => {
    const end = await bench.negotiated();
    bench.device.reject.setInflight = "no room";
    const fd = file(bench, SIZE);
    const before = openDescriptors();
    await end.raw(message(W.VHOST_USER_SET_INFLIGHT_FD, description({ size: SIZE }), 9), [fd]);
    await end.closed();
    assert.match(bench.log.take("error").join(), /SET_INFLIGHT_FD: the area cannot be used: no room/);
    assert.equal(openDescriptors(), before - 1, "the connection");
  }));
