"""Certificates for tests, made by the ``openssl`` command: a CA and what it has signed."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

LOCALHOST = "DNS:localhost,IP:127.0.0.1"


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder of its own."""

    folder: Path

    @property
    def pem(self) -> str:
        """Path of its own certificate."""
        return str(self.folder / "ca.pem")

    def sign(self, name: str, hosts: str = LOCALHOST) -> tuple[str, str]:
        """Makes a certificate; returns its path and that of its key."""
        request = ["req", "-new", *_KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key"]
        _openssl(self.folder, *request, "-out", f"{name}.csr")
        (self.folder / "names").write_text(f"subjectAltName={hosts}\n")
        _openssl(
            self.folder,
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", "2", "-extfile", "names", "-out", f"{name}.pem"),
        )
        return str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key")

    def client(self, certificate: tuple[str, str] | None = None) -> ssl.SSLContext:
        """What a client needs that trusts this authority, with a certificate or without."""
        made = ssl.create_default_context(cafile=self.pem)
        if certificate is not None:
            made.load_cert_chain(*certificate)
        return made


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def make_authority(folder: Path) -> Authority:
    """Makes an authority; skips the test where there is no openssl."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["req", "-x509", *_KEY, "-subj", f"/CN={folder.name}", "-days", "2"]
    _openssl(folder, *command, "-keyout", "ca.key", "-out", "ca.pem")
    return Authority(folder)


def _openssl(folder: Path, *words: str) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    subprocess.run([openssl, *words], cwd=folder, check=True, capture_output=True)
