"""The settings of who may call the gateway and what it tells them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.middleware.keys import Key, KeyFault, control_key, data_key, shared_key
from app.settings.values import Fault, Knob

_SECURITY = "Security"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#,@*]+")


def _read_keys(read: Callable[[str], Key]) -> Callable[[object], tuple[Key, ...]]:
    def read_keys(value: object) -> tuple[Key, ...]:
        try:
            return tuple(
                item if isinstance(item, Key) else read(str(item)) for item in _items(value)
            )
        except KeyFault as fault:
            # The value is a secret: it is never repeated.
            raise Fault(str(fault), value="") from None

    return read_keys


def _read_origins(value: object) -> tuple[str, ...]:
    origins = tuple(str(item) for item in _items(value))
    for origin in origins:
        if origin == "*" and len(origins) > 1:
            raise Fault("* means any origin and stands alone", value=", ".join(origins))
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise Fault("must be scheme://host[:port] without a path, or *", value=origin)
    return origins


def _items(value: object) -> list[object]:
    if isinstance(value, str):
        return [*value.replace(",", " ").split()]
    if not isinstance(value, (list, tuple)):
        raise Fault("takes a list", value="")
    return [part for item in value for part in (_items(item) if isinstance(item, str) else [item])]


class SecuritySettings(BaseSettings):
    """Keys, origins and what errors tell; part of ``Settings``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    api_key: Annotated[
        SecretStr | None,
        Knob(
            _SECURITY,
            "Key that clients must send, and that workers given at start are sent; it administers "
            "too while there are no control-plane keys",
            metavar="KEY",
        ),
    ] = Field(None, min_length=1)
    tenant_api_key: Annotated[
        tuple[Key, ...],
        BeforeValidator(_read_keys(data_key)),
        Knob(
            _SECURITY,
            "A further key for clients, of the data plane only; repeatable",
            metavar="ID:KEY",
        ),
    ] = ()
    control_plane_api_keys: Annotated[
        tuple[Key, ...],
        BeforeValidator(_read_keys(control_key)),
        Knob(
            _SECURITY,
            "Keys that alone administer; the role is admin, or user who may only look",
            metavar="ID:NAME:ROLE:KEY",
        ),
    ] = ()
    api_keys_file: Annotated[
        str | None,
        Knob(
            _SECURITY,
            "File of further keys, one a line as in the two above; read again when it changes and "
            "on SIGHUP",
            metavar="FILE",
        ),
    ] = Field(None, min_length=1)
    cors_allowed_origins: Annotated[
        tuple[str, ...],
        BeforeValidator(_read_origins),
        Knob(
            _SECURITY,
            "Origins whose pages may call from a browser; * means any; none: no CORS headers",
            metavar="ORIGIN",
        ),
    ] = ()
    expose_worker_addresses: Annotated[
        bool, Knob(_SECURITY, "Let errors tell clients the addresses of workers")
    ] = False

    @model_validator(mode="after")
    def _check_keys_differ(self) -> Self:
        seen = {key.digest: key for key in self.fixed_keys}
        if len(seen) != len(self.fixed_keys):
            raise Fault("one of its keys is given twice", value="", field=self._last_keys_field())
        return self

    def _last_keys_field(self) -> str:
        return "control_plane_api_keys" if self.control_plane_api_keys else "tenant_api_key"

    @property
    def fixed_keys(self) -> tuple[Key, ...]:
        """The keys that are not in the file, as digests."""
        api_key = self.api_key
        shared = () if api_key is None else (shared_key(api_key.get_secret_value()),)
        return (*shared, *self.tenant_api_key, *self.control_plane_api_keys)
