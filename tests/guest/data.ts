/** Test data: random files, and archives of many small files. */
import { closeSync, openSync, writeSync } from "node:fs";

/** Writes `sizeBytes` random bytes to a new file. */
export function writeRandom(path: string, sizeBytes: number): void {
  const block = new Uint8Array(65536); // the most that getRandomValues gives at once
  const file = openSync(path, "w");
  for (let left = sizeBytes; left > 0; left -= block.length) {
    crypto.getRandomValues(block);
    writeSync(file, block, 0, Math.min(left, block.length));
  }
  closeSync(file);
}

/**
 * Makes `folder` and in it `count` small files in folders of folders, with modes, times, hard links and symlinks of
 * many kinds. The contents follow from the number, so two calls make the same.
 */
export async function makeSmallFiles(folder: string, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const parent = `${folder}/${i % 7}/${i % 50}`;
    if (i < 350) await Deno.mkdir(parent, { recursive: true }); // 350 = 7 · 50 folders
    const path = `${parent}/file-${i}`;
    if (i % 40 === 39) await Deno.symlink(`../${i % 50}/file-${i - 1}`, path);
    else if (i % 40 === 38 && i > 350) await Deno.link(`${folder}/${(i - 350) % 7}/${i % 50}/file-${i - 350}`, path);
    else {
      await Deno.writeTextFile(path, `${i} `.repeat(i % 1500));
      await Deno.chmod(path, [0o644, 0o600, 0o755, 0o440][i % 4]);
      await Deno.utime(path, 1e9 + i, 1e9 + i);
    }
  }
}
