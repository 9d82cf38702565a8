/** The rounds of races.test.ts: requests for a while, then something that the control plane does to them. Run by itself, a guest to be killed. */
import { Guest } from "./race_guest.ts";

const actions: [number, string, (guest: Guest) => void][] = [
  [10, "DESTROY, INIT", (guest) => {
    guest.destroy();
    guest.init();
  }],
  [5, "INIT alone", (guest) => guest.init()],
  [3, "INIT and DESTROY at once", (guest) => {
    guest.crowd();
    guest.init();
  }],
  [10, "GET_VRING_BASE of one", (guest) => guest.stop([anyQueue(guest)])],
  [8, "GET_VRING_BASE of all", (guest) => guest.stop(guest.queues.map((queue) => queue.index))],
  [4, "SET_MEM_TABLE, the same", (guest) => guest.remap("same")],
  [6, "SET_MEM_TABLE, a region more or less", (guest) => guest.remap("more")],
  [10, "SET_MEM_TABLE, a region replaced", (guest) => guest.remap("replaced")],
  [4, "SET_VRING_CALL", (guest) => guest.swap("CALL", anyQueue(guest))],
  [4, "SET_VRING_KICK", (guest) => guest.swap("KICK", anyQueue(guest))],
  [2, "SET_VRING_ERR", (guest) => guest.swap("ERR", anyQueue(guest))],
  [6, "SET_VRING_ENABLE", (guest) => guest.disable(anyQueue(guest), false)],
  [3, "RESET_OWNER", (guest) => guest.disable(0, true)],
  [8, "RESET_DEVICE", (guest) => guest.reset()],
  [10, "disconnect", (guest) => guest.reconnect(false)],
  [5, "connect another, disconnect", (guest) => guest.reconnect(true)],
  [6, "nothing for a while", (guest) => guest.settle()],
];
const WEIGHTS = actions.reduce((sum, [weight]) => sum + weight, 0);

const anyQueue = (guest: Guest) => guest.next(guest.queues.length);

export function round(guest: Guest): void {
  for (let i = guest.next(60); i > 0; i--) guest.pump();
  let at = guest.next(WEIGHTS);
  const [, name, run] = actions.find(([weight]) => (at -= weight) < 0)!;
  guest.history.push(name);
  if (guest.history.length > 12) guest.history.shift();
  run(guest);
}

if (import.meta.main) {
  const [socket, share, seed] = Deno.args;
  const guest = new Guest(socket, share, Number(seed));
  guest.connect();
  Deno.stdout.writeSync(new Uint8Array(1));
  for (;;) round(guest);
}
