/** Locks: of the process (fcntl), of the open file (OFD), and flock. The second party is a second process. */
import * as c from "./constants.ts";
import type { Process } from "./process.ts";
import type { Suite } from "./suite.ts";

const EX = { type: c.F_WRLCK }, SH = { type: c.F_RDLCK }, UN = { type: c.F_UNLCK };

export function locks(t: Suite): void {
  const other = t.process();
  try {
    records(t, other);
    waiting(t, other);
    ofd(t, other);
    flock(t, other);
    ending(t, other);
  } finally {
    try {
      other.stop();
    } catch { /* ending() has stopped it */ }
  }
}

function records(t: Suite, other: Process): void {
  const { sys } = t;
  const path = t.file(t.path("records"), "x".repeat(100));
  const a = sys.open(path, c.O_RDWR), b = other.sys.open(path, c.O_RDWR);
  t.works("fcntl: a write lock of a range", sys.lock(a, c.F_SETLK, { ...EX, start: 10, len: 10 }));
  t.fails("fcntl: another's write lock there", other.sys.lock(b, c.F_SETLK, { ...EX, start: 15, len: 1 }), c.EAGAIN);
  t.fails("fcntl: another's read lock there", other.sys.lock(b, c.F_SETLK, { ...SH, start: 5, len: 6 }), c.EAGAIN);
  t.works("fcntl: before it", other.sys.lock(b, c.F_SETLK, { ...EX, start: 0, len: 10 }));
  t.works("fcntl: behind it", other.sys.lock(b, c.F_SETLK, { ...EX, start: 20, len: 0 }));
  t.is("fcntl: F_GETLK tells what is in the way", other.sys.getLock(b, c.F_GETLK, { ...EX, start: 0, len: 0 }), {
    ...EX,
    start: 10,
    len: 10,
  });
  t.is("fcntl: F_GETLK here tells of the other's", sys.getLock(a, c.F_GETLK, { ...SH, start: 25, len: 1 }), {
    ...EX,
    start: 20,
    len: 0,
  });
  t.is(
    "fcntl: F_GETLK where nothing is in the way",
    (sys.getLock(a, c.F_GETLK, { ...EX, start: 12, len: 1 }) as {
      type: number;
    }).type,
    c.F_UNLCK,
  );
  t.works("fcntl: unlocking the middle", sys.lock(a, c.F_SETLK, { ...UN, start: 13, len: 4 }));
  t.works("fcntl: which another locks then", other.sys.lock(b, c.F_SETLK, { ...EX, start: 13, len: 4 }));
  t.fails("fcntl: the rest is locked still", other.sys.lock(b, c.F_SETLK, { ...EX, start: 18, len: 1 }), c.EAGAIN);
  t.works("fcntl: another unlocks all", other.sys.lock(b, c.F_SETLK, UN));
  t.works("fcntl: to a read lock", sys.lock(a, c.F_SETLK, { ...SH, start: 0, len: 0 }));
  t.works("fcntl: two read", other.sys.lock(b, c.F_SETLK, { ...SH, start: 0, len: 0 }));
  t.fails("fcntl: neither writes", sys.lock(a, c.F_SETLK, { ...EX, start: 5, len: 1 }), c.EAGAIN);
  other.sys.lock(b, c.F_SETLK, UN);
  t.works("fcntl: but when the other has unlocked", sys.lock(a, c.F_SETLK, { ...EX, start: 5, len: 1 }));
  // fcntl(2): closing any descriptor of the file drops the process's locks on it.
  sys.close(sys.open(path, c.O_RDONLY));
  t.works("fcntl: any close drops the locks", other.sys.lock(b, c.F_SETLK, EX));
  other.sys.close(b);
  t.works("fcntl: the other's close as well", sys.lock(a, c.F_SETLK, EX));
  t.using(path, c.O_RDONLY, (fd) => t.fails("fcntl: a write lock of O_RDONLY", sys.lock(fd, c.F_SETLK, EX), c.EBADF));
  t.using(path, c.O_WRONLY, (fd) => t.fails("fcntl: a read lock of O_WRONLY", sys.lock(fd, c.F_SETLK, SH), c.EBADF));
  t.fails("fcntl: before the beginning", sys.lock(a, c.F_SETLK, { ...EX, start: -5, len: 1 }), c.EINVAL);
  t.fails("fcntl: an unknown type", sys.lock(a, c.F_SETLK, { type: 7 }), c.EINVAL);
  const high = 2 ** 40;
  t.works("fcntl: ranges beyond 4 GiB", sys.lock(a, c.F_SETLK, { ...EX, start: high, len: 5 }));
  t.works("fcntl: SEEK_END", sys.lock(a, c.F_SETLK, { ...EX, whence: c.SEEK_END, start: -10, len: 10 }));
  sys.close(a);
}

/** Waits until the second process's lock is seen by this one to be waiting: by /proc/locks, where it has "->". */
function blocked(sys: Suite["sys"], path: string): boolean {
  const { ino } = sys.stat(path);
  for (let tries = 0; tries < 200; tries++) {
    const lines = Deno.readTextFileSync("/proc/locks").split("\n");
    if (lines.some((line) => line.includes("->") && line.includes(`:${ino} `))) return true;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
  }
  return false;
}

function waiting(t: Suite, other: Process): void {
  const { sys } = t;
  const path = t.file(t.path("waiting"), "x");
  const a = sys.open(path, c.O_RDWR), b = other.sys.open(path, c.O_RDWR);
  const kinds = {
    "F_SETLKW": [
      (s: Suite["sys"], fd: number) => s.lock(fd, c.F_SETLKW, EX),
      (fd: number) => sys.lock(fd, c.F_SETLK, UN),
    ],
    "F_OFD_SETLKW": [
      (s: Suite["sys"], fd: number) => s.lock(fd, c.F_OFD_SETLKW, EX),
      (fd: number) => sys.lock(fd, c.F_OFD_SETLK, UN),
    ],
    "flock": [(s: Suite["sys"], fd: number) => s.flock(fd, c.LOCK_EX), (fd: number) => sys.flock(fd, c.LOCK_UN)],
  } as const;
  for (const [name, [take, drop]] of Object.entries(kinds)) {
    t.works(`${name}: taken here`, take(sys, a));
    other.beginWith((s) => take(s, b));
    // A file system with locks elsewhere does not tell /proc/locks; then this is only a pause.
    blocked(sys, path);
    t.works(`${name}: this process can still use the file`, sys.pwrite(a, "y", 0));
    drop(a);
    t.is(`${name}: the other, which waited, has it`, other.end(), 0);
    const busy = name === "flock" ? sys.flock(a, c.LOCK_EX | c.LOCK_NB) : sys.lock(a, c.F_SETLK, EX);
    t.fails(`${name}: and excludes this one`, busy, c.EAGAIN);
    other.sys.lock(b, c.F_SETLK, UN);
    other.sys.lock(b, c.F_OFD_SETLK, UN);
    other.sys.flock(b, c.LOCK_UN);
  }
  // Two processes that wait for each other: the kernel says so to one of them.
  const second = sys.open(path, c.O_RDWR);
  t.works("a deadlock: one takes the first", sys.lock(a, c.F_SETLK, { ...EX, start: 0, len: 1 }));
  t.works("a deadlock: the other the second", other.sys.lock(b, c.F_SETLK, { ...EX, start: 1, len: 1 }));
  if (t.options.large) {
    other.beginWith((s) => s.lock(b, c.F_SETLKW, { ...EX, start: 0, len: 1 }));
    blocked(sys, path);
    t.fails("a deadlock is found", sys.lock(a, c.F_SETLKW, { ...EX, start: 1, len: 1 }), c.EDEADLK);
    sys.lock(a, c.F_SETLK, UN);
    t.is("a deadlock: the other goes on", other.end(), 0);
  } else t.skip("a deadlock is found", "with --large only: where locks are remote it may wait for ever");
  sys.close(second);
  sys.close(a);
  other.sys.close(b);
}

function ofd(t: Suite, other: Process): void {
  const { sys } = t;
  const path = t.file(t.path("ofd"), "x".repeat(100));
  const [one, two] = [sys.open(path, c.O_RDWR), sys.open(path, c.O_RDWR)];
  const b = other.sys.open(path, c.O_RDWR);
  t.works("OFD: a write lock", sys.lock(one, c.F_OFD_SETLK, { ...EX, start: 0, len: 10 }));
  t.fails(
    "OFD: excludes another open in the process",
    sys.lock(two, c.F_OFD_SETLK, { ...EX, start: 5, len: 1 }),
    c.EAGAIN,
  );
  t.fails("OFD: excludes another process", other.sys.lock(b, c.F_OFD_SETLK, { ...SH, start: 5, len: 1 }), c.EAGAIN);
  t.fails("OFD: excludes a process's lock", sys.lock(two, c.F_SETLK, { ...EX, start: 5, len: 1 }), c.EAGAIN);
  t.works("OFD: elsewhere", sys.lock(two, c.F_OFD_SETLK, { ...EX, start: 10, len: 1 }));
  t.is("OFD: F_OFD_GETLK", sys.getLock(two, c.F_OFD_GETLK, { ...EX, start: 0, len: 5 }), { ...EX, start: 0, len: 10 });
  sys.close(sys.open(path, c.O_RDONLY));
  t.fails("OFD: another close keeps it", other.sys.lock(b, c.F_OFD_SETLK, { ...EX, start: 5, len: 1 }), c.EAGAIN);
  const twin = sys.call(c.SYS.dup, one);
  sys.close(one);
  t.fails(
    "OFD: as long as a duplicate is open",
    other.sys.lock(b, c.F_OFD_SETLK, { ...EX, start: 5, len: 1 }),
    c.EAGAIN,
  );
  sys.close(twin);
  t.works("OFD: the last close drops it", other.sys.lock(b, c.F_OFD_SETLK, { ...EX, start: 5, len: 1 }));
  sys.close(two);
  other.sys.close(b);
}

function flock(t: Suite, other: Process): void {
  const { sys } = t;
  const path = t.file(t.path("flock"), "x");
  const [one, two] = [sys.open(path, c.O_RDONLY), sys.open(path, c.O_RDWR)];
  const b = other.sys.open(path, c.O_RDWR);
  const NB = c.LOCK_NB;
  t.works("flock: exclusive, of O_RDONLY", sys.flock(one, c.LOCK_EX | NB));
  t.fails("flock: excludes another open in the process", sys.flock(two, c.LOCK_EX | NB), c.EAGAIN);
  t.fails("flock: excludes another process", other.sys.flock(b, c.LOCK_SH | NB), c.EAGAIN);
  t.works("flock: to shared", sys.flock(one, c.LOCK_SH | NB));
  t.works("flock: two share", other.sys.flock(b, c.LOCK_SH | NB));
  t.fails("flock: a third is not alone", sys.flock(two, c.LOCK_EX | NB), c.EAGAIN);
  t.works("flock: unlock", sys.flock(one, c.LOCK_UN));
  t.works("flock: shared to exclusive when alone", other.sys.flock(b, c.LOCK_EX | NB));
  t.fails("flock: an unknown operation", sys.flock(one, 0), c.EINVAL);
  other.sys.flock(b, c.LOCK_UN);
  sys.flock(one, c.LOCK_EX);
  const twin = sys.call(c.SYS.dup, one);
  sys.close(one);
  t.fails("flock: a duplicate keeps it", other.sys.flock(b, c.LOCK_EX | NB), c.EAGAIN);
  sys.close(twin);
  t.works("flock: the last close drops it", other.sys.flock(b, c.LOCK_EX | NB));
  const folder = sys.open(t.path("."), c.O_RDONLY);
  t.works("flock: of a directory", sys.flock(folder, c.LOCK_EX | NB));
  sys.close(folder);
  sys.close(two);
  other.sys.close(b);
}

/** A process that ends leaves no locks behind. */
function ending(t: Suite, other: Process): void {
  const { sys } = t;
  const path = t.file(t.path("ending"), "x");
  const a = sys.open(path, c.O_RDWR), b = other.sys.open(path, c.O_RDWR);
  const wanted = other.sys.open(path, c.O_RDWR);
  t.works("end: the other has a lock of each kind", other.sys.lock(b, c.F_SETLK, { ...EX, start: 0, len: 1 }));
  t.works("end: OFD", other.sys.lock(wanted, c.F_OFD_SETLK, { ...EX, start: 1, len: 1 }));
  t.works("end: flock", other.sys.flock(b, c.LOCK_EX));
  other.stop();
  // Its end of the pipe closes before or after its other files: the last are a moment late.
  const soon = (attempt: () => number) => {
    for (let tries = 0; tries < 200; tries++) {
      if (attempt() === 0) return 0;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
    }
    return attempt();
  };
  t.works("end: its record locks are gone", soon(() => sys.lock(a, c.F_SETLK, EX)));
  t.works("end: and its flock", soon(() => sys.flock(a, c.LOCK_EX | c.LOCK_NB)));
  sys.close(a);
}
