"""The stop scanner finds what a search in the whole text would find."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from app.text.stop_scanner import StopScanner

ALPHABET = "ab\u00e9\U0001f4bb"
TOKENS = st.lists(st.text(ALPHABET, max_size=4), max_size=25)
STOPS = st.lists(st.text(ALPHABET, min_size=1, max_size=5), min_size=1, max_size=4)
CUTS = st.lists(st.integers(0, 25), max_size=10)


def cut_naively(
    tokens: list[str], stops: list[str], *, include_stop: bool, min_tokens: int
) -> tuple[str, str | None]:
    """Looks behind every character in turn, at every stop in turn."""
    text = "".join(tokens)
    n_unsearched = len("".join(tokens[:min_tokens]))
    for end in range(n_unsearched + 1, len(text) + 1):
        for stop in stops:
            if text[:end].endswith(stop):
                return text[: end if include_stop else end - len(stop)], stop
    return text, None


@given(TOKENS, STOPS, CUTS, st.booleans(), st.integers(0, 6))
@settings(max_examples=1000, deadline=None)
def test_scanner_is_naive_search(
    tokens: list[str], stops: list[str], cuts: list[int], include_stop: bool, min_tokens: int
) -> None:
    """Same text and same stop, however many tokens come at once."""
    expected = cut_naively(tokens, stops, include_stop=include_stop, min_tokens=min_tokens)
    scanner = StopScanner(stops, include_stop=include_stop, min_tokens=min_tokens)
    places = sorted({0, min(min_tokens, len(tokens)), len(tokens), *cuts})
    parts = [tokens[start:end] for start, end in pairwise(places)]
    texts = [scanner.feed("".join(part), len(part)) for part in parts]
    assert expected == ("".join(texts) + scanner.flush(), scanner.matched)


@given(TOKENS, STOPS)
@settings(max_examples=500, deadline=None)
def test_only_the_beginning_of_a_stop_is_held(tokens: list[str], stops: list[str]) -> None:
    """What is held is the longest end of the text that a stop begins with."""
    scanner = StopScanner(stops)
    seen = sent = ""
    for token in tokens:
        sent += scanner.feed(token, 1)
        seen += token
        if scanner.matched is not None:
            break
        beginnings = {stop[:length] for stop in stops for length in range(len(stop))}
        held = max((part for part in beginnings if seen.endswith(part)), key=len)
        assert seen == sent + held


@given(TOKENS, st.lists(st.text(ALPHABET, min_size=1, max_size=5), min_size=1, max_size=2))
@settings(max_examples=300, deadline=None)
def test_what_does_not_count_is_not_held(tokens: list[str], stops: list[str]) -> None:
    """Below ``min_tokens`` a whole stop is passed on but for an end that may go on."""
    scanner = StopScanner(stops, min_tokens=len(tokens))
    seen = "".join(tokens)
    sent = scanner.feed(seen, len(tokens))
    beginnings = {stop[:length] for stop in stops for length in range(len(stop))}
    held = max((part for part in beginnings if seen.endswith(part)), key=len)
    assert (seen, None) == (sent + held, scanner.matched)
