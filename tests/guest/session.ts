/**
 * A guest's session with a daemon that runs already: `deno run -A tests/guest/session.ts SOCKET FOLDER`. It opens the socket, does what
 * goes through calls and through the ring on a file of the share, which is FOLDER, and says "session ok".
 */
import assert from "node:assert/strict";
import { ROOT } from "../../bench/fuse_client.ts";
import { Session } from "../../bench/session.ts";

const MIB = 1 << 20;
const [socket, folder] = Deno.args;
const session = Session.open(socket, { memory: 16 * MIB });
try {
  const { client } = session;
  const data = Uint8Array.from({ length: 65536 }, (_, i) => i % 251);
  const { nodeid, fh } = client.create(ROOT, "file", 2);
  for (let i = 0; i < 16; i++) assert.equal(client.write(nodeid, fh, i * data.length, data).size, data.length);
  for (const dataOnly of [false, true]) assert.equal(client.fsync(nodeid, fh, dataOnly).error, 0);
  assert.equal(client.fallocate(nodeid, fh, MIB, MIB).error, 0);
  assert.equal(Deno.statSync(`${folder}/file`).size, 2 * MIB);
  for (let i = 15; i >= 0; i--) assert.deepEqual(client.read(nodeid, fh, i * data.length, data.length).data, data);
  // Less than asked for: what a plain call cannot tell from what is not cached goes to the ring.
  for (let i = 0; i < 50; i++) assert.equal(client.read(nodeid, fh, 2 * MIB - i, 65536).data.length, i);
  assert.equal(client.interrupt(12345n).error, 0);
  for (let i = 0; i < 50; i++) {
    const made = client.create(ROOT, `f${i}`, 2);
    assert.equal(client.release(made.nodeid, made.fh).error, 0);
    client.forget(made.nodeid, 1);
  }
  assert.equal(client.list(ROOT).entries.length, 51 + 2);
  assert.equal(client.release(nodeid, fh).error, 0);
  assert.equal(client.destroy().error, 0);
  console.log("session ok");
} finally {
  session.close();
}
