"""Certificates for ``grpcs`` workers; knows nothing of gRPC, so that it costs nothing to name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GrpcTls:
    """What ``grpcs`` workers are checked by, and what they check the gateway by; PEM.

    Raises:
        ValueError: A certificate without its key, or the other way round.
    """

    ca: bytes | None = None
    """None: the roots that come with grpcio."""
    certificate: bytes | None = None
    key: bytes | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) is not (self.key is None):
            raise ValueError("A client certificate and its key must be given together.")
