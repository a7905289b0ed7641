"""Every cell of the fault matrix: what the client gets, the other leg sees, the worker pays.

Afterwards nothing of the request is left anywhere, and the next one is served by the same pair.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.upstream import h2_keepalive
from tests.flow.fleet import CHAT, Got, body_of, until
from tests.flow.matrix_cells import Case, Fault, Pays, Saw, Transfer, When, cases
from tests.flow.matrix_faults import (
    N_TOKENS,
    PING_MS,
    SILENCE_S,
    Scene,
    Stoppables,
    available,
    scene_of,
)

WITHIN_S = {When.AT_ONCE: 2.0, When.AFTER_SILENCE: 3.0, When.AFTER_PROBES: 4.5}
"""Several times what is expected: the machine may be busy."""


@pytest.fixture(scope="module")
def stoppables(model: Path) -> Iterator[Stoppables]:
    """Workers in processes of their own."""
    made = Stoppables(model)
    yield made
    made.end()


@pytest.fixture(autouse=True)
def quick_keepalive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gRPC connection whose peer went without a word is found in a second, not in twenty."""
    monkeypatch.setattr(h2_keepalive, "PING_EVERY_S", 0.5)
    monkeypatch.setattr(h2_keepalive, "PING_TIMEOUT_S", PING_MS / 1000)


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("transfer", Transfer)
async def test_fault(
    transfer: Transfer, fault: Fault, model: Path, stoppables: Stoppables, stack: AsyncExitStack
) -> None:
    """All cells of one fault at once, each with workers and a gateway of its own."""
    chosen = [case for case in cases() if (case.transfer, case.fault) == (transfer, fault)]
    groups = [chosen]
    if fault is Fault.STOPPED:
        # Only one cell at a time can have a process stopped.
        groups = [[case for case in chosen if case.is_stream is mode] for mode in (False, True)]
    for group in groups:
        scenes = [
            await stack.enter_async_context(scene_of(case, model, stoppables)) for case in group
        ]
        before = asyncio.all_tasks()
        async with asyncio.TaskGroup() as cells:
            for scene in scenes:
                cells.create_task(check_cell(scene), name=scene.case.name)
        for scene in scenes:
            await scene.has_no_tasks_but(before)


async def check_cell(scene: Scene) -> None:
    """One fault of one leg, and the next request."""
    fleet, case = scene.fleet, scene.case
    body = body_of(CHAT, stream=case.is_stream, n_tokens=N_TOKENS)
    await scene.strike()
    began_s = time.monotonic()
    got = await fleet.ask(CHAT, body)
    took_s = time.monotonic() - began_s
    try:
        check_answer(case, got)
        check_time(case, took_s)
        await fleet.settle()
        check_other(case, scene)
        check_payment(case, scene)

        await scene.mend()
        await available(fleet)
        again = await fleet.ask(CHAT, body)
        assert again.status == 200, again.raw
        assert again.is_stream == case.is_stream
        await fleet.settle()
        for worker in fleet.workers:
            await holds_nothing(worker)
    except AssertionError as error:
        error.add_note(f"in cell {case.name}, answered {got.status} {got.raw[:300]!r}")
        raise


async def holds_nothing(worker: Any) -> None:
    """Waits until no request occupies anything at a worker."""
    await until(lambda: not any(worker.held().values()), worker.held)


def check_answer(case: Case, got: Got) -> None:
    """Status, code and leg; a stream breaks off with one error event."""
    cell = case.cell
    assert got.status == cell.status, got.raw
    assert b"127.0.0.1" not in got.raw
    if not cell.code:
        assert got.is_stream == case.is_stream
        assert not got.is_stream or got.events[-1] == "[DONE]"
        return
    assert got.is_stream == cell.is_event
    assert not got.is_stream or len(got.events) > 1
    assert got.error["code"] == cell.code
    assert got.error.get("leg") == (case.leg if cell.is_named else None)
    if case.fault is Fault.STATUS_429 and case.transfer is Transfer.SGLANG:
        assert got.headers["retry-after"] == "7"


def check_time(case: Case, took_s: float) -> None:
    """Not before the limit that must have ended the wait, and not long after it."""
    assert took_s < WITHIN_S[case.cell.when]
    if case.cell.when is not When.AT_ONCE:
        assert took_s > SILENCE_S * 0.9


def check_other(case: Case, scene: Scene) -> None:
    """What the other leg's worker saw."""
    other: Any = scene.other
    seen = [one.rid if case.transfer is Transfer.SGLANG else one.request_id for one in other.seen]
    ended = [*other.aborted, *getattr(other, "cancelled", ())]
    match case.cell.other:
        case Saw.NOTHING:
            assert seen == []
        case Saw.ENDED:
            assert len(seen) == 1
            assert ended == seen
            if case.transfer is Transfer.SGLANG:
                # By an abort, and not because it noticed that nobody listens.
                assert other.counters.disconnects_noticed == 0
        case Saw.THROUGH:
            assert len(seen) == 1
            assert ended == []
            assert other.counters.generated_tokens == (1 if case.leg == "decode" else N_TOKENS)


def check_payment(case: Case, scene: Scene) -> None:
    """Whose breaker moved, and who is used last for a while."""
    fleet, pays = scene.fleet, case.cell.pays
    assert fleet.charged == ([case.leg] if pays is Pays.BREAKER else [])
    now_s = asyncio.get_running_loop().time()
    assert fleet.live(scene.faulty).is_full(now_s) == (pays is Pays.WEIGHT)
    assert not fleet.live(scene.other).is_full(now_s)
