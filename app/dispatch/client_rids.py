"""Clients' own request ids that are at an engine right now.

An engine refuses a second request under an id that it knows; the gateway would then give the
request up on the other leg, by that id, and so end the first one too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import InvalidRequest


class ClientRids:
    """The ids in use."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    @contextmanager
    def hold(self, rid: str | tuple[str, ...]) -> Iterator[None]:
        """Keeps a request's own ids to itself while it lasts.

        Raises:
            InvalidRequest: Another request has one of them.
        """
        rids = (rid,) if isinstance(rid, str) else rid
        for each in rids:
            if each in self._held:
                raise InvalidRequest(
                    f"Another request with rid {each!r} is still running.",
                    code="rid_in_use",
                    param="rid",
                )
        self._held.update(rids)
        try:
            yield
        finally:
            self._held.difference_update(rids)
