"""The certificates towards workers, read and checked for both engines' clients."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from app.certificate_files import CertificateFiles
from app.settings import Settings, SettingsError, flag_name
from app.upstream.grpc_tls import GrpcTls


@dataclass(frozen=True, slots=True)
class WorkerTls:
    """What workers are checked by, and what they check the gateway by.

    Attributes:
        http: For ``https`` workers.
        grpc: For ``grpcs`` workers; as it was at start.
        files: Follows the files behind ``http``, if there are any.
    """

    http: ssl.SSLContext
    grpc: GrpcTls
    files: CertificateFiles | None


def worker_tls(settings: Settings) -> WorkerTls:
    """Reads the certificates.

    With a CA of one's own only that one counts, as gRPC does it; without, the system's.

    Raises:
        SettingsError: A file cannot be read or holds something else.
    """
    certificate, key = settings.client_cert_path, settings.client_key_path
    ca = _read("ca_cert_path", settings.ca_cert_path)
    parts = (_read("client_cert_path", certificate), _read("client_key_path", key))
    # gRPC takes anything here and then never gets a connection, so this one checks for both.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    try:
        if ca is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            context.load_verify_locations(cadata=ca.decode("ascii", "replace"))
    except ssl.SSLError:
        raise SettingsError(
            f"{flag_name('ca_cert_path')} {settings.ca_cert_path}: no certificates in PEM form."
        ) from None
    try:
        if certificate is not None:
            # A password is never asked for on the terminal: gRPC takes no encrypted keys.
            context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError:
        raise SettingsError(
            f"{flag_name('client_cert_path')} {certificate}: the certificate and the key {key} "
            "are not in PEM form, do not fit each other, or the key is encrypted."
        ) from None
    pair = None if certificate is None or key is None else (certificate, key)
    is_ours = pair is not None or ca is not None
    files = CertificateFiles(context, pair, settings.ca_cert_path) if is_ours else None
    return WorkerTls(context, GrpcTls(ca, *parts), files)


def _read(field: str, path: str | None) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{flag_name(field)} {path}: {error.strerror}.") from None
