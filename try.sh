#!/bin/bash
# try.sh [DIR] [--check]: shares DIR (or a sample folder that it makes) with a Linux guest and leaves you at the guest's shell.
# With --check it has the guest exercise the share instead, compares the outcome on the host, and exits with 0 or 1.
# Guests: QEMU with KVM where that works, else User-Mode Linux, else QEMU without KVM; RINGFSD_GUEST=kvm|uml|tcg decides.
# RINGFSD names another daemon to try, with its options.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { echo "try.sh: $*" >&2; }
die() { say "$*"; exit "${status:-1}"; }

dir='' check=''
for argument in "$@"; do
  case $argument in
    --check) check=1 ;;
    -h | --help) sed -n '2,5s/^# //p' "$0"; exit 0 ;;
    -*) status=2 die "unknown option $argument: use ./try.sh [DIR] [--check]" ;;
    *) [ -z "$dir" ] || status=2 die "more than one folder given: use ./try.sh [DIR] [--check]"; dir=$argument ;;
  esac
done
[ -z "$dir" ] || [ -d "$dir" ] || status=2 die "cannot share $dir: it is not a folder"
[ -z "$dir" ] || dir=$(cd "$dir" && pwd)
[ -z "$check" ] || [ -z "$dir" ] || [ -w "$dir" ] || die "cannot check $dir: you may not write to it"
case ${RINGFSD_GUEST:-} in
  '' | kvm | uml | tcg) ;;
  *) status=2 die "RINGFSD_GUEST=$RINGFSD_GUEST is no guest: use kvm, uml or tcg" ;;
esac
[ -n "$check" ] || [ -t 0 ] || status=2 die "the guest's shell needs a terminal, and standard input is none: use --check"

run=$(mktemp -d "${TMPDIR:-/tmp}/ringfsd-try.XXXXXX")
chmod 755 "$run" # other users of the guest come by here
daemon='' guest='' terminal=''
[ -n "$check" ] || terminal=$(stty -g)

end() { # PID: end a process of ours politely, and by force when it has not gone after 5 s
  [ -n "$1" ] && kill "$1" 2> /dev/null || return 0
  for _ in $(seq 50); do
    kill -0 "$1" 2> /dev/null || return 0
    sleep 0.1
  done
  kill -KILL "$1" 2> /dev/null || true
}
clean_up() {
  local status=$?
  trap '' INT TERM HUP
  end "$guest"
  end "$daemon"
  [ -z "$terminal" ] || stty "$terminal" 2> /dev/null || true
  chmod -R u+rwX "$run" 2> /dev/null || true
  rm -rf "$run"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

compile() {
  local program=$here/dist/ringfsd sources
  sources=(main.ts worker.ts ffi vq vhost fs cli packaging compile.sh deno.json package-lock.json)
  if [ -x "$program" ]; then
    [ -n "$(cd "$here" && find "${sources[@]}" -newer "$program" -type f -print -quit 2> /dev/null)" ] || return 0
  fi
  say "compiling dist/ringfsd"
  "$here/compile.sh" > "$run/compile.log" 2>&1 < /dev/null || { cat "$run/compile.log" >&2; die "./compile.sh failed: see above"; }
}

kvm_works() { # a bounded boot: a nested /dev/kvm may open and then not run a stock kernel
  [ -r /dev/kvm ] && [ -w /dev/kvm ] || return 1
  command -v qemu-system-x86_64 > /dev/null || [ "$(id -u)" = 0 ] || return 1
  "$here/tests/guest/setup.sh" kvm > /dev/null || return 1
  mkdir -p "$run/probe"
  echo true > "$run/probe/true.sh"
  timeout 10 "$here/tests/guest/boot.sh" kvm --dir "$run/probe" --run "$run/probe/true.sh" < /dev/null 2>&1 |
    grep -q '^@ringfsd exit 0' || { say "KVM is there, but does not run a stock kernel"; return 1; }
}

choose() { # prints the kind of guest; an ordinary user takes what needs no installing
  if [ -n "${RINGFSD_GUEST:-}" ]; then
    echo "$RINGFSD_GUEST"
  elif kvm_works; then
    echo kvm
  elif "$here/tests/guest/setup.sh" uml > /dev/null; then
    echo uml
  else
    echo tcg
  fi
}

[ -n "${RINGFSD:-}" ] || compile
kind=$(choose)
"$here/tests/guest/setup.sh" "$kind" > /dev/null
case $kind in
  kvm) name="QEMU with KVM" ;;
  uml) name="User-Mode Linux" ;;
  tcg) name="QEMU without KVM" ;;
esac

if [ -z "$dir" ]; then
  dir=$run/sample
  mkdir -p "$dir/notes"
  echo "This file is on the host. Change it here or there." > "$dir/hello.txt"
  seq 1 1000 > "$dir/numbers.txt"
  echo "a folder" > "$dir/notes/one.txt"
  ln -s hello.txt "$dir/link"
fi

if [ -n "$check" ]; then
  deno=$("$here/tools/deno.sh")
  say "checking $dir with $name"
  TMPDIR=$run "$deno" run -A --quiet "$here/tests/guest/check.ts" "$kind" "$dir" < /dev/null &
  guest=$!
  wait "$guest" && exit 0 || exit $?
fi

read -ra command <<< "${RINGFSD:-$here/dist/ringfsd}"
"${command[@]}" --socket-path "$run/fs.sock" --shared-dir "$dir" --tag share > "$run/daemon.log" 2>&1 < /dev/null &
daemon=$!
for _ in $(seq 100); do
  [ ! -S "$run/fs.sock" ] || break
  kill -0 "$daemon" 2> /dev/null || { cat "$run/daemon.log" >&2; die "${command[0]} ended at once: see above"; }
  sleep 0.1
done
[ -S "$run/fs.sock" ] || { cat "$run/daemon.log" >&2; die "${command[0]} made no socket in 10 s: see above"; }

cat > "$run/greeting" << END

This is a Linux guest ($name). The host's folder $dir
is mounted here on /mnt through ringfsd: what you do in it happens on the host.
Leave with "exit" or Ctrl-D.

END
say "booting a guest ($name) that shares $dir"
"$here/tests/guest/boot.sh" "$kind" --dir "$run" --socket "$run/fs.sock" --tag share --shell "$run/greeting" <&0 &
guest=$!
status=0
wait "$guest" || status=$?
guest=''
[ "$status" = 0 ] || { cat "$run/daemon.log" >&2; die "the guest ended with status $status: the daemon's log is above"; }
