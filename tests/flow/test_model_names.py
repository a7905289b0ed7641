"""Several models behind one gateway, further names of them, and workers that take any."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.sim import SglangSim, SimConfig, sim_pair
from tests.flow.fleet import CHAT, COMPLETIONS, Fleet, Got, body_of, serving, until
from tests.flow.scripted import ScriptedWorker, whole
from tests.flow.vllm_fleet import asked, fleet_of

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
MODES = {"pair": ("prefill", "decode"), "regular": ("null",)}
ANSWER = {"model": "x", "choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}
ALIASES = (("fast", "small"), ("best", "large"), ("gone", "nobody's"))


async def two_models(stack: AsyncExitStack) -> Fleet:
    """A pair of the model ``large``, a regular worker of ``small``, three aliases."""
    prefill, decode = await stack.enter_async_context(sim_pair(model_id="large"))
    small = SglangSim(SimConfig(role="regular", model_id="small"))
    await stack.enter_async_context(small)
    return await stack.enter_async_context(
        serving([prefill], [decode], regulars=[small], model_alias=ALIASES)
    )


def models_of(got: Got) -> set[str]:
    """The names that the answer carries."""
    if not got.is_stream:
        return {got.json["model"]}
    return {json.loads(data)["model"] for data in got.events if data != "[DONE]"}


@BOTH
@pytest.mark.parametrize(
    ("name", "expected"),
    [("large", [1, 1, 0]), ("best", [1, 1, 0]), ("small", [0, 0, 1]), ("fast", [0, 0, 1])],
)
async def test_names_lead_to_workers(
    stack: AsyncExitStack, name: str, expected: list[int], stream: bool
) -> None:
    """Each name to the workers of its model; the answer carries the name that was asked for."""
    fleet = await two_models(stack)
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream, model=name))
    assert got.status == 200
    assert models_of(got) == {name}
    assert [len(worker.seen) for worker in fleet.workers] == expected


async def test_models_are_listed(stack: AsyncExitStack) -> None:
    """Models that can be asked, and aliases of those; an alias names its model."""
    fleet = await two_models(stack)
    cards = (await fleet.http.get("/v1/models")).json()["data"]
    assert {card["id"]: card.get("root") for card in cards} == {
        "large": None,
        "small": None,
        "fast": "small",
        "best": "large",
    }
    card = (await fleet.http.get("/v1/models/fast")).json()
    assert (card["id"], card["root"], card["object"]) == ("fast", "small", "model")
    for name in ("gone", "other"):
        assert (await fleet.http.get(f"/v1/models/{name}")).status_code == 404


async def test_alias_of_nobodys_model(stack: AsyncExitStack) -> None:
    """404, and no worker is asked."""
    fleet = await two_models(stack)
    got = await fleet.ask(CHAT, body_of(CHAT, model="gone"))
    assert (got.status, got.error["code"]) == (404, "model_not_found")
    assert [len(worker.seen) for worker in fleet.workers] == [0, 0, 0]


@BOTH
async def test_alias_of_a_vllm_model(stack: AsyncExitStack, model: Path, stream: bool) -> None:
    """The gateway writes the answer, with the client's name; tokens are the model's."""
    fleet = await fleet_of(stack, model, settings={"model_alias": (("fast", "sim-model"),)})
    got = await fleet.ask(COMPLETIONS, body_of(COMPLETIONS, stream=stream, model="fast"))
    assert got.status == 200
    assert models_of(got) == {"fast"}
    own = await fleet.ask(COMPLETIONS, body_of(COMPLETIONS, model="sim-model"))
    assert own.status == 200
    assert asked(fleet.decode).tokenized == asked(fleet.decode, 1).tokenized
    tokens = await fleet.ask("/tokenize", {"model": "fast", "prompt": "One"})
    assert tokens.status == 200


@pytest.mark.parametrize("role", ["pair", "regular"])
async def test_wildcards_take_any_model(stack: AsyncExitStack, role: str) -> None:
    """Workers that name no model serve whatever is asked for, and list nothing."""
    workers = [ScriptedWorker(name, whole(200, ANSWER)) for name in MODES[role]]
    for worker in workers:
        worker.models = []
        await stack.enter_async_context(worker)
    pools: dict[str, Any] = {"regulars": workers} if role == "regular" else {}
    pair = workers if role == "pair" else []
    fleet = await stack.enter_async_context(serving(pair[:1], pair[1:], **pools))
    for name in ("one", "other/model", None):
        body = body_of(COMPLETIONS) | ({"model": name} if name else {})
        assert (await fleet.ask(COMPLETIONS, body)).status == 200
        await until(lambda: not any(worker.n_active for worker in workers))
    assert [len(worker.seen) for worker in workers] == [3] * len(workers)
    assert (await fleet.http.get("/v1/models")).json()["data"] == []
    assert (await fleet.http.get("/readiness")).status_code == 200
