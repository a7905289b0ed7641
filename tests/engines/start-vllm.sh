#!/bin/sh
# Starts a real vLLM prefill and decode worker (gRPC, loopback) on this machine's CPU,
# waits until both are healthy, and prints a line for each: NAME URL [BOOTSTRAP].
#
# Usage: VENV=DIR start-vllm.sh nixl|mooncake MODEL_DIR RUN_DIR
#
# RUN_DIR gets NAME.log, NAME.pid and `urls`. Environment, with defaults:
#   N_PREFILL=1 N_DECODE=1   how many of each (about 2.4 GiB of memory for one)
#   BASE_PORT=32220    gRPC ports, one after another: prefills, then decodes;
#                      a worker's NIXL side channel is its port + 500, a prefill's
#                      Mooncake bootstrap server its port + 100
#   MODEL_NAME=smollm2  MAX_LEN=4096  KV_BYTES=512M  LEASE_S=30  WAIT_S=300
#   PIN=1              a core for each worker (0: not)      EXTRA_ARGS=   PREFILL_ARGS=
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
[ $# -eq 3 ] || { sed -n '2,14p' "$0"; exit 2; }
# shellcheck source=SCRIPTDIR/processes.sh
. "$here/processes.sh"
connector=$1
model=$(CDPATH='' cd -- "$2" && pwd)
mkdir -p "$3"
run=$(CDPATH='' cd -- "$3" && pwd)
: "${VENV:?set VENV to the folder that setup-vllm.sh made}"
py=$(CDPATH='' cd -- "$VENV" && pwd)/bin/python
n_prefill=${N_PREFILL:-1}
n_decode=${N_DECODE:-1}
base=${BASE_PORT:-32220}
wait_s=${WAIT_S:-300}
for file in "$run"/*.pid; do
    if alive "$file"; then echo "already running: $file" >&2; exit 1; fi
done
# vLLM waits by spinning: a second after each step, and as long as a prefill holds
# blocks that nobody fetched. Workers on one core starve each other for seconds, and so
# do more threads than cores; hence a core, one thread and one process for each.
cores=$(nproc)
pin=
if [ "${PIN:-1}" = 1 ] && command -v taskset >/dev/null && [ "$cores" -gt 1 ]; then pin=1; fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OMP_WAIT_POLICY=passive
export VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_ENABLE_V1_MULTIPROCESSING=0
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
# Half a minute of warm-up for shapes that the tests do not need.
export SMG_VLLM_SERVICER_WARMUP=off
# What moved between the workers is in their logs after a second, not after ten.
export VLLM_LOG_STATS_INTERVAL=1
# The transfer stays on loopback.
export VLLM_HOST_IP=127.0.0.1 VLLM_NIXL_SIDE_CHANNEL_HOST=127.0.0.1
export VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT="${LEASE_S:-30}"
export UCX_TLS=tcp UCX_NET_DEVICES=lo NIXL_PTHR_DELAY_US=1000

healthy() {
    "$py" - "$1" 2>/dev/null <<'PY'
import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    request = health_pb2.HealthCheckRequest(service="vllm.grpc.engine.VllmEngine")
    answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=3)
sys.exit(answer.status != health_pb2.HealthCheckResponse.SERVING)
PY
}

# worker NAME INDEX ROLE FLAGS...
worker() {
    name=$1
    index=$2
    role=$3
    shift 3
    port=$((base + index))
    case $connector in
    nixl) kv="\"kv_connector\":\"NixlConnector\",\"kv_connector_extra_config\":{\"kv_lease_duration\":${LEASE_S:-30}}" ;;
    mooncake) kv="\"kv_connector\":\"MooncakeConnector\",\"engine_id\":\"$name\",\"kv_connector_extra_config\":{\"mooncake_protocol\":\"tcp\"}" ;;
    *) echo "$connector: nixl or mooncake" >&2; exit 2 ;;
    esac
    # shellcheck disable=SC2086
    VLLM_NIXL_SIDE_CHANNEL_PORT=$((port + 500)) VLLM_MOONCAKE_BOOTSTRAP_PORT=$((port + 100)) \
        setsid ${pin:+taskset -c $((index % cores))} "$py" -W ignore -m vllm.entrypoints.grpc_server \
        --model "$model" --served-model-name "${MODEL_NAME:-smollm2}" \
        --host 127.0.0.1 --port "$port" --dtype float32 --enforce-eager \
        --max-model-len "${MAX_LEN:-4096}" --kv-cache-memory-bytes "${KV_BYTES:-512M}" \
        --kv-transfer-config "{$kv,\"kv_role\":\"$role\",\"kv_buffer_device\":\"cpu\"}" \
        --enable-log-requests "$@" ${EXTRA_ARGS:-} > "$run/$name.log" 2>&1 < /dev/null &
    note "$run/$name.pid" $!
}

started_s=$(date +%s)
i=0
while [ $i -lt "$n_prefill" ]; do
    # shellcheck disable=SC2086
    worker "prefill-$i" $i kv_producer ${PREFILL_ARGS:-}
    i=$((i + 1))
done
i=0
while [ $i -lt "$n_decode" ]; do
    worker "decode-$i" $((n_prefill + i)) kv_consumer
    i=$((i + 1))
done

: > "$run/urls"
i=0
while [ $i -lt $((n_prefill + n_decode)) ]; do
    bootstrap=
    if [ $i -lt "$n_prefill" ]; then
        name=prefill-$i
        if [ "$connector" = mooncake ]; then bootstrap=" $((base + i + 100))"; fi
    else
        name=decode-$((i - n_prefill))
    fi
    until healthy "127.0.0.1:$((base + i))"; do
        if ! alive "$run/$name.pid" || [ $(($(date +%s) - started_s)) -gt "$wait_s" ]; then
            echo "$name did not start; the end of $run/$name.log:" >&2
            tail -20 "$run/$name.log" >&2
            "$here/stop-workers.sh" "$run"
            exit 1
        fi
        sleep 1
    done
    echo "$name grpc://127.0.0.1:$((base + i))$bootstrap" | tee -a "$run/urls"
    i=$((i + 1))
done
echo "healthy after $(($(date +%s) - started_s)) s"
