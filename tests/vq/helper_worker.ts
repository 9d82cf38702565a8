/** A helper thread for tests, as main.ts makes one. */
import { type CallsInit, runHelper } from "../../vq/calls.ts";

(globalThis as unknown as Worker).onmessage = (event: MessageEvent<{ init: CallsInit; bellFds: number[] }>) => {
  runHelper(event.data.init, event.data.bellFds);
};
