/**
 * Assertions that do not hold on a share yet, each with the reason. The end-to-end test fails when one of them holds, so that
 * this list only gets shorter; where the reason begins with "sometimes" it may hold as well. By configuration, as posix.test.ts
 * names them.
 */
export const KNOWN: Record<string, Record<string, string>> = {
  "cache=never": {
    "mmap: MAP_SHARED": "as in virtiofsd: with cache=never shared mappings want --allow-mmap, and Linux 6.6",
  },
  "cache=auto": {
    "readdir: many entries are made": "each known node costs a descriptor, and RLIMIT_NOFILE may be 20,000",
  },
  "write-back and killpriv": {
    "mode: fallocate by a user clears suid and sgid":
      "FUSE_FALLOCATE has no flag for it; the server has to look at the uid",
    "mode: fallocate by a user clears suid alone": "likewise",
  },
  "remote locks": {
    "locks: OFD: the last close drops it": "RELEASE does not drop the locks that were taken through the handle",
    "locks: flock: the last close drops it":
      "sometimes: RELEASE unlocks when the descriptor is retired, after its reply",
    "locks: end: its record locks are gone": "likewise, for the open-file lock of a process that has ended",
  },
};
