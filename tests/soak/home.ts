/** What a process of the soak test's guest has in the share: the model, which outlives sessions, of files down to every byte. */
import assert from "node:assert/strict";
import { BLOCK } from "./line.ts";

const WORDS = BLOCK / 4;

/** A regular file, whose blocks each have a number that says what is in it. */
export interface File {
  /** 0 is a hole. */
  blocks: number[];
  xattrs: Map<string, string>;
}

/** A file, or where a symlink leads. */
export type Thing = File | string;
export type Folder = Map<string, Thing>;

export class Home {
  /** What is in the folder itself, and in "sub" where that is there. */
  readonly top: Folder = new Map();
  sub: Folder | null = null;
  /** Whether the share's file system takes extended attributes. */
  xattrs = true;
  #numbers = 0;

  constructor(readonly name: string, readonly id: number) {}

  /** A number for a block that is new, unlike any other of the share. */
  stamp(): number {
    return this.id << 24 | ++this.#numbers & 0xff_ffff;
  }

  newName(): string {
    return `f${++this.#numbers}`;
  }

  /** Compares the host's files with the model. Throws at the first difference. Returns the bytes compared. */
  check(share: string): number {
    const path = `${share}/${this.name}`;
    let sum = checkFolder(path, this.top, this.sub === null ? [] : ["sub"]);
    if (this.sub !== null) sum += checkFolder(`${path}/sub`, this.sub, []);
    return sum;
  }
}

function checkFolder(path: string, folder: Folder, more: string[]): number {
  const names = [...Deno.readDirSync(path)].map(({ name }) => name).sort();
  assert.deepEqual(names, [...folder.keys(), ...more].sort(), `names in ${path}`);
  let sum = 0;
  for (const [name, thing] of folder) {
    if (typeof thing === "string") {
      assert.equal(Deno.readLinkSync(`${path}/${name}`), thing);
      continue;
    }
    const data = Deno.readFileSync(`${path}/${name}`);
    assert.equal(data.length, thing.blocks.length * BLOCK, `the size of ${path}/${name}`);
    checkBlocks(data, thing.blocks, `${path}/${name}`);
    sum += data.length;
  }
  return sum;
}

function word(block: number, i: number): number {
  return block === 0 ? 0 : (Math.imul(block, 0x9e3779b1) ^ Math.imul(i, 0x85ebca6b)) >>> 0;
}

/** The content of blocks with these numbers. */
export function content(blocks: readonly number[]): Uint32Array<ArrayBuffer> {
  const words = new Uint32Array(blocks.length * WORDS);
  blocks.forEach((block, b) => {
    for (let i = 0; i < WORDS; i++) words[b * WORDS + i] = word(block, i);
  });
  return words;
}

export function checkBlocks(data: Uint8Array<ArrayBuffer>, blocks: readonly number[], what: string): void {
  assert.equal(data.length, blocks.length * BLOCK, `bytes of ${what}`);
  const words = new Uint32Array(data.buffer, data.byteOffset, data.length / 4);
  blocks.forEach((block, b) => {
    for (let i = 0; i < WORDS; i++) {
      if (words[b * WORDS + i] !== word(block, i)) {
        assert.fail(`${what}: block ${b} should be number ${block}, and is not at word ${i}`);
      }
    }
  });
}
