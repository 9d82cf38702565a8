import assert from "node:assert/strict";
import { join } from "node:path";
import { EAGAIN, EPIPE } from "../../ffi/errno.ts";
import { createEventfd, drain, signal } from "../../ffi/eventfd.ts";
import { libc } from "../../ffi/libc.ts";
import {
  accept,
  connectUnix,
  DESCRIPTORS_MAX,
  listenUnix,
  peerCredentials,
  receive,
  removeStaleSocket,
  send,
  socketKind,
} from "../../ffi/socket.ts";

const NONBLOCK = { nonblock: true };

function openDescriptors(): number {
  return [...Deno.readDirSync("/proc/self/fd")].length;
}

/** Runs a test with a directory of its own and says so when descriptors stay open. */
function withDirectory(body: (directory: string) => void): void {
  const directory = Deno.makeTempDirSync();
  const before = openDescriptors();
  try {
    body(directory);
    assert.equal(openDescriptors(), before, "descriptors left open");
  } finally {
    Deno.removeSync(directory, { recursive: true });
  }
}

/** Two connected nonblocking sockets. */
function withPair(body: (here: number, there: number) => void): void {
  withDirectory((directory) => {
    const listening = listenUnix(join(directory, "s"));
    const here = connectUnix(join(directory, "s"), NONBLOCK);
    const there = accept(listening);
    try {
      body(here, there);
    } finally {
      for (const fd of [listening, here, there]) libc.close(fd);
    }
  });
}

function closeOnExec(fd: number): boolean {
  return (libc.fcntl(fd, 1, 0) & 1) === 1;
}

Deno.test("receive() gets what send() sent, in order", () =>
  withPair((here, there) => {
    assert.equal(send(here, Uint8Array.of(1, 2, 3)), 3);
    assert.equal(send(here, Uint8Array.of(4, 5)), 2);
    const into = new Uint8Array(4);
    assert.deepEqual(receive(there, into, 0), { n: 4, fds: [], surplus: 0, truncated: false });
    assert.deepEqual([...into], [1, 2, 3, 4]);
    assert.equal(receive(there, into, 0).n, 1);
    assert.equal(into[0], 5);
  }));

Deno.test("receive() is -EAGAIN when nothing is there and 0 at the end of the stream", () =>
  withDirectory((directory) => {
    const listening = listenUnix(join(directory, "s"));
    const here = connectUnix(join(directory, "s"));
    const there = accept(listening);
    assert.equal(receive(there, new Uint8Array(1), 0).n, -EAGAIN);
    libc.close(here);
    assert.equal(receive(there, new Uint8Array(1), 0).n, 0);
    libc.close(there);
    libc.close(listening);
  }));

Deno.test("send() to a closed peer is -EPIPE and no signal", () =>
  withDirectory((directory) => {
    const listening = listenUnix(join(directory, "s"));
    const here = connectUnix(join(directory, "s"));
    libc.close(accept(listening));
    assert.equal(send(here, Uint8Array.of(1)), -EPIPE);
    libc.close(here);
    libc.close(listening);
  }));

Deno.test("send() is partial and then -EAGAIN when the peer does not read", () =>
  withPair((here, there) => {
    const bytes = new Uint8Array(100_000).fill(7);
    assert.equal(send(here, bytes), 65536);
    let sent = 65536;
    let n: number;
    while ((n = send(here, bytes)) > 0) sent += n;
    assert.equal(n, -EAGAIN);
    const into = new Uint8Array(200_000);
    let got = 0;
    while ((n = receive(there, into, 0).n) > 0) got += n;
    assert.equal(got, sent);
    assert.equal(into[0], 7);
  }));

Deno.test("receive() hands descriptors over, closed on exec", () =>
  withPair((here, there) => {
    const events = [createEventfd(), createEventfd(), createEventfd()];
    assert.equal(send(here, Uint8Array.of(9), events), 1);
    const got = receive(there, new Uint8Array(16), 8);
    assert.equal(got.n, 1);
    assert.equal(got.fds.length, 3);
    assert.deepEqual([got.surplus, got.truncated], [0, false]);
    got.fds.forEach((fd, i) => {
      assert.ok(closeOnExec(fd));
      signal(fd);
      assert.equal(drain(events[i]), 0);
      assert.equal(drain(events[i]), -EAGAIN);
    });
    for (const fd of [...events, ...got.fds]) libc.close(fd);
  }));

Deno.test("receive() closes descriptors beyond maxFds and counts them", () =>
  withPair((here, there) => {
    const event = createEventfd();
    assert.equal(send(here, Uint8Array.of(1), new Array(DESCRIPTORS_MAX).fill(event)), 1);
    const got = receive(there, new Uint8Array(16), 2);
    assert.equal(got.fds.length, 2);
    assert.deepEqual([got.surplus, got.truncated], [DESCRIPTORS_MAX - 2, false]);
    for (const fd of [event, ...got.fds]) libc.close(fd);
  }));

Deno.test("receive() says so when the process has no room for the descriptors", () =>
  withPair((here, there) => {
    const RLIMIT_NOFILE = 7;
    const event = createEventfd();
    send(here, Uint8Array.of(1), new Array(40).fill(event));
    const limit = new BigUint64Array(2);
    const bytes = new Uint8Array(limit.buffer);
    libc.getrlimit(RLIMIT_NOFILE, bytes);
    const soft = limit[0];
    limit[0] = BigInt(event + 3);
    libc.setrlimit(RLIMIT_NOFILE, bytes);
    const got = receive(there, new Uint8Array(16), 2);
    limit[0] = soft;
    libc.setrlimit(RLIMIT_NOFILE, bytes);
    assert.equal(got.truncated, true);
    assert.ok(got.fds.length <= 2);
    for (const fd of [event, ...got.fds]) libc.close(fd);
  }));

Deno.test("receive() keeps the descriptors of two messages apart", () =>
  withPair((here, there) => {
    const event = createEventfd();
    send(here, Uint8Array.of(1), [event]);
    send(here, Uint8Array.of(2), [event, event]);
    const into = new Uint8Array(16);
    for (const count of [1, 2]) {
      const got = receive(there, into, 8);
      assert.deepEqual([got.n, into[0], got.fds.length], [1, count, count]);
      for (const fd of got.fds) libc.close(fd);
    }
    libc.close(event);
  }));

Deno.test("send() refuses more descriptors than the kernel takes", () => {
  assert.throws(() => send(-1, new Uint8Array(1), new Array(DESCRIPTORS_MAX + 1).fill(0)), RangeError);
});

Deno.test("accept() is -EAGAIN when nobody connects", () =>
  withDirectory((directory) => {
    const listening = listenUnix(join(directory, "s"));
    assert.equal(accept(listening), -EAGAIN);
    assert.ok(closeOnExec(listening));
    libc.close(listening);
  }));

Deno.test("listenUnix() sets the file's mode", () =>
  withDirectory((directory) => {
    const path = join(directory, "s");
    const before = libc.umask(0o022);
    const listening = listenUnix(path, { mode: 0o660 });
    assert.equal(libc.umask(before), 0o022);
    assert.equal(Deno.statSync(path).mode! & 0o777, 0o660);
    libc.close(listening);
  }));

Deno.test("listenUnix() replaces the socket of a dead process", () =>
  withDirectory((directory) => {
    const path = join(directory, "s");
    libc.close(listenUnix(path));
    const listening = listenUnix(path);
    libc.close(connectUnix(path));
    libc.close(listening);
  }));

Deno.test("listenUnix() leaves a live socket alone, and its owner sees no connection", () =>
  withDirectory((directory) => {
    const path = join(directory, "s");
    const listening = listenUnix(path);
    assert.throws(() => listenUnix(path), /in use/);
    assert.equal(accept(listening), -EAGAIN);
    libc.close(connectUnix(path));
    libc.close(listening);
  }));

Deno.test("listenUnix() leaves files and symlinks alone", () =>
  withDirectory((directory) => {
    const path = join(directory, "f");
    Deno.writeTextFileSync(path, "precious");
    Deno.symlinkSync("nowhere", join(directory, "l"));
    for (const name of ["f", "l"]) assert.throws(() => listenUnix(join(directory, name)), /is not a socket/);
    assert.equal(Deno.readTextFileSync(path), "precious");
  }));

Deno.test("listenUnix() names the path and the reason", () =>
  withDirectory((directory) => {
    const path = join(directory, "none", "s");
    assert.throws(() => listenUnix(path), new RegExp(`cannot listen on ${path}: No such file`));
    assert.throws(() => listenUnix(""), /empty/);
    assert.throws(() => listenUnix("a\0b"), TypeError);
  }));

Deno.test("listenUnix() takes a path of 107 bytes and refuses one of 108", () =>
  withDirectory((directory) => {
    const path = directory + "/" + "x".repeat(107 - directory.length - 1);
    libc.close(listenUnix(path));
    assert.throws(() => listenUnix(path + "x"), /108 bytes, UNIX sockets allow 107/);
    assert.throws(() => listenUnix("é".repeat(54)), /108 bytes/);
  }));

Deno.test("removeStaleSocket() does nothing where nothing is", () => removeStaleSocket("/nonexistent/ringfsd"));

Deno.test("connectUnix() says who does not answer", () =>
  withDirectory((directory) => {
    const path = join(directory, "s");
    assert.throws(() => connectUnix(path), /cannot connect to .*No such file/);
    libc.close(listenUnix(path));
    assert.throws(() => connectUnix(path), /Connection refused/);
  }));

Deno.test("peerCredentials() are this process's own", () =>
  withPair((here, there) => {
    const self = { pid: Deno.pid, uid: libc.geteuid(), gid: libc.getegid() };
    assert.deepEqual(peerCredentials(here), self);
    assert.deepEqual(peerCredentials(there), self);
  }));

Deno.test("socketKind() tells listening, connected and other descriptors apart", () =>
  withDirectory((directory) => {
    const listening = listenUnix(join(directory, "s"));
    const here = connectUnix(join(directory, "s"));
    const event = createEventfd();
    assert.equal(socketKind(listening), "listening");
    assert.equal(socketKind(here), "connected");
    assert.equal(socketKind(event), "other");
    assert.equal(socketKind(-1), "other");
    for (const fd of [listening, here, event]) libc.close(fd);
  }));
