/**
 * Latencies as counts in buckets that grow with the value: 128 buckets for each power of two, so a percentile is off by less
 * than 1 %. Fixed size, no allocation; histograms of several threads are added up.
 */
const SUB_BITS = 7;
const SUB = 1 << SUB_BITS;
const BUCKETS = (32 - SUB_BITS + 1) * SUB;

/** Values are whole nanoseconds below 2^32 (4.29 s); larger ones count as the largest. */
export class Histogram {
  readonly counts = new Uint32Array(BUCKETS);
  /** The largest value recorded. */
  max = 0;

  record(ns: number): void {
    if (ns > this.max) this.max = ns;
    this.counts[bucketOf(ns)]++;
  }

  clear(): void {
    this.counts.fill(0);
    this.max = 0;
  }

  /** Adds another histogram's counts, for instance one that came from a Worker. */
  add(other: { counts: Uint32Array; max: number }): void {
    for (let i = 0; i < BUCKETS; i++) this.counts[i] += other.counts[i];
    this.max = Math.max(this.max, other.max);
  }

  get total(): number {
    return this.counts.reduce((sum, count) => sum + count, 0);
  }

  /** The value in ns that a share of `q` (0 to 1) of all values does not exceed; 0 where there are none. */
  percentile(q: number): number {
    const wanted = Math.ceil(this.total * q);
    if (wanted === 0) return 0;
    let seen = 0;
    for (let i = 0; i < BUCKETS; i++) {
      seen += this.counts[i];
      if (seen >= wanted) return Math.min(this.max, bucketMiddle(i));
    }
    return this.max;
  }
}

/** Values below 2 * SUB have a bucket each; above, the leading SUB_BITS + 1 bits choose. */
export function bucketOf(ns: number): number {
  const value = ns > 0xffff_ffff ? 0xffff_ffff : ns >>> 0;
  const shift = Math.max(0, 31 - Math.clz32(value) - SUB_BITS);
  return shift * SUB + (value >>> shift);
}

function bucketMiddle(bucket: number): number {
  const shift = Math.max(0, Math.floor(bucket / SUB) - 1);
  const low = (bucket - shift * SUB) * 2 ** shift;
  return low + (2 ** shift - 1) / 2;
}
