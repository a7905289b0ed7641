"""The settings of time limits and retries."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings.values import Fault, Knob

_FAILURES = "Failures and time limits"

_Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
_Millis = Annotated[float, Field(ge=0, le=3_600_000)]


class LimitSettings(BaseSettings):
    """How long things may take, and what is tried again; part of ``Settings``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    request_timeout_secs: Annotated[
        _Seconds,
        Knob(
            _FAILURES,
            "Longest wait for an answer that is not streamed, and the three limits below where "
            "they are unset; a healthy stream is never cut",
            unit="seconds",
        ),
    ] = 1800.0
    prefill_timeout_secs: Annotated[
        _Seconds | None,
        Knob(
            _FAILURES,
            "Longest time for prefill, its wait at the worker included; "
            "unset: --request-timeout-secs",
            unit="seconds",
        ),
    ] = None
    first_token_timeout_secs: Annotated[
        _Seconds | None,
        Knob(
            _FAILURES,
            "Longest time from prefill's end to a stream's first token; "
            "unset: --request-timeout-secs",
            unit="seconds",
        ),
    ] = None
    token_gap_timeout_secs: Annotated[
        _Seconds | None,
        Knob(
            _FAILURES,
            "Longest silence of a stream after its first token; unset: --request-timeout-secs",
            unit="seconds",
        ),
    ] = None
    total_timeout_secs: Annotated[
        _Seconds | None,
        Knob(
            _FAILURES,
            "Longest time for a request as a whole, healthy or not; unset: no limit",
            unit="seconds",
        ),
    ] = None

    max_retries: Annotated[
        int,
        Knob(
            _FAILURES,
            "Pairs tried for one request, the first one counted; only while nothing was sent",
            unit="attempts",
            name="retry_max_retries",
        ),
    ] = Field(5, ge=0, le=1_000_000)
    disable_retries: Annotated[bool, Knob(_FAILURES, "Try one pair only")] = False
    retry_on_5xx: Annotated[
        bool,
        Knob(
            _FAILURES,
            "Try another pair also after a prefill worker's own 5xx or a decode worker's 503, "
            "never after a prefill that ran",
        ),
    ] = False
    retry_deadline_secs: Annotated[
        _Seconds,
        Knob(_FAILURES, "No further pair is tried so long after the first attempt", unit="seconds"),
    ] = 30.0
    retry_budget_percent: Annotated[
        float,
        Knob(
            _FAILURES,
            "What all retries may cost: prompt tokens tried again, of those dispatched in about "
            "the last 10 seconds",
            unit="percent",
        ),
    ] = Field(20.0, ge=0, le=1000)
    retry_budget_min_tokens: Annotated[
        int,
        Knob(
            _FAILURES,
            "Prompt tokens that may be tried again however few are dispatched",
            unit="tokens",
        ),
    ] = Field(262_144, ge=0, le=1_000_000_000)
    retry_initial_backoff_ms: Annotated[
        _Millis,
        Knob(
            _FAILURES,
            "Pause before the first retry after a 5xx; a worker that cannot be reached is "
            "replaced at once",
            unit="milliseconds",
        ),
    ] = 50.0
    retry_max_backoff_ms: Annotated[
        _Millis, Knob(_FAILURES, "Longest such pause", unit="milliseconds")
    ] = 30_000.0
    retry_backoff_multiplier: Annotated[
        float, Knob(_FAILURES, "What each further pause is longer by", unit="factor, 1 or more")
    ] = Field(1.5, ge=1, le=1000)
    retry_jitter_factor: Annotated[
        float,
        Knob(_FAILURES, "Random part of a pause, either way", unit="share, 0 to 1"),
    ] = Field(0.2, ge=0, le=1)

    @property
    def max_attempts(self) -> int:
        """Pairs tried for one request, 1 or more."""
        return 1 if self.disable_retries else max(1, self.max_retries)

    @model_validator(mode="after")
    def _check_backoff(self) -> Self:
        if self.retry_initial_backoff_ms > self.retry_max_backoff_ms:
            raise Fault(
                f"must not be above --retry-max-backoff-ms ({self.retry_max_backoff_ms:g})",
                value=f"{self.retry_initial_backoff_ms:g}",
                field="retry_initial_backoff_ms",
            )
        return self
