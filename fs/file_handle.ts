/**
 * A file's handle: what the kernel finds an inode by without a descriptor, name_to_handle_at(2). It has the inode's generation in it, so
 * it never leads to another file that got the number of one that was deleted: opening it then fails with ESTALE.
 */
import { O_CLOEXEC, O_PATH } from "../ffi/arch.ts";
import { EOVERFLOW } from "../ffi/errno.ts";
import { errno, libc } from "../ffi/libc.ts";
import { AT_EMPTY_PATH, file_handle } from "../ffi/stat_layout.ts";

/**
 * Bytes of the longest handle that a node can have. ext4 has 8, xfs and tmpfs 12, btrfs 20, an overlay 32 to 36; the kernel's
 * limit is 128.
 */
const BYTES_MAX = 40;
const NEAR_WORDS = 6;
const NEAR_BYTES = NEAR_WORDS * 4;
/** Words of a handle in a node: type and length, then the first bytes, with zeros behind the last; and those of the rest, if any. */
export const HANDLE_WORDS = 1 + NEAR_WORDS;
export const MORE_WORDS = (BYTES_MAX >> 2) - NEAR_WORDS;

const TYPE_MAX = 0xffffff;
const LENGTH = file_handle.handle_bytes >> 2;
const TYPE = file_handle.handle_type >> 2;
const DATA = file_handle.f_handle >> 2;
const noName = new Uint8Array(1);

/** Room for one handle, of the file that was looked at last. */
export class FileHandle {
  readonly #bytes = new Uint8Array(file_handle.sizeof + BYTES_MAX);
  readonly #words = new Int32Array(this.#bytes.buffer);
  readonly #mountId = new Uint8Array(4);

  /** Takes the handle of a name in a directory, never through a symlink. 0 or -errno: EOPNOTSUPP, EOVERFLOW where it is too long. */
  at(dirFd: number, name: Uint8Array<ArrayBuffer>): number {
    return this.#take(dirFd, name, 0);
  }

  /** The same of a descriptor, O_PATH or not. */
  of(fd: number): number {
    return this.#take(fd, noName, AT_EMPTY_PATH);
  }

  #take(fd: number, name: Uint8Array<ArrayBuffer>, flags: number): number {
    const w = this.#words;
    w.fill(0);
    w[LENGTH] = BYTES_MAX;
    const failed = libc.name_to_handle_at(fd, name, this.#bytes, this.#mountId, flags) < 0 ? -errno() : 0;
    const fits = failed === 0 && w[TYPE] >= 0 && w[TYPE] <= TYPE_MAX;
    if (fits) return 0;
    w[LENGTH] = w[TYPE] = 0;
    return failed < 0 ? failed : -EOVERFLOW;
  }

  /**
   * Opens the file O_PATH. `mountFd` is a descriptor of any file of its mount, and not O_PATH itself. Returns a descriptor or
   * -errno: ESTALE where the file is gone, EPERM without CAP_DAC_READ_SEARCH.
   */
  open(mountFd: number): number {
    const fd = libc.open_by_handle_at(mountFd, this.#bytes, O_PATH | O_CLOEXEC);
    return fd < 0 ? -errno() : fd;
  }

  /** Opens it with flags of open(2). Returns a descriptor or -errno. */
  openFor(mountFd: number, flags: number): number {
    const fd = libc.open_by_handle_at(mountFd, this.#bytes, flags | O_CLOEXEC);
    return fd < 0 ? -errno() : fd;
  }

  /** Has none from now on. */
  clear(): void {
    this.#words[LENGTH] = 0;
  }

  /** Whether there is one: false after `at` or `of` failed. */
  get known(): boolean {
    return this.#words[LENGTH] > 0;
  }

  /** Writes the handle at word `at` of shared memory, and what does not fit there at word `more`. */
  put(words: Int32Array, at: number, more: number): void {
    const w = this.#words;
    words[at] = w[TYPE] << 8 | w[LENGTH];
    for (let i = 0; i < NEAR_WORDS; i++) words[at + 1 + i] = w[DATA + i];
    if (w[LENGTH] <= NEAR_BYTES) return;
    for (let i = 0; i < MORE_WORDS; i++) words[more + i] = w[DATA + NEAR_WORDS + i];
  }

  /** Reads what `put` wrote. The loads stay in order with other atomic ones. */
  get(words: Int32Array, at: number, more: number): void {
    const w = this.#words;
    const head = Atomics.load(words, at);
    w[TYPE] = head >>> 8;
    w[LENGTH] = Math.min(head & 0xff, BYTES_MAX);
    for (let i = 0; i < NEAR_WORDS; i++) w[DATA + i] = Atomics.load(words, at + 1 + i);
    const long = w[LENGTH] > NEAR_BYTES;
    for (let i = 0; i < MORE_WORDS; i++) w[DATA + NEAR_WORDS + i] = long ? Atomics.load(words, more + i) : 0;
  }

  /** Whether it is the one that `put` wrote there. */
  is(words: Int32Array, at: number, more: number): boolean {
    const w = this.#words;
    if (w[LENGTH] === 0 || words[at] !== (w[TYPE] << 8 | w[LENGTH])) return false;
    for (let i = 0; i < NEAR_WORDS; i++) if (words[at + 1 + i] !== w[DATA + i]) return false;
    if (w[LENGTH] <= NEAR_BYTES) return true;
    for (let i = 0; i < MORE_WORDS; i++) if (words[more + i] !== w[DATA + NEAR_WORDS + i]) return false;
    return true;
  }
}
