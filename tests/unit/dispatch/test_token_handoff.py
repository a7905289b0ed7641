"""What a handoff is still worth, by a clock that is turned by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from app.dispatch.kv_transfer import NIXL_TAG, Transfer, TransferPlan
from app.dispatch.token_handoff import HeldHandoff
from app.errors import KV_LOAD_FAILED, LegBroken
from app.protocol.engine import Complete, Constraint, EngineRequest, Sampling
from app.workers.worker import Role, Worker, WorkerSpec

LEASE_S = 30.0
DECODES = tuple(Worker(WorkerSpec(f"grpc://d:{i}", Role.DECODE)) for i in (1, 2))
REQUEST = EngineRequest("r", [1, 2], "", Sampling(), stream=True)
NIXL = TransferPlan(Transfer.NIXL, prefill_json=NIXL_TAG)
UNKNOWN = TransferPlan(Transfer.UNKNOWN)
MOONCAKE = TransferPlan(Transfer.MOONCAKE, decode_json="{}")
WHOLE: dict[str, Any] = {
    "do_remote_prefill": True,
    "remote_block_ids": [[3, 4]],
    "remote_engine_id": "e",
    "remote_request_id": "r-0a1b2c3d",
    "remote_host": "h",
    "remote_port": 5600,
    "tp_size": 1,
}


class Surroundings:
    """The part of TokenTools that a handoff needs."""

    lease_s = LEASE_S

    def __init__(self) -> None:
        self.s = 100.0
        self.released: list[tuple[tuple[Worker, ...], EngineRequest]] = []
        self.by_kind: Counter[str] = Counter()
        self.gaps_s: list[float] = []
        self.counts = self.reaper = self

    def now_s(self) -> float:
        """The time."""
        return self.s

    def add(self, kind: str) -> None:
        """Counts."""
        self.by_kind[kind] += 1

    def note_gap(self, gap_s: float) -> None:
        """Notes."""
        self.gaps_s.append(gap_s)

    def release_blocks(self, workers: Sequence[Worker], request: EngineRequest) -> None:
        """Notes."""
        self.released.append((tuple(workers), request))


@pytest.fixture
def around() -> Surroundings:
    """Time stands still."""
    return Surroundings()


def held(around: Surroundings, plan: TransferPlan = NIXL, **change: Any) -> HeldHandoff:
    """What a prefill leg left just now."""
    tools: Any = around
    made = HeldHandoff(tools)
    text = orjson.dumps(WHOLE | change).decode()
    made.take(plan, Complete([1], "length", 2, 1, 0, handoff_json=text))
    return made


@pytest.mark.parametrize(
    ("gap_s", "is_stale", "may_move", "is_released"),
    [
        (0.0, False, True, True),
        (10.0, False, True, True),
        (10.1, True, True, True),
        (15.0, True, True, True),
        (15.1, True, False, False),
    ],
)
def test_age_decides(
    around: Surroundings, gap_s: float, is_stale: bool, may_move: bool, is_released: bool
) -> None:
    """Sent within a third of the lease, moved and released within half of it."""
    handoff = held(around)
    around.s += gap_s
    assert handoff.is_stale() is is_stale
    assert around.gaps_s == [pytest.approx(gap_s)]
    assert handoff.may_move() is may_move
    handoff.release(DECODES, REQUEST)
    assert around.released == ([(DECODES, REQUEST)] if is_released else [])
    assert around.by_kind["released"] == int(is_released)


def test_pushed_handoff_does_not_move(around: Surroundings) -> None:
    """It can be released all the same."""
    handoff = held(around, transfer_mode="push")
    assert not handoff.may_move()
    assert not handoff.is_pull
    handoff.release(DECODES, REQUEST)
    assert around.released == [(DECODES, REQUEST)]


def test_mooncake_may_move_unless_it_was_sent(around: Surroundings) -> None:
    """Any decode worker may ask, once."""
    handoff = held(around, MOONCAKE)
    assert handoff.text == "{}"
    assert handoff.may_move()
    assert handoff.is_unread(broken(), REQUEST, was_sent=False)
    assert not handoff.is_unread(broken(KV_LOAD_FAILED), REQUEST, was_sent=True)
    handoff.release(DECODES, REQUEST)
    assert around.released == [(DECODES, REQUEST)]


@pytest.mark.parametrize("plan", [UNKNOWN, MOONCAKE])
def test_only_nixl_has_a_lease(around: Surroundings, plan: TransferPlan) -> None:
    """Nothing is known of another connector's, and Mooncake's blocks are read or wait 480 s."""
    handoff = held(around, plan)
    around.s += 2 * LEASE_S
    assert not handoff.is_stale()
    assert around.gaps_s == []


def test_nothing_is_released_of_what_was_never_pinned(around: Surroundings) -> None:
    """An empty one, a dropped one and an incomplete one."""
    tools: Any = around
    dropped = held(around)
    dropped.drop()
    assert dropped.text is None
    for handoff in (HeldHandoff(tools), dropped, held(around, remote_host="")):
        handoff.release(DECODES, REQUEST)
        assert not handoff.may_move()
    assert around.released == []


def broken(code: str | None = None, leg: Any = "decode") -> LegBroken:
    """How a leg failed."""
    return LegBroken("broken", leg=leg, code=code)


@pytest.mark.parametrize(
    ("error", "was_sent", "is_unread"),
    [
        (broken(), False, True),
        (broken(), True, False),
        (broken(KV_LOAD_FAILED), True, True),
        (broken("generation_aborted"), True, False),
        (broken(KV_LOAD_FAILED, "prefill"), True, False),
    ],
)
def test_who_may_have_read_it(
    around: Surroundings, error: LegBroken, was_sent: bool, is_unread: bool
) -> None:
    """Nobody who was not asked, and nobody who failed to load; anybody else."""
    assert held(around).is_unread(error, REQUEST, was_sent=was_sent) is is_unread


def test_grammar_that_fails_looks_like_a_failed_load(around: Surroundings) -> None:
    """It releases the blocks, so with a grammar nobody else may read them."""
    sampling = Sampling(constraint=Constraint("json_object"))
    request = EngineRequest("r", [1], "", sampling, stream=True)
    assert not held(around).is_unread(broken(KV_LOAD_FAILED), request, was_sent=True)
