#!/bin/sh
# Prints the path of a Deno that can run this project, and sees to it that node_modules is complete.
# Taken in this order: $DENO, a recent enough deno on PATH, the one that package.json pins (from npm).
set -eu

minimum=2.9.6
case ${DENO:-} in [!/]*/*) DENO=$PWD/$DENO ;; esac
cd "$(dirname "$0")/.."
# A copy of the lock file, written last: while an npm is at work here, it is missing.
stamp=node_modules/.ringfsd-lock.json

fail() {
  echo "tools/deno.sh: $*" >&2
  exit 1
}

# True when version $1 is of the same major version as $minimum and not older.
suits() {
  case $1 in [0-9]*.[0-9]*.[0-9]*) ;; *) return 1 ;; esac
  [ "${1%%.*}" = "${minimum%%.*}" ] &&
    [ "$(printf '%s\n' "$minimum" "$1" | sort -V | head -n 1)" = "$minimum" ]
}

is_complete() {
  cmp -s package-lock.json "$stamp"
}

# The ELF itself, not the npm package's JavaScript shim: one process fewer, and the packer wants the ELF.
bundled_deno() {
  for elf in node_modules/@deno/*/deno; do
    [ -x "$elf" ] && echo "$PWD/$elf" && return
  done
  return 1
}

# True when someone ran npm here by hand: each pinned package is there in its pinned version.
installed_by_hand() {
  sed -n 's/^ *"\([^"]*\)": "\([0-9][^"]*\)",\{0,1\}$/\1 \2/p' package.json | while read -r name version; do
    [ "$name" = version ] || grep -q "\"version\": \"$version\"" "node_modules/$name/package.json" 2>/dev/null || exit 1
  done && bundled_deno >/dev/null
}

run_npm() {
  command -v npm >/dev/null || fail "npm is needed to fetch what package.json names: install node and npm, then run this again"
  echo "fetching Deno, esbuild and libraries with npm (some 40 MB, once) ..." >&2
  # Errors only: npm warns about settings of the user's that are none of our business. Descriptor 9 is the lock.
  log=$(npm "$@" --loglevel=error 2>&1 9<&-) || {
    gist=$(echo "$log" | sed -e 's/^npm [a-zA-Z!]* *//' -e '/^at /d' -e '/^$/d' | head -n 4 | tr '\n' ';')
    fail "npm $1 failed in $PWD: $gist it needs the npm registry and write access to this folder"
  }
}

ensure_packages() {
  is_complete && return
  # The lock is on a file that is always there, so it also works in a tree that one may not write to.
  exec 9<package-lock.json
  if command -v flock >/dev/null; then flock 9; fi
  if ! is_complete; then
    installed_by_hand || run_npm ci
    if [ -w node_modules ]; then
      cp package-lock.json "$stamp.$$" && mv "$stamp.$$" "$stamp"
    fi
  fi
  exec 9<&-
}

ensure_packages
if [ -n "${DENO:-}" ]; then
  path=$(command -v "$DENO") || fail "DENO=$DENO cannot be run: name a deno executable or unset DENO"
elif path=$(command -v deno) && version=$(deno --version 2>/dev/null) &&
  version=${version#deno } && suits "${version%%[!0-9.]*}"; then
  :
else
  path=$(bundled_deno) || fail "npm has no Deno for $(uname -m): install deno >= $minimum and set DENO to its path"
fi
echo "$path"
