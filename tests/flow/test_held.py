"""What a signal tells of a running gateway."""

from __future__ import annotations

import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.dispatch.token_handoff import HeldHandoff
from app.gateway.held import held
from app.sim import Fault, FaultKind, VllmFault, VllmFaultKind, sim_pair
from tests.flow import vllm_fleet
from tests.flow.fleet import CHAT, Fleet, body_of, serving, until


class Lines:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, int]]] = []

    def warning(self, event: str, **counts: int) -> None:
        """One more line."""
        self.told.append((event, counts))

    def info(self, event: str, **more: Any) -> None:
        """Not looked at."""


async def test_a_running_request_is_counted(fleet: Fleet) -> None:
    """A lease and an exchange of each leg; nothing of it afterwards."""
    idle = held(fleet.gateway)
    assert idle["leases"] == idle["exchanges"] == idle["ending_legs"] == 0
    (prefill,) = fleet.prefills
    prefill.faults.add(Fault(kind=FaultKind.SLOW, delay_s=0.3))
    during: list[dict[str, int]] = []

    async def look() -> None:
        await until(lambda: fleet.decodes[0].n_active)
        during.append(held(fleet.gateway))

    await fleet.during(fleet.ask(CHAT, body_of(CHAT)), look())
    (busy,) = during
    assert (busy["leases"], busy["rank_leases"], busy["exchanges"]) == (2, 2, 2)
    assert busy["tasks"] > idle["tasks"]
    await fleet.settle()
    after = held(fleet.gateway)
    assert after["leases"] == after["rank_leases"] == after["exchanges"] == 0


async def test_no_call_is_left_where_a_handoff_was_refused(
    stack: AsyncExitStack, model: Path
) -> None:
    """Decode could not load it, another worker did: both are free, and the first may be removed."""
    fleet = await vllm_fleet.fleet_of(stack, model, n_decodes=2)
    fleet.decode.faults.add(VllmFault(kind=VllmFaultKind.ERROR_FINISH))
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert fleet.counts["moved"] == 1
    await fleet.settle()
    assert held(fleet.gateway)["calls"] == 0
    worker_id = fleet.live(fleet.decode).id
    assert (await fleet.http.delete(f"/workers/{worker_id}")).status_code == 202
    await until(lambda: fleet.gateway.registry.get(worker_id) is None)


async def test_no_call_is_left_of_a_prefill_that_ran_again(
    stack: AsyncExitStack, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its handoff was too old; the first prefill's call is over, too."""
    fleet = await vllm_fleet.fleet_of(stack, model, lease_s=0.4)
    is_stale = iter([True, False])
    monkeypatch.setattr(HeldHandoff, "is_stale", lambda _: next(is_stale))
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert len(fleet.prefill.seen) == 2
    await fleet.settle()
    assert held(fleet.gateway)["calls"] == 0


async def test_signal_has_it_told(stack: AsyncExitStack, monkeypatch: Any) -> None:
    """One line for each signal, from the gateway that runs."""
    lines = Lines()
    monkeypatch.setattr("app.lifespan.get_logger", lambda _: lines)
    pair = await stack.enter_async_context(sim_pair())
    fleet = await stack.enter_async_context(serving([pair[0]], [pair[1]]))
    os.kill(os.getpid(), signal.SIGUSR1)
    await until(lambda: lines.told)
    ((event, counts),) = lines.told
    assert event == "held"
    assert counts.keys() == held(fleet.gateway).keys()
