"""The settings of what is heard of the workers' KV caches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings.values import Knob

_QUEUE = "Prefill queue"


class KvEventSettings(BaseSettings):
    """What the operator can choose of KV events; part of ``Settings``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kv_events: Annotated[
        Literal["auto", "off"],
        Knob(
            _QUEUE,
            "auto: with the prefill queue, listen to the KV events of prefill workers that publish "
            "some, so that their prefix caches are known and not guessed. off: none is listened to",
            metavar="auto|off",
        ),
    ] = "auto"
    kv_events_mib: Annotated[
        int,
        Knob(
            _QUEUE,
            "Memory of what workers tell of their prefix caches; one that goes over it is guessed "
            "again",
            unit="MiB",
        ),
    ] = Field(128, ge=1, le=1_048_576)
