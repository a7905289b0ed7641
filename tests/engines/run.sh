#!/bin/sh
# Runs the end-to-end suite against real workers on this machine's CPU: environment and
# model (once), the pair, the gateway, pytest; then ends what it started.
#
# Usage: [ENGINE=NAME] run.sh [PYTEST_ARGS...]
#
# Environment, with defaults:
#   ENGINE=all         sglang, vllm-nixl, vllm-mooncake, or all of them in turn
#   TANDEM_ENGINES_DIR=$HOME/.cache/tandem-engines   environments (4 GB each), model, logs
#   SGLANG_VENV=$TANDEM_ENGINES_DIR/sglang           other environments to use
#   VLLM_VENV=$TANDEM_ENGINES_DIR/vllm
#   PYTHON_GATEWAY=.venv/bin/python                  what runs the gateway and pytest
#   GATEWAY_PORT=32300
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
repo=$(CDPATH='' cd -- "$here/../.." && pwd)
cd "$repo"
# shellcheck source=SCRIPTDIR/processes.sh
. "$here/processes.sh"
engine=${ENGINE:-all}
if [ "$engine" = all ]; then
    failed=
    for engine in sglang vllm-nixl vllm-mooncake; do
        echo "== $engine"
        ENGINE=$engine "$here/run.sh" "$@" || failed="$failed $engine"
    done
    [ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
    exit 0
fi
engines=${TANDEM_ENGINES_DIR:-$HOME/.cache/tandem-engines}
model=$engines/smollm2-135m-instruct
run=$engines/run-$engine
python=${PYTHON_GATEWAY:-.venv/bin/python}
port=${GATEWAY_PORT:-32300}
[ -x "$python" ] || { echo "$python is missing: run make install first" >&2; exit 1; }
case $engine in
sglang) venv=${SGLANG_VENV:-$engines/sglang} ;;
vllm-nixl | vllm-mooncake) venv=${VLLM_VENV:-$engines/vllm} ;;
*) echo "ENGINE=$engine: sglang, vllm-nixl, vllm-mooncake or all" >&2; exit 2 ;;
esac
mkdir -p "$run"
"$here/setup-${engine%%-*}.sh" "$venv"
VENV=$venv "$here/make-model.sh" "$model"

finish() {
    status=$?
    trap - EXIT INT TERM
    end "$run/gateway.pid"
    "$here/stop-workers.sh" "$run"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

export VENV="$venv"
case $engine in
sglang) "$here/start-sglang.sh" "$model" "$run" ;;
*) "$here/start-vllm.sh" "${engine#vllm-}" "$model" "$run" ;;
esac
# A line for each worker: NAME URL [BOOTSTRAP].
{ read -r _ prefill bootstrap; read -r _ decode; } < "$run/urls"

start_gateway() {
    # shellcheck disable=SC2086
    setsid "$python" -m app --prefill "$prefill" $bootstrap --decode "$decode" "$@" \
        --host 127.0.0.1 --port "$port" > "$run/gateway.log" 2>&1 < /dev/null &
    note "$run/gateway.pid" $!
}
case $engine in
sglang) start_gateway --pd-disaggregation ;;
*) start_gateway --model-path "$model" ;;
esac
tries=0
until "$python" -c 'import sys, urllib.request
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1], timeout=2)' \
    "http://127.0.0.1:$port/readiness" 2>/dev/null; do
    tries=$((tries + 1))
    if ! alive "$run/gateway.pid" || [ $tries -gt 60 ]; then
        echo "the gateway is not ready; the end of $run/gateway.log:" >&2
        tail -20 "$run/gateway.log" >&2
        exit 1
    fi
    sleep 0.5
done
alive "$run/gateway.pid" || { echo "something else answers on port $port" >&2; exit 1; }
echo "gateway ready on port $port; logs in $run"

"$python" -m pytest tests/e2e -v -rP -p no:cacheprovider --timeout 120 \
    --gateway-url "http://127.0.0.1:$port" --worker-urls "$prefill $decode" \
    --engine "$engine" --engine-run "$run" --engine-model "$model" "$@"
