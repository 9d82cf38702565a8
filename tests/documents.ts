/**
 * Commands in the documentation. Each block of language `sh` is run by tests/e2e/documents.test.ts, or it says that it is not, or by
 * which test: at the end of a command ("# not run: why", "# run by tests/…"), or in the block's first line for all of it.
 */

/** A command, its continuation lines joined. */
export interface Command {
  /** Where it stands: FILE:LINE. */
  where: string;
  text: string;
  /** What is said of its being run: "" where this is to be done, else "not run …" or "run by FILE". */
  mark: string;
}

/** A block of code. */
export interface Block {
  where: string;
  language: string;
  commands: Command[];
}

export const root = new URL("../", import.meta.url);

/** The documents that users read. */
export function documents(): string[] {
  const inDocs = [...Deno.readDirSync(new URL("docs", root))].map(({ name }) => `docs/${name}`);
  return ["README.md", "SECURITY.md", "packaging/README.md", ...inDocs.sort()].filter((file) => {
    return file.endsWith(".md") && exists(file);
  });
}

/** Whether there is such a file in the project. */
export function exists(file: string): boolean {
  try {
    return Deno.statSync(new URL(file, root)).isFile;
  } catch {
    return false;
  }
}

const MARK = /#\s*(?:in the guest: )?((?:not run|run by)\b.*)$/;

/** All blocks of a document. */
export function blocksOf(file: string): Block[] {
  const lines = Deno.readTextFileSync(new URL(file, root)).split("\n");
  const blocks: Block[] = [];
  for (let i = 0; i < lines.length; i++) {
    const fence = /^(\s*)```(.*)$/.exec(lines[i]);
    if (fence === null) continue;
    const start = i++;
    const inside: string[] = [];
    while (i < lines.length && lines[i].trimEnd() !== `${fence[1]}\`\`\``) {
      inside.push(lines[i++].slice(fence[1].length));
    }
    blocks.push({
      where: `${file}:${start + 1}`,
      language: fence[2].trim(),
      commands: commandsOf(file, inside, start + 2),
    });
  }
  return blocks;
}

function commandsOf(file: string, lines: readonly string[], first: number): Command[] {
  const commands: Command[] = [];
  const whole = MARK.exec(lines[0]?.startsWith("#") ? lines[0] : "")?.[1] ?? "";
  for (let i = 0; i < lines.length; i++) {
    const line = first + i;
    let text = lines[i];
    while (text.endsWith("\\") && i + 1 < lines.length) text = `${text.slice(0, -1)}${lines[++i].trimStart()}`;
    if (/^\s*(#.*)?$/.test(text)) continue;
    commands.push({ where: `${file}:${line}`, text, mark: MARK.exec(text)?.[1] ?? whole });
  }
  return commands;
}
