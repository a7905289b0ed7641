"""Who holds which prefixes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.scheduling.prefix_index import PrefixIndex

if TYPE_CHECKING:
    from app.scheduling.prefix_index import Hashes

BIG = 1 << 22


def chain(*blocks: int) -> Hashes:
    """Chained hashes of a prompt of these blocks."""
    found, chained = [], 0
    for block in blocks:
        chained = hash((chained, block)) & (2**64 - 1)
        found.append(chained)
    return np.array(found, np.uint64)


def index_of(n_ranks: int = 2, capacity_blocks: int = 1000, max_bytes: int = BIG) -> PrefixIndex:
    index = PrefixIndex(max_bytes, n_ranks)
    for rank in range(n_ranks):
        index.add_rank(rank, capacity_blocks)
    return index


def known(index: PrefixIndex, *blocks: int) -> list[int]:
    return [int(n) for n in index.known(chain(*blocks))[:2]]


def test_counts_leading_blocks_of_each_rank() -> None:
    index = index_of()
    index.add(0, chain(1, 2, 3))
    index.add(1, chain(1, 9))
    assert known(index, 1, 2, 3, 4) == [3, 1]
    assert known(index, 1, 9, 3) == [1, 2]
    assert known(index, 7) == [0, 0]
    assert known(index) == [0, 0]


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.lists(st.integers(0, 2), min_size=1, max_size=6)),
        max_size=40,
    ),
    st.lists(st.integers(0, 2), max_size=8),
)
def test_equals_a_naive_table(prompts: list[tuple[int, list[int]]], asked: list[int]) -> None:
    """Without evictions it is a set of prefixes for each rank."""
    index = index_of()
    naive: list[set[tuple[int, ...]]] = [set(), set()]
    for rank, blocks in prompts:
        index.add(rank, chain(*blocks))
        naive[rank] |= {tuple(blocks[:n]) for n in range(1, len(blocks) + 1)}
    expected = [
        next((n for n in range(len(asked), 0, -1) if tuple(asked[:n]) in held), 0) for held in naive
    ]
    assert known(index, *asked) == expected


def test_what_a_rank_evicts_is_no_longer_counted() -> None:
    """More than the cache holds was put there since: only what was used again is still there."""
    index = index_of(capacity_blocks=100)
    index.add(0, chain(-1))
    index.add(1, chain(-1))
    for block in range(400):
        index.add(0, chain(block))
    assert known(index, -1) == [0, 1]
    assert known(index, 399)[0] == 1


def test_forgets_a_rank_and_its_place_is_clean_for_the_next() -> None:
    index = index_of()
    index.add(0, chain(1, 2))
    index.add(1, chain(1))
    index.forget(0)
    assert known(index, 1, 2) == [0, 1]
    index.add_rank(0, 1000)
    assert known(index, 1, 2) == [0, 1]
    index.add(0, chain(1))
    assert known(index, 1, 2) == [1, 1]


def test_a_full_table_keeps_what_was_used_last() -> None:
    index = PrefixIndex(64 * 16, 2)
    index.add_rank(0, 10**6)
    assert index.n_slots == 64
    for block in range(2000):
        index.add(0, chain(block))
        assert known(index, block)[0] == 1, block
    n_kept = sum(known(index, block)[0] for block in range(2000))
    assert 16 <= n_kept <= 64


def test_a_prompt_longer_than_the_table_is_no_trouble() -> None:
    index = PrefixIndex(64 * 16, 2)
    index.add_rank(0, 10**6)
    index.add(0, chain(*range(1000)))
    assert 0 <= known(index, *range(1000))[0] <= 64


def test_costs_at_most_40_bytes_a_block_for_192_ranks() -> None:
    index = PrefixIndex(BIG, 192)
    assert index.bytes_per_block <= 40
    assert index.n_slots * index.bytes_per_block <= BIG


def test_budget_too_small() -> None:
    with pytest.raises(ValueError, match="hold no prefix index"):
        PrefixIndex(100, 64)
