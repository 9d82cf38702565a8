/** A Worker: one loop, with the file system as its service. */
import type { FsConfig } from "./fs/config.ts";
import { FsService } from "./fs/service.ts";
import { type LoopScope, runLoop } from "./vq/loop_worker.ts";

/** Whether this isolate is a Worker and not the process's main one. */
export function isWorker(): boolean {
  return "WorkerGlobalScope" in globalThis;
}

/** Turns this Worker into a loop. It takes its messages as soon as this returns. */
export function startWorker(): void {
  runLoop(globalThis as unknown as LoopScope, (config, host, device, bellFds) => {
    return new FsService(config as FsConfig, host, device, bellFds);
  });
}
