/** One system call, made in this process through libc's syscall(2), which reports errors in errno. */

if (Deno.build.arch !== "x86_64") throw new Error("the suite knows the system calls of x86-64 only");

/** A number, or memory that the kernel reads or writes; null is address 0. */
export type Arg = number | bigint | Uint8Array<ArrayBuffer> | null;
export type Call = (number: number, ...args: Arg[]) => number;

const libc = Deno.dlopen("libc.so.6", {
  // long syscall(long number, ...): integers of a variadic call go the same way as those of any other.
  syscall: { parameters: ["i64", "i64", "i64", "i64", "i64", "i64", "i64"], result: "i64" },
  // int *__errno_location(void)
  __errno_location: { parameters: [], result: "pointer" },
});
const errno = new Deno.UnsafePointerView(libc.symbols.__errno_location()!);

function word(arg: Arg | undefined): bigint {
  if (arg === undefined || arg === null) return 0n;
  if (typeof arg === "bigint") return arg;
  if (typeof arg === "number") return BigInt(arg);
  return BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(arg)));
}

/** Memory that stays where it is: an ArrayBuffer of its own. */
export function memory(sizeBytes: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(new ArrayBuffer(sizeBytes));
}

/** Makes the call; returns its result, or -errno. The callers hold the buffers meanwhile. */
export const call: Call = (number, ...args) => {
  const [a, b, c, d, e, f] = [0, 1, 2, 3, 4, 5].map((i) => word(args[i]));
  const result = Number(libc.symbols.syscall(BigInt(number), a, b, c, d, e, f));
  return result === -1 ? -errno.getInt32() : result;
};

/** The address of memory, for structs that hold one. */
export function address(bytes: Uint8Array<ArrayBuffer>): bigint {
  return word(bytes);
}

/** Mapped memory as an array. It may be used until it is unmapped. */
export function mapped(start: number, sizeBytes: number): Uint8Array<ArrayBuffer> {
  const pointer = Deno.UnsafePointer.create(BigInt(start));
  return new Uint8Array(Deno.UnsafePointerView.getArrayBuffer(pointer!, sizeBytes));
}
