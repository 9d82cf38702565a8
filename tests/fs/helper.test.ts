// The file system's service on a helper: what a guest makes of a request on its way there is checked anew.
import assert from "node:assert/strict";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { GuestMemory as Guest } from "../../bench/guest_memory.ts";
import { EINVAL, EIO, ENOENT } from "../../ffi/errno.ts";
import { defaultOptions } from "../../fs/config.ts";
import { opcodes } from "../../fs/opcodes.ts";
import { FsService } from "../../fs/service.ts";
import { openShare } from "../../fs/share.ts";
import { Grace, graceBytes } from "../../vq/grace.ts";
import { silent } from "../../vq/log.ts";
import { GuestMemory, mapGuestMemory, unmapGuestMemory } from "../../vq/memory.ts";
import { type Host, LoopDevice } from "../../vq/queue.ts";
import { Requests } from "../../vq/requests.ts";

/** A service as a helper has it, and a slot of a loop to hand requests over by. */
function helper(dir: string) {
  const config = { ...openShare(dir, defaultOptions, 1, silent), kind: 2 as const };
  const guest = Guest.create(1 << 20);
  const window = mapGuestMemory(guest.regions);
  const { layout } = window;
  const requests = new Requests();
  const grace = new Grace(new SharedArrayBuffer(graceBytes(1, 1)), 1, 1);
  const host: Host & { inLocks: boolean } = { index: 1, isHelper: true, inLocks: true, requests, grace, log: silent };
  const device = new LoopDevice(0, new GuestMemory(layout));
  const service = device.service = new FsService(config, host, device, []);
  service.session.start(38, 0, 0);
  const loop = new Requests();
  const [{ offset }] = layout.regions;
  /** Serves what stands in guest memory at the time. Returns the bytes written, and the error of the reply. */
  const serve = (request: Uint8Array): { written: number; error: number; unique: number } => {
    device.memory.u8.set(request, offset);
    device.memory.u8.fill(0, offset + 4096, offset + 8192);
    const slot = 7;
    loop.readable[slot] = loop.writable[slot] = 1;
    loop.readableBytes[slot] = request.length;
    loop.writableBytes[slot] = 4096;
    loop.segOffset.set([offset, offset + 4096], slot * 1024);
    loop.segLen.set([request.length, 4096], slot * 1024);
    requests.copyChain(loop.chains, slot, 0);
    grace.enter();
    const written = service.handle(0);
    grace.leave();
    const reply = new DataView(device.memory.buffer, offset + 4096);
    return { written, error: reply.getInt32(4, true), unique: reply.getUint32(8, true) };
  };
  const close = () => {
    device.memory.detach();
    unmapGuestMemory(window);
    guest.close();
  };
  return { host, serve, close };
}

const header = (opcode: number, nodeid: number, args: Uint8Array, unique = 99) =>
  bytes(u32(40 + args.length, opcode), u64(unique, nodeid), u32(0, 0, 0, 0), args);

Deno.test("FsService.handle() on a helper", async (t) => {
  const dir = Deno.makeTempDirSync();
  Deno.writeTextFileSync(`${dir}/file`, "text");
  const { host, serve, close } = helper(dir);
  await t.step("serves what a loop hands over, and answers with the unique of its own copy", () => {
    assert.deepEqual(serve(header(op.FUSE_LOOKUP, 1, names("file"), 123)), { written: 144, error: 0, unique: 123 });
    assert.equal(serve(header(op.FUSE_LOOKUP, 1, names("none"))).error, -ENOENT);
  });
  await t.step("refuses with EIO what is not for helpers", () => {
    const served = opcodes.map((one) => one !== undefined && one.waits !== "nothing");
    for (let opcode = 0; opcode < opcodes.length; opcode++) {
      if (served[opcode]) continue;
      const { written, error } = serve(header(opcode, 1, new Uint8Array(128)));
      assert.deepEqual([written, error], [16, -EIO], `opcode ${opcode}`);
    }
    assert.ok(
      !served[op.FUSE_INIT] && !served[op.FUSE_DESTROY] && !served[op.FUSE_FORGET] && !served[op.FUSE_INTERRUPT],
    );
  });
  await t.step("waits for no lock in a request that did not come by the line of those that may", () => {
    const lock = header(op.FUSE_SETLKW, 1, new Uint8Array(48));
    assert.notEqual(serve(lock).error, -EIO);
    host.inLocks = false;
    assert.equal(serve(lock).error, -EIO);
    assert.equal(serve(header(op.FUSE_LOOKUP, 1, names("file"))).error, 0, "others are served by either");
  });
  await t.step("checks lengths and names again", () => {
    assert.equal(serve(header(op.FUSE_LOOKUP, 1, names("a/b"))).error, -EINVAL);
    const long = header(op.FUSE_LOOKUP, 1, names("file"));
    long[0] = 255;
    assert.equal(serve(long).error, -EINVAL);
    assert.equal(serve(new Uint8Array(20)).written, 0);
  });
  close();
  Deno.removeSync(dir, { recursive: true });
});
