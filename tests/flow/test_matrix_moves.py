"""Which failures of the matrix send a request to another pair, where there is one."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.errors import Leg
from app.sim import SglangSim, SimConfig
from app.sim.server import QUICK
from tests.flow import vllm_fleet
from tests.flow.fleet import CHAT, Fleet, body_of, serving
from tests.flow.matrix_cells import LEGS, MATRIX, Case, Cell, Fault, Transfer
from tests.flow.matrix_faults import N_TOKENS, SETTINGS, available, order_of

BODY = body_of(CHAT, n_tokens=N_TOKENS)
ELSEWHERE = (Fault.STOPPED, Fault.HALF_OPEN)
"""To the gateway these are hangs, and made with more effort."""


async def two_pairs(stack: AsyncExitStack, transfer: Transfer, model: Path) -> Fleet:
    """A gateway before two prefill and two decode workers."""
    if transfer is not Transfer.SGLANG:
        engine = transfer.value.lower()
        own: dict[str, Any] = {"settings": SETTINGS, "lease_s": 0.4, "mooncake_abort_s": 2.0}
        return await vllm_fleet.fleet_of(stack, model, engine, n_prefills=2, n_decodes=2, **own)
    workers = [
        await stack.enter_async_context(SglangSim(SimConfig(role=leg, **QUICK)))
        for leg in (*LEGS, *LEGS)
    ]
    fleet = serving(workers[::2], workers[1::2], **SETTINGS)
    return await stack.enter_async_context(fleet)


@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize("transfer", Transfer)
async def test_second_pair(
    stack: AsyncExitStack, transfer: Transfer, leg: Leg, model: Path
) -> None:
    """A worker that cannot be connected to costs the client nothing; all else is tried once."""
    fleet = await two_pairs(stack, transfer, model)
    workers = fleet.prefills if leg == "prefill" else fleet.decodes
    n_checked = 0
    for fault in Fault:
        cell = MATRIX[transfer][fault].cell(leg, is_stream=False)
        if fault in ELSEWHERE or not isinstance(cell, Cell) or not cell.code:
            continue
        if fault is Fault.REFUSED:
            assert cell.is_moved
            await check_moved(fleet, workers[0])
        else:
            assert not cell.is_moved
            await check_stays(fleet, Case(transfer, fault, leg, False, cell), workers)
        await available(fleet)
        n_checked += 1
    assert n_checked >= 9


async def check_moved(fleet: Fleet, worker: Any) -> None:
    """Taking turns, one of two requests meets the dead worker first; both are answered."""
    await worker.kill()
    for _ in range(2):
        got = await fleet.ask(CHAT, BODY)
        assert got.status == 200, got.raw
    await worker.restart()


async def check_stays(fleet: Fleet, case: Case, workers: Any) -> None:
    """Both workers would fail, and one of them does."""
    for worker in workers:
        worker.faults.add(order_of(case))
    got = await fleet.ask(CHAT, BODY)
    assert (got.status, got.error["code"]) == (case.cell.status, case.cell.code), case.name
    assert sum(len(worker.faults.waiting) for worker in workers) == 1, case.name
    for worker in workers:
        worker.faults.clear()
