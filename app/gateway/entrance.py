"""What stands before the routes, made from the settings: keys, limits and their layers."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from app.clock import Clock
from app.middleware.door import Door
from app.middleware.exposure import exposure
from app.middleware.key_file import KeyFile, load_key_file
from app.middleware.key_ring import KeyRing
from app.middleware.keys import MAX_KEYS, KeyFault
from app.middleware.rate_limit import RateLimit
from app.middleware.shared_rate import SharedRateLimit
from app.observability.log import get_logger
from app.settings import Settings, SettingsError, flag_name

MAX_AUTOMATIC = 4096
"""SMG 1.13: 1,024 a core, at least 4,096; one process serves one core."""
DESCRIPTORS_PER_REQUEST = 3
"""The client's connection and one to each worker."""
DESCRIPTORS_RESERVED = 256
"""Probes, files, listeners, and clients that are refused or only ask for their health."""
_MOST_DESCRIPTORS = 1_048_576


@dataclass(frozen=True, slots=True)
class Entrance:
    """The parts that the layers before the routes share.

    Attributes:
        keys: All keys that are good now.
        key_file: Follows their file, if there is one.
        door: Counts who is inside.
        key_rate: Limit of each key, if any.
        total_rate: Limit of all together, if any.
        n_possible: Requests at a time that the file descriptors are enough for.
    """

    keys: KeyRing
    key_file: KeyFile | None
    door: Door
    key_rate: RateLimit | None
    total_rate: RateLimit | None
    n_possible: int


def build_entrance(settings: Settings, now_s: Clock) -> Entrance:
    """Makes the parts.

    Args:
        settings: What the operator chose.
        now_s: Clock of the rate limits.

    Raises:
        SettingsError: The key file cannot be used.
    """
    path = settings.api_keys_file
    try:
        from_file, mark = load_key_file(path) if path else ((), None)
        keys = KeyRing(settings.fixed_keys, from_file)
    except KeyFault as fault:
        raise SettingsError(f"{flag_name('api_keys_file')} {path}: {fault}.") from None
    key_rate, total_rate = settings.key_rate_limit, settings.rate_limit_tokens_per_second
    burst = settings.key_rate_burst or max(1.0, key_rate)
    n_descriptors = _raise_descriptor_limit()
    n_possible = max(1, (n_descriptors - DESCRIPTORS_RESERVED) // DESCRIPTORS_PER_REQUEST)
    asked = settings.max_concurrent_requests
    rate_limit = RateLimit if settings.state_url is None else SharedRateLimit
    return Entrance(
        keys,
        KeyFile(path, keys, mark) if path else None,
        Door(
            max_in_flight=min(MAX_AUTOMATIC, n_possible) if asked < 0 else asked,
            max_body_bytes=settings.max_bodies_size,
        ),
        rate_limit(key_rate, burst, max_buckets=MAX_KEYS, now_s=now_s) if key_rate else None,
        rate_limit(total_rate, max(1.0, total_rate), max_buckets=1, now_s=now_s)
        if total_rate
        else None,
        n_possible,
    )


def _raise_descriptor_limit() -> int:
    """Raises the process's own limit as far as it may; returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            # A sandbox may forbid it; then what is there is what there is.
            return soft
        return wanted
    return _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def log_entrance(settings: Settings, entrance: Entrance) -> None:
    """Writes what stands open, and whether there are file descriptors for what may come in."""
    is_warning, text = exposure(
        entrance.keys,
        host=settings.host,
        port=settings.port,
        origins=settings.cors_allowed_origins,
        exposes_addresses=settings.expose_worker_addresses,
    )
    log = get_logger("security")
    (log.warning if is_warning else log.info)(text)
    asked = settings.max_concurrent_requests
    if entrance.n_possible < (asked if asked > 0 else MAX_AUTOMATIC):
        get_logger("admission").warning(
            "few file descriptors: raise the limit (ulimit -n)",
            enough_for=entrance.n_possible,
            max_concurrent_requests=entrance.door.max_in_flight or "no limit",
        )
