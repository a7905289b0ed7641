"""Certificates for ``grpcs`` workers; knows nothing of gRPC, so that it costs nothing to name."""

from __future__ import annotations

import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class GrpcTls:
    """What ``grpcs`` workers are checked by, and what they check the gateway by; PEM.

    Raises:
        ValueError: A certificate without its key, or the other way round.
    """

    ca: bytes | None = None
    """None: the system's roots; with grpcio as the client those that come with it."""
    certificate: bytes | None = None
    key: bytes | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) is not (self.key is None):
            raise ValueError("A client certificate and its key must be given together.")

    def client_context(self) -> ssl.SSLContext:
        """Make what Python's TLS needs, offering HTTP/2 only (RFC 9113, section 3.2).

        Raises:
            ssl.SSLError: A part is not in PEM form, or they do not fit each other.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        if self.ca is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            context.load_verify_locations(cadata=self.ca.decode("ascii", "replace"))
        if self.certificate is not None and self.key is not None:
            _load_chain(context, self.certificate + b"\n" + self.key)
        return context


def _load_chain(context: ssl.SSLContext, pem: bytes) -> None:
    """Load a certificate and its key; Python takes them from files only."""
    if hasattr(os, "memfd_create"):
        # In memory: the gateway's own file system may be read-only.
        file = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            os.write(file, pem)
            context.load_cert_chain(f"/proc/self/fd/{file}", password="")
        finally:
            os.close(file)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "certificate.pem")
        path.touch(mode=0o600)
        path.write_bytes(pem)
        context.load_cert_chain(path, password="")
