"""The settings of pools beyond the strict pair: who serves without a prefill worker."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings.values import Fault, Knob

_ROUTING = "Routing"


def _read_aliases(value: object) -> object:
    """Read ``ALIAS=MODEL`` items, given as a text with commas or as a sequence."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise Fault("takes ALIAS=MODEL", value=repr(value))
    found: dict[str, str] = {}
    for item in items:
        if isinstance(item, str) and not item.strip():
            continue
        written = item if isinstance(item, str) else "=".join(map(str, item))
        alias, _, model = (part.strip() for part in written.partition("="))
        if not alias or not model:
            raise Fault("takes ALIAS=MODEL", value=written)
        if alias == model:
            raise Fault("the alias is the model's own name", value=written)
        if found.setdefault(alias, model) != model:
            raise Fault(f"the alias {alias} is given twice", value=written)
    for alias, model in found.items():
        if model in found:
            raise Fault(f"{model} is an alias itself", value=f"{alias}={model}")
    return tuple(found.items())


class PoolSettings(BaseSettings):
    """What the operator can choose of requests on one worker; part of ``Settings``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dp_aware: Annotated[
        bool,
        Knob(
            _ROUTING,
            "Send each request to a data-parallel rank of its SGLang workers that is chosen here "
            "(vLLM's are always)",
        ),
    ] = False
    model_alias: Annotated[
        tuple[tuple[str, str], ...],
        BeforeValidator(_read_aliases),
        Knob(
            _ROUTING,
            "A further name of a model; repeatable. Answers carry the name that was asked for",
            metavar="ALIAS=MODEL",
        ),
    ] = ()
    on_missing_prefill: Annotated[
        Literal["fail", "decode_only"],
        Knob(
            _ROUTING,
            "Without a usable prefill worker: refuse, or let vLLM decode workers serve alone",
            metavar="fail|decode_only",
        ),
    ] = "fail"
    skip_prefill_below_tokens: Annotated[
        int,
        Knob(
            _ROUTING,
            "Shorter prompts go to one worker that does both phases (a regular one, vLLM's "
            "kv_both), if it is not busy; 0: prompts go to pairs where there are any",
            unit="tokens",
        ),
    ] = Field(0, ge=0, le=100_000_000)
    skip_prefill_cached_below_tokens: Annotated[
        int,
        Knob(
            _ROUTING,
            "With --skip-prefill-below-tokens: so do prompts with fewer uncached tokens there",
            unit="tokens",
        ),
    ] = Field(2048, ge=0, le=100_000_000)
    skip_prefill_uncached_share: Annotated[
        float,
        Knob(
            _ROUTING,
            "... if these are no larger a share of the prompt",
            unit="share, 0 to 1",
        ),
    ] = Field(0.7, ge=0, le=1)
    skip_prefill_max_load: Annotated[
        float,
        Knob(
            _ROUTING,
            "Share of its running requests at which a worker is too busy for that; it is not any "
            "more at three quarters of it",
            unit="share, above 0 to 1",
        ),
    ] = Field(0.8, gt=0, le=1)
