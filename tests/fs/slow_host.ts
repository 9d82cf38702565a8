/** A mounted file system that is slow when a test says so. It needs root and /dev/fuse. */
import assert from "node:assert/strict";
import { cString, errno, errorText, libc } from "../../ffi/libc.ts";
import { allocate } from "../../ffi/memory.ts";

/** Words that test and server share: the held operation, how many requests are kept, whether it runs or is to end, what fails and how. */
export const CONTROL = { hold: 0, held: 1, ready: 2, stop: 3, fail: 4, error: 5, words: 16 } as const;

const SYS_MOUNT = Deno.build.arch === "x86_64" ? 165 : 40;
const MS_NOSUID = 2, MS_NODEV = 4;
const O_RDWR_NONBLOCK = 0o4002;
const DEADLINE_MS = 10_000;

/** Why there can be none here, or "". */
export function cannotMount(): string {
  if (Deno.uid() !== 0) return "needs root";
  try {
    Deno.openSync("/dev/fuse", { read: true, write: true }).close();
    return "";
  } catch {
    return "needs /dev/fuse";
  }
}

export class SlowHost {
  readonly #control = new Int32Array(new SharedArrayBuffer(CONTROL.words * 4));
  readonly #server: Worker;

  /** Mounts it on a directory. */
  constructor(readonly dir: string) {
    const fd = libc.openat(-100, cString("/dev/fuse"), O_RDWR_NONBLOCK, 0);
    const options = `fd=${fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions`;
    const room = allocate(8192);
    let at = 0;
    const text = (value: string) => {
      const bytes = cString(value);
      new Uint8Array(room.buffer).set(bytes, at);
      at += bytes.length;
      return BigInt(room.addr + at - bytes.length);
    };
    const words = [text("slow"), text(dir), text("fuse.slow"), BigInt(MS_NOSUID | MS_NODEV), text(options)];
    const failed = libc.syscall6(BigInt(SYS_MOUNT), words[0], words[1], words[2], words[3], words[4], 0n);
    assert.equal(failed, 0n, `mount: ${errorText(errno())}`);
    this.#server = new Worker(new URL("./slow_server.ts", import.meta.url), { type: "module" });
    this.#server.postMessage({ fd, control: this.#control.buffer });
  }

  /** Resolves when it answers. */
  async ready(): Promise<void> {
    for (const end = Date.now() + DEADLINE_MS; Atomics.load(this.#control, CONTROL.ready) === 0;) {
      assert.ok(Date.now() < end, "the slow file system does not start");
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  /** Keeps requests of an operation unanswered; 0: of none, and answers those that were kept. */
  hold(opcode: number): void {
    Atomics.store(this.#control, CONTROL.hold, opcode);
  }

  /** Has requests of an operation fail; 0: of none. */
  fail(opcode: number, error = 0): void {
    Atomics.store(this.#control, CONTROL.error, error);
    Atomics.store(this.#control, CONTROL.fail, opcode);
  }

  /** Waits until so many requests are kept. */
  untilHeld(count: number): void {
    for (const end = Date.now() + DEADLINE_MS; Atomics.load(this.#control, CONTROL.held) !== count;) {
      assert.ok(Date.now() < end, `${Atomics.load(this.#control, CONTROL.held)} requests are held, and not ${count}`);
      Atomics.wait(this.#control, CONTROL.words - 1, 0, 1);
    }
  }

  close(): void {
    this.hold(0);
    new Deno.Command("umount", { args: ["-l", this.dir] }).outputSync();
    Atomics.store(this.#control, CONTROL.stop, 1);
    this.#server.terminate();
  }
}
