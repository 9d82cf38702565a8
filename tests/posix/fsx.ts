/**
 * fsx.ts FILE [--operations=N] [--seed=N] [--no-map]: random operations on a file, each compared with a model in memory.
 * Prints the last operations when file and model differ, and exits with 1. The same seed gives the same operations.
 */
import { mapped, memory } from "./call.ts";
import * as c from "./constants.ts";
import { SYS } from "./constants.ts";
import { describe, Sys } from "./sys.ts";

const MAX = 256 * 1024, MAX_STEP = 65536, KEPT = 30;
const option = (name: string) => Deno.args.find((word) => word.startsWith(`--${name}=`))?.slice(name.length + 3);
const path = Deno.args[0];
const operations = Number(option("operations") ?? 5000), seed = Number(option("seed") ?? 1);
const mayMap = !Deno.args.includes("--no-map");

/** xorshift32: the same numbers everywhere. */
let state = (seed * 2654435761 >>> 0) || 1;
function random(below: number): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) % below;
}

const sys = new Sys();
const model = memory(MAX), buffer = memory(MAX);
let size = 0, fd = -1, done = 0, reserved = 0;
const log: string[] = [];

function fail(what: string): never {
  console.log(`operation ${done} of seed ${seed}: ${what}\nthe last operations:\n${log.slice(-KEPT).join("\n")}`);
  Deno.exit(1);
}

function expect(what: string, actual: number, expected: number): void {
  if (actual !== expected) fail(`${what} gave ${describe(actual)}, should be ${expected}`);
}

/** Compares what was read with the model; names the first byte that differs. */
function compare(what: string, data: Uint8Array, offset: number): void {
  for (let i = 0; i < data.length; i++) {
    if (data[i] !== model[offset + i]) {
      fail(`${what}: at ${offset + i} there is ${data[i]}, should be ${model[offset + i]} (size ${size})`);
    }
  }
}

function fill(length: number): Uint8Array<ArrayBuffer> {
  const data = memory(length);
  const [first, step] = [random(256), random(255) + 1];
  for (let i = 0; i < length; i++) data[i] = first + i * step + (i >> 8);
  return data;
}

/** An offset up to `limit`, on a page or block boundary now and then, and a length. */
function range(limit: number): [offset: number, length: number] {
  const round = [1, 1, 512, 4096][random(4)];
  const offset = Math.floor(random(limit) / round) * round;
  const length = Math.max(1, Math.min(limit - offset, random(3) ? random(MAX_STEP) : random(5000)));
  return [offset, length];
}

function grow(end: number): void {
  if (end > size) size = end;
}

function read(): void {
  const [offset, length] = range(MAX);
  log.push(`read ${offset} ${length}`);
  const expected = Math.max(0, Math.min(length, size - offset));
  expect("read", sys.call(SYS.pread64, fd, buffer, length, offset), expected);
  compare("read", buffer.subarray(0, expected), offset);
}

function write(): void {
  const [offset, length] = range(MAX);
  log.push(`write ${offset} ${length}`);
  const data = fill(length);
  expect("write", sys.pwrite(fd, data, offset), length);
  model.set(data, offset);
  grow(offset + length);
}

function append(): void {
  const length = Math.min(MAX - size, random(5000));
  log.push(`append ${length}`);
  if (!length) return;
  const data = fill(length), other = sys.open(path, c.O_WRONLY | c.O_APPEND);
  expect("append", sys.write(other, data), length);
  expect("close", sys.close(other), 0);
  model.set(data, size);
  size += length;
}

function truncate(): void {
  const length = random(MAX), byName = random(2) === 0;
  log.push(`truncate ${length}${byName ? " by name" : ""}`);
  expect("truncate", byName ? sys.truncate(path, length) : sys.ftruncate(fd, length), 0);
  model.fill(0, Math.min(size, length), MAX);
  size = length;
}

/** fallocate in one of its ways; those that the file system has not are left out. */
function allocate(mode: number, zeros: boolean, extend: boolean): void {
  const [offset, length] = range(MAX);
  log.push(`fallocate mode ${mode} ${offset} ${length}`);
  const result = sys.fallocate(fd, mode, offset, length);
  if (result === -c.EOPNOTSUPP) return;
  expect("fallocate", result, 0);
  reserved++;
  if (zeros) model.fill(0, offset, offset + length);
  if (extend) grow(offset + length);
}

function copy(): void {
  if (size < 3) return;
  const [from, wanted] = range(size >> 1);
  const length = Math.min(wanted, (size >> 1) - from || 1);
  const to = (size >> 1) + random(MAX - (size >> 1) - length);
  if (to < from + length) return;
  log.push(`copy_file_range ${from} ${to} ${length}`);
  let copied = 0;
  while (copied < length) {
    const result = sys.copyRange(fd, from + copied, fd, to + copied, length - copied);
    if (result <= 0) fail(`copy_file_range gave ${describe(result)}`);
    copied += result;
  }
  model.copyWithin(to, from, from + length);
  grow(to + length);
}

function map(store: boolean): void {
  if (!size || !mayMap) return;
  const [offset, wanted] = range(size);
  const length = Math.min(wanted, size - offset), start = offset - offset % 4096;
  log.push(`mapped ${store ? "write" : "read"} ${offset} ${length}`);
  const protection = c.PROT_READ | (store ? c.PROT_WRITE : 0);
  const address = sys.call(SYS.mmap, null, offset + length - start, protection, c.MAP_SHARED, fd, start);
  if (address < 0) fail(`mmap gave ${describe(address)}`);
  const bytes = mapped(address, offset + length - start).subarray(offset - start);
  if (store) {
    const data = fill(length);
    bytes.set(data);
    model.set(data, offset);
    if (random(4) === 0) expect("msync", sys.call(SYS.msync, address, offset + length - start, c.MS_SYNC), 0);
  } else compare("mapped read", bytes, offset);
  expect("munmap", sys.call(SYS.munmap, address, offset + length - start), 0);
}

function reopen(): void {
  log.push("close and open");
  expect("close", sys.close(fd), 0);
  fd = sys.open(path, c.O_RDWR);
  if (fd < 0) fail(`open gave ${describe(fd)}`);
}

function checkAll(): void {
  expect("fstat's size", sys.fstat(fd).size, size);
  expect("stat's size", sys.stat(path).size, size);
  expect("read of all", sys.call(SYS.pread64, fd, buffer, MAX, 0), size);
  compare("read of all", buffer.subarray(0, size), 0);
}

/** Each as often as it stands here. */
const actions = [
  ...[read, read, read, read, write, write, write, write, append, truncate, copy, reopen],
  ...[() => map(false), () => map(false), () => map(true), () => map(true)],
  () => allocate(0, false, true),
  () => allocate(c.FALLOC_FL_KEEP_SIZE, false, false),
  () => allocate(c.FALLOC_FL_KEEP_SIZE | c.FALLOC_FL_PUNCH_HOLE, true, false),
  () => allocate(c.FALLOC_FL_ZERO_RANGE, true, true),
  () => allocate(c.FALLOC_FL_ZERO_RANGE | c.FALLOC_FL_KEEP_SIZE, true, false),
  () => expect("fsync", sys.fsync(fd), 0),
];

fd = sys.open(path, c.O_RDWR | c.O_CREAT | c.O_TRUNC, 0o644);
if (fd < 0) fail(`open gave ${describe(fd)}`);
for (; done < operations; done++) {
  actions[random(actions.length)]();
  if (done % 50 === 0) checkAll();
}
checkAll();
sys.close(fd);
console.log(`${done} operations of seed ${seed}, ${reserved} of them fallocate: file and model agree`);
