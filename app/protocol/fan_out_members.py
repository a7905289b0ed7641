"""Several choices for one prompt: how many are asked for, and what each child's body changes.

A real SGLang pair hangs when asked for more than one choice (seen on 0.5.23 on all three routes),
so every choice becomes a request of its own.
"""

from __future__ import annotations

import orjson

from app.errors import InvalidRequest
from app.protocol.prompts import dump_nested
from app.protocol.routes import Route
from app.protocol.wire_json import JsonObject

_MAX_N = 128
_MAX_SEED = 2**63 - 1
_GENERATE_SEEDS = ("sampling_seed", "seed")


def read_n(route: Route, document: JsonObject, batch: int | None) -> int:
    """Reads how many choices each prompt is to get.

    Raises:
        InvalidRequest: It is not a number from 1 to 128, differs between the prompts of a batch,
            or ``best_of`` asks for more than is returned.
    """
    if route is Route.GENERATE:
        return _n_of_sampling_params(document.get("sampling_params"), batch)
    n = document.get("n")
    n_choices = 1 if n is None else _check_n(n, "n")
    if route is Route.COMPLETIONS:
        best_of = document.get("best_of")
        if best_of is not None and (type(best_of) is not int or best_of != n_choices):
            raise InvalidRequest("best_of is not supported, unless it equals n.", param="best_of")
    return n_choices


def fan_out_patches(route: Route, document: JsonObject, n: int) -> tuple[bytes, ...]:
    """Writes for each of the n children the members that replace the client's.

    A seed becomes seed + i, so that the choices differ and stay reproducible.
    """
    if route is Route.GENERATE:
        return tuple(_generate_patch(document["sampling_params"], child) for child in range(n))
    members: JsonObject = {"n": 1}
    if document.get("best_of") is not None:
        members["best_of"] = 1
    seed = document.get("seed")
    patches: list[bytes] = []
    for child in range(n):
        if type(seed) is int:
            members["seed"] = _nth_seed(seed, child)
        patches.append(orjson.dumps(members)[1:-1])
    return tuple(patches)


def _n_of_sampling_params(params: object, batch: int | None) -> int:
    if params is None:
        return 1
    if isinstance(params, list):
        if batch is None or len(params) != batch:
            raise InvalidRequest(
                "sampling_params must be an object, or a list with one for each prompt.",
                param="sampling_params",
            )
        counts = [_n_of_one(item) for item in params]
        if min(counts) != max(counts):
            raise InvalidRequest(
                "sampling_params.n must be the same for all prompts of a batch.",
                param="sampling_params.n",
            )
        return counts[0]
    return _n_of_one(params)


def _n_of_one(params: object) -> int:
    if not isinstance(params, dict):
        raise InvalidRequest("sampling_params must be an object.", param="sampling_params")
    n = params.get("n")
    if n is None:
        return 1
    return _check_n(n, "sampling_params.n")


def _check_n(n: object, param: str) -> int:
    if type(n) is not int or not 1 <= n <= _MAX_N:
        raise InvalidRequest(f"{param} must be a whole number from 1 to {_MAX_N}.", param=param)
    return n


def _generate_patch(params: JsonObject | list[JsonObject], child: int) -> bytes:
    if isinstance(params, list):
        changed: object = [_single_choice(item, child) for item in params]
    else:
        changed = _single_choice(params, child)
    return b'"sampling_params":' + dump_nested(changed, "sampling_params")


def _single_choice(params: JsonObject, child: int) -> JsonObject:
    changed = {**params, "n": 1}
    for key in _GENERATE_SEEDS:
        if type(seed := params.get(key)) is int:
            changed[key] = _nth_seed(seed, child)
    return changed


def _nth_seed(seed: int, child: int) -> int:
    """Seed + child; at the upper end of 64 signed bits it starts again at the lower."""
    if seed <= _MAX_SEED < seed + child:
        return seed + child - 2**64
    return min(seed + child, 2**64 - 1)
