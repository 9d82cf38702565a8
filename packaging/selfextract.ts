import { bootstrapUrl } from "./bootstrap.ts";
import { denoArgs, denoEnv } from "./options.ts";

/**
 * Makes one executable for any architecture: a shell script with the bundle and the Deno runtime behind it, which puts
 * the runtime into a cache directory when it first runs (selfextract.sh). The bundle is read from the file itself.
 *
 * @param deno path of Deno's executable
 * @param bundle text of the program, format "script"
 * @param out path of the executable; an existing one is replaced at once
 */
export async function packSelfExtractor(deno: string, bundle: string, out: string): Promise<void> {
  const runtime = await Deno.readFile(deno);
  const bundleBytes = new TextEncoder().encode(bundle);
  const template = await Deno.readTextFile(new URL("./selfextract.sh", import.meta.url));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", runtime));

  const script = (scriptLength: number) => {
    const url = bootstrapUrl({
      file: null,
      offset: scriptLength,
      length: bundleBytes.length,
      env: Object.keys(denoEnv),
    });
    const values: Record<string, string> = {
      RUNTIME_OFFSET: String(scriptLength + bundleBytes.length),
      RUNTIME_SIZE: String(runtime.length),
      RUNTIME_SHA256: digest.toHex(),
      ENV_NAMES: Object.keys(denoEnv).join(" "),
      ENV_VALUES: Object.entries(denoEnv).map(([name, value]) => `${name}=${quote(value)}`).join(" "),
      DENO_ARGS: [...denoArgs, url].map(quote).join(" "),
    };
    return new TextEncoder().encode(template.replaceAll(/@([A-Z0-9_]+)@/g, (_, name) => values[name]));
  };
  // The script holds its own length, so that one is assumed first, with as many digits, and filled up with newlines.
  const length = script(1e6).length;
  const header = new Uint8Array(length).fill("\n".charCodeAt(0));
  header.set(script(length));

  const draft = `${out}.${Deno.pid}.tmp`;
  try {
    {
      using file = await Deno.open(draft, { write: true, createNew: true, mode: 0o755 });
      for (const part of [header, bundleBytes, runtime]) await writeAll(file, part);
    }
    await Deno.rename(draft, out);
  } catch (error) {
    await Deno.remove(draft).catch(() => {});
    throw error;
  }
}

function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

async function writeAll(file: Deno.FsFile, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
}
