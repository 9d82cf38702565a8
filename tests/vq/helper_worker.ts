/** A helper thread for tests, as main.ts makes one. A request that it is to serve takes the device's number of milliseconds. */
import { EINTR } from "../../ffi/errno.ts";
import { libc } from "../../ffi/libc.ts";
import { type CallsInit, runHelper } from "../../vq/calls.ts";

const nothing = new Uint8Array(8);

(globalThis as unknown as Worker).onmessage = (event: MessageEvent<{ init: CallsInit; bellFds: number[] }>) => {
  runHelper(event.data.init, event.data.bellFds, {
    serve: (device, _, slot) => libc.poll(nothing, 0, device) < 0 ? -EINTR : slot,
    idle: () => false,
    fault: (error) => {
      throw error;
    },
  });
};
