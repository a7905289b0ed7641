"""The settings of what several gateways share."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings.values import Fault, Knob

_REPLICAS = "Several replicas"
_SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix")


def _check_url(url: SecretStr | None) -> SecretStr | None:
    if url is None:
        return None
    try:
        parts = urlsplit(url.get_secret_value())
        is_whole = bool(parts.path if parts.scheme == "unix" else parts.hostname)
        is_good = parts.scheme in _SCHEMES and is_whole and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        # It may hold a password: it is never repeated.
        raise Fault("must be redis://, rediss://, valkey://, valkeys:// or unix://", value="")
    return url


class StateSettings(BaseSettings):
    """What the operator can choose of shared state; part of ``Settings``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    state_url: Annotated[
        SecretStr | None,
        AfterValidator(_check_url),
        Knob(
            _REPLICAS,
            "Redis or Valkey that keeps workers changed over REST and the rate limits, for all "
            "gateways that name it",
            metavar="URL",
        ),
    ] = None
    state_prefix: Annotated[
        str,
        Knob(_REPLICAS, "Begins the names of its keys; one for each fleet", metavar="WORD"),
    ] = Field("tandem", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    brain_port: Annotated[
        int | None,
        Knob(
            _REPLICAS,
            "Port on which the deciding process of one replica serves all; unset: each replica "
            "decides for itself",
            metavar="PORT",
        ),
    ] = Field(None, ge=1, le=65535)
    brain_host: Annotated[
        str, Knob(_REPLICAS, "Address to listen on for that", metavar="ADDRESS")
    ] = Field("0.0.0.0", min_length=1)  # noqa: S104 - replicas are on other machines
    brain_announce: Annotated[
        str | None,
        Knob(
            _REPLICAS,
            "Where other replicas reach that port, as HOST or HOST:PORT; the pod's own address",
            metavar="HOST[:PORT]",
        ),
    ] = Field(None, pattern=r"^(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(:[0-9]{1,5})?$")
    brain_secret: Annotated[
        SecretStr | None,
        Knob(
            _REPLICAS,
            "Shown by replicas to each other; whoever has it can do all that a gateway can",
            metavar="SECRET",
        ),
    ] = Field(None, min_length=16)

    @model_validator(mode="after")
    def _check_brain(self) -> Self:
        if self.brain_port is None:
            return self
        for field in ("state_url", "brain_announce", "brain_secret"):
            if getattr(self, field) is None:
                flag = "--" + field.replace("_", "-")
                raise Fault(f"needs {flag} too", value=str(self.brain_port), field="brain_port")
        return self

    @property
    def brain_announced(self) -> str:
        """Host and port at which other replicas reach this one's deciding process."""
        where = self.brain_announce or ""
        is_whole = ":" in where.rpartition("]")[2]
        return where if is_whole else f"{where}:{self.brain_port}"
