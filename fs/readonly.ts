/** --readonly: the operation table in which all that changes something answers EROFS, as virtiofsd does it. */
import { O_ACCMODE, O_EXCL, O_RDONLY, O_TRUNC } from "../ffi/arch.ts";
import { ENOENT, EROFS } from "../ffi/errno.ts";
import { ARG } from "./entry.ts";
import type { Operation } from "./opcodes.ts";
import { openExisting } from "./ops_file.ts";
import type { FsService } from "./service.ts";
import * as wire from "./wire.ts";
import { fuse_access_in, fuse_create_in, fuse_ioctl_in, fuse_open_in } from "./wire.ts";

const CHANGES = [
  wire.FUSE_SETATTR,
  wire.FUSE_SYMLINK,
  wire.FUSE_MKNOD,
  wire.FUSE_MKDIR,
  wire.FUSE_UNLINK,
  wire.FUSE_RMDIR,
  wire.FUSE_RENAME,
  wire.FUSE_RENAME2,
  wire.FUSE_LINK,
  wire.FUSE_WRITE,
  wire.FUSE_FALLOCATE,
  wire.FUSE_SETXATTR,
  wire.FUSE_REMOVEXATTR,
  wire.FUSE_COPY_FILE_RANGE,
  wire.FUSE_COPY_FILE_RANGE_64,
  wire.FUSE_TMPFILE,
];
const W_OK = 2;
/** In the direction bits of an ioctl number: the caller hands data over. The ones passed on that do are those that change flags. */
const IOC_WRITE = 0x40000000;

type Handler = Operation["handler"];
const refuse: Handler = () => -EROFS;

/** Lets only such requests through whose word at byte `at` of the arguments is harmless. */
function unless(at: number, changes: (word: number) => boolean, handler: Handler): Handler {
  return (fs, slot) => changes(fs.requests.in32[ARG + (at >> 2)]) ? -EROFS : handler(fs, slot);
}

const writes = (flags: number) => (flags & O_ACCMODE) !== O_RDONLY || (flags & O_TRUNC) !== 0;

/** Opens what is there; a file that is not there cannot be made. */
function create(fs: FsService): number {
  const name = fs.name(fuse_create_in.sizeof + ARG * 4);
  if (typeof name === "number") return name;
  const opened = openExisting(fs, name, fs.requests.in32[ARG + (fuse_create_in.flags >> 2)]);
  return opened === -ENOENT ? -EROFS : opened;
}

/** The table for a share that nobody may change. */
export function readOnlyOperations(operations: readonly (Operation | undefined)[]): (Operation | undefined)[] {
  const table = [...operations];
  const put = (opcode: number, make: (handler: Handler) => Handler) => {
    const operation = table[opcode];
    if (operation !== undefined) table[opcode] = { ...operation, handler: make(operation.handler) };
  };
  for (const opcode of CHANGES) put(opcode, () => refuse);
  const makes = (flags: number) => writes(flags) || (flags & O_EXCL) !== 0;
  put(wire.FUSE_CREATE, () => unless(fuse_create_in.flags, makes, create));
  put(wire.FUSE_OPEN, (handler) => unless(fuse_open_in.flags, writes, handler));
  put(wire.FUSE_ACCESS, (handler) => unless(fuse_access_in.mask, (mask) => (mask & W_OK) !== 0, handler));
  put(wire.FUSE_IOCTL, (handler) => unless(fuse_ioctl_in.cmd, (cmd) => (cmd & IOC_WRITE) !== 0, handler));
  return table;
}
