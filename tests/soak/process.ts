/**
 * A process in the soak test's guest: one operation after the other in a folder of its own, each checked against the model. What a session
 * knows (nodes, handles) lives here and goes with it; the model (home.ts) stays. It changes when an answer comes, never before.
 */
import assert from "node:assert/strict";
import type { Reply } from "../../bench/fuse_client.ts";
import * as decode from "../../bench/fuse_decode.ts";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { EAGAIN, EBADF, EEXIST, EINTR, ENODATA, ENOENT, ENOSYS, ENOTEMPTY, EOPNOTSUPP } from "../../ffi/errno.ts";
import { F_UNLCK, F_WRLCK } from "../../ffi/stat_layout.ts";
import { checkBlocks, content, type File, type Folder, type Home } from "./home.ts";
import { BLOCK, type Line, MOST_BLOCKS } from "./line.ts";

export const ROOT = 1n;
const MOST_FILES = 14, MOST_FILE_BLOCKS = 16;
const O_RDWR = 2;
const RENAME_NOREPLACE = 1, RENAME_EXCHANGE = 2;

/** The lock that the processes of a session want. */
export interface Lock {
  node: bigint;
  fh: bigint;
  /** 0 where nobody has it. */
  holder: number;
  owners: number;
}

interface Known {
  node: bigint;
  lookups: bigint;
  fh?: bigint;
}

type Place = { folder: Folder; node: bigint };

export class Process {
  readonly #known = new Map<File, Known>();
  #top = 0n;
  #sub = 0n;

  constructor(readonly line: Line, readonly home: Home, readonly lock: Lock) {}

  /** Works until it is told to stop, or the session is cut off: then this rejects with Gone. */
  async run(stopped: () => boolean): Promise<void> {
    this.#top = (await this.#lookup(ROOT, this.home.name)).nodeid;
    if (this.home.sub !== null) this.#sub = (await this.#lookup(this.#top, "sub")).nodeid;
    const next = this.line.next;
    while (!stopped()) {
      const [, work] = WORK[next(WORK.length)];
      await work(this);
    }
  }

  // --- requests

  #call(opcode: number, node: bigint, args: Uint8Array, room = 0, data?: Uint32Array): Promise<Reply> {
    return this.line.request(opcode, node, args, room, { data });
  }

  /** The same, which must succeed. */
  async #done(opcode: number, node: bigint, args: Uint8Array, room = 0, data?: Uint32Array): Promise<Reply> {
    const reply = await this.#call(opcode, node, args, room, data);
    assert.equal(reply.error, 0, `opcode ${opcode}`);
    return reply;
  }

  async #lookup(parent: bigint, name: string) {
    return decode.entry(await this.#done(op.FUSE_LOOKUP, parent, names(name), 128));
  }

  #forgetNode(node: bigint, lookups: bigint): void {
    this.line.post(op.FUSE_FORGET, node, u64(lookups), 0, { noReply: true, hiprio: true });
  }

  /** The folder, or "sub" in it. */
  #place(): Place {
    const { sub, top } = this.home;
    return sub !== null && this.line.next(3) === 0
      ? { folder: sub, node: this.#sub }
      : { folder: top, node: this.#top };
  }

  #pick(folder: Folder, wanted: (thing: File | string) => boolean): string | null {
    const list = [...folder].filter(([, thing]) => wanted(thing));
    return list.length === 0 ? null : list[this.line.next(list.length)][0];
  }

  #file(): { place: Place; name: string; file: File } | null {
    const place = this.#place();
    const name = this.#pick(place.folder, (thing) => typeof thing !== "string");
    return name === null ? null : { place, name, file: place.folder.get(name) as File };
  }

  async #node({ place, name, file }: { place: Place; name: string; file: File }): Promise<Known> {
    let known = this.#known.get(file);
    if (known !== undefined && this.line.next(4) > 0) return known;
    const entry = await this.#lookup(place.node, name);
    assert.equal(entry.attr.size, file.blocks.length * BLOCK, `the size of ${name}`);
    if (known !== undefined) assert.equal(entry.nodeid, known.node, "one file with two nodeids");
    else this.#known.set(file, known = { node: entry.nodeid, lookups: 0n });
    known.lookups++;
    return known;
  }

  async #opened(found: { place: Place; name: string; file: File }): Promise<Required<Known>> {
    const known = await this.#node(found);
    known.fh ??= decode.open(await this.#done(op.FUSE_OPEN, known.node, u32(O_RDWR, 0), 16)).fh;
    return known as Required<Known>;
  }

  async #release(known: Known): Promise<void> {
    const { node, fh } = known;
    if (fh === undefined) return;
    known.fh = undefined;
    await this.#done(op.FUSE_FLUSH, node, bytes(u64(fh), u32(0, 0), u64(0)));
    await this.#done(op.FUSE_RELEASE, node, bytes(u64(fh), u32(O_RDWR, 0), u64(0)));
  }

  /** The file is gone, or the guest's cache is dropped. */
  async #forget(file: File): Promise<void> {
    const known = this.#known.get(file);
    if (known === undefined) return;
    await this.#release(known);
    this.#known.delete(file);
    this.#forgetNode(known.node, known.lookups);
  }

  async #readBlocks(file: File, { node, fh }: Required<Known>, at: number, count: number): Promise<void> {
    const size = count * BLOCK;
    const reply = await this.#done(op.FUSE_READ, node, ioArguments(fh, at, size), size);
    checkBlocks(reply.data, file.blocks.slice(at, at + count), `READ in ${this.home.name}`);
  }

  async #writeBlocks(file: File, { node, fh }: Required<Known>, at: number, count: number, mayEnd = false) {
    const blocks = Array.from({ length: count }, () => this.home.stamp());
    const args = ioArguments(fh, at, count * BLOCK);
    const { unique, reply } = this.line.start(op.FUSE_WRITE, node, args, 8, { data: content(blocks), mayEnd });
    if (mayEnd) this.#interrupt(unique);
    const answer = await reply;
    if (mayEnd && answer.error === -EINTR) return;
    assert.equal(answer.error, 0, "WRITE");
    const written = decode.u32At(answer, 0);
    assert.equal(written, count * BLOCK, "bytes written");
    while (file.blocks.length < at) file.blocks.push(0);
    blocks.forEach((block, i) => file.blocks[at + i] = block);
  }

  #interrupt(unique: number): void {
    this.line.post(op.FUSE_INTERRUPT, 0n, u64(unique), 0, { noReply: true, hiprio: true });
  }

  // --- operations

  async create(): Promise<void> {
    const place = this.#place();
    if (place.folder.size >= MOST_FILES) return this.unlink();
    const name = this.home.newName();
    const file: File = { blocks: [], xattrs: new Map() };
    const args = bytes(u32(O_RDWR, 0o100644, 0, 0), names(name));
    const reply = decode.create(await this.line.request(op.FUSE_CREATE, place.node, args, 144));
    assert.equal(reply.error, 0, "CREATE");
    place.folder.set(name, file);
    const known = { node: reply.nodeid, lookups: 1n, fh: reply.fh };
    this.#known.set(file, known);
    await this.#writeBlocks(file, known, 0, 1 + this.line.next(MOST_BLOCKS));
    if (this.line.next(2) === 0) await this.#release(known);
  }

  async write(): Promise<void> {
    const found = this.#file();
    if (found === null) return this.create();
    const known = await this.#opened(found);
    const count = 1 + this.line.next(MOST_BLOCKS);
    await this.#writeBlocks(found.file, known, this.line.next(MOST_FILE_BLOCKS - count), count);
  }

  /** Several blocks at once, some of them interrupted. */
  async writeMany(): Promise<void> {
    const found = this.#file();
    if (found === null || found.file.blocks.length < 4) return this.write();
    const known = await this.#opened(found);
    const writes = found.file.blocks.map((_, b) => this.#writeBlocks(found.file, known, b, 1, this.line.next(4) === 0));
    await allOf(writes);
  }

  async read(): Promise<void> {
    const found = this.#file();
    if (found === null || found.file.blocks.length === 0) return this.create();
    const known = await this.#opened(found);
    const at = this.line.next(found.file.blocks.length);
    await this.#readBlocks(found.file, known, at, Math.min(MOST_BLOCKS, found.file.blocks.length - at));
  }

  async readMany(): Promise<void> {
    const found = this.#file();
    if (found === null) return this.create();
    const known = await this.#opened(found);
    await allOf(found.file.blocks.map((_, b) => this.#readBlocks(found.file, known, b, 1)));
  }

  /** A process that was killed waits for no answer. */
  async abandon(): Promise<void> {
    const found = this.#file();
    if (found === null) return;
    const { node, fh } = await this.#opened(found);
    // Handle and node may be given back first.
    const late = [0, -EINTR, -EBADF, -ENOENT];
    for (let i = 1 + this.line.next(4); i > 0; i--) {
      const args = ioArguments(fh, this.line.next(MOST_FILE_BLOCKS), BLOCK);
      const { unique, reply } = this.line.start(op.FUSE_READ, node, args, BLOCK, { mayEnd: true });
      reply.then(({ error }) => assert.ok(late.includes(error), `READ gave ${error}`)).catch(this.#late);
      if (this.line.next(2) === 0) this.#interrupt(unique);
    }
    this.line.post(op.FUSE_LOOKUP, this.#top, names(found.name), 128, { mayEnd: true });
  }

  /** What was wrong with an answer that nobody waited for. */
  fault: Error | null = null;
  readonly #late = (error: Error): void => {
    if (error.name !== "Gone") this.fault ??= error;
  };

  async sync(): Promise<void> {
    const found = this.#file();
    if (found === null) return;
    const { node, fh } = await this.#opened(found);
    await this.#done(op.FUSE_FSYNC, node, bytes(u64(fh), u32(this.line.next(2), 0)));
  }

  async truncate(): Promise<void> {
    const found = this.#file();
    if (found === null) return;
    const { node, fh } = await this.#opened(found);
    const count = this.line.next(MOST_FILE_BLOCKS);
    const FATTR_SIZE = 1 << 3, FATTR_FH = 1 << 6;
    const args = bytes(u32(FATTR_SIZE | FATTR_FH, 0), u64(fh, count * BLOCK, 0, 0, 0, 0), u32(...new Array(8).fill(0)));
    const reply = decode.attrOut(await this.line.request(op.FUSE_SETATTR, node, args, 104));
    assert.equal(reply.error, 0, "SETATTR");
    assert.equal(reply.attr.size, count * BLOCK, "the size after SETATTR");
    const { blocks } = found.file;
    while (blocks.length < count) blocks.push(0);
    blocks.length = count;
  }

  async punch(): Promise<void> {
    const found = this.#file();
    if (found === null || found.file.blocks.length === 0) return;
    const { node, fh } = await this.#opened(found);
    const at = this.line.next(found.file.blocks.length);
    const KEEP_SIZE_PUNCH_HOLE = 3;
    const args = bytes(u64(fh, at * BLOCK, BLOCK), u32(KEEP_SIZE_PUNCH_HOLE, 0));
    const { error } = await this.#call(op.FUSE_FALLOCATE, node, args);
    if (error === -EOPNOTSUPP) return;
    assert.equal(error, 0, "FALLOCATE");
    found.file.blocks[at] = 0;
  }

  async copy(): Promise<void> {
    const from = this.#file(), to = this.#file();
    if (from === null || to === null || from.file === to.file || from.file.blocks.length === 0) return;
    const source = await this.#opened(from), target = await this.#opened(to);
    const count = Math.min(MOST_BLOCKS, from.file.blocks.length);
    const args = u64(source.fh, 0, target.node, target.fh, 0, count * BLOCK, 0);
    const reply = await this.#call(op.FUSE_COPY_FILE_RANGE, source.node, args, 8);
    if (reply.error === -ENOSYS || reply.error === -EOPNOTSUPP) return;
    assert.equal(reply.error, 0, "COPY_FILE_RANGE");
    const copied = decode.u32At(reply, 0);
    assert.equal(copied % BLOCK, 0, "bytes copied");
    for (let b = 0; b < copied / BLOCK; b++) to.file.blocks[b] = from.file.blocks[b];
  }

  /** To a new name, over another file, or in exchange with it. */
  async rename(): Promise<void> {
    const found = this.#file(), to = this.#place();
    if (found === null) return;
    const { place, name, file } = found;
    const other = this.#pick(to.folder, (thing) => thing !== file && typeof thing !== "string");
    const send = (newName: string, flags: number) => {
      return this.#call(op.FUSE_RENAME2, place.node, bytes(u64(to.node), u32(flags, 0), names(name, newName)));
    };
    if (other === null || this.line.next(2) === 0) {
      const newName = this.home.newName();
      assert.equal((await send(newName, RENAME_NOREPLACE)).error, 0, "RENAME2 without a target");
      place.folder.delete(name);
      to.folder.set(newName, file);
      return;
    }
    const target = to.folder.get(other) as File;
    switch (this.line.next(3)) {
      case 0:
        assert.equal((await send(other, RENAME_NOREPLACE)).error, -EEXIST, "RENAME_NOREPLACE over a file");
        return;
      case 1:
        assert.equal((await send(other, RENAME_EXCHANGE)).error, 0, "RENAME_EXCHANGE");
        place.folder.set(name, target);
        to.folder.set(other, file);
        return;
    }
    const args = bytes(u64(to.node), names(name, other));
    assert.equal((await this.#call(op.FUSE_RENAME, place.node, args)).error, 0, "RENAME over a file");
    place.folder.delete(name);
    to.folder.set(other, file);
    await this.#forget(target);
  }

  async unlink(): Promise<void> {
    const place = this.#place();
    const name = this.#pick(place.folder, () => true);
    if (name === null) return;
    const thing = place.folder.get(name)!;
    assert.equal((await this.#call(op.FUSE_UNLINK, place.node, names(name))).error, 0, "UNLINK");
    place.folder.delete(name);
    if (typeof thing === "string") return;
    const known = this.#known.get(thing);
    // Without a name it is there for those who have it open.
    if (known?.fh !== undefined && thing.blocks.length > 0) {
      await this.#writeBlocks(thing, known as Required<Known>, 0, 1);
      await this.#readBlocks(thing, known as Required<Known>, 0, 1);
    }
    await this.#forget(thing);
  }

  async list(): Promise<void> {
    const { folder, node } = this.#place();
    const { fh } = decode.open(await this.#done(op.FUSE_OPENDIR, node, u32(0, 0), 16));
    const plus = this.line.next(4) > 0;
    const found: string[] = [], learnt: bigint[] = [];
    for (let at = 0n;;) {
      const args = bytes(u64(fh, at), u32(BLOCK, 0), u64(0, 0));
      const opcode = plus ? op.FUSE_READDIRPLUS : op.FUSE_READDIR;
      const { entries } = decode.dirents(await this.#done(opcode, node, args, BLOCK), plus);
      if (entries.length === 0) break;
      for (const { name, entry } of entries) {
        if (entry !== undefined && entry.nodeid !== 0n) learnt.push(entry.nodeid);
        if (name !== "." && name !== "..") found.push(name);
      }
      at = entries.at(-1)!.offset;
    }
    if (learnt.length > 0) {
      const args = bytes(u32(learnt.length, 0), ...learnt.map((each) => u64(each, 1)));
      this.line.post(op.FUSE_BATCH_FORGET, 0n, args, 0, { noReply: true, hiprio: true });
    }
    const more = folder === this.home.top && this.home.sub !== null ? ["sub"] : [];
    assert.deepEqual(found.sort(), [...folder.keys(), ...more].sort(), `names in ${this.home.name}`);
    await this.#done(op.FUSE_RELEASEDIR, node, bytes(u64(fh), u32(0, 0), u64(0)));
  }

  /** Makes "sub", or removes it: not where something is in it. */
  async folder(): Promise<void> {
    const { home } = this;
    if (home.sub === null) {
      const args = bytes(u32(0o755, 0), names("sub"));
      const reply = decode.entry(await this.line.request(op.FUSE_MKDIR, this.#top, args, 128));
      assert.equal(reply.error, 0, "MKDIR");
      home.sub = new Map();
      this.#sub = reply.nodeid;
      return;
    }
    const empty = home.sub.size === 0;
    const { error } = await this.#call(op.FUSE_RMDIR, this.#top, names("sub"));
    assert.equal(error, empty ? 0 : -ENOTEMPTY, "RMDIR");
    if (!empty) return;
    home.sub = null;
    this.#forgetNode(this.#sub, 1n);
  }

  async symlink(): Promise<void> {
    const { folder, node } = this.#place();
    if (folder.size >= MOST_FILES) return;
    const name = this.home.newName(), target = `../${name}/somewhere`;
    const reply = decode.entry(await this.line.request(op.FUSE_SYMLINK, node, names(name, target), 128));
    assert.equal(reply.error, 0, "SYMLINK");
    folder.set(name, target);
    const { data } = await this.#done(op.FUSE_READLINK, reply.nodeid, bytes(), BLOCK);
    assert.equal(new TextDecoder().decode(data), target);
    this.#forgetNode(reply.nodeid, 1n);
  }

  async xattr(): Promise<void> {
    const found = this.#file();
    if (found === null || !this.home.xattrs) return;
    const { node } = await this.#node(found);
    const { xattrs } = found.file;
    const name = `user.soak${this.line.next(3)}`;
    const held = xattrs.get(name);
    if (this.line.next(2) === 0) {
      const reply = await this.#call(op.FUSE_GETXATTR, node, bytes(u32(256, 0), names(name)), 256);
      if (reply.error === -EOPNOTSUPP || reply.error === -ENOSYS) return void (this.home.xattrs = false);
      assert.equal(reply.error, held === undefined ? -ENODATA : 0, `GETXATTR of ${name}`);
      if (held !== undefined) assert.equal(new TextDecoder().decode(reply.data), held);
    } else if (held === undefined || this.line.next(2) === 0) {
      const value = `value ${this.home.stamp()}`;
      const data = new TextEncoder().encode(value);
      const args = bytes(u32(data.length, 0), names(name), data);
      const { error } = await this.#call(op.FUSE_SETXATTR, node, args);
      if (error === -EOPNOTSUPP || error === -ENOSYS) return void (this.home.xattrs = false);
      assert.equal(error, 0, "SETXATTR");
      xattrs.set(name, value);
    } else {
      assert.equal((await this.#call(op.FUSE_REMOVEXATTR, node, names(name))).error, 0, "REMOVEXATTR");
      xattrs.delete(name);
    }
  }

  /** Waits for the lock, holds it for a while, gives it back. */
  async locked(): Promise<void> {
    const { lock } = this;
    const owner = ++lock.owners;
    const send = (opcode: number, type: number, mayEnd: boolean) => {
      const args = bytes(u64(lock.fh, owner), u64(0, 0x7fff_ffff_ffff_ffffn), u32(type, 0, 0, 0));
      return this.line.start(opcode, lock.node, args, 0, { mayEnd });
    };
    const mayEnd = this.line.next(3) === 0;
    const { unique, reply } = send(op.FUSE_SETLKW, F_WRLCK, mayEnd);
    if (mayEnd) this.#interrupt(unique);
    const { error } = await reply;
    if (mayEnd && error === -EINTR) return;
    assert.equal(error, 0, "SETLKW");
    assert.equal(lock.holder, 0, `owner ${owner} got the lock that another holds`);
    lock.holder = owner;
    await this.read();
    const again = await send(op.FUSE_SETLK, F_WRLCK, false).reply;
    assert.equal(again.error, 0, "SETLK of what is held");
    lock.holder = 0;
    assert.equal((await send(op.FUSE_SETLK, F_UNLCK, false).reply).error, 0, "SETLK F_UNLCK");
  }

  async tryLock(): Promise<void> {
    const { lock } = this;
    const owner = ++lock.owners;
    const args = (type: number) => bytes(u64(lock.fh, owner), u64(0, 0x7fff_ffff_ffff_ffffn), u32(type, 0, 0, 0));
    const { error } = await this.#call(op.FUSE_SETLK, lock.node, args(F_WRLCK));
    if (error === -EAGAIN) return;
    assert.equal(error, 0, "SETLK");
    assert.equal(lock.holder, 0, "a lock that another holds");
    lock.holder = owner;
    await this.attributes();
    lock.holder = 0;
    await this.#done(op.FUSE_SETLK, lock.node, args(F_UNLCK));
  }

  async attributes(): Promise<void> {
    const found = this.#file();
    if (found === null) return;
    const { node } = await this.#node(found);
    const reply = decode.attrOut(await this.line.request(op.FUSE_GETATTR, node, bytes(u32(0, 0), u64(0)), 104));
    assert.equal(reply.error, 0, "GETATTR");
    assert.equal(reply.attr.size, found.file.blocks.length * BLOCK, "the size by GETATTR");
    await this.#done(op.FUSE_STATFS, node, bytes(), 80);
  }

  async absent(): Promise<void> {
    const { error, data } = await this.#call(op.FUSE_LOOKUP, this.#top, names("absent"), 128);
    // An entry without a node says the same for a while.
    const none = error === -ENOENT || error === 0 && decode.entry({ error, data }).nodeid === 0n;
    assert.ok(none, `LOOKUP of what is not there gave ${error}`);
  }

  async release(): Promise<void> {
    for (const known of [...this.#known.values()].slice(0, 3)) await this.#release(known);
  }

  /** As when the guest's memory is short. */
  async dropCaches(): Promise<void> {
    for (const file of [...this.#known.keys()]) await this.#forget(file);
  }
}

type Work = (process: Process) => Promise<void>;
const WORK = ([
  [3, (p) => p.create()],
  [6, (p) => p.write()],
  [3, (p) => p.writeMany()],
  [6, (p) => p.read()],
  [4, (p) => p.readMany()],
  [2, (p) => p.abandon()],
  [1, (p) => p.sync()],
  [2, (p) => p.truncate()],
  [1, (p) => p.punch()],
  [2, (p) => p.copy()],
  [3, (p) => p.rename()],
  [2, (p) => p.unlink()],
  [3, (p) => p.list()],
  [1, (p) => p.folder()],
  [1, (p) => p.symlink()],
  [3, (p) => p.xattr()],
  [3, (p) => p.locked()],
  [1, (p) => p.tryLock()],
  [4, (p) => p.attributes()],
  [2, (p) => p.absent()],
  [2, (p) => p.release()],
  [1, (p) => p.dropCaches()],
] as [number, Work][]).flatMap((each) => new Array<[number, Work]>(each[0]).fill(each));

/** All of them to their ends, then the first failure: what is answered changes the model even where the next is cut off. */
async function allOf(list: readonly Promise<void>[]): Promise<void> {
  const results = await Promise.allSettled(list);
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

/** fuse_read_in and fuse_write_in, of whole blocks. */
function ioArguments(fh: bigint, block: number, size: number): Uint8Array {
  return bytes(u64(fh, block * BLOCK), u32(size, 0), u64(0), u32(O_RDWR, 0));
}
