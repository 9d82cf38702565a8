/**
 * Waits for descriptors on the control plane without blocking its isolate: one epoll descriptor, epoll(7), and at
 * most one `epoll_wait` on a thread of Deno's pool. Nothing pends while nobody waits, so an idle reactor keeps no
 * process alive.
 *
 * Threads of Deno's pool take 20–55 µs to answer: not for the data path.
 */
import { EEXIST, ENOENT } from "./errno.ts";
import { createEventfd, drain, signal } from "./eventfd.ts";
import { checked, errno, libc, SystemError } from "./libc.ts";
import { allocate, type Mapping, PAGE, unmap } from "./memory.ts";

export const EPOLL_CLOEXEC = 0o2000000;
export const EPOLL_CTL_ADD = 1;
export const EPOLL_CTL_DEL = 2;
export const EPOLL_CTL_MOD = 3;
const EPOLLIN = 0x1;
const EPOLLOUT = 0x4;
const EPOLLERR = 0x8;
const EPOLLHUP = 0x10;
const EPOLLRDHUP = 0x2000;
export const EPOLLONESHOT = 0x4000_0000;

/** struct epoll_event, sys/epoll.h: packed on x86-64 only. Byte offsets; `data` holds descriptor and generation. */
export const epoll_event = Deno.build.arch === "x86_64"
  ? { events: 0, fd: 4, generation: 8, sizeof: 12 } as const
  : { events: 0, fd: 8, generation: 12, sizeof: 16 } as const;
const EVENTS_MAX = 64;

type Settle = (ready: boolean) => void;

/** One descriptor in the epoll set. It stays there, disarmed, between waits. */
interface Entry {
  fd: number;
  /** Tells late events of an earlier file with the same number apart. */
  generation: number;
  onReadable: Settle | null;
  onWritable: Settle | null;
}

/** See the head of the file. One for the whole process is enough. */
export class Reactor {
  readonly #epoll: number;
  readonly #wake: number;
  readonly #events: Mapping;
  readonly #eventBytes: Uint8Array<ArrayBuffer>;
  readonly #eventView: DataView<ArrayBuffer>;
  readonly #entries = new Map<number, Entry>();
  #generation = 0;
  #waiters = 0;
  #closed: Promise<void> | null = null;
  #pump: Promise<void> | null = null;

  /** Throws SystemError where the process has no descriptors left. */
  constructor() {
    this.#events = allocate(PAGE);
    this.#eventBytes = new Uint8Array(this.#events.buffer);
    this.#eventView = new DataView(this.#events.buffer);
    this.#epoll = checked("epoll_create1", libc.epoll_create1(EPOLL_CLOEXEC));
    this.#wake = createEventfd();
    checked("epoll_ctl", this.#control(EPOLL_CTL_ADD, this.#wake, EPOLLIN, 0));
  }

  /**
   * Resolves with true when a read would not block: data, a connection, the end of the stream or an error is there.
   * Resolves with false when the descriptor was forgotten or the reactor closed meanwhile. One waiter per descriptor
   * and direction. Throws SystemError where the descriptor cannot be waited for (EBADF, or EPERM for a regular file).
   */
  readable(fd: number): Promise<boolean> {
    return this.#wait(fd, "onReadable");
  }

  /** The same for writing. */
  writable(fd: number): Promise<boolean> {
    return this.#wait(fd, "onWritable");
  }

  /** Takes a descriptor out, to be called before it is closed. Whoever waits for it gets false. */
  forget(fd: number): void {
    const entry = this.#entries.get(fd);
    if (entry === undefined) return;
    this.#entries.delete(fd);
    libc.epoll_ctl(this.#epoll, EPOLL_CTL_DEL, fd, new Uint8Array(epoll_event.sizeof));
    this.#settle(entry, "onReadable", false);
    this.#settle(entry, "onWritable", false);
    if (this.#waiters === 0 && this.#pump !== null) signal(this.#wake);
  }

  /** Ends all waits with false and gives descriptors and memory back. May be called twice. */
  close(): Promise<void> {
    return this.#closed ??= this.#close();
  }

  async #close(): Promise<void> {
    for (const fd of [...this.#entries.keys()]) this.forget(fd);
    await this.#pump;
    libc.close(this.#epoll);
    libc.close(this.#wake);
    unmap(this.#events);
  }

  #wait(fd: number, direction: "onReadable" | "onWritable"): Promise<boolean> {
    if (this.#closed !== null) return Promise.resolve(false);
    const entry = this.#entries.get(fd) ??
      { fd, generation: this.#generation = (this.#generation + 1) >>> 0 || 1, onReadable: null, onWritable: null };
    if (entry[direction] !== null) throw new Error(`descriptor ${fd} is waited for already`);
    return new Promise((resolve, reject) => {
      entry[direction] = resolve;
      const code = this.#arm(entry);
      if (code !== 0) {
        entry[direction] = null;
        reject(new SystemError(`epoll_ctl of descriptor ${fd}`, code));
        return;
      }
      this.#entries.set(fd, entry);
      this.#waiters++;
      this.#pump ??= this.#run();
    });
  }

  /** Asks the kernel for what the entry's waiters want, once. Returns 0 or an errno. */
  #arm(entry: Entry): number {
    let events = EPOLLONESHOT;
    if (entry.onReadable !== null) events |= EPOLLIN | EPOLLRDHUP;
    if (entry.onWritable !== null) events |= EPOLLOUT;
    const known = this.#entries.has(entry.fd);
    if (this.#control(known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, entry.fd, events, entry.generation) === 0) return 0;
    // The number was closed unforgotten and has another file now, or is known to epoll from an earlier use.
    const other = { [ENOENT]: EPOLL_CTL_ADD, [EEXIST]: EPOLL_CTL_MOD }[errno()];
    if (other === undefined) return errno();
    return this.#control(other, entry.fd, events, entry.generation) === 0 ? 0 : errno();
  }

  #control(operation: number, fd: number, events: number, generation: number): number {
    const event = new Uint8Array(epoll_event.sizeof);
    const view = new DataView(event.buffer);
    view.setUint32(epoll_event.events, events, true);
    view.setInt32(epoll_event.fd, fd, true);
    view.setUint32(epoll_event.generation, generation, true);
    return libc.epoll_ctl(this.#epoll, operation, fd, event);
  }

  /** Waits and delivers as long as somebody wants to know. */
  async #run(): Promise<void> {
    while (this.#waiters > 0) {
      // Fails with EINTR only, since the descriptor and the memory are ours: try again.
      const count = await libc.epollWaitAsync(this.#epoll, this.#eventBytes, EVENTS_MAX, -1);
      for (let i = 0; i < count; i++) this.#deliver(i * epoll_event.sizeof);
    }
    this.#pump = null;
  }

  #deliver(at: number): void {
    const fd = this.#eventView.getInt32(at + epoll_event.fd, true);
    if (fd === this.#wake) {
      drain(fd);
      return;
    }
    const entry = this.#entries.get(fd);
    if (entry === undefined || entry.generation !== this.#eventView.getUint32(at + epoll_event.generation, true)) {
      return;
    }
    const events = this.#eventView.getUint32(at + epoll_event.events, true);
    const failed = (events & (EPOLLERR | EPOLLHUP)) !== 0;
    if (failed || (events & (EPOLLIN | EPOLLRDHUP)) !== 0) this.#settle(entry, "onReadable", true);
    if (failed || (events & EPOLLOUT) !== 0) this.#settle(entry, "onWritable", true);
    // The event disarmed both directions. Where the other cannot be armed again, a read or write will say why.
    if (entry.onReadable === null && entry.onWritable === null) return;
    if (this.#arm(entry) === 0) return;
    this.#settle(entry, "onReadable", true);
    this.#settle(entry, "onWritable", true);
  }

  #settle(entry: Entry, direction: "onReadable" | "onWritable", ready: boolean): void {
    const settle = entry[direction];
    if (settle === null) return;
    entry[direction] = null;
    this.#waiters--;
    settle(ready);
  }
}
