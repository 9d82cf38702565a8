import assert from "node:assert/strict";
import { EPERM } from "../../ffi/errno.ts";
import { createIds, IdMap } from "../../fs/idmap.ts";

Deno.test("IdMap without a rule for an id leaves it as it is", () => {
  const map = new IdMap(["map:0:1000:10"]);
  for (const id of [10, 999, 1010, 0xffffffff]) assert.equal(map.toHost(id), id);
  for (const id of [10, 999, 1010, 0xffffffff]) assert.equal(map.toGuest(id), id);
});

Deno.test("IdMap map goes both ways", () => {
  const map = new IdMap(["map:0:1000:10", "map:20:2000:1"]);
  assert.deepEqual([0, 9, 20].map((id) => map.toHost(id)), [1000, 1009, 2000]);
  assert.deepEqual([1000, 1009, 2000].map((id) => map.toGuest(id)), [0, 9, 20]);
});

Deno.test("IdMap guest and host go one way each", () => {
  const map = new IdMap(["guest:5:50:5", "host:7:70:2"]);
  assert.deepEqual([4, 5, 9, 10].map((id) => map.toHost(id)), [4, 50, 54, 10]);
  assert.deepEqual([6, 7, 8, 9].map((id) => map.toGuest(id)), [6, 70, 71, 9]);
  assert.equal(map.toGuest(50), 50);
  assert.equal(map.toHost(70), 70);
});

Deno.test("IdMap squash-guest and squash-host make one id of many", () => {
  const map = new IdMap(["squash-guest:0:1000:4294967295", "squash-host:0:0:65536"]);
  assert.deepEqual([0, 1, 4294967294].map((id) => map.toHost(id)), [1000, 1000, 1000]);
  assert.deepEqual([0, 1000, 65535, 65536].map((id) => map.toGuest(id)), [0, 0, 0, 65536]);
});

Deno.test("IdMap forbid-guest is EPERM", () => {
  const map = new IdMap(["forbid-guest:100:2", "map:0:1000:1"]);
  assert.deepEqual([99, 100, 101, 102].map((id) => map.toHost(id)), [99, -EPERM, -EPERM, 102]);
  assert.equal(map.toGuest(100), 100);
});

Deno.test("IdMap takes other separators and capitals, as virtiofsd does", () => {
  assert.equal(new IdMap(["Map,0,1000,10"]).toHost(3), 1003);
  assert.equal(new IdMap(["SQUASH-GUEST 0 7 10"]).toHost(3), 7);
  assert.equal(new IdMap(["guest:0:7:0"]).toHost(0), 0);
});

Deno.test("IdMap refuses what is wrong, and names the rule", () => {
  const wrong: [string[], string][] = [
    [[""], "the type is"],
    [["both:0:1:2"], "both"],
    [["map"], "3 numbers, not 0"],
    [["map:"], "3 numbers"],
    [["map:1:2"], "3 numbers, not 2"],
    [["map:1:2:3:4"], "3 numbers, not 4"],
    [["forbid-guest:1:2:3"], "2 numbers"],
    [["map:a:2:3"], "«a»"],
    [["map:-1:2:3"], "«-1»"],
    [["map:1:2:"], "«»"],
    [["map:1:2:0x10"], "«0x10»"],
    [["map:4294967296:0:1"], "4294967296"],
    [["guest:4294967295:0:2"], "beyond"],
    [["guest:0:4294967295:2"], "beyond"],
    [["map:0:1:2", "guest:1:9:1"], "guest:1:9:1"],
    [["map:0:100:2", "host:101:9:1"], "host:101:9:1"],
    [["squash-guest:0:1:10", "forbid-guest:9:1"], "forbid-guest:9:1"],
  ];
  for (const [rules, word] of wrong) {
    assert.throws(() => new IdMap(rules), (error: Error) => {
      assert.ok(error.message.includes(word), `${error.message} lacks ${word}`);
      return !error.message.includes("\n");
    }, rules.join(" "));
  }
});

Deno.test("createIds() is null where nothing is translated", () => {
  assert.equal(createIds([], []), null);
  const ids = createIds([], ["map:0:1:1"])!;
  assert.equal(ids.uid.toHost(0), 0);
  assert.equal(ids.gid.toHost(0), 1);
});
