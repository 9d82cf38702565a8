/** The one table of FUSE operations: what each is called, what its request must hold, who serves it. linux/fuse.h. */
import { EIO, ENOSYS } from "../ffi/errno.ts";
import type { FsService } from "./service.ts";
import * as attr from "./ops_attr.ts";
import * as dir from "./ops_dir.ts";
import * as file from "./ops_file.ts";
import * as lock from "./ops_lock.ts";
import * as more from "./ops_more.ts";
import * as names from "./ops_names.ts";
import * as session from "./ops_session.ts";
import * as xattr from "./ops_xattr.ts";
import type { Waits } from "./where.ts";
import * as wire from "./wire.ts";

/** Serves a request: bytes of its reply, -errno, or one of results.ts. */
export type Handler = (fs: FsService, slot: number) => number;

export interface Operation {
  readonly name: string;
  readonly handler: Handler;
  /** Bytes of arguments behind the header at least. */
  readonly argBytes: number;
  /** The nodeid must name a node. */
  readonly needsNode: boolean;
  /** Served in every state of the session. */
  readonly always: boolean;
  /** The client reads no reply. */
  readonly noReply: boolean;
  /** What is behind the arguments is file data, not to be copied. */
  readonly data: boolean;
  /** What it may wait for, so that it is not served on a loop. */
  readonly waits: Waits;
}

type Options = Partial<Pick<Operation, "needsNode" | "always" | "noReply" | "data" | "waits">>;

function operation(name: string, argBytes: number, handler: Handler, options: Options = {}): Operation {
  return {
    name,
    handler,
    argBytes,
    needsNode: true,
    always: false,
    noReply: false,
    data: false,
    waits: "nothing",
    ...options,
  };
}

/** What a helper must not serve: the guest has changed the request on its way to one. */
export const refused = operation("?", 0, () => -EIO, { needsNode: false, always: true });

/** By opcode; holes are answered with ENOSYS. */
export const opcodes: (Operation | undefined)[] = new Array(64).fill(undefined);

const op = opcodes;
const anyNode = { needsNode: false };
op[wire.FUSE_LOOKUP] = operation("LOOKUP", 1, names.lookup, { waits: "names" });
op[wire.FUSE_FORGET] = operation("FORGET", wire.fuse_forget_in.sizeof, names.forget, { noReply: true });
op[wire.FUSE_BATCH_FORGET] = operation("BATCH_FORGET", wire.fuse_batch_forget_in.sizeof, names.batchForget, {
  noReply: true,
  needsNode: false,
});
op[wire.FUSE_GETATTR] = operation("GETATTR", wire.fuse_getattr_in.sizeof, attr.getattr, { waits: "remote" });
op[wire.FUSE_SETATTR] = operation("SETATTR", wire.fuse_setattr_in.sizeof, attr.setattr, { waits: "disk" });
op[wire.FUSE_READLINK] = operation("READLINK", 0, names.readlink, { waits: "disk" });
op[wire.FUSE_SYMLINK] = operation("SYMLINK", 2, names.symlink, { waits: "disk" });
op[wire.FUSE_MKNOD] = operation("MKNOD", wire.fuse_mknod_in.sizeof + 1, names.mknod, { waits: "disk" });
op[wire.FUSE_MKDIR] = operation("MKDIR", wire.fuse_mkdir_in.sizeof + 1, names.mkdir, { waits: "disk" });
op[wire.FUSE_UNLINK] = operation("UNLINK", 1, names.unlink, { waits: "disk" });
op[wire.FUSE_RMDIR] = operation("RMDIR", 1, names.rmdir, { waits: "disk" });
op[wire.FUSE_RENAME] = operation("RENAME", wire.fuse_rename_in.sizeof + 2, names.rename, { waits: "disk" });
op[wire.FUSE_RENAME2] = operation("RENAME2", wire.fuse_rename2_in.sizeof + 2, names.rename2, { waits: "disk" });
op[wire.FUSE_LINK] = operation("LINK", wire.fuse_link_in.sizeof + 1, names.link, { waits: "disk" });
op[wire.FUSE_OPEN] = operation("OPEN", wire.fuse_open_in.sizeof, file.open, { waits: "disk" });
op[wire.FUSE_CREATE] = operation("CREATE", wire.fuse_create_in.sizeof + 1, file.create, { waits: "disk" });
op[wire.FUSE_READ] = operation("READ", wire.fuse_read_in.sizeof, file.read, { ...anyNode, waits: "remote" });
op[wire.FUSE_WRITE] = operation("WRITE", wire.fuse_write_in.sizeof, file.write, {
  needsNode: false,
  data: true,
  waits: "decides",
});
op[wire.FUSE_STATFS] = operation("STATFS", 0, attr.statfs, { waits: "remote" });
op[wire.FUSE_RELEASE] = operation("RELEASE", wire.fuse_release_in.sizeof, file.release, {
  ...anyNode,
  waits: "remote",
});
op[wire.FUSE_FSYNC] = operation("FSYNC", wire.fuse_fsync_in.sizeof, file.fsync, { ...anyNode, waits: "remote" });
op[wire.FUSE_FLUSH] = operation("FLUSH", wire.fuse_flush_in.sizeof, file.flush, { ...anyNode, waits: "remote" });
op[wire.FUSE_SETXATTR] = operation("SETXATTR", wire.FUSE_COMPAT_SETXATTR_IN_SIZE + 1, xattr.setxattr, {
  waits: "disk",
});
op[wire.FUSE_GETXATTR] = operation("GETXATTR", wire.fuse_getxattr_in.sizeof + 1, xattr.getxattr, { waits: "disk" });
op[wire.FUSE_LISTXATTR] = operation("LISTXATTR", wire.fuse_getxattr_in.sizeof, xattr.listxattr, { waits: "disk" });
op[wire.FUSE_REMOVEXATTR] = operation("REMOVEXATTR", 1, xattr.removexattr, { waits: "disk" });
op[wire.FUSE_INIT] = operation("INIT", 16, session.init, { needsNode: false, always: true });
op[wire.FUSE_OPENDIR] = operation("OPENDIR", wire.fuse_open_in.sizeof, dir.opendir, { waits: "disk" });
op[wire.FUSE_READDIR] = operation("READDIR", wire.fuse_read_in.sizeof, dir.readdir, { ...anyNode, waits: "listing" });
op[wire.FUSE_READDIRPLUS] = operation("READDIRPLUS", wire.fuse_read_in.sizeof, dir.readdirplus, {
  ...anyNode,
  waits: "listing",
});
op[wire.FUSE_RELEASEDIR] = operation("RELEASEDIR", wire.fuse_release_in.sizeof, dir.releasedir, {
  ...anyNode,
  waits: "remote",
});
op[wire.FUSE_FSYNCDIR] = operation("FSYNCDIR", wire.fuse_fsync_in.sizeof, dir.fsyncdir, {
  ...anyNode,
  waits: "remote",
});
op[wire.FUSE_ACCESS] = operation("ACCESS", wire.fuse_access_in.sizeof, attr.access, { waits: "remote" });
op[wire.FUSE_INTERRUPT] = operation("INTERRUPT", wire.fuse_interrupt_in.sizeof, session.interrupt, {
  noReply: true,
  needsNode: false,
});
op[wire.FUSE_DESTROY] = operation("DESTROY", 0, session.destroy, { needsNode: false, always: true });
op[wire.FUSE_LSEEK] = operation("LSEEK", wire.fuse_lseek_in.sizeof, file.lseek, { ...anyNode, waits: "disk" });
op[wire.FUSE_FALLOCATE] = operation("FALLOCATE", wire.fuse_fallocate_in.sizeof, file.fallocate, {
  ...anyNode,
  waits: "decides",
});
op[wire.FUSE_GETLK] = operation("GETLK", wire.fuse_lk_in.sizeof, lock.getlk, { waits: "remote" });
op[wire.FUSE_SETLK] = operation("SETLK", wire.fuse_lk_in.sizeof, lock.setlk, { waits: "remote" });
op[wire.FUSE_SETLKW] = operation("SETLKW", wire.fuse_lk_in.sizeof, lock.setlkw, { waits: "lock" });
op[wire.FUSE_IOCTL] = operation("IOCTL", wire.fuse_ioctl_in.sizeof, more.ioctl, { ...anyNode, waits: "disk" });
op[wire.FUSE_COPY_FILE_RANGE] = operation(
  "COPY_FILE_RANGE",
  wire.fuse_copy_file_range_in.sizeof,
  more.copyFileRange,
  { ...anyNode, waits: "decides" },
);
op[wire.FUSE_COPY_FILE_RANGE_64] = operation(
  "COPY_FILE_RANGE_64",
  wire.fuse_copy_file_range_in.sizeof,
  more.copyFileRange64,
  { ...anyNode, waits: "decides" },
);
op[wire.FUSE_SYNCFS] = operation("SYNCFS", wire.fuse_syncfs_in.sizeof, more.syncfs, { waits: "remote" });
op[wire.FUSE_TMPFILE] = operation("TMPFILE", wire.fuse_create_in.sizeof, more.tmpfile, { waits: "disk" });
op[wire.FUSE_STATX] = operation("STATX", wire.fuse_statx_in.sizeof, more.statx, { waits: "remote" });
/** DAX windows, and what a file system on a block device has, are not there; a client that gets ENOSYS asks no more. */
const absent = () => -ENOSYS;
const always = { needsNode: false, always: true };
op[wire.FUSE_BMAP] = operation("BMAP", 0, absent, always);
op[wire.FUSE_POLL] = operation("POLL", 0, absent, always);
op[wire.FUSE_SETUPMAPPING] = operation("SETUPMAPPING", 0, absent, always);
op[wire.FUSE_REMOVEMAPPING] = operation("REMOVEMAPPING", 0, absent, always);
