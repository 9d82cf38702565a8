/** Compares two directory trees on the host, name by name. */
import { createHash } from "node:crypto";
import { type Dirent, lstatSync, readdirSync, readFileSync, readlinkSync, type Stats } from "node:fs";
import { join } from "node:path";

/** Times before this were set by a script on purpose; later ones say when it ran, which differs between two runs. */
const SET_ON_PURPOSE_BEFORE_MS = Date.UTC(2020, 0);

function typeOf(entry: Stats | Dirent): string {
  if (entry.isDirectory()) return "directory";
  if (entry.isSymbolicLink()) return "symlink";
  if (entry.isFIFO()) return "fifo";
  if (entry.isFile()) return "file";
  return "device or socket";
}

/** What is known of each path below `root`: type, mode, owner, size, contents, link target, link count, time. */
export function describeTree(root: string): Map<string, string> {
  const tree = new Map<string, string>();
  const visit = (path: string) => {
    const full = join(root, path);
    const stat = lstatSync(full);
    const type = typeOf(stat);
    const words = [type, (stat.mode & 0o7777).toString(8), `${stat.uid}:${stat.gid}`];
    // A directory's size and link count are its file system's business.
    if (type !== "directory") words.push(`links ${stat.nlink}`);
    if (type === "file") words.push(`${stat.size} bytes`, checksum(full));
    if (type === "symlink") words.push(`-> ${readlinkSync(full)}`);
    if (stat.mtimeMs < SET_ON_PURPOSE_BEFORE_MS) words.push(`time ${stat.mtimeMs}`);
    tree.set(path, words.join(", "));
    if (type === "directory") { for (const name of readdirSync(full).sort()) visit(join(path, name)); }
  };
  for (const name of readdirSync(root).sort()) visit(name);
  return tree;
}

/** The differences between two trees as lines of text; none when they are alike. */
export function compareTrees(expected: string, actual: string): string[] {
  const [left, right] = [describeTree(expected), describeTree(actual)];
  const differences: string[] = [];
  for (const path of new Set([...left.keys(), ...right.keys()])) {
    const [wanted, found] = [left.get(path) ?? "nothing", right.get(path) ?? "nothing"];
    if (wanted !== found) differences.push(`${path}: ${found}; should be ${wanted}`);
  }
  return differences;
}

/** SHA-256 of a file's contents, in hex. */
export function checksum(path: string): string {
  return createHash("sha256").update(readFileSync(path)).digest("hex");
}

/** Removes a folder and all below it, folders that nobody may write to as well. */
export async function removeTree(path: string): Promise<void> {
  await new Deno.Command("chmod", { args: ["-R", "u+rwX", path], stderr: "null" }).output();
  await Deno.remove(path, { recursive: true });
}
