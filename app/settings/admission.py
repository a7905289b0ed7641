"""The settings of how much the gateway takes on."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings.values import Fault, Knob

_ADMISSION = "Admission"

_Rate = Annotated[float, Field(ge=0, le=1_000_000)]


class AdmissionSettings(BaseSettings):
    """Limits of the gateway itself; part of ``Settings``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_payload_size: Annotated[
        int, Knob(_ADMISSION, "Largest request body; a larger one is refused unread", unit="bytes")
    ] = Field(536_870_912, ge=1)
    max_bodies_size: Annotated[
        int,
        Knob(
            _ADMISSION, "Largest sum of the bodies of all requests that are running", unit="bytes"
        ),
    ] = Field(1_073_741_824, ge=1)
    max_concurrent_requests: Annotated[
        int,
        Knob(
            _ADMISSION,
            "Requests that may run at a time, each choice of n counted; 0: no limit; -1: 4096, or "
            "what the file descriptors allow",
        ),
    ] = Field(-1, ge=-1, le=1_000_000)
    rate_limit_tokens_per_second: Annotated[
        _Rate,
        Knob(_ADMISSION, "Requests a second that are taken on, of all keys together; 0: no limit"),
    ] = 0.0
    key_rate_limit: Annotated[
        _Rate,
        Knob(
            _ADMISSION,
            "Requests a second of one key, each choice of each prompt counted; 0: no limit",
        ),
    ] = 0.0
    key_rate_burst: Annotated[
        int | None,
        Knob(_ADMISSION, "Requests a key may send at once after a pause; unset: those of a second"),
    ] = Field(None, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.max_bodies_size < self.max_payload_size:
            given = "max_bodies_size" in self.model_fields_set
            raise Fault(
                "must not be below --max-payload-size"
                if given
                else "must not be above --max-bodies-size",
                value=str(self.max_bodies_size if given else self.max_payload_size),
                field="max_bodies_size" if given else "max_payload_size",
            )
        if self.key_rate_burst is not None and not self.key_rate_limit:
            raise Fault(
                "needs --key-rate-limit too", value=str(self.key_rate_burst), field="key_rate_burst"
            )
        return self
