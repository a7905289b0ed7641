"""Several choices: children with rooms of their own that share one fate."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.sim import Cut, Fault, FaultKind, sim_pair
from tests.flow.fleet import CHAT, COMPLETIONS, GENERATE, Fleet, body_of, serving
from tests.flow.scripted import ScriptedWorker, whole

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
LEGS = pytest.mark.parametrize("leg", ["prefill", "decode"])
TWO = pytest.mark.parametrize(
    ("route", "more"),
    [
        (CHAT, {"n": 2}),
        (COMPLETIONS, {"n": 2}),
        (COMPLETIONS, {"n": 2, "prompt": ["One", "Two"]}),
        (GENERATE, {"sampling_params": {"n": 2}}),
    ],
    ids=["chat", "completions", "completions of a batch", "generate"],
)


def flat(value: Any) -> list[Any]:
    """A room or an id, or those of a batch."""
    return value if isinstance(value, list) else [value]


@BOTH
@TWO
async def test_children_are_requests_of_their_own(
    fleet: Fleet, route: str, more: dict[str, Any], stream: bool
) -> None:
    """Two requests a leg, each for one choice, with rooms and ids that differ."""
    got = await fleet.ask(route, body_of(route, stream=stream, **more))
    assert got.status == 200
    (prefill,), (decode,) = fleet.prefills, fleet.decodes
    for worker in (prefill, decode):
        assert len(worker.seen) == 2
        for seen in worker.seen:
            assert (seen.body.get("n") or seen.body["sampling_params"]["n"]) == 1
        for each in ([s.room for s in worker.seen], [s.rid for s in worker.seen]):
            values = [value for one in each for value in flat(one)]
            assert len(values) == len(set(values)) == 2 * len(flat(each[0]))
    assert {str(s.room) for s in prefill.seen} == {str(s.room) for s in decode.seen}
    assert {str(s.rid) for s in prefill.seen} == {str(s.rid) for s in decode.seen}
    if stream:
        assert got.events.count("[DONE]") == 1
        assert got.events[-1] == "[DONE]"
    await fleet.settle()
    assert fleet.charged == []


@BOTH
@LEGS
@TWO
async def test_one_refused_child_fails_all(
    fleet: Fleet, route: str, more: dict[str, Any], leg: str, stream: bool
) -> None:
    """The refusal is the answer; every other leg of every child is aborted."""
    pair = (fleet.prefills[0], fleet.decodes[0])
    refusing, other = pair if leg == "prefill" else pair[::-1]
    refusing.faults.add(Fault(kind=FaultKind.REFUSE, status=422, times=1))
    # The sibling must still be at work when the refusal comes.
    refusing.faults.add(Fault(kind=FaultKind.HANG, times=1))
    got = await fleet.ask(route, body_of(route, stream=stream, **more))
    assert (got.status, got.error["leg"]) == (422, leg)
    await fleet.settle()
    every = [rid for seen in other.seen for rid in flat(seen.rid)]
    assert sorted(other.aborted) == sorted(every)
    assert pair[0].n_rooms == 0
    assert fleet.charged == []


async def test_one_cut_child_ends_the_merged_stream(stack: AsyncExitStack) -> None:
    """One error event, no [DONE]; the sibling is aborted in its middle."""
    prefill, decode = await stack.enter_async_context(sim_pair(decode_step_s=0.005))
    fleet = await stack.enter_async_context(serving([prefill], [decode]))
    decode.faults.add(Fault(kind=FaultKind.CUT, how=Cut.CLEAN, after_events=3))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=True, n=2, n_tokens=1000))
    assert got.is_stream
    assert got.error["leg"] == "decode"
    await fleet.settle()
    assert decode.aborted
    assert fleet.charged == ["decode"]
    assert decode.generated_tokens < 1000


@LEGS
async def test_dead_worker_is_found_before_any_child_is_sent(
    stack: AsyncExitStack, leg: str
) -> None:
    """All children connect first, so another pair gets them all and the dead one's peer none.

    A pooled connection still works, so one child would have got through.
    """
    pairs = [await stack.enter_async_context(sim_pair()) for _ in range(2)]
    prefills, decodes = zip(*pairs, strict=True)
    fleet = await stack.enter_async_context(serving(prefills, decodes))
    dead = (prefills if leg == "prefill" else decodes)[0]
    for _ in range(2):
        assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    await fleet.settle()
    assert fleet.gateway.clients.get(fleet.live(dead)).pool.n_idle == 1
    dead.refuse_connections()
    for _ in range(2):
        assert (await fleet.ask(CHAT, body_of(CHAT, n=3))).status == 200
    assert sum(len(w.seen) for w in prefills) == sum(len(w.seen) for w in decodes) == 8
    assert len(dead.seen) == 1
    assert [worker.counters.abort_calls for worker in fleet.workers] == [[]] * 4


async def test_answers_that_cannot_be_merged(stack: AsyncExitStack) -> None:
    """JSON that is no answer of the route is decode's failure, not the gateway's."""
    prefill = await stack.enter_async_context(ScriptedWorker("prefill", whole(200, {})))
    decode = await stack.enter_async_context(ScriptedWorker("decode", whole(200, {"a": 1})))
    fleet = await stack.enter_async_context(serving([prefill], [decode]))
    got = await fleet.ask(CHAT, body_of(CHAT, n=2))
    assert (got.status, got.error["leg"], got.error["code"]) == (502, "decode", "worker_broken")
    await fleet.settle()
    assert fleet.charged == ["decode"]
