/** Makes a failing input small: what can be left out is, as long as it still fails. */

/** Whether an input fails. */
export type Fails<T> = (steps: readonly T[]) => Promise<boolean>;

/**
 * Delta debugging (Zeller's ddmin) over steps, then simpler steps one by one. `budget` is how often `fails` may be asked. The result
 * fails, if what was given did.
 */
export async function shrink<T>(
  steps: readonly T[],
  fails: Fails<T>,
  simpler: (step: T) => T[] = () => [],
  budget = 200,
): Promise<readonly T[]> {
  let left = budget;
  const still = async (candidate: readonly T[]) => left-- > 0 && await fails(candidate);
  let best = steps;
  for (let parts = 2; best.length > 1 && left > 0;) {
    const size = Math.ceil(best.length / parts);
    let smaller: readonly T[] | undefined;
    for (let at = 0; at < best.length && smaller === undefined; at += size) {
      const without = [...best.slice(0, at), ...best.slice(at + size)];
      if (without.length > 0 && await still(without)) smaller = without;
    }
    if (smaller !== undefined) {
      best = smaller;
      parts = Math.max(parts - 1, 2);
    } else if (size === 1) break;
    else parts = Math.min(parts * 2, best.length);
  }
  for (let i = 0; i < best.length && left > 0;) {
    let found = false;
    for (const one of simpler(best[i])) {
      const candidate = best.map((step, at) => at === i ? one : step);
      if (!await still(candidate)) continue;
      best = candidate;
      found = true;
      break;
    }
    if (!found) i++;
  }
  return best;
}
