"""The line that says what stands open."""

from __future__ import annotations

from typing import Any

import pytest

from app.middleware.exposure import exposure, is_loopback
from app.middleware.key_ring import KeyRing
from app.middleware.keys import Key, control_key, data_key, shared_key

SHARED, TENANT = shared_key("s"), data_key("t:t")
ADMIN, USER = control_key("a:a:admin:a"), control_key("u:u:user:u")


def line(*keys: Key, host: str = "0.0.0.0", **more: Any) -> tuple[bool, str]:
    """Whether it is a warning, and what it says."""
    return exposure(KeyRing(keys), host=host, port=30000, **more)


@pytest.mark.parametrize(
    ("host", "is_warning", "where"),
    [
        ("0.0.0.0", True, "0.0.0.0:30000"),
        ("10.0.0.1", True, "10.0.0.1:30000"),
        ("::", True, "[::]:30000"),
        ("gateway.example", True, "gateway.example:30000"),
        ("127.0.0.1", False, "127.0.0.1:30000"),
        ("::1", False, "[::1]:30000"),
        ("localhost", False, "localhost:30000"),
    ],
)
def test_no_key(host: str, is_warning: bool, where: str) -> None:
    """A warning where more than this machine reaches it."""
    text = f"no key: everyone who reaches {where} may use and administer it"
    assert line(host=host) == (is_warning, text)


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ((SHARED,), ("1 key may use it", "the same --api-key administers it")),
        ((SHARED, TENANT), ("2 keys may use it", "--api-key administers")),
        ((TENANT,), ("1 key may use it", "nobody may administer it")),
        (
            (ADMIN, USER),
            ("everyone who reaches 0.0.0.0:30000 may use it", "1 key may administer it, 1 key may"),
        ),
        ((SHARED, ADMIN), ("1 key may use it", "1 key may administer it")),
    ],
)
def test_with_keys(keys: tuple[Key, ...], parts: tuple[str, ...]) -> None:
    """Both planes are told of, and neither is a warning."""
    is_warning, text = line(*keys)
    assert not is_warning
    assert all(part in text for part in parts)


def test_what_else_is_open() -> None:
    """Pages of other origins, and errors that name workers."""
    _, text = line(SHARED, origins=("http://a", "http://b"), exposes_addresses=True)
    assert "pages of http://a, http://b" in text
    assert text.endswith("errors name the addresses of workers")


def test_is_loopback() -> None:
    """A name may be any address."""
    assert is_loopback("127.8.8.8")
    assert is_loopback("[::1]")
    assert not is_loopback("127.0.0.1.example")
