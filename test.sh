#!/bin/bash
# test.sh [STAGE…]: checks everything: fmt lint check unit faults fuzz soak compile sandbox packaging uml qemu linux6.12 e2e try. The last line counts the tests.
# As root it installs what the tests need (saying so). Without root, outside CI, tests in guests that cannot be set up are skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
stages=(fmt lint check unit faults fuzz soak compile sandbox packaging uml qemu linux6.12 e2e try)
[ $# -eq 0 ] || stages=("$@")
export NO_COLOR=1
passed=0 failed=0 skipped=0 failures=()
scratch=$(mktemp -d "${TMPDIR:-/tmp}/ringfsd-test.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

count() { # STAGE PASSED FAILED SKIPPED
  passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
  if [ "$3" -gt 0 ]; then failures+=("$1"); fi
  echo "--- $1: $2 passed, $3 failed, $4 skipped ($((SECONDS - begun)) s)"
}

stage() { # NAME COMMAND…: a stage that is one test
  local name=$1
  shift
  begun=$SECONDS
  echo "=== $name"
  if "$@" < /dev/null; then count "$name" 1 0 0; else count "$name" 0 1 0; fi
}

tests() { # NAME SECONDS ARGUMENT…: a stage that is a run of deno test, counted by its summary
  local name=$1 limit=$2 status=0 summary counts=()
  shift 2
  begun=$SECONDS
  echo "=== $name"
  # The limit is for a run that hangs: each test has deadlines of its own.
  timeout -k 10 "$limit" "$deno" test -A --no-prompt "$@" < /dev/null 2>&1 | tee "$scratch/log" || status=$?
  # "ok | 10 passed (2 steps) | 1 failed | 3 ignored (4s)": the last such line, for tests may print one as well.
  summary=$(grep -aE '^(ok|FAILED) \| [0-9]+ passed' "$scratch/log" | tail -n 1 || true)
  for word in passed failed ignored; do
    counts+=("$(grep -oE "[0-9]+ $word" <<< "$summary" | head -n 1 | cut -d ' ' -f 1 || true)")
  done
  # A run that crashed, or failed outside of any test, is a failure more.
  if [ "$status" != 0 ] && { [ -z "$summary" ] || [ "${counts[1]:-0}" = 0 ]; }; then counts[1]=1; fi
  count "$name" "${counts[0]:-0}" "${counts[1]:-0}" "${counts[2]:-0}"
}

packages() { # what the unit tests want: a C compiler and the kernel's headers, to compare structs with
  ! echo '#include <linux/fuse.h>' | cc -E - > /dev/null 2>&1 || return 0
  local line="apt-get install --no-install-recommends gcc libc6-dev linux-libc-dev"
  if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "no C compiler or no kernel headers: the tests that want them are skipped; to have them run 'sudo $line'"
    return 0
  fi
  echo "installing for the tests: $line"
  apt-get -qq -o DPkg::Lock::Timeout=300 update < /dev/null || true
  # shellcheck disable=SC2086 # the line is words
  DEBIAN_FRONTEND=noninteractive $line -qq -y -o DPkg::Lock::Timeout=300 > "$scratch/log" 2>&1 < /dev/null ||
    { tail -n 5 "$scratch/log"; echo "could not be installed: the tests that want them are skipped"; }
}

virtiofsd() { # the peer whose --help is compared with ours, where Debian has 1.13 or newer
  local version
  [ "$(id -u)" = 0 ] && command -v apt-cache > /dev/null && ! [ -e /usr/libexec/virtiofsd ] && [ -z "${VIRTIOFSD:-}" ] || return 0
  version=$(apt-cache policy virtiofsd 2> /dev/null | sed -n 's/^ *Candidate: //p')
  dpkg --compare-versions "${version:-0}" ge 1.13 || return 0
  echo "installing for the tests: apt-get install --no-install-recommends virtiofsd"
  DEBIAN_FRONTEND=noninteractive apt-get install --no-install-recommends virtiofsd -qq -y \
    -o DPkg::Lock::Timeout=300 > "$scratch/log" 2>&1 < /dev/null || tail -n 5 "$scratch/log"
}

packages
virtiofsd
deno=$(tools/deno.sh) || { echo "0 passed, 1 failed, 0 skipped"; exit 1; }

for name in "${stages[@]}"; do
  case $name in
    fmt) stage fmt "$deno" fmt --check --quiet ;;
    lint) stage lint "$deno" lint --quiet ;;
    check) stage check "$deno" check --quiet . ;;
    unit) tests unit 900 --ignore=tests/e2e,tests/packaging,tests/faults,tests/fuzz,tests/soak,tests/sandbox ;;
    faults) tests faults 400 tests/faults ;;
    fuzz) RINGFSD_TEST_FUZZ_SECONDS=60 tests fuzz 600 tests/fuzz ;;
    soak) tests "soak, a minute of it" 300 tests/soak ;;
    sandbox) tests sandbox 400 tests/sandbox ;;
    compile) stage compile ./compile.sh ;;
    packaging) tests packaging 600 tests/packaging ;;
    uml) tests "e2e in User-Mode Linux" 600 tests/e2e/uml.test.ts ;;
    qemu) tests "e2e in QEMU" 900 tests/e2e/qemu.test.ts ;;
    linux6.12) tests "e2e with Linux 6.12 in QEMU" 900 tests/e2e/linux_6_12.test.ts ;;
    e2e) # whatever else there is
      mapfile -t files < <(find tests/e2e -name '*.test.ts' ! -name uml.test.ts ! -name qemu.test.ts ! -name linux_6_12.test.ts | sort)
      [ ${#files[@]} -eq 0 ] || tests "e2e, further tests" 1200 "${files[@]}"
      ;;
    try) stage "try.sh --check" timeout -k 30 300 ./try.sh --check ;;
    *) echo "test.sh: unknown stage $name: use ${stages[*]}" >&2; exit 2 ;;
  esac
done

[ "$failed" = 0 ] || printf 'failed: %s\n' "${failures[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
