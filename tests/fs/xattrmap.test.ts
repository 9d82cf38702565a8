import assert from "node:assert/strict";
import { EOPNOTSUPP, EPERM, ERANGE } from "../../ffi/errno.ts";
import { XattrMap } from "../../fs/xattrmap.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The host's name for a guest's, or -errno. */
function toHost(map: XattrMap, name: string): string | number {
  const bytes = encoder.encode(name);
  const host = map.toHost(encoder.encode(name + "\0more"), bytes.length);
  return typeof host === "number" ? host : decoder.decode(host.subarray(0, host.indexOf(0)));
}

/** What the guest is shown of the host's list. */
function toGuest(map: XattrMap, ...names: string[]): string[] {
  const list = encoder.encode(names.map((name) => name + "\0").join(""));
  const bytes = map.toGuest(list, list.length);
  return decoder.decode(list.subarray(0, bytes)).split("\0").slice(0, -1);
}

Deno.test("XattrMap prefixes everything and hides the rest", () => {
  for (const text of [":prefix:all::user.v.::bad:all:::", ":map::user.v.:", " xmapxxuser.v.x "]) {
    const map = new XattrMap(text);
    assert.equal(toHost(map, "trusted.a"), "user.v.trusted.a", text);
    assert.equal(toHost(map, "user.v.a"), "user.v.user.v.a", text);
    assert.deepEqual(toGuest(map, "security.selinux", "user.v.trusted.a", "user.b", "user.v.user.v.c"), [
      "trusted.a",
      "user.v.c",
    ]);
  }
});

Deno.test("XattrMap prefixes what has the key, and keeps the guest from the prefixed names", () => {
  const long = "/prefix/all/trusted./user.v./\n  /bad/server//trusted./\n\t/bad/client/user.v.//\n/ok/all///";
  for (const text of [long, "/map/trusted./user.v./", "ömapötrusted.öuser.v.ö"]) {
    const map = new XattrMap(text);
    assert.equal(toHost(map, "trusted.a"), "user.v.trusted.a", text);
    assert.equal(toHost(map, "user.v.trusted.a"), -EPERM, text);
    assert.equal(toHost(map, "user.a"), "user.a", text);
    assert.deepEqual(toGuest(map, "trusted.hidden", "user.v.trusted.a", "user.b"), ["trusted.a", "user.b"], text);
  }
});

Deno.test("XattrMap the first rule that matches decides", () => {
  const map = new XattrMap(":ok:client:user.x:::bad:client:user.:::unsupported:client:sys:::ok:all:::");
  assert.equal(toHost(map, "user.x1"), "user.x1");
  assert.equal(toHost(map, "user.y"), -EPERM);
  assert.equal(toHost(map, "system.z"), -EOPNOTSUPP);
  assert.equal(toHost(map, "trusted.z"), "trusted.z");
});

Deno.test("XattrMap rules of one scope leave the other direction alone", () => {
  const map = new XattrMap(":prefix:client:a:b::bad:server::c::unsupported:server::d::ok:all:::");
  assert.equal(toHost(map, "a1"), "ba1");
  assert.deepEqual(toGuest(map, "ba1", "c1", "d1", "e1"), ["ba1", "e1"]);
  assert.equal(toHost(map, "c1"), "c1");
});

Deno.test("XattrMap each rule may have its own delimiter", () => {
  const map = new XattrMap(":bad:all:a:a:/prefix/all/b/c/|ok|all|||");
  assert.equal(toHost(map, "a"), -EPERM);
  assert.equal(toHost(map, "b"), "cb");
  assert.deepEqual(toGuest(map, "ax", "cb", "z"), ["b", "z"]);
});

Deno.test("XattrMap.toHost() a name that grows beyond what the host takes is ERANGE", () => {
  const map = new XattrMap(":map::user.v.:");
  assert.equal(toHost(map, "n".repeat(248)), "user.v." + "n".repeat(248));
  assert.equal(toHost(map, "n".repeat(249)), -ERANGE);
});

Deno.test("XattrMap.toGuest() an empty list, and one of which nothing is left", () => {
  const map = new XattrMap(":map::user.v.:");
  assert.deepEqual(toGuest(map), []);
  assert.deepEqual(toGuest(map, "user.a", "user.v."), []);
  assert.deepEqual(toGuest(new XattrMap(":ok:all:::"), "user.a", "b"), ["user.a", "b"]);
});

Deno.test("XattrMap refuses a rule that is wrong, and names it", () => {
  const wrong: [string, ...string[]][] = [
    ["", "no rule"],
    [" \n ", "no rule"],
    [":", "rule 1", "behind its type"],
    ["::", "rule 1", "type"],
    [":ok", "rule 1", "behind its type"],
    [":ok:all:a", "rule 1", "behind its key"],
    [":ok:all:::/bad/all/a/b", "rule 2", "behind its prepend"],
    [":nope:all:::", "rule 1", "nope", "prefix"],
    [":OK:all:::", "rule 1", "OK"],
    [":ok:everybody:::", "rule 1", "everybody", "client"],
    [":ok::::", "rule 1", "scope"],
    [":map:a:b::ok:all:::", "rule 1", "last"],
    [":map::a::map::b:", "rule 1", "last"],
    [":map:a", "rule 1", "key"],
    [":ok:all:a\0::", "rule 1", "NUL"],
    [":prefix:all:trusted.:user.v.:", "other names of the client"],
    [":prefix:client:trusted.:user.v.::ok:server:::", "other names of the client"],
    [":ok:client:::", "other names of the server"],
  ];
  for (const [text, ...words] of wrong) {
    assert.throws(() => new XattrMap(text), (error: Error) => {
      for (const word of words) assert.ok(error.message.includes(word), `${text}: ${error.message} lacks ${word}`);
      return !error.message.includes("\n");
    }, text);
  }
});
