// Locks, against a daemon with a loop for each of two queues: what one owner holds keeps others out, on the host too.
import assert from "node:assert/strict";
import { bytes, u32, u64 } from "../../bench/fuse_encode.ts";
import { FuseClient } from "../../bench/fuse_client.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { EAGAIN, EBADF, EINTR, EINVAL, ENOSYS } from "../../ffi/errno.ts";
import { cString, libc } from "../../ffi/libc.ts";
import { F_RDLCK, F_UNLCK, F_WRLCK, LOCK_EX, LOCK_NB, LOCK_UN } from "../../ffi/stat_layout.ts";
import { withDaemon } from "./daemon.ts";

const ROOT = 1;
const FLOCK = 1;
const TO_END = 0x7fff_ffff_ffff_ffffn;

/** struct fuse_lk_in */
function lk(
  fh: bigint,
  owner: number,
  type: number,
  start: number | bigint = 0,
  end: number | bigint = TO_END,
  flags = 0,
) {
  return bytes(u64(fh, owner), u64(start, end), u32(type, 0), u32(flags, 0));
}

/** Polls until it is so. */
async function until(so: () => boolean, what: string) {
  for (const end = Date.now() + 10_000; !so();) {
    assert.ok(Date.now() < end, `${what}: not within 10 s`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const args = ["--posix-lock", "--flock"];
withDaemon("Locks", { args, session: { requestQueues: 2 } }, async (daemon, session, step) => {
  const { client, queues } = session;
  Deno.writeTextFileSync(daemon.path("file"), "0123456789");
  const file = client.lookup(ROOT, "file").nodeid;
  const { fh } = client.open(file, 2);
  const other = client.open(file, 2).fh;
  const setlk = (owner: number, type: number, start: number | bigint = 0, end: number | bigint = TO_END) =>
    client.request(op.FUSE_SETLK, file, lk(fh, owner, type, start, end)).error;
  const wait = (owner: number, type: number) => client.start(op.FUSE_SETLKW, file, lk(fh, owner, type));

  await step("SETLK excludes other owners within its range, and readers share", () => {
    assert.equal(setlk(1, F_WRLCK, 0, 4), 0);
    assert.equal(setlk(2, F_WRLCK, 4, 9), -EAGAIN);
    assert.equal(setlk(2, F_WRLCK, 5, 9), 0);
    assert.equal(setlk(1, F_RDLCK, 0, 4), 0, "its own lock becomes another");
    assert.equal(setlk(3, F_RDLCK, 0, 4), 0);
    assert.equal(setlk(3, F_RDLCK, 5, 5), -EAGAIN);
    for (const owner of [1, 2, 3]) assert.equal(setlk(owner, F_UNLCK), 0);
    assert.equal(setlk(9, F_UNLCK), 0, "of an owner without locks");
  });
  await step("GETLK answers the lock in the way", () => {
    assert.equal(setlk(1, F_WRLCK, 3, 6), 0);
    const { error, data } = client.request(op.FUSE_GETLK, file, lk(fh, 2, F_RDLCK, 0, TO_END), 24);
    assert.equal(error, 0);
    const view = new DataView(data.buffer, data.byteOffset);
    assert.deepEqual([view.getBigUint64(0, true), view.getBigUint64(8, true), view.getUint32(16, true)], [
      3n,
      6n,
      F_WRLCK,
    ]);
    const none = client.request(op.FUSE_GETLK, file, lk(fh, 2, F_RDLCK, 7, 9), 24).data;
    assert.equal(new DataView(none.buffer, none.byteOffset).getUint32(16, true), F_UNLCK);
    assert.equal(setlk(1, F_UNLCK), 0);
  });
  await step("SETLK refuses what no lock can be", () => {
    assert.equal(setlk(1, 3), -EINVAL);
    assert.equal(setlk(1, F_WRLCK, 5, 4), -EINVAL);
    assert.equal(setlk(1, F_WRLCK, 0, 0xffff_ffff_ffff_ffffn), -EINVAL);
    assert.equal(client.request(op.FUSE_SETLK, file, lk(77n, 1, F_WRLCK, 0, 1, FLOCK)).error, -EBADF);
  });
  await step("SETLK excludes processes of the host, and they exclude the guest", () => {
    const fd = libc.openat(-100, cString(daemon.path("file")), 2, 0);
    const struct = new Uint8Array(32);
    struct[0] = F_WRLCK;
    assert.equal(setlk(1, F_WRLCK), 0);
    assert.equal(libc.fcntlLock(fd, 37, struct), -1, "F_OFD_SETLK");
    assert.equal(setlk(1, F_UNLCK), 0);
    assert.equal(libc.fcntlLock(fd, 37, struct), 0);
    assert.equal(setlk(1, F_WRLCK), -EAGAIN);
    libc.close(fd);
    assert.equal(setlk(1, F_WRLCK), 0);
    assert.equal(setlk(1, F_UNLCK), 0);
  });
  await step("FLUSH drops its owner's locks, and the descriptor that held them", () => {
    const before = daemon.files;
    assert.equal(setlk(21, F_WRLCK), 0);
    assert.equal(setlk(22, F_WRLCK), -EAGAIN);
    assert.equal(client.flush(file, other, 22).error, 0);
    assert.equal(setlk(22, F_WRLCK), -EAGAIN, "another's FLUSH");
    assert.equal(client.flush(file, other, 21).error, 0);
    assert.equal(setlk(22, F_WRLCK), 0);
    assert.equal(client.flush(file, other, 22).error, 0);
    client.getattr(file);
    assert.equal(daemon.files, before);
  });
  await step("RELEASE drops the locks of the guest's open file, at once", () => {
    for (let i = 0; i < 20; i++) {
      const opened = client.open(file, 2).fh;
      assert.equal(client.request(op.FUSE_SETLK, file, lk(opened, 31, F_WRLCK)).error, 0);
      assert.equal(client.request(op.FUSE_SETLK, file, lk(opened, 31, F_WRLCK, 0, TO_END, FLOCK)).error, 0);
      assert.equal(setlk(32, F_WRLCK), -EAGAIN);
      assert.equal(client.release(file, opened).error, 0);
      assert.equal(setlk(32, F_WRLCK), 0);
      assert.equal(client.request(op.FUSE_SETLK, file, lk(fh, 32, F_WRLCK, 0, TO_END, FLOCK)).error, 0);
      assert.equal(client.request(op.FUSE_SETLK, file, lk(fh, 32, F_UNLCK, 0, TO_END, FLOCK)).error, 0);
      assert.equal(setlk(32, F_UNLCK), 0);
    }
  });
  await step("SETLKW waits for the lock, and delays nobody", () => {
    assert.equal(setlk(1, F_WRLCK), 0);
    const pending = wait(2, F_WRLCK);
    for (let i = 0; i < 20; i++) assert.equal(client.getattr(file).error, 0);
    assert.equal(client.isDone(pending), false);
    assert.equal(setlk(1, F_UNLCK), 0);
    assert.equal(client.finish(pending).error, 0);
    assert.equal(setlk(1, F_WRLCK), -EAGAIN, "now owner 2 has it");
    assert.equal(setlk(2, F_UNLCK), 0);
  });
  await step("INTERRUPT ends a SETLKW with EINTR, from any queue", async () => {
    assert.equal(setlk(1, F_WRLCK), 0);
    // The high-priority queue is served by the first loop.
    for (const which of [client, new FuseClient(queues[2], { hiprio: queues[0] })]) {
      const pending = which.start(op.FUSE_SETLKW, file, lk(fh, 2, F_WRLCK));
      assert.equal(which.isDone(pending), false);
      // An interrupt that overtakes its request finds nothing: the kernel's client sends it again as well.
      await until(() => {
        client.interrupt(pending.unique);
        return which.isDone(pending);
      }, "the interrupted request");
      assert.equal(which.finish(pending).error, -EINTR);
    }
    client.interrupt(12345n);
    assert.equal(setlk(1, F_UNLCK), 0);
    assert.equal(setlk(2, F_WRLCK), 0, "who was interrupted has no lock");
    assert.equal(setlk(2, F_UNLCK), 0);
  });
  await step("flock locks belong to the open file", () => {
    const flock = (handle: bigint, type: number, wait = false) =>
      client.start(wait ? op.FUSE_SETLKW : op.FUSE_SETLK, file, lk(handle, 1, type, 0, TO_END, FLOCK));
    const now = (handle: bigint, type: number) => client.finish(flock(handle, type)).error;
    assert.equal(now(fh, F_WRLCK), 0);
    assert.equal(now(other, F_WRLCK), -EAGAIN);
    assert.equal(now(other, F_RDLCK), -EAGAIN);
    const host = libc.openat(-100, cString(daemon.path("file")), 2, 0);
    assert.equal(libc.flock(host, LOCK_EX | LOCK_NB), -1);
    const pending = flock(other, F_WRLCK, true);
    assert.equal(client.getattr(file).error, 0);
    assert.equal(client.isDone(pending), false);
    assert.equal(now(fh, F_UNLCK), 0);
    assert.equal(client.finish(pending).error, 0);
    assert.equal(now(other, F_UNLCK), 0);
    assert.equal(libc.flock(host, LOCK_EX | LOCK_NB), 0);
    assert.equal(now(fh, F_RDLCK), -EAGAIN);
    assert.equal(libc.flock(host, LOCK_UN), 0);
    libc.close(host);
  });
  await step("a front end that goes leaves no lock and no request that waits behind", async () => {
    assert.equal(setlk(1, F_WRLCK), 0);
    wait(2, F_WRLCK);
    const fd = libc.openat(-100, cString(daemon.path("file")), 2, 0);
    const struct = new Uint8Array(32);
    struct[0] = F_WRLCK;
    assert.equal(libc.fcntlLock(fd, 37, struct), -1);
    session.close();
    await until(() => libc.fcntlLock(fd, 37, struct) === 0, "the lock to be free");
    libc.close(fd);
  });
});

const crowded = { args: ["--posix-lock", "--thread-pool-size=1"], session: { requestQueues: 2 } };
withDaemon("Waits for locks that nobody gives up", crowded, async (daemon, session, step) => {
  const { client, frontend, queues } = session;
  const second = new FuseClient(queues[2], { hiprio: queues[0] });
  Deno.writeTextFileSync(daemon.path("file"), "");
  /** Owner 1 has the lock, owners 2 and 3 wait for it on either queue; there is one helper, and it is owner 3's on the second. */
  const block = () => {
    const { nodeid } = client.lookup(ROOT, "file");
    const { fh } = client.open(nodeid, 2);
    assert.equal(client.request(op.FUSE_SETLK, nodeid, lk(fh, 1, F_WRLCK)).error, 0);
    const held = second.start(op.FUSE_SETLKW, nodeid, lk(fh, 3, F_WRLCK));
    assert.equal(second.getattr(nodeid).error, 0);
    const queued = client.start(op.FUSE_SETLKW, nodeid, lk(fh, 2, F_WRLCK));
    assert.equal(client.getattr(nodeid).error, 0);
    return { held, queued };
  };
  await step("DESTROY and INIT end them, on all loops", () => {
    for (const end of [() => client.destroy().error, () => client.init().error]) {
      const { held, queued } = block();
      assert.equal(end(), 0);
      assert.equal(second.finish(held).error, -EINTR);
      assert.equal(client.finish(queued).error, -EINTR);
      assert.equal(client.init().error, 0);
    }
  });
  await step("INTERRUPT and GET_VRING_BASE end one that no helper has begun", () => {
    const { held, queued } = block();
    client.interrupt(queued.unique);
    assert.equal(client.finish(queued).error, -EINTR);
    assert.equal(second.isDone(held), false);
    const again = block().queued;
    const base = frontend.stopQueue(1);
    assert.equal(client.finish(again).error, -EINTR);
    assert.equal(base, queues[1].usedIdx);
    frontend.startQueue(queues[1], { base });
    assert.equal(client.statfs().error, 0);
  });
});

withDaemon("Locks that were not asked for", {}, async (daemon, { client }, step) => {
  Deno.writeTextFileSync(daemon.path("file"), "");
  const file = client.lookup(ROOT, "file").nodeid;
  const { fh } = client.open(file, 2);
  await step("are answered with ENOSYS: the client keeps them itself", () => {
    assert.equal(client.request(op.FUSE_SETLK, file, lk(fh, 1, F_WRLCK)).error, -ENOSYS);
    assert.equal(client.request(op.FUSE_GETLK, file, lk(fh, 1, F_WRLCK), 24).error, -ENOSYS);
    assert.equal(client.request(op.FUSE_SETLKW, file, lk(fh, 1, F_WRLCK, 0, 1, FLOCK)).error, -ENOSYS);
  });
});
