#!/bin/sh
# Starts a real SGLang prefill and decode worker (HTTP, loopback) on this machine's
# CPU, waits until both are healthy, and prints a line for each: NAME URL [BOOTSTRAP].
#
# Usage: VENV=DIR start-sglang.sh MODEL_DIR RUN_DIR
#
# RUN_DIR gets NAME.log, NAME.pid and `urls`. Environment, with defaults:
#   N_PREFILL=1 N_DECODE=1   how many of each (about 2.6 GiB of memory for one)
#   BASE_PORT=32210    HTTP ports, one after another: prefills, then decodes;
#                      a prefill's bootstrap port is its port + 100
#   MODEL_NAME=smollm2  MAX_TOKENS=8192 (KV pool)  WAIT_S=300
#   PIN=1              a core for each worker (0: not)      EXTRA_ARGS=   PREFILL_ARGS=
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
[ $# -eq 2 ] || { sed -n '2,13p' "$0"; exit 2; }
# shellcheck source=SCRIPTDIR/processes.sh
. "$here/processes.sh"
model=$(CDPATH='' cd -- "$1" && pwd)
mkdir -p "$2"
run=$(CDPATH='' cd -- "$2" && pwd)
: "${VENV:?set VENV to the folder that setup-sglang.sh made}"
py=$(CDPATH='' cd -- "$VENV" && pwd)/bin/python
n_prefill=${N_PREFILL:-1}
n_decode=${N_DECODE:-1}
base=${BASE_PORT:-32210}
wait_s=${WAIT_S:-300}
for file in "$run"/*.pid; do
    if alive "$file"; then echo "already running: $file" >&2; exit 1; fi
done
cores=$(nproc)
pin=
if [ "${PIN:-1}" = 1 ] && command -v taskset >/dev/null && [ "$cores" -gt 1 ]; then pin=1; fi
export SGLANG_USE_CPU_ENGINE=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MC_FORCE_TCP=1

healthy() {
    "$py" - "$1" 2>/dev/null <<'PY'
import sys, urllib.request
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1] + "/health", timeout=3)
PY
}

# worker NAME INDEX FLAGS...
# --sleep-on-idle: an idle scheduler spins otherwise. --load-snapshot-publish-interval 1:
# /v1/loads shows each step, so that a test can time what a worker notices.
worker() {
    name=$1
    index=$2
    shift 2
    # shellcheck disable=SC2086
    setsid ${pin:+taskset -c $((index % cores))} "$py" -W ignore -m sglang.launch_server \
        --model-path "$model" --served-model-name "${MODEL_NAME:-smollm2}" \
        --host 127.0.0.1 --port $((base + index)) --device cpu \
        --attention-backend torch_native --dtype float32 \
        --mem-fraction-static 0.1 --max-total-tokens "${MAX_TOKENS:-8192}" \
        --max-running-requests 16 --disable-overlap-schedule --skip-server-warmup --sleep-on-idle \
        --disaggregation-transfer-backend mooncake_tcp --load-snapshot-publish-interval 1 \
        "$@" ${EXTRA_ARGS:-} > "$run/$name.log" 2>&1 < /dev/null &
    note "$run/$name.pid" $!
}

started_s=$(date +%s)
i=0
while [ $i -lt "$n_prefill" ]; do
    # shellcheck disable=SC2086
    worker "prefill-$i" $i --disaggregation-mode prefill \
        --disaggregation-bootstrap-port $((base + i + 100)) ${PREFILL_ARGS:-}
    i=$((i + 1))
done
i=0
while [ $i -lt "$n_decode" ]; do
    # The other kinds of retraction backup pin their memory through CUDA.
    worker "decode-$i" $((n_prefill + i)) --disaggregation-mode decode \
        --disaggregation-decode-retraction-backup none
    i=$((i + 1))
done

: > "$run/urls"
i=0
while [ $i -lt $((n_prefill + n_decode)) ]; do
    if [ $i -lt "$n_prefill" ]; then
        name=prefill-$i
        bootstrap=" $((base + i + 100))"
    else
        name=decode-$((i - n_prefill))
        bootstrap=
    fi
    url=http://127.0.0.1:$((base + i))
    until healthy "$url"; do
        if ! alive "$run/$name.pid" || [ $(($(date +%s) - started_s)) -gt "$wait_s" ]; then
            echo "$name did not start; the end of $run/$name.log:" >&2
            tail -20 "$run/$name.log" >&2
            "$here/stop-workers.sh" "$run"
            exit 1
        fi
        sleep 1
    done
    echo "$name $url$bootstrap" | tee -a "$run/urls"
    i=$((i + 1))
done
echo "healthy after $(($(date +%s) - started_s)) s"
