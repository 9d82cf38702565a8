/** helper.ts CALLS ANSWERS: the second process of process.ts. Makes the calls that come over one pipe, answers over the other. */
import { type Arg, call } from "./call.ts";
import { pack, readLine, unpack } from "./process.ts";

const calls = Deno.openSync(Deno.args[0]);
const answers = Deno.openSync(Deno.args[1], { write: true });
while (true) {
  const line = readLine(calls);
  if (!line) break;
  const [number, ...args] = unpack(line);
  const result = call(number as number, ...args);
  const buffers: Arg[] = args.map((arg) => arg instanceof Uint8Array ? arg : null);
  answers.writeSync(new TextEncoder().encode(pack([result, ...buffers])));
}
Deno.exit(0);
