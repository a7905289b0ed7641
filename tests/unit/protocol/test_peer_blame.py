"""Reports of a peer's death, and the addresses in them."""

from __future__ import annotations

import pytest

from app.protocol.peer_blame import is_peer_death, without_addresses

LOST = "Decode transfer failed: KVTransferError(bootstrap_room=7): Lost connection with prefill"


@pytest.mark.parametrize(
    ("text", "is_report"),
    [
        (LOST, True),
        ("PREFILL BOOTSTRAP FAILED for request", True),
        ("top_p must be in (0, 1], got 7.0.", False),
        ("The request queue is full.", False),
    ],
)
def test_is_peer_death(text: str, is_report: bool) -> None:
    """Only failed handovers leave it open whose fault it was."""
    assert is_report is is_peer_death(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{LOST} (10.0.0.3:8998)", f"{LOST} (<address>)"),
        (f"{LOST} (10.9.9.9:16384)", f"{LOST} (<address>)"),
        (f"{LOST} (203.0.113.9:16384)", f"{LOST} (<address>)"),
        (f"{LOST} ([fd00::1]:8998)", f"{LOST} (<address>)"),
        (f"{LOST} (prefill-0.pool:8998)", f"{LOST} (<address>)"),
        # No report: what is private or the pair's own is masked, in every notation.
        ("from 10.0.0.3:30000.", "from <address>."),
        ("from 192.168.7.1 to ('fd00::9', 5600)", "from <address> to ('<address>', 5600)"),
        ("8.8.8.8 said no", "<address> said no"),
        ("the prefill-0.pool worker", "the prefill-0.pool worker"),
        ("x.prefill-0.pool:80", "x.prefill-0.pool:80"),
        ("version 1.2.3.4 of 10.1.2.3.4 at 12:30:45", "version 1.2.3.4 of 10.1.2.3.4 at 12:30:45"),
        ("std::vector a::b", "std::vector a::b"),
    ],
)
def test_without_addresses(text: str, shown: str) -> None:
    """A client never learns where the workers live."""
    hosts = ("10.0.0.3", "prefill-0.pool", "[fd00::1]", "8.8.8.8")
    assert shown == without_addresses(text, hosts)


def test_an_address_that_the_client_sent_is_shown() -> None:
    """Its own image's address is no news to it; a worker's is masked whatever it sent."""
    asked = b'{"url": "http://10.9.9.9:80/cat.png", "text": "10.0.0.3"}'
    text = "cannot load http://10.9.9.9:80/cat.png from 10.0.0.3 or 10.9.9.8:80"
    shown = "cannot load http://10.9.9.9:80/cat.png from <address> or <address>"
    assert shown == without_addresses(text, ("10.0.0.3",), asked)
