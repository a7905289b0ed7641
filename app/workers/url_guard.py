"""Which worker URLs may be given over the network.

What a start-up flag names is the operator's; what ``POST /workers`` names comes from whoever has
the key, and the gateway will connect to it, send it prompts and its key, and show what it says.

Addresses are compared with addresses, names with names. A name is never resolved here: looking it
up would block the loop, and the answer could be another one when the connection is made. Who
allows a name trusts whoever answers for it in DNS.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from app.workers.urls import normalise_url

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NUMBER = re.compile(r"\d+|0x[0-9a-f]*", re.ASCII)
_PATTERN = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?", re.ASCII)
_NEVER_WORKERS = tuple(
    ipaddress.ip_network(text)
    for text in ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/128", "fe80::/10", "ff00::/8")
)
"""This host by another name, link-local addresses (a cloud's metadata among them), multicast and
reserved ones. Who lists them allows them."""


class UrlNotAllowed(ValueError):
    """The URL is well formed, and the operator does not want workers there."""


class UrlGuard:
    """Judges worker URLs that come over the network.

    Args:
        allow: Host names, ``*.domain`` (any name below it, not the domain itself), addresses and
            CIDRs, as :func:`read_rule` takes them. Empty: everything but what is never a
            worker's address.

    Raises:
        ValueError: A rule is neither; with a sentence.
    """

    def __init__(self, allow: Sequence[str] = ()) -> None:
        rules = [read_rule(text) for text in allow]
        self._networks = tuple(rule for rule in rules if not isinstance(rule, str))
        names = [rule for rule in rules if isinstance(rule, str)]
        self._names = frozenset(name for name in names if not name.startswith("*."))
        self._domains = tuple(name[1:] for name in names if name.startswith("*."))
        self._has_list = bool(rules)

    def check(self, url: str) -> None:
        """Let a URL pass.

        Raises:
            UrlNotAllowed: The list does not have its host; the text is a sentence.
            ValueError: It is no worker URL, or its host is an address in disguise; the same.
        """
        host = urlsplit(normalise_url(url)).hostname or ""
        address = _address(host)
        if address is None:
            # A dot at the end only says that the name is whole.
            self._check_name(host.removesuffix("."))
            return
        networks = self._networks
        if self._has_list:
            if not any(address in network for network in networks):
                raise UrlNotAllowed(f"{_NOT_LISTED} {address}.")
        elif any(address in network for network in _NEVER_WORKERS):
            raise UrlNotAllowed(
                f"{address} is no address for a worker; --worker-url-allow could allow it."
            )

    def _check_name(self, name: str) -> None:
        if not self._has_list or name in self._names:
            return
        if not any(name.endswith(domain) for domain in self._domains):
            raise UrlNotAllowed(f"{_NOT_LISTED} {name}.")


_NOT_LISTED = "The list of allowed worker hosts (--worker-url-allow) does not have"


def read_rule(text: str) -> Network | str:
    """Read one entry of the list: a network, or a name in lower case.

    Raises:
        ValueError: It is neither; the text ends a sentence.
    """
    rule = text.strip().lower().removesuffix(".")
    bare = rule[1:-1] if rule.startswith("[") and rule.endswith("]") else rule
    if "/" in bare or ":" in bare or _NUMBER.fullmatch(bare.rpartition(".")[2]):
        try:
            return ipaddress.ip_network(bare)
        except ValueError as exc:
            raise ValueError(f"is no address and no network ({exc})") from None
    if not _PATTERN.fullmatch(rule):
        raise ValueError("is no host name, no *.domain, no address and no network")
    return rule


def _address(host: str) -> Address | None:
    """Read a host as an address; None: it is a name.

    Raises:
        ValueError: Operating systems would take it for an address though it is not written as
            one (``2130706433``, ``127.1``, ``0x7f.0.0.1``), or it names an interface.
    """
    if ":" in host:
        address = ipaddress.IPv6Address(host)
        if address.scope_id:
            raise ValueError("A worker URL must not name a network interface (%).")
        return address.ipv4_mapped or address
    if not _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]):
        return None
    try:
        return ipaddress.IPv4Address(host)
    except ValueError:
        raise ValueError(
            f"The host {host} of the worker URL is an address that is not written as four numbers."
        ) from None
