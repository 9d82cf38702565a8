// ffi/guard.ts: what is truncated under us is replaced where it is guarded, and a fault anywhere else is what it was.
import assert from "node:assert/strict";
import {
  type Guard,
  type GuardedRange,
  guardMapping,
  handlerCode,
  installGuard,
  noteAt,
  pageSize,
} from "../../ffi/guard.ts";
import { cString, libc } from "../../ffi/libc.ts";
import { type HostAddr, map, MAP_SHARED, PAGE, PROT_READ, PROT_WRITE, unmap } from "../../ffi/memory.ts";

const PAGES = 4;
/** A multiple of every page size. */
const UNIT = 65536;
const SIZE = PAGES * UNIT;

installGuard();

/** A file that is mapped whole. */
function shared(): { fd: number; bytes: Uint8Array; range: GuardedRange; [Symbol.dispose](): void } {
  const fd = libc.memfd_create(cString("guarded"), 1);
  assert.equal(libc.ftruncate(fd, BigInt(SIZE)), 0);
  const mapping = map(SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  const bytes = new Uint8Array(mapping.buffer).fill(7);
  const range = { addr: mapping.addr, size: SIZE, page: pageSize() };
  return { fd, bytes, range, [Symbol.dispose]: () => (unmap(mapping), void libc.close(fd)) };
}

const noted = (guard: Guard) => noteAt(guard.note)[0];

Deno.test("guardMapping() puts zeros where the file has ended, and notes it", () => {
  using one = shared();
  using two = shared();
  const guard = guardMapping([one.range])!;
  const other = guardMapping([two.range])!;
  assert.equal(libc.ftruncate(one.fd, BigInt(SIZE / 2)), 0);
  assert.equal(one.bytes[SIZE / 2 - 1], 7);
  assert.equal(noted(guard), 0);
  assert.equal(one.bytes[SIZE / 2], 0);
  assert.equal(noted(guard), 1);
  assert.equal(one.bytes[SIZE / 2 - 1], 7, "what is there is as it was");
  one.bytes.fill(9);
  assert.ok(noted(guard) > 1);
  assert.ok(one.bytes.every((byte) => byte === 9));
  assert.equal(noted(other), 0);
  assert.equal(two.bytes[0], 7);
  guard.release();
  other.release();
});

Deno.test("several ranges have one note, and a guard that was released can be had again, without it", () => {
  for (let i = 0; i < 200; i++) {
    using one = shared();
    using two = shared();
    const guard = guardMapping([one.range, two.range])!;
    assert.equal(noted(guard), 0);
    assert.equal(libc.ftruncate(two.fd, 0n), 0);
    assert.equal(two.bytes[SIZE - 1], 0);
    assert.equal(noted(guard), 1);
    guard.release();
    guard.release();
  }
});

Deno.test("a range that faults on and on is replaced as a whole: there are only so many mappings", () => {
  const fd = libc.memfd_create(cString("guarded"), 1);
  const pages = 200_000;
  assert.equal(libc.ftruncate(fd, BigInt(pages * PAGE)), 0);
  const mapping = map(pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  const guard = guardMapping([{ addr: mapping.addr, size: mapping.size, page: pageSize() }])!;
  assert.equal(libc.ftruncate(fd, 0n), 0);
  const bytes = new Uint8Array(mapping.buffer);
  // Every other page, so that no two pieces become one.
  for (let at = 0; at < bytes.length; at += 2 * pageSize()) assert.equal(bytes[at], 0);
  assert.ok(noted(guard) > 1 && noted(guard) < 100, `${noted(guard)} faults`);
  guard.release();
  unmap(mapping);
  libc.close(fd);
});

Deno.test("guardMapping() has room for some thousand ranges, and says where there is none", () => {
  const guards: Guard[] = [];
  using last = shared();
  for (let i = 0; i < 5000; i++) {
    const guard = guardMapping([{ addr: UNIT * i, size: UNIT, page: UNIT }]);
    if (guard) guards.push(guard);
  }
  assert.ok(guards.length >= 4000 && guards.length < 5000);
  guards.pop()!.release();
  const guard = guardMapping([last.range])!;
  assert.equal(guardMapping([last.range]), null);
  assert.equal(libc.ftruncate(last.fd, 0n), 0);
  assert.equal(last.bytes[1], 0);
  assert.equal(noted(guard), 1);
  for (const one of [...guards, guard]) one.release();
});

Deno.test("a kernel that touches guarded memory itself says EFAULT, and nothing is noted", () => {
  using one = shared();
  const guard = guardMapping([one.range])!;
  assert.equal(libc.ftruncate(one.fd, 0n), 0);
  const zero = Deno.openSync("/dev/zero");
  const fd = Number(
    [...Deno.readDirSync("/proc/self/fd")].map(({ name }) => name).find((name) => {
      try {
        return Deno.readLinkSync(`/proc/self/fd/${name}`) === "/dev/zero";
      } catch {
        return false;
      }
    }),
  );
  assert.equal(libc.preadAt(fd, BigInt(one.range.addr), 100, 0n), -1);
  assert.equal(noted(guard), 0);
  zero.close();
  guard.release();
});

Deno.test("a fault outside of what is guarded, and one behind the guard's end, ends the process by SIGBUS", async (t) => {
  for (const [name, guarded, released] of [["another mapping", false, false], ["released", true, true]] as const) {
    await t.step(name, async () => {
      const script = `
        import { guardMapping, installGuard, pageSize } from ${
        JSON.stringify(new URL("../../ffi/guard.ts", import.meta.url).href)
      };
        import { cString, libc } from ${JSON.stringify(new URL("../../ffi/libc.ts", import.meta.url).href)};
        import { map } from ${JSON.stringify(new URL("../../ffi/memory.ts", import.meta.url).href)};
        installGuard();
        const fd = libc.memfd_create(cString("x"), 1);
        libc.ftruncate(fd, 65536n);
        const { addr, buffer } = map(65536, 3, 1, fd);
        const guard = ${guarded} ? guardMapping([{ addr, size: 65536, page: pageSize() }]) : null;
        if (${released}) guard.release();
        libc.ftruncate(fd, 0n);
        new Uint8Array(buffer)[5] = 1;
        console.log("alive");`;
      const { signal, stdout } = await new Deno.Command("bash", {
        args: ["-c", `ulimit -c 0; exec "$0" eval "$1"`, Deno.execPath(), script],
        stderr: "null",
      }).output();
      assert.deepEqual([signal, new TextDecoder().decode(stdout)], ["SIGBUS", ""]);
    });
  }
});

/** The instructions as guard.ts has them beside the bytes, for an assembler. */
function listing(arch: "X86_64" | "ARM64"): string {
  const source = Deno.readTextFileSync(new URL("../../ffi/guard.ts", import.meta.url));
  const table = source.slice(source.indexOf(`const ${arch} = [`)).split("];")[0];
  const lines = [...table.matchAll(/^ *"[0-9a-f_]+", *\/\/ +[0-9a-f]+ (.*)$/gm)].map(([, text]) =>
    text.split(/ {3,}/)[0]
  );
  const fixed = lines.map((line) =>
    line.replace("mov r9, table", "movabs r9, 0x112233445566").replace("dword [", "dword ptr [")
  );
  return fixed.join("\n").replace(/\ntable$/, "\ntable: .quad 0x112233445566") + "\n";
}

for (
  const [arch, name, command] of [
    ["x86_64", "X86_64", ["as", "--64", "-msyntax=intel", "-mnaked-reg", "-o"]],
    ["aarch64", "ARM64", ["llvm-mc", "--triple=aarch64-linux-gnu", "-filetype=obj", "-o"]],
  ] as const
) {
  const [program, ...args] = command;
  const cannot = has(program) && (arch !== "x86_64" || Deno.build.arch === "x86_64")
    ? ""
    : `needs ${program} for ${arch}`;
  Deno.test({
    name: `handlerCode() is what an assembler makes of the instructions beside it: ${arch}${
      cannot && ` (skipped: ${cannot})`
    }`,
    ignore: cannot !== "",
    fn: () => {
      const dir = Deno.makeTempDirSync();
      try {
        Deno.writeTextFileSync(`${dir}/code.s`, listing(name));
        const { success, stderr } = new Deno.Command(program, { args: [...args, `${dir}/code.o`, `${dir}/code.s`] })
          .outputSync();
        assert.ok(success, new TextDecoder().decode(stderr));
        const object = Deno.readFileSync(`${dir}/code.o`);
        const code = handlerCode(arch, 0x112233445566 as HostAddr);
        const hex = (bytes: Uint8Array) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
        assert.ok(hex(object).includes(hex(code)), "the bytes are another program's");
      } finally {
        Deno.removeSync(dir, { recursive: true });
      }
    },
  });
}

function has(program: string): boolean {
  try {
    return new Deno.Command(program, { args: ["--version"], stdout: "null", stderr: "null" }).outputSync().success;
  } catch {
    return false;
  }
}
