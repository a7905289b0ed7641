"""The settings of the workers' life: joining, being lost, draining, and their circuit breakers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings.values import Knob

_WORKERS, _FAILURES, _HEALTH = "Workers", "Failures and time limits", "Health checks"

_Seconds = Annotated[float, Field(gt=0, le=31_536_000)]


class WorkerSettings(BaseSettings):
    """What the operator can choose for the life of workers; part of ``Settings``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    worker_startup_timeout_secs: Annotated[
        _Seconds,
        Knob(
            _WORKERS,
            "How long a worker may take to join before it counts as failed; it is tried on",
            unit="seconds",
        ),
    ] = 1800.0
    drain_timeout_secs: Annotated[
        float,
        Knob(
            _WORKERS,
            "How long a removed worker's requests may go on before they are ended",
            unit="seconds",
        ),
    ] = Field(600.0, ge=0, le=31_536_000)
    cb_failure_share: Annotated[
        float,
        Knob(
            _FAILURES,
            "Share of the answers since the first of those failures that must have failed",
            unit="share, above 0 to 1",
        ),
    ] = Field(0.5, gt=0, le=1)
    remove_unhealthy_workers: Annotated[
        bool,
        Knob(
            _HEALTH,
            "Remove workers that stay unhealthy, while at least half of their kind are ready",
            aliases=("--worker-auto-recovery",),
        ),
    ] = False
    remove_unhealthy_after_secs: Annotated[
        _Seconds,
        Knob(
            _HEALTH,
            "How long such a worker must have been unhealthy",
            unit="seconds",
        ),
    ] = 540.0
