import assert from "node:assert/strict";
import { Elf64_Phdr, PT_LOAD, PT_NOTE, readElf } from "../../packaging/elf.ts";
import { isX86Glibc, packed } from "./helpers.ts";

const deno = isX86Glibc ? await Deno.readFile(Deno.execPath()) : new Uint8Array();

/** Deno's ELF headers with one change. The rest is shared, so that 90 MB are copied once. */
function changed(change: (view: DataView) => () => void): () => void {
  return () => {
    const undo = change(new DataView(deno.buffer));
    try {
      readElf(deno);
    } finally {
      undo();
    }
  };
}

function setByte(at: number, value: number): () => void {
  return changed((view) => {
    const before = view.getUint8(at);
    view.setUint8(at, value);
    return () => view.setUint8(at, before);
  });
}

const ignore = !isX86Glibc;

Deno.test("readElf() refuses what is no ELF file", () => {
  assert.throws(() => readElf(new Uint8Array(0)), /no ELF file/);
  assert.throws(() => readElf(new TextEncoder().encode("#!/bin/sh\n".padEnd(100))), /no ELF file/);
});

Deno.test({
  name: "readElf() finds entry, PT_NOTE and environ of Deno (x86-64)",
  ignore,
  fn() {
    const elf = readElf(deno), view = new DataView(deno.buffer);
    assert.equal(view.getUint32(elf.noteHeader, true), PT_NOTE);
    assert.ok(elf.entry > 0 && elf.entry < elf.end);
    assert.ok(elf.environSlot > 0 && elf.environSlot % 8 === 0 && elf.environSlot < elf.end);
  },
});

Deno.test({
  name: "readElf() refuses another architecture, class or type (x86-64)",
  ignore,
  fn() {
    assert.throws(setByte(18, 183), /not for x86-64/);
    assert.throws(setByte(4, 1), /not for x86-64/);
    assert.throws(setByte(5, 2), /not for x86-64/);
    assert.throws(setByte(16, 2), /not position-independent/);
    assert.doesNotThrow(setByte(16, 3));
  },
});

Deno.test({
  name: "readElf() refuses damaged and truncated headers (x86-64)",
  ignore,
  fn() {
    assert.throws(setByte(54, 55), /program headers are damaged/);
    assert.throws(setByte(39, 1), /headers are damaged/);
    for (const length of [64, 400, 100_000]) {
      assert.throws(() => readElf(deno.slice(0, length)), /truncated|damaged|no PT_NOTE|loader/);
    }
  },
});

Deno.test({
  name: "readElf() refuses a file without PT_NOTE, or with one before a PT_LOAD (x86-64)",
  ignore,
  async fn() {
    const { noteHeader } = readElf(deno);
    assert.throws(setByte(noteHeader, 0), /no PT_NOTE/);
    const swap = changed((view) => {
      const earlier = noteHeader - 56;
      const type = view.getUint32(earlier + Elf64_Phdr.type, true);
      view.setUint32(noteHeader, PT_LOAD, true);
      view.setUint32(earlier, PT_NOTE, true);
      return () => {
        view.setUint32(noteHeader, PT_NOTE, true);
        view.setUint32(earlier, type, true);
      };
    });
    assert.throws(swap, /PT_NOTE stands before a PT_LOAD/);
    const again = await Deno.readFile(await packed("elf"));
    assert.throws(() => readElf(again), /packed already/);
  },
});

Deno.test({
  name: "readElf() refuses a loader other than glibc's (x86-64)",
  ignore,
  fn() {
    const at = new TextDecoder("latin1").decode(deno.subarray(0, 4096)).indexOf("/lib64/ld-linux");
    assert.throws(setByte(at + 1, "L".charCodeAt(0)), /loader is not glibc's/);
  },
});
