import assert from "node:assert/strict";
import { join } from "node:path";
import { createEventfd, drain, signal } from "../../ffi/eventfd.ts";
import { libc } from "../../ffi/libc.ts";
import { Reactor } from "../../ffi/reactor.ts";
import { accept, connectUnix, listenUnix, receive, send } from "../../ffi/socket.ts";

function openDescriptors(): number {
  return [...Deno.readDirSync("/proc/self/fd")].length;
}

async function withReactor(body: (reactor: Reactor) => Promise<void>): Promise<void> {
  const before = openDescriptors();
  const reactor = new Reactor();
  try {
    await body(reactor);
  } finally {
    await reactor.close();
  }
  assert.equal(openDescriptors(), before, "descriptors left open");
}

/** Whether a promise is settled once everything that is due has run. */
async function settled(promise: Promise<unknown>): Promise<boolean> {
  const pending = Symbol();
  for (let i = 0; i < 10; i++) {
    if (await Promise.race([promise, Promise.resolve(pending)]) !== pending) return true;
  }
  return false;
}

Deno.test("Reactor.readable() resolves when data is there, before or after", () =>
  withReactor(async (reactor) => {
    const event = createEventfd();
    signal(event);
    assert.equal(await reactor.readable(event), true);
    drain(event);
    const ready = reactor.readable(event);
    assert.equal(await settled(ready), false);
    signal(event);
    assert.equal(await ready, true);
    libc.close(event);
  }));

Deno.test("Reactor.readable() consumes nothing", () =>
  withReactor(async (reactor) => {
    const event = createEventfd();
    signal(event);
    await reactor.readable(event);
    await reactor.readable(event);
    assert.equal(drain(event), 0);
    libc.close(event);
  }));

Deno.test("Reactor.readable() serves many descriptors at once", () =>
  withReactor(async (reactor) => {
    const events = Array.from({ length: 200 }, () => createEventfd());
    const waits = events.map((fd) => reactor.readable(fd));
    for (const fd of events) signal(fd);
    assert.deepEqual(new Set(await Promise.all(waits)), new Set([true]));
    for (const fd of events) {
      reactor.forget(fd);
      libc.close(fd);
    }
  }));

Deno.test("Reactor.readable() sees a wait added while another pends", () =>
  withReactor(async (reactor) => {
    const [idle, busy] = [createEventfd(), createEventfd()];
    const never = reactor.readable(idle);
    assert.equal(await settled(never), false);
    for (let i = 0; i < 100; i++) {
      const ready = reactor.readable(busy);
      signal(busy);
      assert.equal(await ready, true);
      drain(busy);
    }
    reactor.forget(idle);
    assert.equal(await never, false);
    libc.close(idle);
    libc.close(busy);
  }));

Deno.test("Reactor.readable() and writable() work on one socket, and hang-up wakes both", () =>
  withReactor(async (reactor) => {
    const directory = Deno.makeTempDirSync();
    const listening = listenUnix(join(directory, "s"));
    const connecting = reactor.readable(listening);
    const here = connectUnix(join(directory, "s"), { nonblock: true });
    assert.equal(await connecting, true);
    const there = accept(listening);
    const readable = reactor.readable(here);
    assert.equal(await reactor.writable(here), true);
    assert.equal(await settled(readable), false);
    send(there, Uint8Array.of(1));
    assert.equal(await readable, true);
    assert.equal(receive(here, new Uint8Array(8), 0).n, 1);
    while (send(here, new Uint8Array(65536)) > 0);
    const both = Promise.all([reactor.readable(here), reactor.writable(here)]);
    assert.equal(await settled(both), false);
    libc.close(there);
    assert.deepEqual(await both, [true, true]);
    reactor.forget(here);
    reactor.forget(listening);
    libc.close(here);
    libc.close(listening);
    Deno.removeSync(directory, { recursive: true });
  }));

Deno.test("Reactor.readable() takes one waiter per direction", () =>
  withReactor(async (reactor) => {
    const event = createEventfd();
    const first = reactor.readable(event);
    assert.throws(() => reactor.readable(event), /waited for already/);
    signal(event);
    assert.equal(await first, true);
    libc.close(event);
  }));

Deno.test("Reactor.readable() rejects what epoll does not take", () =>
  withReactor(async (reactor) => {
    const name = new TextEncoder().encode("/etc/passwd\0");
    const fd = libc.openat(-100, name, 0, 0);
    await assert.rejects(reactor.readable(fd), /Operation not permitted/);
    await assert.rejects(reactor.readable(9999), /Bad file descriptor/);
    libc.close(fd);
  }));

Deno.test("Reactor.forget() lets a reused number be waited for", () =>
  withReactor(async (reactor) => {
    for (const forget of [true, false]) {
      const first = createEventfd();
      signal(first);
      await reactor.readable(first);
      if (forget) reactor.forget(first);
      libc.close(first);
      const second = createEventfd();
      assert.equal(second, first);
      const ready = reactor.readable(second);
      assert.equal(await settled(ready), false);
      signal(second);
      assert.equal(await ready, true);
      reactor.forget(second);
      libc.close(second);
    }
    reactor.forget(12345);
  }));

Deno.test("Reactor.close() ends waits with false, at once and later", async () => {
  const before = openDescriptors();
  const event = createEventfd();
  const reactor = new Reactor();
  const waits = [reactor.readable(event), reactor.writable(event)];
  assert.equal(await waits[1], true);
  const closing = reactor.close();
  assert.equal(await waits[0], false);
  await closing;
  await reactor.close();
  assert.equal(await reactor.readable(event), false);
  libc.close(event);
  assert.equal(openDescriptors(), before);
});

/** Runs a program that imports the reactor; returns its exit status, or null when it had to be killed. */
async function runProgram(body: string): Promise<number | null> {
  const at = (name: string) => new URL(`../../ffi/${name}`, import.meta.url).href;
  const program = `import { Reactor } from "${at("reactor.ts")}"; import { createEventfd } from "${at("eventfd.ts")}";
    const reactor = new Reactor(); const event = createEventfd(); ${body}`;
  const child = new Deno.Command(Deno.execPath(), { args: ["eval", program], stdin: "null" }).spawn();
  const timer = setTimeout(() => child.kill("SIGKILL"), 20_000);
  const status = await child.status;
  clearTimeout(timer);
  return status.signal === null ? status.code : null;
}

Deno.test("Reactor does not hold up Deno.exit() while it waits", async () => {
  assert.equal(await runProgram("reactor.readable(event); setTimeout(() => Deno.exit(7), 10);"), 7);
});

Deno.test("Reactor keeps no process alive when nobody waits", async () => {
  assert.equal(await runProgram("reactor.readable(event); setTimeout(() => reactor.forget(event), 10);"), 0);
});
