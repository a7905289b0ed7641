"""Answers go past the layers only where these add nothing, and have all that they would add."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from app.server.client_cycle import ClientCycle
from tests.flow.fleet import CHAT, body_of, serving
from tests.flow.scripted import ScriptedWorker, events, whole

PAGE = "https://page.example"
ANSWER = {"choices": [{"index": 0, "finish_reason": "stop"}]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("origins", [(), (PAGE,)])
async def test_what_layers_add_is_there(
    stack: AsyncExitStack,
    monkeypatch: pytest.MonkeyPatch,
    origins: tuple[str, ...],
    *,
    stream: bool,
) -> None:
    """The request's id once, the noted status, and what a browser asks for if it may."""
    n_past = 0
    really = ClientCycle.answer

    def answer(cycle: ClientCycle, *args: object, **more: object) -> bool:
        nonlocal n_past
        n_past += 1
        return really(cycle, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ClientCycle, "answer", answer)
    prefill = await stack.enter_async_context(ScriptedWorker("prefill", whole(200, ANSWER)))
    script = events({"choices": []}) if stream else whole(200, ANSWER)
    decode = await stack.enter_async_context(ScriptedWorker("decode", script))
    serving_all = serving([prefill], [decode], cors_allowed_origins=origins)
    fleet = await stack.enter_async_context(serving_all)
    headers = {"origin": PAGE, "x-request-id": "req-of-the-client"}
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream), **headers)
    assert got.status == 200
    assert got.headers.get_list("x-request-id") == ["req-of-the-client"]
    assert got.headers.get("access-control-allow-origin") == (PAGE if origins else None)
    assert fleet.gateway.metrics.meters.http[CHAT, "POST", 200] == 1
    assert n_past == (0 if origins else 1)
