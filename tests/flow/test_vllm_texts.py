"""Where a model's text side comes from: the operator, a worker's bundle, a worker's word."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.dispatch.model_texts import RETRY_AFTER_S, ModelTexts
from app.sim import VllmFault, VllmFaultKind
from app.upstream.vllm_worker import VllmWorker
from tests.flow.fleet import CHAT, COMPLETIONS, Got, body_of
from tests.flow.vllm_fleet import VllmFleet, asked, fleet_of

FROM_WORKER: dict[str, Any] = {"model_path": None}


async def bundled(stack: AsyncExitStack, model: Path, **decode: Any) -> VllmFleet:
    """A gateway that was told no path; the decode worker has the files."""
    settings = dict(FROM_WORKER)
    return await fleet_of(
        stack, model, settings=settings, decode={"tokenizer_folder": model} | decode
    )


async def test_bundle_of_the_worker(stack: AsyncExitStack, model: Path, tmp_path: Path) -> None:
    """The files come over the wire: the worker's path means nothing to this machine."""
    elsewhere = shutil.copytree(model, tmp_path / "elsewhere")
    fleet = await bundled(stack, model, tokenizer_folder=elsewhere)
    n_asked = _count_bundles(fleet)
    for _ in range(2):
        got = await fleet.ask(CHAT, body_of(CHAT))
        assert got.status == 200
    assert len(n_asked) == 1
    ids = asked(fleet.decode).tokenized.input_ids
    assert "One two three" in fleet.decode.tokenizer.decode(list(ids))
    assert "<|im_start|>user" in fleet.decode.tokenizer.decode(list(ids))


def _count_bundles(fleet: VllmFleet) -> list[str]:
    """Notes every bundle that is asked for."""
    client, noted = fleet.gateway.clients.vllm(fleet.live(fleet.decode)), list[str]()
    bundle = client.tokenizer_bundle

    def note_and_ask() -> Any:
        noted.append("asked")
        return bundle()

    client.tokenizer_bundle = note_and_ask  # type: ignore[method-assign]
    return noted


async def at_once(fleet: VllmFleet, n_requests: int) -> list[Got]:
    """Sends several requests at the same time."""
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(fleet.ask(CHAT, body_of(CHAT))) for _ in range(n_requests)]
    return [task.result() for task in asking]


async def test_many_at_once_load_it_once(stack: AsyncExitStack, model: Path) -> None:
    """They wait for the same load."""
    fleet = await bundled(stack, model)
    fleet.decode.faults.add(VllmFault(kind=VllmFaultKind.SLOW, rpc="GetTokenizer", delay_s=0.2))
    n_asked = _count_bundles(fleet)
    got = await at_once(fleet, 5)
    assert [one.status for one in got] == [200] * 5
    assert len(n_asked) == 1


async def test_path_of_the_worker(stack: AsyncExitStack, model: Path) -> None:
    """A worker that cannot send its files names where they are."""
    fleet = await bundled(stack, model)
    fleet.decode.faults.refuse("INTERNAL", "a name on a hub", rpc="GetTokenizer", times=None)
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200


@pytest.mark.parametrize(
    "fault",
    [
        VllmFault(kind=VllmFaultKind.WRONG_DIGEST, rpc="GetTokenizer", times=None),
        VllmFault(kind=VllmFaultKind.REFUSE, rpc="GetTokenizer", times=None),
        None,
    ],
    ids=["wrong digest", "no files anywhere", "unreachable"],
)
async def test_no_tokenizer(
    stack: AsyncExitStack, model: Path, tmp_path: Path, fault: VllmFault | None
) -> None:
    """503 with Retry-After; nobody generates; those who waited do not each try again."""
    folder = shutil.copytree(model, tmp_path / "soon-gone")
    fleet = await bundled(stack, model, tokenizer_folder=folder)
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{")
    n_asked = _count_bundles(fleet)
    if fault is None:
        await fleet.decode.kill()
    else:
        fleet.decode.faults.add(fault)
    got = await at_once(fleet, 3)
    for one in got:
        assert (one.status, one.error["code"]) == (503, "tokenizer_not_loaded")
        assert one.headers["retry-after"] == str(RETRY_AFTER_S)
    assert len(n_asked) == 1
    assert [worker.seen for worker in fleet.workers] == [[], []]
    if not fleet.decode.is_up:
        await fleet.decode.restart()


async def test_tokenizer_comes_later(
    stack: AsyncExitStack, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time that Retry-After named, the next request tries again."""
    monkeypatch.setattr("app.dispatch.model_texts.RETRY_AFTER_S", 0)
    fleet = await bundled(stack, model)
    fleet.decode.faults.add(VllmFault(kind=VllmFaultKind.WRONG_DIGEST, rpc="GetTokenizer"))
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 503
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200


async def test_path_of_the_operator_wins(
    stack: AsyncExitStack, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's files are not even asked for."""
    monkeypatch.setattr(VllmWorker, "tokenizer_bundle", None)
    fleet = await fleet_of(stack, model, tokenizer_folder=Path("/nowhere"))
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS])
async def test_prompt_that_is_too_long(stack: AsyncExitStack, model: Path, route: str) -> None:
    """The decode worker's limit decides, before anyone is asked."""
    fleet = await fleet_of(stack, model, decode={"context_length": 64})
    text = "word " * 200
    asked_for = {"prompt": text, "messages": [{"role": "user", "content": text}]}
    key = "messages" if route == CHAT else "prompt"
    got = await fleet.ask(route, {key: asked_for[key], "max_tokens": 1})
    assert (got.status, got.error["code"]) == (400, "context_length_exceeded")
    assert "64 tokens" in got.error["message"]
    got = await fleet.ask(route, {**body_of(route), "max_tokens": 62})
    assert got.status == 400
    assert [worker.seen for worker in fleet.workers] == [[], []]
    assert (await fleet.ask(route, body_of(route))).status == 200


async def test_model_that_came_after_the_request_was_read(
    stack: AsyncExitStack, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not tokenized, so it is to be sent again; its leases are given back."""
    fleet = await fleet_of(stack, model)
    monkeypatch.setattr(ModelTexts, "worker_of", lambda *_: None)
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.headers["retry-after"]) == (503, "1")
    await fleet.settle()
