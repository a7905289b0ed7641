"""What can be wrong with the fleet as a whole, and everything together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from types import MappingProxyType

from app.dispatch.kv_transfer import NIXL_NAMES
from app.doctor.finding import Finding, error, merged, note, warning
from app.doctor.pair_checks import ReadPair, check_pair, pairs_of
from app.doctor.reading import Premises, Reading
from app.doctor.worker_checks import check_worker
from app.workers.worker import Engine, Role

REMEDIES = MappingProxyType(
    {
        "engine version": "NIXL's workers refuse another version: update both.",
        "engine": "A pair is of one engine: http(s) is SGLang, grpc(s) vLLM.",
        "pairing label": "Give both the same pairing label, or none.",
        "pairing protocol": "Set SMG_PAIRING_PROTOCOL of both workers to the same word.",
        "KV connector": "Start both with the same --disaggregation-transfer-backend (SGLang) or "
        "kv_connector (vLLM).",
        "model revision": "Start both with the same --revision.",
        "model path": "NIXL's workers compare it: start both with the same --model.",
        "dtype": "Start both with the same --dtype.",
        "KV cache dtype": "Start both with the same --kv-cache-dtype.",
        "page size": "Start both with the same --page-size (SGLang) or --block-size (vLLM).",
        "attention backend": "Start both with the same --attention-backend.",
        "decode allocation policy": "Start both with the same "
        "--disaggregation-decode-allocation-policy.",
        "tensor parallelism": "Change --tp-size of one.",
        "pipeline parallelism": "Change --pp-size of decode.",
        "context parallelism": "Start decode without context parallelism.",
    }
)
"""What to do about a reason of :mod:`app.scheduling.pair_fit`, by the words it begins with."""
_MEANT = ("pairing label", *(f"engine {engine} against" for engine in Engine))


def examine(
    readings: Sequence[Reading], premises: Premises, *, is_of_gateway: bool = False
) -> tuple[Finding, ...]:
    """Judge everything that was read; the worst findings first.

    Args:
        readings: One of each worker.
        premises: What the gateway goes by.
        is_of_gateway: The workers are a running gateway's, whose own settings nobody read.
    """
    pairs = pairs_of(readings)
    return merged(_findings(readings, pairs, premises, is_of_gateway=is_of_gateway))


def _findings(
    readings: Sequence[Reading],
    pairs: Sequence[ReadPair],
    premises: Premises,
    *,
    is_of_gateway: bool,
) -> Iterator[Finding]:
    yield from _roles(readings)
    for reading in readings:
        yield from check_worker(reading, premises)
    yield from _models(readings)
    yield from _misfits(pairs)
    for pair in pairs:
        if not pair.reasons:
            yield from check_pair(pair)
    yield from _bootstrap_places(readings)
    if any(_is_nixl(reading) for reading in readings):
        yield note(
            "lease_not_told",
            f"The gateway takes it that prefill keeps blocks that nobody read for "
            f"{premises.lease_s:g} s (--kv-lease-secs); vLLM does not tell.",
            "kv_lease_duration of the prefill workers (30 by default) must not be shorter.",
        )
    if is_of_gateway:
        yield note(
            "settings_are_of_here",
            "Times were compared with the settings of this command, not with the gateway's.",
            "Give --upstream-pool-idle-timeout-secs and --kv-lease-secs as the gateway has them.",
        )


def _roles(readings: Sequence[Reading]) -> Iterator[Finding]:
    n_of = Counter(reading.spec.role for reading in readings)
    if n_of[Role.REGULAR] and n_of[Role.REGULAR] == len(readings):
        return
    for role in (Role.PREFILL, Role.DECODE):
        if not n_of[role]:
            yield error(
                f"no_{role}_worker",
                f"There is no {role} worker.",
                f"Give one: --{role} URL.",
            )


def _models(readings: Sequence[Reading]) -> Iterator[Finding]:
    """Find models that one phase lacks; who did not say what it serves may serve it."""
    serving = {
        role: [reading for reading in readings if reading.spec.role is role]
        for role in (Role.PREFILL, Role.DECODE)
    }
    for role, other in ((Role.PREFILL, Role.DECODE), (Role.DECODE, Role.PREFILL)):
        if not serving[other] or any(not reading.model_ids for reading in serving[other]):
            continue
        there = {model for reading in serving[other] for model in reading.model_ids}
        for reading in serving[role]:
            for model in reading.model_ids:
                if model not in there:
                    yield error(
                        "model_without_pair",
                        f"The model {model} is served by {role} workers only.",
                        f"Add a {other} worker of it, or start both with the same "
                        "--served-model-name.",
                        reading.url,
                    )


def _misfits(pairs: Sequence[ReadPair]) -> Iterator[Finding]:
    paired = {
        url for pair in pairs if not pair.reasons for url in (pair.prefill.url, pair.decode.url)
    }
    for pair in pairs:
        is_alone = not {pair.prefill.url, pair.decode.url} <= paired
        for reason in pair.reasons:
            remedy = next(text for words, text in REMEDIES.items() if reason.startswith(words))
            if is_alone:
                problem = f"They do not fit: {reason}. One of them has no partner at all."
                yield error("no_partner", problem, remedy, pair.place)
            elif not reason.startswith(_MEANT):
                # Another engine or label: they are meant to be kept apart.
                problem = f"They do not fit and are not paired: {reason}."
                yield warning("not_paired", problem, remedy, pair.place)


def _bootstrap_places(readings: Sequence[Reading]) -> Iterator[Finding]:
    owners: dict[tuple[str, int], list[str]] = {}
    for reading in readings:
        if reading.bootstrap_port is not None:
            place = (reading.spec.host, reading.bootstrap_port)
            owners.setdefault(place, []).append(reading.url)
    for (host, port), urls in owners.items():
        if len(urls) > 1:
            yield error(
                "bootstrap_port_shared",
                f"{len(urls)} prefill workers are given bootstrap port {port} of {host}; only "
                "one can have it.",
                "Give each its own, on the worker and after its --prefill URL.",
                *urls,
            )


def _is_nixl(reading: Reading) -> bool:
    facts = reading.info.vllm if reading.info is not None else None
    return facts is not None and facts.kv_connector in NIXL_NAMES
