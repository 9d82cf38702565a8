/** The same file operations in the guest's share and on the host: runs ops.sh there and here, and compares what both say. */
import { dirname } from "node:path";
import type { Guest } from "./guest.ts";
import { compareTrees } from "./tree.ts";

const folder = new URL("./", import.meta.url).pathname;

/** ops.sh as a file to put into the guest. */
export const OPS_SCRIPT = `${folder}ops.sh`;

/** Whether users without rights of their own can enter `folder`: only then do operations as "nobody" mean anything. */
function othersCanEnter(folder: string): boolean {
  for (let path = folder; path !== "/"; path = dirname(path)) {
    if ((Deno.statSync(path).mode! & 0o001) === 0) return false;
  }
  return true;
}

/** Whether owners, devices and other users can be part of it: as root, in a folder that others can enter. */
function asRoot(folder: string): boolean {
  return Deno.uid() === 0 && othersCanEnter(folder);
}

/**
 * Runs ops.sh on the host in the new folder `parent`/`name`, with Debian's busybox as it is in the guest.
 * @param cache the folder that setUp() names
 * @param scratch a folder for the busybox, which every user may enter
 * @returns the log
 */
export async function opsOnHost(cache: string, scratch: string, parent: string, name: string): Promise<string> {
  const folder = `${parent}/${name}`, shell = `${scratch}/bin/sh`, log = `${scratch}/host.log`;
  await Deno.mkdir(folder);
  await Deno.mkdir(`${scratch}/bin`, { recursive: true });
  await Deno.copyFile(`${cache}/bin/busybox`, shell);
  const { success, stderr } = await new Deno.Command(shell, {
    args: [OPS_SCRIPT, folder, log, ...(asRoot(parent) ? [shell] : [])],
    clearEnv: true,
    stdin: "null",
  }).output();
  if (!success) throw new Error(`ops.sh failed on the host: ${new TextDecoder().decode(stderr)}`);
  return await Deno.readTextFile(log);
}

/**
 * Runs ops.sh in the guest, in the new folder `parent`/`name`.
 * @param parent a folder of the share as the host names it, and as the guest names it
 * @returns the log
 */
export async function opsInGuest(guest: Guest, parent: { host: string; guest: string }, name: string): Promise<string> {
  const folder = `${parent.guest}/${name}`, log = `${name}.log`;
  const shell = asRoot(parent.host) ? "/bin/sh" : "";
  await guest.run(`mkdir ${folder}`);
  await guest.run(
    `env -i /bin/sh /ops.sh ${folder} /tmp/${log} ${shell} && cp /tmp/${log} ${parent.guest}/${log} && sync`,
    240_000,
  );
  return await Deno.readTextFile(`${parent.host}/${log}`);
}

/** The operations of a log: "#number command", what it printed, "=> status". */
function operations(log: string): string[] {
  return log.split(/^(?=#\d+ )/m);
}

/** The operations that went otherwise in the guest than on the host, each with both outcomes. */
export function compareLogs(host: string, guest: string): string[] {
  const [expected, actual] = [operations(host), operations(guest)];
  const differences = expected.flatMap((operation, i) =>
    operation === actual[i] ? [] : [`on the host: ${operation}in the guest: ${actual[i] ?? "nothing\n"}`]
  );
  if (expected.length !== actual.length) {
    differences.push(`${expected.length} operations on the host, ${actual.length} in the guest`);
  }
  return differences;
}

/** Differences between log and tree of both sides, `limit` of them at most. */
export function compareSides(
  host: { log: string; tree: string },
  guest: { log: string; tree: string },
  limit = 20,
): string[] {
  const all = [...compareLogs(host.log, guest.log), ...compareTrees(host.tree, guest.tree)];
  return all.length > limit ? [...all.slice(0, limit), `and ${all.length - limit} more`] : all;
}
