// vq/memory.ts: regions placed in the window, and addresses turned into places in it.
import assert from "node:assert/strict";
import { cString, errno, libc } from "../../ffi/libc.ts";
import type { GuestAddr, MemoryRegion, UserAddr } from "../../vq/device.ts";
import {
  fromUserAddr,
  GuestMemory,
  type GuestWindow,
  mapGuestMemory,
  type MemoryLayout,
  type PlacedRegion,
  unmapGuestMemory,
} from "../../vq/memory.ts";

const PAGE = 4096;
const MIB = 2 ** 20;
const USER = 0x7f00_0000_0000;
const MFD_HUGETLB = 4;

function withFile(bytes: number, body: (fd: number) => void, flags = 1): void {
  const fd = libc.memfd_create(cString("window"), flags);
  assert.equal(libc.ftruncate(fd, BigInt(bytes)), 0);
  try {
    body(fd);
  } finally {
    libc.close(fd);
  }
}

function region(fd: number, guestAddr: number, size: number, mmapOffset = 0): MemoryRegion {
  return { guestAddr: guestAddr as GuestAddr, size, userAddr: (USER + guestAddr) as UserAddr, mmapOffset, fd };
}

function withWindow(regions: MemoryRegion[], body: (memory: GuestMemory, layout: MemoryLayout) => void): void {
  const window = mapGuestMemory(regions);
  const memory = new GuestMemory(window.layout);
  try {
    body(memory, window.layout);
  } finally {
    memory.detach();
    unmapGuestMemory(window);
  }
}

/** A layout that is not mapped, for arithmetic alone. */
function layoutOf(...regions: [guestAddr: number, userAddr: number, size: number][]): MemoryLayout {
  let offset = 0;
  const placed = regions.map(([guestAddr, userAddr, size]) => {
    const at = offset;
    offset += size;
    return { guestAddr, userAddr, size, offset: at } as PlacedRegion;
  });
  return { addr: 0 as MemoryLayout["addr"], size: offset, regions: placed };
}

const written = (fd: number, offset: number) => {
  assert.equal(libc.lseek(fd, BigInt(offset), 0), BigInt(offset));
  const byte = new Uint8Array(1);
  assert.equal(libc.read(fd, byte, 1), 1);
  return byte[0];
};

Deno.test("mapGuestMemory() maps each region to its own place in one window", () => {
  withFile(
    8 * MIB,
    (one) =>
      withFile(
        MIB,
        (two) =>
          withWindow([region(one, 0x1000, 4 * MIB, 2 * MIB), region(two, 1 << 30, MIB)], (memory, layout) => {
            assert.equal(memory.regionCount, 2);
            assert.equal(layout.addr % (2 * MIB), 0);
            for (const each of layout.regions) {
              assert.equal(each.offset % (2 * MIB), 0);
              assert.ok(each.offset + each.size <= layout.size);
            }
            memory.u8[memory.translate(0x1000, 1)] = 11;
            memory.u8[memory.translate(0x1000 + 4 * MIB - 1, 1)] = 12;
            memory.u8[memory.translate(2 ** 30, 1)] = 13;
            memory.u8[memory.translate(2 ** 30 + MIB - 1, 1)] = 14;
            assert.equal(written(one, 2 * MIB), 11);
            assert.equal(written(one, 6 * MIB - 1), 12);
            assert.equal(written(two, 0), 13);
            assert.equal(written(two, MIB - 1), 14);
            assert.equal(memory.data.getUint8(memory.translate(0x1000, 1)), 11);
            assert.equal(memory.u32[memory.translate(2 ** 30, 4) / 4], 13);
          }),
      ),
  );
});

Deno.test("mapGuestMemory() takes mmap offsets of any page, and sizes of any number of pages", () => {
  for (const pages of [1, 3, 15, 16, 17]) {
    withFile(
      64 * PAGE,
      (fd) =>
        withWindow([region(fd, 0, PAGE, PAGE), region(fd, 1 << 20, 7 * PAGE, pages * PAGE)], (memory) => {
          memory.u8[memory.translate(0, 1)] = pages;
          memory.u8[memory.translate((1 << 20) + 7 * PAGE - 1, 1)] = pages + 100;
          assert.equal(written(fd, PAGE), pages);
          assert.equal(written(fd, (pages + 7) * PAGE - 1), pages + 100);
        }),
    );
  }
});

Deno.test("mapGuestMemory() takes more than 4 GiB, of which every byte can be reached", () => {
  const size = 9 * 2 ** 30;
  withFile(size, (fd) =>
    withWindow([region(fd, 2 ** 32, size)], (memory) => {
      const last = memory.translate(2 ** 32 + size - 4, 4);
      memory.u32[last / 4] = 0x0a0b_0c0d;
      assert.equal(memory.u8[last], 0x0d);
      assert.equal(memory.data.getUint32(last, true), 0x0a0b_0c0d);
      assert.equal(written(fd, size - 1), 0x0a);
    }));
});

Deno.test("mapGuestMemory() refuses a region that ends behind its file", () => {
  withFile(4 * PAGE, (fd) => {
    withWindow([region(fd, 0, 3 * PAGE, PAGE)], () => {});
    for (const [size, offset] of [[4 * PAGE + 1, 0], [4 * PAGE, 1], [1, 4 * PAGE], [PAGE, 2 ** 52]]) {
      assert.throws(() => mapGuestMemory([region(fd, 0, size, offset)]), /ends behind its file/);
    }
    assert.throws(() => mapGuestMemory([region(fd, 0, PAGE), region(fd, 1 << 20, 5 * PAGE)]), /ends behind its file/);
  });
});

Deno.test("mapGuestMemory() refuses descriptors that cannot be mapped, and leaves nothing mapped", () => {
  const mappings = () =>
    Deno.readTextFileSync("/proc/self/maps").split("\n").filter((line) => line.includes("memfd:window"));
  assert.throws(() => mapGuestMemory([region(-1, 0, PAGE)]), { name: "SystemError" });
  withFile(PAGE, (fd) => {
    const eventfd = libc.eventfd(0, 0);
    assert.throws(() => mapGuestMemory([region(fd, 0, PAGE), region(eventfd, 1 << 20, PAGE)]), /cannot be mapped/);
    libc.close(eventfd);
    assert.deepEqual(mappings(), []);
  });
});

Deno.test("mapGuestMemory() refuses more than a view can cover", () => {
  withFile(2 ** 42 + 2 * MIB, (fd) => {
    assert.throws(() => mapGuestMemory([region(fd, 0, 2 ** 42 + MIB)]), /more than can be mapped/);
  });
});

Deno.test("mapGuestMemory() aligns the window to the huge pages of its files", () => {
  for (const [name, bytes, shift] of [["2048kB", 2 * MIB, 21], ["1048576kB", 2 ** 30, 30]] as const) {
    const flags = MFD_HUGETLB | (shift << 26);
    const fd = libc.memfd_create(cString("huge"), flags);
    if (fd < 0) {
      console.log(`skipped for ${name}: memfd_create says ${errno()}`);
      continue;
    }
    try {
      assert.equal(libc.ftruncate(fd, BigInt(bytes)), 0);
      // MAP_NORESERVE: pages need not be there as long as nobody touches them.
      withWindow(
        [region(fd, 0, bytes)],
        (_, layout) => assert.equal((layout.addr + layout.regions[0].offset) % bytes, 0),
      );
    } finally {
      libc.close(fd);
    }
  }
});

Deno.test("fromUserAddr() gives places within one region only", () => {
  const layout = layoutOf([0, USER, 0x1000], [0x8000, USER + 0x1000, 0x1000]);
  const at = (addr: number, len: number) => fromUserAddr(layout, addr as UserAddr, len);
  assert.equal(at(USER, 0x1000), 0);
  assert.equal(at(USER + 0xfff, 1), 0xfff);
  assert.equal(at(USER + 0x1000, 0x1000), 0x1000);
  // Regions that touch in the front end need not touch here.
  assert.equal(at(USER + 0xfff, 2), -1);
  assert.equal(at(USER - 1, 1), -1);
  assert.equal(at(USER + 0x2000, 1), -1);
  assert.equal(at(USER + 0x1000, 0x1001), -1);
  assert.equal(at(0, 1), -1);
  assert.equal(at(2 ** 53, 1), -1);
  assert.equal(at(2 ** 64 - USER, 1), -1);
});

Deno.test("fromUserAddr() and translate() do not round near 2^53", () => {
  const start = 2 ** 53 - 0x1000;
  const layout = layoutOf([start, start, 0x1000]);
  const memory = new GuestMemory({ ...layout, regions: [] });
  assert.equal(memory.translate(start, 1), -1);
  const end = 2 ** 53;
  assert.equal(fromUserAddr(layout, (end - 1) as UserAddr, 1), 0xfff);
  // end - 1 + 2 is rounded to end.
  assert.equal(fromUserAddr(layout, (end - 1) as UserAddr, 2), -1);
  withFile(0x1000, (fd) =>
    withWindow([region(fd, start, 0x1000)], (real) => {
      const offset = real.translate(start, 0x1000);
      assert.equal(real.translate(end - 1, 1), offset + 0xfff);
      assert.equal(real.translate(end - 1, 2), -1);
      assert.equal(real.translate(end - 3, 4), -1);
      assert.equal(real.translate(end, 1), -1);
      assert.equal(real.contiguous(end - 1), 1);
      assert.equal(real.contiguous(end), 0);
    }));
});

Deno.test("translate() refuses what is not within one region", () => {
  withFile(
    4 * PAGE,
    (fd) =>
      withWindow([region(fd, 0x10000, PAGE), region(fd, 0x10000 + PAGE, PAGE, PAGE)], (memory) => {
        const [first, second] = [memory.translate(0x10000, PAGE), memory.translate(0x10000 + PAGE, PAGE)];
        assert.ok(first >= 0 && second >= 0 && second !== first);
        assert.equal(memory.translate(0x10000 + 5, PAGE - 5), first + 5);
        for (
          const [addr, len] of [
            [0x10000 - 1, 1],
            [0x10000 - 1, 2],
            [0x10000, PAGE + 1],
            [0x10000 + PAGE - 1, 2],
            [0x10000 + 2 * PAGE, 1],
            [0x10000 + PAGE, 0xffff_ffff],
            [0, 1],
            [2 ** 53, 16],
            [2 ** 64 - 16, 16],
            [2 ** 64 - 16, 0xffff_ffff],
            [0xffff_ffff * 2 ** 32 + 0xffff_ffff, 1],
          ]
        ) assert.equal(memory.translate(addr, len), -1, `${addr}, ${len}`);
        assert.equal(memory.contiguous(0x10000), PAGE);
        assert.equal(memory.contiguous(0x10000 + PAGE - 1), 1);
        assert.equal(memory.contiguous(0x10000 + PAGE), PAGE);
        assert.equal(memory.contiguous(0x10000 + 2 * PAGE), 0);
        assert.equal(memory.contiguous(0x10000 - 1), 0);
      }),
  );
});

Deno.test("detach() empties every view, so that nothing unmapped can be touched", () => {
  withFile(PAGE, (fd) => {
    const window: GuestWindow = mapGuestMemory([region(fd, 0, PAGE)]);
    const memory = new GuestMemory(window.layout);
    const other = new GuestMemory(window.layout);
    memory.u8[0] = 1;
    memory.detach();
    assert.deepEqual([memory.u8.length, memory.u32.length, memory.buffer.byteLength], [0, 0, 0]);
    memory.u8[0] = 2;
    assert.equal(memory.u8[0], undefined);
    assert.throws(() => memory.data.getUint8(0), TypeError);
    memory.detach();
    assert.equal(other.u8[0], 1);
    other.detach();
    unmapGuestMemory(window);
  });
});
