"""The settings of the queue before prefill."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings.values import Knob

_QUEUE = "Prefill queue"


class SchedulingSettings(BaseSettings):
    """What the operator can choose of the prefill queue; part of ``Settings``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prefill_queue: Annotated[
        Literal["on", "off"],
        Knob(
            _QUEUE,
            "on: requests wait here until a prefill worker can start them, shortest first; it "
            "takes the place of the prefill policy. off: each goes to a worker at once",
            metavar="on|off",
        ),
    ] = "off"
    prefill_queue_size: Annotated[
        int, Knob(_QUEUE, "Requests that may wait; more are refused with 503", unit="requests")
    ] = Field(4096, ge=1, le=1_000_000)
    prefill_queue_timeout_secs: Annotated[
        float, Knob(_QUEUE, "Longest wait of a request, then 503", unit="seconds")
    ] = Field(60.0, gt=0, le=31_536_000)
    prefill_poll_ms: Annotated[
        float,
        Knob(
            _QUEUE,
            "How often a prefill worker with requests is asked for its load; what it said counts "
            "for ten times as long",
            unit="milliseconds",
        ),
    ] = Field(100.0, ge=1, le=60_000)
    prefix_index_mib: Annotated[
        int, Knob(_QUEUE, "Memory of what is known of the workers' prefix caches", unit="MiB")
    ] = Field(64, ge=1, le=1_048_576)
    prefix_index_ranks: Annotated[
        int,
        Knob(
            _QUEUE,
            "Prefill ranks that the queue feeds. 36 bytes a block of 128 tokens of the index, and "
            "4 more for each 32 above 192; other ranks get their share by the prefill policy",
            unit="ranks",
        ),
    ] = Field(192, ge=1, le=16_384)
