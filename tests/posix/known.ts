/**
 * Assertions that do not hold on a share yet, each with the reason. The end-to-end test fails when one of them holds, so that
 * this list only gets shorter; where the reason begins with "sometimes" it may hold as well. By configuration, as posix.test.ts
 * names them.
 */
export const KNOWN: Record<string, Record<string, string>> = {
  "cache=never": {
    "mmap: MAP_SHARED": "as in virtiofsd: with cache=never shared mappings want --allow-mmap, and Linux 6.6",
  },
};
