"""Telling a worker's own failure from its report that the other leg is gone."""

from __future__ import annotations

import re
from collections.abc import Iterable

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
# An IPv4 address, or an IPv6 one in brackets, with or without a port.
_ADDRESS = re.compile(r"(?<![\w.])(?:\d{1,3}(?:\.\d{1,3}){3}|\[[0-9A-Fa-f:.%]+\])(?::\d{1,5})?")
_MASK = "<address>"


def is_peer_death(message: str) -> bool:
    """The worker reports a failed handover, so either leg may be at fault.

    Such a report charges nobody: both workers are probed, and the one that fails is named.
    """
    lowered = message.lower()
    return any(text in lowered for text in _PEER_DEATH_TEXTS)


def without_addresses(message: str, hosts: Iterable[str]) -> str:
    """Masks where the workers live, which is no client's business.

    Engines quote the peer's address when a handover fails. In other texts only ``host:port`` of
    the pair is masked: an address there may be the client's own, such as an image's.

    Args:
        message: A worker's text.
        hosts: The hosts of the pair, IPv6 in brackets.
    """
    for host in set(hosts):
        message = re.sub(rf"(?<![\w.-]){re.escape(host)}:\d{{1,5}}\b", _MASK, message)
    return _ADDRESS.sub(_MASK, message) if is_peer_death(message) else message
