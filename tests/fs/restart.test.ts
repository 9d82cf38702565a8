// The daemon is killed (SIGKILL) under load and started again, and the front end reconnects with its requests in flight. More rounds,
// another seed, another file system: RINGFSD_KILLS=300 RINGFSD_KILLS_SEED=7 RINGFSD_KILLS_BASE=/var/tmp deno test -A tests/fs/restart.test.ts
import assert from "node:assert/strict";
import { bytes, names, u32, u64 } from "../../bench/fuse_encode.ts";
import * as op from "../../bench/fuse_opcodes.ts";
import { DEFAULT_INIT_FLAGS } from "../../bench/fuse_client.ts";
import { EINTR, EIO } from "../../ffi/errno.ts";
import { libc } from "../../ffi/libc.ts";
import { F_WRLCK } from "../../ffi/stat_layout.ts";
import { desc_state, queue_region } from "../../vq/inflight.ts";
import { BackEnd } from "../vhost/back_end.ts";
import { BASE_INDEX, QUEUE_SIZE, Survivor } from "../vhost/survivor.ts";
import { turn, until } from "../vq/bed.ts";
import { random } from "./random.ts";

const KILLS = Number(Deno.env.get("RINGFSD_KILLS") ?? 6);
const SEED = Number(Deno.env.get("RINGFSD_KILLS_SEED") ?? 1);
const BASE = Deno.env.get("RINGFSD_KILLS_BASE") ?? "/dev/shm";
const REQUEST_QUEUES = 2;
const QUEUES = 1 + REQUEST_QUEUES;
const main = new URL("../../main.ts", import.meta.url).pathname;

const ROOT = 1n;
const BLOCKS = 64, BLOCK = 4096;
const RECORD = 32;
const O_RDWR = 2, O_APPEND = 0o2000;
const DEADLINE_MS = 10_000;

/** What is known of one block of the file: the serial of its last write, and of writes that may be done or not. */
interface Block {
  value: number;
  maybe: number[];
  busy: boolean;
}

/** A guest's kernel: it keeps the share at work, and knows what must have come of it on the host. */
class Guest extends Survivor {
  readonly blocks: Block[] = Array.from({ length: BLOCKS }, () => ({ value: 0, maybe: [], busy: false }));
  /** What was made, appended, renamed, by serial: whether that is certain. */
  readonly made = new Map<number, boolean>();
  readonly appended = new Map<number, boolean>();
  readonly renamed = new Map<number, boolean>();
  readonly results = { done: 0, refused: 0 };
  /** The daemon was told to end: waits for locks do. */
  ending = false;
  #unique = 0;
  #serial = 0;
  #data = 0n;
  #fhs: [data: bigint, log: bigint] = [0n, 0n];

  constructor(readonly share: string, readonly next: (below: number) => number) {
    super(QUEUES);
    Deno.writeFileSync(`${share}/data`, new Uint8Array(BLOCKS * BLOCK));
    Deno.writeFileSync(`${share}/log`, new Uint8Array(0));
  }

  /** Sends a FUSE request. `done` learns of its error and, behind the header, what the reply holds. */
  fuse(
    index: number,
    what: string,
    opcode: number,
    node: bigint,
    body: Uint8Array,
    done: (error: number, reply: DataView<ArrayBuffer>) => void,
  ): void {
    const unique = this.#unique += 2;
    const request = bytes(u32(40 + body.length, opcode), u64(unique, node), u32(0, 0, 1, 0), body);
    const { life } = this;
    this.send(index, `${what} on queue ${index}`, request, (reply, used) => {
      const said = { length: reply.getUint32(0, true), unique: Number(reply.getBigUint64(8, true)) };
      assert.deepEqual(said, { length: used, unique }, what);
      const error = 0 - reply.getInt32(4, true);
      // Only who was killed amid it leaves in doubt what came of it.
      const excused = (error === EIO && this.life !== life) || (error === EINTR && this.ending);
      if (error !== 0 && !excused) assert.fail(`${what} was answered ${error}`);
      this.results[error === 0 ? "done" : "refused"]++;
      done(error, new DataView(reply.buffer, reply.byteOffset + 16, 1024));
    });
  }

  /** One request, and its answer; everything else goes on. */
  #ask(what: string, opcode: number, node: bigint, body: Uint8Array): DataView<ArrayBuffer> {
    let answer: DataView<ArrayBuffer> | undefined;
    this.fuse(1, what, opcode, node, body, (error, reply) => {
      assert.equal(error, 0, what);
      answer = reply;
    });
    const deadline = performance.now() + DEADLINE_MS;
    while (answer === undefined) {
      this.collect();
      assert.ok(performance.now() < deadline, `lost: ${what}`);
    }
    return answer;
  }

  /** What a kernel does that mounts: INIT, then the files that it works with. */
  mount(): void {
    this.#ask("INIT", op.FUSE_INIT, 0n, u32(7, 38, 65536, Number(DEFAULT_INIT_FLAGS & 0xffff_ffffn)));
    const find = (name: string) => this.#ask(`LOOKUP ${name}`, op.FUSE_LOOKUP, ROOT, names(name)).getBigUint64(0, true);
    const open = (node: bigint) => this.#ask("OPEN", op.FUSE_OPEN, node, u32(O_RDWR, 0)).getBigUint64(0, true);
    this.#data = find("data");
    this.#fhs = [open(this.#data), open(find("log"))];
    this.#ask("SETLK", op.FUSE_SETLK, this.#data, this.#lock(1));
  }

  #lock(owner: number): Uint8Array {
    return bytes(u64(this.#fhs[0], owner, 0, 0x7fff_ffff_ffff_ffffn), u32(F_WRLCK, 1, 0, 0));
  }

  /** Puts requests on the queues that wait for a lock which is held: in flight for as long as this daemon is. */
  waitForLocks(): void {
    for (let owner = 2; owner < 2 + 3 * REQUEST_QUEUES; owner++) {
      const index = 1 + owner % REQUEST_QUEUES;
      this.fuse(index, "SETLKW", op.FUSE_SETLKW, this.#data, this.#lock(owner), (error) => assert.ok(error !== 0));
    }
  }

  #write(fh: bigint, offset: number, flags: number, data: Uint8Array): Uint8Array {
    return bytes(u64(fh, offset), u32(data.length, 0), u64(0), u32(O_RDWR | flags, 0), data);
  }

  /** Puts some requests of all kinds on the queues. */
  sendSome(): void {
    const { next } = this;
    for (let i = next(12); i > 0; i--) {
      const index = 1 + next(REQUEST_QUEUES);
      if (!this.hasRoom(index)) continue;
      const serial = ++this.#serial;
      const kind = next(8);
      if (kind < 3) this.#writeBlock(index, serial);
      else if (kind < 4) this.#mkdir(index, serial);
      else if (kind < 6) this.#append(index, serial);
      else if (kind < 7) this.#rename(index, serial);
      else if (next(2) === 0) {
        // It goes to the ring: what comes behind it is answered before it.
        this.fuse(index, "FSYNC", op.FUSE_FSYNC, 0n, bytes(u64(this.#fhs[0]), u32(0, 0)), () => {});
      } else this.fuse(index, "GETATTR", op.FUSE_GETATTR, ROOT, u64(0, 0), () => {});
    }
    if (next(10) === 0 && this.hasRoom(0)) {
      // No such node was ever told: it counts, and has no reply.
      this.send(
        0,
        "FORGET",
        bytes(u32(48, op.FUSE_FORGET), u64(this.#unique += 2, 99), u32(0, 0, 1, 0), u64(1)),
        (_, used) => {
          assert.equal(used, 0);
        },
      );
    }
  }

  #writeBlock(index: number, serial: number): void {
    const at = this.next(BLOCKS);
    const block = this.blocks[at];
    if (block.busy) return;
    block.busy = true;
    const data = new Uint8Array(new Uint32Array(BLOCK / 4).fill(serial).buffer);
    this.fuse(index, `WRITE ${serial}`, op.FUSE_WRITE, 0n, this.#write(this.#fhs[0], at * BLOCK, 0, data), (error) => {
      block.busy = false;
      if (error === 0) [block.value, block.maybe] = [serial, []];
      else block.maybe.push(serial);
    });
  }

  /** Answered EEXIST, it would have been done twice. */
  #mkdir(index: number, serial: number): void {
    const body = bytes(u32(0o755, 0), names(`dir${serial}`));
    this.fuse(index, `MKDIR ${serial}`, op.FUSE_MKDIR, ROOT, body, (error) => void this.made.set(serial, error === 0));
  }

  #append(index: number, serial: number): void {
    const data = new Uint8Array(new Uint32Array(RECORD / 4).fill(serial).buffer);
    const body = this.#write(this.#fhs[1], 0, O_APPEND, data);
    this.fuse(index, `append ${serial}`, op.FUSE_WRITE, 0n, body, (error) => {
      this.appended.set(serial, error === 0);
    });
  }

  /** Answered ENOENT, it would have been done twice. */
  #rename(index: number, serial: number): void {
    Deno.writeTextFileSync(`${this.share}/old${serial}`, "");
    const body = bytes(u64(ROOT), names(`old${serial}`, `new${serial}`));
    this.fuse(index, `RENAME ${serial}`, op.FUSE_RENAME, ROOT, body, (error) => {
      this.renamed.set(serial, error === 0);
    });
  }

  /** Compares the host with what was answered. No daemon is at work. */
  check(): void {
    const data = new Uint32Array(Deno.readFileSync(`${this.share}/data`).buffer);
    for (const [at, block] of this.blocks.entries()) {
      const words = data.subarray(at * BLOCK / 4, (at + 1) * BLOCK / 4);
      assert.ok(words.every((word) => word === words[0]), `block ${at} is of one write`);
      assert.ok([block.value, ...block.maybe].includes(words[0]), `block ${at} is ${words[0]}, not ${block.value}`);
      // Now it is known.
      [block.value, block.maybe] = [words[0], []];
    }
    const log = new Uint32Array(Deno.readFileSync(`${this.share}/log`).buffer);
    assert.equal(log.length % (RECORD / 4), 0);
    const times = new Map<number, number>();
    for (let i = 0; i < log.length; i += RECORD / 4) times.set(log[i], (times.get(log[i]) ?? 0) + 1);
    for (const [serial, certain] of this.appended) {
      const count = times.get(serial) ?? 0;
      assert.ok(certain ? count === 1 : count <= 1, `record ${serial}, answered ${certain}, is there ${count} times`);
    }
    const there = new Set([...Deno.readDirSync(this.share)].map(({ name }) => name));
    for (const [serial, certain] of this.made) if (certain) assert.ok(there.has(`dir${serial}`), `dir${serial}`);
    for (const [serial, certain] of this.renamed) {
      const [old, now] = [there.has(`old${serial}`), there.has(`new${serial}`)];
      assert.ok(certain ? now && !old : now !== old, `old${serial}: ${old}, new${serial}: ${now}`);
    }
  }
}

/** A share, and daemons for it. */
class Place {
  readonly dir = Deno.makeTempDirSync({ dir: BASE, prefix: "ringfsd-restart-" });
  readonly share = `${this.dir}/share`;
  #started = 0;

  constructor() {
    Deno.mkdirSync(this.share);
  }

  start(): BackEnd {
    const socket = `${this.dir}/${this.#started++}`;
    const args = ["--socket-path", socket, "--shared-dir", this.share, "--sandbox", "none", "--posix-lock"];
    return new BackEnd(main, [...args, "--num-request-queues", `${REQUEST_QUEUES}`], socket, " shares ");
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.dir, { recursive: true });
  }
}

Deno.test(`daemons killed ${KILLS} times: every request is answered once, and nothing is done twice`, async () => {
  using place = new Place();
  const next = random(SEED);
  const guest = new Guest(place.share, next);
  let takenUp = 0;
  let daemon = place.start();
  try {
    for (let i = 1; i <= KILLS + 1; i++) {
      await daemon.ready();
      const knows = next(2) === 0;
      guest.connect(daemon.socketPath, (queue) => knows ? queue.snapshot().lastUsed : BASE_INDEX);
      // As a guest does: what was on its way is answered before anybody mounts again.
      guest.settle();
      guest.check();
      guest.mount();
      if (i <= KILLS) guest.waitForLocks();
      const following = i <= KILLS ? place.start() : null;
      const answered = guest.counts.answered + next(i % 4 === 0 ? 3 : 1000);
      const deadline = performance.now() + DEADLINE_MS;
      while (guest.counts.answered < answered) {
        guest.collect();
        guest.sendSome();
        assert.ok(performance.now() < deadline, "it serves");
      }
      if (following === null) break;
      // Full queues, and a moment anywhere in the work on them.
      for (let i = 0; i < 10; i++) guest.sendSome();
      for (let i = next(200); i > 0; i--) guest.collect();
      daemon.child.kill("SIGKILL");
      guest.lose();
      // Answers that were given before are there, and requests that nobody has seen.
      guest.collect();
      guest.sendSome();
      await daemon.ended();
      takenUp += daemon.takenUp;
      daemon = following;
      await turn();
    }
    guest.settle();
    daemon.child.kill("SIGTERM");
    assert.equal((await daemon.ended()).code, 0, daemon.log);
    takenUp += daemon.takenUp;
    guest.check();
    console.log(JSON.stringify({ kills: KILLS, ...guest.counts, takenUp, ...guest.results }));
    assert.equal(guest.counts.answered, guest.counts.sent);
    assert.ok(guest.counts.answeredLater >= KILLS, `${guest.counts.answeredLater} were answered by a later daemon`);
    assert.ok(takenUp >= KILLS, `${takenUp} were in flight`);
  } finally {
    await daemon[Symbol.asyncDispose]();
    guest.close();
  }
});

Deno.test("a request that another daemon had taken is answered EIO and not done, whatever session there is", async () => {
  using place = new Place();
  const guest = new Guest(place.share, random(SEED));
  await using daemon = place.start();
  await daemon.ready();
  guest.connect(daemon.socketPath, () => BASE_INDEX, QUEUES - 1);
  guest.mount();
  // The last queue's were taken by another: a MKDIR, a FORGET, an INIT of before. The next is new.
  const last = QUEUES - 1;
  const answers: string[] = [];
  const send = (what: string, opcode: number, body: Uint8Array, unique: number) => {
    const request = bytes(u32(40 + body.length, opcode), u64(unique, ROOT), u32(0, 0, 1, 0), body);
    guest.send(last, what, request, (reply, used) => {
      answers.push(`${what} ${used} ${used === 0 ? 0 : reply.getInt32(4, true)} ${reply.getBigUint64(8, true)}`);
    });
  };
  send("MKDIR a", op.FUSE_MKDIR, bytes(u32(0o755, 0), names("a")), 1001);
  send("FORGET", op.FUSE_FORGET, u64(1), 1002);
  const taken = [...guest.sent[last].keys()];
  send("MKDIR b", op.FUSE_MKDIR, bytes(u32(0o755, 0), names("b")), 1003);
  const region = guest.region(last);
  region.setUint16(queue_region.version, 1, true);
  region.setUint16(queue_region.desc_num, QUEUE_SIZE, true);
  region.setUint16(queue_region.used_idx, BASE_INDEX, true);
  taken.forEach((head, order) => {
    const at = queue_region.desc + head * desc_state.sizeof;
    region.setUint8(at + desc_state.inflight, 1);
    region.setUint32(at + desc_state.counter, order, true);
  });
  guest.setRegion(last, region);
  guest.frontend.startQueue(guest.queues[last], { base: 0 });
  guest.settle();
  assert.deepEqual(answers, ["MKDIR a 16 -5 1001", "FORGET 0 0 0", "MKDIR b 144 0 1003"]);
  assert.deepEqual([...Deno.readDirSync(place.share)].map(({ name }) => name).sort(), ["b", "data", "log"]);
  await until(() => /queue 2: 2 request\(s\) that were in flight/.test(daemon.log), "the log has it");
  assert.equal(guest.marked, 0);
  guest.close();
});

Deno.test("SIGTERM under load: what was taken is answered and none is left, the daemon ends with 0, and the next goes on", async () => {
  using place = new Place();
  const guest = new Guest(place.share, random(SEED));
  await using daemon = place.start();
  await using following = place.start();
  await daemon.ready();
  guest.connect(daemon.socketPath, () => BASE_INDEX);
  guest.mount();
  guest.waitForLocks();
  for (const end = guest.counts.answered + 500; guest.counts.answered < end; guest.collect()) guest.sendSome();
  guest.ending = true;
  const begun = performance.now();
  daemon.child.kill("SIGTERM");
  do {
    guest.collect();
    guest.sendSome();
  } while (!guest.frontend.waitDisconnect(0));
  const { code } = await daemon.ended();
  const tookMs = performance.now() - begun;
  guest.collect();
  assert.equal(code, 0, daemon.log);
  assert.ok(tookMs < 5000, `${tookMs} ms`);
  assert.equal(guest.marked, 0, "requests taken and not answered");
  guest.check();
  const left = guest.onTheirWay;
  assert.equal(guest.counts.sent, guest.counts.answered + left);
  libc.close(guest.frontend.fd);
  await following.ready();
  guest.connect(following.socketPath, () => 0);
  guest.settle();
  assert.equal(following.takenUp, 0);
  guest.mount();
  console.log(JSON.stringify({ ...guest.counts, left, tookMs: Math.round(tookMs) }));
  guest.close();
});
