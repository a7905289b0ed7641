"""The header that keeps a client's requests together."""

from __future__ import annotations

import pytest

from app.protocol.routing_key import routing_key

OWN = (b"x-tandem-routing-key", b"own")
SMG = (b"x-smg-routing-key", b"smg")


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([(b"authorization", b"Bearer k"), (b"cookie", b"a"), (b"x-forwarded-for", b"1")], None),
        ([(b"x-routing-key", b"a"), (b"a-routing-key", b"b")], None),
        ([SMG], b"smg"),
        ([OWN], b"own"),
        ([SMG, OWN], b"own"),
        ([OWN, SMG], b"own"),
        ([(b"x-tandem-routing-key", b""), SMG], b"smg"),
        ([SMG, (b"x-smg-routing-key", b"second")], b"smg"),
    ],
)
def test_routing_key(headers: list[tuple[bytes, bytes]], key: bytes | None) -> None:
    """Our own before SMG's; an empty one is none; never a credential."""
    assert routing_key(headers) == key
