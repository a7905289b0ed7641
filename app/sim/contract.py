"""The JSON contract of SGLang 0.5.23's /generate: exact types, in serde's words.

The real engine checks a body twice, first with pydantic's lenient types
(``bodies.py``), then against its protobuf schema (``sglang/api/v1``), which
takes no number for a string and no unknown sampling parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from app.sim.refusals import Malformed

_SCALARS: Mapping[str, tuple[type, ...]] = {
    "i64": (int,),
    "f64": (int, float),
    "a string": (str,),
    "a boolean": (bool,),
    "a sequence": (list,),
    "a map": (dict,),
}
_LISTABLE: Mapping[str, tuple[str, bool]] = {
    "StringOrList": ("a string", False),
    "BoolOrList": ("a boolean", False),
    "Int64OrList": ("i64", False),
    "OptionalStringOrList": ("a string", True),
    "OptionalInt64OrList": ("i64", True),
}
"""One value or a list: what kind, and whether an item may be null."""

_SAMPLING: Mapping[str, str] = {
    "max_new_tokens": "i64",
    "stop": "StringOrList",
    "stop_token_ids": "list of i64",
    "stop_regex": "StringOrList",
    "temperature": "f64",
    "top_p": "f64",
    "top_k": "i64",
    "min_p": "f64",
    "frequency_penalty": "f64",
    "presence_penalty": "f64",
    "repetition_penalty": "f64",
    "min_new_tokens": "i64",
    "n": "i64",
    "json_schema": "a string",
    "regex": "a string",
    "ebnf": "a string",
    "structural_tag": "a string",
    "ignore_eos": "a boolean",
    "skip_special_tokens": "a boolean",
    "spaces_between_special_tokens": "a boolean",
    "no_stop_trim": "a boolean",
    "stream_interval": "i64",
    "logit_bias": "map of f64",
    "sampling_seed": "i64",
    "custom_params": "anything",
    "beam_width": "i64",
    "watermark": "a map",
    "choice": "list of a string",
}
_REQUEST: Mapping[str, str] = {
    "rid": "StringOrList",
    "text": "StringOrList",
    "input_ids": "TokenIdsOrList",
    "stream": "a boolean",
    "sampling_params": "SamplingParamsOrList",
    "return_logprob": "BoolOrList",
    "logprob_start_len": "Int64OrList",
    "top_logprobs_num": "Int64OrList",
    "token_ids_logprob": "TokenIdsOrList",
    "return_text_in_logprobs": "a boolean",
    "bootstrap_host": "OptionalStringOrList",
    "bootstrap_port": "OptionalInt64OrList",
    "bootstrap_room": "OptionalInt64OrList",
    "routed_dp_rank": "i64",
    "disagg_prefill_dp_rank": "i64",
    "priority": "i64",
}


def check_contract(body: Mapping[str, Any]) -> None:
    """Refuses the first member of another type; members it does not know pass.

    Raises:
        Malformed: With ``{"error": TEXT}``.
    """
    for name, value in body.items():
        if value is not None and name in _REQUEST:
            _check(value, _REQUEST[name])


def _check(value: Any, kind: str) -> None:
    item_kind = kind.removeprefix("list of ")
    if kind in _LISTABLE:
        _check_listable(value, kind)
    elif kind in _SPECIAL:
        _SPECIAL[kind](value)
    elif item_kind != kind:
        _expect(value, "a sequence")
        for item in value:
            _expect(item, item_kind)
    elif kind != "anything":
        _expect(value, kind)


def _check_listable(value: Any, kind: str) -> None:
    item_kind, is_nullable = _LISTABLE[kind]
    if not isinstance(value, list):
        _expect(value, item_kind, f"a value or an array of values for {kind}")
        return
    for item in value:
        if item is not None or not is_nullable:
            _expect(item, item_kind)


def _check_token_ids(value: Any) -> None:
    _expect(value, "a sequence", "a value or an array of values for TokenIdsOrList")
    is_flat = not value or _is(value[0], "f64")
    for ids in [value] if is_flat else value:
        _check(ids, "list of i64")


def _check_biases(value: Any) -> None:
    _expect(value, "a map")
    for bias in value.values():
        _expect(bias, "f64")


def _check_sampling(value: Any) -> None:
    for params in value if isinstance(value, list) else [value]:
        _expect(params, "a map", "struct SamplingParams")
        for name, given in params.items():
            if name not in _SAMPLING:
                listed = ", ".join(f"`{known}`" for known in _SAMPLING)
                text = f"unknown field `{name}`, expected one of {listed}"
                raise Malformed({"error": text})
            if given is not None:
                _check(given, _SAMPLING[name])


_SPECIAL: Mapping[str, Callable[[Any], None]] = {
    "TokenIdsOrList": _check_token_ids,
    "SamplingParamsOrList": _check_sampling,
    "map of f64": _check_biases,
}


def _is(value: Any, kind: str) -> bool:
    # In JSON true is no number, though Python's bool is an int.
    return isinstance(value, _SCALARS[kind]) and (kind == "a boolean" or type(value) is not bool)


def _expect(value: Any, kind: str, expected: str | None = None) -> None:
    if not _is(value, kind):
        text = f"invalid type: {_shown(value)}, expected {expected or kind}"
        raise Malformed({"error": text})


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    if isinstance(value, float):
        return f"floating point `{value}`"
    if isinstance(value, str):
        return f'string "{value}"'
    return "sequence" if isinstance(value, list) else "map"
