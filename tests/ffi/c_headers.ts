/**
 * Compares numbers of this program with the C headers of the machine: a C program that prints them is generated, compiled
 * and run. What a header is too old to know is found out by the compiler's errors and returned, not compared.
 */
import assert from "node:assert/strict";

/** A number and the C expression that must equal it. */
export interface Check {
  readonly name: string;
  readonly expression: string;
  readonly value: number;
}

const COMPILER = "cc";

/** Why C cannot be used here, or null. */
export function missingForC(includes: readonly string[]): string | null {
  try {
    const missing = includes.filter((header) => !compiles(`#include <${header}>\nint main(void) { return 0; }\n`));
    return missing.length > 0 ? `no C header ${missing.join(", ")} on this machine` : null;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "no C compiler (cc) on this machine";
    throw error;
  }
}

/** The checks of a module's exports: tables are structs, numbers are constants; `cName` gives a struct's C type. */
export function checksOf(
  module: Record<string, unknown>,
  options: { cName?: Record<string, string>; skip?: readonly string[] } = {},
): Check[] {
  const checks: Check[] = [];
  for (const [name, value] of Object.entries(module)) {
    if (options.skip?.includes(name)) continue;
    if (typeof value === "number") checks.push({ name, expression: name, value });
    if (typeof value !== "object" || value === null) continue;
    const type = options.cName?.[name] ?? `struct ${name}`;
    for (const [member, offset] of Object.entries(value as Record<string, number>)) {
      const expression = member === "sizeof" ? `sizeof(${type})` : `offsetof(${type}, ${member})`;
      checks.push({ name: `${name}.${member}`, expression, value: offset });
    }
  }
  return checks;
}

/** Asserts each number, modulo 2^32, and returns the names that the headers do not know. */
export function compareWithC(includes: readonly string[], checks: readonly Check[]): string[] {
  assert.ok(checks.length > 0);
  const { printed, unknown } = compileAndRun(includes, checks);
  const wrong: string[] = [];
  for (const check of checks) {
    const c = printed.get(check.name);
    if (c === undefined) assert.ok(unknown.includes(check.name), `${check.name} was not printed`);
    else if (check.value >>> 0 !== c) wrong.push(`${check.name}: ${check.value}, in C ${c}`);
  }
  assert.deepEqual(wrong, []);
  return unknown;
}

/** The value of a C expression, modulo 2^32; undefined where the headers do not know it. */
export function valueInC(includes: readonly string[], expression: string): number | undefined {
  return compileAndRun(includes, [{ name: "it", expression, value: 0 }]).printed.get("it");
}

/** One line for the log: structs once, not member by member. */
export function summary(names: readonly string[]): string {
  return [...new Set(names.map((name) => name.replace(/\..*/, "")))].join(" ");
}

function compileAndRun(includes: readonly string[], checks: readonly Check[]) {
  const dir = Deno.makeTempDirSync();
  try {
    const unknown: string[] = [];
    let left = [...checks];
    // Each check is a function on a line of its own, so that the compiler complains about each that it cannot do.
    for (;;) {
      Deno.writeTextFileSync(`${dir}/checks.c`, program(includes, left));
      const { success, stderr } = run(COMPILER, ["-w", "-o", `${dir}/checks`, `${dir}/checks.c`]);
      if (success) break;
      const bad = new Set([...stderr.matchAll(/checks\.c:(\d+):(?:\d+:)? error:/g)].map((match) => Number(match[1])));
      assert.ok(bad.size > 0, stderr);
      const first = headLines(includes);
      const refused = left.filter((_, i) => bad.has(first + i));
      assert.ok(refused.length > 0, stderr);
      unknown.push(...refused.map((check) => check.name));
      left = left.filter((check) => !refused.includes(check));
    }
    const { success, stdout, stderr } = run(`${dir}/checks`, []);
    assert.ok(success, stderr);
    const lines = stdout.trim().split("\n").map((line) => line.split(" "));
    return { printed: new Map(lines.map(([name, value]) => [name, Number(value)])), unknown };
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
}

function program(includes: readonly string[], checks: readonly Check[]): string {
  return [
    "#define _GNU_SOURCE",
    "#include <stddef.h>",
    "#include <stdio.h>",
    ...includes.map((header) => `#include <${header}>`),
    ...checks.map((check, i) => `static void check${i}(void) { ${print(check)} }`),
    `int main(void) { ${checks.map((_, i) => `check${i}();`).join(" ")} return 0; }`,
    "",
  ].join("\n");
}

/** The number of the first check's line. */
function headLines(includes: readonly string[]): number {
  return 3 + includes.length + 1;
}

function print(check: Check): string {
  return `printf("${check.name} %u\\n", (unsigned)(unsigned long long)(${check.expression}));`;
}

function compiles(source: string): boolean {
  const dir = Deno.makeTempDirSync();
  try {
    Deno.writeTextFileSync(`${dir}/probe.c`, "#define _GNU_SOURCE\n" + source);
    return run(COMPILER, ["-fsyntax-only", `${dir}/probe.c`]).success;
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
}

function run(command: string, args: string[]): { success: boolean; stdout: string; stderr: string } {
  const { success, stdout, stderr } = new Deno.Command(command, { args, env: { LC_ALL: "C" } }).outputSync();
  const decoder = new TextDecoder();
  return { success, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}
