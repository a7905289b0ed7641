"""Ids that clients chose are kept apart while they are in use."""

from __future__ import annotations

import pytest

from app.dispatch.client_rids import ClientRids
from app.errors import InvalidRequest


@pytest.mark.parametrize(
    ("first", "second"),
    [("a", "a"), ("a", ("b", "a")), (("a", "b"), "b"), (("a", "b"), ("c", "b"))],
)
def test_id_in_use_is_refused_until_it_is_free(
    first: str | tuple[str, ...], second: str | tuple[str, ...]
) -> None:
    """The second holder is refused, and served once the first has ended."""
    rids = ClientRids()
    with rids.hold(first):
        with pytest.raises(InvalidRequest) as caught, rids.hold(second):
            pass
        assert (caught.value.code, caught.value.param) == ("rid_in_use", "rid")
    with rids.hold(second):
        pass


def test_refused_request_takes_nothing_with_it() -> None:
    """Neither the id it shares nor its other ids change hands."""
    rids = ClientRids()
    with rids.hold("a"):
        with pytest.raises(InvalidRequest), rids.hold(("b", "a")):
            pass
        with rids.hold("b"):
            pass
        with pytest.raises(InvalidRequest), rids.hold("a"):
            pass


def test_failed_request_gives_its_ids_back() -> None:
    """However it ends, the ids are free."""
    rids = ClientRids()
    with pytest.raises(ValueError, match="bad"), rids.hold(("a", "b")):
        raise ValueError("bad")
    with rids.hold("a"), rids.hold("b"):
        pass


def test_requests_without_ids_do_not_meet() -> None:
    """Any number of them run at once."""
    rids = ClientRids()
    with rids.hold(()), rids.hold(()):
        pass
