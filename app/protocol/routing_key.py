"""The header by which a client keeps its requests together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

OWN_KEY = b"x-tandem-routing-key"
SMG_KEY = b"x-smg-routing-key"
_KEYS = frozenset({OWN_KEY, SMG_KEY})


def routing_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the routing key; our own header comes before SMG's, an empty value counts as none."""
    found = None
    for name, value in headers:
        if name in _KEYS and value:
            if name == OWN_KEY:
                return value
            if found is None:
                found = value
    return found
