"""The checklist of the wire, rows 1 to 11: one test a row, on what the workers saw.

Each choice of several has its own handoff, a missing one follows ``--missing-handoff``, and only
what reached no engine is tried again: there the project differs from SMG.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.dispatch import pd_router
from app.protocol.bootstrap import mint_rid
from app.sim import VllmFault, VllmFaultKind
from app.upstream.generated import vllm_engine_pb2 as pb
from tests.flow.fleet import CHAT, COMPLETIONS, body_of, until
from tests.flow.vllm_fleet import (
    SHORT_LEASE_S,
    Reasons,
    VllmFleet,
    asked,
    fleet_of,
    record_handoffs,
)

pytestmark = pytest.mark.usefixtures("both_grpc_clients")

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
CONNECTORS = pytest.mark.parametrize("connector", ["nixl", "mooncake"])
NIXL_TAG = {"do_remote_decode": True, "do_remote_prefill": False}


@pytest.fixture
async def nixl(stack: AsyncExitStack, model: Path) -> VllmFleet:
    """A gateway before one NIXL pair."""
    return await fleet_of(stack, model)


async def test_row_1_nixl_legs(nixl: VllmFleet) -> None:
    """Prefill is asked for one bare token; decode what the client asked, with prefill's text."""
    texts = record_handoffs(nixl.prefill)
    body = {
        "messages": [{"role": "user", "content": "word " * 100}],
        "stream": True,
        "max_tokens": 9,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "frequency_penalty": 0.25,
        "presence_penalty": -0.5,
        "repetition_penalty": 1.5,
        "stop": ["never said"],
        "stop_token_ids": [7],
        "seed": 11,
        "logprobs": True,
        "top_logprobs": 2,
        "logit_bias": {"5": 1.5},
        "response_format": {"type": "json_object"},
    }
    got = await nixl.ask(CHAT, body)
    assert (got.status, got.events[-1]) == (200, "[DONE]")
    first, second = asked(nixl.prefill), asked(nixl.decode)
    _check_bare(first)
    _check_client_values(second)
    assert json.loads(first.kv_transfer_params_json) == NIXL_TAG
    assert [second.kv_transfer_params_json] == texts
    assert first.request_id == second.request_id == json.loads(got.events[0])["id"]
    assert first.tokenized.input_ids == second.tokenized.input_ids
    n_prompt = len(second.tokenized.input_ids)
    assert n_prompt > 100
    assert nixl.prefill.computed_prompt_tokens == n_prompt
    assert nixl.decode.computed_prompt_tokens == 1
    assert nixl.n_pinned_blocks == 0
    assert nixl.counts == {"nixl": 1}


def _check_bare(request: pb.GenerateRequest) -> None:
    params = request.sampling_params
    assert not request.stream
    assert (params.max_tokens, params.min_tokens, params.n) == (1, 0, 1)
    assert params.ignore_eos
    assert (list(params.stop), list(params.stop_token_ids)) == ([], [])
    assert params.WhichOneof("constraint") is None
    assert not params.HasField("logprobs")
    assert not params.HasField("prompt_logprobs")
    assert (params.temperature, params.seed) == (0.5, 11)


def _check_client_values(request: pb.GenerateRequest) -> None:
    params = request.sampling_params
    assert request.stream
    assert (params.max_tokens, params.min_tokens, params.n) == (9, 2, 1)
    assert (params.temperature, params.top_k, params.seed) == (0.5, 40, 11)
    assert [round(v, 4) for v in (params.top_p, params.min_p)] == [0.9, 0.05]
    penalties = (params.frequency_penalty, params.presence_penalty, params.repetition_penalty)
    assert penalties == (0.25, -0.5, 1.5)
    assert (list(params.stop), list(params.stop_token_ids)) == (["never said"], [7])
    assert (params.logprobs, dict(params.logit_bias)) == (2, {5: 1.5})
    assert params.WhichOneof("constraint") in ("json_object", "json_schema")
    assert not params.ignore_eos


async def test_row_2_mooncake_legs(stack: AsyncExitStack, model: Path) -> None:
    """Three keys for prefill, five for decode, one transfer id, the bootstrap address."""
    fleet = await fleet_of(stack, model, "mooncake")
    got = await fleet.ask(CHAT, body_of(CHAT, stream=True))
    assert got.events[-1] == "[DONE]"
    first, second = fleet.prefill.seen[0].handoff or {}, fleet.decode.seen[0].handoff or {}
    transfer_id = first["transfer_id"]
    assert transfer_id.startswith("xfer-")
    assert first == NIXL_TAG | {"transfer_id": transfer_id}
    assert second == {
        "do_remote_decode": False,
        "do_remote_prefill": True,
        "transfer_id": transfer_id,
        "remote_engine_id": fleet.prefill.engine_id,
        "remote_bootstrap_addr": f"http://127.0.0.1:{fleet.prefill.bootstrap_port}",
    }
    assert asked(fleet.prefill).request_id == asked(fleet.decode).request_id
    params = asked(fleet.prefill).sampling_params
    assert (params.max_tokens, params.ignore_eos) == (1, True)
    assert fleet.decode.computed_prompt_tokens == 1
    assert fleet.n_pinned_blocks == 0


@pytest.mark.parametrize("connector", ["mooncake", "nixl"])
async def test_row_3_ranks_are_pinned(stack: AsyncExitStack, model: Path, connector: str) -> None:
    """Both legs name their rank, and Mooncake's engine id ends with prefill's."""
    fleet = await fleet_of(stack, model, connector, dp_size=2)
    for _ in range(4):
        assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    for first, second in zip(fleet.prefill.seen, fleet.decode.seen, strict=True):
        rank = first.request.data_parallel_rank
        engine_id = f"{fleet.prefill.engine_id}_dp{rank}"
        assert (second.handoff or {})["remote_engine_id"] == engine_id
    for worker in fleet.workers:
        assert all(seen.request.HasField("data_parallel_rank") for seen in worker.seen)
        assert {seen.request.data_parallel_rank for seen in worker.seen} == {0, 1}
    assert fleet.decode.computed_prompt_tokens == 4


async def test_one_rank_is_not_pinned(nixl: VllmFleet) -> None:
    """A worker with one rank is left to itself."""
    await nixl.ask(CHAT, body_of(CHAT))
    assert not any(asked(w).HasField("data_parallel_rank") for w in nixl.workers)


async def test_row_4_missing_handoff_is_recomputed(
    stack: AsyncExitStack, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decode gets no KV parameters and computes; counted, and said once a worker."""
    fleet = await fleet_of(stack, model, lease_s=SHORT_LEASE_S)
    fleet.prefill.faults.add(VllmFault(kind=VllmFaultKind.NO_HANDOFF, times=2))
    log = Reasons()
    monkeypatch.setattr(fleet.gateway.handoffs, "_log", log)
    for _ in range(2):
        assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert not any(seen.request.HasField("kv_transfer_params_json") for seen in fleet.decode.seen)
    assert fleet.decode.computed_prompt_tokens >= len(asked(fleet.decode).tokenized.input_ids)
    assert fleet.counts == {"missing": 2}
    assert log.warned == ["the prefill worker returned no handoff"]


async def test_row_4_missing_handoff_is_an_error(stack: AsyncExitStack, model: Path) -> None:
    """With --missing-handoff fail decode sees nothing, and prefill is named."""
    settings = {"missing_handoff": "fail"}
    fleet = await fleet_of(stack, model, lease_s=SHORT_LEASE_S, settings=settings)
    fleet.prefill.faults.add(VllmFault(kind=VllmFaultKind.NO_HANDOFF))
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["leg"], got.error["code"]) == (502, "prefill", "handoff_missing")
    assert fleet.decode.seen == []
    assert fleet.counts == {}


@BOTH
@CONNECTORS
@pytest.mark.parametrize("kind", [VllmFaultKind.ERROR_FINISH, VllmFaultKind.ABORT_FINISH])
async def test_row_5_prefill_gives_up(
    stack: AsyncExitStack, model: Path, connector: str, kind: VllmFaultKind, stream: bool
) -> None:
    """An ending of status OK with finish reason error or abort: decode is never asked."""
    fleet = await fleet_of(stack, model, connector)
    fleet.prefill.faults.add(VllmFault(kind=kind))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.status, got.error["leg"]) == (502, "prefill")
    assert got.error["code"] == "generation_aborted"
    assert fleet.decode.seen == []
    assert fleet.charged == ["prefill"]


async def test_row_6_unavailable_prefill_is_not_asked_twice(
    stack: AsyncExitStack, model: Path
) -> None:
    """A refusal came from an engine: 503, and no other pair is tried."""
    fleet = await fleet_of(stack, model, n_prefills=2)
    for worker in fleet.prefills:
        worker.faults.refuse("UNAVAILABLE", "shutting down", times=None)
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["leg"], got.error["message"]) == (503, "prefill", "shutting down")
    assert sum(len(worker.seen) for worker in fleet.prefills) == 1
    assert fleet.charged == []


async def test_row_6_unreachable_prefill_is_replaced(
    stack: AsyncExitStack, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent: the next pair gets the request, under an id of its own."""
    ids = _record_ids(monkeypatch)
    fleet = await fleet_of(stack, model, n_prefills=2)
    await fleet.prefills[0].kill()
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert got.status == 200
    assert len(set(ids)) == 2
    assert fleet.prefills[1].seen[0].request_id == got.json["id"] == ids[1]
    assert fleet.prefills[0].seen == []
    assert fleet.charged == ["prefill"]


def _record_ids(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    ids: list[str] = []

    def mint_and_note(route: Any) -> str:
        ids.append(mint_rid(route))
        return ids[-1]

    monkeypatch.setattr(pd_router, "mint_rid", mint_and_note)
    return ids


@BOTH
async def test_row_7_decode_refuses_a_parameter(nixl: VllmFleet, stream: bool) -> None:
    """400 with the engine's own words, asked once, charged to nobody, blocks released."""
    nixl.decode.tokenizer.n_vocab = 1  # type: ignore[misc]
    got = await nixl.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.status, got.error["leg"]) == (400, "decode")
    assert got.error["message"] == "Token id is out of vocabulary"
    assert len(nixl.decode.seen) == 1
    assert nixl.charged == []


@BOTH
@CONNECTORS
async def test_row_9_client_leaves_during_prefill(
    stack: AsyncExitStack, model: Path, connector: str, stream: bool
) -> None:
    """Prefill is aborted; decode has not heard of it."""
    fleet = await fleet_of(stack, model, connector, prefill_tokens_per_s=5.0)
    await _leave(fleet, stream, lambda: fleet.prefill.engine.jobs)
    assert fleet.prefill.aborted == [asked(fleet.prefill).request_id]
    assert not fleet.decode.seen


@BOTH
@CONNECTORS
async def test_row_10_client_leaves_while_decode_queues(
    stack: AsyncExitStack, model: Path, connector: str, stream: bool
) -> None:
    """Decode is aborted, and prefill hears that it need not keep its blocks."""
    fleet = await fleet_of(stack, model, connector, decode={"lead_s": 60.0})
    async with asyncio.timeout(2):
        await _leave(fleet, stream, lambda: fleet.decode.engine.jobs)
    assert fleet.decode.aborted == [asked(fleet.decode).request_id]
    assert fleet.prefill.counters.n_releases == 1


async def _leave(fleet: VllmFleet, stream: bool, is_there: Callable[[], object]) -> None:
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(fleet.ask(CHAT, body_of(CHAT, stream=stream)))
        await until(is_there)
        asking.cancel()
    await fleet.settle()
    assert fleet.charged == []


@BOTH
@CONNECTORS
async def test_row_11_each_choice_has_its_own_handoff(
    stack: AsyncExitStack, model: Path, connector: str, stream: bool
) -> None:
    """Two single generations under two ids; the second prefill finds the prompt in the cache."""
    fleet = await fleet_of(stack, model, connector)
    body = {"prompt": "word " * 64, "n": 2, "max_tokens": 4, "stream": stream, "seed": 3}
    got = await fleet.ask(COMPLETIONS, body)
    assert got.status == 200
    keys = [json.dumps(seen.handoff, sort_keys=True) for seen in fleet.decode.seen]
    assert len(set(keys)) == 2
    for worker in fleet.workers:
        assert [seen.request.sampling_params.n for seen in worker.seen] == [1, 1]
        assert len({seen.request_id for seen in worker.seen}) == 2
    n_prompt = len(asked(fleet.decode).tokenized.input_ids)
    assert fleet.decode.computed_prompt_tokens == 2
    assert n_prompt < fleet.prefill.computed_prompt_tokens < 2 * n_prompt
    assert fleet.counts == {connector: 2}
