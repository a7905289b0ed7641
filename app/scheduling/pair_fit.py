"""Whether a prefill worker can hand its KV cache to a decode worker, and if not, why.

What is compared is what the engines themselves insist on when the two meet (SGLang 0.5.23,
vLLM 0.32 with NIXL's protocol 14 and Mooncake) or would take without a word and answer garbage.
What a worker did not say fits everything: an older engine must not be cut off for its silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.workers.sglang_facts import SglangFacts
from app.workers.worker import Engine

if TYPE_CHECKING:
    from app.workers.worker import WorkerInfo, WorkerSpec

PAIRING_LABEL = "pairing"
"""Workers that carry this label are paired only with workers of the same value."""

_NIXL = "Nixl"
_ALIASES = {"NixlConnector": "NixlPullConnector"}
"""vLLM registers the pulling connector under both names."""
_EQUAL = (
    ("revision", "model revision"),
    ("dtype", "dtype"),
    ("kv_dtype", "KV cache dtype"),
    ("page_size", "page size"),
    ("attention_backend", "attention backend"),
    ("allocation_policy", "decode allocation policy"),
)
_EQUAL_FOR_NIXL = (("version", "engine version"), ("model_path", "model path"))
"""NIXL's workers compare a hash of these, too, and refuse each other by it."""


@dataclass(frozen=True, slots=True)
class PairFacts:
    """What of a worker decides with whom it can be paired; empty or None: not known.

    Attributes:
        engine: SGLang or vLLM.
        label: The operator's pairing label.
        protocol: vLLM's pairing protocol; two workers that both name one need no other rule.
        connector: Who carries the KV cache. Empty: the worker has nobody; None: not known.
        tp_size: Tensor-parallel workers that share one KV cache.
        cp_size: Context-parallel size of attention.
        pp_size: Pipeline-parallel size.
    """

    engine: Engine
    label: str = ""
    protocol: str = ""
    connector: str | None = None
    revision: str = ""
    dtype: str = ""
    kv_dtype: str = ""
    page_size: int | None = None
    attention_backend: str = ""
    allocation_policy: str = ""
    version: str = ""
    model_path: str = ""
    tp_size: int | None = None
    cp_size: int | None = None
    pp_size: int | None = None


def pair_facts(spec: WorkerSpec, info: WorkerInfo) -> PairFacts:
    """Pick what counts for pairing."""
    label = spec.labels.get(PAIRING_LABEL, "")
    if spec.engine is Engine.SGLANG:
        own = info.sglang or SglangFacts()
        return PairFacts(
            spec.engine,
            label,
            connector=own.transfer_backend or None,
            revision=own.revision,
            dtype=own.dtype,
            kv_dtype=own.kv_cache_dtype,
            page_size=info.page_size,
            allocation_policy=own.allocation_policy,
            tp_size=own.attention_tp_size,
            cp_size=own.attention_cp_size,
            pp_size=own.pp_size,
        )
    facts = info.vllm
    if facts is None:
        return PairFacts(spec.engine, label)
    is_nixl = facts.kv_connector.startswith(_NIXL)
    return PairFacts(
        spec.engine,
        label,
        protocol=facts.pairing_protocol,
        connector=facts.kv_connector,
        dtype=facts.model_dtype.removeprefix("torch."),
        # NIXL's workers compare the word itself; to the others "auto" says nothing.
        kv_dtype="" if facts.kv_cache_dtype == "auto" and not is_nixl else facts.kv_cache_dtype,
        page_size=info.page_size,
        attention_backend=facts.attention_backend,
        version=info.version or "",
        model_path=facts.model_path,
    )


def misfit(prefill: PairFacts, decode: PairFacts) -> str:
    """Return why the two cannot be paired, such as ``page size 16 against 32``, or nothing.

    The prefill worker's value stands first.
    """
    return next(misfits(prefill, decode), "")


def misfits(prefill: PairFacts, decode: PairFacts) -> Iterator[str]:
    """Yield every reason why the two cannot be paired; workers meant for others have only one."""
    if prefill.engine is not decode.engine:
        yield f"engine {prefill.engine} against {decode.engine}"
    elif prefill.label != decode.label:
        yield f"pairing label {_quoted(prefill.label)} against {_quoted(decode.label)}"
    elif prefill.protocol and decode.protocol:
        if prefill.protocol != decode.protocol:
            yield f"pairing protocol {prefill.protocol} against {decode.protocol}"
    else:
        one, other = prefill.connector, decode.connector
        if one is not None and other is not None and not _is_same_connector(one, other):
            yield f"KV connector {one or 'none'} against {other or 'none'}"
        yield from _differences(_EQUAL, prefill, decode)
        if (one or "").startswith(_NIXL):
            yield from _differences(_EQUAL_FOR_NIXL, prefill, decode)
        yield from _split_misfits(prefill, decode)


def for_clients(reason: str) -> str:
    """Take a place on a worker's disk out of a reason; everything else may be seen by anyone."""
    return "model path" if reason.startswith("model path ") else reason


def _quoted(label: str) -> str:
    return f"'{label}'" if label else "none"


def _differences(
    rules: tuple[tuple[str, str], ...], prefill: PairFacts, decode: PairFacts
) -> Iterator[str]:
    for name, words in rules:
        one, other = getattr(prefill, name), getattr(decode, name)
        if one and other and one != other:
            yield f"{words} {one} against {other}"


def _is_same_connector(one: str, other: str) -> bool:
    return _ALIASES.get(one, one) == _ALIASES.get(other, other)


def _split_misfits(prefill: PairFacts, decode: PairFacts) -> Iterator[str]:
    """Compare how the KV cache is split; only SGLang says it, and maps rank to rank (0.5.23)."""
    one, other = prefill.tp_size, decode.tp_size
    if one and other and one % other and other % one:
        yield f"tensor parallelism {one} against {other}: one must be a multiple of the other"
    one, other = prefill.pp_size, decode.pp_size
    if one and other and other not in (1, one):
        yield f"pipeline parallelism {one} against {other}: decode's must be 1 or the same"
    if (decode.cp_size or 1) > 1:
        yield f"context parallelism {decode.cp_size} of decode, which must be 1"
