"""Sampling parameters: the ranges that SGLang 0.5.23 checks, in its words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.sim.refusals import CHAT, GENERATE, Crashed, Refused
from app.sim.text import N_VOCABULARY

N_MAX_GENERATE = 128
"""New tokens of a /generate that names no limit."""
N_MAX_COMPLETIONS = 16
MAX_STOPS = 32
GREEDY_BELOW = 1e-6
"""A temperature below this makes sampling greedy, whatever ``top_k`` says."""

_SAME_NAMES = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "n",
    "stop",
    "logit_bias",
    "ignore_eos",
    "json_schema",
    "regex",
    "ebnf",
)
_ENGINE_NAMES = {"min_tokens": "min_new_tokens", "seed": "sampling_seed"}
_GRAMMARS = ("json_schema", "regex", "ebnf", "structural_tag")


@dataclass(frozen=True, slots=True)
class Sampling:
    """What of the parameters matters to a simulated sequence.

    Attributes:
        n_max: Limit of new tokens; None: as many as fit.
        n_samples: Samples a prompt; SGLang does not check it, below 1 it runs one.
    """

    n_max: int | None
    n_samples: int
    ignore_eos: bool
    stops: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Rule:
    """One range; a parameter that is null or not given has its default."""

    name: str
    default: float
    words: str
    is_fine: Callable[[float], bool]


_RULES = (
    _Rule("beam_width", 1, "must be at least 1", lambda v: v >= 1),
    _Rule(
        "temperature",
        1.0,
        "must be a non-negative finite number",
        lambda v: math.isfinite(v) and v >= 0,
    ),
    _Rule("top_p", 1.0, "must be in (0, 1]", lambda v: 0 < v <= 1),
    _Rule("min_p", 0.0, "must be in [0, 1]", lambda v: 0 <= v <= 1),
    _Rule("top_k", -1, "must be -1 (disable) or at least 1", lambda v: v == -1 or v >= 1),
    _Rule("frequency_penalty", 0.0, "must be in [-2, 2]", lambda v: -2 <= v <= 2),
    _Rule("presence_penalty", 0.0, "must be in [-2, 2]", lambda v: -2 <= v <= 2),
    _Rule("repetition_penalty", 1.0, "must be in (0, 2] (1.0 = no penalty)", lambda v: 0 < v <= 2),
    _Rule("min_new_tokens", 0, "must be in [0, max_new_tokens]", lambda v: v >= 0),
    _Rule("max_new_tokens", 0, "must be at least 0", lambda v: v >= 0),
)


def engine_params(route: str, body: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The parameters of one prompt under the engine's names.

    Raises:
        Crashed: /generate's ``n`` is null, over which 0.5.23 stumbles.
    """
    if route == GENERATE:
        given = body.get("sampling_params") or {}
        params = dict(given[index] if isinstance(given, list) else given)
        if params.get("n", 1) is None:
            raise Crashed("'>' not supported between instances of 'NoneType' and 'int'")
        return params
    params = {name: body.get(name) for name in _SAME_NAMES}
    params |= {engine_name: body.get(name) for name, engine_name in _ENGINE_NAMES.items()}
    if route == CHAT:
        # 0 counts as not given: seen with 0.5.23.
        n_max = body.get("max_completion_tokens") or body.get("max_tokens")
        params["max_new_tokens"] = n_max or None
    else:
        params["max_new_tokens"] = body.get("max_tokens", N_MAX_COMPLETIONS)
    return params


def read_sampling(params: Mapping[str, Any]) -> Sampling:
    """Checks the parameters of one prompt.

    Raises:
        Refused: 400 with SGLang's text.
    """
    given = params.get("stop") or ()
    stops = (given,) if isinstance(given, str) else tuple(given)
    if len(stops) > MAX_STOPS:
        raise Refused(400, f"at most {MAX_STOPS} stop strings are allowed, got {len(stops)}")
    n_max = params.get("max_new_tokens", N_MAX_GENERATE)
    _check_ranges(params)
    n_min = _value(params, "min_new_tokens", 0)
    if n_max is not None and n_min > n_max:
        raise Refused(400, f"min_new_tokens must be in [0, max_new_tokens({n_max})], got {n_min}.")
    _check_biases(params.get("logit_bias") or {})
    _check_seed(params.get("sampling_seed"))
    if sum(bool(params.get(name)) for name in _GRAMMARS) > 1:
        raise Refused(400, "Only one of json_schema, regex, ebnf, or structural_tag can be set.")
    return Sampling(
        n_max=n_max,
        n_samples=max(1, _value(params, "n", 1)),
        ignore_eos=bool(params.get("ignore_eos")),
        stops=stops,
    )


def _value(params: Mapping[str, Any], name: str, default: Any) -> Any:
    value = params.get(name)
    return default if value is None else value


def _check_ranges(params: Mapping[str, Any]) -> None:
    is_greedy = 0 <= _value(params, "temperature", 1.0) < GREEDY_BELOW
    for rule in _RULES:
        value = _value(params, rule.name, rule.default)
        if not rule.is_fine(value) and not (is_greedy and rule.name == "top_k"):
            raise Refused(400, f"{rule.name} {rule.words}, got {value}.")


def _check_biases(biases: Mapping[str, float]) -> None:
    for key in biases:
        try:
            is_token = 0 <= int(key) < N_VOCABULARY
        except ValueError as error:
            raise Refused(400, str(error)) from None
        if not is_token:
            last = N_VOCABULARY - 1
            raise Refused(400, f"logit_bias must has keys in [0, {last}], got {key}.")


def _check_seed(seed: int | None) -> None:
    if seed is not None and not -(2**63) <= seed <= 2**63 - 1:
        raise Refused(400, f"sampling_seed must be in [-2**63, 2**63 - 1], got {seed}.")
