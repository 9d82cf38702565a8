/**
 * A request's arguments as text that a person can read and change, since it lands in the corpus: pieces one after the other,
 * `u32:5 u64:0x10 node:2 fh:1 name:a%2fb hex:00ff zeros:40`. A node or a handle is one that the guest has learnt, by its number in
 * the order of learning, modulo how many there are: so steps in front can be left out.
 */
import { bytes, u32, u64 } from "../../bench/fuse_encode.ts";

/** What the guest has learnt so far, each with the root or 0 as the first. */
export interface Known {
  readonly nodes: readonly bigint[];
  readonly fhs: readonly bigint[];
}

const number = (text: string) => BigInt.asUintN(64, BigInt(text));

/** A 64-bit number: as it is, or that of a known node or handle. */
export function value(text: string, known: Known): bigint {
  const [kind, index] = text.split(":");
  if (kind === "node") return known.nodes[Number(index) % known.nodes.length];
  if (kind === "fh") return known.fhs[Number(index) % known.fhs.length];
  return number(text);
}

const encoder = new TextEncoder();

/** A name as a piece: its bytes, a percent sign before those that would be misread. */
export function nameText(bytes: Uint8Array): string {
  return [...bytes].map((byte) => {
    const plain = byte > 0x20 && byte < 0x7f && byte !== 0x25;
    return plain ? String.fromCharCode(byte) : `%${byte.toString(16).padStart(2, "0")}`;
  }).join("");
}

function nameBytes(text: string): Uint8Array {
  const parts = text.split(/(%[0-9a-f]{2})/);
  return bytes(
    ...parts.map((part) =>
      /^%[0-9a-f]{2}$/.test(part) ? Uint8Array.of(parseInt(part.slice(1), 16)) : encoder.encode(part)
    ),
  );
}

export function hexText(data: Uint8Array): string {
  return [...data].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function hexBytes(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

function piece(text: string, known: Known): Uint8Array {
  const at = text.indexOf(":");
  const kind = text.slice(0, at);
  const rest = text.slice(at + 1);
  switch (kind) {
    case "u32":
      return u32(Number(BigInt.asUintN(32, BigInt(rest))));
    case "u64":
      return u64(number(rest));
    case "node":
    case "fh":
      return u64(value(text, known));
    case "name":
      return bytes(nameBytes(rest), Uint8Array.of(0));
    case "hex":
      return hexBytes(rest);
    case "zeros":
      return new Uint8Array(Number(rest));
    case "long":
      // So many letters, without an end.
      return new Uint8Array(Number(rest)).fill(0x6e);
    default:
      throw new Error(`${text} is no piece`);
  }
}

/** The bytes that pieces stand for. */
export function pieces(text: string, known: Known): Uint8Array<ArrayBuffer> {
  return bytes(...text.split(" ").filter((part) => part !== "").map((part) => piece(part, known)));
}
