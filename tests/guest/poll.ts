/** Waits for something by looking again and again; no test sleeps a fixed time and hopes. */

/**
 * Calls `look` until it gives something other than undefined, null or false, and returns that.
 * @param what named in the error when `timeoutMs` have passed
 * @throws Error when time is up; `detail` adds to its message, for instance the end of a log
 */
export async function until<T>(
  what: string,
  look: () => T | Promise<T>,
  timeoutMs: number,
  detail: () => string = () => "",
): Promise<NonNullable<Exclude<T, false>>> {
  const deadline = performance.now() + timeoutMs;
  while (true) {
    const found = await look();
    if (found !== undefined && found !== null && found !== false) return found as NonNullable<Exclude<T, false>>;
    if (performance.now() > deadline) throw new Error(`waited ${timeoutMs / 1000} s for ${what}\n${detail()}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** The end of a text: what a person reads first when something failed. */
export function tail(text: string, lines = 40): string {
  return text.trimEnd().split("\n").slice(-lines).join("\n");
}
