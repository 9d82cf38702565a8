/** Groups of the host: group(5), and whatever else nsswitch.conf(5) names. */
import { cString, libc } from "./libc.ts";

/** struct group, grp.h, on 64-bit Linux. Byte offset. */
const group = { gr_gid: 16 } as const;

/** The id of a group, by its name: getgrnam(3). undefined where there is none of that name. */
export function groupId(name: string): number | undefined {
  const found = libc.getgrnam(cString(name));
  return found === null ? undefined : new Deno.UnsafePointerView(found).getUint32(group.gr_gid);
}
