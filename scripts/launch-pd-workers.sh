#!/usr/bin/env bash
# Starts prefill and decode workers of one model on this machine, waits until they are
# ready, and prints the gateway command that fits. Ctrl-C ends them all; so does the
# death of one.
#
# Usage: launch-pd-workers.sh [--dry-run] vllm|sglang MODEL [-- ENGINE_ARG...]
#
# MODEL is a folder or a hub id, ENGINE_ARGs go to every worker. --dry-run prints the
# commands and starts nothing. Environment, with defaults:
#   KV_BACKEND       vllm: nixl or mooncake (nixl); sglang: its transfer backend (mooncake)
#   N_PREFILL=1 N_DECODE=1        how many workers of each kind
#   TP_SIZE=1        GPUs a worker; PREFILL_TP_SIZE and DECODE_TP_SIZE before it
#   PREFILL_GPU=0,.. DECODE_GPU=..  ids of GPUs; default: from 0 on, prefill first
#   DEVICE=auto      gpu, or cpu: small settings, for trying things out; auto: gpu if
#                    nvidia-smi lists one
#   HOST=127.0.0.1   where workers listen; ADVERTISE_HOST: how others reach them
#   PREFILL_PORT     50051 (vllm), 8000 (sglang), one after another
#   DECODE_PORT      after the ports of prefill
#   BOOTSTRAP_PORT=8998           of the first prefill worker (sglang, Mooncake)
#   SIDE_CHANNEL_PORT=5600        of the first worker (NIXL of vLLM)
#   MODEL_NAME       name that clients ask for; MAX_MODEL_LEN, GPU_MEM_UTIL: as engines say
#   EXTRA_ARGS PREFILL_ARGS DECODE_ARGS   more engine arguments, split at spaces
#   MOONCAKE_PROTOCOL             of vLLM's Mooncake, such as tcp or rdma
#   PYTHON=python    of the engine's environment
#   LOG_DIR          a new folder under /tmp; WAIT_S=1800, STOP_S=20
#   GATEWAY_PORT=30000            in the printed command
set -euo pipefail

usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }
refuse() { printf 'launch-pd-workers: %s\n' "$@" >&2; exit 2; }

dry_run=
words=()
engine_args=()
while (($#)); do
    case $1 in
    -h | --help) usage; exit 0 ;;
    --dry-run) dry_run=1 ;;
    --) shift; engine_args=("$@"); break ;;
    -*) refuse "$1: unknown, see --help" ;;
    *) words+=("$1") ;;
    esac
    shift
done
((${#words[@]} == 2)) || { usage >&2; exit 2; }
engine=${words[0]} model=${words[1]}

n_prefill=${N_PREFILL:-1} n_decode=${N_DECODE:-1} tp=${TP_SIZE:-1}
prefill_tp=${PREFILL_TP_SIZE:-$tp} decode_tp=${DECODE_TP_SIZE:-$tp}
host=${HOST:-127.0.0.1}
case $host in 0.0.0.0 | ::) reached=127.0.0.1 ;; *) reached=$host ;; esac
reached=${ADVERTISE_HOST:-$reached}
case $engine in
vllm) backend=${KV_BACKEND:-nixl} scheme=grpc prefill_port=${PREFILL_PORT:-50051} ;;
sglang) backend=${KV_BACKEND:-mooncake} scheme=http prefill_port=${PREFILL_PORT:-8000} ;;
*) refuse "$engine: vllm or sglang" ;;
esac
case $engine-$backend in
vllm-nixl | vllm-mooncake | sglang-?*) ;;
*) refuse "KV_BACKEND=$backend: nixl or mooncake" ;;
esac
bootstrap_port=${BOOTSTRAP_PORT:-${MOONCAKE_BOOTSTRAP_PORT:-8998}}
side_port=${SIDE_CHANNEL_PORT:-5600}
wait_s=${WAIT_S:-1800} stop_s=${STOP_S:-20}
for given in "N_PREFILL=$n_prefill" "N_DECODE=$n_decode" "TP_SIZE=$prefill_tp" "TP_SIZE=$decode_tp" \
    "PREFILL_PORT=$prefill_port" "DECODE_PORT=${DECODE_PORT:-1}" "BOOTSTRAP_PORT=$bootstrap_port" \
    "SIDE_CHANNEL_PORT=$side_port" "WAIT_S=$wait_s" "GATEWAY_PORT=${GATEWAY_PORT:-30000}"; do
    [[ ${given#*=} =~ ^[1-9][0-9]{0,5}$ ]] || refuse "$given: a number from 1 on is needed"
done
[[ $stop_s =~ ^[0-9]{1,5}$ ]] || refuse "STOP_S=$stop_s: a number is needed"
decode_port=${DECODE_PORT:-$((prefill_port + n_prefill))}
n_workers=$((n_prefill + n_decode))

device=${DEVICE:-auto}
if [[ $device == auto ]]; then
    device=cpu
    if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then device=gpu; fi
fi
[[ $device == gpu || $device == cpu ]] || refuse "DEVICE=$device: auto, gpu or cpu"
python=${PYTHON:-$(command -v python || command -v python3 || echo python)}

IFS=', ' read -ra prefill_gpus <<< "${PREFILL_GPU:-$(seq -s, 0 $((n_prefill * prefill_tp - 1)))}"
first_left=$((n_prefill * prefill_tp))
IFS=', ' read -ra decode_gpus <<< \
    "${DECODE_GPU:-$(seq -s, $first_left $((first_left + n_decode * decode_tp - 1)))}"
read -ra extra <<< "${EXTRA_ARGS:-} ${EXTRA_VLLM_ARGS:-}"
read -ra prefill_extra <<< "${PREFILL_ARGS:-}"
read -ra decode_extra <<< "${DECODE_ARGS:-}"
if [[ $device == gpu ]]; then
    ((${#prefill_gpus[@]} >= n_prefill * prefill_tp)) ||
        refuse "PREFILL_GPU: $((n_prefill * prefill_tp)) GPUs are needed, ${#prefill_gpus[@]} are named"
    ((${#decode_gpus[@]} >= n_decode * decode_tp)) ||
        refuse "DECODE_GPU: $((n_decode * decode_tp)) GPUs are needed, ${#decode_gpus[@]} are named"
fi

# The commands themselves.
# shellcheck source=SCRIPTDIR/pd-worker-commands.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/pd-worker-commands.sh"

# what_is_missing: a line for each thing that would make a start fail.
what_is_missing() {
    local i port ports=() modules=()
    command -v "$python" > /dev/null || { echo "$python is missing; PYTHON names another"; return; }
    command -v setsid > /dev/null || echo "setsid is missing (Debian: util-linux)"
    if [[ -d $model ]]; then
        [[ -f $model/config.json || -f $model/params.json ]] || echo "$model: no config.json in it"
    elif ! [[ $model =~ ^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)?$ ]]; then
        echo "$model: no such folder, and no hub id"
    fi
    case $engine-$backend in
    vllm-nixl) modules=(vllm smg_grpc_servicer grpc nixl) ;;
    vllm-mooncake) modules=(vllm smg_grpc_servicer grpc mooncake) ;;
    sglang-mooncake*) modules=(sglang mooncake) ;;
    sglang-nixl) modules=(sglang nixl) ;;
    *) modules=(sglang) ;;
    esac
    for ((i = 0; i < n_workers; i++)); do
        plan "$i"
        ports+=("$port" ${bootstrap:+"$bootstrap"})
        for variable in "${variables[@]}"; do
            [[ $variable != VLLM_NIXL_SIDE_CHANNEL_PORT=* ]] || ports+=("${variable#*=}")
        done
    done
    "$python" - "$host" "${modules[*]}" "${ports[@]}" << 'PY'
import collections, importlib.util, socket, sys
HINTS = {"smg_grpc_servicer": "smg-grpc-servicer[vllm]", "grpc": "grpcio",
         "mooncake": "mooncake-transfer-engine"}
host, modules, *ports = sys.argv[1:]
for name in modules.split():
    if importlib.util.find_spec(name) is None:
        print(f"{sys.executable} has no module {name}: pip install {HINTS.get(name, name)}")
for port, n_uses in collections.Counter(map(int, ports)).items():
    if n_uses > 1 or port > 65535:
        print(f"port {port}: needed {n_uses} times" if n_uses > 1 else f"port {port}: too high")
        continue
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            print(f"port {port} of {host}: {error.strerror}")
PY
}

# is_ready PORT: asks the worker as the gateway does.
is_ready() {
    "$python" - "$scheme" "$(bracketed "$reached"):$1" 2> /dev/null << 'PY'
import sys, urllib.request
scheme, place = sys.argv[1:]
if scheme == "http":
    ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    sys.exit(ask(f"http://{place}/health", timeout=3).status != 200)
import grpc
with grpc.insecure_channel(place, options=[("grpc.enable_http_proxy", 0)]) as channel:
    answer = channel.unary_unary("/vllm.grpc.engine.VllmEngine/HealthCheck")(b"", timeout=3)
sys.exit(answer[:2] != b"\x08\x01")  # HealthCheckResponse.healthy
PY
}

say() { printf '%s\n' "$*" >&2; }

# shellcheck disable=SC2317,SC2329 # called by the trap
any_alive() {
    local pid
    for pid in ${pids[@]+"${pids[@]}"}; do
        if kill -0 "$pid" 2> /dev/null; then return 0; fi
    done
    return 1
}

pids=() names=()
# shellcheck disable=SC2317,SC2329 # called by the trap
end_all() {
    local status=$? waited=0 pid
    trap - EXIT
    # A second Ctrl-C waits no longer.
    trap 'stop_s=0' INT TERM HUP
    for pid in ${pids[@]+"${pids[@]}"}; do kill -TERM "$pid" 2> /dev/null || true; done
    while ((waited < stop_s * 5)) && any_alive; do
        sleep 0.2
        waited=$((waited + 1))
    done
    # Each worker leads a process group; what its death left behind goes with it.
    for pid in ${pids[@]+"${pids[@]}"}; do kill -KILL -- "-$pid" 2> /dev/null || true; done
    ((${#pids[@]} == 0)) || say "ended ${#pids[@]} workers; their logs are in $log_dir"
    exit "$status"
}

# say_dead: names the worker that is gone, with the end of its log; false: all are there.
say_dead() {
    local i
    for i in "${!pids[@]}"; do
        if ! kill -0 "${pids[i]}" 2> /dev/null; then
            say "${names[i]} has ended; the end of $log_dir/${names[i]}.log:"
            tail -n 20 "$log_dir/${names[i]}.log" >&2
            return 0
        fi
    done
    return 1
}

if [[ -n $dry_run ]]; then
    for ((i = 0; i < n_workers; i++)); do
        plan "$i"
        printf '# %s\n' "$name"
        printf '%q ' "${variables[@]}" "${command[@]}"
        printf '\n'
    done
    printf '# gateway\n'
    gateway_command
    exit 0
fi

missing=$(what_is_missing)
if [[ -n $missing ]]; then
    say "launch-pd-workers: nothing was started:"
    say "$missing"
    exit 1
fi
log_dir=${LOG_DIR:-$(mktemp -d /tmp/pd-workers.XXXXXX)}
mkdir -p "$log_dir"
[[ $device == gpu ]] || say "DEVICE=cpu: small settings on the CPU, to try things out"
trap end_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
for ((i = 0; i < n_workers; i++)); do
    plan "$i"
    setsid env "${variables[@]}" "${command[@]}" > "$log_dir/$name.log" 2>&1 < /dev/null &
    pids+=($!)
    names+=("$name")
    say "$name: process $!, port $port, log $log_dir/$name.log"
done

started_s=$SECONDS said_s=$SECONDS
for ((i = 0; i < n_workers; i++)); do
    plan "$i"
    until is_ready "$port"; do
        if say_dead; then exit 1; fi
        if ((SECONDS - started_s > wait_s)); then
            say "$name is not ready after $wait_s s (WAIT_S); see $log_dir/$name.log"
            exit 1
        fi
        if ((SECONDS - said_s >= 10)); then
            said_s=$SECONDS
            say "waiting for $name, $((SECONDS - started_s)) s: $(tail -n 1 "$log_dir/$name.log")"
        fi
        sleep 1
    done
    # What answers could be another process on the same port.
    if say_dead; then exit 1; fi
    say "$name is ready after $((SECONDS - started_s)) s"
done
printf 'All %s workers are ready. The gateway for them:\n\n' "$n_workers"
gateway_command
printf '\nCtrl-C ends the workers.\n'
# Not wait -n: bash 5.2 misses a worker that died just before it.
until say_dead; do sleep 1; done
exit 1
