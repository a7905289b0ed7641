"""A request's time, cut into the phases it went through: they add up to all of it."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.observability.notes import Notes

TIMES = (
    *("arrived_s", "read_s", "first_asked_s", "asked_s", "granted_s", "prefill_sent_s"),
    *("prefill_ended_s", "decode_sent_s", "first_s", "last_s", "ended_s"),
)
"""The times of a request's notes, in this order wherever they stand without names."""
times_of: Callable[[Notes], tuple[float, ...]] = attrgetter(*TIMES)
"""Reads them off a request's notes."""
PHASES = (
    "read",
    "prepare",
    "retry",
    "queue",
    "connect",
    "prefill",
    "handoff",
    "first_token",
    "stream",
    "end",
)
"""In the order in which they follow each other:

==============  ====================================================================
read            the body comes in
prepare         it is parsed; for vLLM rendered and tokenized
retry           attempts on other pairs, which failed
queue           until a pair is granted
connect         until prefill's worker is sent the request
prefill         until prefill has answered or decode has spoken, whichever is first
handoff         prefill's end until decode is sent the request (vLLM: the dispatch gap)
first_token     until the client is sent the first event, or the whole answer: transfer of
                the KV cache and decode's first step
stream          until the client is sent the last event
end             until everything is over; of a failed request what its last phase took
==============  ====================================================================
"""


def phases(notes: Notes) -> list[tuple[str, float]]:
    """Returns name and seconds of each phase that the request went through, in order.

    The seconds add up to ``ended_s - arrived_s``, or to now while it still runs.
    """
    if not notes.ended_s:
        return cut((*times_of(notes)[:-1], notes.now_s()))
    # Metrics, log and traces ask, one after the other.
    found = notes.phases
    if found is None:
        found = notes.phases = cut(times_of(notes))
    return found


def cut(times: Sequence[float]) -> list[tuple[str, float]]:  # noqa: C901 - ten phases in a row
    """Does the same for times in the order of :data:`TIMES`."""
    at_s, read, first_asked, asked, granted, prefill_sent, prefill_ended, decode_sent, *rest = times
    first, last, ended = rest
    # One by one: a loop over names and ends takes three times as long, and every request is cut.
    found: list[tuple[str, float]] = []
    if read > at_s:
        found.append(("read", read - at_s))
        at_s = read
    if first_asked > at_s:
        found.append(("prepare", first_asked - at_s))
        at_s = first_asked
    if asked > at_s:
        found.append(("retry", asked - at_s))
        at_s = asked
    if granted > at_s:
        found.append(("queue", granted - at_s))
        at_s = granted
    sent = prefill_sent or decode_sent
    if sent > at_s:
        found.append(("connect", sent - at_s))
        at_s = sent
    if prefill_ended > at_s:
        found.append(("prefill", prefill_ended - at_s))
        at_s = prefill_ended
    if decode_sent > at_s:
        found.append(("handoff", decode_sent - at_s))
        at_s = decode_sent
    if first > at_s:
        found.append(("first_token", first - at_s))
        at_s = first
    if last > at_s:
        found.append(("stream", last - at_s))
        at_s = last
    if ended > at_s:
        found.append(("end", ended - at_s))
    return found
