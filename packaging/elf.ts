/** What the packer needs to know of an ELF file (elf(5), System V ABI). */
export interface Elf {
  /** Virtual address of the entry point. */
  entry: number;
  /** File offset of the PT_NOTE program header, which is given up for our segment. */
  noteHeader: number;
  /** First virtual address behind every loaded segment. */
  end: number;
  /** Virtual address of the GOT slot that ld.so fills with the address of libc's `environ`. */
  environSlot: number;
}

export const PT_LOAD = 1, PT_DYNAMIC = 2, PT_INTERP = 3, PT_NOTE = 4;
export const PF_X = 1, PF_R = 4;
/** Byte offset of e_entry in the file header. */
export const e_entry = 24;
/** struct Elf64_Phdr, elf.h. Byte offsets. */
export const Elf64_Phdr = {
  type: 0,
  flags: 4,
  offset: 8,
  vaddr: 16,
  paddr: 24,
  filesz: 32,
  memsz: 40,
  align: 48,
} as const;

const ELFCLASS64 = 2, ELFDATA2LSB = 1, ET_DYN = 3, EM_X86_64 = 62;
const DT_NULL = 0, DT_STRTAB = 5, DT_SYMTAB = 6, DT_RELA = 7, DT_RELASZ = 8;
const R_X86_64_GLOB_DAT = 6;
const interpreter = "/lib64/ld-linux-x86-64.so.2";

interface Segment {
  header: number;
  type: number;
  offset: number;
  vaddr: number;
  filesz: number;
  memsz: number;
}

/** Reads `bytes`, a whole ELF file. Throws one line that says why the file cannot be given a further segment. */
export function readElf(bytes: Uint8Array<ArrayBuffer>): Elf {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 64 || view.getUint32(0) !== 0x7f454c46) throw new Error("it is no ELF file");
  if (bytes[4] !== ELFCLASS64 || bytes[5] !== ELFDATA2LSB || view.getUint16(18, true) !== EM_X86_64) {
    throw new Error("it is not for x86-64");
  }
  if (view.getUint16(16, true) !== ET_DYN) throw new Error("it is not position-independent");
  const segments = readSegments(view);

  const interp = segments.find((s) => s.type === PT_INTERP);
  if (!interp || cString(bytes, interp.offset) !== interpreter) {
    throw new Error(`its loader is not glibc's ${interpreter}`);
  }
  const notes = segments.filter((s) => s.type === PT_NOTE);
  const loads = segments.filter((s) => s.type === PT_LOAD);
  if (notes.length === 0) throw new Error("it has no PT_NOTE to give up: packed already, or stripped of it");
  // The kernel wants PT_LOADs in ascending order of address, and ours has the highest.
  const note = notes[notes.length - 1];
  if (loads.some((s) => s.header > note.header)) throw new Error("its PT_NOTE stands before a PT_LOAD");

  return {
    entry: getNumber(view, e_entry),
    noteHeader: note.header,
    end: Math.max(...loads.map((s) => s.vaddr + s.memsz)),
    environSlot: findGlobDat(bytes, view, segments, "environ"),
  };
}

function readSegments(view: DataView): Segment[] {
  const table = getNumber(view, 32), size = view.getUint16(54, true), count = view.getUint16(56, true);
  if (size !== 56 || table + size * count > view.byteLength) throw new Error("its program headers are damaged");
  return Array.from({ length: count }, (_, i) => {
    const header = table + i * size;
    const field = (name: keyof typeof Elf64_Phdr) => getNumber(view, header + Elf64_Phdr[name]);
    return {
      header,
      type: view.getUint32(header, true),
      offset: field("offset"),
      vaddr: field("vaddr"),
      filesz: field("filesz"),
      memsz: field("memsz"),
    };
  });
}

/** Address of the slot that an R_X86_64_GLOB_DAT relocation fills with the address of `symbol`. */
function findGlobDat(bytes: Uint8Array, view: DataView, segments: Segment[], symbol: string): number {
  const dynamic = segments.find((s) => s.type === PT_DYNAMIC);
  if (!dynamic) throw new Error("it is linked statically");
  const tags = new Map<number, number>();
  for (let at = dynamic.offset; getNumber(view, at) !== DT_NULL; at += 16) {
    tags.set(getNumber(view, at), getNumber(view, at + 8));
  }
  const fileOffset = (tag: number) => {
    const vaddr = tags.get(tag) ?? -1;
    const home = segments.find((s) => s.type === PT_LOAD && vaddr >= s.vaddr && vaddr < s.vaddr + s.filesz);
    if (!home) throw new Error(`its dynamic section lacks tag ${tag}`);
    return home.offset + vaddr - home.vaddr;
  };
  const rela = fileOffset(DT_RELA), symtab = fileOffset(DT_SYMTAB), strtab = fileOffset(DT_STRTAB);
  for (let at = rela; at < rela + (tags.get(DT_RELASZ) ?? 0); at += 24) {
    if (view.getUint32(at + 8, true) !== R_X86_64_GLOB_DAT) continue;
    const name = view.getUint32(symtab + view.getUint32(at + 12, true) * 24, true);
    if (cString(bytes, strtab + name) === symbol) return getNumber(view, at);
  }
  throw new Error(`it does not take \`${symbol}\` from libc`);
}

/** A u64 that is a size or an offset; beyond 2^53 the file is damaged. */
function getNumber(view: DataView, at: number): number {
  if (at < 0 || at + 8 > view.byteLength) throw new Error("it is truncated");
  const value = Number(view.getBigUint64(at, true));
  if (!Number.isSafeInteger(value)) throw new Error("its headers are damaged");
  return value;
}

function cString(bytes: Uint8Array, at: number): string {
  return new TextDecoder("latin1").decode(bytes.subarray(at, bytes.indexOf(0, at)));
}
