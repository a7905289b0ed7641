#!/bin/sh
# Makes a Python 3.11 environment with a real SGLang that serves on the CPU, with
# prefill/decode disaggregation over Mooncake's TCP transport.
#
# Usage: setup-sglang.sh VENV_DIR        (about two minutes and 4 GB; again: at once)
#
# PYTHON names another interpreter (default python3.11). Mooncake needs Debian's
# libibverbs1; run as root this script installs it.
#
# SGLang's CUDA packages are left out. In the place of sgl_kernel (published for
# CUDA only) and torchvision (no build fits this torch) stand the two small modules
# of stand_ins/: with them SGLang takes its native torch paths.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
[ $# -eq 1 ] || { sed -n '2,12p' "$0"; exit 2; }
venv=$1
if [ -z "${PYTHON:-}" ]; then
    PYTHON=$(command -v python3.11 || command -v python3) || { echo "no python3.11" >&2; exit 1; }
fi
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = 3.11 ] || { echo "$PYTHON is Python $version, 3.11 is needed" >&2; exit 1; }

TORCH=2.13.0
SGLANG=0.5.23
MOONCAKE=0.3.13.post1
stamp="torch==$TORCH sglang==$SGLANG mooncake==$MOONCAKE"

if ! ldconfig -p 2>/dev/null | grep -q libibverbs.so.1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq --no-install-recommends libibverbs1
    else
        echo "install libibverbs1 first (Mooncake links against it)" >&2
        exit 1
    fi
fi

if [ ! -x "$venv/bin/python" ]; then
    rm -rf "$venv"
    mkdir -p "$(dirname -- "$venv")"
    "$PYTHON" -m venv "$venv"
fi
py="$venv/bin/python"
if [ "$(cat "$venv/real-sglang.stamp" 2>/dev/null || true)" = "$stamp" ]; then
    echo "ready: $venv"
    exit 0
fi
rm -f "$venv/real-sglang.stamp"
pip() { "$py" -m pip --disable-pip-version-check "$@"; }
echo "installing torch $TORCH" >&2
pip install -qq "torch==$TORCH"
rm -rf "$venv/wheels"
pip download -qq --no-deps -d "$venv/wheels" "sglang==$SGLANG"
"$py" "$here/cpu_requirements.py" "$venv"/wheels/sglang-*.whl > "$venv/requirements.txt"
echo "installing sglang $SGLANG and what it needs on a CPU" >&2
pip install -qq "torch==$TORCH" -r "$venv/requirements.txt"
pip install -qq --no-deps "$venv"/wheels/sglang-*.whl triton xgrammar==0.2.7 \
    "mooncake-transfer-engine-non-cuda==$MOONCAKE" gguf
# What pip may have drawn in does not fit this torch and breaks `transformers`.
pip uninstall -qq -y torchvision torchaudio torchcodec >/dev/null 2>&1 || true
rm -rf "$venv/wheels"
site=$("$py" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
cp -r "$here/stand_ins/sgl_kernel" "$here/stand_ins/torchvision" "$site/"
SGLANG_USE_CPU_ENGINE=1 "$py" -c 'import sglang, mooncake.engine
import sglang.srt.entrypoints.http_server, sglang.srt.managers.scheduler
print("sglang", sglang.__version__)' 2>"$venv/check.log" || {
    cat "$venv/check.log" >&2
    exit 1
}
printf '%s\n' "$stamp" > "$venv/real-sglang.stamp"
echo "ready: $venv"
