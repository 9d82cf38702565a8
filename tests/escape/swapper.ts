/** Another process of the host, as a thread: it exchanges and moves files by their names, as fast as it can, until it is told to stop. */
import { cString, libc } from "../../ffi/libc.ts";
import { AT_FDCWD, RENAME_EXCHANGE } from "../../ffi/stat_layout.ts";

export interface Swapping {
  /** Pairs of paths that change places. */
  exchange: readonly (readonly [string, string])[];
  /** Pairs of paths between which one file goes to and fro. */
  move: readonly (readonly [string, string])[];
  /** Words: whether to go on, and how often something was moved. */
  control: SharedArrayBuffer;
}

if ("WorkerGlobalScope" in globalThis) {
  (globalThis as unknown as Worker).onmessage = ({ data }: MessageEvent<Swapping>) => {
    const control = new Int32Array(data.control);
    const paths = (list: Swapping["move"]) => list.map(([a, b]) => [cString(a), cString(b)] as const);
    const exchange = paths(data.exchange);
    const move = paths(data.move);
    while (Atomics.load(control, 0) === 0) {
      for (const [a, b] of exchange) libc.renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
      for (const [a, b] of move) {
        if (libc.renameat2(AT_FDCWD, a, AT_FDCWD, b, 0) < 0) libc.renameat2(AT_FDCWD, b, AT_FDCWD, a, 0);
      }
      Atomics.add(control, 1, exchange.length + move.length);
    }
    // As it was at the start, or as good.
    (globalThis as unknown as Worker).postMessage("done");
  };
}
