"""Splicing members in, and what a pair's bodies gain."""

from __future__ import annotations

import dataclasses

import orjson
import pytest

from app.protocol.bootstrap import members, mint_rid, mint_room
from app.protocol.facts import peek
from app.protocol.routes import Route
from app.protocol.splice import join_members, splice

BODY = b' {"text":"a } b","stream":true } \n'


def test_splice_keeps_the_clients_bytes() -> None:
    """Members stand before the last brace; white space behind it stays."""
    facts = peek(Route.GENERATE, BODY)
    assert b' {"text":"a } b","stream":true ,"stream":false} \n' == splice(
        BODY, facts, b'"stream":false'
    )


def test_splice_nothing() -> None:
    """Without members the same object comes back."""
    assert splice(BODY, peek(Route.GENERATE, BODY), b"") is BODY


def test_splice_into_an_empty_object() -> None:
    """No comma goes into an object without members."""
    facts = dataclasses.replace(peek(Route.GENERATE, BODY), body_close=1, is_empty_object=True)
    assert b'{"a":1}' == splice(b"{}", facts, b'"a":1')


def test_join_members() -> None:
    """Empty groups leave no comma behind."""
    assert b'"a":1,"b":2' == join_members(b'"a":1', b"", b'"b":2')


def test_single_members() -> None:
    """A single request has scalars; a missing port is null."""
    assert {
        "bootstrap_host": "[::1]",
        "bootstrap_port": None,
        "bootstrap_room": 7,
        "rid": "r",
    } == orjson.loads(b"{" + members("[::1]", None, 7, "r", None) + b"}")


def test_batch_members() -> None:
    """A batch has lists of its length, of length 1 too."""
    assert {
        "bootstrap_host": ["h", "h"],
        "bootstrap_port": [8998, 8998],
        "bootstrap_room": [1, 2],
        "rid": ["a", "b"],
    } == orjson.loads(b"{" + members("h", 8998, [1, 2], ["a", "b"], 2) + b"}")
    assert b'"bootstrap_host":["h"]' in members("h", 8998, [1], ["a"], 1)


@pytest.mark.parametrize(
    ("rooms", "rids", "batch"), [([1], "r", None), (1, "r", 1), ([1], ["a", "b"], 2)]
)
def test_members_that_do_not_match(
    rooms: int | list[int], rids: str | list[str], batch: int | None
) -> None:
    """Rooms and ids of another shape than the batch are an error."""
    with pytest.raises(ValueError, match=r"batch|single"):
        members("h", 1, rooms, rids, batch)


@pytest.mark.parametrize("bits", [0, 1, 12345, 2**63 - 1])
@pytest.mark.parametrize("rank", range(6))
def test_rooms_are_congruent(bits: int, rank: int) -> None:
    """A room leads to the chosen rank and fits 63 bits."""
    room = mint_room(rank, 6, lambda _n_bits: bits)
    assert rank == room % 6
    assert 0 <= room < 2**63


def test_rids() -> None:
    """Ids have their route's shape and one width."""
    bits = lambda _n_bits: 255  # noqa: E731
    assert "chatcmpl-" + "0" * 30 + "ff" == mint_rid(Route.CHAT, bits)
    assert "cmpl-" + "0" * 30 + "ff" == mint_rid(Route.COMPLETIONS, bits)
    assert "0" * 30 + "ff" == mint_rid(Route.GENERATE, bits)
    assert mint_rid(Route.CHAT) != mint_rid(Route.CHAT)
