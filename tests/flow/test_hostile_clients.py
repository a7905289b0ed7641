"""Clients that send too much, too early or twice: they are bounded, and others are not harmed."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.api.generation import MAX_FAN_OUT_BYTES, MAX_LOGGED_MODEL_CHARS
from app.sim import sim_pair
from tests.flow.fleet import CHAT, COMPLETIONS, Fleet, body_of, serving, until
from tests.flow.raw_client import connected, head_of
from tests.flow.scripted import ScriptedWorker, hang, whole

RID = "a" * 32


async def scripted_fleet(stack: AsyncExitStack, **settings: Any) -> Fleet:
    """A gateway before two workers that answer anything."""
    prefill = await stack.enter_async_context(ScriptedWorker("prefill", whole(200, {})))
    decode = await stack.enter_async_context(ScriptedWorker("decode", whole(200, {"choices": []})))
    return await stack.enter_async_context(serving([prefill], [decode], **settings))


async def test_length_with_thousands_of_zeros(fleet: Fleet) -> None:
    """They say nothing, and are more digits than Python reads at once."""
    data = json.dumps(body_of(CHAT)).encode()
    async with connected(fleet) as client:
        await client.send(head_of("POST", CHAT, f"content-length: {'0' * 5000}{len(data)}") + data)
        assert (await client.answer())[0] == 200


async def test_all_choices_together_are_bounded(stack: AsyncExitStack) -> None:
    """A body that one choice may have is too large for 128 of them, and no worker sees it."""
    fleet = await scripted_fleet(stack)
    long = "x" * (MAX_FAN_OUT_BYTES // 128)
    body = body_of(COMPLETIONS, prompt=long)
    got = await fleet.ask(COMPLETIONS, body | {"n": 128})
    assert (got.status, got.error["code"]) == (413, "request_body_too_large")
    assert got.error["param"] == "n"
    assert fleet.prefills[0].seen == fleet.decodes[0].seen == []
    assert (await fleet.ask(COMPLETIONS, body)).status == 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_long_model_name_is_cut_in_the_log(
    capsys: pytest.CaptureFixture[str], stream: bool
) -> None:
    """The log's line has its beginning only."""
    async with AsyncExitStack() as stack:
        fleet = await scripted_fleet(stack, log_level="info")
        capsys.readouterr()
        await fleet.ask(CHAT, body_of(CHAT, model="m" * 100_000, stream=stream))
        logged = capsys.readouterr().err
    assert "m" * MAX_LOGGED_MODEL_CHARS in logged
    assert len(logged) < 2000


async def test_leaving_amid_a_worker_description(capsys: pytest.CaptureFixture[str]) -> None:
    """It is logged as a client that left, not as a defect of the gateway."""
    logged = ""

    def has_logged() -> bool:
        nonlocal logged
        logged += capsys.readouterr().err
        return "path=/workers" in logged

    async with AsyncExitStack() as stack:
        fleet = await scripted_fleet(stack, log_level="info")
        async with connected(fleet) as client:
            await client.send(head_of("POST", "/workers", "content-length: 100") + b"{")
            await until(lambda: fleet.leftovers().get("tasks"))
            client.leave()
            await until(has_logged)
        assert len(fleet.gateway.registry.workers()) == 2
    assert "status=499" in logged
    assert "unexpectedly" not in logged


@pytest.mark.parametrize(
    ("route", "first", "second"),
    [
        (CHAT, {"rid": RID}, {"rid": RID}),
        (CHAT, {"rid": RID, "stream": True}, {"rid": RID}),
        (
            COMPLETIONS,
            {"prompt": ["word " * 200] * 2, "rid": ["b" * 32, RID]},
            {"prompt": ["a", "b"], "rid": [RID, "c" * 32]},
        ),
    ],
    ids=["whole", "stream", "batch"],
)
async def test_id_that_is_in_use(
    stack: AsyncExitStack, route: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    """The second request is refused and the first one ends well; then the id is free again."""
    pair = await stack.enter_async_context(sim_pair(prefill={"prefill_tokens_per_s": 2000.0}))
    fleet = await stack.enter_async_context(serving([pair[0]], [pair[1]]))
    slow = {"messages": [{"role": "user", "content": "word " * 400}]} if route == CHAT else {}
    refused: list[Any] = []

    async def ask_again() -> None:
        await until(lambda: pair[0].n_rooms and pair[1].n_active)
        refused.append(await fleet.ask(route, body_of(route, **second)))

    got = await fleet.during(fleet.ask(route, body_of(route, **(slow | first))), ask_again())
    error = refused[0].error
    assert (refused[0].status, error["code"], error["param"]) == (400, "rid_in_use", "rid")
    assert got.status == 200
    assert b'"error"' not in got.raw
    assert pair[0].aborted == pair[1].aborted == []
    assert len(pair[0].seen) == 1
    assert (await fleet.ask(route, body_of(route, **second))).status == 200


async def test_id_is_free_after_its_client_left(stack: AsyncExitStack) -> None:
    """An id is held no longer than its request."""
    fleet = await scripted_fleet(stack)
    (prefill,), (decode,) = fleet.prefills, fleet.decodes
    decode.script = hang
    async with connected(fleet) as client:
        data = json.dumps(body_of(CHAT, rid=RID)).encode()
        await client.send(head_of("POST", CHAT, f"content-length: {len(data)}") + data)
        await until(lambda: decode.n_active)
    await fleet.settle()
    decode.script = whole(200, {"choices": []})
    assert (await fleet.ask(CHAT, body_of(CHAT, rid=RID))).status == 200
    assert prefill.seen[-1].rid == RID
