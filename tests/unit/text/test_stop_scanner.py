"""Stop strings in text that comes in pieces."""

from __future__ import annotations

import time

import pytest

from app.text.stop_scanner import StopScanner


def feed(scanner: StopScanner, *texts: str) -> list[str]:
    """One token a text."""
    return [scanner.feed(text, 1) for text in texts]


def test_text_goes_through_without_stops() -> None:
    """Nothing is held."""
    assert feed(StopScanner([]), "a", "b") == ["a", "b"]


def test_stop_is_cut_over_pieces() -> None:
    """Held from its first character on; what follows is dropped."""
    scanner = StopScanner(["END"])
    assert feed(scanner, "so E", "N", "D of", " it") == ["so ", "", "", ""]
    assert (scanner.matched, scanner.flush()) == ("END", "")


def test_stop_may_be_kept() -> None:
    """What follows is cut all the same."""
    scanner = StopScanner(["END"], include_stop=True)
    assert feed(scanner, "so E", "ND of") == ["so ", "END"]


def test_beginning_that_leads_nowhere_is_passed_on() -> None:
    """As soon as it is clear, and no more than is clear."""
    scanner = StopScanner(["aab"])
    assert feed(scanner, "a", "a", "a", "c") == ["", "", "a", "aac"]
    assert feed(scanner, "aa") == [""]
    assert (scanner.flush(), scanner.matched, scanner.flush()) == ("aa", None, "")


@pytest.mark.parametrize(
    ("stops", "texts", "expected", "matched"),
    [
        (["abcd", "bc"], ["abcd"], "a", "bc"),  # the one that ends first
        (["s>", "</s>"], ["x</s>"], "x</", "s>"),  # of two that end together the first named
        (["</s>", "s>"], ["x</s>"], "x", "</s>"),
        (["\n\n", "\n"], ["a\n", "\n"], "a", "\n"),
        (["\U0001f4bb", "\u00e9"], ["a\u00e9\U0001f4bb"], "a", "\u00e9"),
        (["a]b", "^-"], ["x^-a]b"], "x", "^-"),  # signs of regular expressions are plain
        (["aa"], ["aaa"], "", "aa"),
    ],
)
def test_which_stop_wins(stops: list[str], texts: list[str], expected: str, matched: str) -> None:
    """Decided by where matches end, not by where they begin."""
    scanner = StopScanner(stops)
    assert expected == "".join(feed(scanner, *texts))
    assert matched == scanner.matched


def test_text_below_min_tokens_is_not_searched() -> None:
    """A stop in it does not count, one that only begins in it does."""
    scanner = StopScanner(["END"], min_tokens=2)
    assert scanner.n_unsearched_tokens == 2
    assert feed(scanner, "END", " EN", "D") == ["END", " ", ""]
    assert (scanner.matched, scanner.n_unsearched_tokens) == ("END", 0)


def test_tokens_come_in_two_parts_at_min_tokens() -> None:
    """More at once cannot be told apart, so that is an error and not a guess."""
    scanner = StopScanner(["END"], min_tokens=2)
    with pytest.raises(ValueError, match="3 tokens at once, of which 2 are below min_tokens"):
        scanner.feed("END", 3)
    assert scanner.feed("END", 2) + scanner.feed("x", 3) == "ENDx"
    assert StopScanner([], min_tokens=2).feed("END", 3) == "END"


def test_empty_stop_is_refused() -> None:
    """It would match everywhere."""
    with pytest.raises(ValueError, match="must not be empty"):
        StopScanner(["a", ""])


def test_cost_grows_with_the_text_only() -> None:
    """A stop of 2,000 characters of which the text is one long near miss."""
    scanner = StopScanner(["ab" * 1000 + "x"])
    start_s = time.process_time()
    n_sent = sum(len(scanner.feed("ab", 1)) for _ in range(20_000))
    assert (40_000, None) == (n_sent + len(scanner.flush()), scanner.matched)
    assert time.process_time() - start_s < 1.0
