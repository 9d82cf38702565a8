/** File systems of a test's own, of which it can have the size, the state and the end. They need root. */
import assert from "node:assert/strict";

function run(command: string, ...args: string[]): { code: number; text: string } {
  const { code, stdout, stderr } = new Deno.Command(command, { args, stdin: "null" }).outputSync();
  return { code, text: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
}

/** Runs a command of the host's that must succeed. */
export function must(command: string, ...args: string[]): void {
  const { code, text } = run(command, ...args);
  assert.equal(code, 0, `${command} ${args.join(" ")}: ${text}`);
}

/** Runs one, and tells whether it did. */
export const may = (command: string, ...args: string[]): boolean => run(command, ...args).code === 0;

/** Why nothing can be mounted here, or "". */
export const cannotMountTmpfs: string = (() => {
  if (Deno.uid() !== 0) return "needs root";
  const dir = Deno.makeTempDirSync();
  try {
    if (!may("mount", "-t", "tmpfs", "none", dir)) return "needs the right to mount";
    must("umount", dir);
    return "";
  } finally {
    Deno.removeSync(dir);
  }
})();

/** A tmpfs on a directory. The result takes it off again. */
export function mountTmpfs(dir: string, options: string): () => void {
  must("mount", "-t", "tmpfs", "-o", options, "ringfsd-test", dir);
  // Everybody may enter, as with the share that it stands for.
  Deno.chmodSync(dir, 0o755);
  return () => must("umount", "-l", dir);
}

/** An ext4 of so many MiB on a loop device whose file lies in a tmpfs with less room; null where there are no loop devices. */
export class ThinDisk {
  private constructor(readonly dir: string, readonly store: string) {}

  static mount(dir: string, sizeMiB: number, roomMiB: number): ThinDisk | null {
    const store = Deno.makeTempDirSync({ prefix: "ringfsd-thin-" });
    must("mount", "-t", "tmpfs", "-o", `size=${roomMiB}m`, "ringfsd-test", store);
    const image = `${store}/image`;
    Deno.writeFileSync(image, new Uint8Array());
    Deno.truncateSync(image, sizeMiB << 20);
    // Without a journal a failed write ends nothing but itself.
    const made = may("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", image) &&
      may("mount", "-o", "loop", image, dir);
    const disk = new ThinDisk(dir, store);
    if (made) return disk;
    disk.#close();
    return null;
  }

  /** Room for what is written, in MiB. */
  setRoom(roomMiB: number): void {
    must("mount", "-o", `remount,size=${roomMiB}m`, this.store);
  }

  close(): void {
    must("umount", "-l", this.dir);
    this.#close();
  }

  #close(): void {
    must("umount", "-l", this.store);
    Deno.removeSync(this.store);
  }
}
