/** Negotiation, acknowledgements, configuration space, reset: what is not about one ring or the memory. */
import assert from "node:assert/strict";
import { libc } from "../../ffi/libc.ts";
import * as wire from "../../vhost/wire.ts";
import {
  FakeDevice,
  FEATURES,
  isOpen,
  memTable,
  message,
  negotiate,
  openDescriptors,
  PROTOCOL_FEATURES,
  u32,
  u64,
  until,
  withRunningQueue,
  withServer,
} from "./harness.ts";
import { makers } from "../fuzz/descriptors.ts";

const W = wire;

Deno.test("GET_FEATURES offers the transport's and the device's features", () =>
  withServer(async ({ connect }) => {
    assert.equal(await connect().ask64(W.VHOST_USER_GET_FEATURES), FEATURES);
  }));

Deno.test("GET_PROTOCOL_FEATURES comes before SET_FEATURES and has CONFIG where there is a configuration", () =>
  withServer(async ({ connect }) => {
    assert.equal(await connect().ask64(W.VHOST_USER_GET_PROTOCOL_FEATURES), PROTOCOL_FEATURES);
  }));

Deno.test("GET_PROTOCOL_FEATURES lacks CONFIG where the device shows none", () => {
  const device = new FakeDevice();
  device.config = new Uint8Array(0);
  return withServer(async ({ connect }) => {
    const expected = PROTOCOL_FEATURES & ~W.VHOST_USER_PROTOCOL_F_CONFIG;
    assert.equal(await connect().ask64(W.VHOST_USER_GET_PROTOCOL_FEATURES), expected);
  }, { device });
});

Deno.test("SET_FEATURES and SET_PROTOCOL_FEATURES take any part of what was offered", () =>
  withServer(async ({ connect }) => {
    const end = connect();
    for (const features of [0n, W.VIRTIO_F_VERSION_1, FEATURES]) {
      await end.tell(W.VHOST_USER_SET_FEATURES, u64(features));
      await end.settle();
    }
    for (const features of [0n, W.VHOST_USER_PROTOCOL_F_MQ, PROTOCOL_FEATURES]) {
      await end.tell(W.VHOST_USER_SET_PROTOCOL_FEATURES, u64(features));
      await end.settle();
    }
  }));

Deno.test("SET_OWNER may be sent twice", () =>
  withServer(async ({ negotiated }) => {
    const end = await negotiated();
    assert.equal(await end.tell(W.VHOST_USER_SET_OWNER), 0);
  }));

Deno.test("GET_QUEUE_NUM is the device's number of queues", () =>
  withServer(async ({ negotiated }) => {
    assert.equal(await (await negotiated()).ask64(W.VHOST_USER_GET_QUEUE_NUM), 3n);
  }));

Deno.test("NEED_REPLY is ignored until REPLY_ACK is negotiated", () =>
  withServer(async ({ connect }) => {
    const end = connect();
    await end.raw(message(W.VHOST_USER_SET_OWNER, undefined, 9));
    await end.settle();
  }));

Deno.test("NEED_REPLY is honoured in the message that negotiates REPLY_ACK", () =>
  withServer(async ({ connect }) => {
    const end = connect();
    await end.raw(message(W.VHOST_USER_SET_PROTOCOL_FEATURES, u64(W.VHOST_USER_PROTOCOL_F_REPLY_ACK), 9));
    const reply = await end.receive();
    assert.deepEqual(reply, { request: W.VHOST_USER_SET_PROTOCOL_FEATURES, flags: 5, payload: u64(0) });
  }));

Deno.test("REPLY_ACK acknowledges only messages that ask for it", () =>
  withServer(async ({ negotiated }) => {
    const end = await negotiated();
    await end.raw(message(W.VHOST_USER_SET_OWNER, undefined, 1));
    await end.settle();
    await end.raw(message(W.VHOST_USER_SET_OWNER, undefined, 9));
    assert.deepEqual((await end.receive()).payload, u64(0));
  }));

Deno.test("REPLY_ACK adds nothing to messages with a reply of their own", () =>
  withServer(async ({ negotiated }) => {
    const end = await negotiated();
    assert.equal(await end.ask64(W.VHOST_USER_GET_QUEUE_NUM), 3n);
    assert.equal(await end.ask64(W.VHOST_USER_GET_FEATURES), FEATURES);
  }));

const config = (offset: number, size: number, flags = 0) =>
  new Uint8Array([...u32(offset, size, flags), ...new Uint8Array(Math.min(size, 4096))]);

Deno.test("GET_CONFIG returns the part that was asked for", () =>
  withServer(async ({ negotiated, device }) => {
    const end = await negotiated();
    for (const [offset, size] of [[0, 40], [36, 4], [0, 1], [39, 1]]) {
      const expected = [...u32(offset, size, 0), ...device.config.subarray(offset, offset + size)];
      assert.deepEqual([...await end.ask(W.VHOST_USER_GET_CONFIG, config(offset, size))], expected);
    }
  }));

Deno.test("GET_CONFIG takes a request without room for the answer, and keeps the flags", () =>
  withServer(async ({ negotiated }) => {
    const end = await negotiated();
    assert.deepEqual([...await end.ask(W.VHOST_USER_GET_CONFIG, u32(0, 2, 1))], [...u32(0, 2, 1), 1, 2]);
  }));

Deno.test("GET_CONFIG reads zeros beyond the device's fields", () =>
  withServer(async ({ negotiated }) => {
    const end = await negotiated();
    assert.deepEqual([...await end.ask(W.VHOST_USER_GET_CONFIG, config(38, 6))], [
      ...u32(38, 6, 0),
      39,
      40,
      0,
      0,
      0,
      0,
    ]);
    assert.equal((await end.ask(W.VHOST_USER_GET_CONFIG, config(0, 4096))).length, 12 + 4096);
  }));

Deno.test("GET_CONFIG out of range is answered by an empty payload", () =>
  withServer(async ({ negotiated, log }) => {
    const end = await negotiated();
    for (const [offset, size] of [[0, 0], [1, 4096], [4097, 1], [0, 0xffffffff], [0xffffffff, 0xffffffff]]) {
      assert.equal((await end.ask(W.VHOST_USER_GET_CONFIG, config(offset, size))).length, 0);
      assert.match(log.take("warn").join(), /VHOST_USER_GET_CONFIG/);
    }
    await end.settle();
  }));

Deno.test("SET_CONFIG is refused", () =>
  withServer(async ({ negotiated, log }) => {
    const end = await negotiated();
    assert.equal(await end.tell(W.VHOST_USER_SET_CONFIG, config(0, 4)), 1);
    assert.match(log.take("warn").join(), /VHOST_USER_SET_CONFIG: .*cannot be written/);
    await end.settle();
  }));

Deno.test("SET_BACKEND_REQ_FD does not keep what could keep the connection open", () =>
  withServer(async ({ negotiated, event }) => {
    const end = await negotiated();
    const before = openDescriptors();
    const first = event();
    assert.equal(await end.tell(W.VHOST_USER_SET_BACKEND_REQ_FD, undefined, [first]), 0);
    assert.equal(await end.tell(W.VHOST_USER_SET_BACKEND_REQ_FD, undefined, [end.fd]), 0);
    assert.equal(openDescriptors(), before + 1);
  }));

Deno.test("SET_VRING_KICK, CALL and ERR take an eventfd or a pipe and nothing else", async (t) => {
  const kinds: [string, boolean][] = [["eventfd", true], ["full", true], ["reader", true], ["hung-up-writer", true]];
  for (const name of ["memfd", "directory", "null", "epoll", "path", "own"]) kinds.push([name, false]);
  for (const [kind, taken] of kinds) {
    await t.step(kind, () =>
      withServer(async ({ negotiated, log }) => {
        for (const request of [W.VHOST_USER_SET_VRING_KICK, W.VHOST_USER_SET_VRING_CALL, W.VHOST_USER_SET_VRING_ERR]) {
          const end = await negotiated();
          const { fd, kept = [] } = makers[kind](4096, end.fd);
          if (taken) assert.equal(await end.tell(request, u64(1), [fd]), 0);
          else {
            await end.raw(message(request, u64(1), 9), [fd]);
            await end.closed();
            assert.match(log.take("error").join(), /its descriptor is neither an eventfd nor a pipe/);
          }
          end.close();
          for (const one of [fd, ...kept]) libc.close(one);
        }
      }));
  }
});

Deno.test("RESET_OWNER stops all rings", () =>
  withServer(async (bench) => {
    const end = await withRunningQueue(bench);
    assert.equal(await end.tell(W.VHOST_USER_RESET_OWNER), 0);
    assert.deepEqual(bench.device.calls, ["stopQueue 1"]);
    assert.equal(await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(1, 1)), 0);
    assert.deepEqual([...bench.device.running.keys()], [1]);
  }));

Deno.test("RESET_DEVICE forgets queues and features, and keeps memory and negotiated protocol features", () =>
  withServer(async (bench) => {
    const end = await withRunningQueue(bench);
    const kick = bench.device.lastSetup!.kickFd;
    assert.equal(await end.tell(W.VHOST_USER_RESET_DEVICE), 0);
    assert.deepEqual(bench.device.calls, ["reset", "setMemory 1"]);
    assert.equal(bench.device.running.size, 0);
    assert.equal(isOpen(kick), false);
    assert.equal(await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(1, 1)), 0);
    assert.equal(bench.device.running.size, 0);
    assert.deepEqual(await end.ask(W.VHOST_USER_GET_VRING_BASE, u32(1, 0)), u32(1, 0));
  }));

Deno.test("RESET_DEVICE without memory resets the device alone", () =>
  withServer(async ({ negotiated, device }) => {
    const end = await negotiated();
    assert.equal(await end.tell(W.VHOST_USER_RESET_DEVICE), 0);
    assert.deepEqual(device.calls, ["reset"]);
  }));

Deno.test("RESET_DEVICE that fails ends the session", () =>
  withServer(async ({ negotiated, device, log }) => {
    const end = await negotiated();
    device.reject.reset = "stuck";
    await end.raw(message(W.VHOST_USER_RESET_DEVICE, undefined, 9));
    await end.closed();
    assert.match(log.take("error").join(), /VHOST_USER_RESET_DEVICE: stuck/);
  }));

const unsupported = [...wire.shapes].filter(([request]) =>
  (request >= 19 && request <= 33 && ![21, 24, 25, 31, 32].includes(request)) || request === 35 || request > 38 ||
  request === 6 || request === 7
);

Deno.test("every message that is not supported gets a NACK where it can, and keeps the session", () =>
  withServer(async ({ negotiated, log, event }) => {
    const end = await negotiated();
    for (const [request, { replies, name }] of unsupported) {
      if (replies) continue;
      assert.equal(await end.tell(request, u64(0), [event()]), 1, name);
      const lines = log.take("warn");
      assert.equal(lines.length, 1);
      assert.match(lines[0], new RegExp(`${name}: not supported`));
    }
    await end.settle();
    assert.deepEqual(log.take("error"), []);
  }));

Deno.test("every message that is not supported ends a session that cannot be told", () =>
  withServer(async ({ connect, negotiated, log, event }) => {
    for (const [request, { name, replies }] of unsupported) {
      const end = replies ? await negotiated() : connect();
      await end.raw(message(request, u64(0), replies ? 9 : 1), [event()]);
      await end.closed();
      await until(() => log.lines.some((line) => line.startsWith("error")), "the log");
      const lines = log.take("error");
      assert.equal(lines.length, 1);
      assert.match(lines[0], new RegExp(`${name}: not supported`));
    }
  }));

Deno.test("messages whose protocol feature was not negotiated are refused", () =>
  withServer(async ({ connect, log, event }) => {
    for (const [request, { feature, name, minSize, minFds }] of wire.shapes) {
      if (feature === 0n) continue;
      const end = connect();
      await end.raw(message(request, new Uint8Array(minSize)), minFds === 1 ? [event()] : []);
      await end.closed();
      assert.match(log.take("error").join(), new RegExp(`${name}: its protocol feature was not negotiated`));
    }
  }));

Deno.test("a session ends when too much was refused", () =>
  withServer(async ({ negotiated, log }) => {
    const end = await negotiated();
    for (let i = 0; i < 32; i++) assert.equal(await end.tell(W.VHOST_USER_SET_LOG_FD), 1);
    await end.raw(message(W.VHOST_USER_SET_LOG_FD, undefined, 9));
    await end.closed();
    assert.match(log.take("error").join(), /and 32 refusals before/);
  }));

Deno.test("features that were not offered end the session", () =>
  withServer(async ({ connect, log }) => {
    for (const request of [W.VHOST_USER_SET_FEATURES, W.VHOST_USER_SET_PROTOCOL_FEATURES]) {
      for (const bit of [1n << 63n, 1n << 22n]) {
        const end = connect();
        await end.tell(request, u64(bit));
        await end.closed();
        assert.match(log.take("error").join(), new RegExp(`FEATURES: .*feature bits 0x${bit.toString(16)} were not`));
      }
    }
  }));

Deno.test("a front end without protocol features is served", () =>
  withServer(async ({ connect, device, memory }) => {
    const end = connect();
    await end.tell(W.VHOST_USER_SET_OWNER);
    await end.tell(W.VHOST_USER_SET_FEATURES, u64(W.VIRTIO_F_VERSION_1));
    await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]), [memory()]);
    await end.settle();
    assert.deepEqual(device.calls, ["setMemory 1"]);
  }));

Deno.test("negotiate() works with any part of the protocol features", () =>
  withServer(async ({ connect }) => {
    for (const features of [0n, W.VHOST_USER_PROTOCOL_F_MQ, W.VHOST_USER_PROTOCOL_F_REPLY_ACK]) {
      const end = connect();
      await negotiate(end, FEATURES, features);
      await end.settle();
      await end.raw(message(0));
      await end.closed();
    }
  }));
