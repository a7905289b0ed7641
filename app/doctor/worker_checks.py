"""What can be wrong with one worker, of either engine."""

from __future__ import annotations

from collections.abc import Iterator

from app.doctor.finding import Finding, error, note, warning
from app.doctor.reading import Premises, Reading
from app.doctor.sglang_checks import check_sglang
from app.doctor.vllm_checks import check_vllm
from app.upstream.sglang_info import role_conflict
from app.workers.worker import Engine, Role, WorkerInfo

_COUNTERS = (
    "num_running_reqs",
    "num_waiting_reqs",
    "num_used_tokens",
    "max_total_num_tokens",
    "num_waiting_uncached_tokens",
)
"""What a scheduler wants of both engines; SGLang 0.5.23 and vLLM's servicer 0.14.1 have all."""
_START_FLAGS = {
    (Engine.SGLANG, Role.PREFILL): "start it with --disaggregation-mode prefill",
    (Engine.SGLANG, Role.DECODE): "start it with --disaggregation-mode decode",
    (Engine.SGLANG, Role.REGULAR): "start it without --disaggregation-mode",
    (Engine.VLLM, Role.PREFILL): 'start it with "kv_role":"kv_producer" in --kv-transfer-config',
    (Engine.VLLM, Role.DECODE): 'start it with "kv_role":"kv_consumer" in --kv-transfer-config',
}


def check_worker(reading: Reading, premises: Premises) -> Iterator[Finding]:
    """Judge one worker by itself."""
    yield from _gateway_view(reading)
    yield from _presence(reading)
    yield from _refused_calls(reading)
    info = reading.info
    if info is None:
        return
    yield from _role(reading, info)
    yield from _capacity(reading, info)
    yield from _counters(reading)
    if reading.spec.engine is Engine.SGLANG:
        yield from check_sglang(reading, info, premises)
    else:
        yield from check_vllm(reading, info)


def _gateway_view(reading: Reading) -> Iterator[Finding]:
    seen = reading.gateway
    if seen is None:
        return
    status, why = seen.get("status"), seen.get("status_reason") or "no reason given"
    if status == "draining":
        yield note(
            "draining", "The gateway is draining it.", "It gets no new request.", reading.url
        )
    elif status != "ready":
        yield error(
            "gateway_has_it_not_ready",
            f"The gateway has it as {status}: {str(why).rstrip('.')}.",
            "It gets no request until the gateway's own probe and registration succeed.",
            reading.url,
        )
    breaker = seen.get("breaker")
    state = breaker.get("state") if isinstance(breaker, dict) else None
    if state not in (None, "closed"):
        yield warning(
            "circuit_not_closed",
            f"Its circuit breaker is {str(state).replace('_', ' ')}: requests to it failed.",
            "The gateway's log says how. The breaker tries it again by itself.",
            reading.url,
        )
    labels = seen.get("labels")
    old = labels.get("version") if isinstance(labels, dict) else None
    new = reading.info.version if reading.info is not None else None
    if old and new and old != new:
        yield warning(
            "gateway_knows_an_older_one",
            f"It runs version {new}; the gateway still knows it as {old}.",
            "Remove it from the gateway and add it anew, or restart the gateway.",
            reading.url,
        )


def _presence(reading: Reading) -> Iterator[Finding]:
    probe = reading.probe
    if probe.ok:
        return
    if probe.is_silence:
        yield error(
            "silent",
            f"It takes connections and does not answer: {probe.error.rstrip('.')}.",
            "It is stopped, or hangs: restart it if its log does not move.",
            reading.url,
        )
    elif reading.is_reachable:
        yield error(
            "not_ready",
            f"Its probe fails: {probe.error.rstrip('.')}.",
            "Look at its log: it may still load the model, or shut down.",
            reading.url,
        )
    elif reading.gateway is not None and reading.gateway.get("status") == "ready":
        yield warning(
            "unreachable_from_here",
            f"It cannot be reached from here, while the gateway has it as ready. {probe.error}",
            "Run the doctor where the gateway runs to have it checked.",
            reading.url,
        )
    else:
        yield error(
            "unreachable",
            probe.error.removeprefix("No connection: "),
            "Is it running, are scheme, host and port right, and do network and firewalls let "
            "the gateway through?",
            reading.url,
        )


def _refused_calls(reading: Reading) -> Iterator[Finding]:
    if not reading.is_reachable:
        return
    for name in ("info", "server", "time"):
        fault = reading.faults.get(name)
        if fault is None or (name != "info" and "info" in reading.faults):
            continue
        if "API key" in fault or "UNAUTHENTICATED" in fault:
            remedy = "Give the worker's key: --api-key, or api_key in POST /workers."
        else:
            remedy = "What it is cannot be checked, and the gateway would not take it in."
        yield error(
            "does_not_say_what_it_is",
            f"It could not be asked what it is: {fault.rstrip('.')}.",
            remedy,
            reading.url,
        )


def _role(reading: Reading, info: WorkerInfo) -> Iterator[Finding]:
    spec = reading.spec
    if spec.engine is Engine.SGLANG:
        conflict = role_conflict(spec.role, info.disaggregation_mode)
    else:
        # Loads gRPC, which a doctor of SGLang workers does without.
        from app.upstream.vllm_info import conflict as vllm_conflict  # noqa: PLC0415

        conflict = vllm_conflict(spec.role, info)
    if not conflict:
        return
    how = _START_FLAGS.get((spec.engine, spec.role), "")
    mode = {"null": "worker-urls", None: ""}.get(info.disaggregation_mode, info.disaggregation_mode)
    ways = [f"give it as --{mode}"] if mode else []
    remedy = ", or ".join([*ways, *([how] if how else [])]) or "take it out"
    yield error("wrong_role", f"It {conflict}", f"{remedy[:1].upper()}{remedy[1:]}.", reading.url)


def _capacity(reading: Reading, info: WorkerInfo) -> Iterator[Finding]:
    if not reading.model_ids:
        yield note(
            "names_no_model",
            "It names no model, so it takes requests for any.",
            "Start it with --served-model-name if others serve other models.",
            reading.url,
        )
    n_tokens, longest = info.max_total_tokens, info.context_length
    if reading.spec.engine is Engine.VLLM and n_tokens is not None:
        n_tokens //= info.dp_size
    if n_tokens is not None and longest is not None and n_tokens < longest:
        yield warning(
            "kv_cache_below_context",
            f"Its KV cache holds {n_tokens} tokens, its context length is {longest}: a longer "
            "request that the model allows is refused, or never starts.",
            "Give the KV cache more memory, or the worker a smaller context length.",
            reading.url,
        )


def _counters(reading: Reading) -> Iterator[Finding]:
    fault = reading.faults.get("loads")
    lacking = [name for name in _COUNTERS if not any(name in row for row in reading.loads)]
    if fault is not None:
        problem = f"It reports no load: {fault.rstrip('.')}."
    elif not reading.loads:
        problem = "It reports no load: it has no load counters."
    elif lacking:
        problem = f"Its load counters lack {', '.join(lacking)}."
    elif not any(row.get("max_total_num_tokens") for row in reading.loads):
        problem = "Its load counters say nothing: the size of its KV cache is 0."
    else:
        return
    yield warning(
        "no_load_counters",
        problem,
        "Update the engine, and leave its statistics on. Without them the gateway sees only its "
        "own requests, not those of other gateways.",
        reading.url,
    )
