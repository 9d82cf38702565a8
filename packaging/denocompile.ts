import { v8Flags } from "./options.ts";

/** Long enough for 40 MB over an ordinary line, short enough for a network that swallows packets. */
const timeoutMs = 15_000;

/**
 * Makes the executable with `deno compile`. That needs denort, a runtime of its own: named by DENORT_BIN, in Deno's
 * cache, or from the network.
 *
 * @param bundleFile path of the program, format "module"
 * @returns undefined, or one line that says why there is no executable
 */
export async function denoCompile(bundleFile: string, out: string): Promise<string | undefined> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "compile",
      ...["--allow-all", "--no-config", "--no-lock", "--no-check", `--v8-flags=${v8Flags}`],
      ...["--output", out, bundleFile],
    ],
    stdin: "null",
    stdout: "null",
    stderr: "piped",
    env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" },
  }).spawn();
  const timer = setTimeout(() => child.kill("SIGKILL"), timeoutMs);
  const [status, stderr] = await Promise.all([child.status, child.stderr.text()]);
  clearTimeout(timer);
  if (status.success) return undefined;
  if (status.signal) return `no denort within ${timeoutMs / 1000} s`;
  // The innermost cause comes last, before a backtrace without symbols.
  const lines = stderr.split("\n\nStack backtrace")[0].trim().split("\n");
  return lines[lines.length - 1].replace(/^\s*(\d+: )?/, "");
}
