"""The simulated workers against the golden samples: same statuses, heads, keys and kinds.

Where the two disagree, the simulator is what gets mended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from app.sim import SglangSim, sim_pair

ROLES = ("prefill", "decode")
CASES = (
    "generate",
    "generate_stream",
    "generate_batch",
    "generate_batch_stream",
    "generate_ids_batch",
    "generate_logprob",
    "generate_logprob_stream",
    "generate_logprob_batch",
    "generate_logprob_batch_stream",
    "chat",
    "chat_stream",
    "chat_stream_bare",
    "chat_logprobs",
    "completions",
    "completions_stream",
    "completions_stream_bare",
    "completions_batch",
    "completions_batch_stream",
    "completions_ids",
    "chat_unknown_model",
)
REFUSED = (
    "chat_too_long",
    "chat_prompt_too_long",
    "chat_wrong_type",
    "chat_bad_sampling",
    "generate_too_long",
    "generate_wrong_type",
)
METADATA = (
    ("models", "/v1/models"),
    ("model_info", "/model_info"),
    ("server_info", "/server_info"),
    ("loads", "/v1/loads"),
)
EVENT_CASES = (
    "chat_stream",
    "chat_stream_bare",
    "completions_stream",
    "completions_stream_bare",
    "generate_stream",
)
PARTLY = ("model_info", "server_info")
"""Documents of which the simulator shows the members that a gateway may read."""

Pair = dict[str, SglangSim]
Shape = dict[str, set[str]]
ShapeOf = Callable[[list[Any]], Shape]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """A simulated pair with the recorded engines' context length, by role."""
    async with sim_pair(context_length=8192) as (prefill, decode):
        yield {"prefill": prefill, "decode": decode}


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client of the workers."""
    async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
        yield client


def differences(real: Shape, simulated: Shape) -> list[str]:
    """Places that only one of the two has, and places with other kinds of values.

    Null fits every kind, and what would stand inside a null or an empty list is not missed.
    """
    found = []
    for path in sorted(real.keys() | simulated.keys()):
        if path in real and path in simulated:
            kinds = real[path] - {"NoneType"}, simulated[path] - {"NoneType"}
            if all(kinds) and kinds[0] != kinds[1]:
                found.append(f"{path}: {kinds[0]}, simulated {kinds[1]}")
        elif path.removesuffix("[]") != path and path.removesuffix("[]") in real.keys() & simulated:
            continue
        elif _has_parent_in_both(path, real, simulated):
            found.append(f"{path}: only {'real' if path in real else 'simulated'}")
    return found


def _has_parent_in_both(path: str, real: Shape, simulated: Shape) -> bool:
    parent = path.removesuffix("[]") if path.endswith("[]") else path.rpartition(".")[0]
    return all("dict" in shape.get(parent, ()) for shape in (real, simulated))


async def ask_both(
    http: httpx.AsyncClient, pair: Pair, path: str, body: dict[str, Any]
) -> dict[str, httpx.Response]:
    """Sends a recorded request to both simulated legs, prefill never streamed."""
    port = pair["prefill"].bootstrap_port
    ports = body["bootstrap_port"]
    body = {**body, "bootstrap_port": [port] * len(ports) if isinstance(ports, list) else port}
    async with asyncio.TaskGroup() as group:
        sent = {
            role: group.create_task(
                http.post(
                    sim.url + path,
                    json={**body, "stream": False} if role == "prefill" else body,
                )
            )
            for role, sim in pair.items()
        }
    return {role: task.result() for role, task in sent.items()}


def compare(name: str, real: Any, answer: httpx.Response, shape_of: ShapeOf) -> list[str]:
    """Lists everything in which a simulated answer differs from the recorded one."""
    found = []
    if answer.status_code != real.status:
        return [f"{name}: status {real.status}, simulated {answer.status_code}: {answer.text}"]
    if answer.headers.get("content-type") != real.headers.get("content-type"):
        found.append(f"{name}: content-type, simulated {answer.headers.get('content-type')}")
    if not real.body:
        return found
    ours = type(real)(answer.status_code, dict(answer.headers), answer.content)
    simulated, recorded = shape_of(ours.documents), shape_of(real.documents)
    return found + [f"{name}{line}" for line in differences(recorded, simulated)]


@pytest.mark.parametrize("name", [*CASES, *REFUSED])
async def test_answers(
    samples: Any, shape_of: ShapeOf, pair: Pair, http: httpx.AsyncClient, name: str
) -> None:
    """No difference on either leg."""
    path, body = samples.request(name)
    answers = await ask_both(http, pair, path, body)
    found: list[str] = []
    for role in ROLES:
        found += compare(role, samples.answer(f"{name}.{role}"), answers[role], shape_of)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", EVENT_CASES)
async def test_events(
    samples: Any, shape_of: ShapeOf, pair: Pair, http: httpx.AsyncClient, name: str
) -> None:
    """The first event and the last ones have the recorded shape, each taken alone."""
    path, body = samples.request(name)
    answer = (await ask_both(http, pair, path, body))["decode"]
    real = samples.answer(f"{name}.decode")
    ours = type(real)(answer.status_code, dict(answer.headers), answer.content)
    for at in (0, -2, -1):
        recorded, simulated = shape_of([real.documents[at]]), shape_of([ours.documents[at]])
        found = differences(recorded, simulated)
        assert not found, f"event {at}: {found}"
    assert answer.content.endswith(b"\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize(("name", "path"), METADATA)
@pytest.mark.parametrize("role", ROLES)
async def test_metadata(
    samples: Any,
    shape_of: ShapeOf,
    pair: Pair,
    http: httpx.AsyncClient,
    name: str,
    path: str,
    role: str,
) -> None:
    """No difference; of the long documents the simulator may leave members out."""
    answer = await http.get(pair[role].url + path)
    found = compare(name, samples.answer(f"{name}.{role}"), answer, shape_of)
    if name in PARTLY:
        found = [line for line in found if not line.endswith("only real")]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("role", ROLES)
async def test_abort_of_a_leg_that_waits(
    samples: Any, shape_of: ShapeOf, pair: Pair, http: httpx.AsyncClient, role: str
) -> None:
    """500 in the recorded shape, with the same words on the failed handover."""
    sim = pair[role]
    path, body = samples.request("generate")
    body = {**body, "bootstrap_port": pair["prefill"].bootstrap_port, "rid": "aborted_waiting"}
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(http.post(sim.url + path, json=body))
        async with asyncio.timeout(5):
            while not sim.seen:  # noqa: ASYNC110 - the simulator has no event for it
                await asyncio.sleep(0.01)
        abort = await http.post(f"{sim.url}/abort_request", json={"rid": "aborted_waiting"})
    real = samples.answer(f"aborted_waiting.{role}")
    assert (abort.status_code, abort.content) == (200, b"")
    assert compare(role, real, asked.result(), shape_of) == []
    words = " ".join(real.documents[0]["message"].split()[:3])
    assert asked.result().json()["message"].startswith(words)
