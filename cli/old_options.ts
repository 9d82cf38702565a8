/**
 * Options as virtiofsd took them before it had long ones, `-o key[=value],…`: what each means in today's spelling. They have the
 * last word, as in virtiofsd.
 */

/** A long option with its value, without one (null), or one to be taken back (false). */
export interface Given {
  name: string;
  value: string | null | false;
}

const SWITCHES: ReadonlyMap<string, Given> = new Map([
  ["xattr", on("xattr")],
  ["no_xattr", off("xattr")],
  ["posix_acl", on("posix-acl")],
  ["no_posix_acl", off("posix-acl")],
  ["security_label", on("security-label")],
  ["no_security_label", off("security-label")],
  ["writeback", on("writeback")],
  ["no_writeback", off("writeback")],
  ["allow_direct_io", on("allow-direct-io")],
  ["no_allow_direct_io", off("allow-direct-io")],
  ["announce_submounts", on("announce-submounts")],
  ["no_announce_submounts", on("no-announce-submounts")],
  ["killpriv_v2", on("killpriv-v2")],
  ["no_killpriv_v2", on("no-killpriv-v2")],
  ["readdirplus", on("readdirplus")],
  ["no_readdirplus", on("no-readdirplus")],
  ["posix_lock", on("posix-lock")],
  ["no_posix_lock", off("posix-lock")],
  ["flock", on("flock")],
  ["no_flock", off("flock")],
]);

const VALUES: ReadonlyMap<string, string> = new Map([
  ["source", "shared-dir"],
  ["cache", "cache"],
  ["loglevel", "log-level"],
  ["log_level", "log-level"],
  ["xattrmap", "xattrmap"],
  ["sandbox", "sandbox"],
  ["modcaps", "modcaps"],
]);

function on(name: string): Given {
  return { name, value: null };
}

function off(name: string): Given {
  return { name, value: false };
}

/** Translates what stands behind one -o. Throws an Error with a sentence. */
export function oldOptions(list: string): Given[] {
  return list.split(",").filter((one) => one !== "").map((one) => {
    const equals = one.indexOf("=");
    if (equals < 0) {
      const given = SWITCHES.get(one);
      if (given) return given;
      throw new Error(VALUES.has(one) ? `-o ${one} takes a value, -o ${one}=…` : `there is no option -o ${one}`);
    }
    const key = one.slice(0, equals);
    const value = one.slice(equals + 1);
    if (key === "timeout") {
      throw new Error("-o timeout is not taken: how long the guest may trust names is what --cache says");
    }
    const name = VALUES.get(key);
    if (name === undefined) {
      throw new Error(SWITCHES.has(key) ? `-o ${key} takes no value` : `there is no option -o ${key}`);
    }
    return { name, value: name === "log-level" && value === "err" ? "error" : value };
  });
}
