"""What can be wrong with one vLLM worker; names as of vLLM 0.32 and its servicer 0.14.1."""

from __future__ import annotations

from collections.abc import Iterator

from app.dispatch.kv_transfer import MOONCAKE_NAME, NIXL_NAMES
from app.doctor.finding import Finding, error, note, warning
from app.doctor.reading import Reading
from app.upstream.get_json import JsonAnswer
from app.workers.vllm_facts import VllmFacts
from app.workers.worker import Role, WorkerInfo

_KV_ROLES = {Role.PREFILL: "kv_producer", Role.DECODE: "kv_consumer"}


def check_vllm(reading: Reading, info: WorkerInfo) -> Iterator[Finding]:
    """Judge its connector, its bootstrap port and its tokenizer."""
    facts = info.vllm or VllmFacts()
    if reading.spec.role is not Role.REGULAR:
        yield from _connector(reading, facts)
    if reading.bootstrap is not None:
        yield from _bootstrap(reading, reading.bootstrap, facts)
    fault = reading.faults.get("tokenizer")
    if fault is not None:
        yield warning(
            "no_tokenizer",
            "The gateway was given no --model-path, and the worker does not send its tokenizer: "
            f"{fault.rstrip('.')}. The gateway would look for "
            f"{facts.tokenizer_path or 'it'} on its own disk and on the hub.",
            "Give --model-path, a folder or a hub id.",
            reading.url,
        )


def _connector(reading: Reading, facts: VllmFacts) -> Iterator[Finding]:
    connector, url = facts.kv_connector, reading.url
    kv_role = _KV_ROLES[reading.spec.role]
    if not connector:
        yield error(
            "no_connector",
            "It has no KV connector, so nothing is handed over: decode computes every prompt.",
            "Start it with --kv-transfer-config "
            f'\'{{"kv_connector":"NixlConnector","kv_role":"{kv_role}"}}\'.',
            url,
        )
        return
    if connector != MOONCAKE_NAME and connector not in NIXL_NAMES:
        yield warning(
            "unknown_connector",
            f"The gateway does not know the KV connector {connector}: it passes on what prefill "
            "returns, unchecked.",
            "NixlConnector and MooncakeConnector are known.",
            url,
        )
    if connector == MOONCAKE_NAME and reading.spec.role is Role.PREFILL and not facts.kv_engine_id:
        yield error(
            "no_engine_id",
            "It does not tell its engine id, without which Mooncake hands nothing over: decode "
            "computes every prompt.",
            'Name one: "engine_id" in --kv-transfer-config; or update the worker\'s servicer.',
            url,
        )
    if facts.kv_role == "kv_both":
        yield note(
            "kv_both",
            "It runs as kv_both, so whether it was meant for this role cannot be checked.",
            f'"kv_role":"{kv_role}" in --kv-transfer-config says it.',
            url,
        )


def _bootstrap(reading: Reading, answer: JsonAnswer, facts: VllmFacts) -> Iterator[Finding]:
    """Decode looks the engine id up there (vLLM 0.32); an unknown one is a failed load."""
    port = reading.bootstrap_port
    if not answer.is_reachable:
        yield error(
            "bootstrap_unreachable",
            f"Nobody answers on its Mooncake bootstrap port {port}, so no decode worker finds it. "
            f"{answer.error}",
            "Is it the worker's VLLM_MOONCAKE_BOOTSTRAP_PORT, given after --prefill URL, and open "
            "to the decode workers?",
            reading.url,
        )
        return
    entries = [entry for entry in (answer.body or {}).values() if isinstance(entry, dict)]
    ids = {str(entry["engine_id"]) for entry in entries if "engine_id" in entry}
    if not ids:
        yield error(
            "bootstrap_strange",
            f"What answers on its bootstrap port {port} is no Mooncake bootstrap server.",
            "Is the port right?",
            reading.url,
        )
    elif facts.kv_engine_id and not any(_is_of(name, facts.kv_engine_id) for name in ids):
        yield error(
            "bootstrap_of_another",
            f"The bootstrap server on port {port} knows {', '.join(sorted(ids))}, not this "
            f"worker's engine {facts.kv_engine_id}: decode fails to load the KV cache.",
            "Put the right port after each --prefill URL.",
            reading.url,
        )


def _is_of(name: str, engine_id: str) -> bool:
    return name == engine_id or name.startswith(f"{engine_id}_dp")
