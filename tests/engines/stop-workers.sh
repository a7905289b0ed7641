#!/bin/sh
# Ends the workers that a start script started in RUN_DIR, and nothing else.
#
# Usage: stop-workers.sh RUN_DIR
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
[ $# -eq 1 ] || { sed -n '2,4p' "$0"; exit 2; }
# shellcheck source=SCRIPTDIR/processes.sh
. "$here/processes.sh"
for file in "$1"/prefill-*.pid "$1"/decode-*.pid; do
    [ -f "$file" ] && set -- "$@" "$file"
done
shift
[ $# -eq 0 ] || end "$@"
