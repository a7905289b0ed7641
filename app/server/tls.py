"""TLS between clients and the gateway."""

from __future__ import annotations

import ssl
from pathlib import Path

from app.certificate_files import CertificateFiles
from app.settings import Settings, SettingsError, flag_name


def server_tls(settings: Settings) -> ssl.SSLContext | None:
    """Reads certificate, key and the certificates of clients; ``None``: plain HTTP.

    Raises:
        SettingsError: A file cannot be read, or does not hold what it should.
    """
    certificate, key = settings.tls_cert_path, settings.tls_key_path
    if certificate is None or key is None:
        return None
    for field in ("tls_cert_path", "tls_key_path", "tls_client_ca_path"):
        _check_readable(field, getattr(settings, field))
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    try:
        # A password is never asked for on the terminal.
        made.load_cert_chain(certificate, key, password="")
    except ssl.SSLError:
        raise SettingsError(
            f"{flag_name('tls_cert_path')} {certificate}: the certificate and the key {key} "
            "are not in PEM form, do not fit each other, or the key is encrypted."
        ) from None
    if settings.tls_client_ca_path is not None:
        made.verify_mode = ssl.CERT_REQUIRED
        try:
            made.load_verify_locations(settings.tls_client_ca_path)
        except ssl.SSLError:
            raise SettingsError(
                f"{flag_name('tls_client_ca_path')} {settings.tls_client_ca_path}: "
                "no certificates in PEM form."
            ) from None
    return made


def server_files(settings: Settings, tls: ssl.SSLContext | None) -> CertificateFiles | None:
    """Follows the files behind :func:`server_tls`; ``None``: plain HTTP."""
    certificate, key = settings.tls_cert_path, settings.tls_key_path
    if tls is None or certificate is None or key is None:
        return None
    return CertificateFiles(tls, (certificate, key), settings.tls_client_ca_path)


def _check_readable(field: str, path: str | None) -> None:
    """The ssl module does not say which of its files is the one."""
    try:
        if path is not None:
            Path(path).open("rb").close()
    except OSError as error:
        raise SettingsError(f"{flag_name(field)} {path}: {error.strerror}.") from None
