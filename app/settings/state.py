"""The settings of what several gateways share."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr
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
