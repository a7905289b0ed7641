"""What bounds retries, what allows more of them, and how the client learns of them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.sim import Fault, FaultKind, VllmFault, VllmFaultKind, sim_pair
from app.sim.wire import Exchange
from tests.flow.fleet import CHAT, COMPLETIONS, Fleet, body_of, serving
from tests.flow.scripted import Script, ScriptedWorker, hang, whole
from tests.flow.vllm_fleet import SHORT_LEASE_S, VllmFleet, fleet_of

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
LEGS = pytest.mark.parametrize("leg", ["prefill", "decode"])
TRANSPORTS = pytest.mark.parametrize("transport", ["sglang", "nixl", "mooncake"])
PROMPT = "word " * 80
"""400 characters: about 100 tokens."""
QUICK: dict[str, Any] = {"retry_initial_backoff_ms": 1}


async def two_pairs(
    stack: AsyncExitStack, model: Path, transport: str, **settings: Any
) -> Fleet | VllmFleet:
    """A gateway before two pairs."""
    if transport != "sglang":
        return await fleet_of(
            stack,
            model,
            transport,
            n_prefills=2,
            n_decodes=2,
            settings=settings,
            lease_s=SHORT_LEASE_S,
            mooncake_abort_s=SHORT_LEASE_S,
        )
    pairs = [await stack.enter_async_context(sim_pair()) for _ in range(2)]
    prefills, decodes = zip(*pairs, strict=True)
    return await stack.enter_async_context(serving(prefills, decodes, **settings))


async def restart(fleet: Fleet) -> None:
    """Dead vLLM workers come back, so that they can be ended like the others."""
    if isinstance(fleet, VllmFleet):
        for worker in fleet.workers:
            if not worker.is_up:
                await worker.restart()


def of_leg(fleet: Fleet, leg: str) -> list[Any]:
    """The workers of a role."""
    return list(fleet.prefills if leg == "prefill" else fleet.decodes)


def n_seen(workers: Any) -> int:
    """Generation requests that workers saw altogether."""
    return sum(len(worker.seen) for worker in workers)


@TRANSPORTS
@LEGS
@BOTH
async def test_attempts_are_told(
    stack: AsyncExitStack, model: Path, transport: str, leg: str, stream: bool
) -> None:
    """1 on an answer at the first attempt, 2 on one at the second, 2 on the error after two."""
    fleet = await two_pairs(stack, model, transport)
    body = body_of(CHAT, stream=stream)
    got = await fleet.ask(CHAT, body)
    assert (got.status, got.headers["x-tandem-attempts"]) == (200, "1")
    one, other = of_leg(fleet, leg)
    # Whose turn it is: after one request of each of two workers it is the first one's.
    assert (await fleet.ask(CHAT, body)).headers["x-tandem-attempts"] == "1"
    await one.kill()
    got = await fleet.ask(CHAT, body)
    assert (got.status, got.headers["x-tandem-attempts"]) == (200, "2")
    assert fleet.charged == [leg]
    await other.kill()
    got = await fleet.ask(CHAT, body)
    assert (got.status, got.error["leg"], got.headers["x-tandem-attempts"]) == (502, leg, "1")
    await restart(fleet)


@TRANSPORTS
async def test_error_of_several_attempts(
    stack: AsyncExitStack, model: Path, transport: str
) -> None:
    """Both prefill workers are gone: two attempts, and the last failure is shown."""
    fleet = await two_pairs(stack, model, transport)
    for worker in fleet.prefills:
        await worker.kill()
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.headers["x-tandem-attempts"]) == (502, "2")
    assert n_seen(fleet.decodes) == 0
    await restart(fleet)


@TRANSPORTS
async def test_no_attempt_no_header(stack: AsyncExitStack, model: Path, transport: str) -> None:
    """What is refused before a pair was chosen says nothing of attempts."""
    fleet = await two_pairs(stack, model, transport)
    got = await fleet.ask(CHAT, {"messages": []})
    assert (got.status, got.headers.get("x-tandem-attempts")) == (400, None)
    got = await fleet.ask(CHAT, body_of(CHAT, model="nobody's"))
    assert (got.status, got.headers.get("x-tandem-attempts")) == (404, None)


@TRANSPORTS
async def test_budget_is_spent(stack: AsyncExitStack, model: Path, transport: str) -> None:
    """Retries are paid for in prompt tokens: a short prompt is tried again, a long one is not."""
    budget = {"retry_budget_percent": 0, "retry_budget_min_tokens": 60}
    fleet = await two_pairs(stack, model, transport, disable_health_check=True, **budget)
    dead, _ = fleet.prefills
    await dead.kill()
    settled = []
    for prompt in ("a b c d", PROMPT * 4):
        # The dead worker is left in, and it has the next turn.
        fleet.live(dead).breaker.reset()
        got = await fleet.ask(COMPLETIONS, body_of(COMPLETIONS, prompt=prompt))
        settled.append((got.status, got.headers["x-tandem-attempts"]))
        if got.status == 200:
            await fleet.ask(COMPLETIONS, body_of(COMPLETIONS, prompt="x"))
    assert settled == [(200, "2"), (502, "1")]
    await restart(fleet)


@BOTH
@pytest.mark.parametrize(("leg", "status"), [("prefill", 500), ("prefill", 503), ("decode", 503)])
async def test_5xx_is_tried_elsewhere_on_demand(
    stack: AsyncExitStack, leg: str, status: int, stream: bool
) -> None:
    """With new ids and another room; the failed worker is asked once, and its sibling aborted."""
    pairs = [await stack.enter_async_context(sim_pair()) for _ in range(2)]
    prefills, decodes = zip(*pairs, strict=True)
    settings = {"retry_on_5xx": True, **QUICK}
    fleet = await stack.enter_async_context(serving(prefills, decodes, **settings))
    failing, other = of_leg(fleet, leg)
    failing.faults.add(Fault(kind=FaultKind.REFUSE, status=status, times=None))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.status, got.headers["x-tandem-attempts"]) == (200, "2")
    assert [len(worker.seen) for worker in (failing, other)] == [1, 1]
    seen = [seen for worker in fleet.workers for seen in worker.seen]
    assert len({s.rid for s in seen}) == len({s.room for s in seen}) == 2
    await fleet.settle()
    assert fleet.charged == ([leg] if status == 500 else [])
    assert sum(prefill.computed_prompt_tokens > 0 for prefill in prefills) == 1


@pytest.mark.parametrize("transport", ["nixl", "mooncake"])
async def test_5xx_of_a_vllm_prefill_is_tried_elsewhere_on_demand(
    stack: AsyncExitStack, model: Path, transport: str
) -> None:
    """Prefill's engine failed, so none has run: the request moves on."""
    fleet = await two_pairs(stack, model, transport, retry_on_5xx=True, **QUICK)
    fleet.prefills[0].faults.refuse("INTERNAL", "broken")
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.headers["x-tandem-attempts"]) == (200, "2")
    assert [len(worker.seen) for worker in fleet.prefills] == [1, 1]


async def test_never_after_a_prefill_that_ran(stack: AsyncExitStack, model: Path) -> None:
    """NIXL: prefill was completed, so decode's 5xx is the answer whatever the operator wants."""
    fleet = await two_pairs(stack, model, "nixl", retry_on_5xx=True, **QUICK)
    for worker in fleet.decodes:
        worker.faults.refuse("INTERNAL", "broken")
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["leg"], got.headers["x-tandem-attempts"]) == (500, "decode", "1")
    assert (n_seen(fleet.prefills), n_seen(fleet.decodes)) == (1, 1)


@BOTH
async def test_never_after_an_answered_prefill(stack: AsyncExitStack, stream: bool) -> None:
    """SGLang: the same, where prefill has answered before decode failed."""

    async def fail_late(exchange: Exchange, body: dict[str, Any]) -> None:
        await prefill.answered.wait()
        await asyncio.sleep(0.05)
        await exchange.json(500, {"message": "out of memory"})

    prefill = Answering("prefill", whole(200, {}))
    decodes = [ScriptedWorker("decode", fail_late) for _ in range(2)]
    for worker in (prefill, *decodes):
        await stack.enter_async_context(worker)
    settings = {"retry_on_5xx": True, **QUICK}
    fleet = await stack.enter_async_context(serving([prefill], decodes, **settings))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.status, got.error["leg"], got.headers["x-tandem-attempts"]) == (500, "decode", "1")
    assert n_seen(decodes) == 1


class Answering(ScriptedWorker):
    """Says when it has answered."""

    def __init__(self, role: str, script: Script) -> None:
        super().__init__(role, script)
        self.answered = asyncio.Event()

    async def _generate(self, exchange: Exchange) -> None:
        await super()._generate(exchange)
        self.answered.set()


@pytest.mark.parametrize(
    ("text", "kind"),
    [("KVTransferError: Decode transfer failed", "report"), ("No.", "500"), ("", "reset")],
)
async def test_decode_may_have_begun(stack: AsyncExitStack, text: str, kind: str) -> None:
    """A failed handover, a 500, a cut: prefill may have run, though it has not said so."""
    pairs = [await stack.enter_async_context(sim_pair()) for _ in range(2)]
    prefills, decodes = zip(*pairs, strict=True)
    settings = {"retry_on_5xx": True, **QUICK}
    fleet = await stack.enter_async_context(serving(prefills, decodes, **settings))
    for decode in decodes:
        if kind == "reset":
            decode.faults.add(Fault(kind=FaultKind.RESET))
        else:
            decode.faults.refuse(500, f'{{"message": "{text}"}}')
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status >= 500, got.headers["x-tandem-attempts"]) == (True, "1")
    assert n_seen(decodes) == 1


async def test_all_of_them_fail(stack: AsyncExitStack) -> None:
    """Each pair is tried once, not five times the same; the budget has no more to say."""
    prefills = [ScriptedWorker("prefill", hang) for _ in range(3)]
    decodes = [ScriptedWorker("decode", whole(503, {"message": "full"})) for _ in range(3)]
    for worker in (*prefills, *decodes):
        await stack.enter_async_context(worker)
    settings = {"retry_on_5xx": True, **QUICK}
    fleet = await stack.enter_async_context(serving(prefills, decodes, **settings))
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["message"], got.headers["x-tandem-attempts"]) == (
        503,
        "full",
        "3",
    )
    assert [len(decode.seen) for decode in decodes] == [1, 1, 1]
    assert fleet.charged == []


async def test_moved_handoffs_are_attempts(stack: AsyncExitStack, model: Path) -> None:
    """Another decode worker for the same handoff is told of, and not tried where none may be."""
    for disable_retries, expected in ((False, (200, "2")), (True, (502, "1"))):
        fleet = await fleet_of(
            stack,
            model,
            n_decodes=2,
            lease_s=SHORT_LEASE_S,
            settings={"disable_retries": disable_retries},
        )
        one, other = fleet.decodes
        one.faults.add(VllmFault(kind=VllmFaultKind.ERROR_FINISH))
        got = await fleet.ask(CHAT, body_of(CHAT))
        assert (got.status, got.headers["x-tandem-attempts"]) == expected
        assert len(other.seen) == int(not disable_retries)
        assert len(fleet.prefill.seen) == 1
