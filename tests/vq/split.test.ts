// vq/split.ts: the device's side of a split queue, on rings in plain memory.
import assert from "node:assert/strict";
import type { GuestMemory } from "../../vq/memory.ts";
import * as S from "../../vq/split.ts";

/** A queue, and its rings as the driver sees them. */
function ring(size: number, base = 0, eventIdx = false, used = base) {
  const buffer = new ArrayBuffer(1 << 20);
  const at = { desc: 0, avail: S.descTableBytes(size), used: 0 };
  at.used = (at.avail + S.availRingBytes(size) + 3) & ~3;
  const avail = new Uint16Array(buffer, at.avail, 3 + size);
  const used16 = new Uint16Array(buffer, at.used, 3 + 4 * size);
  const used32 = new Uint32Array(buffer, at.used + 4, 2 * size);
  avail[1] = base;
  used16[1] = used;
  const queue = new S.SplitQueue({ buffer } as GuestMemory, { ...at, size, base, eventIdx } as S.SplitLayout);
  const driver = {
    /** Offers a head. */
    offer(head: number) {
      avail[2 + (avail[1] & (size - 1))] = head;
      avail[1]++;
    },
    setIndex: (idx: number) => avail[1] = idx,
    setNoInterrupt: (flag: number) => avail[0] = flag,
    setUsedEvent: (idx: number) => avail[2 + size] = idx,
    get noNotify() {
      return used16[0];
    },
    get availEvent() {
      return used16[2 + 4 * size];
    },
    get usedIdx() {
      return used16[1];
    },
    element: (idx: number) => [used32[(idx & (size - 1)) * 2], used32[(idx & (size - 1)) * 2 + 1]],
  };
  return { queue, driver };
}

Deno.test("needEvent() says whether old..next passes event, in every place of the wrap", () => {
  for (const origin of [0, 1, 0x7fff, 0x8000, 0xfffc, 0xffff]) {
    for (let moved = 0; moved < 8; moved++) {
      for (let event = -4; event < 12; event++) {
        const at = (n: number) => (origin + n) & 0xffff;
        // Entries origin … origin + moved - 1 are new: the driver is called where the event index names one of them.
        const wanted = event >= 0 && event < moved;
        assert.equal(S.needEvent(at(event), at(moved), origin), wanted, `${origin} + ${moved}, event + ${event}`);
      }
    }
  }
});

Deno.test("layoutFault() names sizes and alignments that VIRTIO 2.7 forbids", () => {
  const layout = { size: 8, desc: 16, avail: 2, used: 4, base: 0, eventIdx: false } as S.SplitLayout;
  assert.equal(S.layoutFault(layout), null);
  for (const size of [1, 2, 32768]) assert.equal(S.layoutFault({ ...layout, size }), null);
  for (const size of [0, -1, 3, 24, 65536]) assert.match(S.layoutFault({ ...layout, size })!, /power of two/);
  const wrong = (part: Partial<Record<"desc" | "avail" | "used", number>>) =>
    S.layoutFault({ ...layout, ...part } as S.SplitLayout) ?? "";
  assert.match(wrong({ desc: 8 }), /16 bytes/);
  assert.match(wrong({ avail: 3 }), /2 bytes/);
  assert.match(wrong({ used: 2 }), /4 bytes/);
});

Deno.test("sizes of the parts are those of VIRTIO 2.7, the event index included", () => {
  assert.deepEqual([S.descTableBytes(256), S.availRingBytes(256), S.usedRingBytes(256)], [4096, 518, 2054]);
});

Deno.test("available() and pop() give every head in order while idx runs over 65535 -> 0", () => {
  for (const size of [1, 2, 8, 32768]) {
    const { queue, driver } = ring(size, 65530);
    assert.equal(queue.available(), 0);
    for (let i = 0; i < 20; i++) {
      const many = Math.min(size, 3);
      for (let k = 0; k < many; k++) driver.offer((i * many + k) & (size - 1));
      assert.equal(queue.available(), many);
      for (let k = 0; k < many; k++) assert.equal(queue.pop(), (i * many + k) & (size - 1));
      assert.equal(queue.available(), 0);
      assert.equal(queue.lastAvail, (65530 + (i + 1) * many) & 0xffff);
    }
  }
});

Deno.test("available() takes a whole ring, and one more breaks the queue", () => {
  for (const size of [1, 8, 32768]) {
    for (const base of [0, 65530, 65535]) {
      const { queue, driver } = ring(size, base);
      driver.setIndex(base + size);
      assert.equal(queue.available(), size);
      assert.equal(queue.broken, false);
      driver.setIndex(base + size + 1);
      assert.equal(queue.available(), 0);
      assert.equal(queue.broken, true);
    }
  }
});

Deno.test("available() finds an index that went back impossible", () => {
  const { queue, driver } = ring(8, 5);
  driver.setIndex(4);
  assert.equal(queue.available(), 0);
  assert.equal(queue.broken, true);
  assert.equal(queue.lastAvail, 5);
});

Deno.test("pop() breaks the queue on a head beyond the table, and does not take it", () => {
  for (const [size, head] of [[1, 1], [8, 8], [8, 65535], [32768, 32768]]) {
    const { queue, driver } = ring(size, 65535);
    driver.offer(head);
    assert.equal(queue.available(), 1);
    assert.equal(queue.pop(), -1);
    assert.equal(queue.broken, true);
    assert.equal(queue.lastAvail, 65535);
  }
});

Deno.test("push() and publish() show all elements at once, while idx runs over 65535 -> 0", () => {
  const { queue, driver } = ring(4, 65533);
  let idx = 65533;
  for (let i = 0; i < 10; i++) {
    assert.equal(queue.owed, 0);
    queue.push(i & 3, i);
    queue.push((i + 1) & 3, 0xffff_ffff);
    assert.equal(queue.owed, 2);
    assert.equal(driver.usedIdx, idx & 0xffff);
    queue.publish();
    assert.deepEqual(driver.element(idx), [i & 3, i]);
    assert.deepEqual(driver.element(idx + 1), [(i + 1) & 3, 0xffff_ffff]);
    idx += 2;
    assert.equal(driver.usedIdx, idx & 0xffff);
  }
});

Deno.test("publish() without EVENT_IDX calls unless the driver said NO_INTERRUPT", () => {
  const { queue, driver } = ring(4);
  assert.equal(queue.publish(), false, "nothing was pushed");
  queue.push(0, 0);
  assert.equal(queue.publish(), true);
  driver.setNoInterrupt(S.VRING_AVAIL_F_NO_INTERRUPT);
  queue.push(0, 0);
  assert.equal(queue.publish(), false);
  driver.setNoInterrupt(0xfffe);
  queue.push(0, 0);
  assert.equal(queue.publish(), true, "other flags mean nothing");
});

Deno.test("publish() with EVENT_IDX calls once the event index is passed, flags or not", () => {
  for (const base of [0, 65535, 65534]) {
    const { queue, driver } = ring(8, base, true);
    driver.setNoInterrupt(S.VRING_AVAIL_F_NO_INTERRUPT);
    driver.setUsedEvent((base + 2) & 0xffff);
    const publish = (pushed: number) => {
      for (let i = 0; i < pushed; i++) queue.push(i, 0);
      return queue.publish();
    };
    assert.deepEqual([publish(1), publish(1), publish(1), publish(1)], [false, false, true, false]);
    driver.setUsedEvent((base + 6) & 0xffff);
    assert.equal(publish(3), true);
    assert.equal(publish(0), false);
  }
});

Deno.test("show() lets the driver see what is finished; publish() calls for all of it at last", () => {
  for (const base of [0, 65535]) {
    const { queue, driver } = ring(8, base, true);
    driver.setUsedEvent(base);
    queue.push(1, 10);
    queue.show();
    assert.equal(driver.usedIdx, (base + 1) & 0xffff);
    assert.deepEqual(driver.element(base), [1, 10]);
    assert.equal(queue.owed, 1, "the call is owed");
    queue.push(2, 20);
    assert.equal(queue.publish(), true, "the event index was passed by what was shown before");
    assert.equal(driver.usedIdx, (base + 2) & 0xffff);
    assert.equal(queue.owed, 0);
    assert.equal(queue.publish(), false);
  }
});

Deno.test("waiting tells that the driver's index moved, and breaks nothing", () => {
  const { queue, driver } = ring(4, 65535);
  assert.equal(queue.waiting, false);
  driver.offer(0);
  assert.equal(queue.waiting, true);
  driver.setIndex(100);
  assert.equal(queue.waiting, true);
  assert.equal(queue.broken, false);
});

Deno.test("enableKicks() asks for the next chain, and sees one that came before", () => {
  for (const base of [0, 65535]) {
    const plain = ring(8, base);
    plain.queue.disableKicks();
    assert.equal(plain.driver.noNotify, S.VRING_USED_F_NO_NOTIFY);
    assert.equal(plain.queue.enableKicks(), false);
    assert.equal(plain.driver.noNotify, 0);
    const events = ring(8, base, true);
    events.queue.disableKicks();
    assert.equal(events.driver.noNotify, 0, "with EVENT_IDX the flag stays 0 (VIRTIO 2.7.10)");
    for (const { queue, driver } of [plain, events]) {
      driver.offer(3);
      assert.equal(queue.enableKicks(), true);
      assert.equal(queue.available(), 1);
      assert.equal(queue.pop(), 3);
      assert.equal(queue.enableKicks(), false);
    }
    assert.equal(events.driver.availEvent, (base + 1) & 0xffff);
  }
});

Deno.test("SplitQueue goes on at its base, and where the used ring stands", () => {
  const { queue, driver } = ring(8, 0x1_fffe, false, 65532);
  assert.equal(queue.lastAvail, 0xfffe);
  queue.push(5, 6);
  assert.equal(queue.publish(), true);
  assert.equal(driver.usedIdx, 65533);
  assert.deepEqual(driver.element(65532), [5, 6]);
});
