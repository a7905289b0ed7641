"""Certificates that are renewed while the gateway runs."""

from __future__ import annotations

import asyncio
import ssl

from structlog.typing import FilteringBoundLogger

from app.followed_files import POLL_S, FollowedFiles, marks_at


class CertificateFiles(FollowedFiles):
    """Follows the files behind one TLS configuration.

    New connections use what is taken; those that are open stay as they are. An authority that is
    no longer in its file counts until a restart: OpenSSL can add to those it trusts, not remove.

    Args:
        tls: What the connections are made with.
        pair: Paths of the certificate chain and its key; None: nothing of one's own is shown.
        ca: Path of the certificates that the other side is checked by, if any.
        poll_s: Time between two looks at the files.
    """

    def __init__(
        self,
        tls: ssl.SSLContext,
        pair: tuple[str, str] | None,
        ca: str | None,
        *,
        poll_s: float = POLL_S,
    ) -> None:
        paths = [*(pair or ()), *([ca] if ca is not None else [])]
        super().__init__(paths, marks_at(paths), poll_s=poll_s)
        self._tls = tls
        self._pair = pair
        self._ca = ca

    async def take(self, log: FilteringBoundLogger) -> None:
        """Loads the files; a set that does not fit together changes nothing."""
        try:
            # A key that does not fit would leave the real one with half of a new pair.
            await asyncio.to_thread(self._load, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            self._load(self._tls)
        except OSError as error:  # The ssl module's own errors are among these.
            log.warning(
                "certificates not taken, those before them stay",
                files=self.paths,
                reason=error.strerror or str(error),
            )
            return
        log.info("certificates taken", files=self.paths)

    def _load(self, tls: ssl.SSLContext) -> None:
        if self._pair is not None:
            # A password is never asked for on the terminal.
            tls.load_cert_chain(*self._pair, password="")
        if self._ca is not None:
            tls.load_verify_locations(self._ca)
