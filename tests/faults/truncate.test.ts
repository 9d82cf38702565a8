// Guest memory that the front end truncates while requests are in flight: its device ends, and nothing else.
// Longer, and with another seed, by hand: RINGFSD_TRUNCATE_ROUNDS=2000 RINGFSD_TRUNCATE_SEED=7 deno test -A tests/faults/truncate.test.ts
import assert from "node:assert/strict";
import { Frontend } from "../../bench/frontend.ts";
import { bytes, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { GuestMemory } from "../../bench/guest_memory.ts";
import { Session } from "../../bench/session.ts";
import { EIO } from "../../ffi/errno.ts";
import { cString, libc } from "../../ffi/libc.ts";
import type { GuestAddr } from "../../vq/device.ts";
import { Place, Started, useShare } from "../cli/started.ts";
import { random } from "../fs/random.ts";
import { BusyGuest } from "./busy_guest.ts";

const ROUNDS = Number(Deno.env.get("RINGFSD_TRUNCATE_ROUNDS") ?? 40);
const SEED = Number(Deno.env.get("RINGFSD_TRUNCATE_SEED") ?? 1);
const ROOT = 1;
const MEMORY = 8 << 20;
const DATA = 32 * 1024;
const LOST = /closed the connection of front end.*truncated memory/;

const truncate = (session: Session, size: number) =>
  assert.equal(libc.ftruncate(session.memory.regions[0].fd, BigInt(size)), 0);

/** Puts requests of all kinds on every queue, and does not look at the memory any more. */
function fill(session: Session, next: (below: number) => number, nodeid: bigint, fh: bigint): void {
  const { client } = session;
  for (let i = 0; i < 40; i++) {
    const kind = next(5);
    if (kind === 0) client.start(op.FUSE_GETATTR, ROOT, new Uint8Array(16), { outSize: 104 });
    else if (kind === 1) client.start(op.FUSE_LOOKUP, ROOT, cString("file"), { outSize: 128 });
    else if (kind === 2) client.start(op.FUSE_FSYNC, nodeid, bytes(u64(fh), u32(0, 0)));
    else if (kind === 3) {
      const args = bytes(u64(fh, next(1 << 20)), u32(DATA, 0), u64(0), u32(0, 0));
      client.start(op.FUSE_WRITE, nodeid, args, { outSize: 8, dataIn: new Uint8Array(DATA) });
    } else {
      const args = bytes(u64(fh, next(1 << 20)), u32(DATA, 0), u64(0), u32(0, 0));
      client.start(op.FUSE_READ, nodeid, args, { dataOut: DATA });
    }
  }
}

for (const where of ["/dev/shm", "/var/tmp"]) {
  Deno.test(`a front end that truncates its memory under load loses its device; another goes on (${where})`, async () => {
    using mine = new Place(where);
    using other = new Place(where);
    const share = ({ share, socket }: Place) => ["--share", `dir=${share},socket=${socket}`];
    const daemon = Started.start([...share(mine), ...share(other), "--sandbox", "none"]);
    try {
      await daemon.socket(mine.socket);
      await daemon.socket(other.socket);
      const busy = new BusyGuest(other.socket);
      await busy.goesOn();
      const next = random(SEED);
      let lost = 0;
      for (let round = 0; round < ROUNDS; round++) {
        const session = Session.open(mine.socket, { memory: MEMORY, maxData: DATA, queue: { size: 128 } });
        const { nodeid, fh, error } = session.client.create(ROOT, "file", 2);
        assert.equal(error, 0);
        fill(session, next, nodeid, BigInt(fh));
        // In every third round while they are served; now and then the rings stay, or there is something again at once.
        if (next(3) > 0) libc.poll(new Uint8Array(0), 0, next(3));
        const left = [0, 4096, 65536, MEMORY / 2][next(4)];
        truncate(session, left);
        if (next(4) === 0) truncate(session, MEMORY);
        // A kick, where that can be done without a look at what is gone.
        libc.write(session.queues[1].state.kickFd, new Uint8Array(new BigUint64Array([1n]).buffer), 8);
        lost += Number(session.frontend.waitDisconnect(left === 0 ? 300 : 50));
        await busy.goesOn();
        // A front end that goes by itself is another thing.
        session.frontend.close();
        truncate(session, MEMORY);
        session.memory.close();
      }
      assert.ok(lost > ROUNDS / 3, `${lost} of ${ROUNDS} devices ended`);
      // Each is said once, and nothing else is wrong.
      // The log has so many lines of a kind in a while, and then says how many more there were.
      const said = () =>
        daemon.log.split("\n").filter((line) => LOST.test(line))
          .reduce((sum, line) => sum + Number(/… and (\d+) more/.exec(line)?.[1] ?? 1), 0);
      await daemon.until(
        () => Math.abs(said() - lost) <= ROUNDS / 10,
        `${lost} devices ended, and so often it is said`,
      );
      useShare(mine.socket, mine.share).close();
      await busy.close();
      // Memory that has grown again is zeros as well, but there: such a ring is impossible.
      assert.ok(!/fault of ringfsd|malformed/.test(daemon.log), daemon.log);
    } finally {
      await daemon[Symbol.asyncDispose]();
    }
  });
}

Deno.test("a device of which memory is gone ends though nothing is in flight, and with rings of every size and page", async (t) => {
  using place = new Place();
  const daemon = Started.start(["--socket-path", place.socket, "--shared-dir", place.share, "--sandbox", "none"]);
  try {
    await daemon.socket(place.socket);
    for (const queue of [{ size: 2 }, { size: 1024 }, { size: 64, eventIdx: false }]) {
      await t.step(JSON.stringify(queue), () => {
        const session = Session.open(place.socket, { memory: MEMORY, maxData: DATA, eventIdx: queue.eventIdx, queue });
        assert.equal(session.client.getattr(ROOT).error, 0);
        truncate(session, 0);
        libc.write(session.queues[1].state.kickFd, new Uint8Array(new BigUint64Array([1n]).buffer), 8);
        assert.ok(session.frontend.waitDisconnect());
        session.frontend.close();
        truncate(session, MEMORY);
        session.memory.close();
      });
    }
    await t.step("several regions, of which one goes", () => {
      const memory = [{ guestAddr: 0, size: MEMORY }, { guestAddr: 1 << 30, size: 1 << 20 }];
      const session = Session.open(place.socket, { memory, maxData: DATA });
      const lost = session.memory.allocate(64, 8, 1);
      const head = session.queues[1].place([{ addr: lost, len: 56 }, {
        addr: (lost + 0) as GuestAddr,
        len: 8,
        write: true,
      }]);
      assert.equal(libc.ftruncate(session.memory.regions[1].fd, 0n), 0);
      session.queues[1].submit(head);
      assert.ok(session.frontend.waitDisconnect());
      session.close();
    });
    useShare(place.socket, place.share).close();
  } finally {
    await daemon[Symbol.asyncDispose]();
  }
});

Deno.test("data that lie in truncated memory: the kernel finds it, the guest gets EIO; and none of it is written", async () => {
  for (const where of ["/dev/shm", "/var/tmp"]) {
    using place = new Place(where);
    const daemon = Started.start(["--socket-path", place.socket, "--shared-dir", place.share, "--sandbox", "none"]);
    try {
      await daemon.socket(place.socket);
      const memory = [{ guestAddr: 0, size: MEMORY }, { guestAddr: 1 << 30, size: 1 << 20 }];
      const session = Session.open(place.socket, { memory, maxData: DATA });
      const { client } = session;
      const { nodeid, fh } = client.create(ROOT, "file", 2);
      assert.equal(client.write(nodeid, fh, 0, new Uint8Array(DATA).fill(5)).size, DATA);
      const far = session.memory.allocate(DATA, 4096, 1);
      const near = session.memory.allocate(4096, 4096);
      assert.equal(libc.ftruncate(session.memory.regions[1].fd, 0n), 0);
      const header = (opcode: number, len: number) =>
        bytes(u32(len, opcode), u64(77, nodeid), u32(0, 0, 0, 0), u64(fh, 0), u32(DATA, 0), u64(0), u32(0, 0));
      const read = header(op.FUSE_READ, 80);
      session.memory.bytes(near, read.length).set(read);
      const reply = (near + 2048) as GuestAddr;
      const segments = [
        { addr: near, len: 80 },
        { addr: reply, len: 16, write: true },
        { addr: far, len: DATA, write: true },
      ];
      assert.equal(session.queues[1].run(segments), 16);
      assert.equal(session.memory.view(reply, 16).getInt32(4, true), -EIO);
      assert.ok(client.read(nodeid, fh, 0, DATA).data.every((byte) => byte === 5), "it goes on");
      assert.ok(!LOST.test(daemon.log));
      // The first of the data are looked at with the request: that ends the device, and writes no zeros.
      const write = header(op.FUSE_WRITE, 80 + DATA);
      session.memory.bytes(near, write.length).set(write);
      const out = { addr: (near + 2048) as GuestAddr, len: 24, write: true };
      session.queues[1].submit(session.queues[1].place([{ addr: near, len: 80 }, { addr: far, len: DATA }, out]));
      assert.ok(session.frontend.waitDisconnect());
      await daemon.until(() => LOST.test(daemon.log), "the log");
      assert.ok(Deno.readFileSync(`${place.share}/file`).every((byte) => byte === 5), "nothing was written");
      session.close();
    } finally {
      await daemon[Symbol.asyncDispose]();
    }
  }
});

Deno.test("huge pages of guest memory that are truncated", async (t) => {
  const size = 2 << 20;
  const fd = libc.memfd_create(cString("huge"), 1 | 4);
  const cannot = fd < 0 || libc.ftruncate(fd, BigInt(size)) < 0 || !freeHugePages();
  await t.step({
    name: "hugetlbfs" + (cannot ? " (skipped: needs a free 2 MiB huge page, sysctl vm.nr_hugepages)" : ""),
    ignore: cannot,
    fn: async () => {
      using place = new Place();
      const daemon = Started.start(["--socket-path", place.socket, "--shared-dir", place.share, "--sandbox", "none"]);
      try {
        await daemon.socket(place.socket);
        const memory = GuestMemory.create(1 << 20);
        const frontend = Frontend.connect(place.socket).negotiate();
        const region = { ...memory.regions[0], guestAddr: (1 << 30) as GuestAddr, size, userAddr: 0 as never, fd };
        frontend.setMemory([memory.regions[0], region]);
        const queue = frontend.addQueue(memory, 1);
        const head = queue.place([{ addr: (1 << 30) as GuestAddr, len: 56 }]);
        assert.equal(libc.ftruncate(fd, 0n), 0);
        queue.submit(head);
        assert.ok(frontend.waitDisconnect());
        frontend.close();
        memory.close();
        useShare(place.socket, place.share).close();
      } finally {
        await daemon[Symbol.asyncDispose]();
      }
    },
  });
  libc.close(fd);
});

function freeHugePages(): boolean {
  return Number(/HugePages_Free:\s+(\d+)/.exec(Deno.readTextFileSync("/proc/meminfo"))?.[1] ?? 0) > 0;
}
