"""The settings of the client's side: deadlines of connections, stopping, the server's TLS."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings.values import Fault, Knob

_CONNECTIONS, _SECURITY = "Connections of clients", "Security"

_Seconds = Annotated[float, Field(gt=0, le=31_536_000)]


class EdgeSettings(BaseSettings):
    """What the operator can choose for clients and their connections; part of ``Settings``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    header_read_timeout_secs: Annotated[
        _Seconds,
        Knob(
            _CONNECTIONS,
            "Longest time for a request's head, and for a TLS handshake; then 408",
            unit="seconds",
        ),
    ] = 10.0
    stream_body_stall_timeout_secs: Annotated[
        _Seconds,
        Knob(
            _CONNECTIONS,
            "Longest pause in a request's body; all of it may take this long and a second a KiB "
            "more; then 408",
            unit="seconds",
        ),
    ] = 30.0
    idle_connection_timeout_secs: Annotated[
        _Seconds,
        Knob(
            _CONNECTIONS,
            "How long a connection is kept between requests; above the load balancer's own",
            unit="seconds",
        ),
    ] = 90.0
    client_stall_timeout_secs: Annotated[
        _Seconds,
        Knob(
            _CONNECTIONS,
            "A client that takes no byte of its answer for this long is cut off",
            unit="seconds",
        ),
    ] = 60.0
    sse_keepalive_secs: Annotated[
        float,
        Knob(
            _CONNECTIONS,
            "Silence of a stream after which a comment is sent, once it has begun; 0: never",
            unit="seconds",
        ),
    ] = Field(15.0, ge=0, le=86_400)
    sse_keepalive_early: Annotated[
        bool,
        Knob(
            _CONNECTIONS,
            "Comments before the first event too: it commits the answer to 200, so a failure is "
            "an error event",
        ),
    ] = False
    shutdown_settle_secs: Annotated[
        float,
        Knob(
            _CONNECTIONS,
            "How long new requests are served after SIGTERM, while load balancers notice; part "
            "of the grace period, half of it at most",
            unit="seconds",
            aliases=("--drain-settle-secs",),
        ),
    ] = Field(5.0, ge=0, le=31_536_000)

    tls_cert_path: Annotated[
        str | None,
        Knob(
            _SECURITY,
            "The server's certificate chain (PEM); clients then use https",
            metavar="FILE",
        ),
    ] = Field(None, min_length=1)
    tls_key_path: Annotated[
        str | None, Knob(_SECURITY, "Key of that certificate", metavar="FILE")
    ] = Field(None, min_length=1)
    tls_client_ca_path: Annotated[
        str | None,
        Knob(
            _SECURITY,
            "Certificates (PEM) that clients must have one of; unset: clients need none",
            metavar="FILE",
        ),
    ] = Field(None, min_length=1)

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        certificate, key, client_ca = self.tls_cert_path, self.tls_key_path, self.tls_client_ca_path
        if certificate is not None and key is None:
            raise Fault("needs --tls-key-path too", value=certificate, field="tls_cert_path")
        if key is not None and certificate is None:
            raise Fault("needs --tls-cert-path too", value=key, field="tls_key_path")
        if client_ca is not None and certificate is None:
            raise Fault("needs --tls-cert-path too", value=client_ca, field="tls_client_ca_path")
        return self
