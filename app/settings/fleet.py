"""The settings of how the fleet may change while the gateway runs."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings.values import Fault, Knob
from app.workers.url_guard import read_rule

_SECURITY = "Security"


def _read_rules(value: object) -> object:
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise Fault("takes hosts and networks", value=repr(value))
    # A flag may be given words, or words with commas between them.
    items = [item for part in parts for item in str(part).replace(",", " ").split()]
    for item in items:
        try:
            read_rule(item)
        except ValueError as exc:
            raise Fault(str(exc), value=item) from None
    return tuple(items)


class FleetSettings(BaseSettings):
    """What the operator can choose of workers that come and go; part of ``Settings``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    worker_url_allow: Annotated[
        tuple[str, ...],
        BeforeValidator(_read_rules),
        Knob(
            _SECURITY,
            "Hosts that workers added over the API may have: names, *.domain, addresses, "
            "networks (10.0.0.0/8); none: any but link-local and the like",
            metavar="LIST",
        ),
    ] = ()
