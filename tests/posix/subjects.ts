/** The subjects of the suite, in the order in which they run. */
import { create, names } from "./create.ts";
import { readdir, statfs } from "./dirs.ts";
import { io, mmap } from "./io.ts";
import { link, symlink, unlink } from "./links.ts";
import { locks } from "./locks.ts";
import { access, mode } from "./mode.ts";
import { rename } from "./rename.ts";
import { copyRange, fallocate, limits, seekHole, truncate } from "./space.ts";
import { append, ioctl, statx, tmpfile } from "./special.ts";
import type { Suite } from "./suite.ts";
import { times } from "./times.ts";
import { acl, xattr } from "./xattr.ts";

export const subjects: Record<string, (t: Suite) => void> = {
  create,
  names,
  mode,
  access,
  rename,
  link,
  symlink,
  unlink,
  readdir,
  statfs,
  statx,
  times,
  io,
  append,
  mmap,
  truncate,
  fallocate,
  "seek hole": seekHole,
  "copy range": copyRange,
  limits,
  tmpfile,
  ioctl,
  xattr,
  acl,
  locks,
};
