"""What is believed of a cache: only what was told without a gap, and never more."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import pytest

from app.scheduling.kv_view import BLOCK_BYTES, Admission, KvView
from app.scheduling.token_prompt import TokenPrompt
from app.workers.kv_events import Cleared, Removed, Stored, pieces

SIZE = 4


def ids_of(*blocks: int) -> bytes:
    """Tokens of blocks that each repeat one token."""
    return array("I", [token for token in blocks for _ in range(SIZE)]).tobytes()


def stored(*blocks: int, parent: int | None = None, is_plain: bool = True) -> Stored:
    """Blocks whose names are a hundred times their token."""
    return Stored([100 * b for b in blocks], parent, ids_of(*blocks), SIZE, is_plain)


def prompt(*blocks: int) -> TokenPrompt:
    """A prompt of whole blocks and one token more."""
    return TokenPrompt(ids_of(*blocks) + b"\0\0\0\0", len(blocks) * SIZE + 1)


def known(view: KvView, asked: TokenPrompt, guess: Sequence[int] = (99, 99, 99)) -> list[int]:
    found = np.array(guess, np.int64)
    view.correct(found, asked)
    return [int(n) for n in found]


@pytest.fixture
def view() -> KvView:
    """Ranks at the places 0 and 1, the first heard from its beginning; nobody at 2."""
    made = KvView(2000 * BLOCK_BYTES)
    for place in (0, 1):
        made.open(place)
    assert made.admit(0, 0) is Admission.FIRST
    return made


def test_only_an_unbroken_beginning_counts(view: KvView) -> None:
    view.take(0, stored(1, 2, 3))
    assert known(view, prompt(1, 2, 3, 4)) == [3 * SIZE, 99, 99]
    assert known(view, prompt(1, 2, 9)) == [2 * SIZE, 99, 99]
    assert known(view, prompt(2, 3)) == [0, 99, 99]
    view.take(0, Removed([200]))
    assert known(view, prompt(1, 2, 3, 4)) == [SIZE, 99, 99]
    view.take(0, stored(2, parent=100))
    assert known(view, prompt(1, 2, 3, 4)) == [3 * SIZE, 99, 99]


def test_the_last_token_is_always_computed(view: KvView) -> None:
    view.take(0, stored(1, 2))
    whole = TokenPrompt(ids_of(1, 2), 2 * SIZE)
    assert known(view, whole) == [SIZE, 99, 99]


def test_ranks_are_told_apart(view: KvView) -> None:
    assert view.admit(1, 0) is Admission.FIRST
    view.take(0, stored(1, 2, 3))
    view.take(1, stored(1, 2))
    assert known(view, prompt(1, 2, 3)) == [3 * SIZE, 2 * SIZE, 99]
    view.take(0, Cleared())
    assert known(view, prompt(1, 2, 3)) == [0, 2 * SIZE, 99]
    view.close(1)
    assert known(view, prompt(1, 2, 3)) == [0, 99, 99]


def test_blocks_on_unknown_ground_are_left_out(view: KvView) -> None:
    """Taken as the beginning of a prompt they would be hits that are none."""
    view.take(0, stored(2, 3, parent=100))
    view.take(0, stored(5, 6, is_plain=False))
    view.take(0, stored(7, parent=600))
    assert [known(view, asked) for asked in (prompt(2, 3), prompt(5, 6))] == [[0, 99, 99]] * 2
    assert (view.n_blocks, view.n_orphans) == (0, 5)


def test_a_gap_ends_what_was_known_until_the_cache_is_empty(view: KvView) -> None:
    view.take(0, stored(1, 2))
    assert view.admit(0, 1) is Admission.NEXT
    assert view.admit(0, 3) is Admission.GAP
    assert (view.state(0), view.n_blocks) == ("partial", 0)
    view.take(0, stored(1))
    # A guess may be the better one now, but what is known stays known.
    assert known(view, prompt(1, 2), (8, 99, 99))[0] == 8
    assert known(view, prompt(1, 2), (0, 99, 99))[0] == SIZE
    view.take(0, Cleared())
    assert view.state(0) == "exact"
    assert known(view, prompt(1, 2))[0] == 0


@pytest.mark.parametrize(("number", "state"), [(0, "exact"), (3, "partial")])
def test_a_count_that_goes_back_is_another_engine(view: KvView, number: int, state: str) -> None:
    for told in range(1, 6):
        view.admit(0, told)
    view.take(0, stored(1, 2))
    again = view.admit(0, number)
    assert again is (Admission.RESTART if number == 0 else Admission.GAP)
    assert (view.state(0), view.n_blocks) == (state, 0)


def test_who_is_not_heard_is_guessed_and_known_again_if_nothing_was_missed(view: KvView) -> None:
    view.take(0, stored(1, 2))
    view.hush(0)
    assert (view.state(0), known(view, prompt(1, 2))) == ("predicted", [99, 99, 99])
    assert view.admit(0, 1) is Admission.NEXT
    assert (view.state(0), known(view, prompt(1, 2))) == ("exact", [2 * SIZE, 99, 99])


def test_late_listeners_know_a_part(view: KvView) -> None:
    assert view.admit(1, 7) is Admission.FIRST
    view.take(1, stored(1))
    assert (view.state(1), known(view, prompt(1, 2), (0, 3, 0))) == ("partial", [0, SIZE, 0])


def test_a_prompt_that_is_on_its_way_counts_until_it_has_ended(view: KvView) -> None:
    view.take(0, stored(1))
    both = prompt(1, 2, 3)
    view.expect(0, both)
    view.expect(0, prompt(1, 2))
    assert known(view, prompt(1, 2, 3, 4))[0] == 3 * SIZE
    view.take(0, stored(2, parent=100))
    view.settle(0, both)
    # What was told stays, what was only expected goes.
    assert known(view, prompt(1, 2, 3, 4))[0] == 2 * SIZE
    view.settle(0, prompt(1, 2))
    assert known(view, prompt(1, 2, 3, 4))[0] == 2 * SIZE


def test_two_that_expect_the_same(view: KvView) -> None:
    view.take(0, stored(1))
    one, other = prompt(1, 2), prompt(1, 2)
    view.expect(0, one)
    view.expect(0, other)
    view.settle(0, one)
    assert known(view, prompt(1, 2))[0] == 2 * SIZE
    view.settle(0, other)
    assert known(view, prompt(1, 2))[0] == SIZE


def test_over_the_budget_a_rank_is_guessed_until_its_cache_is_empty() -> None:
    view = KvView(3 * BLOCK_BYTES)
    for place in (0, 1):
        view.open(place)
        view.admit(place, 0)
    view.take(0, stored(1, 2))
    view.take(1, stored(1, 2))
    assert (view.state(0), view.state(1), view.n_blocks) == ("exact", "predicted", 2)
    view.take(1, stored(3))
    assert known(view, prompt(3, 1)) == [0, 99, 99]
    view.take(1, Cleared())
    view.take(1, stored(3))
    assert known(view, prompt(3, 1)) == [0, SIZE, 99]


def test_a_smaller_last_block_changes_nothing(view: KvView) -> None:
    """VLLM may tell of a block that is not full yet."""
    view.take(0, stored(1))
    view.take(0, Stored([7], 100, ids_of(2)[:8], 2))
    assert known(view, prompt(1, 2))[0] == SIZE
    assert view.n_blocks == 1


def test_another_engines_blocks_do_not_come_back_with_its_place(view: KvView) -> None:
    """What is dropped is cleaned up bit by bit, and a rank that comes next knows none of it."""
    for turn in range(9):
        view.take(0, stored(*range(1, 60)))
        view.expect(0, prompt(90))
        view.close(0)
        view.open(0)
        view.admit(0, 0)
        view.take(0, stored(99))
        assert [known(view, prompt(first))[0] for first in (1, 90)] == [0, 0], turn
    assert view.n_blocks == 1


def test_a_long_prompt_comes_in_pieces(view: KvView) -> None:
    blocks = tuple(range(1, 1400))
    parts = pieces(stored(*blocks))
    assert [part.n_blocks for part in parts] == [512, 512, 375]
    for part in parts:
        view.take(0, part)
    assert known(view, prompt(*blocks))[0] == len(blocks) * SIZE
