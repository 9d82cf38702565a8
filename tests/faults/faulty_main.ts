/** ringfsd with faults: its loops and helpers throw where a request names one of FAULTS. In a Worker it is one of them, as main.ts is. */
import type { FsConfig } from "../../fs/config.ts";
import { FsService } from "../../fs/service.ts";
import { fuse_in_header } from "../../fs/wire.ts";
import { type LoopScope, runLoop } from "../../vq/loop_worker.ts";
import { FAULTS } from "./faulty_names.ts";

const decoder = new TextDecoder();
const isWorker = "WorkerGlobalScope" in globalThis;

class FaultyService extends FsService {
  #armed = false;

  override handle(slot: number): number {
    const { requests } = this;
    const n = requests.copyIn(slot, this.device.memory, Math.min(requests.readableBytes[slot], 256));
    const name = decoder.decode(requests.in.subarray(fuse_in_header.sizeof, Math.max(n, fuse_in_header.sizeof)));
    if (name.startsWith(FAULTS.loop) && !this.isHelper) throw new Error("a loop's fault");
    if (name.startsWith(FAULTS.helper) && this.isHelper) throw new Error("a helper's fault");
    if (name.startsWith(FAULTS.later)) this.#armed = true;
    return super.handle(slot);
  }

  override name(at: number): Uint8Array<ArrayBuffer> | number {
    const name = super.name(at);
    if (typeof name !== "number" && decoder.decode(name).startsWith(FAULTS.handler)) {
      throw new Error("a handler's fault");
    }
    return name;
  }

  override complete(slot: number, result: number): number {
    if (!this.#armed) return super.complete(slot, result);
    this.#armed = false;
    throw new Error("a completion's fault");
  }
}

if (isWorker) {
  runLoop(globalThis as unknown as LoopScope, (config, host, device, bellFds) => {
    return new FaultyService(config as FsConfig, host, device, bellFds);
  });
} else {
  (globalThis as { RINGFSD_MODULE_URL?: string }).RINGFSD_MODULE_URL = import.meta.url;
  await import("../../main.ts");
}
