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
        (f"{LOST} ([fd00::1]:8998)", f"{LOST} (<address>)"),
        (f"{LOST} (prefill-0.pool:8998)", f"{LOST} (<address>)"),
        # No report: only what is the pair's own is masked.
        ("cannot load http://10.9.9.9:80/cat.png", "cannot load http://10.9.9.9:80/cat.png"),
        ("from 10.0.0.3:30000", "from <address>"),
        ("the prefill-0.pool worker", "the prefill-0.pool worker"),
        ("x.prefill-0.pool:80", "x.prefill-0.pool:80"),
        ("version 1.2.3.4", "version 1.2.3.4"),
    ],
)
def test_without_addresses(text: str, shown: str) -> None:
    """A client never learns where the workers live."""
    assert shown == without_addresses(text, ("10.0.0.3", "prefill-0.pool", "[fd00::1]"))
