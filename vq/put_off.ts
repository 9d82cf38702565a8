/**
 * When a driver is called. A call costs as much as several small requests, for it wakes a processor. So while more chains wait it is
 * put off, as long as those that are left take longer than the driver takes to wake up and to bring new ones, and not for long.
 */
import type { Queue } from "./queue.ts";

export interface PutOff {
  /** With fewer chains left it is called at once. */
  readonly fewest: number;
  /** With less to do than this. */
  readonly wakeMs: number;
  /** So long at most. */
  readonly mostMs: number;
}

/** After small requests. */
export const PUT_OFF: PutOff = { fewest: 4, wakeMs: 0.02, mostMs: 0.05 };
/** The same where the loop does not poll: it sleeps when its chains run out, and is woken as slowly as the driver. */
export const PUT_OFF_ASLEEP: PutOff = { fewest: 4, wakeMs: 0.03, mostMs: 0.05 };
/** After a large transfer, of which a call is a small part: it is waited for longer, and begun earlier. */
export const PUT_OFF_LARGE: PutOff = { fewest: 1, wakeMs: 0.04, mostMs: 0.2 };

/** Whether the queue's driver is to be called now, with `left` chains that wait. `now` and when the batch was begun in ms of nowMs(). */
export function callIsDue(queue: Queue, how: PutOff, left: number, now: number, batchMs: number): boolean {
  if (left < how.fewest) return true;
  const { owed } = queue.ring;
  if (queue.owedSince === 0) {
    queue.owedSince = now;
    queue.owedAt = owed;
    // One chain: no average of small ones before it says how long the next take.
    if (how === PUT_OFF_LARGE) queue.chainMs = now - batchMs;
  } else if (owed > queue.owedAt) {
    queue.chainMs = (now - queue.owedSince) / (owed - queue.owedAt);
  }
  return left * queue.chainMs < how.wakeMs || now - queue.owedSince > how.mostMs;
}
