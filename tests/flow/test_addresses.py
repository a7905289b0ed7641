"""No error that a client of the data plane gets says where a worker lives, unless it was asked for.

Every way in which a pair fails is tried, with workers that name themselves and their neighbours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.sim import VllmFault, VllmFaultKind
from app.sim.wire import Exchange
from tests.flow.fleet import CHAT, Fleet, Got, body_of, serving, until
from tests.flow.scripted import JSON, Script, ScriptedWorker, events, hang, whole
from tests.flow.vllm_fleet import fleet_of

NEIGHBOUR = "192.168.77.5:5600"
PEER_DEATH = "Decode transfer failed: KVTransferError: Lost connection with prefill"


async def reset(exchange: Exchange, body: dict[str, Any]) -> None:
    """The connection breaks before an answer."""
    await exchange.reset()


async def half(exchange: Exchange, body: dict[str, Any]) -> None:
    """The answer breaks off."""
    await exchange.bytes(200, b'{"choices": []}', JSON, n_sent=5)


def naming(worker: ScriptedWorker) -> dict[str, Script]:
    """Ways to fail in which a worker says where it and another one are."""
    text = f"worker {worker.url} (127.0.0.1, port {worker.port}) lost tcp://{NEIGHBOUR}"
    fault = {"error": {"message": text, "type": "x", "code": 500}}
    token = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]}
    return {
        "status": whole(500, fault),
        "status of a peer's death": whole(500, {"message": f"{PEER_DEATH} {NEIGHBOUR} {text}"}),
        "refusal": whole(422, {"detail": [{"loc": ["body"], "msg": text}]}),
        "plain text": whole(503, text.encode()),
        "error at once": events(fault),
        "error in mid-stream": events(token, fault),
        "reset": reset,
        "half": half,
        "silence": hang,
    }


FAILURES = sorted(naming(ScriptedWorker("decode", hang)))


async def failing(stack: AsyncExitStack, role: str, how: str, **settings: Any) -> Fleet:
    """A gateway before a pair of which one worker fails."""
    workers = {
        name: await stack.enter_async_context(ScriptedWorker(name, hang))
        for name in ("prefill", "decode")
    }
    workers[role].script = naming(workers[role])[how]
    return await stack.enter_async_context(
        serving(
            [workers["prefill"]],
            [workers["decode"]],
            request_timeout_secs=0.2,
            disable_retries=True,
            **settings,
        )
    )


def addresses_in(got: Got, fleet: Fleet) -> list[str]:
    """Every address of the fleet, or beside it, in what a client got."""
    shown = got.raw.decode() + repr(got.headers)
    ports = [str(worker.port) for worker in fleet.workers]
    found = re.findall(r"\d+\.\d+\.\d+\.\d+(?::\d+)?", shown)
    return found + [f"port {port}" for port in ports if re.search(rf":{port}\b", shown)]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("role", ["prefill", "decode"])
@pytest.mark.parametrize("how", FAILURES)
async def test_failures_of_legs(stack: AsyncExitStack, role: str, how: str, stream: bool) -> None:
    """Whatever a worker says of itself or of its neighbours, the client gets the rest of it."""
    fleet = await failing(stack, role, how)
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert got.status >= 400 or got.error
    assert addresses_in(got, fleet) == []


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_dead_worker(stack: AsyncExitStack, role: str) -> None:
    """Nobody listens where it was."""
    fleet = await failing(stack, role, "silence")
    await next(w for w in fleet.workers if w.role == role).__aexit__()
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["code"]) == (502, "worker_unreachable")
    assert addresses_in(got, fleet) == []


@pytest.mark.parametrize("how", ["status", "reset"])
async def test_told_when_asked(stack: AsyncExitStack, how: str) -> None:
    """--expose-worker-addresses leaves the texts alone, and adds what the gateway knows."""
    fleet = await failing(stack, "decode", how, expose_worker_addresses=True)
    got = await fleet.ask(CHAT, body_of(CHAT))
    expected = NEIGHBOUR if how == "status" else "connection"
    assert expected in got.error["message"]


async def test_dead_worker_is_told_when_asked(stack: AsyncExitStack) -> None:
    """With its address, as the log has it."""
    fleet = await failing(stack, "decode", "silence", expose_worker_addresses=True)
    (decode,) = fleet.decodes
    await decode.__aexit__()
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert f"127.0.0.1:{decode.port}" in got.error["message"]


ASKED: dict[str, Callable[[Fleet], Awaitable[Got]]] = {
    "tokenize": lambda fleet: fleet.ask("/v1/tokenize", {"prompt": "a"}),
    "model info": lambda fleet: _get(fleet, "/get_model_info"),
}


async def _get(fleet: Fleet, path: str) -> Got:
    answer = await fleet.http.get(path)
    return Got(answer.status_code, answer.headers, answer.content)


@pytest.mark.parametrize("what", ASKED)
@pytest.mark.parametrize("how", ["answers 500", "answers no JSON", "has no such route", "dead"])
@pytest.mark.parametrize("is_exposed", [False, True], ids=["hidden", "exposed"])
async def test_routes_that_are_passed_on(
    stack: AsyncExitStack, what: str, how: str, is_exposed: bool
) -> None:
    """Routes beside generation that a data-plane key opens keep to it, too."""
    workers = [
        await stack.enter_async_context(Answering(role, how)) for role in ("prefill", "decode")
    ]
    fleet = await stack.enter_async_context(
        serving([workers[0]], [workers[1]], expose_worker_addresses=is_exposed)
    )
    for worker in workers:
        worker.is_failing = True
        if how == "dead":
            await worker.__aexit__()
    got = await ASKED[what](fleet)
    if how == "has no such route" and what == "model info":
        assert got.status == 404
    assert got.status >= 400
    is_ours = got.error["code"] != "not_implemented"
    assert bool(addresses_in(got, fleet)) == (is_exposed and is_ours)


async def test_the_log_has_what_clients_are_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The line of a request that was passed on in vain names the worker."""
    logged = ""

    def has_logged() -> bool:
        nonlocal logged
        logged += capsys.readouterr().err
        return "path=/v1/tokenize" in logged

    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(Answering(role, "answers 500"))
            for role in ("prefill", "decode")
        ]
        fleet = await stack.enter_async_context(
            serving([workers[0]], [workers[1]], log_level="info")
        )
        for worker in workers:
            worker.is_failing = True
        await fleet.ask("/v1/tokenize", {"prompt": "a"})
        await until(has_logged)
    assert f"detail='{workers[1].url}: " in logged


class Answering(ScriptedWorker):
    """A worker that answers control calls badly once it is told to."""

    def __init__(self, role: str, how: str) -> None:
        super().__init__(role, hang)
        self.how = how
        self.is_failing = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self.is_failing or scope["path"] == "/health":
            await super().__call__(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        text = f"{self.url} lost {NEIGHBOUR}"
        if self.how == "has no such route":
            await exchange.json(404, {"detail": "Not Found"})
        elif self.how == "answers no JSON":
            await exchange.bytes(200, text.encode())
        else:
            await exchange.json(500, {"error": {"message": text}})


async def test_vllm(stack: AsyncExitStack, model: Path) -> None:
    """The engine's own text over gRPC is masked in the same way."""
    fleet = await fleet_of(stack, model)
    fault = VllmFault(kind=VllmFaultKind.REFUSE, status="INTERNAL", message=f"lost {NEIGHBOUR}")
    fleet.prefill.faults.add(fault)
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert "lost <address>" in got.error["message"]
    assert addresses_in(got, fleet) == []


async def test_where_addresses_are_shown(stack: AsyncExitStack) -> None:
    """The control plane shows them: that is what it is for. Models and readiness do not."""
    fleet = await failing(stack, "decode", "status")
    assert fleet.decodes[0].url in json.dumps((await _get(fleet, "/workers")).json)
    for path in ("/v1/models", "/readiness", "/health"):
        assert addresses_in(await _get(fleet, path), fleet) == []
