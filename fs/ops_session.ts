/** INIT, DESTROY and INTERRUPT: the session itself. */
import { EPROTO } from "../ffi/errno.ts";
import { ARG, BODY } from "./entry.ts";
import { NO_REPLY } from "./results.ts";
import type { FsService } from "./service.ts";
import * as wire from "./wire.ts";
import { fuse_init_in, fuse_init_out, fuse_interrupt_in } from "./wire.ts";

/** The oldest client that is served: 7.27 has all that the replies below hold. Linux guests with virtiofs speak 7.31 and later. */
const MINOR_MIN = 27;
/** One WRITE or READ: 256 pages of 4 KiB, which is FUSE_MAX_MAX_PAGES of the clients that have that limit. */
const MAX_PAGES = 256;
const MAX_WRITE = MAX_PAGES * 4096;
const MAX_BACKGROUND = 0xffff;
const CONGESTION_THRESHOLD = MAX_BACKGROUND * 3 / 4;

/**
 * What is offered to a client that knows it. Not ATOMIC_O_TRUNC as long as HANDLE_KILLPRIV_V2 is not: a client with the one and
 * without the other does not clear set-user-ID bits when a file is opened to be truncated.
 */
const OFFERED = wire.FUSE_ASYNC_READ | wire.FUSE_BIG_WRITES | wire.FUSE_PARALLEL_DIROPS |
  wire.FUSE_AUTO_INVAL_DATA | wire.FUSE_ASYNC_DIO |
  wire.FUSE_MAX_PAGES | wire.FUSE_INIT_EXT;
const ACL = wire.FUSE_POSIX_ACL | wire.FUSE_DONT_MASK | wire.FUSE_SETXATTR_EXT;

/** What is offered, by the options. */
function offered(fs: FsService): number {
  const { announceSubmounts, cache, posixLock, flock, killprivV2, posixAcl, readdirplus, writeback, xattr } =
    fs.config.options;
  let flags = OFFERED;
  if (posixLock) flags |= wire.FUSE_POSIX_LOCKS;
  if (flock) flags |= wire.FUSE_FLOCK_LOCKS;
  if (killprivV2) flags |= wire.FUSE_HANDLE_KILLPRIV_V2 | wire.FUSE_ATOMIC_O_TRUNC;
  if (readdirplus && cache !== "never") flags |= wire.FUSE_DO_READDIRPLUS | wire.FUSE_READDIRPLUS_AUTO;
  if (writeback) flags |= wire.FUSE_WRITEBACK_CACHE;
  if (xattr) flags |= wire.FUSE_SETXATTR_EXT;
  if (posixAcl) flags |= ACL;
  if (announceSubmounts) flags |= wire.FUSE_SUBMOUNTS;
  return flags;
}

function offered2(fs: FsService): number {
  const { allowMmap, securityLabel } = fs.config.options;
  let flags: number = wire.FLAGS2.FUSE_CREATE_SUPP_GROUP;
  if (allowMmap) flags |= wire.FLAGS2.FUSE_DIRECT_IO_ALLOW_MMAP;
  if (securityLabel) flags |= wire.FLAGS2.FUSE_SECURITY_CTX;
  return flags;
}

/** What an option needs of the client and this client lacks, in words; or "". */
function lacking(fs: FsService, flags: number, flags2: number): string {
  const { posixAcl, securityLabel } = fs.config.options;
  if (posixAcl === true && (flags & ACL) !== ACL) return "--posix-acl";
  if (securityLabel && (flags2 & wire.FLAGS2.FUSE_SECURITY_CTX) === 0) return "--security-label";
  return "";
}

const INIT_FLAGS2 = ARG + (fuse_init_in.flags2 >> 2);

export function init(fs: FsService, slot: number): number {
  const { in32 } = fs.requests;
  const major = in32[ARG + (fuse_init_in.major >> 2)];
  const minor = in32[ARG + (fuse_init_in.minor >> 2)];
  if (major < wire.FUSE_KERNEL_VERSION || (major === wire.FUSE_KERNEL_VERSION && minor < MINOR_MIN)) return -EPROTO;
  // A newer major learns ours and asks again with it.
  if (major > wire.FUSE_KERNEL_VERSION) return answer(fs, 0, 0, 0);
  const readahead = in32[ARG + (fuse_init_in.max_readahead >> 2)];
  const asked = in32[ARG + (fuse_init_in.flags >> 2)];
  const extended = (asked & wire.FUSE_INIT_EXT) !== 0 && fs.len >= ARG * 4 + fuse_init_in.sizeof;
  let flags = asked & offered(fs);
  const flags2 = extended ? in32[INIT_FLAGS2] & offered2(fs) : 0;
  const lacks = lacking(fs, flags, flags2);
  if (lacks) {
    fs.log.error(`the guest's kernel cannot do ${lacks}: its mount is refused`);
    return -EPROTO;
  }
  // ACLs are kept by client and server together, or not at all.
  if ((flags & ACL) !== ACL) flags &= ~(wire.FUSE_POSIX_ACL | wire.FUSE_DONT_MASK);
  // A guest that was reset without DESTROY begins anew: what the last session knew is forgotten first.
  return fs.whenAlone(slot, () => {
    fs.forgetAll();
    fs.session.start(Math.min(minor, wire.FUSE_KERNEL_MINOR_VERSION), flags, flags2);
    fs.log.debug(`FUSE session with a client of ${major}.${minor}, flags 0x${(flags >>> 0).toString(16)}`);
    return answer(fs, readahead, flags, flags2);
  });
}

function answer(fs: FsService, readahead: number, flags: number, flags2: number): number {
  const { out32 } = fs.requests;
  out32.fill(0, BODY, BODY + (fuse_init_out.sizeof >> 2));
  const put = (at: number, value: number) => out32[BODY + (at >> 2)] = value;
  put(fuse_init_out.major, wire.FUSE_KERNEL_VERSION);
  put(fuse_init_out.minor, wire.FUSE_KERNEL_MINOR_VERSION);
  put(fuse_init_out.max_readahead, readahead);
  put(fuse_init_out.flags, flags);
  put(fuse_init_out.max_background, MAX_BACKGROUND | CONGESTION_THRESHOLD << 16);
  put(fuse_init_out.max_write, MAX_WRITE);
  put(fuse_init_out.time_gran, 1);
  put(fuse_init_out.max_pages, MAX_PAGES);
  put(fuse_init_out.flags2, flags2);
  return fuse_init_out.sizeof;
}

export function destroy(fs: FsService, slot: number): number {
  return fs.whenAlone(slot, () => {
    fs.forgetAll();
    fs.session.close();
    return 0;
  });
}

/**
 * Cancels a request that waits, on whichever loop; it then answers EINTR. One that is unknown or finished is left alone: the answer
 * has crossed the interrupt.
 */
export function interrupt(fs: FsService): number {
  const { in32 } = fs.requests;
  const at = ARG + (fuse_interrupt_in.unique >> 2);
  if (!fs.interrupt(in32[at], in32[at + 1])) fs.interruptElsewhere(in32[at], in32[at + 1]);
  return NO_REPLY;
}
