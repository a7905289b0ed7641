"""Event streams are read the same however their bytes were split."""

from __future__ import annotations

from itertools import pairwise

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from app.dispatch.whole_events import WholeEvents
from app.protocol.fan_out_merge import FanOutStream, merge_replies
from app.protocol.reply_faults import find_fault
from app.protocol.routes import Route
from app.protocol.sse import EventSplitter

PIECES = st.sampled_from(
    [b"data: a", b"data: [DONE]", b"data:[DONE]", b"\n", b"\r", b"\n\n", b"\r\n\r\n", b": c", b"{}"]
)
STREAMS = st.lists(PIECES, max_size=30).map(b"".join)
CUTS = st.lists(st.integers(0, 200), max_size=20)
TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=5), min_size=1, max_size=4)


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    """Cuts a stream at these places."""
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    return [stream[start:end] for start, end in pairwise(places)]


@given(STREAMS, CUTS)
@settings(max_examples=200, deadline=None)
def test_events_of_any_split(stream: bytes, cuts: list[int]) -> None:
    """The events and the rest are those of the stream in one piece."""
    whole, parts = EventSplitter(), EventSplitter()
    expected = whole.feed(stream)
    assert expected == [event for chunk in split(stream, cuts) for event in parts.feed(chunk)]
    assert whole.pending == parts.pending


@given(STREAMS, CUTS)
@settings(max_examples=200, deadline=None)
def test_whole_events_are_naive_events(stream: bytes, cuts: list[int]) -> None:
    """What was passed on ends where a search in the whole stream finds the last border."""
    events = WholeEvents()
    out = b"".join(events.feed(chunk) for chunk in split(stream, cuts))
    unix = out.replace(b"\r\n", b"\n")
    assert stream.startswith(out)
    assert unix.endswith(b"\n\n") or not out
    assert b"\n\n" not in stream[len(out) :].replace(b"\r\n", b"\n")
    # Blank lines beyond the border are no event.
    last_line = unix.rstrip().rpartition(b"\n")[2]
    assert (last_line == b"data: [DONE]") == events.ended_with_done


@given(st.lists(st.sampled_from(["abort", "stop", None]), max_size=6), CUTS)
@settings(max_examples=100, deadline=None)
def test_faults_of_any_split(reasons: list[str | None], cuts: list[int]) -> None:
    """A fault is found in the whole events of any pieces exactly when the stream holds one."""
    events = [orjson.dumps({"choices": [{"finish_reason": reason}]}) for reason in reasons]
    stream = b"".join(b"data: " + event + b"\n\n" for event in events)
    events_of = WholeEvents()
    found = [fault for chunk in split(stream, cuts) if (fault := find_fault(events_of.feed(chunk)))]
    assert ("abort" in reasons) == bool(found)


@given(st.integers(1, 5), TEXTS)
@settings(max_examples=50, deadline=None)
def test_merge_is_naive_merge(n: int, prompts: list[str]) -> None:
    """Whole and streamed answers of n children are what one engine would have sent."""
    batch = len(prompts)
    expected = [
        {"index": prompt * n + child, "text": f"{text}-{child}"}
        for prompt, text in enumerate(prompts)
        for child in range(n)
    ]
    children = [
        [{"index": prompt, "text": f"{text}-{child}"} for prompt, text in enumerate(prompts)]
        for child in range(n)
    ]
    bodies = [orjson.dumps({"id": str(i), "choices": child}) for i, child in enumerate(children)]
    merged = orjson.loads(merge_replies(Route.COMPLETIONS, n, batch, bodies))
    assert {"id": "0", "choices": expected} == merged

    stream = FanOutStream(Route.COMPLETIONS, n, batch, include_usage=False)
    sent = [stream.feed(child, bodies[child]) for child in reversed(range(n))]
    documents = [orjson.loads(data) for data in sent if data is not None]
    assert {str(n - 1)} == {document["id"] for document in documents}
    choices = [choice for document in documents for choice in document["choices"]]
    assert expected == sorted(choices, key=lambda choice: int(choice["index"]))
