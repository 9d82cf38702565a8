/** What was meant, where a name is nearly one of those that there are. */

/** The names that begin like it, or are one letter or one pair of letters away from it. */
export function nearest(word: string, names: Iterable<string>): string[] {
  return [...names].filter((name) => name.startsWith(word) || word.startsWith(name) || isOneAway(name, word));
}

/** ", did you mean …?", or "". */
export function suggestion(word: string, names: Iterable<string>): string {
  const near = word === "" ? [] : nearest(word, names);
  return near.length === 0 ? "" : `, did you mean ${near.join(" or ")}?`;
}

/** One letter is missing, is too many, is another or has changed places with the next. */
function isOneAway(a: string, b: string): boolean {
  if (Math.abs(a.length - b.length) > 1) return false;
  let i = 0;
  while (i < a.length && a[i] === b[i]) i++;
  const [x, y] = [a.slice(i), b.slice(i)];
  return x.slice(1) === y || x === y.slice(1) || x.slice(1) === y.slice(1) ||
    (x.slice(2) === y.slice(2) && x[0] === y[1] && x[1] === y[0]);
}
