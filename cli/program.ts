/** The name by which this program was called: the last part of argv[0]; "" where it cannot be told. */
export function programName(): string {
  try {
    // The self-extractor is a script that Deno runs: argv[0] is Deno's then, as it is for the source.
    const path = (globalThis as { RINGFSD_EXEC_PATH?: string }).RINGFSD_EXEC_PATH ??
      Deno.readTextFileSync("/proc/self/cmdline").split("\0", 1)[0];
    return path.split("/").at(-1)!;
  } catch {
    return "";
  }
}
