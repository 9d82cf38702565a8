#!/bin/sh
# ringfsd in one file: this script, then the program's JavaScript, then the Deno runtime (binary from here on: do not edit).
# At first start it puts the runtime into a cache directory, under its SHA-256; later starts find it there.
set -efu
runtime_offset=@RUNTIME_OFFSET@
runtime_size=@RUNTIME_SIZE@
runtime_sha256=@RUNTIME_SHA256@
name=ringfsd-deno-$runtime_sha256

fail() {
  echo "ringfsd: $*" >&2
  exit 127
}

# $0 is a path after execve(2), and perhaps a bare file name after `sh ringfsd`.
case $0 in
/*) self=$0 ;;
*) self=$PWD/$0 ;;
esac
[ -r "$self" ] || fail "cannot read $self: start it by its path"
uid=$(id -u)

# True for a directory, not a symbolic link, that is ours and that no one else may write to. An ACL that lets others
# write shows as group's w.
trusted() {
  # shellcheck disable=SC2046
  set -- $(LC_ALL=C ls -ldn "$1" 2>/dev/null)
  case ${1:-} in
  d????-??-*) [ "${3:-}" = "$uid" ] ;;
  *) false ;;
  esac
}

# True when the runtime lies in $1, whole and executable (on a noexec mount it is not).
present() {
  [ -x "$1/$name" ] && [ ! -L "$1/$name" ] && [ "$(wc -c <"$1/$name")" -eq $runtime_size ]
}

# Writes the runtime into $1 under a name of its own, and gives it the final name once it is whole and checked.
extract() {
  draft=$(mktemp "$1/draft.XXXXXX" 2>/dev/null) || return 1
  trap 'rm -f "$draft"' EXIT
  trap 'exit 1' HUP INT TERM
  if tail -c +$((runtime_offset + 1)) "$self" >"$draft" 2>/dev/null &&
    [ "$(sha256sum <"$draft")" = "$runtime_sha256  -" ] &&
    chmod 0700 "$draft" && [ -x "$draft" ] && mv -f "$draft" "$1/$name"; then
    trap - EXIT HUP INT TERM
  else
    rm -f "$draft"
    trap - EXIT HUP INT TERM
    return 1
  fi
}

# Leaves the runtime's path in $runtime, if the runtime is in directory $1 or can be put there.
use() {
  # All tries stay silent: the next directory may do.
  (umask 077 && mkdir -p "$1") 2>/dev/null || return 1
  trusted "$1" || return 1
  present "$1" || extract "$1" || return 1
  runtime=$1/$name
}

# Per-user places first; the last is a new directory each time, for a /tmp in which others take our names.
find_runtime() {
  runtime=
  [ -n "${RINGFSD_CACHE:-}" ] && use "$RINGFSD_CACHE" && return
  [ -n "${XDG_CACHE_HOME:-}" ] && use "$XDG_CACHE_HOME/ringfsd" && return
  [ -n "${HOME:-}" ] && use "$HOME/.cache/ringfsd" && return
  [ "$uid" = 0 ] && use /var/cache/ringfsd && return
  use "/run/user/$uid/ringfsd" && return
  for parent in "${TMPDIR:-/tmp}" /tmp /var/tmp /dev/shm; do
    use "$parent/ringfsd-$uid" && return
    private=$(mktemp -d "$parent/ringfsd.XXXXXX" 2>/dev/null) || continue
    use "$private" && return
    rmdir "$private"
  done
  fail "no directory to put its runtime into (80 MB, executable): set RINGFSD_CACHE to one of yours"
}

find_runtime
# What Deno needs at its start; the program puts the user's own values back.
# shellcheck disable=SC2043
for variable in @ENV_NAMES@; do
  if eval "[ -n \"\${$variable+set}\" ]"; then eval "export RINGFSD_SAVED_$variable=\"\$$variable\""; fi
done
export RINGFSD_SELF="$self" @ENV_VALUES@
exec "$runtime" @DENO_ARGS@ "$@"
