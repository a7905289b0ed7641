"""The settings of what can be seen: metrics and debug headers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings.values import Knob

_OBSERVING = "Logs and metrics"


class ObservingSettings(BaseSettings):
    """What the operator can choose of metrics and the like; part of ``Settings``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    metrics_on_main: Annotated[
        bool,
        Knob(
            _OBSERVING,
            "Serve /metrics on the main port too, for control-plane keys (anybody, if there are "
            "no keys)",
        ),
    ] = False
    enable_trace: Annotated[
        bool, Knob(_OBSERVING, "Send OpenTelemetry spans of generations; needs the extra otel")
    ] = False
    otlp_traces_endpoint: Annotated[
        str,
        Knob(
            _OBSERVING,
            "Where spans go by OTLP over gRPC: host:port, or https://host:port for TLS",
            metavar="ADDRESS",
        ),
    ] = Field("localhost:4317", min_length=1)
    recorder_mib: Annotated[
        int,
        Knob(
            _OBSERVING,
            "Memory of the flight recorder, of all processes together, about 4,000 requests a "
            "MiB; 0: none",
            unit="MiB",
        ),
    ] = Field(16, ge=0, le=65_536)
    recorder_file: Annotated[
        str | None,
        Knob(
            _OBSERVING,
            "File that every recorded request is appended to, one JSON object a line",
            metavar="FILE",
        ),
    ] = Field(None, min_length=1)
    recorder_file_mib: Annotated[
        int,
        Knob(
            _OBSERVING,
            "Size at which that file is put aside as FILE.1, in place of the one before",
            unit="MiB",
        ),
    ] = Field(256, ge=1, le=1_048_576)
    debug_headers: Annotated[
        Literal["admin", "on", "off"],
        Knob(
            _OBSERVING,
            "Whose requests with x-tandem-debug: 1 get Server-Timing and the like. admin: of who "
            "may read the control plane; on: everybody's; off: nobody's",
            metavar="admin|on|off",
        ),
    ] = "admin"
