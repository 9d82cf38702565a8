/** A back end that is no file system, as a process to be killed: the echo service of tests/vq behind a socket. Argument: its path. */
import { Reactor } from "../../ffi/reactor.ts";
import { Server } from "../../vhost/server.ts";
import { DeviceControl } from "../../vq/control.ts";
import { LoopPool } from "../../vq/pool.ts";
import { COUNT, type EchoConfig } from "../vq/echo_service.ts";

const QUEUES = 3;
const LOOPS = 2;

const say = (line: string) => console.error(line);
const log = { error: say, warn: say, info: say, debug: () => {} };
const pool = new LoopPool({
  count: LOOPS,
  helpers: 2,
  pollMaxUs: 50,
  debug: false,
  log,
  spawn: () => new Worker(new URL("../vq/echo_service.ts", import.meta.url).href, { type: "module" }),
  onFatal: (_, reason) => say(`fatal: ${reason}`),
});
const device = new DeviceControl({
  id: 0,
  pool,
  queueCount: QUEUES,
  features: 0n,
  config: new Uint8Array(0),
  service: { counts: new SharedArrayBuffer(LOOPS * COUNT.words * 4) } satisfies EchoConfig,
  loopOf: (queue) => queue,
});
await device.prepare();
const server = new Server({ reactor: new Reactor(), device, log, socketPath: Deno.args[0] });
say("listens");
await server.serve();
