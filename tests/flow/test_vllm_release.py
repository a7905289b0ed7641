"""Blocks of a prefill whose decode worker cannot be reached: another one lets go of them."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.sim import VllmFault, VllmFaultKind, VllmSim
from app.upstream.vllm_call import VllmCall
from tests.flow.fleet import CHAT, body_of
from tests.flow.vllm_fleet import SHORT_LEASE_S, VllmFleet, fleet_of, sent_by

pytestmark = pytest.mark.usefixtures("both_grpc_clients")

CONNECTORS = pytest.mark.parametrize("connector", ["nixl", "mooncake"])


async def second_of(fleet: VllmFleet) -> tuple[VllmSim, VllmSim]:
    """The decode worker that is next in turn, and the other one."""
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    one, other = fleet.decodes
    return (other, one) if one.seen else (one, other)


@CONNECTORS
async def test_unreachable_decode_of_several_choices(
    stack: AsyncExitStack, model: Path, connector: str
) -> None:
    """They do not move, but every handoff there is is taken by a worker that drops it."""
    fleet = await fleet_of(stack, model, connector, n_decodes=2)
    away, other = await second_of(fleet)
    await away.kill()
    n_before = len(other.seen)
    got = await fleet.ask(CHAT, body_of(CHAT, n=2))
    assert (got.status, got.error["leg"], got.error["code"]) == (
        502,
        "decode",
        "worker_unreachable",
    )
    await fleet.settle()
    counters = fleet.prefill.counters
    # One whose prefill was still running when the other failed is called off: nothing to drop.
    n_handoffs = len(fleet.prefill.seen) - 1 - len({*counters.cancelled, *counters.aborted})
    assert len(other.seen) - n_before == n_handoffs > 0
    assert all(seen.request.sampling_params.max_tokens == 1 for seen in other.seen[n_before:])
    assert counters.n_expired == counters.n_asks_in_vain == 0
    await away.restart()


@CONNECTORS
async def test_client_leaves_an_unreachable_decode(
    stack: AsyncExitStack, model: Path, connector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is still being made when the client goes."""
    fleet = await fleet_of(stack, model, connector, n_decodes=2)
    away, other = await second_of(fleet)
    n_before = len(other.seen)
    is_there, connect = asyncio.Event(), VllmCall.connect

    async def connect_in_vain(call: VllmCall) -> None:
        if json.loads(sent_by(call).kv_transfer_params_json)["do_remote_prefill"]:
            is_there.set()
            monkeypatch.setattr(VllmCall, "connect", connect)
            await asyncio.Event().wait()
        await connect(call)

    monkeypatch.setattr(VllmCall, "connect", connect_in_vain)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(fleet.ask(CHAT, body_of(CHAT)))
        await is_there.wait()
        await away.kill()
        asking.cancel()
    await fleet.settle()
    assert len(other.seen) == n_before + 1
    assert fleet.prefill.counters.n_releases == 2
    await away.restart()


async def test_pushed_blocks_wait_for_their_lease(stack: AsyncExitStack, model: Path) -> None:
    """Prefill would send them to the worker that it was told of, so no other is asked."""
    fleet = await fleet_of(stack, model, "NixlPushConnector", n_decodes=2, lease_s=SHORT_LEASE_S)
    away, other = await second_of(fleet)
    n_before = len(other.seen)
    await away.kill()
    assert (await fleet.ask(CHAT, body_of(CHAT, n=2))).status == 502
    await fleet.settle()
    assert len(other.seen) == n_before
    assert fleet.prefill.counters.n_expired > 0
    await away.restart()


async def test_failed_mooncake_load_is_not_tried_elsewhere(
    stack: AsyncExitStack, model: Path
) -> None:
    """Of its blocks some may be gone, and who asks for them waits: they are left to prefill."""
    fleet = await fleet_of(stack, model, "mooncake", n_decodes=2, mooncake_abort_s=SHORT_LEASE_S)
    failing, other = await second_of(fleet)
    n_before = len(other.seen)
    failing.faults.add(VllmFault(kind=VllmFaultKind.ERROR_FINISH))
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["code"]) == (502, "kv_load_failed")
    assert len(other.seen) == n_before
    await fleet.settle()
    assert fleet.prefill.counters.n_expired == 1


@CONNECTORS
async def test_mooncake_and_nixl_move_alike(
    stack: AsyncExitStack, model: Path, connector: str
) -> None:
    """A worker that never took the call has read nothing: the next one reads it instead."""
    fleet = await fleet_of(stack, model, connector, n_decodes=2)
    away, other = await second_of(fleet)
    await away.kill()
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert len(fleet.prefill.seen) == 2
    assert other.computed_prompt_tokens == 2
    assert fleet.counts == {connector: 2, "moved": 1}
    await away.restart()


async def test_prompt_logprobs_say_nothing_of_prefill(stack: AsyncExitStack, model: Path) -> None:
    """Two failures, with answers between them that it had no part in: it has answered none."""
    fleet = await fleet_of(stack, model, settings={"cb_failure_threshold": 2})
    fleet.prefill.faults.refuse("INTERNAL", "broken", times=2)
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 500
    for _ in range(3):
        assert (await fleet.ask(CHAT, body_of(CHAT, prompt_logprobs=1))).status == 200
    assert fleet.charged == []
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 500
    assert fleet.charged == ["prefill"]
