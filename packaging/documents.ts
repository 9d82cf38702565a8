/**
 * What is generated from the option table (cli/flags.ts): the man page, and completions for bash, zsh and fish.
 * Usage: documents.ts man|bash|zsh|fish
 */
import { flags } from "../cli/flags.ts";

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
const GROUPS: readonly [string, readonly string[]][] = [
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
      ...["rlimit-nofile", "limit-iops", "limit-mbps"],
    ],
  ],
  ["The process", []],
];

const VALUE = "VALUE";

/** All options, in the order of the table. */
export function options(): Option[] {
  return Object.entries(flags).map(([name, flag]) => {
    const values: readonly string[] = flag.kind === "enum" ? flag.values : [];
    const placeholder = "placeholder" in flag ? flag.placeholder : values.length > 0 ? values.join("|") : VALUE;
    const usual = "default" in flag && flag.kind !== "boolean" ? String(flag.default) : "";
    return {
      name,
      placeholder: flag.kind === "boolean" ? "" : placeholder,
      values,
      bare: name === "posix-acl",
      usual,
      negated: "negated" in flag,
      brief: flag.brief,
    };
  });
}

function grouped(): [string, Option[]][] {
  const left = new Map(options().map((option) => [option.name, option]));
  const groups = GROUPS.map(([title, names]): [string, Option[]] => {
    const members = names.map((name) => {
      const option = left.get(name);
      if (!option) throw new Error(`documents.ts: there is no option ${name}`);
      left.delete(name);
      return option;
    });
    return [title, members];
  });
  groups.at(-1)![1].push(...left.values());
  return groups;
}

// --- the man page, man(7)

/** A text in which nothing is a request or an escape. */
function roff(text: string): string {
  return text.replaceAll("\\", "\\e").replaceAll("-", "\\-").replace(/^(?=[.'])/gm, "\\&").replaceAll("…", "...");
}

function manOption({ name, placeholder, bare, usual, negated, brief }: Option): string {
  const value = placeholder === "" ? "" : bare ? `[=${placeholder}]` : ` ${placeholder}`;
  const behind = negated ? `", " \\-\\-no\\-${roff(name)}` : value === "" ? "" : `"${roff(value)}"`;
  // What the pair's own text says of --no-NAME, the heading says here.
  const text = roff(brief.replace(/; --no-[a-z0-9-]+: not/, ""));
  return `.TP\n.BR \\-\\-${roff(name)} ${behind}\n${text}.${usual === "" ? "" : `\nDefault: ${roff(usual)}.`}`;
}

/** ringfsd(1). `date` is YYYY-MM-DD. */
export function manPage(version: string, date: string): string {
  const groups = grouped().map(([title, members]) => `.SS ${title}\n${members.map(manOption).join("\n")}`);
  return `.\\" Made from the option table by packaging/documents.ts.
.TH RINGFSD 1 "${date}" "ringfsd ${roff(version)}" "User Commands"
.SH NAME
ringfsd \\- share a directory with virtual machines over virtio\\-fs
.SH SYNOPSIS
.B ringfsd
.BI \\-\\-shared\\-dir " DIR"
.BI \\-\\-socket\\-path " PATH"
.RI [ OPTION ...]
.br
.B ringfsd
.BI \\-\\-share " tag=TAG,dir=DIR,socket=PATH" " ..."
.RI [ OPTION ...]
.br
.B ringfsd
.BI \\-\\-config " FILE"
.RI [ OPTION ...]
.br
.B ringfsd ctl
.RB [ \\-\\-socket
.IR PATH ]
.BR list | add | remove | limit | log\\-level | reload | ping
.RI [ WORD ...]
.SH DESCRIPTION
A vhost\\-user\\-fs back end: a hypervisor connects to its socket, and the guest's virtiofs driver finds the files of the
directory there. It takes the options of
.BR virtiofsd (1),
the old ones behind
.B \\-o
and
.BR \\-d ", " \\-f ", " \\-V
too. An option that is given twice counts as given last.
.P
Called by the name
.BR virtiofsd ,
it ends when its front end goes, and takes its log level from RUST_LOG, as that does.
.P
A share takes any option about its files and its device, without the dashes; options beside the shares are the defaults
of all. In the value of a share's option, a comma is written twice. A file for
.B \\-\\-config
has the same names; comments are allowed.
.SH OPTIONS
${groups.join("\n")}
.TP
.B \\-\\-help
Show all options.
.SH TELLING IT WHAT TO DO
.B ringfsd ctl
tells a ringfsd that was started with
.B \\-\\-control\\-socket
to list, add, remove and limit shares while it runs:
.B ringfsd ctl \\-\\-help
shows how. It asks at
.I /run/ringfsd/control.sock
unless
.B \\-\\-socket
says where.
.SH SIGNALS
.TP
.BR SIGTERM ", " SIGINT
Finish the requests in flight, for four seconds at most, and end.
.TP
.B SIGHUP
Open the log anew, and read the configuration file again: shares are added and removed, limits and the log level change. What
cannot change while it is served is said in the log. On a terminal: end.
.TP
.B SIGUSR1
The log is told which requests are in flight, how old they are and what they wait for.
.SH EXIT STATUS
0 after a signal, or a disconnect that was to end it; 1 where it cannot go on; 2 where the command line is wrong. Each failure
is one line on standard error.
.SH ENVIRONMENT
.TP
.BR LISTEN_PID ", " LISTEN_FDS ", " LISTEN_FDNAMES
Sockets from
.BR systemd.socket (5):
each is for the share that has its name as tag, and none of its own; one socket is for one share whatever its name.
.TP
.BR NOTIFY_SOCKET ", " WATCHDOG_USEC
Where readiness and status are told, and how often the watchdog hears that all loops answer:
.BR sd_notify (3).
.TP
.B JOURNAL_STREAM
Where it is standard error, lines begin with their priority.
.SH FILES
.TP
.I /etc/ringfsd/NAME.json
The configuration of
.IR ringfsd@NAME.service ,
whose socket is
.IR /run/ringfsd/NAME.sock .
.TP
.I /usr/share/qemu/vhost\\-user/50\\-ringfsd.json
How libvirt and others find it.
.SH EXAMPLES
.nf
ringfsd \\-\\-shared\\-dir /srv/vm1 \\-\\-socket\\-path /run/vm1.sock
qemu\\-system\\-x86_64 \\-m 1G \\e
  \\-object memory\\-backend\\-memfd,id=mem,size=1G,share=on \\-numa node,memdev=mem \\e
  \\-chardev socket,id=fs,path=/run/vm1.sock \\e
  \\-device vhost\\-user\\-fs\\-pci,chardev=fs,tag=myfs ...
.fi
.P
and in the guest
.P
.nf
mount \\-t virtiofs myfs /mnt
.fi
.SH SEE ALSO
.BR virtiofsd (1),
.BR qemu\\-system\\-x86_64 (1),
.BR systemd.socket (5)
`;
}

// --- completions

/** What is completed behind an option: a kind of thing, or words. */
function completes({ name, values }: Option): "dir" | "file" | "group" | readonly string[] {
  if (name === "shared-dir") return "dir";
  if (["socket-path", "config", "control-socket", "log-file"].includes(name)) return "file";
  if (name === "socket-group" || name === "control-group") return "group";
  if (name === "sandbox" || name === "seccomp") return ["none"];
  return values;
}

/** --name and --no-name of each, and what has no row in the table. */
function words(): string[] {
  return [...options().flatMap(({ name, negated }) => negated ? [name, `no-${name}`] : [name]), "help"].map((name) =>
    `--${name}`
  );
}

export function bashCompletion(): string {
  const cases = options().filter(({ placeholder, bare }) => placeholder !== "" && !bare).map((option) => {
    const what = completes(option);
    const reply = what === "dir"
      ? '-d -- "$value"'
      : what === "file"
      ? '-f -- "$value"'
      : what === "group"
      ? '-g -- "$value"'
      : `-W "${what.join(" ")}" -- "$value"`;
    const quotes = what === "dir" || what === "file" ? "compopt -o filenames 2> /dev/null\n      " : "";
    return `    --${option.name})\n      ${quotes}mapfile -t COMPREPLY < <(compgen ${reply})\n      return\n      ;;`;
  });
  return `# bash completion for ringfsd; made from the option table by packaging/documents.ts.
_ringfsd() {
  local option=\${COMP_WORDS[COMP_CWORD - 1]} value=\${COMP_WORDS[COMP_CWORD]}
  # In --name=value, "=" is a word of its own.
  if [ "$value" = "=" ]; then value=; elif [ "$option" = "=" ]; then option=\${COMP_WORDS[COMP_CWORD - 2]}; fi
  case $option in
${cases.join("\n")}
    --posix-acl)
      if [ "\${COMP_WORDS[COMP_CWORD - 1]}" = "=" ] || [ "\${COMP_WORDS[COMP_CWORD]}" = "=" ]; then
        mapfile -t COMPREPLY < <(compgen -W "${flags["posix-acl"].values.join(" ")}" -- "$value")
        return
      fi
      ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W "${words().join(" ")}" -- "$value")
}
complete -F _ringfsd ringfsd
`;
}

/** A text in single quotes in which _arguments sees no syntax. */
function zshText(text: string): string {
  return text.replace(/[[\]:\\]/g, "\\$&").replaceAll("'", "'\\''");
}

export function zshCompletion(): string {
  const specs = options().flatMap((option) => {
    const { name, placeholder, bare, negated, brief } = option;
    const text = zshText(brief);
    const what = completes(option);
    const action = what === "dir"
      ? "_directories"
      : what === "file"
      ? "_files"
      : what === "group"
      ? "_groups"
      : what.length > 0
      ? `(${what.join(" ")})`
      : " ";
    // "name=-" takes its value behind "=" only, "name=" either way.
    const value = placeholder === "" ? "" : `${bare ? "::" : ":"}${zshText(placeholder)}:${action}`;
    const takes = placeholder === "" ? "" : bare ? "=-" : "=";
    const one = `'*--${name}${takes}[${text}]${value}'`;
    return negated ? [one, `'*--no-${name}[${zshText(`Not ${name}`)}]'`] : [one];
  });
  return `#compdef ringfsd
# Made from the option table by packaging/documents.ts.
_arguments \\
  ${[...specs, "'--help[Show all options]'"].join(" \\\n  ")}
`;
}

/** A text in single quotes, for fish. */
function fishText(text: string): string {
  return `'${text.replace(/['\\]/g, "\\$&")}'`;
}

export function fishCompletion(): string {
  const lines = options().flatMap((option) => {
    const { name, placeholder, bare, negated, brief } = option;
    const what = completes(option);
    const kind = placeholder === "" || bare
      ? ""
      : what === "file"
      ? " -r -F"
      : what === "dir"
      ? " -x -a '(__fish_complete_directories)'"
      : what === "group"
      ? " -x -a '(__fish_complete_groups)'"
      : what.length > 0
      ? ` -x -a ${fishText(what.join(" "))}`
      : " -x";
    const one = `complete -c ringfsd -l ${name}${kind} -d ${fishText(brief)}`;
    return negated ? [one, `complete -c ringfsd -l no-${name} -d ${fishText(`Not ${name}`)}`] : [one];
  });
  return `# Made from the option table by packaging/documents.ts.
complete -c ringfsd -f
${lines.join("\n")}
complete -c ringfsd -l help -d 'Show all options'
`;
}

if (import.meta.main) {
  const made: Record<string, () => string> = {
    man: () => manPage("dev", new Date().toISOString().slice(0, 10)),
    bash: bashCompletion,
    zsh: zshCompletion,
    fish: fishCompletion,
  };
  const make = made[Deno.args[0] ?? ""];
  if (make === undefined) {
    console.error(`documents.ts: which one? ${Object.keys(made).join(", ")}`);
    Deno.exit(2);
  }
  Deno.stdout.writeSync(new TextEncoder().encode(make()));
}
