#!/bin/sh
# Runs the end-to-end suite against real SGLang workers on this machine's CPU:
# environment and model (once), the pair, the gateway, pytest; then ends what it started.
#
# Usage: run.sh [PYTEST_ARGS...]
#
# Environment, with defaults:
#   TANDEM_ENGINES_DIR=$HOME/.cache/tandem-engines   environment (4 GB), model, logs
#   SGLANG_VENV=$TANDEM_ENGINES_DIR/sglang           another environment to use
#   PYTHON_GATEWAY=.venv/bin/python                  what runs the gateway and pytest
#   GATEWAY_PORT=32300
set -eu

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
repo=$(CDPATH= cd -- "$here/../.." && pwd)
cd "$repo"
. "$here/processes.sh"
engines=${TANDEM_ENGINES_DIR:-$HOME/.cache/tandem-engines}
venv=${SGLANG_VENV:-$engines/sglang}
model=$engines/smollm2-135m-instruct
run=$engines/run
python=${PYTHON_GATEWAY:-.venv/bin/python}
port=${GATEWAY_PORT:-32300}
prefill=http://127.0.0.1:32210
bootstrap_port=32310
decode=http://127.0.0.1:32211
mkdir -p "$run"

[ -x "$python" ] || { echo "$python is missing: run make install first" >&2; exit 1; }
"$here/setup-sglang.sh" "$venv"
VENV=$venv "$here/make-model.sh" "$model"

finish() {
    status=$?
    trap - EXIT INT TERM
    end "$run/gateway.pid"
    "$here/stop-sglang.sh" "$run"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

VENV=$venv BASE_PORT=32210 "$here/start-sglang.sh" "$model" "$run"

setsid "$python" -m app --pd-disaggregation --prefill "$prefill" "$bootstrap_port" \
    --decode "$decode" --host 127.0.0.1 --port "$port" > "$run/gateway.log" 2>&1 < /dev/null &
note "$run/gateway.pid" $!
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
    --gateway-url "http://127.0.0.1:$port" --worker-urls "$prefill $decode" "$@"
