"""What can be wrong between a prefill and a decode worker that the gateway would pair."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.dispatch.kv_transfer import NIXL_NAMES
from app.doctor.finding import Finding, error, note, warning
from app.doctor.reading import Reading, as_text
from app.scheduling.pair_fit import misfits, pair_facts
from app.workers.worker import Engine, Role, WorkerInfo

_SAME_PROMPT = "Each leg makes its own tokens of the prompt: decode reads the KV cache of others."
_SAME_MODEL = "The KV cache is not the one that decode would have computed."
_ALIKE = (
    (error, "weight_version", "The weights' version", _SAME_MODEL),
    (error, "json_model_override_args", "What overrides the model's config", _SAME_MODEL),
    (error, "chat_template", "The chat template", _SAME_PROMPT),
    (error, "hf_chat_template_name", "The name of the chat template", _SAME_PROMPT),
    (error, "default_chat_template_kwargs", "The chat template's defaults", _SAME_PROMPT),
    (error, "completion_template", "The completion template", _SAME_PROMPT),
    (error, "enable_unified_memory", "Unified memory", "SGLang refuses such a transfer."),
    (warning, "quantization", "The weights' quantization", _SAME_MODEL),
    (warning, "allow_auto_truncate", "Cutting of long prompts", _SAME_PROMPT),
    (warning, "speculative_algorithm", "Speculative decoding", "The draft's KV cache is missing."),
    (warning, "lora_paths", "The list of adapters", "Requests for an adapter of one fail."),
    (note, "model_path", "The model's path", "Both must hold the same weights."),
)
"""Members of SGLang's ``/server_info`` (0.5.23) that nothing compares but an operator."""


@dataclass(frozen=True, slots=True)
class ReadPair:
    """A prefill and a decode worker of one model, and why they do not fit.

    Attributes:
        reasons: Empty if they do.
    """

    prefill: Reading
    decode: Reading
    one: WorkerInfo
    other: WorkerInfo
    reasons: tuple[str, ...]

    @property
    def place(self) -> str:
        """Both URLs."""
        return f"{self.prefill.url} -> {self.decode.url}"


def pairs_of(readings: Sequence[Reading]) -> tuple[ReadPair, ...]:
    """Return the pairs of workers that said what they are and serve a common model."""
    return tuple(
        ReadPair(one, other, one.info, other.info, tuple(_reasons(one, other)))
        for one in readings
        if one.spec.role is Role.PREFILL and one.info is not None
        for other in readings
        if other.spec.role is Role.DECODE and other.info is not None
        if _have_a_model(one, other)
    )


def _reasons(one: Reading, other: Reading) -> Iterator[str]:
    if one.info is not None and other.info is not None:
        yield from misfits(pair_facts(one.spec, one.info), pair_facts(other.spec, other.info))


def _have_a_model(one: Reading, other: Reading) -> bool:
    names, others = set(one.model_ids), set(other.model_ids)
    return not names or not others or bool(names & others)


def check_pair(pair: ReadPair) -> Iterator[Finding]:
    """Judge a pair that fits."""
    yield from _places(pair)
    yield from _sizes(pair)
    if pair.prefill.spec.engine is Engine.SGLANG:
        yield from _sglang(pair)
    else:
        yield from _vllm(pair)


def _places(pair: ReadPair) -> Iterator[Finding]:
    host, other = pair.prefill.spec.host, pair.decode.spec.host
    facts = pair.one.vllm
    if facts is not None and facts.kv_connector in NIXL_NAMES:
        return
    if _is_loopback(host) and not _is_loopback(other):
        yield error(
            "prefill_by_loopback",
            f"Prefill is given as {host}, and decode runs on another host, which would look for "
            "it on itself.",
            "Give prefill by the address at which decode workers reach it.",
            pair.place,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _sizes(pair: ReadPair) -> Iterator[Finding]:
    one, other = pair.one.context_length, pair.other.context_length
    if one and other and one != other:
        yield warning(
            "context_lengths_differ",
            f"The context length is {one} on prefill and {other} on decode: longer requests "
            f"than {min(one, other)} tokens are refused by one of them.",
            "Start both with the same context length.",
            pair.place,
        )
    if pair.one.dp_size != pair.other.dp_size:
        yield note(
            "data_parallelism_differs",
            f"Prefill has {pair.one.dp_size} data-parallel ranks, decode {pair.other.dp_size}.",
            "This is allowed.",
            pair.place,
        )
    one_version, other_version = pair.one.version, pair.other.version
    if one_version and other_version and one_version != other_version:
        yield warning(
            "versions_differ",
            f"Prefill runs version {one_version}, decode {other_version}: what they tell each "
            "other may change with the version.",
            "Update both; label the old and the new ones (pairing) while you do.",
            pair.place,
        )


def _sglang(pair: ReadPair) -> Iterator[Finding]:
    one, other = pair.prefill.server, pair.decode.server
    for make, name, words, effect in _ALIKE:
        if name in one and name in other and one[name] != other[name]:
            values = f"{as_text(one[name])} on prefill, {as_text(other[name])} on decode"
            problem = f"{words} differs: {values}. {effect}"
            flag = name.replace("_", "-")
            yield make(f"{name}_differs", problem, f"Start both with the same {flag}.", pair.place)
    yield from _kv_cache_dtype(pair)
    facts, others = pair.one.sglang, pair.other.sglang
    size = facts.attention_tp_size if facts is not None else None
    other_size = others.attention_tp_size if others is not None else None
    if size and other_size and size != other_size:
        yield note(
            "tensor_parallelism_differs",
            f"Attention is split by {size} on prefill and by {other_size} on decode.",
            "This is allowed; the transfer is slow for models without MLA.",
            pair.place,
        )


def _kv_cache_dtype(pair: ReadPair) -> Iterator[Finding]:
    """Compare what decode compares: prefill's bootstrap server tells what "auto" became."""
    answer = pair.prefill.bootstrap
    real = (answer.body or {}).get("kv_cache_dtype") if answer is not None else None
    one = real or pair.prefill.server.get("kv_cache_dtype")
    other = pair.decode.server.get("kv_cache_dtype")
    if not one or not other or one == other:
        return
    problem = f"The KV cache dtype is {one} on prefill and {other} on decode"
    remedy = "Start both with the same --kv-cache-dtype."
    if real and other != "auto":
        text = f"{problem}: SGLang refuses the transfer."
        yield error("kv_cache_dtype_differs", text, remedy, pair.place)
    else:
        text = f"{problem}: whether auto comes to the same cannot be told from here."
        yield warning("kv_cache_dtype_unclear", text, remedy, pair.place)


def _vllm(pair: ReadPair) -> Iterator[Finding]:
    one, other = pair.one.vllm, pair.other.vllm
    if one is None or other is None:
        return
    if one.n_vocab and other.n_vocab and one.n_vocab != other.n_vocab:
        yield error(
            "vocabularies_differ",
            f"Prefill's model knows {one.n_vocab} tokens, decode's {other.n_vocab}: these are "
            "different models.",
            "Start both with the same model.",
            pair.place,
        )
    if one.model_path and other.model_path and one.model_path != other.model_path:
        yield note(
            "model_path_differs",
            f"The model's path differs: {one.model_path} on prefill, {other.model_path} on "
            "decode. Both must hold the same weights.",
            "Nothing, if they do.",
            pair.place,
        )
