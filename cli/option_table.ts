/** A table of options as readers see it: for --help, the man page and the completions. */

/** An option as readers see it. */
export interface Option {
  name: string;
  /** What stands for its value; "" for a switch. */
  placeholder: string;
  /** The values that it takes, where they are few. */
  values: readonly string[];
  /** Its value may be left out. */
  bare: boolean;
  /** Its default, where a text says it. */
  usual: string;
  /** --no-NAME takes it back. */
  negated: boolean;
  brief: string;
}

/** Headings, and what stands below each; what is not named is below the last. */
export type Groups = readonly (readonly [string, readonly string[]])[];

/** Of the daemon's options. */
export const GROUPS: Groups = [
  ["What is shared, and where", ["shared-dir", "socket-path", "socket-group", "fd", "tag", "share", "config"]],
  [
    "What the guest may keep and do",
    ["cache", "readdirplus", "writeback", "allow-direct-io", "allow-mmap", "readonly", "preserve-noatime"],
  ],
  [
    "Attributes, users and locks",
    [
      ...["xattr", "xattrmap", "posix-acl", "security-label", "killpriv-v2", "posix-lock", "flock"],
      ...["announce-submounts", "inode-file-handles", "translate-uid", "translate-gid"],
    ],
  ],
  [
    "Queues, threads and limits",
    [
      ...["num-request-queues", "cpu-affinity", "queue-affinity", "thread-pool-size", "poll-max-us"],
      ...["keep-awake", "rlimit-nofile", "limit-iops", "limit-mbps"],
    ],
  ],
  ["Watching and telling it", ["metrics-socket", "metrics-address", "control-socket", "control-group"]],
  ["Confinement", ["sandbox", "seccomp", "modcaps", "uid-map", "gid-map"]],
  ["The process", []],
];

/** Those of the daemon's options that most people need. */
export const COMMON: readonly string[] = [
  ...["shared-dir", "socket-path", "socket-group", "tag", "share", "config", "cache", "readonly", "xattr", "posix-acl"],
  ...["translate-uid", "translate-gid", "num-request-queues", "metrics-socket", "sandbox", "log-level"],
];

/** A row in the form of the library that reads the command line (parser.ts). */
interface Row {
  kind: string;
  brief: string;
  values?: readonly string[];
  placeholder?: string;
  default?: unknown;
  negated?: boolean;
}

/** All options of such a table, in its order. */
export function optionsOf(flags: unknown): Option[] {
  return Object.entries(flags as Record<string, Row>).map(([name, flag]) => {
    const values = flag.kind === "enum" ? flag.values ?? [] : [];
    const placeholder = flag.placeholder ?? (values.length > 0 ? values.join("|") : "VALUE");
    return {
      name,
      placeholder: flag.kind === "boolean" ? "" : placeholder,
      values,
      bare: name === "posix-acl",
      usual: flag.default !== undefined && flag.kind !== "boolean" ? String(flag.default) : "",
      negated: flag.negated === true,
      brief: flag.brief,
    };
  });
}

/** The options below their headings. A name that no option has is nobody's; a heading with nothing below it is left out. */
export function grouped(options: readonly Option[], groups: Groups): [string, Option[]][] {
  const left = new Map(options.map((option) => [option.name, option]));
  const result = groups.map(([title, names]): [string, Option[]] => {
    const members = names.flatMap((name) => left.get(name) ?? []);
    for (const { name } of members) left.delete(name);
    return [title, members];
  });
  result.at(-1)?.[1].push(...left.values());
  return result.filter(([, members]) => members.length > 0);
}

/** How an option is written: "--cache never|auto", "--posix-acl[=on|auto]", "--[no-]readdirplus". */
export function written({ name, placeholder, bare, negated }: Option): string {
  const value = placeholder === "" ? "" : bare ? `[=${placeholder}]` : ` ${placeholder}`;
  return `--${negated ? "[no-]" : ""}${name}${value}`;
}

/** What is said of it: without what the way it is written says already, and with its default. */
export function meaning({ brief, usual }: Option): string {
  const text = brief.replace(/; --no-[a-z0-9-]+: not/, "");
  return usual === "" || text.includes("[default") ? text : `${text} [default: ${usual}]`;
}
