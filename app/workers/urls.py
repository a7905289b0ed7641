"""Worker URLs: the one form in which they are written and compared."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443, "grpc": 80, "grpcs": 443}
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.])?", re.ASCII)
_RANK = re.compile(r"[0-9]{1,4}", re.ASCII)
_NO_USER = "A worker URL must not hold an @, except before a rank (no user name, no password)."
_NOT_IN_URL = re.compile(r"[\x00-\x20\x7f\\]")


def _split(url: str) -> SplitResult:
    """Split a URL and make sure that it names a scheme, a host and perhaps a port, no more."""
    if "@" in url:
        # Not repeated in the sentence: what stands before the @ may be a password.
        raise ValueError(_NO_USER)
    if _NOT_IN_URL.search(url):
        raise ValueError(f"The worker URL {url!r} holds white space or a control character.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"The worker URL {url!r} is not a URL: {exc}.") from None
    if parts.scheme not in _DEFAULT_PORTS or "://" not in url:
        raise ValueError(
            f"The worker URL {url!r} must start with http://, https://, grpc:// or grpcs://."
        )
    if parts.path not in ("", "/") or "?" in url or "#" in url:
        raise ValueError(f"The worker URL {url!r} must end after host and port.")
    if port == 0:
        raise ValueError(f"The port of the worker URL {url!r} must lie in 1..65535.")
    return parts


def _bracketed_host(parts: SplitResult, url: str) -> str:
    host = parts.hostname
    if not host:
        raise ValueError(f"The worker URL {url!r} names no host.")
    if ":" in host:
        try:
            return f"[{ipaddress.IPv6Address(host)}]"
        except ValueError:
            raise ValueError(f"The host of the worker URL {url!r} is no IPv6 address.") from None
    if not _HOST.fullmatch(host):
        raise ValueError(f"The host of the worker URL {url!r} is not a host name.")
    return host


def split_rank(url: str) -> tuple[str, int | None]:
    """Take the data-parallel rank off ``URL@rank``, as SMG writes it.

    Raises:
        ValueError: What stands before the @ is no worker URL; the sentence does not repeat it.
    """
    base, at, rank = url.rpartition("@")
    if not at or not _RANK.fullmatch(rank):
        return url, None
    try:
        _split(base)
    except ValueError:
        raise ValueError(_NO_USER) from None
    return base, int(rank)


@lru_cache(maxsize=4096)
def host_of(url: str) -> str:
    """Return the host of a normalised worker URL, IPv6 in brackets."""
    return _bracketed_host(urlsplit(url), url)


def normalise_url(url: str) -> str:
    """Write a worker URL in the one form by which workers are compared.

    Scheme and host in lower case, no trailing slash, the port only if it was given, IPv6
    in its short bracketed form.

    Raises:
        ValueError: With a sentence: no or another scheme than http, https, grpc, grpcs; no
            host; port outside 1..65535; a user name, path, query or fragment.
    """
    parts = _split(url)
    host = _bracketed_host(parts, url)
    return (
        f"{parts.scheme}://{host}"
        if parts.port is None
        else (f"{parts.scheme}://{host}:{parts.port}")
    )


Identity: TypeAlias = tuple[str, str, int, int | None]
"""Scheme, host, effective port, and the data-parallel rank if only one is meant."""


def url_identity(url: str) -> Identity:
    """Return what tells workers apart: equal for ``http://a`` and ``http://a:80``.

    Raises:
        ValueError: As :func:`normalise_url`.
    """
    base, rank = split_rank(url)
    parts = _split(base)
    port = parts.port if parts.port is not None else _DEFAULT_PORTS[parts.scheme]
    return parts.scheme, _bracketed_host(parts, base), port, rank


def overlap(one: Identity, other: Identity) -> bool:
    """Tell whether two workers have a rank in common; without a rank all are meant."""
    same_worker = one[:3] == other[:3]
    return same_worker and (one[3] is None or other[3] is None or one[3] == other[3])


def with_rank(url: str, rank: int | None) -> str:
    """Return the spelling that ``split_rank`` takes apart."""
    return url if rank is None else f"{url}@{rank}"
