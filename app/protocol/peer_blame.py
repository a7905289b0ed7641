"""Telling a worker's own failure from its report that the other leg is gone."""

from __future__ import annotations

import ipaddress
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
# What may be an address: IPv4 with or without a port, IPv6 in brackets or bare.
_ADDRESS = re.compile(
    r"(?<![\w.])(?:\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?(?![\w.]*\d)"
    r"|\[[0-9A-Fa-f:.%]+\](?::\d{1,5})?"
    r"|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:]))"
)
_MASK = "<address>"


def is_peer_death(message: str) -> bool:
    """The worker reports a failed handover, so either leg may be at fault.

    Such a report charges nobody: both workers are probed, and the one that fails is named.
    """
    lowered = message.lower()
    return any(text in lowered for text in _PEER_DEATH_TEXTS)


def without_addresses(message: str, hosts: Iterable[str], asked: bytes = b"") -> str:
    """Masks where the workers live, which is no client's business.

    Masked are the pair's own hosts with a port, and every address that is private, the pair's, or
    in a report of a failed handover, where engines quote their peer's. An address that the client
    sent itself, such as an image's, stays.

    Args:
        message: A worker's text.
        hosts: The hosts of the pair, IPv6 in brackets.
        asked: The client's own request.
    """
    own = frozenset(hosts)
    is_report = is_peer_death(message)

    def masked(match: re.Match[str]) -> str:
        text = match[0]
        bare = text.partition("]")[0].lstrip("[") if text.startswith("[") else text
        if text.count(":") == 1:
            bare = text.partition(":")[0]
        try:
            address = ipaddress.ip_address(bare)
        except ValueError:
            return text
        if own & {bare, f"[{bare}]"}:
            return _MASK
        is_inner = address.is_private or is_report
        return _MASK if is_inner and text.encode() not in asked else text

    for host in own:
        message = re.sub(rf"(?<![\w.-]){re.escape(host)}:\d{{1,5}}\b", _MASK, message)
    return _ADDRESS.sub(masked, message)
