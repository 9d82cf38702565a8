/** Little-endian pieces of FUSE requests, put together in the order of the kernel's structs. */

const encoder = new TextEncoder();

/** All parts one after the other. */
export function bytes(...parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** 32-bit words; negative ones in two's complement. */
export function u32(...values: number[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

/** 64-bit words; negative ones in two's complement. */
export function u64(...values: (number | bigint)[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(BigUint64Array.from(values, BigInt).buffer);
}

/** Names, each with its NUL. */
export function names(...list: string[]): Uint8Array<ArrayBuffer> {
  return encoder.encode(list.map((name) => name + "\0").join(""));
}
