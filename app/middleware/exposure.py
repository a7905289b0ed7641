"""What stands open, as one line for the operator at start."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from app.middleware.key_ring import KeyRing
from app.middleware.keys import Kind


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; a name other than localhost may be any."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def exposure(
    keys: KeyRing,
    *,
    host: str,
    port: int,
    origins: Sequence[str] = (),
    exposes_addresses: bool = False,
) -> tuple[bool, str]:
    """Says who may do what.

    Args:
        keys: The keys at start.
        host: Address that is listened on.
        port: Port that is listened on.
        origins: Whose pages may call from a browser.
        exposes_addresses: Errors name workers.

    Returns:
        Whether everybody on a network may administer, and the line.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    is_admin_open = not keys
    if is_admin_open:
        parts = [f"no key: everyone who reaches {where} may use and administer it"]
    else:
        parts = [_use(keys, where), _administration(keys)]
    if origins:
        parts.append(f"pages of {', '.join(origins)} may call it from a browser")
    if exposes_addresses:
        parts.append("errors name the addresses of workers")
    return is_admin_open and not is_loopback(host), "; ".join(parts)


def _use(keys: KeyRing, where: str) -> str:
    if not keys.guards_data:
        return f"no data-plane key: everyone who reaches {where} may use it"
    n_keys = keys.count(Kind.SHARED, Kind.DATA)
    return (
        f"{_count(n_keys)} may use it; health, the names of the models and the documentation need "
        "none"
    )


def _administration(keys: KeyRing) -> str:
    if keys.guards_control:
        n_users = keys.count(Kind.USER)
        looking = f", {_count(n_users)} may look" if n_users else ""
        return f"{_count(keys.count(Kind.ADMIN))} may administer it{looking}"
    if keys.count(Kind.SHARED):
        return "the same --api-key administers it"
    return "nobody may administer it (no --api-key, no control-plane key)"


def _count(n: int) -> str:
    return "1 key" if n == 1 else f"{n} keys"
