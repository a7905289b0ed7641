"""Which key opens what."""

from __future__ import annotations

import pytest

from app.errors import GatewayError
from app.middleware.access import Access
from app.middleware.key_ring import KeyRing
from app.middleware.keys import KeyFault, control_key, data_key, shared_key

SHARED, TENANT = shared_key("shared"), data_key("t:tenant")
ADMIN, USER = control_key("a:a:admin:admin"), control_key("u:u:user:user")
RINGS = {
    "shared": KeyRing([SHARED]),
    "tenant": KeyRing([TENANT]),
    "shared and tenant": KeyRing([SHARED, TENANT]),
    "control": KeyRing([ADMIN, USER]),
    "all": KeyRing([SHARED, TENANT, ADMIN, USER]),
}
WHO = ("shared", "tenant", "admin", "user", "nobody", None)


def code(error: GatewayError | None) -> str:
    """What a caller is told, in a word."""
    return "in" if error is None else str(error.status)


# For shared, tenant, admin, user, a wrong key and none.
@pytest.mark.parametrize(
    ("ring", "access", "method", "expected"),
    [
        ("all", Access.PUBLIC, "GET", "in in in in in in"),
        ("all", Access.PUBLIC, "POST", "in in 403 403 401 401"),
        ("all", Access.DATA, "POST", "in in 403 403 401 401"),
        ("all", Access.CONTROL, "GET", "403 403 in in 401 401"),
        ("all", Access.CONTROL, "POST", "403 403 in 403 401 401"),
        ("all", Access.CONTROL, "HEAD", "403 403 in in 401 401"),
        ("all", None, "GET", "404 404 in in 401 401"),
        ("all", None, "POST", "404 404 in 404 401 401"),
        ("shared", Access.DATA, "POST", "in 401 401 401 401 401"),
        ("shared", Access.CONTROL, "DELETE", "in 401 401 401 401 401"),
        ("shared", None, "GET", "in 401 401 401 401 401"),
        ("tenant", Access.DATA, "POST", "401 in 401 401 401 401"),
        ("tenant", Access.CONTROL, "GET", "401 403 401 401 401 401"),
        ("tenant", None, "GET", "401 404 401 401 401 401"),
        ("shared and tenant", Access.CONTROL, "GET", "in 403 401 401 401 401"),
        ("control", Access.DATA, "POST", "in in in in in in"),
        ("control", Access.CONTROL, "GET", "401 401 in in 401 401"),
        ("control", Access.CONTROL, "PUT", "401 401 in 403 401 401"),
        ("control", None, "PUT", "404 404 in 404 404 404"),
    ],
)
def test_refusal(ring: str, access: Access | None, method: str, expected: str) -> None:
    """401 without a key that is known, 403 with one that is known and opens something else."""
    keys = RINGS[ring]
    found = [keys.find(who.encode() if who else None) for who in WHO]
    assert expected.split() == [code(keys.refusal(access, method, key)) for key in found]


def test_nothing_is_guarded_without_keys() -> None:
    """A ring without keys is false: no layer is built for it."""
    assert not KeyRing([])
    assert KeyRing([TENANT])
    assert KeyRing([USER])


def test_a_new_file_replaces_the_old_one_only() -> None:
    """Keys of flags stay; those of the file change together."""
    ring = KeyRing([SHARED], [data_key("old:old")])
    ring.replace([data_key("new:new")])
    assert [ring.find(key) is not None for key in (b"shared", b"old", b"new")] == [
        True,
        False,
        True,
    ]


def test_same_key_twice_changes_nothing() -> None:
    """A file that repeats a flag's key is refused whole."""
    ring = KeyRing([SHARED], [data_key("old:old")])
    with pytest.raises(KeyFault, match="'again'"):
        ring.replace([data_key("new:new"), data_key("again:shared")])
    assert ring.find(b"old")
    assert ring.find(b"new") is None


def test_taking_the_last_key_away_opens_nothing() -> None:
    """A plane that had a key stays closed; one that gets its first key closes."""
    ring = KeyRing([], [TENANT])
    ring.replace([ADMIN])
    assert code(ring.refusal(Access.DATA, "POST", ring.find(b"tenant"))) == "401"
    assert code(ring.refusal(Access.CONTROL, "POST", ring.find(b"admin"))) == "in"
    ring.replace([TENANT])
    assert code(ring.refusal(Access.CONTROL, "POST", ring.find(b"admin"))) == "401"
    shared = KeyRing([SHARED])
    shared.replace([ADMIN])
    assert code(shared.refusal(Access.CONTROL, "POST", SHARED)) == "403"
    shared.replace([])
    assert code(shared.refusal(Access.CONTROL, "POST", SHARED)) == "403"
