import assert from "node:assert/strict";
import { bytes, names, u32 } from "../../bench/fuse_encode.ts";
import { EINVAL } from "../../ffi/errno.ts";
import { Extensions } from "../../fs/creation.ts";
import type { FsService } from "../../fs/service.ts";
import { FLAGS2, fuse_in_header } from "../../fs/wire.ts";

const HEADER = fuse_in_header.sizeof;
const BOTH = FLAGS2.FUSE_SECURITY_CTX | FLAGS2.FUSE_CREATE_SUPP_GROUP;
const group = u32(16, 32, 1, 4711);
const label = bytes(u32(24, 1, 3, 0), names("a.b"), new TextEncoder().encode("xyz"), new Uint8Array(1));

/** What reading a request says whose one name is "n", with `units` of 8 bytes in its header. */
function read(extension: Uint8Array, units: number, flags2: number = BOTH, minor = 38) {
  const request = bytes(new Uint8Array(HEADER), names("n"), extension, new Uint8Array(8));
  new DataView(request.buffer).setUint16(fuse_in_header.total_extlen, units, true);
  const whole = new Uint8Array(Math.ceil(request.length / 4) * 4);
  whole.set(request);
  const fs = {
    session: { flags2, minor },
    requests: { in: whole, in32: new Uint32Array(whole.buffer) },
    len: HEADER + 2 + extension.length,
  } as unknown as FsService;
  const extensions = new Extensions();
  return { result: extensions.read(fs, HEADER + 2), extensions, whole };
}

Deno.test("Extensions.read() takes groups and label as long as total_extlen says", () => {
  for (const [extension, units] of [[bytes(group, label), 5], [bytes(label, group), 5]] as const) {
    const { result, extensions, whole } = read(extension, units);
    assert.equal(result, 0);
    assert.deepEqual([...extensions.groups], [4711]);
    const { labelAt, labelSize } = extensions;
    assert.equal(new TextDecoder().decode(whole.subarray(labelAt, labelAt + labelSize)), "xyz");
  }
});

Deno.test("Extensions.read() leaves alone what was not agreed on", () => {
  const { result, extensions } = read(bytes(group, label), 5, 0);
  assert.equal(result, 0);
  assert.deepEqual([extensions.groups.length, extensions.labelSize], [0, 0]);
  assert.equal(read(group, 2, FLAGS2.FUSE_SECURITY_CTX).result, -EINVAL);
  assert.equal(read(label, 3, FLAGS2.FUSE_CREATE_SUPP_GROUP).result, -EINVAL);
});

Deno.test("Extensions.read() total_extlen that is not what is behind the names is EINVAL", () => {
  for (const units of [1, 3, 0xffff]) assert.equal(read(group, units).result, -EINVAL, `${units}`);
});

Deno.test("Extensions.read() without total_extlen there is none since 7.38, before it is all that is left", () => {
  assert.equal(read(group, 0).extensions.groups.length, 0);
  assert.deepEqual([...read(group, 0, BOTH, 37).extensions.groups], [4711]);
});
