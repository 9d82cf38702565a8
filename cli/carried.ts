/**
 * What is opened by path before the process confines itself, and goes with it as descriptors: in a sandbox no path leads there any more, and
 * the process has executed itself since (cli/sandbox.ts). A new socket of the daemon's (to be scraped, to be told something) is opened
 * here, in `openCarried` or, where each share has one, in `openSockets`, and the process that serves finds its number in `Carried` or in the
 * share's `reach`. Whoever connects meanwhile waits. Nothing else has to be done for it.
 */
import { inherit } from "../ffi/execute.ts";
import { libc } from "../ffi/libc.ts";
import { listenLoopback, type ListenOptions, listenUnix, removeStaleSocket } from "../ffi/socket.ts";
import { type AwakeFiles, openAwake } from "../vq/awake.ts";
import { onlineCpus } from "./cpus.ts";
import { openLogFile } from "./log.ts";
import type { Options, ShareOptions } from "./options.ts";
import { connectNotify } from "./systemd.ts";
import { connectLog } from "./syslog.ts";

/** Descriptors; below 0: there is none. */
export interface Carried {
  /** systemd, which is told how the service is. */
  notify: number;
  /** The system's logger. */
  log: number;
  /** The file for the log, or -errno. */
  logFile: number;
  /** Where `ringfsd ctl` is answered; left out: its path can still be reached. */
  control?: number;
  /** Where metrics are shown, in the order of the options; with the port of each that has one. */
  metrics?: { fd: number; port?: number }[];
  /** What keeps idle processors awake. */
  awake?: AwakeFiles;
}

/** Opens them, or takes those that were opened before the process executed itself. */
export function openCarried({ carried, syslog = false, logFile, pollMaxUs, letHalt, loops }: Options): Carried {
  return carried ?? {
    notify: connectNotify(),
    log: syslog ? connectLog() : -1,
    logFile: logFile === undefined ? -1 : openLogFile(logFile),
    ...(pollMaxUs === 0 || letHalt ? {} : { awake: openAwake(loops, onlineCpus()) }),
  };
}

/** The socket is its owner's, or a group's too: who connects can have any file of the share. */
const OWNER_ONLY = 0o600;
const WITH_GROUP = 0o660;

/** Who may connect to a share's socket. */
export function socketAccess({ socketGroup }: ShareOptions): ListenOptions {
  return accessOf(socketGroup);
}

function accessOf(group: number | undefined): ListenOptions {
  return group === undefined ? { mode: OWNER_ONLY } : { mode: WITH_GROUP, group };
}

/** Makes all sockets while their paths can be reached, and with the user's own rights. */
export function openSockets(options: Options): void {
  const { carried, controlSocket, controlGroup, metrics } = options;
  try {
    if (controlSocket !== undefined) carried!.control = listenUnix(controlSocket, accessOf(controlGroup));
    if (metrics !== undefined) carried!.metrics = [];
    for (const place of metrics ?? []) {
      carried!.metrics!.push(
        "path" in place
          ? { fd: listenUnix(place.path, accessOf(place.group)) }
          : listenLoopback(place.hostname, place.port),
      );
    }
    for (const share of options.shares) {
      if (share.socketPath === undefined) continue;
      share.reach = { dir: share.sharedDir, fd: listenUnix(share.socketPath, socketAccess(share)) };
    }
  } catch (error) {
    removeSockets(options);
    throw error;
  }
}

/** Closes the sockets that were made, and removes their files. */
export function removeSockets({ shares, carried, controlSocket, metrics }: Options): void {
  for (const { socketPath, reach } of shares) removeSocket(socketPath, reach?.fd);
  removeSocket(controlSocket, carried?.control);
  metrics?.forEach((place, i) => removeSocket("path" in place ? place.path : undefined, carried?.metrics?.[i]?.fd));
}

function removeSocket(path: string | undefined, fd: number | undefined): void {
  if (fd === undefined) return;
  libc.close(fd);
  if (path === undefined) return;
  try {
    removeStaleSocket(path);
  } catch {
    // Another is in its place by now.
  }
}

/** Has all descriptors stay open over an execve(2). */
export function inheritCarried({ carried, shares }: Options): void {
  const { metrics = [], awake, ...others } = carried ?? {};
  const all = [...Object.values(others), ...metrics.map(({ fd }) => fd), ...awake?.fds ?? []];
  for (const fd of all) if (fd >= 0) inherit(fd);
  for (const share of shares) {
    const fd = share.reach?.fd ?? share.fd;
    try {
      if (fd !== undefined) inherit(fd);
    } catch {
      // It was passed, and is none: whoever listens on it complains.
    }
  }
}
