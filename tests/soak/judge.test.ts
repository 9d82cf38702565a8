import assert from "node:assert/strict";
import { BYTES_PER_REQUEST, BYTES_PER_SESSION, judge, median, NOISE_BYTES } from "./judge.ts";
import { kindOf, type Sample } from "./sample.ts";

/** Samples of a daemon that holds `grown(i)` more at the i-th: a session and a thousand requests lie between two. */
function samples(count: number, grown: (i: number, one: Sample) => void): Sample[] {
  return Array.from({ length: count }, (_, i) => {
    // Heaps breathe.
    const noise = (i * 7919 % 13) << 18;
    const one: Sample = {
      ...{ atS: i, sessions: i, requests: i * 1000, rss: 100e6 + noise, anonymous: 80e6 + noise, vmData: 5e9 + noise },
      ...{ threads: 9, runtimeThreads: 3 + i % 3, maps: 400 + i % 30, guestMaps: 0, descriptors: 40, sockets: 3 },
      kinds: { eventfd: 8, socket: 12, "file of a share": 5 },
    };
    grown(i, one);
    return one;
  });
}

const grows = (list: Sample[]) => judge(list).filter(({ ok }) => !ok).map(({ what }) => what);

Deno.test("judge() finds what breathes flat, whatever happened in the warm-up", () => {
  assert.deepEqual(grows(samples(40, () => {})), []);
  const warm = samples(40, (i, one) => {
    if (i > 8) return void (one.rss += 300e6, one.threads += 4, one.descriptors += 20);
  });
  assert.deepEqual(grows(warm), []);
});

Deno.test("judge() says nothing of too few samples", () => {
  assert.deepEqual(judge(samples(5, () => {})), []);
});

Deno.test("judge() finds each descriptor, thread and mapping that is left over", () => {
  const late = (i: number) => i >= 35 ? 1 : 0;
  assert.deepEqual(
    grows(samples(40, (i, one) => {
      one.kinds = { ...one.kinds, eventfd: 8 + late(i) };
      one.descriptors += late(i);
    })),
    ["descriptors", "descriptors: eventfd"],
  );
  assert.deepEqual(grows(samples(40, (i, one) => void (one.sockets += late(i)))), ["sockets of the shares"]);
  assert.deepEqual(grows(samples(40, (i, one) => void (one.guestMaps += late(i)))), ["guests' memory mapped"]);
  assert.deepEqual(grows(samples(400, (i, one) => void (one.maps += i))), ["mappings"]);
  assert.deepEqual(grows(samples(40, (i, one) => void (one.threads += late(i)))), ["threads"]);
  assert.deepEqual(grows(samples(40, (i, one) => void (one.runtimeThreads += i >> 2))), ["threads of the runtime"]);
});

Deno.test("judge() finds memory that grows by session or by request, and smaller leaks in longer runs", () => {
  const by = (count: number, perSession: number, perRequest: number) =>
    grows(samples(count, (i, one) => void (one.rss += i * perSession + i * 1000 * perRequest)));
  const sessions = 4000;
  const noise = NOISE_BYTES / (sessions / 2);
  assert.deepEqual(by(sessions, 4 * (BYTES_PER_SESSION + noise), 0), ["resident memory"]);
  assert.deepEqual(by(sessions, 0, 4 * (BYTES_PER_REQUEST + noise / 1000)), ["resident memory"]);
  assert.deepEqual(by(sessions, BYTES_PER_SESSION / 2, BYTES_PER_REQUEST / 2), []);
  assert.deepEqual(by(40, 4 * (BYTES_PER_SESSION + noise), 0), []);
});

Deno.test("median() of an odd and an even number of values", () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 3, 2]), 2.5);
});

Deno.test("kindOf() tells descriptors apart", () => {
  const kinds = {
    "/srv/a/file": "file of a share",
    "/srv/a": "file of a share",
    "/srv/ab": "other file",
    "/memfd:guest (deleted)": "guest memory",
    "anon_inode:[eventfd]": "eventfd",
    "anon_inode:[io_uring]": "io_uring",
    "socket:[123]": "socket",
    "pipe:[7]": "pipe",
    "/dev/null": "other file",
  };
  for (const [target, kind] of Object.entries(kinds)) assert.equal(kindOf(target, ["/srv/a"]), kind, target);
});
