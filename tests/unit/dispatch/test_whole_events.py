"""Events are passed on whole."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dispatch import whole_events
from app.dispatch.whole_events import EventTooLong, WholeEvents

STREAM = b'data: {"a":"x\\n\\ny"}\n\ndata: {"b":2}\n\ndata: [DONE]\n\n'


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_any_split_gives_the_same_bytes_at_event_borders(cuts: list[int]) -> None:
    """However a stream is cut, whole events come out and nothing is lost."""
    events = WholeEvents()
    edges = [0, *sorted(cuts), len(STREAM)]
    out = [events.feed(STREAM[a:b]) for a, b in pairwise(edges)]

    assert b"".join(out) == STREAM
    assert all(part.endswith(b"\n\n") for part in out if part)
    assert events.ended_with_done
    assert not events.has_rest


def test_a_cut_event_is_held_back() -> None:
    """Half an event is never passed on."""
    events = WholeEvents()

    assert events.feed(b"data: 1\n\ndata: 2") == b"data: 1\n\n"
    assert events.has_rest
    assert not events.ended_with_done


@pytest.mark.parametrize("border", [b"\r\n\r\n", b"\n\r\n", b"\r\n\n"])
def test_crlf_borders_count(border: bytes) -> None:
    """Carriage returns do not hide a border, within a chunk or at its end."""
    events = WholeEvents()

    assert events.feed(b"data: 1" + border + b"da") == b"data: 1" + border
    assert events.feed(b"ta: [DONE]" + border) == b"data: [DONE]" + border
    assert events.ended_with_done
    assert not events.has_rest


def test_done_inside_a_text_is_not_the_end() -> None:
    """Only the event itself ends a stream, not a text that quotes it."""
    events = WholeEvents()
    events.feed(b'data: {"t":"data: [DONE]"}\n\n')

    assert not events.ended_with_done


@pytest.mark.parametrize("event", [b"\0data: [DONE]", b": data: [DONE]", b'{"t":1}data: [DONE]'])
def test_what_merely_ends_like_the_end_is_none(event: bytes) -> None:
    """The line must begin with it, in whatever pieces it comes."""
    for size in (1, 1000):
        events, data = WholeEvents(), b"data: 1\n\n" + event + b"\n\n"
        for at in range(0, len(data), size):
            events.feed(data[at : at + size])
        assert not events.ended_with_done
        events.feed(b"event: x\ndata: [DONE]\n\n")
        assert events.ended_with_done


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held back is bounded."""
    monkeypatch.setattr(whole_events, "MAX_EVENT_BYTES", 10)

    with pytest.raises(EventTooLong):
        WholeEvents().feed(b"x" * 11)
