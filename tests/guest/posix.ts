/** Runs the POSIX suite (tests/posix) on the host and in guests, and judges what it says. */
import assert from "node:assert/strict";
import { dirname } from "node:path";

export const MAIN = new URL("../posix/main.ts", import.meta.url).pathname;
export const FLAGS = "run --allow-all --no-check --no-config";
export const large = Deno.env.has("RINGFSD_POSIX_LARGE") ? " --large" : "";

export interface Outcome {
  assertions: number;
  /** Each assertion that failed or was skipped, with what the suite said of it. */
  rest: Map<string, string>;
}

export function parse(output: string): Outcome {
  const summary = /^# (\d+) assertions: /m.exec(output);
  assert(summary, `the suite did not end:\n${output.slice(-2000)}`);
  const rest = new Map<string, string>();
  for (const [line, name] of output.matchAll(/^(?:not ok|skip) - (.*?)(?: # .*)?$/gm)) rest.set(name, line);
  return { assertions: Number(summary[1]), rest };
}

/** The suite on a folder of the host's. */
export async function onHost(folder: string): Promise<Outcome> {
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...FLAGS.split(" "), MAIN, folder, "--quiet", ...large.split(" ").filter(Boolean)],
    stdin: "null",
  }).output();
  return parse(new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr));
}

/**
 * Nothing fails and nothing is skipped but what KNOWN names; and what KNOWN names does not work.
 * @param hostSkips what the suite skips on the file system that is shared
 */
export function expectAsKnown({ assertions, rest }: Outcome, known: Record<string, string>, hostSkips: string[]): void {
  const surprises = [...rest].filter(([name]) => !(name in known) && !hostSkips.includes(name)).map(([, line]) => line);
  const wrong = Object.keys(known).filter((name) => !rest.has(name) && !known[name].startsWith("sometimes"));
  const better = wrong.map((name) => `works, but is in KNOWN: ${name}`);
  const all = [...surprises, ...better];
  assert.equal(all.length, 0, `${all.length} of ${assertions} assertions:\n${all.join("\n")}`);
}

/** A folder that one can chroot into to run the suite: Deno, its libraries, the suite. */
export async function makeRoot(root: string): Promise<void> {
  const script = `set -e; mkdir -p "$1"/proc "$1"/tmp "$1"/dev "$1"/work
    for file in "$2" $(ldd "$2" | grep -o '/[^ ]*'); do cp -L --parents "$file" "$1"; done
    cp "$2" "$1/deno" && cp -r "$3" "$1/posix"`;
  const args = ["-c", script, "sh", root, Deno.execPath(), dirname(MAIN)];
  const { success, stderr } = await new Deno.Command("sh", { args }).output();
  assert(success, new TextDecoder().decode(stderr));
}
