/** The messages about one ring, and when a ring runs. */
import assert from "node:assert/strict";
import { EAGAIN } from "../../ffi/errno.ts";
import { drain, signal } from "../../ffi/eventfd.ts";
import { libc } from "../../ffi/libc.ts";
import * as W from "../../vhost/wire.ts";
import {
  type Bench,
  FEATURES,
  isOpen,
  join64,
  memTable,
  message,
  negotiate,
  openDescriptors,
  prepareQueue,
  PROTOCOL_FEATURES,
  u32,
  u64,
  vringAddr,
  withRunningQueue,
  withServer,
} from "./harness.ts";

const NOFD = 0x100;

Deno.test("a ring starts when the last of what it needs has come, in any order", () =>
  withServer(async (bench) => {
    const { device, memory, event } = bench;
    const steps: [number, Uint8Array, number[]][] = [
      [W.VHOST_USER_SET_MEM_TABLE, memTable([{}]), [memory()]],
      [W.VHOST_USER_SET_VRING_NUM, u32(2, 64), []],
      [W.VHOST_USER_SET_VRING_ADDR, vringAddr(2, 0x4000), []],
      [W.VHOST_USER_SET_VRING_KICK, u64(2), [event()]],
      [W.VHOST_USER_SET_VRING_ENABLE, u32(2, 1), []],
    ];
    for (let last = 0; last < steps.length; last++) {
      const end = await bench.negotiated();
      const order = [...steps.slice(last + 1), ...steps.slice(0, last), steps[last]];
      for (const [request, payload, fds] of order) {
        assert.equal(device.running.size, 0);
        assert.equal(await end.tell(request, payload, fds), 0);
      }
      assert.deepEqual([...device.running.keys()], [2]);
      await end.raw(message(0));
      await end.closed();
    }
  }));

Deno.test("a ring starts with what was said of it", () =>
  withServer(async (bench) => {
    const { device } = bench;
    const end = await withRunningQueue(bench);
    const { kickFd, ...setup } = device.lastSetup!;
    assert.deepEqual(setup, {
      size: 128,
      desc: 0x1000,
      avail: 0x2000,
      used: 0x3000,
      base: 0,
      callFd: -1,
      errFd: -1,
      eventIdx: true,
      indirect: true,
    });
    assert.ok(isOpen(kickFd));
    await end.settle();
  }));

Deno.test("a ring is told which ring features were negotiated, and restarted when they change", () =>
  withServer(async (bench) => {
    const end = bench.connect();
    await negotiate(end, W.VHOST_USER_F_PROTOCOL_FEATURES | W.VIRTIO_RING_F_INDIRECT_DESC, PROTOCOL_FEATURES);
    await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]), [bench.memory()]);
    await prepareQueue(bench, end, 0);
    await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(0, 1));
    assert.deepEqual([bench.device.lastSetup!.eventIdx, bench.device.lastSetup!.indirect], [false, true]);
    bench.device.calls = [];
    await end.tell(W.VHOST_USER_SET_FEATURES, u64(FEATURES & ~W.VIRTIO_RING_F_INDIRECT_DESC));
    assert.deepEqual(bench.device.calls, ["stopQueue 0", "startQueue 0"]);
    assert.deepEqual([bench.device.lastSetup!.eventIdx, bench.device.lastSetup!.indirect], [true, false]);
    await end.tell(W.VHOST_USER_SET_FEATURES, u64(FEATURES & ~W.VIRTIO_RING_F_INDIRECT_DESC));
    assert.equal(bench.device.calls.length, 2);
  }));

Deno.test("rings start enabled without PROTOCOL_FEATURES", () =>
  withServer(async (bench) => {
    const end = bench.connect();
    await end.tell(W.VHOST_USER_SET_FEATURES, u64(W.VIRTIO_F_VERSION_1));
    await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]), [bench.memory()]);
    await prepareQueue(bench, end, 1);
    await end.settle();
    assert.deepEqual([...bench.device.running.keys()], [1]);
  }));

Deno.test("SET_VRING_ENABLE stops and starts at the place where it stopped", () =>
  withServer(async (bench) => {
    const { device } = bench;
    const end = await withRunningQueue(bench);
    device.served = 7;
    await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(1, 1));
    assert.deepEqual(device.calls, []);
    await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(1, 0));
    await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(1, 1));
    assert.deepEqual(device.calls, ["stopQueue 1", "startQueue 1"]);
    assert.equal(device.lastSetup!.base, 7);
  }));

Deno.test("a kick before SET_VRING_ENABLE stays in the eventfd", () =>
  withServer(async (bench) => {
    const end = await bench.negotiated();
    await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]), [bench.memory()]);
    const kick = await prepareQueue(bench, end, 0);
    signal(kick);
    await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(0, 1));
    assert.equal(drain(bench.device.lastSetup!.kickFd), 0, "the device can still read it");
  }));

Deno.test("SET_VRING_KICK without descriptor means polling", () =>
  withServer(async (bench) => {
    const end = await bench.negotiated();
    await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]), [bench.memory()]);
    await prepareQueue(bench, end, 0);
    await end.tell(W.VHOST_USER_SET_VRING_KICK, u64(0 | NOFD));
    await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(0, 1));
    assert.equal(bench.device.lastSetup!.kickFd, -1);
  }));

Deno.test("SET_VRING_KICK replaces the descriptor of a running ring after it has stopped, CALL and ERR while it runs", () =>
  withServer(async (bench) => {
    const { device, event } = bench;
    const end = await withRunningQueue(bench);
    device.served = 3;
    const messages = [
      [W.VHOST_USER_SET_VRING_KICK, "kickFd", ["stopQueue 1", "startQueue 1"], 3],
      [W.VHOST_USER_SET_VRING_CALL, "callFd", ["setCall 1"], 0],
      [W.VHOST_USER_SET_VRING_ERR, "errFd", ["setCall 1"], 0],
    ] as const;
    let base = 0;
    for (const [request, field, calls, served] of messages) {
      for (const [payload, fds] of [[1, [event()]], [1, [event()]], [1 | NOFD, []]] as [number, number[]][]) {
        device.calls = [];
        assert.equal(await end.tell(request, u64(payload), fds), 0);
        assert.deepEqual(device.calls, calls);
        assert.equal(device.lastSetup!.base, base += served);
        assert.equal(device.lastSetup![field] >= 0, fds.length === 1);
      }
    }
  }));

Deno.test("SET_VRING_KICK, CALL and ERR close what they replace", () =>
  withServer(async (bench) => {
    const end = await bench.negotiated();
    const event = bench.event();
    const before = openDescriptors();
    for (const request of [W.VHOST_USER_SET_VRING_KICK, W.VHOST_USER_SET_VRING_CALL, W.VHOST_USER_SET_VRING_ERR]) {
      for (let i = 0; i < 3; i++) await end.tell(request, u64(0), [event]);
      assert.equal(openDescriptors(), before + 1);
      await end.tell(request, u64(NOFD));
      assert.equal(openDescriptors(), before);
    }
  }));

Deno.test("SET_VRING_CALL makes the descriptor nonblocking and signals it once the ring runs", () =>
  withServer(async (bench) => {
    const end = await bench.negotiated();
    const call = libc.eventfd(0, 0o2000000);
    await end.tell(W.VHOST_USER_SET_VRING_CALL, u64(1), [call]);
    assert.equal(drain(call), -EAGAIN, "not before the ring runs");
    await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]), [bench.memory()]);
    await prepareQueue(bench, end, 1);
    await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(1, 1));
    assert.equal(drain(call), 0);
    libc.close(call);
    const later = bench.event();
    await end.tell(W.VHOST_USER_SET_VRING_CALL, u64(1), [later]);
    assert.equal(drain(later), 0, "what was completed meanwhile is not missed");
  }));

Deno.test("SET_VRING_NUM, ADDR and BASE of a running ring take effect at once; ADDR leaves the base alone", () =>
  withServer(async (bench) => {
    const { device } = bench;
    const end = await withRunningQueue(bench);
    device.served = 5;
    await end.tell(W.VHOST_USER_SET_VRING_ADDR, vringAddr(1, 0x8000));
    assert.deepEqual([device.lastSetup!.desc, device.lastSetup!.base], [0x8000, 5]);
    await end.tell(W.VHOST_USER_SET_VRING_NUM, u32(1, 32768));
    assert.deepEqual([device.lastSetup!.size, device.lastSetup!.base], [32768, 10]);
    await end.tell(W.VHOST_USER_SET_VRING_BASE, u32(1, 65535));
    assert.equal(device.lastSetup!.base, 65535);
    assert.deepEqual(device.calls, new Array(3).fill(["stopQueue 1", "startQueue 1"]).flat());
    assert.deepEqual(await end.ask(W.VHOST_USER_GET_VRING_BASE, u32(1, 0)), u32(1, 4), "65535 + 5");
  }));

Deno.test("GET_VRING_BASE of a ring that does not run is what SET_VRING_BASE said", () =>
  withServer(async (bench) => {
    const end = await bench.negotiated();
    assert.deepEqual(await end.ask(W.VHOST_USER_GET_VRING_BASE, u32(0, 0)), u32(0, 0));
    await end.tell(W.VHOST_USER_SET_VRING_BASE, u32(0, 1234));
    assert.deepEqual(await end.ask(W.VHOST_USER_GET_VRING_BASE, u32(0, 0)), u32(0, 1234));
    assert.deepEqual(bench.device.calls, []);
  }));

Deno.test("GET_VRING_BASE stops the ring until a kick is set again", () =>
  withServer(async (bench) => {
    const { device } = bench;
    const end = await withRunningQueue(bench);
    const kick = device.lastSetup!.kickFd;
    device.served = 9;
    assert.deepEqual(await end.ask(W.VHOST_USER_GET_VRING_BASE, u32(1, 0)), u32(1, 9));
    assert.equal(isOpen(kick), false);
    assert.deepEqual(await end.ask(W.VHOST_USER_GET_VRING_BASE, u32(1, 0)), u32(1, 9));
    await end.tell(W.VHOST_USER_SET_VRING_NUM, u32(1, 256));
    await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(1, 1));
    assert.deepEqual(device.calls, ["stopQueue 1"]);
    await end.tell(W.VHOST_USER_SET_VRING_KICK, u64(1), [bench.event()]);
    assert.deepEqual(device.calls, ["stopQueue 1", "startQueue 1"]);
    assert.deepEqual([device.lastSetup!.base, device.lastSetup!.size], [9, 256]);
  }));

Deno.test("rings are independent of each other", () =>
  withServer(async (bench) => {
    const { device } = bench;
    const end = await withRunningQueue(bench);
    for (const index of [0, 2]) {
      await prepareQueue(bench, end, index);
      await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(index, 1));
    }
    assert.deepEqual([...device.running.keys()], [1, 0, 2]);
    await end.ask(W.VHOST_USER_GET_VRING_BASE, u32(0, 0));
    assert.deepEqual([...device.running.keys()], [1, 2]);
  }));

Deno.test("a ring that the device does not start gets a NACK, and another chance", () =>
  withServer(async (bench) => {
    const { device, log } = bench;
    const end = await bench.negotiated();
    await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]), [bench.memory()]);
    await prepareQueue(bench, end, 0);
    device.reject.startQueue = "the used ring is not in guest memory";
    assert.equal(await end.tell(W.VHOST_USER_SET_VRING_ENABLE, u32(0, 1)), 1);
    assert.match(log.take("warn").join(), /SET_VRING_ENABLE: queue 0 cannot be started: the used ring is not/);
    assert.equal(await end.tell(W.VHOST_USER_SET_VRING_ADDR, vringAddr(0, 0x2000)), 0);
    assert.deepEqual([...device.running.keys()], [0]);
  }));

Deno.test("a ring that the device does not start ends a session that did not ask", () =>
  withServer(async (bench) => {
    const end = await bench.negotiated();
    await end.tell(W.VHOST_USER_SET_MEM_TABLE, memTable([{}]), [bench.memory()]);
    await prepareQueue(bench, end, 0);
    bench.device.reject.startQueue = "no";
    await end.raw(message(W.VHOST_USER_SET_VRING_ENABLE, u32(0, 1)));
    await end.closed();
    assert.match(bench.log.take("error").join(), /SET_VRING_ENABLE: queue 0 cannot be started: no/);
  }));

Deno.test("a ring that the device does not stop ends the session", () =>
  withServer(async (bench) => {
    const end = await withRunningQueue(bench);
    bench.device.reject.stopQueue = "stuck";
    await end.raw(message(W.VHOST_USER_SET_VRING_NUM, u32(1, 64), 9));
    await end.closed();
    assert.match(bench.log.take("error").join(), /SET_VRING_NUM: queue 1 cannot be stopped: stuck/);
  }));

const addr = (desc: bigint | number, used: bigint | number, avail: bigint | number, flags = 0, index = 0) =>
  new Uint8Array([...u32(index, flags), ...join64(desc, used, avail, 0)]);
const EDGE = 2n ** 53n;

/** What must end the session: request, payload, number of descriptors, what the log says. */
const rubbish: [number, Uint8Array, number, RegExp][] = [
  ...[0, 3, 100, 32769, 65536, 0x80000000, 0xffffffff].map((size) =>
    [W.VHOST_USER_SET_VRING_NUM, u32(0, size), 0, /queue size \d+ is not a power of two/] as [
      number,
      Uint8Array,
      number,
      RegExp,
    ]
  ),
  [W.VHOST_USER_SET_VRING_NUM, u32(3, 64), 0, /queue 3, where the device has 3/],
  [W.VHOST_USER_SET_VRING_NUM, u32(0xffffffff, 64), 0, /queue 4294967295/],
  [W.VHOST_USER_SET_VRING_BASE, u32(3, 0), 0, /queue 3/],
  [W.VHOST_USER_SET_VRING_BASE, u32(0, 65536), 0, /base index 65536 has more than 16 bits/],
  [W.VHOST_USER_GET_VRING_BASE, u32(3, 0), 0, /queue 3/],
  [W.VHOST_USER_SET_VRING_ENABLE, u32(3, 1), 0, /queue 3/],
  [W.VHOST_USER_SET_VRING_ENABLE, u32(0, 2), 0, /2 is neither 0/],
  [W.VHOST_USER_SET_VRING_ADDR, addr(8, 4, 2), 0, /descriptor table address 0x8 is not a multiple of 16/],
  [W.VHOST_USER_SET_VRING_ADDR, addr(16, 2, 2), 0, /used ring address 0x2 is not a multiple of 4/],
  [W.VHOST_USER_SET_VRING_ADDR, addr(16, 4, 1), 0, /available ring address 0x1 is not a multiple of 2/],
  [W.VHOST_USER_SET_VRING_ADDR, addr(EDGE, 4, 2), 0, /descriptor table address 0x20000000000000 is beyond/],
  [W.VHOST_USER_SET_VRING_ADDR, addr(16, EDGE, 2), 0, /used ring address .* is beyond/],
  [W.VHOST_USER_SET_VRING_ADDR, addr(16, 4, 2n ** 64n - 2n), 0, /available ring address .* is beyond/],
  [W.VHOST_USER_SET_VRING_ADDR, addr(16, 4, 2, 2), 0, /unknown ring flags 0x2/],
  [W.VHOST_USER_SET_VRING_ADDR, addr(16, 4, 2, 0, 3), 0, /queue 3/],
  ...[W.VHOST_USER_SET_VRING_KICK, W.VHOST_USER_SET_VRING_CALL, W.VHOST_USER_SET_VRING_ERR].flatMap((request) =>
    [
      [request, u64(3), 1, /queue 3/],
      [request, u64(255), 1, /queue 255/],
      [request, u64(0), 0, /the descriptor is missing/],
      [request, u64(NOFD), 1, /a descriptor came although/],
      [request, u64(0), 2, /came with 2 descriptors, expected 0 to 1/],
      [request, u64(0x200), 1, /unknown bits in 0x200/],
      [request, u64(1n << 32n), 1, /unknown bits/],
    ] as [number, Uint8Array, number, RegExp][]
  ),
];

async function checkThrownOut(bench: Bench, [request, payload, count, why]: typeof rubbish[number]): Promise<void> {
  const before = openDescriptors();
  const end = await bench.negotiated();
  await end.raw(message(request, payload, 9), new Array(count).fill(end.fd));
  await end.closed();
  const lines = bench.log.take("error");
  assert.equal(lines.length, 1, lines.join("\n"));
  assert.match(lines[0], why);
  assert.match(lines[0], new RegExp(W.shapes.get(request)!.name));
  assert.equal(openDescriptors(), before + 1, "only the test's end of the connection is open");
}

Deno.test("messages about a ring that are out of range end the session with one line", () =>
  withServer(async (bench) => {
    for (const each of rubbish) await checkThrownOut(bench, each);
  }));

Deno.test("SET_VRING_ADDR with logging is refused", () =>
  withServer(async (bench) => {
    const end = await bench.negotiated();
    assert.equal(await end.tell(W.VHOST_USER_SET_VRING_ADDR, vringAddr(0, 0x1000, 1)), 1);
    assert.match(bench.log.take("warn").join(), /SET_VRING_ADDR: logging of dirty pages/);
  }));
