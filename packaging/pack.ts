import { bootstrapUrl } from "./bootstrap.ts";
import { e_entry, type Elf, Elf64_Phdr, PF_R, PF_X, PT_LOAD, readElf } from "./elf.ts";
import { denoArgs, denoEnv } from "./options.ts";
import { stubCode, stubTable } from "./stub.ts";

const pageSize = 4096;

/**
 * Makes one executable out of a stock Deno and a bundle, by one more loadable segment in Deno's ELF file.
 * Nothing is extracted when it runs, and processes share its pages like those of any executable. x86-64, glibc.
 *
 * @param deno path of Deno's ELF file
 * @param bundle text of the program, format "script"
 * @param out path of the executable; an existing one is replaced at once, also while it runs
 */
export async function packElf(deno: string, bundle: string, out: string): Promise<void> {
  let elf: Elf;
  const bytes = await Deno.readFile(deno);
  try {
    elf = readElf(bytes);
  } catch (error) {
    throw new Error(
      `cannot pack ${deno}: ${(error as Error).message}; give the deno of the npm package, or RINGFSD_COMPILE=sh`,
    );
  }
  // Page-aligned in the file and in memory alike, as mmap wants it.
  const offset = roundUp(bytes.length, pageSize), vaddr = roundUp(elf.end, pageSize);
  const segment = buildSegment(new TextEncoder().encode(bundle), offset, elf.entry - vaddr, elf.environSlot - vaddr);

  const draft = `${out}.${Deno.pid}.tmp`;
  try {
    {
      using file = await Deno.open(draft, { write: true, createNew: true, mode: 0o755 });
      redirect(bytes, elf, offset, vaddr, segment.length);
      await writeAt(file, 0, bytes);
      await writeAt(file, offset, segment);
    }
    await Deno.rename(draft, out);
  } catch (error) {
    await Deno.remove(draft).catch(() => {});
    throw error;
  }
}

/** Points the entry at our segment, and turns PT_NOTE into the PT_LOAD that maps it. */
function redirect(bytes: Uint8Array<ArrayBuffer>, elf: Elf, offset: number, vaddr: number, size: number): void {
  const view = new DataView(bytes.buffer);
  view.setBigUint64(e_entry, BigInt(vaddr), true);
  view.setUint32(elf.noteHeader + Elf64_Phdr.type, PT_LOAD, true);
  view.setUint32(elf.noteHeader + Elf64_Phdr.flags, PF_R | PF_X, true);
  const fields = { offset, vaddr, paddr: vaddr, filesz: size, memsz: size, align: pageSize };
  for (const [name, value] of Object.entries(fields)) {
    view.setBigUint64(elf.noteHeader + Elf64_Phdr[name as keyof typeof fields], BigInt(value), true);
  }
}

/**
 * The segment: stub, its table, the strings, and from the next page on the bundle.
 *
 * @param offset where in the file the segment begins
 * @param entry, environSlot see stubTable; relative to the segment's address
 */
function buildSegment(bundle: Uint8Array, offset: number, entry: number, environSlot: number): Uint8Array<ArrayBuffer> {
  const code = stubCode();
  const env = Object.entries(denoEnv).map(([name, value]) => `${name}=${value}`);
  const layout = (bundleStart: number) => {
    const file = "/proc/self/exe";
    const url = bootstrapUrl({
      file,
      offset: offset + bundleStart,
      length: bundle.length,
      env: Object.keys(denoEnv),
    });
    const args = [...denoArgs, url];
    const strings = [...args, ...env].map((text) => new TextEncoder().encode(text + "\0"));
    const stringStart = code.length + stubTable.strings + strings.length * 4;
    return { args, strings, stringStart, end: strings.reduce((end, s) => end + s.length, stringStart) };
  };
  // The bootstrap's text holds the bundle's position, which depends on the text's length: assume a long number first.
  const bundleStart = roundUp(layout(Number.MAX_SAFE_INTEGER - offset).end, pageSize);
  const { args, strings, stringStart } = layout(bundleStart);

  const segment = new Uint8Array(bundleStart + bundle.length);
  const table = new DataView(segment.buffer, code.length);
  segment.set(code);
  table.setBigInt64(stubTable.entry, BigInt(entry), true);
  table.setBigInt64(stubTable.environSlot, BigInt(environSlot), true);
  table.setUint32(stubTable.argCount, args.length, true);
  table.setUint32(stubTable.envCount, env.length, true);
  let at = stringStart;
  strings.forEach((text, i) => {
    table.setUint32(stubTable.strings + i * 4, at, true);
    segment.set(text, at);
    at += text.length;
  });
  segment.set(bundle, bundleStart);
  return segment;
}

function roundUp(n: number, unit: number): number {
  return Math.ceil(n / unit) * unit;
}

async function writeAt(file: Deno.FsFile, offset: number, bytes: Uint8Array): Promise<void> {
  await file.seek(offset, Deno.SeekMode.Start);
  for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
}
