"""A body is parsed a single time, and what was parsed is not kept while the answer runs."""

from __future__ import annotations

import gc
import weakref
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.api import generation
from app.protocol.facts import parse_object
from app.sim import sim_pair
from tests.flow.fleet import CHAT, COMPLETIONS, GENERATE, body_of, serving, until
from tests.flow.vllm_fleet import asked, fleet_of


class Tree(dict[str, Any]):
    """A parsed body that can be watched."""


@pytest.fixture
def trees(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Tree]]:
    """The parsed bodies of the generation routes."""
    made: list[weakref.ref[Tree]] = []

    def watched(body: bytes) -> Tree:
        tree = Tree(parse_object(body))
        made.append(weakref.ref(tree))
        return tree

    monkeypatch.setattr(generation, "parse_object", watched)
    return made


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS, GENERATE])
async def test_sglang(stack: AsyncExitStack, trees: list[weakref.ref[Tree]], route: str) -> None:
    """Gone by the time a worker has been asked, though the answer is still to come."""
    pair = await stack.enter_async_context(sim_pair(decode_step_s=0.05))
    fleet = await stack.enter_async_context(serving(pair[:1], pair[1:]))
    alive: list[Tree] = []

    async def look() -> None:
        await until(lambda: fleet.decodes[0].seen)
        gc.collect()
        assert fleet.decodes[0].n_active
        alive.extend(tree for ref in trees if (tree := ref()) is not None)

    got = await fleet.during(fleet.ask(route, body_of(route)), look())
    assert (got.status, len(trees), alive) == (200, 1, [])


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS, GENERATE])
async def test_vllm(
    stack: AsyncExitStack, model: Path, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    """The prompt is made of what routing was told, not of the bytes anew."""
    fleet = await fleet_of(stack, model)
    others: dict[str, dict[str, Any]] = {
        CHAT: {"messages": [{"role": "user", "content": "Another text"}]},
        COMPLETIONS: {"prompt": "Another text"},
        GENERATE: {"text": "Another text"},
    }
    monkeypatch.setattr(
        generation, "parse_object", lambda body: {**parse_object(body), **others[route]}
    )
    assert (await fleet.ask(route, body_of(route))).status == 200
    for worker in fleet.workers:
        text = worker.tokenizer.decode(list(asked(worker).tokenized.input_ids))
        assert "Another text" in text
        assert "One two three" not in text
