/** User namespaces for an ordinary user, by way of unshare(1) of util-linux: what its command line is, and why it does not work. */

/** --uid-map or --gid-map: `count` ids of the namespace from `inside` on are those of the host from `outside` on. */
export interface IdRange {
  inside: number;
  outside: number;
  count: number;
}

/** Reads virtiofsd's form, :namespace_id:host_id:count: (any character stands between). Throws Error. */
export function readRange(text: string): IdRange {
  const between = text[0] ?? ":";
  const parts = text.split(between);
  const numbers = parts.slice(1, 4).map(Number);
  const whole = parts.slice(1, 4).every((part) => /^\d{1,10}$/.test(part)) && numbers.every((one) => one < 2 ** 32);
  if (parts.length !== 5 || parts[0] !== "" || parts[4] !== "" || !whole || numbers[2] === 0) {
    throw new Error("takes :NAMESPACE_ID:HOST_ID:COUNT:, such as :0:100000:65536:");
  }
  const [inside, outside, count] = numbers;
  return { inside, outside, count };
}

/** Programs of util-linux are not everywhere on the PATH of a service. */
const PLACES = ["/usr/bin/unshare", "/bin/unshare", "/usr/local/bin/unshare"];

/**
 * The program and its arguments that end in a user namespace where the caller has all capabilities. Without ranges the user and its group
 * stand for themselves. Throws an Error that says why there can be no such namespace and what to do.
 */
export function mapArguments(
  uids: IdRange | undefined,
  gids: IdRange | undefined,
): { program: string; args: string[] } {
  const program = PLACES.find((path) => {
    try {
      return Deno.statSync(path).isFile;
    } catch {
      return false;
    }
  });
  if (program === undefined) throw new Error("a user namespace takes unshare(1): install util-linux");
  const args = ["--user", ...ids(uids, gids), "--keep-caps", "--mount", "--net", "--ipc", "--uts"];
  // The working directory may be one that this user cannot reach, as behind `su`.
  const trial = new Deno.Command(program, { args: [...args, "--", "true"], stdin: "null", cwd: "/" });
  const { success, stderr } = trial.outputSync();
  if (success) return { program, args };
  const said = new TextDecoder().decode(stderr).trim().split("\n")[0].replace(/^unshare: /, "");
  throw new Error(`a user namespace cannot be made (${said})${advice()}`);
}

function ids(uids: IdRange | undefined, gids: IdRange | undefined): string[] {
  const uid = Deno.uid()!;
  const gid = Deno.gid()!;
  const users = uids ?? { inside: uid, outside: uid, count: 1 };
  const groups = gids ?? { inside: gid, outside: gid, count: 1 };
  if (users.count === 1 && users.outside === uid && groups.count === 1 && groups.outside === gid) {
    return [`--map-user=${users.inside}`, `--map-group=${groups.inside}`];
  }
  // By newuidmap(1) and newgidmap(1), which know what subuid(5) allows.
  const range = ({ inside, outside, count }: IdRange) => `${outside},${inside},${count}`;
  return [
    ...[`--map-users=${range(users)}`, `--map-groups=${range(groups)}`],
    ...[`--setuid=${users.inside}`, `--setgid=${groups.inside}`],
  ];
}

/** What to do, as far as the kernel's settings say. */
function advice(): string {
  const setting = (path: string) => {
    try {
      return Deno.readTextFileSync(`/proc/sys/${path}`).trim();
    } catch {
      return "";
    }
  };
  if (setting("kernel/unprivileged_userns_clone") === "0") {
    return ": the sysctl kernel.unprivileged_userns_clone must be 1";
  }
  if (setting("user/max_user_namespaces") === "0") return ": the sysctl user.max_user_namespaces must not be 0";
  if (setting("kernel/apparmor_restrict_unprivileged_userns") === "1") {
    return ": AppArmor must allow userns to ringfsd and unshare (or sysctl kernel.apparmor_restrict_unprivileged_userns=0)";
  }
  return "";
}
