#!/bin/sh
# Makes dist/ringfsd_VERSION_ARCH.deb, and dist/ringfsd before that if it is not there: needs dpkg-deb, and what compile.sh needs.
# The same commit gives the same package: SOURCE_DATE_EPOCH is the commit's time unless it is set.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
[ -x "$here/dist/ringfsd" ] || [ $# -gt 0 ] || "$here/compile.sh"
deno=$("$here/tools/deno.sh")
exec "$deno" run --allow-all --quiet --config "$here/deno.json" "$here/packaging/deb.ts" "$@"
