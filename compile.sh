#!/bin/sh
# Makes dist/ringfsd, one executable: needs sh, npm (once, for Deno and esbuild), and git for the version, if it is a clone.
# RINGFSD_COMPILE=deno|elf|sh forces a way of packing; packaging/build.ts says which there are.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
deno=$("$here/tools/deno.sh")
exec "$deno" run --allow-all --quiet --config "$here/deno.json" "$here/packaging/build.ts" "$@"
