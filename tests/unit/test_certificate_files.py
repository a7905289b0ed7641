"""Certificates that change while the gateway runs, on the side of workers."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from structlog.testing import CapturingLogger

from app.certificate_files import CertificateFiles
from tests.flow.certificates import make_authority
from tests.flow.fleet import until


def pem_of(folder: Path) -> str:
    """The certificate of a new authority, named like its folder."""
    return Path(make_authority(folder).pem).read_text()


async def test_an_added_authority_counts(tmp_path: Path) -> None:
    """And a file that holds none changes nothing, is told of once, and is taken when mended."""
    one, other = pem_of(tmp_path / "one"), pem_of(tmp_path / "other")
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(one)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.load_verify_locations(trusted)
    files = CertificateFiles(tls, None, str(trusted), poll_s=0.005)
    log = CapturingLogger()

    def told() -> list[str]:
        return [call.method_name for call in log.calls]

    def names() -> set[str]:
        return {str(ca["subject"]) for ca in tls.get_ca_certs()}

    at_first = names()
    assert len(at_first) == 1
    async with asyncio.TaskGroup() as group:
        task = group.create_task(files.watch(log))
        trusted.write_text("nothing of use")
        await until(told)
        await asyncio.sleep(0.05)
        assert (told(), names()) == (["warning"], at_first)
        trusted.write_text(one + other)
        await until(lambda: len(told()) == 2)
        assert told() == ["warning", "info"]
        assert at_first < names()
        task.cancel()
