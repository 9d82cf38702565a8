/**
 * Opens the regular files of nodes that hold a descriptor, one loop's way. Through /proc the kernel walks a path and a magic link; by
 * the file's handle it finds the inode at once, in four fifths of the time. So a file that is opened again and again has its
 * handle kept, where there are handles; which of them are kept is a matter of luck.
 */
import { FileHandle } from "./file_handle.ts";
import type { ProcPath } from "./proc_path.ts";

const PLACES = 64;

export class Reopener {
  // Per place: the node that it is for, and the handle of its file once that was asked for.
  readonly #slots = new Int32Array(PLACES);
  readonly #generations = new Int32Array(PLACES);
  readonly #handles: (FileHandle | undefined)[] = new Array(PLACES).fill(undefined);

  /** `mountFd` is what the handles of the files' mount are opened by, or -1 where there are none. */
  constructor(readonly proc: ProcPath, readonly mountFd: number) {}

  /**
   * Opens the file of an O_PATH descriptor, which is a regular one. It is that of a node, by slot and generation; slot 0: of none whose
   * handle may be kept. Returns a descriptor or -errno.
   */
  open(fd: number, slot: number, generation: number, flags: number): number {
    if (this.mountFd < 0 || slot === 0) return this.proc.open(fd, flags);
    const place = slot % PLACES;
    if (this.#slots[place] !== slot || this.#generations[place] !== (generation | 0)) {
      this.#slots[place] = slot;
      this.#generations[place] = generation;
      this.#handles[place]?.clear();
      return this.proc.open(fd, flags);
    }
    const handle = this.#handles[place] ??= new FileHandle();
    if (!handle.known && handle.of(fd) < 0) return this.proc.open(fd, flags);
    const opened = handle.openFor(this.mountFd, flags);
    // Whatever is wrong with the handle, the descriptor is good.
    return opened < 0 ? this.proc.open(fd, flags) : opened;
  }
}
