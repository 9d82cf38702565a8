/** What `ringfsd share` picks by itself: a tag, and a path for the socket. */
import { isInUse, SOCKET_PATH_MAX } from "../ffi/socket.ts";

/** struct virtio_fs_config: tag[36] */
const TAG_BYTES = 36;
const OTHERS_MAY_PASS = 0o755;
const OURS_ALONE = 0o700;
const TRIES = 100;

/** A tag for a directory, by the last part of its path: what any hypervisor, shell and fstab takes as it is. */
export function tagFor(dir: string): string {
  const name = dir.split("/").filter((part) => part !== "").at(-1) ?? "";
  const plain = name.normalize("NFKD").replace(/\p{M}/gu, "").replace(/[^A-Za-z0-9_.-]+/g, "-");
  return plain.slice(0, TAG_BYTES).replace(/^[-.]+|-+$/g, "") || "share";
}

/** What decides where sockets may be. */
export interface Whereabouts {
  uid: number;
  /** XDG_RUNTIME_DIR */
  runtimeDir: string | undefined;
  /** Where root's and everybody's go. */
  run: string;
  tmp: string;
}

/** A directory for sockets, made where it is not there; `make` false: only named. */
export function socketDirectory({ uid, runtimeDir, run, tmp }: Whereabouts, make: boolean): string {
  const tried: string[] = [];
  const wishes: [string, number][] = [
    ...(uid === 0 ? [[`${run}/ringfsd`, OTHERS_MAY_PASS] as [string, number]] : []),
    ...(runtimeDir ? [[`${runtimeDir}/ringfsd`, OURS_ALONE] as [string, number]] : []),
    [`${tmp}/ringfsd-${uid}`, OURS_ALONE],
  ];
  for (const [path, mode] of wishes) {
    const why = unfit(path, mode, uid, make);
    if (why === "") return path;
    tried.push(`${path}: ${why}`);
  }
  throw new Error(`there is no place for the socket (${tried.join("; ")}): give --socket-path PATH`);
}

/** Why sockets cannot be there, or "". Nobody else may put anything there: who makes the socket gets the guest's memory. */
function unfit(path: string, mode: number, uid: number, make: boolean): string {
  try {
    const info = Deno.lstatSync(path);
    if (!info.isDirectory) return "it is not a directory";
    if (info.uid !== uid) return "it is another user's";
    return (info.mode! & 0o022) === 0 ? "" : "others may write there";
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) return (error as Error).message;
  }
  try {
    const parent = path.slice(0, path.lastIndexOf("/"));
    if (!Deno.statSync(parent).isDirectory) return "there is no such place";
    if (make) Deno.mkdirSync(path, { mode });
    return "";
  } catch (error) {
    return (error as Error).message.replace(/ \(os error.*/s, "");
  }
}

/** A path for the socket that no process uses: TAG.sock, else TAG-2.sock and so on. */
export function freeSocket(dir: string, tag: string): string {
  for (let i = 1; i <= TRIES; i++) {
    const path = `${dir}/${tag}${i === 1 ? "" : `-${i}`}.sock`;
    if (new TextEncoder().encode(path).length > SOCKET_PATH_MAX) {
      throw new Error(`${path} is too long for a socket's path: give --socket-path PATH`);
    }
    if (!isInUse(path)) return path;
  }
  throw new Error(`${TRIES} sockets in ${dir} are in use: give --socket-path PATH`);
}
