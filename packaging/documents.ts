/**
 * What is generated from the option table (cli/flags.ts): the man page, and completions for bash, zsh and fish.
 * Usage: documents.ts man|bash|zsh|fish
 */
import { type Command, COMMANDS } from "../cli/commands.ts";
import { flags } from "../cli/flags.ts";
import { wordsOf } from "../cli/help.ts";
import { grouped, GROUPS, type Option, optionsOf } from "../cli/option_table.ts";
import { USAGE } from "../cli/options.ts";

export type { Option };

/** All options of the daemon, in the order of the table. */
export function options(): Option[] {
  return optionsOf(flags);
}

/** The commands, each with its name alone and its options. */
function commands(): { word: string; command: Command; options: Option[] }[] {
  return [...COMMANDS].map(([word, command]) => ({ word, command, options: optionsOf(command.flags) }));
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

function manExample([line, what]: readonly [string, string]): string {
  return `.TP\n.B ${roff(line)}\n${roff(what)}`;
}

/** A command, with those of its options that are not the daemon's. */
function manCommand({ word, command, options: all }: ReturnType<typeof commands>[number]): string {
  const rows = command.flags as Record<string, unknown>;
  const own = all.filter(({ name }) => rows[name] !== (flags as Record<string, unknown>)[name]);
  const words = wordsOf(command).trim();
  return [
    `.SS ringfsd ${roff(word)}${words === "" ? "" : ` ${roff(words)}`} [OPTION...]`,
    roff(command.text.replaceAll("\n\n", "\n")),
    ...own.map(manOption),
    ...(command.examples ?? []).map(manExample),
  ].join("\n");
}

/** ringfsd(1). `date` is YYYY-MM-DD. */
export function manPage(version: string, date: string): string {
  const groups = grouped(options(), GROUPS).map(([title, members]) => {
    return `.SS ${title}\n${members.map(manOption).join("\n")}`;
  });
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
.B ringfsd
.IR COMMAND " ..."
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
.BR \\-\\-help ", " \\-\\-help=all
Show the options that most people need, or all of them, and the commands.
.SH COMMANDS
${commands().map(manCommand).join("\n")}
.SH SIGNALS
.TP
.BR SIGTERM ", " SIGINT
Finish the requests in flight, for four seconds at most, and end; at a second SIGINT, without waiting.
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
${(USAGE.examples ?? []).map(manExample).join("\n")}
.P
With QEMU, on the host and in the guest:
.P
.nf
ringfsd \\-\\-shared\\-dir /srv/vm1 \\-\\-socket\\-path /run/vm1.sock
qemu\\-system\\-x86_64 \\-m 1G \\e
  \\-object memory\\-backend\\-memfd,id=mem,size=1G,share=on \\-numa node,memdev=mem \\e
  \\-chardev socket,id=fs,path=/run/vm1.sock \\e
  \\-device vhost\\-user\\-fs\\-pci,chardev=fs,tag=myfs ...
mount \\-t virtiofs myfs /mnt
.fi
.SH SEE ALSO
.BR virtiofsd (1),
.BR qemu\\-system\\-x86_64 (1),
.BR systemd.socket (5)
`;
}

// --- completions

type Completed = "dir" | "file" | "group" | "none" | readonly string[];

/** What is completed behind an option: a kind of thing, or words. */
function completes({ values, placeholder }: Option): Completed {
  if (values.length > 0) return values;
  return kindOf(placeholder);
}

/** What a placeholder stands for. */
function kindOf(placeholder: string): Completed {
  if (/^DIR$/.test(placeholder)) return "dir";
  if (/^(PATH|FILE|SOCKET)$/.test(placeholder)) return "file";
  return placeholder === "GROUP" ? "group" : "none";
}

/** --name and --no-name of each, and what has no row in the table. */
function words(all: readonly Option[]): string[] {
  const names = all.flatMap(({ name, negated }) => negated ? [name, `no-${name}`] : [name]);
  return [...names, "help", "help=all"].map((name) => `--${name}`);
}

function bashReply(what: Completed): string {
  if (what === "dir") return '-d -- "$value"';
  if (what === "file") return '-f -- "$value"';
  if (what === "group") return '-g -- "$value"';
  return what === "none" ? '-W "" -- "$value"' : `-W "${what.join(" ")}" -- "$value"`;
}

/** What bash offers for one command: behind its options, else their names and what may stand beside them. */
function bashFunction(name: string, all: readonly Option[], word: Completed): string {
  const quoting = (what: Completed) => what === "dir" || what === "file";
  const cases = all.filter(({ placeholder, bare }) => placeholder !== "" && !bare).map((option) => {
    const what = completes(option);
    const quotes = quoting(what) ? "compopt -o filenames 2> /dev/null\n      " : "";
    const reply = `mapfile -t COMPREPLY < <(compgen ${bashReply(what)})`;
    return `    --${option.name})\n      ${quotes}${reply}\n      return\n      ;;`;
  });
  const bare = all.filter((option) => option.bare).map((option) => {
    return `    --${option.name})
      if [ "\${COMP_WORDS[COMP_CWORD - 1]}" = "=" ] || [ "\${COMP_WORDS[COMP_CWORD]}" = "=" ]; then
        mapfile -t COMPREPLY < <(compgen -W "${option.values.join(" ")}" -- "$value")
        return
      fi
      ;;`;
  });
  const beside = word === "none" ? "" : `  if [[ $value != -* ]]; then
    ${quoting(word) ? "compopt -o filenames 2> /dev/null\n    " : ""}mapfile -t COMPREPLY < <(compgen ${
    bashReply(word)
  })
    return
  fi
`;
  return `${name}() {
  local option=\${COMP_WORDS[COMP_CWORD - 1]} value=\${COMP_WORDS[COMP_CWORD]}
  # In --name=value, "=" is a word of its own.
  if [ "$value" = "=" ]; then value=; elif [ "$option" = "=" ]; then option=\${COMP_WORDS[COMP_CWORD - 2]}; fi
  case $option in
${[...cases, ...bare, "    *) ;;"].join("\n")}
  esac
${beside}  mapfile -t COMPREPLY < <(compgen -W "${words(all).join(" ")}" -- "$value")
}
`;
}

/** What may stand beside a command's options. */
function beside({ words }: Command): Completed {
  return words === undefined ? "none" : kindOf(words.placeholder);
}

export function bashCompletion(): string {
  const names = commands().map(({ word }) => word);
  const ofCommands = commands().map(({ word, command, options: all }) => {
    return bashFunction(`_ringfsd_${word}`, all, beside(command));
  });
  return `# bash completion for ringfsd; made from the option tables by packaging/documents.ts.
${bashFunction("_ringfsd_daemon", options(), "none")}
${ofCommands.join("\n")}
_ringfsd() {
  if [ "$COMP_CWORD" = 1 ] && [[ \${COMP_WORDS[1]} != -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "${[...names, ...words(options())].join(" ")}" -- "\${COMP_WORDS[1]}")
    return
  fi
  case \${COMP_WORDS[1]} in
${names.map((word) => `    ${word}) _ringfsd_${word} ;;`).join("\n")}
    *) _ringfsd_daemon ;;
  esac
}
complete -F _ringfsd ringfsd
`;
}

/** A text in single quotes in which _arguments sees no syntax. */
function zshText(text: string): string {
  return text.replace(/[[\]:\\]/g, "\\$&").replaceAll("'", "'\\''");
}

function zshAction(what: Completed): string {
  const actions: Record<string, string> = { dir: "_directories", file: "_files", group: "_groups", none: " " };
  return typeof what === "string" ? actions[what] : `(${what.join(" ")})`;
}

function zshSpecs(all: readonly Option[]): string[] {
  const specs = all.flatMap((option) => {
    const { name, placeholder, bare, negated, brief } = option;
    const text = zshText(brief);
    // "name=-" takes its value behind "=" only, "name=" either way.
    const action = zshAction(completes(option));
    const value = placeholder === "" ? "" : `${bare ? "::" : ":"}${zshText(placeholder)}:${action}`;
    const takes = placeholder === "" ? "" : bare ? "=-" : "=";
    const one = `'*--${name}${takes}[${text}]${value}'`;
    return negated ? [one, `'*--no-${name}[${zshText(`Not ${name}`)}]'`] : [one];
  });
  return [...specs, "'--help=-[Show what most people need, or all]::WHAT:(all)'"];
}

export function zshCompletion(): string {
  const list = commands();
  const cases = list.map(({ word, command, options: all }) => {
    const what = beside(command);
    const own = what === "none" ? [] : [`'*:${zshText(command.words!.placeholder)}:${zshAction(what)}'`];
    return `    ${word})
      shift words
      ((CURRENT--))
      _arguments \\
        ${[...zshSpecs(all), ...own].join(" \\\n        ")}
      return
      ;;`;
  });
  return `#compdef ringfsd
# Made from the option tables by packaging/documents.ts.
_ringfsd() {
  if ((CURRENT == 2)) && [[ $words[2] != -* ]]; then
    local -a commands=(${list.map(({ word, command }) => `\n      '${word}:${zshText(command.brief)}'`).join("")}
    )
    _describe command commands
  fi
  case $words[2] in
${cases.join("\n")}
  esac
  _arguments \\
    ${zshSpecs(options()).join(" \\\n    ")}
}
_ringfsd "$@"
`;
}

/** A text in single quotes, for fish. */
function fishText(text: string): string {
  return `'${text.replace(/['\\]/g, "\\$&")}'`;
}

function fishValues(what: Completed): string {
  if (what === "none") return " -x";
  if (what === "file") return " -r -F";
  if (what === "dir") return " -x -a '(__fish_complete_directories)'";
  if (what === "group") return " -x -a '(__fish_complete_groups)'";
  return ` -x -a ${fishText(what.join(" "))}`;
}

/** The options of one command; `when` is the condition that it is the one. */
function fishOptions(all: readonly Option[], when: string): string[] {
  return all.flatMap((option) => {
    const { name, placeholder, bare, negated, brief } = option;
    const kind = placeholder === "" || bare ? "" : fishValues(completes(option));
    const one = `complete -c ringfsd -n ${when} -l ${name}${kind} -d ${fishText(brief)}`;
    return negated ? [one, `complete -c ringfsd -n ${when} -l no-${name} -d ${fishText(`Not ${name}`)}`] : [one];
  });
}

export function fishCompletion(): string {
  const list = commands();
  const names = list.map(({ word }) => word).join(" ");
  const daemon = fishText(`not __fish_seen_subcommand_from ${names}`);
  const lines = list.flatMap(({ word, command, options: all }) => {
    const when = fishText(`__fish_seen_subcommand_from ${word}`);
    const what = beside(command);
    return [
      `complete -c ringfsd -n __fish_is_first_arg -a ${word} -d ${fishText(command.brief)}`,
      ...(what === "none"
        ? []
        : [`complete -c ringfsd -n ${when}${fishValues(what).replace(" -x", "").replace(" -r", "")}`]),
      ...fishOptions(all, when),
    ];
  });
  return `# Made from the option tables by packaging/documents.ts.
complete -c ringfsd -f
${[...lines, ...fishOptions(options(), daemon)].join("\n")}
complete -c ringfsd -l help -d 'Show the options that most people need'
complete -c ringfsd -l help-all -d 'Show all options'
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
