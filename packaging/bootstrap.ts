/** Where the bootstrap finds the bundle, and what it has to tidy up. */
export interface Payload {
  /** The file that holds the bundle; null: the one that the environment variable RINGFSD_SELF names. */
  file: string | null;
  /** Byte range of the bundle in that file. */
  offset: number;
  length: number;
  /** Environment variables that were set for Deno alone. */
  env: string[];
}

/** `data:` URL of the packed program's main module: the bootstrap and its payload. */
export function bootstrapUrl(payload: Payload): string {
  // encodeURIComponent leaves ' alone, which a shell would mind; it escapes #, which parts URL and fragment.
  const code = encodeURIComponent(`await (${bootstrap})(${JSON.stringify(payload)})`);
  return `data:text/javascript,${code.replaceAll("'", "%27")}`;
}

/**
 * The first code of the packed program, in the main isolate and in each Worker. Runs from its own text (see above), so
 * it may use nothing from outside of it.
 *
 * It evaluates the bundle rather than importing it: an import has Deno parse the source once more for its dependencies,
 * 10 ms for 100 KB. For the same reason it uses no `node:` module: the smallest costs 10 ms.
 *
 * The main isolate is told by the missing fragment: a Worker's URL is the same with a fragment of where the bundle is.
 */
async function bootstrap(payload: Payload): Promise<void> {
  const [base, fragment] = import.meta.url.split("#");
  const global = globalThis as unknown as Record<string, unknown>;

  function readBundle(file: string): Uint8Array<ArrayBuffer> {
    using handle = Deno.openSync(file);
    handle.seekSync(payload.offset, Deno.SeekMode.Start);
    const bytes = new Uint8Array(payload.length);
    let filled = 0;
    while (filled < bytes.length) {
      const n = handle.readSync(bytes.subarray(filled));
      if (n === null) throw new Error(`${file} is shorter than it was when it was packed`);
      filled += n;
    }
    return bytes;
  }

  /** A Worker may start in a sandbox that has no /proc, or after an upgrade replaced the file: hence the second copy. */
  async function readBundleAgain(file: string, blobUrl: string): Promise<Uint8Array<ArrayBuffer>> {
    try {
      return readBundle(file);
    } catch {
      return new Uint8Array(await (await fetch(blobUrl)).arrayBuffer());
    }
  }

  /** Gives each variable the value that this process was started with, or removes it. */
  function restoreEnvironment(): void {
    const original = new Map<string, string>();
    if (payload.file === null) {
      // The shell that ran before us has put the user's values aside under these names.
      for (const name of payload.env) {
        const saved = Deno.env.get(`RINGFSD_SAVED_${name}`);
        if (saved !== undefined) original.set(name, saved);
        Deno.env.delete(`RINGFSD_SAVED_${name}`);
      }
      Deno.env.delete("RINGFSD_SELF");
    } else {
      // The kernel shows the strings of execve(2), whatever was added since.
      for (const entry of Deno.readTextFileSync("/proc/self/environ").split("\0")) {
        const equals = entry.indexOf("=");
        original.set(entry.slice(0, equals), entry.slice(equals + 1));
      }
    }
    for (const name of payload.env) {
      const value = original.get(name);
      if (value === undefined) Deno.env.delete(name);
      else Deno.env.set(name, value);
    }
  }

  let bundle: Uint8Array<ArrayBuffer>;
  if (fragment === undefined) {
    const file = payload.file ?? Deno.env.get("RINGFSD_SELF")!;
    bundle = readBundle(file);
    restoreEnvironment();
    const blobUrl = URL.createObjectURL(new Blob([bundle]));
    global.RINGFSD_MODULE_URL = `${base}#${encodeURIComponent(JSON.stringify({ file, blobUrl }))}`;
    if (payload.file === null) global.RINGFSD_EXEC_PATH = file;
  } else {
    const { file, blobUrl } = JSON.parse(decodeURIComponent(fragment));
    bundle = await readBundleAgain(file, blobUrl);
    global.RINGFSD_MODULE_URL = import.meta.url;
    if (payload.file === null) global.RINGFSD_EXEC_PATH = file;
  }
  // Indirect eval: global scope, none of the names above. The bundle is one async function call.
  await (0, eval)(new TextDecoder().decode(bundle));
}
