/** Memory with a descriptor, memfd_create(2), and what keeps a file from being cut short under its mappings: seals, fcntl(2). */
import { EOPNOTSUPP } from "./errno.ts";
import { checked, cString, errno, libc } from "./libc.ts";
import { statfs } from "./stat_layout.ts";

const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
const F_SEAL_SEAL = 1;
const F_SEAL_SHRINK = 2;
const F_SEAL_GROW = 4;
const HUGETLBFS_MAGIC = 0x958458f6;

/** A memfd of so many zero bytes, all of them there already and none to be taken away or added. Throws SystemError. */
export function createSealedMemfd(name: string, sizeBytes: number): number {
  const fd = checked("memfd_create", libc.memfd_create(cString(name), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  try {
    // Not ftruncate: a hole is filled at a touch, and where there is no memory by then that is a SIGBUS.
    checked("fallocate", libc.fallocate(fd, 0, 0n, BigInt(sizeBytes)));
    checked("F_ADD_SEALS", libc.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
    return fd;
  } catch (error) {
    libc.close(fd);
    throw error;
  }
}

/**
 * Sees to it that nobody can cut a file short any more. Returns 0, or -errno: EINVAL where its file system has no seals, EPERM where
 * another has forbidden to add this one, EOPNOTSUPP for huge pages, which munmap(2) takes only whole.
 */
export function sealAgainstShrinking(fd: number): number {
  const info = new Uint8Array(statfs.sizeof);
  if (libc.fstatfs(fd, info) < 0) return -errno();
  if (new DataView(info.buffer).getUint32(statfs.f_type, true) === HUGETLBFS_MAGIC) return -EOPNOTSUPP;
  const seals = libc.fcntl(fd, F_GET_SEALS, 0);
  if (seals < 0) return -errno();
  if ((seals & F_SEAL_SHRINK) !== 0) return 0;
  return libc.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0 ? -errno() : 0;
}
