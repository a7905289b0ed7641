# shellcheck shell=bash disable=SC2034,SC2154 # shares its variables with what sources it
# Sourced by launch-pd-workers.sh: the command of each worker, and that of the gateway.
#
# SGLang's flags are those of 0.5.23, vLLM's those of 0.32.0.

# preset NAME VALUE: a variable of the workers that the caller may have set already.
preset() { variables+=("$1=${!1:-$2}"); }

# plan INDEX: the worker's role, port, variables and command.
plan() {
    local i=$1 gpus
    if ((i < n_prefill)); then
        role=prefill nth=$i port=$((prefill_port + i)) size=$prefill_tp
        gpus=("${prefill_gpus[@]:nth * size:size}")
        role_args=(${prefill_extra[@]+"${prefill_extra[@]}"})
    else
        role=decode nth=$((i - n_prefill)) size=$decode_tp
        port=$((decode_port + nth))
        gpus=("${decode_gpus[@]:nth * size:size}")
        role_args=(${decode_extra[@]+"${decode_extra[@]}"})
    fi
    name=$role-$nth bootstrap='' variables=() command=()
    if [[ $device == gpu ]]; then
        variables+=("CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${gpus[*]}")")
    else
        preset OMP_NUM_THREADS 1
        preset OMP_WAIT_POLICY passive
        # Engines wait by spinning: two on one core starve each other for seconds.
        if command -v taskset > /dev/null; then command+=(taskset -c $((i % $(nproc)))); fi
    fi
    if [[ $engine == vllm ]]; then plan_vllm; else plan_sglang; fi
    command+=(${engine_args[@]+"${engine_args[@]}"} "${extra[@]}" "${role_args[@]}")
}

plan_vllm() {
    local connector=NixlConnector kv_role=kv_producer more=
    [[ $role == prefill ]] || kv_role=kv_consumer
    if [[ $backend == mooncake ]]; then
        connector=MooncakeConnector
        if [[ $role == prefill ]]; then
            bootstrap=$((bootstrap_port + nth))
            variables+=("VLLM_MOONCAKE_BOOTSTRAP_PORT=$bootstrap")
        fi
        local protocol=${MOONCAKE_PROTOCOL:-}
        [[ $device == gpu || -n $protocol ]] || protocol=tcp
        [[ -z $protocol ]] ||
            more=",\"kv_connector_extra_config\":{\"mooncake_protocol\":\"$protocol\"}"
    else
        # Some versions of vLLM take a port for each rank.
        variables+=("VLLM_NIXL_SIDE_CHANNEL_HOST=$reached"
            "VLLM_NIXL_SIDE_CHANNEL_PORT=$((side_port + i * (prefill_tp > decode_tp ? prefill_tp : decode_tp)))")
    fi
    command+=("$python" -m vllm.entrypoints.grpc_server --model "$model" --host "$host" --port "$port")
    if ((size > 1)); then command+=(--tensor-parallel-size "$size"); fi
    if [[ $device == cpu ]]; then
        preset VLLM_CPU_OMP_THREADS_BIND nobind
        preset VLLM_ENABLE_V1_MULTIPROCESSING 0
        preset VLLM_HOST_IP "$reached"
        preset SMG_VLLM_SERVICER_WARMUP off
        preset UCX_TLS tcp
        [[ $reached != 127.0.0.1 ]] || preset UCX_NET_DEVICES lo
        preset NIXL_PTHR_DELAY_US 1000
        more+=',"kv_buffer_device":"cpu"'
        command+=(--dtype float32 --enforce-eager --kv-cache-memory-bytes 512M)
    fi
    command+=(--kv-transfer-config "{\"kv_connector\":\"$connector\",\"kv_role\":\"$kv_role\"$more}")
    local max_len=${MAX_MODEL_LEN:-}
    [[ $device == gpu || -n $max_len ]] || max_len=4096
    [[ -z $max_len ]] || command+=(--max-model-len "$max_len")
    [[ -z ${GPU_MEM_UTIL:-} ]] || command+=(--gpu-memory-utilization "$GPU_MEM_UTIL")
    [[ -z ${MODEL_NAME:-} ]] || command+=(--served-model-name "$MODEL_NAME")
}

plan_sglang() {
    local transfer=$backend
    if [[ $device == cpu ]]; then
        preset SGLANG_USE_CPU_ENGINE 1
        if [[ $transfer == mooncake ]]; then transfer=mooncake_tcp; preset MC_FORCE_TCP 1; fi
    fi
    command+=("$python" -m sglang.launch_server --model-path "$model" --host "$host" --port "$port"
        --disaggregation-mode "$role" --disaggregation-transfer-backend "$transfer")
    if [[ $role == prefill ]]; then
        bootstrap=$((bootstrap_port + nth))
        command+=(--disaggregation-bootstrap-port "$bootstrap")
    fi
    if ((size > 1)); then command+=(--tp-size "$size"); fi
    if [[ $device == cpu ]]; then
        command+=(--device cpu --attention-backend torch_native --dtype float32
            --max-total-tokens 8192 --max-running-requests 16 --mem-fraction-static 0.1
            --disable-overlap-schedule --skip-server-warmup --sleep-on-idle)
        [[ $role == prefill ]] || command+=(--disaggregation-decode-retraction-backup none)
    fi
    [[ -z ${MAX_MODEL_LEN:-} ]] || command+=(--context-length "$MAX_MODEL_LEN")
    [[ -z ${GPU_MEM_UTIL:-} ]] || command+=(--mem-fraction-static "$GPU_MEM_UTIL")
    [[ -z ${MODEL_NAME:-} ]] || command+=(--served-model-name "$MODEL_NAME")
}

bracketed() { if [[ $1 == *:* ]]; then echo "[$1]"; else echo "$1"; fi; }

gateway_command() {
    local i line
    printf 'python -m app \\\n  --pd-disaggregation \\\n'
    for ((i = 0; i < n_workers; i++)); do
        plan "$i"
        line="--$role $scheme://$(bracketed "$reached"):$port${bootstrap:+ $bootstrap}"
        printf '  %s \\\n' "$line"
    done
    [[ $engine == sglang ]] || printf '  --model-path %q \\\n' "$model"
    printf '  --host 0.0.0.0 \\\n  --port %s\n' "${GATEWAY_PORT:-30000}"
}
