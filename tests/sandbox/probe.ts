/**
 * A program that confines itself as the daemon does, and then tries to get out. Arguments: the options as JSON, which attempt, and what that
 * needs. Prints what came of it as JSON.
 */
import { confine, takeOptions } from "../../cli/sandbox.ts";
import type { Options } from "../../cli/options.ts";
import { permitted } from "../../ffi/capabilities.ts";
import { errno, libc } from "../../ffi/libc.ts";
import { conditional } from "../../ffi/syscalls.ts";
import { building, numberOf } from "../../ffi/syscalls.ts";

const [given, attempt, ...args] = Deno.args;
const complain = (message: string) => console.error(message);
const options = takeOptions() ?? JSON.parse(given) as Options;
const log = { error: complain, warn: complain, info: () => {}, debug: () => {} };
const finish = confine(options, new URL("../../main.ts", import.meta.url).href, log);
finish();

/** 0 or -errno. */
const result = (value: number) => value < 0 ? -errno() : 0;
/** "" or the error's name. */
function tried(action: () => unknown): string {
  try {
    action();
    return "";
  } catch (error) {
    return (error as Error).name;
  }
}
const call = (number: number, a = 0, b = 0, c = 0) => result(libc.syscall3(number, a, b, c));

const share = options.shares[0].reach?.dir ?? options.shares[0].sharedDir;
const KILL = Deno.build.arch === "x86_64" ? 62 : 129;

const attempts: Record<string, () => unknown> = {
  forbidden: () => call(numberOf(building.pivot_root)),
  tgkillOther: () => call(numberOf(conditional.tgkill), Number(args[0]), Number(args[0]), 0),
  newNamespace: () => call(numberOf(conditional.unshare), 0x0002_0000),
  inet: () => result(libc.socket(2, 1, 0)),
  clone3: () => call(numberOf(conditional.clone3)),
  unknown: () => call(4000),
  files: () => ({
    ...Object.fromEntries(args.map((path) => [path, tried(() => Deno.readTextFileSync(path))])),
    above: tried(() => [...Deno.readDirSync(`${share}/../../..`)]) ||
      [...Deno.readDirSync(`${share}/../../..`)].map(({ name }) => name).sort(),
    make: tried(() => Deno.writeTextFileSync("/made", "")),
    program: tried(() => Deno.openSync(Deno.execPath(), { write: true })),
    inside: Deno.readTextFileSync(`${share}/inside`),
    change: tried(() => Deno.writeTextFileSync(`${share}/made`, "")),
  }),
  open: () => Object.fromEntries(args.map((path) => [path, tried(() => Deno.readTextFileSync(path))])),
  signal: () => call(KILL, Number(args[0]), 0),
  mount: () => result(libc.mount(null, new TextEncoder().encode("/\0"), null, 1 << 18, null)),
  abstract: () => {
    const fd = libc.socket(1, 1, 0);
    const address = new Uint8Array(3 + args[0].length);
    address[0] = 1;
    address.set(new TextEncoder().encode(args[0]), 3);
    return result(libc.connect(fd, address, address.length));
  },
  state: () => ({
    capabilities: permitted().toString(16),
    threads: [...Deno.readDirSync("/proc/self/task")].map(({ name }) => {
      const status = Deno.readTextFileSync(`/proc/self/task/${name}/status`);
      return ["CapEff", "CapBnd", "NoNewPrivs", "Seccomp"].map((field) => {
        return new RegExp(`^${field}:\\s*(\\S+)`, "m").exec(status)![1];
      }).join(" ");
    }),
  }),
};
console.log(JSON.stringify(attempts[attempt]()));
Deno.exit(0);
