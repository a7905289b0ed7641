"""The settings of a gateway in several processes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings.values import Knob


class ClusterSettings(BaseSettings):
    """What the operator can choose of processes; part of ``Settings``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    workers: Annotated[
        int,
        Knob(
            "Listening",
            "Processes that carry requests, on the one port; above 1 another one beside them "
            "decides for all. Unset, WEB_CONCURRENCY counts",
            unit="processes",
        ),
    ] = Field(1, ge=1, le=64)
