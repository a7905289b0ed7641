"""Handoffs that are unusable, that must find another reader, or that got too old."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.sim import VllmFault, VllmFaultKind, VllmSim
from app.upstream.vllm_call import VllmCall
from app.workers.states import State
from tests.flow.fleet import CHAT, COMPLETIONS, body_of, until
from tests.flow.vllm_fleet import (
    SHORT_LEASE_S,
    fleet_of,
    record_handoffs,
    sent_by,
    serving,
    sim,
)

LOAD_FAILURE = VllmFaultKind.ERROR_FINISH
Change = Callable[[dict[str, Any]], object]
BROKEN: tuple[Change, ...] = (
    lambda h: h.pop("do_remote_prefill"),
    lambda h: h.pop("remote_block_ids"),
    lambda h: h.update(remote_block_ids=[[], []]),
    lambda h: h.pop("remote_engine_id"),
    lambda h: h.update(remote_request_id=""),
    lambda h: h.pop("remote_host"),
    lambda h: h.update(remote_port=None),
    lambda h: h.pop("tp_size"),
)


def broken_by(change: Change) -> Callable[[str], str]:
    """Changes the object of a handoff's text."""

    def rewrite(text: str) -> str:
        found = json.loads(text)
        change(found)
        return json.dumps(found)

    return rewrite


REWRITES: tuple[Callable[[str], str], ...] = (
    *map(broken_by, BROKEN),
    lambda _: "",
    lambda _: "{",
    lambda _: "[1]",
)


def one_by_one() -> Callable[[str], str]:
    """Each handoff is broken in the next way."""
    rewrites = iter(REWRITES)

    def rewrite(text: str) -> str:
        return next(rewrites)(text)

    return rewrite


async def test_unusable_handoffs_are_recomputed(stack: AsyncExitStack, model: Path) -> None:
    """None of them reaches decode, which would hang or die of it: it computes alone."""
    fleet = await fleet_of(stack, model, lease_s=SHORT_LEASE_S)
    record_handoffs(fleet.prefill, one_by_one())
    for n_before, _ in enumerate(REWRITES):
        prompt = f"prompt {n_before}"
        got = await fleet.ask(COMPLETIONS, body_of(COMPLETIONS, prompt=prompt))
        assert got.status == 200
        assert fleet.decode.seen[n_before].handoff_json is None
    n_prompts = sum(len(seen.request.tokenized.input_ids) for seen in fleet.decode.seen)
    assert fleet.decode.computed_prompt_tokens == n_prompts
    assert fleet.counts == {"missing": len(REWRITES)}
    assert fleet.charged == fleet.decode.counters.crashes == []


async def test_unusable_handoffs_are_errors(stack: AsyncExitStack, model: Path) -> None:
    """With --missing-handoff fail each is 502 of prefill, and decode is never asked."""
    settings = {"missing_handoff": "fail", "disable_circuit_breaker": True}
    fleet = await fleet_of(stack, model, settings=settings, lease_s=SHORT_LEASE_S)
    record_handoffs(fleet.prefill, one_by_one())
    for _ in REWRITES:
        got = await fleet.ask(CHAT, body_of(CHAT))
        assert (got.status, got.error["leg"]) == (502, "prefill")
        assert got.error["code"] == "handoff_missing"
    assert fleet.decode.seen == []


@pytest.mark.parametrize("policy", ["recompute", "fail"])
async def test_pair_without_a_connector(stack: AsyncExitStack, model: Path, policy: str) -> None:
    """Prefill has nothing to give: decode computes alone, or nobody is asked at all."""
    fleet = await fleet_of(stack, model, "none", settings={"missing_handoff": policy})
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert fleet.prefill.seen == []
    if policy == "fail":
        assert (got.status, got.error["code"]) == (502, "handoff_missing")
        assert fleet.decode.seen == []
    else:
        assert (got.status, fleet.counts) == (200, {"no_connector": 1})


async def test_prompt_logprobs_need_no_prefill(stack: AsyncExitStack, model: Path) -> None:
    """Decode computes every position for them, so prefill is left out; that is no fault."""
    fleet = await fleet_of(stack, model, settings={"missing_handoff": "fail"})
    got = await fleet.ask(CHAT, body_of(CHAT, prompt_logprobs=1))
    assert (got.status, fleet.counts) == (200, {"prompt_logprobs": 1})
    assert fleet.prefill.seen == []
    assert fleet.decode.seen[0].handoff_json is None


async def refuses(decode: VllmSim) -> None:
    """Its listener is gone: nobody is reached."""
    await decode.kill()


async def loads_nothing(decode: VllmSim) -> None:
    """It ends one request as after a failed KV load."""
    decode.faults.add(VllmFault(kind=LOAD_FAILURE))


CAUSES = pytest.mark.parametrize("cause", [refuses, loads_nothing], ids=["unreachable", "load"])


@CAUSES
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_handoff_moves(
    stack: AsyncExitStack, model: Path, cause: Callable[[VllmSim], Any], stream: bool
) -> None:
    """Another decode worker reads the same handoff; prefill runs once; the first one pays."""
    fleet = await fleet_of(stack, model, n_decodes=2)
    one, other = fleet.decodes
    await cause(one)
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert got.status == 200
    assert len(fleet.prefill.seen) == 1
    assert fleet.counts == {"nixl": 1, "moved": 1}
    assert other.seen[0].handoff is not None
    if one.seen:
        assert one.seen[0].handoff_json == other.seen[0].handoff_json
    assert other.computed_prompt_tokens == 1
    assert fleet.prefill.counters.n_garbage_reads == 0
    await fleet.settle()
    assert [fleet.live(w).breaker.is_closed for w in (one, other)] == [False, True]
    assert fleet.charged == ["decode"]


@CAUSES
async def test_handoff_without_another_reader(
    stack: AsyncExitStack, model: Path, cause: Callable[[VllmSim], Any]
) -> None:
    """502 of decode, prefill is not run again; blocks are released if decode can be reached."""
    is_reachable = cause is loads_nothing
    lease_s = 30.0 if is_reachable else SHORT_LEASE_S
    fleet = await fleet_of(stack, model, lease_s=lease_s)
    await cause(fleet.decode)
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["leg"]) == (502, "decode")
    assert len(fleet.prefill.seen) == 1
    await fleet.settle()
    assert fleet.charged == ["decode"]
    assert fleet.counts == {"nixl": 1, "released": 1}
    assert fleet.prefill.counters.n_releases == int(is_reachable)
    if not fleet.decode.is_up:
        await fleet.decode.restart()


@CAUSES
async def test_pushed_handoff_never_moves(
    stack: AsyncExitStack, model: Path, cause: Callable[[VllmSim], Any]
) -> None:
    """Prefill sends the blocks to the one that it was told of."""
    fleet = await fleet_of(stack, model, "NixlPushConnector", n_decodes=2, lease_s=SHORT_LEASE_S)
    one, other = fleet.decodes
    await cause(one)
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["leg"]) == (502, "decode")
    assert other.seen == []
    assert "moved" not in fleet.counts


async def test_refused_decode_does_not_move(stack: AsyncExitStack, model: Path) -> None:
    """A refusal inside Generate has released the blocks: a second read would be garbage."""
    fleet = await fleet_of(stack, model, n_decodes=2, lease_s=SHORT_LEASE_S)
    one, other = fleet.decodes
    one.faults.refuse("RESOURCE_EXHAUSTED", "full")
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["message"]) == (429, "full")
    assert other.seen == []
    assert fleet.counts == {"nixl": 1}


async def test_failed_load_of_a_dead_prefill(stack: AsyncExitStack, model: Path) -> None:
    """Decode cannot load because prefill is gone: prefill is named and pays, decode does not."""
    fleet = await fleet_of(stack, model, n_decodes=2)
    for worker in fleet.decodes:
        _kill_before_load(worker, fleet.prefill)
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["leg"]) == (502, "prefill")
    await fleet.settle()
    assert fleet.charged == ["prefill"]
    assert "moved" not in fleet.counts
    await fleet.prefill.restart()


def _kill_before_load(decode: VllmSim, prefill: VllmSim) -> None:
    connector = decode.engine.connector
    load = connector.load

    async def kill_and_load(job: Any, n_local: int) -> None:
        if prefill.is_up:
            await prefill.kill()
        await load(job, n_local)

    connector.load = kill_and_load  # type: ignore[method-assign]


@pytest.mark.parametrize("n_slow", [1, 2], ids=["once", "twice"])
async def test_stale_handoff(
    stack: AsyncExitStack, model: Path, monkeypatch: pytest.MonkeyPatch, n_slow: int
) -> None:
    """Decode is reached after a third of the lease: prefill runs again, but not for ever."""
    fleet = await fleet_of(
        stack, model, lease_s=SHORT_LEASE_S, settings={"kv_lease_secs": SHORT_LEASE_S}
    )
    connect, n_left = VllmCall.connect, n_slow

    async def connect_slowly(call: VllmCall) -> None:
        nonlocal n_left
        await connect(call)
        if sent_by(call).HasField("kv_transfer_params_json") and not _is_tag(call) and n_left:
            n_left -= 1
            await asyncio.sleep(SHORT_LEASE_S * 0.4)

    monkeypatch.setattr(VllmCall, "connect", connect_slowly)
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert len(fleet.prefill.seen) == 2
    if n_slow == 1:
        assert got.status == 200
        texts = [seen.handoff for seen in fleet.decode.seen]
        assert [t["remote_request_id"][:-9] for t in texts if t] == [got.json["id"]]
        assert fleet.prefill.counters.n_garbage_reads == 0
    else:
        assert (got.status, got.error["code"]) == (502, "handoff_stale")
        assert fleet.decode.seen == []
    assert fleet.counts == {"nixl": 2, "stale": 1}
    await fleet.settle()


def _is_tag(call: VllmCall) -> bool:
    found: bool = json.loads(sent_by(call).kv_transfer_params_json)["do_remote_decode"]
    return found


async def test_restarted_mooncake_prefill(stack: AsyncExitStack, model: Path) -> None:
    """Its engine id is another one: it is asked anew before decode is told of it."""
    fleet = await fleet_of(stack, model, "mooncake")
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    old = fleet.prefill.engine_id
    await fleet.prefill.kill()
    await fleet.prefill.restart()
    assert fleet.prefill.engine_id != old
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    handoff = fleet.decode.seen[1].handoff or {}
    assert handoff["remote_engine_id"] == fleet.prefill.engine_id


@pytest.mark.parametrize(
    ("role", "kv_role"), [("decode", "kv_producer"), ("prefill", "kv_consumer")]
)
async def test_worker_of_the_other_role(
    stack: AsyncExitStack, model: Path, role: Any, kv_role: str
) -> None:
    """A producer would die of a decode leg, and a consumer of a prefill one: it is never asked."""
    wrong = await stack.enter_async_context(sim(role, model, kv_role=kv_role))
    good = {r: await stack.enter_async_context(sim(r, model)) for r in ("prefill", "decode")}
    prefills = [w for w in (wrong, good["prefill"]) if w.config.role == "prefill"]
    decodes = [w for w in (wrong, good["decode"]) if w.config.role == "decode"]
    running = serving(prefills, decodes, is_ready=False, model_path=str(model))
    fleet = await stack.enter_async_context(running)
    await until(lambda: all(fleet.live(w).state is State.READY for w in good.values()))
    await until(lambda: fleet.live(wrong).last_error)
    fleet.tasks = asyncio.all_tasks()
    for _ in range(4):
        assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert wrong.seen == []
    assert fleet.live(wrong).state is not State.READY
    assert kv_role in (fleet.live(wrong).last_error or "")
