"""Peek and splice hold for any body."""

from __future__ import annotations

import contextlib
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.protocol.bootstrap import members
from app.protocol.facts import peek
from app.protocol.routes import Route
from app.protocol.splice import splice

KEYS = [
    "model", "messages", "prompt", "text", "input_ids", "input_embeds", "n", "best_of", "stream",
    "rid", "seed", "sampling_params", "stream_options", "return_logprob", "max_tokens", "tools",
]  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "n", "text", "sampling_seed"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8)
ROUTES = st.sampled_from(list(Route))
SPACE = st.text(" \t\r\n", max_size=3).map(str.encode)


@given(ROUTES, st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_peek_of_any_bytes(route: Route, body: bytes) -> None:
    """Whatever the bytes are, nothing but InvalidRequest is raised."""
    with contextlib.suppress(InvalidRequest):
        peek(route, body)


@given(ROUTES, DOCUMENTS | VALUES)
@settings(max_examples=300, deadline=None)
def test_peek_of_any_json(route: Route, document: Any) -> None:
    """Whatever the JSON is, facts come out or InvalidRequest does; patches are JSON members."""
    with contextlib.suppress(InvalidRequest):
        facts = peek(route, orjson.dumps(document))
        assert 1 <= facts.n <= 128
        assert (facts.n if facts.n > 1 else 0) == len(facts.fan_out_patches)
        for patch in facts.fan_out_patches:
            assert isinstance(orjson.loads(b"{" + patch + b"}"), dict)


@given(DOCUMENTS, SPACE, SPACE, st.integers(0, 2**63 - 1), st.none() | st.integers(1, 65535))
@settings(max_examples=100, deadline=None)
def test_splice_adds_and_keeps(
    document: dict[str, Any], before: bytes, after: bytes, room: int, port: int | None
) -> None:
    """Ours are there and win, every other member is as it was."""
    document = {**document, "messages": [{"content": "}"}], "n": 1, "stream": True, "model": "m"}
    document.pop("tools", None)
    body = before + orjson.dumps(document) + after
    facts = peek(Route.CHAT, body)
    ours = members("h", port, room, "r", None) + b',"stream":false'
    expected = {**document, **orjson.loads(b"{" + ours + b"}")}
    assert expected == orjson.loads(splice(body, facts, ours))
