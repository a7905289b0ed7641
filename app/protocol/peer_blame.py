"""Telling a worker's own failure from its report that the other leg is gone."""

from __future__ import annotations

# Texts of SGLang 0.5.23, seen when the peer was aborted, killed or hung. KVTransferError stands in
# each of them; the others are kept for versions that leave it out.
_PEER_DEATH_TEXTS = (
    "kvtransfererror",
    "lost connection with prefill",
    "prefill bootstrap failed",
    "prefill transfer failed",
    "decode handshake failed",
    "decode bootstrap failed",
    "decode transfer failed",
)


def is_peer_death(message: str) -> bool:
    """The worker reports a failed handover, so either leg may be at fault.

    Such a report charges nobody: both workers are probed, and the one that fails is named.
    """
    lowered = message.lower()
    return any(text in lowered for text in _PEER_DEATH_TEXTS)
