/** A thread of a hostile guest: it rewrites guest memory at random, as fast as it can, until it is told to stop. */
import type { HostAddr } from "../../ffi/memory.ts";
import { viewAt } from "../../ffi/memory.ts";
import { random } from "./random.ts";

/** A stretch of memory, in 32-bit words or bytes from its start, and what may stand there. */
export interface Stretch {
  at: number;
  /** Bytes from one place that is rewritten to the next, and how many there are. */
  step: number;
  count: number;
  bytes: 1 | 2 | 4;
  values: readonly number[];
}

export interface Rewriting {
  addr: HostAddr;
  size: number;
  seed: number;
  stretches: readonly Stretch[];
  /** Words: whether to go on, and thousands of words that were rewritten. */
  control: SharedArrayBuffer;
}

if ("WorkerGlobalScope" in globalThis) {
  (globalThis as unknown as Worker).onmessage = ({ data }: MessageEvent<Rewriting>) => {
    const { addr, size, stretches } = data;
    const control = new Int32Array(data.control);
    const view = new DataView(viewAt(addr, size));
    const next = random(data.seed);
    while (Atomics.load(control, 0) === 0) {
      for (let i = 0; i < 1000; i++) {
        const { at, step, count, bytes, values } = stretches[next(stretches.length)];
        const to = at + next(count) * step;
        const value = values[next(values.length)];
        if (bytes === 1) view.setUint8(to, value);
        else if (bytes === 2) view.setUint16(to, value, true);
        else view.setUint32(to, value, true);
      }
      Atomics.add(control, 1, 1);
    }
    (globalThis as unknown as Worker).postMessage("done");
  };
}
