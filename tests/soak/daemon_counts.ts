/** The daemon's own count of requests, against the front ends'. */
import assert from "node:assert/strict";
import type { SoakDaemon } from "./daemon.ts";
import type { Counts } from "./line.ts";

/**
 * For each share, by its tag, the requests that the daemon has taken and given back since it started, those without a reply among them; null
 * where it does not tell. At rest, so none is in flight.
 */
// TODO: ask the metrics socket, when the daemon has one.
export function daemonCounts(_daemon: SoakDaemon): Promise<Map<string, number> | null> {
  return Promise.resolve(null);
}

/** Both sides have counted the same. `counts`: of each share's front ends. Throws otherwise. Returns what was compared. */
export function compareCounts(
  daemon: ReadonlyMap<string, number> | null,
  counts: ReadonlyMap<string, Counts>,
): string {
  for (const [tag, { submitted, answered, givenUp }] of counts) {
    assert.equal(answered + givenUp, submitted, `${tag}: requests answered and given up, and submitted`);
    if (daemon !== null) {
      assert.equal(daemon.get(tag), answered, `${tag}: requests by the daemon's count, and answered`);
    }
  }
  return daemon === null ? "front ends only" : "both sides";
}
