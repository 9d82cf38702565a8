/**
 * Makes dist/ringfsd; compile.sh runs it. Usage: build.ts [ENTRY [OUT]], by default main.ts and dist/ringfsd.
 *
 * RINGFSD_COMPILE forces one of the ways: deno (deno compile), elf (a segment in Deno's ELF), sh (a self-extractor).
 */
import { dirname, resolve } from "node:path";
import { bundle } from "./bundle.ts";
import { denoCompile } from "./denocompile.ts";
import { packElf } from "./pack.ts";
import { packSelfExtractor } from "./selfextract.ts";

type Way = "deno" | "elf" | "sh";
const wayNames: Record<Way, string> = {
  deno: "deno compile",
  elf: "segment in Deno's ELF file",
  sh: "shell self-extractor",
};
const root = new URL("..", import.meta.url).pathname;

/** Version of package.json, and the commit where there is one: 0.1.0, 0.1.0+12.g1a2b3c4, …-dirty. */
async function readVersion(): Promise<string> {
  const { version } = JSON.parse(await Deno.readTextFile(`${root}package.json`));
  // safe.directory: git refuses trees of another user, and there is nothing here that it would execute.
  const args = ["-c", "safe.directory=*", "describe", "--tags", "--long", "--always", "--dirty", "--match=v[0-9]*"];
  const git = await new Deno.Command("git", { args, cwd: root, stderr: "null" }).output().catch(() => undefined);
  if (!git?.success) return version;
  const described = new TextDecoder().decode(git.stdout).trim();
  const match = /^(?:v(?<tag>.*)-(?<count>\d+)-g)?(?<commit>[0-9a-f]+)(?<dirty>-dirty)?$/.exec(described)?.groups;
  if (!match || (match.tag === version && match.count === "0" && !match.dirty)) return version;
  return `${version}+${match.tag === version ? `${match.count}.` : ""}g${match.commit}${match.dirty ?? ""}`;
}

function forcedWay(): Way | undefined {
  const way = Deno.env.get("RINGFSD_COMPILE");
  if (!way) return undefined;
  if (way in wayNames) return way as Way;
  throw new Error(`RINGFSD_COMPILE=${way}: unknown; set it to deno, elf or sh, or unset it`);
}

/** `deno compile` if its runtime can be had, else the best way that needs nothing but the Deno that runs this. */
async function build(entry: string, out: string, version: string): Promise<Way> {
  const forced = forcedWay();
  if (forced === undefined || forced === "deno") {
    console.log("deno compile: looking for its runtime, denort ...");
    const reason = await tryDenoCompile(entry, out, version);
    if (reason === undefined) return "deno";
    const remedy = "set DENORT_BIN to the denort of this Deno version, or unset RINGFSD_COMPILE";
    if (forced) throw new Error(`deno compile: ${reason}; ${remedy}`);
    console.log(`deno compile: not possible here (${reason})`);
  }
  const way = forced ?? (Deno.build.target === "x86_64-unknown-linux-gnu" ? "elf" : "sh");
  console.log(`packing: ${wayNames[way]} ...`);
  const text = await bundle(entry, "script", version);
  await (way === "elf" ? packElf : packSelfExtractor)(Deno.execPath(), text, out);
  const fault = await faultOf(out, version);
  if (fault) throw new Error(`${out}: ${fault}`);
  return way;
}

/** Returns undefined, or why there is no working executable; `out` is untouched then. */
async function tryDenoCompile(entry: string, out: string, version: string): Promise<string | undefined> {
  const draftDir = await Deno.makeTempDir({ dir: dirname(out), prefix: ".deno-compile-" });
  try {
    const moduleFile = `${draftDir}/main.js`, draft = `${draftDir}/ringfsd`;
    await Deno.writeTextFile(moduleFile, await bundle(entry, "module", version));
    const reason = await denoCompile(moduleFile, draft) ?? await faultOf(draft, version);
    if (reason === undefined) await Deno.rename(draft, out);
    return reason;
  } finally {
    await Deno.remove(draftDir, { recursive: true });
  }
}

/** Runs `out --version`. What a stock Deno as DENORT_BIN yields, for instance, starts but is just Deno. */
async function faultOf(out: string, version: string): Promise<string | undefined> {
  const { success, code, stdout, stderr } = await new Deno.Command(out, { args: ["--version"], stdin: "null" })
    .output();
  const text = new TextDecoder().decode(stdout).trim();
  if (success && text.includes(version)) return undefined;
  const complaint = new TextDecoder().decode(stderr).trim() || text;
  return `--version ends with status ${code} and does not print ${version}: ${complaint.split("\n")[0]}`;
}

/** Milliseconds until `out` listens on its socket. Throws when it ends before. */
async function smokeStart(out: string): Promise<number> {
  const dir = await Deno.makeTempDir({ prefix: "ringfsd-smoke-" });
  const args = ["--socket-path", `${dir}/socket`, "--shared-dir", dir, "--sandbox", "none"];
  const begin = performance.now();
  const child = new Deno.Command(out, { args, stdin: "null", stdout: "null", stderr: "piped" }).spawn();
  const stderr = child.stderr.text();
  let running = true;
  const ended = child.status.then((status) => (running = false, status));
  try {
    while (!(await Deno.lstat(`${dir}/socket`).catch(() => undefined))?.isSocket) {
      if (!running) {
        throw new Error(`ended with status ${(await ended).code}: ${(await stderr).trim().split("\n").pop()}`);
      }
      if (performance.now() - begin > 10_000) throw new Error("no socket after 10 s");
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    return performance.now() - begin;
  } catch (error) {
    throw new Error(`${[out, ...args].join(" ")}: ${(error as Error).message}`);
  } finally {
    if (running) child.kill("SIGKILL");
    await ended;
    await Deno.remove(dir, { recursive: true });
  }
}

async function main(): Promise<void> {
  const entry = resolve(Deno.args[0] ?? `${root}main.ts`), out = resolve(Deno.args[1] ?? `${root}dist/ringfsd`);
  await Deno.mkdir(dirname(out), { recursive: true });
  const version = await readVersion();
  const way = await build(entry, out, version);
  await Deno.chmod(out, 0o755);
  const starts: number[] = [];
  for (let i = 0; i < 3; i++) starts.push(await smokeStart(out));
  const megabytes = ((await Deno.stat(out)).size / 1e6).toFixed(1);
  const startMs = Math.min(...starts).toFixed(0);
  console.log(`${out}: ${version}, ${megabytes} MB, ${wayNames[way]}, listens ${startMs} ms after its start`);
}

try {
  await main();
} catch (error) {
  console.error(`compile.sh: ${(error as Error).message}`);
  Deno.exit(1);
}
