import assert from "node:assert/strict";
import { httpPlace, request, serveHttp } from "../../cli/http.ts";
import { listenUnix } from "../../ffi/socket.ts";
import { Place } from "./started.ts";

const hello = (asked: Request) => new Response(`${asked.method} ${new URL(asked.url).pathname}`);

Deno.test("serveHttp() serves on a socket that is its owner's, and removes it", async () => {
  using place = new Place();
  const path = `${place.path}/http`;
  const server = serveHttp({ path }, hello);
  assert.equal(server.where, `unix:${path}`);
  assert.equal(Deno.statSync(path).mode! & 0o777, 0o600);
  assert.deepEqual(await request(path, "GET", "/a?b"), { status: 200, text: "GET /a" });
  assert.throws(() => serveHttp({ path }, hello), /is in use \(a process has it open\)/);
  assert.deepEqual(await request(path, "POST", "/c", "body"), { status: 200, text: "POST /c" });
  await server.close();
  assert.throws(() => Deno.statSync(path), Deno.errors.NotFound);
  await assert.rejects(request(path, "GET", "/"), /nobody answers at .*http: No such file or directory/);
});

Deno.test("serveHttp() gives the socket to a group, and replaces a stale one", async () => {
  using place = new Place();
  const path = `${place.path}/http`;
  const left = Deno.listen({ transport: "unix", path });
  const moved = `${place.path}/moved`;
  Deno.renameSync(path, moved);
  left.close();
  Deno.renameSync(moved, path);
  const server = serveHttp({ path, group: Deno.gid()! }, hello);
  try {
    assert.equal(Deno.statSync(path).mode! & 0o777, 0o660);
    assert.equal(Deno.statSync(path).gid, Deno.gid());
    assert.equal((await request(path, "GET", "/")).status, 200);
  } finally {
    await server.close();
  }
});

Deno.test("serveHttp() says what is wrong with a path", () => {
  using place = new Place();
  Deno.writeTextFileSync(`${place.path}/file`, "");
  assert.throws(() => serveHttp({ path: `${place.path}/file` }, hello), /exists and is not a socket/);
  assert.throws(() => serveHttp({ path: `${place.path}/no/where` }, hello), /cannot listen on .*No such file/);
});

Deno.test("serveHttp() on loopback answers those who asked for this host", async () => {
  const server = serveHttp({ hostname: "127.0.0.1", port: 0 }, hello);
  try {
    const port = Number(server.where.split(":")[1]);
    const at = httpPlace("--x", `localhost:${port}`);
    assert.deepEqual(await request(at, "GET", "/m"), { status: 200, text: "GET /m" });
    // fetch() would write its own Host.
    const connection = await Deno.connect({ port, hostname: "127.0.0.1" });
    await connection.write(
      new TextEncoder().encode("GET /m HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"),
    );
    const answer = await new Response(connection.readable).text();
    assert.match(answer, /^HTTP\/1.1 421 /);
  } finally {
    await server.close();
  }
});

Deno.test("serveHttp(): a fault in the handler is an answer", async () => {
  using place = new Place();
  const path = `${place.path}/http`;
  const server = serveHttp({ path }, () => {
    throw new Error("no such share");
  });
  try {
    assert.deepEqual(await request(path, "GET", "/"), { status: 500, text: "no such share\n" });
  } finally {
    await server.close();
  }
});

Deno.test("httpPlace() reads paths and addresses of this host, and refuses others", () => {
  assert.deepEqual(httpPlace("--x", "/run/a"), { path: "/run/a" });
  assert.deepEqual(httpPlace("--x", "unix:a"), { path: "a" });
  assert.deepEqual(httpPlace("--x", "127.0.0.1:9100"), { hostname: "127.0.0.1", port: 9100 });
  assert.deepEqual(httpPlace("--x", "[::1]:9100"), { hostname: "::1", port: 9100 });
  assert.deepEqual(httpPlace("--x", "localhost:0"), { hostname: "127.0.0.1", port: 0 });
  for (const text of ["0.0.0.0:9100", ":9100", "[::]:1", "example.com:80", "10.0.0.1:1"]) {
    assert.throws(() => httpPlace("--x", text), /^Error: --x takes an address of this host alone/, text);
  }
  for (const text of ["9100", "127.0.0.1", "127.0.0.1:99999", "unix:", `/${"x".repeat(108)}`, ""]) {
    assert.throws(() => httpPlace("--x", text), /^Error: --x takes /, text);
  }
});

Deno.test("serveHttp() serves on a socket that listens already", async () => {
  using place = new Place();
  const path = `${place.path}/http`;
  const fd = listenUnix(path, { mode: 0o600 });
  const server = serveHttp({ path, fd }, async (asked) => {
    if (asked.url.endsWith("/fault")) throw new Error("no such share");
    return Response.json({ asked: `${asked.method} ${new URL(asked.url).search}`, body: await asked.text() });
  });
  const answer = await request(path, "POST", "/a?b", "body");
  assert.deepEqual([answer.status, JSON.parse(answer.text)], [200, { asked: "POST ?b", body: "body" }]);
  assert.deepEqual(JSON.parse((await request(path, "DELETE", "/a")).text), { asked: "DELETE ", body: "" });
  assert.deepEqual(await request(path, "GET", "/fault"), { status: 500, text: "no such share\n" });
  assert.equal((await request(path, "POST", "/", "x".repeat(2 << 20))).status, 500);
  await server.close();
  await assert.rejects(request(path, "GET", "/"), /nobody answers at/);
});
