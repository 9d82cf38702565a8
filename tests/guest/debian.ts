/**
 * The host's own programs in a User-Mode Linux guest: hostfs shows the host's files there, and a chroot into them, with the share
 * on /mnt, runs compilers and databases on the share that no initramfs would hold. What is the host's is mounted read-only;
 * the guest's scratch space is $TMPDIR.
 */
import type { Bed } from "./bed.ts";
import type { Result } from "./guest.ts";

const PREPARE = [
  "mkdir -p /host",
  "mount -t hostfs -r -o / none /host",
  "mount --bind /mnt /host/mnt",
  "mount --bind /proc /host/proc",
  "mount --bind /sys /host/sys",
  "mount --bind /dev /host/dev",
  "mount -t tmpfs -o mode=755 run /host/run",
  "mkdir -p -m 1777 /host/run/tmp /host/run/home",
].join(" && ");

/** The host's PATH is good in the guest, as it sees the same files. */
const ENVIRONMENT = `"PATH=${
  Deno.env.get("PATH")
}" HOME=/run/home TMPDIR=/run/tmp LC_ALL=C NO_COLOR=1 DENO_DIR=/run/home/deno`;

/** What is needed of a bed: its guest, and its folder for the scripts. */
type Where = Pick<Bed, "guest" | "dir">;

export class Debian {
  #bed: Where;
  #scripts = 0;

  private constructor(bed: Where) {
    this.#bed = bed;
  }

  /** Makes the host's programs available in the bed's guest. */
  static async open(bed: Where): Promise<Debian> {
    await bed.guest.run(PREPARE);
    return new Debian(bed);
  }

  /** Runs a shell script with the host's programs in the guest, its working directory the share. */
  async try(script: string, timeoutMs?: number): Promise<Result> {
    const path = `${this.#bed.dir}/script-${++this.#scripts}.sh`;
    // Through a pipe, for programs write otherwise to a terminal, which the console is.
    await Deno.writeTextFile(path, `cd /mnt || exit 1\n(\n${script}\n) 2>&1 | cat\nexit "\${PIPESTATUS[0]}"\n`);
    return await this.#bed.guest.try(`env -i ${ENVIRONMENT} chroot /host /bin/bash ${path}`, timeoutMs);
  }

  /** Like try(), and throws when the status is not 0. */
  async run(script: string, timeoutMs?: number): Promise<string> {
    const { status, output } = await this.try(script, timeoutMs);
    if (status !== 0) throw new Error(`in the guest: status ${status} of ${script}\n${output}`);
    return output;
  }
}

/** Runs the same on the host, in `folder`. */
export async function runOnHost(script: string, folder: string): Promise<string> {
  const { code, stdout } = await new Deno.Command("/bin/bash", {
    args: ["-c", `exec 2>&1\n${script}`],
    cwd: folder,
    env: { LC_ALL: "C", NO_COLOR: "1" },
    stdin: "null",
  }).output();
  const output = new TextDecoder().decode(stdout);
  if (code !== 0) throw new Error(`on the host: status ${code} of ${script}\n${output}`);
  return output;
}

/** Why programs are missing here; undefined when they are there, or when root could install their packages just now. */
export async function missing(programs: Record<string, string>): Promise<string | undefined> {
  const absent = () =>
    Object.keys(programs).filter((program) =>
      !new Deno.Command("sh", { args: ["-c", `command -v ${program}`], stdout: "null" }).outputSync().success
    );
  let lacking = absent();
  if (!lacking.length) return undefined;
  const packages = [...new Set(lacking.map((program) => programs[program]))].join(" ");
  const line = `apt-get install --no-install-recommends ${packages}`;
  if (Deno.uid() !== 0) return `${lacking.join(", ")} missing: to have it run 'sudo ${line}'`;
  console.log(`installing for the tests: ${line}`);
  const apt = "DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300";
  const script = `${apt} update; ${apt} install -y --no-install-recommends ${packages}`;
  await new Deno.Command("sh", { args: ["-c", script], stdin: "null", stdout: "null" }).output();
  lacking = absent();
  return lacking.length ? `${lacking.join(", ")} missing, and '${line}' did not help` : undefined;
}
