"""The cache_aware policy and its table of prefixes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.policies.cache_aware import CacheAware
from app.policies.prefix_table import PrefixTable, chained_hashes
from app.protocol.facts import RequestFacts, peek
from app.protocol.routes import Route
from app.workers.worker import Role, Worker, WorkerSpec

FACTS = peek(Route.GENERATE, b'{"text":"x"}')


def _facts(key: bytes, model: str | None = "m") -> RequestFacts:
    return replace(FACTS, prompt_key=key, model=model)


def _workers(n: int) -> list[Worker]:
    return [Worker(WorkerSpec(f"http://w{number}", Role.PREFILL)) for number in range(n)]


def _text(letter: bytes, n_blocks: int) -> bytes:
    return letter * (256 * n_blocks)


def test_same_beginning_same_worker() -> None:
    """A longer turn of a conversation goes where its beginning went, other ones elsewhere."""
    policy, workers = CacheAware(), _workers(3)
    chosen = policy.choose(workers, _facts(_text(b"a", 4)))
    others = {policy.choose(workers, _facts(_text(b"b", 4))), policy.choose(workers, FACTS)}
    assert chosen not in others
    for n_blocks in (5, 6, 7):
        assert chosen is policy.choose(workers, _facts(_text(b"a", n_blocks)))


def test_short_prompts_match_when_equal() -> None:
    """A prompt below one block goes where the same prompt went."""
    policy, workers = CacheAware(), _workers(3)
    chosen = policy.choose(workers, _facts(b"hello"))
    assert {chosen} == {policy.choose(workers, _facts(b"hello")) for _ in range(5)}


def test_small_match_does_not_count() -> None:
    """A fifth of the prompt known is below 0.3: the idle worker is taken."""
    policy, workers = CacheAware(), _workers(2)
    first = policy.choose(workers, _facts(_text(b"a", 2)))
    first.n_leases = 1
    other = next(worker for worker in workers if worker is not first)
    assert other is policy.choose(workers, _facts(_text(b"a", 2) + _text(b"b", 8)))


def test_models_do_not_mix() -> None:
    """The prompt of another model is no match: the idle worker is taken."""
    policy, workers = CacheAware(), _workers(2)
    first = policy.choose(workers, _facts(_text(b"a", 4), "m"))
    first.n_leases = 1
    assert first is policy.choose(workers, _facts(_text(b"a", 4), "m"))
    assert first is not policy.choose(workers, _facts(_text(b"a", 4), "n"))


@pytest.mark.parametrize(("load", "stays"), [(64, True), (65, False)])
def test_uneven_loads_decide(load: int, stays: bool) -> None:
    """The matching worker is left when it has more than 64 requests more than the idle one."""
    policy, workers = CacheAware(), _workers(2)
    first = policy.choose(workers, _facts(_text(b"a", 4)))
    first.n_leases = load
    assert stays is (policy.choose(workers, _facts(_text(b"a", 4))) is first)


def test_ratio_must_be_exceeded_too() -> None:
    """300 against 220 is 80 apart but below 1.5: the match stays."""
    policy, workers = CacheAware(), _workers(2)
    first = policy.choose(workers, _facts(_text(b"a", 4)))
    for worker in workers:
        worker.n_leases = 300 if worker is first else 220
    assert first is policy.choose(workers, _facts(_text(b"a", 4)))


def test_missing_holder_falls_back_to_least_load() -> None:
    """The least loaded of the rest, not the first."""
    policy, workers = CacheAware(), _workers(3)
    first = policy.choose(workers, _facts(_text(b"a", 4)))
    rest = [worker for worker in workers if worker is not first]
    rest[0].n_leases = 2
    assert rest[1] is policy.choose(rest, _facts(_text(b"a", 4)))


def test_forgotten_worker_holds_nothing() -> None:
    """No match after forget: the idle worker is taken."""
    policy, workers = CacheAware(), _workers(2)
    first = policy.choose(workers, _facts(_text(b"a", 4)))
    first.n_leases = 1
    policy.forget(first.id)
    assert first is not policy.choose(workers, _facts(_text(b"a", 4)))


def test_several_holders_share() -> None:
    """Of two workers that know the prompt the less loaded one is taken."""
    policy, workers = CacheAware(), _workers(3)
    facts = _facts(_text(b"a", 4))
    for worker in workers[:2]:
        policy.choose([worker], facts)
    workers[0].n_leases = 2
    workers[1].n_leases = 1
    assert workers[1] is policy.choose(workers, facts)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cache_threshold": 1.1},
        {"balance_abs_threshold": -1},
        {"balance_rel_threshold": 0.5},
        {"block_bytes": 0},
    ],
)
def test_parameters_have_ranges(wrong: dict[str, float]) -> None:
    """A ValueError outside of them."""
    with pytest.raises(ValueError, match=r"\.$"):
        CacheAware(**wrong)  # type: ignore[arg-type]


def test_hashes_depend_on_all_before() -> None:
    """Equal up to the first difference, different ever after."""
    one = chained_hashes("m", b"aaaabbbbcccc", 4)
    other = chained_hashes("m", b"aaaaxxxxcccc", 4)
    assert [True, False, False] == [a == b for a, b in zip(one, other, strict=True)]
    assert [] == chained_hashes("m", b"", 4)


def test_worker_keeps_the_latest_beginnings() -> None:
    """Above the limit the ends of the oldest prompts go first."""
    table = PrefixTable(max_blocks_per_worker=5, max_blocks=100)
    table.add("w", [1, 2, 3])
    table.add("w", [11, 12, 13])
    assert (2, 3, 5) == (
        table.n_known("w", [1, 2, 3]),
        table.n_known("w", [11, 12, 13]),
        table.n_blocks,
    )


def test_all_workers_share_one_limit() -> None:
    """The fullest worker gives way; counts stay right through forgetting."""
    table = PrefixTable(max_blocks_per_worker=10, max_blocks=12)
    table.add("a", list(range(10)))
    table.add("b", list(range(4)))
    assert (12, 4, 8) == (
        table.n_blocks,
        table.n_known("b", list(range(4))),
        table.n_known("a", list(range(10))),
    )
    table.forget("a")
    table.forget("a")
    assert table.n_blocks == 4
    table.add("b", [])
    assert table.n_blocks == 4
