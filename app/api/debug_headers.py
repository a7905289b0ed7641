"""What a client that may know is told about its request: ``x-tandem-debug: 1``.

``Server-Timing`` has the phases up to the answer's head, ``x-tandem-pair`` the two workers, and
``x-tandem-route`` why it was these. Workers are named by addresses where those are no secret, as to
who may read the control plane; else by ids, which ``GET /workers/{id}`` knows.
"""

from __future__ import annotations

from typing import Literal

from starlette.types import Scope

from app.middleware.access import Access
from app.middleware.auth import bearer_token
from app.middleware.key_ring import KeyRing
from app.observability.notes import Notes
from app.observability.phases import phases

ASKED = b"x-tandem-debug"
_YES = (b"1", b"true", b"on")
_NO = (b"", b"0", b"false", b"off")
Whose = Literal["admin", "on", "off"]
Headers = list[tuple[bytes, bytes]]


class DebugHeaders:
    """Decides who is told, and tells.

    Args:
        whose: ``admin``: who may read the control plane, by the key of the request or, where
            such keys open nothing else, by one in the header's value. ``on``: who asks.
        keys: All keys.
        exposes_addresses: Name workers by their URLs.
    """

    def __init__(self, whose: Whose, keys: KeyRing, *, exposes_addresses: bool) -> None:
        self._whose = whose
        self._keys = keys
        self._exposes_addresses = exposes_addresses

    def are_due(self, scope: Scope) -> bool:
        """Whether a request asks for them and may have them."""
        if self._whose == "off":
            return False
        for name, value in scope["headers"]:
            if name == ASKED:
                return value.lower() not in _NO and self._may_know(scope, value)
        return False

    def _may_know(self, scope: Scope, value: bytes) -> bool:
        is_plain = value.lower() in _YES
        if self._whose == "on":
            return is_plain
        token = bearer_token(scope["headers"]) if is_plain else value
        return self._keys.refusal(Access.CONTROL, "GET", self._keys.find(token)) is None

    def of(self, notes: Notes) -> Headers:
        """Returns the headers of an answer whose head goes out now."""
        spent = phases(notes)
        if spent and spent[-1][0] == "end" and notes.outcome is None:
            # What has just ended is the wait for the first event.
            spent[-1] = ("first_token", spent[-1][1])
        spent.append(("total", sum(spent_s for _, spent_s in spent)))
        timing = ", ".join(f"{name};dur={spent_s * 1000:.3f}" for name, spent_s in spent)
        found = [(b"server-timing", timing.encode("ascii"))]
        # Who may read the control plane knows the addresses from there.
        with_urls = self._exposes_addresses or self._whose == "admin"
        if notes.prefill is not None and notes.decode is not None:
            prefill, decode = (
                worker.spec.url if with_urls else worker.id
                for worker in (notes.prefill, notes.decode)
            )
            found.append((b"x-tandem-pair", f'prefill="{prefill}", decode="{decode}"'.encode()))
        if notes.reason is not None:
            text = notes.reason.text(with_urls=with_urls)
            found.append((b"x-tandem-route", text.encode()))
        return found
