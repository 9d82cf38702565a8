/**
 * A file system of the host that is slow when it is told: a FUSE server in a Worker, with files in memory. While an operation is
 * held, requests of it that concern a name beginning with "slow" are kept unanswered, until it is held no more or they are interrupted.
 * Or they fail.
 */
import { EINTR, ENODATA, ENOENT, ENOSYS, ENOTDIR, ERANGE } from "../../ffi/errno.ts";
import { errno, libc } from "../../ffi/libc.ts";
import { POLLIN } from "../../ffi/stat_layout.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { CONTROL } from "./slow_host.ts";

const HEADER = 40;
const OUT_HEADER = 16;
const S_IFDIR = 0o040000, S_IFREG = 0o100000, S_IFLNK = 0o120000;
const ASYNC_READ = 1, BIG_WRITES = 1 << 5, PARALLEL_DIROPS = 1 << 18;
const FOPEN_DIRECT_IO = 1;

interface Node {
  id: bigint;
  name: string;
  mode: number;
  data: Uint8Array<ArrayBuffer>;
  xattrs: Map<string, Uint8Array>;
  children: Map<string, Node>;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

class Server {
  readonly #nodes = new Map<bigint, Node>();
  readonly #in = new Uint8Array(1 << 21);
  readonly #view = new DataView(this.#in.buffer);
  #held: { unique: bigint; bytes: Uint8Array<ArrayBuffer> }[] = [];
  #ids = 1n;

  constructor(readonly fd: number, readonly control: Int32Array) {
    this.#make(undefined, "", S_IFDIR | 0o755);
  }

  run(): void {
    const pollfd = new Uint8Array(8);
    new DataView(pollfd.buffer).setInt32(0, this.fd, true);
    while (Atomics.load(this.control, CONTROL.stop) === 0) {
      new DataView(pollfd.buffer).setUint32(4, POLLIN, true);
      libc.poll(pollfd, 1, 2);
      for (;;) {
        const n = libc.read(this.fd, this.#in, this.#in.length);
        // EAGAIN: none; ENODEV: unmounted.
        if (n < 0) break;
        this.#take(n);
      }
      this.#letGo();
    }
    libc.close(this.fd);
  }

  #isHeld(bytes: Uint8Array<ArrayBuffer>): boolean {
    const view = new DataView(bytes.buffer);
    return Atomics.load(this.control, CONTROL.hold) === view.getUint32(4, true) &&
      this.#subject(bytes).startsWith("slow");
  }

  #letGo(): void {
    const free = this.#held.filter(({ bytes }) => !this.#isHeld(bytes));
    if (free.length === 0) return;
    this.#held = this.#held.filter((one) => !free.includes(one));
    Atomics.store(this.control, CONTROL.held, this.#held.length);
    for (const { bytes } of free) this.#serve(bytes);
  }

  #take(n: number): void {
    const bytes = this.#in.slice(0, n);
    const opcode = this.#view.getUint32(4, true);
    const unique = this.#view.getBigUint64(8, true);
    if (opcode === op.FUSE_INTERRUPT) {
      const target = this.#view.getBigUint64(HEADER, true);
      const before = this.#held.length;
      this.#held = this.#held.filter((one) => one.unique !== target);
      if (this.#held.length === before) return;
      Atomics.store(this.control, CONTROL.held, this.#held.length);
      this.#send(target, -EINTR);
      return;
    }
    if (this.#isHeld(bytes)) {
      this.#held.push({ unique, bytes });
      Atomics.store(this.control, CONTROL.held, this.#held.length);
      return;
    }
    this.#serve(bytes);
  }

  /** The name that a request is about. */
  #subject(bytes: Uint8Array<ArrayBuffer>): string {
    const opcode = new DataView(bytes.buffer).getUint32(4, true);
    const at: Record<number, number> = {
      [op.FUSE_LOOKUP]: 0,
      [op.FUSE_UNLINK]: 0,
      [op.FUSE_RMDIR]: 0,
      [op.FUSE_SYMLINK]: 0,
      [op.FUSE_MKDIR]: 8,
      [op.FUSE_RENAME]: 8,
      [op.FUSE_LINK]: 8,
      [op.FUSE_MKNOD]: 16,
      [op.FUSE_CREATE]: 16,
      [op.FUSE_RENAME2]: 16,
    };
    const nodeid = new DataView(bytes.buffer).getBigUint64(16, true);
    return opcode in at ? this.#name(bytes, HEADER + at[opcode]) : this.#nodes.get(nodeid)?.name ?? "";
  }

  #name(bytes: Uint8Array, at: number): string {
    return decoder.decode(bytes.subarray(at, bytes.indexOf(0, at)));
  }

  #make(parent: Node | undefined, name: string, mode: number): Node {
    const id = this.#ids++;
    const node = { id, name, mode, data: new Uint8Array(), xattrs: new Map(), children: new Map() };
    this.#nodes.set(id, node);
    parent?.children.set(name, node);
    return node;
  }

  #serve(bytes: Uint8Array<ArrayBuffer>): void {
    const view = new DataView(bytes.buffer);
    const opcode = view.getUint32(4, true);
    if (opcode === op.FUSE_FORGET || opcode === op.FUSE_BATCH_FORGET) return;
    const fails = Atomics.load(this.control, CONTROL.fail) === opcode && this.#subject(bytes).startsWith("slow");
    const result = fails ? -Atomics.load(this.control, CONTROL.error) : this.#answer(opcode, bytes, view);
    const unique = view.getBigUint64(8, true);
    if (typeof result === "number") this.#send(unique, result);
    else this.#send(unique, 0, result);
  }

  #send(unique: bigint, error: number, body: Uint8Array = new Uint8Array()): void {
    const out = new Uint8Array(OUT_HEADER + body.length);
    const view = new DataView(out.buffer);
    view.setUint32(0, out.length, true);
    view.setInt32(4, error, true);
    view.setBigUint64(8, unique, true);
    out.set(body, OUT_HEADER);
    // ENOENT: the caller was interrupted and gone.
    if (libc.write(this.fd, out, out.length) < 0 && errno() !== ENOENT) {
      throw new Error(`FUSE answer: errno ${errno()}`);
    }
  }

  #answer(opcode: number, bytes: Uint8Array<ArrayBuffer>, view: DataView): Uint8Array | number {
    const node = this.#nodes.get(view.getBigUint64(16, true));
    const name = (at = 0) => this.#name(bytes, HEADER + at);
    const word = (at: number) => view.getUint32(HEADER + at, true);
    const long = (at: number) => view.getBigUint64(HEADER + at, true);
    if (opcode === op.FUSE_INIT) return this.#init();
    if (!node) return opcode === op.FUSE_DESTROY ? 0 : -ENOENT;
    switch (opcode) {
      case op.FUSE_LOOKUP: {
        const child = node.children.get(name());
        return child ? this.#entry(child) : -ENOENT;
      }
      case op.FUSE_GETATTR:
        return this.#attrOut(node);
      case op.FUSE_SETATTR:
        if (word(0) & 1) node.mode = (node.mode & ~0o7777) | word(68);
        if (word(0) & 8) this.#resize(node, Number(long(16)));
        return this.#attrOut(node);
      case op.FUSE_READLINK:
        return node.data;
      case op.FUSE_SYMLINK: {
        const made = this.#make(node, name(), S_IFLNK | 0o777);
        made.data = encoder.encode(name(name().length + 1));
        return this.#entry(made);
      }
      case op.FUSE_MKNOD:
        return this.#entry(this.#make(node, name(16), word(0)));
      case op.FUSE_MKDIR:
        return this.#entry(this.#make(node, name(8), S_IFDIR | word(0)));
      case op.FUSE_CREATE: {
        const out = new Uint8Array(144);
        out.set(this.#entry(this.#make(node, name(16), S_IFREG | word(4))));
        out.set(this.#open(), 128);
        return out;
      }
      case op.FUSE_UNLINK:
      case op.FUSE_RMDIR:
        return node.children.delete(name()) ? 0 : -ENOENT;
      case op.FUSE_RENAME:
      case op.FUSE_RENAME2: {
        const at = opcode === op.FUSE_RENAME ? 8 : 16;
        const from = name(at), to = name(at + from.length + 1);
        const moved = node.children.get(from), dir = this.#nodes.get(long(0));
        if (!moved || !dir) return -ENOENT;
        node.children.delete(from);
        dir.children.set(to, moved);
        return 0;
      }
      case op.FUSE_LINK: {
        const old = this.#nodes.get(long(0));
        if (!old) return -ENOENT;
        node.children.set(name(8), old);
        return this.#entry(old);
      }
      case op.FUSE_OPEN:
      case op.FUSE_OPENDIR:
        return this.#open();
      case op.FUSE_READ: {
        const from = Number(long(8));
        return node.data.subarray(from, from + word(16));
      }
      case op.FUSE_WRITE: {
        const from = Number(long(8)), size = word(16);
        if (node.data.length < from + size) this.#resize(node, from + size);
        node.data.set(bytes.subarray(HEADER + 40, HEADER + 40 + size), from);
        const out = new Uint8Array(8);
        new DataView(out.buffer).setUint32(0, size, true);
        return out;
      }
      case op.FUSE_READDIR:
        return (node.mode & S_IFDIR) === 0 ? -ENOTDIR : this.#list(node, Number(long(8)), word(16));
      case op.FUSE_STATFS: {
        const out = new Uint8Array(80);
        new DataView(out.buffer).setBigUint64(0, 1234n, true);
        new DataView(out.buffer).setUint32(40, 4096, true);
        new DataView(out.buffer).setUint32(44, 255, true);
        return out;
      }
      case op.FUSE_SETXATTR: {
        const value = HEADER + 8 + name(8).length + 1;
        node.xattrs.set(name(8), bytes.slice(value, value + word(0)));
        return 0;
      }
      case op.FUSE_GETXATTR: {
        const value = node.xattrs.get(name(8));
        return value ? this.#sized(value, word(0)) : -ENODATA;
      }
      case op.FUSE_LISTXATTR:
        return this.#sized(encoder.encode([...node.xattrs.keys()].map((key) => key + "\0").join("")), word(0));
      case op.FUSE_REMOVEXATTR:
        return node.xattrs.delete(name()) ? 0 : -ENODATA;
      case op.FUSE_FALLOCATE:
        this.#resize(node, Math.max(node.data.length, Number(long(8) + long(16))));
        return 0;
      case op.FUSE_LSEEK:
        return bytes.slice(HEADER + 8, HEADER + 16);
      case op.FUSE_FLUSH:
      case op.FUSE_FSYNC:
      case op.FUSE_FSYNCDIR:
      case op.FUSE_RELEASE:
      case op.FUSE_RELEASEDIR:
        return 0;
    }
    return -ENOSYS;
  }

  #init(): Uint8Array {
    const out = new Uint8Array(64);
    const view = new DataView(out.buffer);
    view.setUint32(0, 7, true);
    view.setUint32(4, 31, true);
    view.setUint32(8, 1 << 17, true);
    view.setUint32(12, ASYNC_READ | BIG_WRITES | PARALLEL_DIROPS, true);
    view.setUint16(16, 200, true);
    view.setUint16(18, 150, true);
    view.setUint32(20, 1 << 17, true);
    view.setUint32(24, 1, true);
    Atomics.store(this.control, CONTROL.ready, 1);
    return out;
  }

  #sized(value: Uint8Array, room: number): Uint8Array | number {
    if (room > 0) return value.length > room ? -ERANGE : value;
    const out = new Uint8Array(8);
    new DataView(out.buffer).setUint32(0, value.length, true);
    return out;
  }

  #resize(node: Node, size: number): void {
    const data = new Uint8Array(size);
    data.set(node.data.subarray(0, size));
    node.data = data;
  }

  /** Past the page cache, where the kernel waits for READ in a way that can be interrupted. */
  #open(): Uint8Array {
    const out = new Uint8Array(16);
    new DataView(out.buffer).setUint32(8, FOPEN_DIRECT_IO, true);
    return out;
  }

  #attr(node: Node): Uint8Array {
    const out = new Uint8Array(88);
    const view = new DataView(out.buffer);
    view.setBigUint64(0, node.id, true);
    view.setBigUint64(8, BigInt(node.data.length), true);
    view.setUint32(60, node.mode, true);
    view.setUint32(64, 1, true);
    view.setUint32(80, 4096, true);
    return out;
  }

  #attrOut(node: Node): Uint8Array {
    const out = new Uint8Array(16 + 88);
    out.set(this.#attr(node), 16);
    return out;
  }

  /** Valid for no time: the kernel asks again and again. */
  #entry(node: Node): Uint8Array {
    const out = new Uint8Array(40 + 88);
    new DataView(out.buffer).setBigUint64(0, node.id, true);
    out.set(this.#attr(node), 40);
    return out;
  }

  #list(node: Node, from: number, room: number): Uint8Array {
    const all = [[".", node] as const, ["..", node] as const, ...node.children];
    const out = new Uint8Array(room);
    const view = new DataView(out.buffer);
    let at = 0;
    for (let i = from; i < all.length; i++) {
      const [name, child] = all[i];
      const bytes = encoder.encode(name);
      const size = (24 + bytes.length + 7) & ~7;
      if (at + size > room) break;
      view.setBigUint64(at, child.id, true);
      view.setBigUint64(at + 8, BigInt(i + 1), true);
      view.setUint32(at + 16, bytes.length, true);
      view.setUint32(at + 20, child.mode >> 12, true);
      out.set(bytes, at + 24);
      at += size;
    }
    return out.subarray(0, at);
  }
}

if ("WorkerGlobalScope" in globalThis) {
  (globalThis as unknown as Worker).onmessage = (
    { data }: MessageEvent<{ fd: number; control: SharedArrayBuffer }>,
  ) => {
    new Server(data.fd, new Int32Array(data.control)).run();
    (globalThis as unknown as { close(): void }).close();
  };
}
