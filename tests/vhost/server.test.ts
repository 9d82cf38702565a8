/** The socket's life: who is served when, and how it ends. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { libc } from "../../ffi/libc.ts";
import { Reactor } from "../../ffi/reactor.ts";
import { connectUnix, listenUnix } from "../../ffi/socket.ts";
import { Server } from "../../vhost/server.ts";
import * as W from "../../vhost/wire.ts";
import { silent } from "../../vq/log.ts";
import {
  FakeDevice,
  FrontEnd,
  isOpen,
  memTable,
  message,
  openDescriptors,
  prepareQueue,
  soon,
  u32,
  u64,
  until,
  withRunningQueue,
  withServer,
} from "./harness.ts";

/** Runs a test with a directory and a reactor, and without a server. */
async function withReactor(body: (reactor: Reactor, path: string) => Promise<void>): Promise<void> {
  const directory = Deno.makeTempDirSync();
  const before = openDescriptors();
  const reactor = new Reactor();
  try {
    await body(reactor, join(directory, "socket"));
  } finally {
    await reactor.close();
    Deno.removeSync(directory, { recursive: true });
  }
  assert.equal(openDescriptors(), before, "descriptors left open");
}

Deno.test("Server.serve() resets the device and closes everything when a front end goes", () =>
  withServer(async (bench) => {
    const { device, log } = bench;
    const before = openDescriptors();
    const end = await withRunningQueue(bench);
    for (const request of [W.VHOST_USER_SET_VRING_CALL, W.VHOST_USER_SET_VRING_ERR]) {
      await end.tell(request, u64(1), [bench.event()]);
    }
    await end.tell(W.VHOST_USER_SET_BACKEND_REQ_FD, undefined, [bench.event()]);
    const { kickFd, callFd, errFd } = device.lastSetup!;
    const held = [kickFd, callFd, errFd, device.regions[0].fd];
    assert.ok(held.every(isOpen));
    end.close();
    await until(() => device.calls.at(-1) === "reset", "the reset");
    await until(() => openDescriptors() === before + 5, "descriptors to be closed (the test has five)");
    assert.ok(!held.some(isOpen));
    assert.deepEqual(log.take("error"), []);
    assert.deepEqual(log.take("info"), [
      `info: front end (process ${Deno.pid}) connected`,
      `info: front end (process ${Deno.pid}) disconnected`,
    ]);
  }));

Deno.test("Server.serve() serves the next front end, from the beginning", () =>
  withServer(async (bench) => {
    for (let i = 0; i < 5; i++) {
      const end = await withRunningQueue(bench);
      await end.tell(W.VHOST_USER_SET_VRING_BASE, u32(1, 100 + i));
      await end.raw(message(0));
      await end.closed();
      assert.equal(bench.device.running.size, 0);
      const next = bench.connect();
      await next.settle();
      await next.raw(message(W.VHOST_USER_GET_QUEUE_NUM));
      await next.closed();
    }
  }));

Deno.test("Server.serve() lets a second front end wait until the first has gone", () =>
  withServer(async (bench) => {
    const first = await withRunningQueue(bench);
    const second = bench.connect();
    await second.raw(message(W.VHOST_USER_GET_FEATURES));
    for (let i = 0; i < 10; i++) await first.settle();
    assert.deepEqual([...bench.device.running.keys()], [1]);
    await first.raw(message(0));
    await first.closed();
    assert.equal((await second.receive()).request, W.VHOST_USER_GET_FEATURES);
    assert.equal(bench.device.calls.at(-1), "reset");
    // Said once, while it waited.
    const [warning, ...more] = bench.log.take("warn");
    assert.match(warning, /^warn: another front end has connected, and waits until the first one goes: give each /);
    assert.deepEqual(more, []);
    // The third does not find the watch of the first session in its way.
    second.close();
    const third = bench.connect();
    await third.raw(message(W.VHOST_USER_GET_FEATURES));
    assert.equal((await third.receive()).request, W.VHOST_USER_GET_FEATURES);
  }));

Deno.test("a front end that enables queues and shares no memory is told so once", () =>
  withServer(async ({ connect, log }) => {
    const end = connect();
    for (let i = 0; i < 2; i++) await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(i, 1));
    await end.settle();
    const [line, ...more] = log.take("error");
    assert.match(line, /enables its queues, and it has shared no memory: give the virtual machine .*share=on/);
    assert.deepEqual(more, []);
  }));

Deno.test("Server with exitOnDisconnect ends with its front end, not with a look at the socket", () =>
  withServer(async ({ connect, served, path }) => {
    libc.close(connectUnix(path));
    const end = connect();
    await end.settle();
    await end.raw(message(0));
    await soon(served, "the end");
    assert.throws(() => Deno.statSync(path), Deno.errors.NotFound);
  }, { exitOnDisconnect: true }));

Deno.test("Server.close() stops a session with a running queue, and removes the socket file", () =>
  withServer(async (bench) => {
    const end = await withRunningQueue(bench);
    await soon(bench.server.close(), "closing");
    await soon(bench.served, "serving");
    await end.closed();
    assert.deepEqual(bench.device.calls, ["reset"]);
    assert.throws(() => Deno.statSync(bench.path), Deno.errors.NotFound);
    await bench.server.close();
  }));

Deno.test("Server.close() leaves the socket of another process alone", () =>
  withServer(async ({ server, path }) => {
    Deno.removeSync(path);
    const other = listenUnix(path);
    await server.close();
    assert.ok(Deno.statSync(path).isSocket);
    libc.close(other);
  }));

Deno.test("Server.close() before serve() closes the socket", () =>
  withReactor(async (reactor, socketPath) => {
    const server = new Server({ reactor, device: new FakeDevice(), log: silent, socketPath });
    await server.close();
    await server.serve();
  }));

Deno.test("Server takes an inherited socket that listens", () =>
  withReactor(async (reactor, path) => {
    const fd = listenUnix(path);
    const server = new Server({ reactor, device: new FakeDevice(), log: silent, fd });
    const served = server.serve();
    const end = new FrontEnd(connectUnix(path, { nonblock: true }), reactor);
    await end.settle();
    end.close();
    await server.close();
    await served;
    assert.ok(Deno.statSync(path).isSocket, "the file is its maker's");
    assert.equal(isOpen(fd), false);
  }));

Deno.test("Server takes an inherited connection, and ends with it", () =>
  withReactor(async (reactor, path) => {
    const listening = listenUnix(path);
    const fd = connectUnix(path);
    const end = new FrontEnd(libc.accept4(listening, null, null, 0o2004000), reactor);
    const device = new FakeDevice();
    const served = new Server({ reactor, device, log: silent, fd }).serve();
    await end.settle();
    end.close();
    await soon(served, "the end");
    assert.deepEqual(device.calls, ["reset"]);
    libc.close(listening);
  }));

Deno.test("Server() says what is wrong with its socket", () =>
  withReactor(async (reactor, path) => {
    const common = { reactor, device: new FakeDevice(), log: silent };
    assert.throws(() => new Server({ ...common, fd: 0 }), /descriptor 0 is no UNIX socket/);
    assert.throws(() => new Server({ ...common, fd: 9999 }), /descriptor 9999 is no UNIX socket/);
    assert.throws(() => new Server({ ...common }), /either a socket path or a descriptor/);
    assert.throws(() => new Server({ ...common, fd: 3, socketPath: path }), /either/);
    const first = new Server({ ...common, socketPath: path });
    assert.throws(() => new Server({ ...common, socketPath: path }), /in use/);
    await first.close();
    await new Server({ ...common, socketPath: path, mode: 0o600 }).close();
  }));

Deno.test("Server.serve() rejects when the device cannot be reset, with everything closed", () =>
  withReactor(async (reactor, socketPath) => {
    const device = new FakeDevice();
    const server = new Server({ reactor, device, log: silent, socketPath });
    const served = server.serve();
    const end = new FrontEnd(connectUnix(socketPath, { nonblock: true }), reactor);
    await end.settle();
    device.reject.reset = "a worker is gone";
    end.close();
    await assert.rejects(soon(served, "the end"), /a worker is gone/);
    await server.close();
  }));

Deno.test("Server does not take the session of QEMU apart: its messages in its order", () =>
  withServer(async (bench) => {
    const end = await bench.negotiated();
    const { device } = bench;
    // vhost_dev_init: a call descriptor for masked interrupts comes first of all.
    for (const index of [0, 1]) await end.tell(W.VHOST_USER_SET_VRING_CALL, u64(index), [bench.event()]);
    await end.tell(W.VHOST_USER_SET_BACKEND_REQ_FD, undefined, [bench.event()]);
    for (let round = 0; round < 2; round++) {
      // vhost_dev_start
      await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]), [bench.memory()]);
      for (const index of [0, 1]) {
        await prepareQueue(bench, end, index);
        await end.tell(W.VHOST_USER_SET_VRING_CALL, u64(index), [bench.event()]);
      }
      for (const index of [0, 1]) await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(index, 1));
      assert.deepEqual([...device.running.keys()], [0, 1]);
      for (const index of [0, 1]) await end.tell(W.VHOST_USER_SET_VRING_CALL, u64(index), [bench.event()]);
      // vhost_dev_stop
      for (const index of [0, 1]) await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(index, 0));
      for (const index of [0, 1]) await end.ask(W.VHOST_USER_GET_VRING_BASE, u32(index, 0));
      assert.equal(device.running.size, 0);
    }
    assert.deepEqual(bench.log.take("warn"), []);
    assert.deepEqual(bench.log.take("error"), []);
  }));

Deno.test("Server.serve() ends a session whose device has lost guest memory, says so once, and serves the next", () =>
  withServer(async (bench) => {
    const { device, log } = bench;
    for (let i = 0; i < 3; i++) {
      const end = await withRunningQueue(bench);
      // Each of its loops finds out.
      device.onLost!();
      device.onLost!();
      await end.closed();
      await until(() => device.calls.at(-1) === "reset" && device.onLost === null, "the reset");
      const [said, ...more] = log.take("error");
      assert.match(said, /closed the connection of front end .*truncated memory/);
      assert.deepEqual(more, []);
      end.close();
    }
  }));
