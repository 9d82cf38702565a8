/**
 * What is known of a loop's requests in flight, by slot, where the control plane can read it: also when the loop hangs in a system
 * call and answers nobody. The loop and its services write it as they go; a reader may see words of two requests that had the slot
 * one after the other.
 */
import { allocate, type HostAddr, viewAt } from "../ffi/memory.ts";

/** Requests in flight on one loop at most. What is beyond waits in its available ring. */
export const SLOTS = 1024;
/** Words of a slot that are the service's, to say which request it is. */
export const NOTES = 4;
const SLOT_BYTES = 8 + NOTES * 4 + 4 + 2;
const BYTES = SLOTS * SLOT_BYTES;
const QUEUE_BITS = 8;

/** Which queue of which device, as a number. */
export const ownerOf = (device: number, queue: number) => device << QUEUE_BITS | queue;

export class Flight {
  /** Since when, in ms of nowMs(): when the batch was begun in which it was taken. 0: the slot is free. */
  readonly since: Float64Array<ArrayBuffer>;
  /** The service's notes of slot s at [s * NOTES]. */
  readonly notes: Uint32Array<ArrayBuffer>;
  readonly owner: Uint32Array<ArrayBuffer>;
  /** What the service calls such a request: below KINDS of meter.ts. */
  readonly kind: Uint8Array<ArrayBuffer>;
  /** What it waits for, in the service's numbers; 0: nothing, the loop is at it. */
  readonly waits: Uint8Array<ArrayBuffer>;

  constructor(readonly addr: HostAddr = allocate(BYTES).addr) {
    const buffer = viewAt(addr, BYTES);
    this.since = new Float64Array(buffer, 0, SLOTS);
    this.notes = new Uint32Array(buffer, SLOTS * 8, SLOTS * NOTES);
    this.owner = new Uint32Array(buffer, SLOTS * (8 + NOTES * 4), SLOTS);
    this.kind = new Uint8Array(buffer, SLOTS * (12 + NOTES * 4), SLOTS);
    this.waits = new Uint8Array(buffer, SLOTS * (13 + NOTES * 4), SLOTS);
  }

  /** What is in flight, as of `now`, the oldest first. For the control plane. */
  read(now: number): InFlight[] {
    const found: InFlight[] = [];
    for (let slot = 0; slot < SLOTS; slot++) {
      const since = this.since[slot];
      if (since === 0) continue;
      const owner = this.owner[slot];
      found.push({
        device: owner >>> QUEUE_BITS,
        queue: owner & (1 << QUEUE_BITS) - 1,
        kind: this.kind[slot],
        waits: this.waits[slot],
        notes: [...this.notes.subarray(slot * NOTES, (slot + 1) * NOTES)],
        ageMs: Math.max(0, now - since),
      });
    }
    return found.sort((a, b) => b.ageMs - a.ageMs);
  }
}

/** A request in flight. */
export interface InFlight {
  device: number;
  queue: number;
  kind: number;
  waits: number;
  notes: number[];
  ageMs: number;
}
