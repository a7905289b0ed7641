"""How failures of the scheduler look in streams and beside them, as seen with SGLang 0.5.23."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from app.sim import SglangSim, sim_pair
from app.sim.refusals import CHAT, COMPLETIONS, GENERATE

OPENAI = (CHAT, COMPLETIONS)
WITH_USAGE = {"stream_options": {"include_usage": True}}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client with the patience of five seconds."""
    async with httpx.AsyncClient(timeout=5) as client:
        yield client


def body(route: str, port: int, **more: Any) -> dict[str, Any]:
    """A streamed request for room 9."""
    prompt: dict[str, Any] = {"text": "Hi you"}
    if route == CHAT:
        prompt = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    elif route == COMPLETIONS:
        prompt = {"model": "m", "prompt": "Hi you"}
    rendezvous = {"bootstrap_port": port, "bootstrap_room": 9, "rid": "r1"}
    return {"stream": True, **prompt, **rendezvous, **more}


def events(answer: httpx.Response) -> list[Any]:
    """The JSON of every event of a 200 but the last, which must be [DONE]."""
    assert answer.status_code == 200
    parts = answer.text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


async def until(is_so: Callable[[], bool]) -> None:
    """Waits up to two seconds."""
    for _ in range(400):
        if is_so():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen within two seconds")


async def in_use(sim: SglangSim, rid: str) -> None:
    """Until the engine has a request of this id."""
    await until(lambda: rid in sim.engine.table.jobs)


async def abort(client: httpx.AsyncClient, sim: SglangSim, rid: str = "r1") -> None:
    """Aborts a request once it is in use."""
    await in_use(sim, rid)
    await client.post(sim.url + "/abort_request", json={"rid": rid})


async def aborted(
    client: httpx.AsyncClient, sim: SglangSim, path: str, order: dict[str, Any], rid: str = "r1"
) -> httpx.Response:
    """The answer of a leg that is aborted while it waits for its peer."""
    async with asyncio.TaskGroup() as group:
        leg = group.create_task(client.post(sim.url + path, json=order))
        await abort(client, sim, rid)
    return leg.result()


WAITING = (
    "Decode transfer failed for request rank=0 decode_req.req.rid='r1' "
    "decode_req.req.bootstrap_room=9 with exception KVTransferError(bootstrap_room=9): "
    "Aborted by AbortReq."
)


@pytest.mark.parametrize("route", OPENAI)
async def test_openai_error_event(client: httpx.AsyncClient, route: str) -> None:
    """200, the error, the usage of what was spoken of, [DONE]."""
    async with sim_pair() as (prefill, decode):
        order = body(route, prefill.bootstrap_port, **WITH_USAGE)
        error, usage = events(await aborted(client, decode, route, order))
    assert error == {
        "error": {
            "object": "error",
            "message": WAITING,
            "type": "INTERNAL_SERVER_ERROR",
            "param": None,
            "code": 500,
        }
    }
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 0
    assert usage["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize("route", OPENAI)
async def test_openai_error_event_is_alone_without_usage(
    client: httpx.AsyncClient, route: str
) -> None:
    """Nothing between the error and [DONE]."""
    async with sim_pair() as (prefill, decode):
        order = body(route, prefill.bootstrap_port)
        assert len(events(await aborted(client, decode, route, order))) == 1


async def test_generate_failure_is_the_last_event(client: httpx.AsyncClient) -> None:
    """200, no text, finish_reason abort with the status, and the members of every last event."""
    async with sim_pair() as (prefill, decode):
        order = body(GENERATE, prefill.bootstrap_port)
        (event,) = events(await aborted(client, decode, GENERATE, order))
    assert (event["text"], event["output_ids"]) == ("", [])
    meta = event["meta_info"]
    assert meta["finish_reason"] == {
        "type": "abort",
        "message": WAITING,
        "status_code": 500,
        "err_type": None,
    }
    assert meta["weight_versions"] == [{"version": "default", "start": 0, "end": 0}]
    assert list(meta)[-4:] == [
        "cached_tokens_details",
        "dp_rank",
        "e2e_latency",
        "response_sent_to_client_ts",
    ]


@pytest.mark.parametrize("route", [GENERATE, *OPENAI])
async def test_dead_prefill_in_a_stream(client: httpx.AsyncClient, route: str) -> None:
    """Decode's 200 carries the text on the lost connection; its 500 does without a stream."""
    lost = "Lost connection with prefill instance"
    slow = {"prefill_tokens_per_s": 1.0}
    async with sim_pair(slow, peer_death_s=0.1) as (prefill, decode):
        orders = [
            body(route, prefill.bootstrap_port, bootstrap_room=i, rid=f"r{i}", stream=bool(i))
            for i in (0, 1)
        ]
        async with asyncio.TaskGroup() as group:
            legs = [group.create_task(client.post(decode.url + route, json=o)) for o in orders]
            await until(lambda: decode.n_active == 2)
            await asyncio.sleep(0.05)
            await prefill.kill()
    whole, streamed = (leg.result() for leg in legs)
    assert whole.status_code == 500
    assert lost in whole.json()["message"]
    assert lost in json.dumps(events(streamed)[-1])


async def test_generate_sends_its_head_before_prefill_is_done(client: httpx.AsyncClient) -> None:
    """200 while the leg still waits; chat has no head then."""
    async with sim_pair() as (prefill, decode):
        for route, has_head in ((GENERATE, True), (CHAT, False)):
            order = body(route, prefill.bootstrap_port, rid=route)
            async with asyncio.TaskGroup() as group:
                sent = client.build_request("POST", decode.url + route, json=order)
                head = group.create_task(client.send(sent, stream=True))
                await in_use(decode, route)
                await asyncio.sleep(0.1)
                assert head.done() is has_head
                await abort(client, decode, route)
            assert (await head).status_code == 200
            await (await head).aclose()


@pytest.mark.parametrize("route", [GENERATE, *OPENAI])
async def test_a_full_queue(client: httpx.AsyncClient, route: str) -> None:
    """A bare 503 without a stream; in one an event, which has no counts on /generate."""
    async with sim_pair({"max_queued_requests": 0}) as (prefill, _):
        order = body(route, prefill.bootstrap_port)
        plain = await client.post(prefill.url + route, json=order | {"stream": False})
        (event,) = events(await client.post(prefill.url + route, json=order))
    full = "The request queue is full."
    assert plain.json() == {
        "object": "error",
        "message": full,
        "type": "503",
        "param": None,
        "code": 503,
    }
    assert plain.status_code == 503
    assert "retry-after" not in plain.headers
    if route == GENERATE:
        reason = {"type": "abort", "status_code": 503, "message": full}
        assert event["meta_info"]["finish_reason"] == reason
        assert "prompt_tokens" not in event["meta_info"]
    else:
        error = event["error"]
        assert (error["type"], error["message"]) == ("SERVICE_UNAVAILABLE", full)


async def test_an_abort_in_the_waiting_queue(client: httpx.AsyncClient) -> None:
    """200 with nothing in it, and no counts."""
    slow = {"prefill_tokens_per_s": 1.0, "chunk_tokens": 1, "max_running_requests": 1}
    async with sim_pair(slow) as (prefill, decode), asyncio.TaskGroup() as group:
        legs = []
        for room, rid in ((1, "first"), (2, "queued")):
            order = body(GENERATE, prefill.bootstrap_port, bootstrap_room=room, rid=rid)
            order["stream"] = False
            group.create_task(client.post(decode.url + GENERATE, json=order))
            legs.append(group.create_task(client.post(prefill.url + GENERATE, json=order)))
            await in_use(prefill, rid)
            await asyncio.sleep(0.05)
        await abort(client, prefill, "queued")
        meta = (await legs[1]).json()["meta_info"]
        assert meta["finish_reason"] == {"type": "abort", "message": "Abort in waiting queue"}
        assert "prompt_tokens" not in meta
        for sim in (prefill, decode):
            await client.post(sim.url + "/abort_request", json={"abort_all": True})


async def test_one_failure_in_a_batch(client: httpx.AsyncClient) -> None:
    """It ends a whole answer at once; in a stream of /generate the others go on."""
    async with sim_pair() as (prefill, decode):
        port = prefill.bootstrap_port
        order = body(GENERATE, port, text=["a b", "c d"], rid=["x", "y"], stream=False)
        assert (await aborted(client, decode, GENERATE, order, "y")).status_code == 500
        order |= {"stream": True, "bootstrap_room": [20, 21]}
        async with asyncio.TaskGroup() as group:
            leg = group.create_task(client.post(decode.url + GENERATE, json=order))
            await abort(client, decode, "y")
            await client.post(prefill.url + GENERATE, json=order | {"text": "a b", "rid": "x"})
        found = events(leg.result())
    assert found[0]["index"] == 1
    assert found[0]["meta_info"]["finish_reason"]["status_code"] == 500
    assert found[-1]["index"] == 0
    assert found[-1]["meta_info"]["finish_reason"]["type"] == "stop"


async def test_an_abort_goes_by_prefix_of_an_id_in_use(client: httpx.AsyncClient) -> None:
    """``pre`` hits pre, pre_1 and prefix; ``pr``, which nobody uses, hits nothing."""
    async with sim_pair() as (prefill, _), asyncio.TaskGroup() as group:
        legs = {}
        for room, rid in enumerate(("pre", "pre_1", "prefix", "other")):
            order = body(GENERATE, prefill.bootstrap_port, bootstrap_room=room, rid=rid)
            legs[rid] = group.create_task(client.post(prefill.url + GENERATE, json=order))
        await until(lambda: len(prefill.engine.table.jobs) == 4)
        await client.post(prefill.url + "/abort_request", json={"rid": "pr"})
        await client.post(prefill.url + "/abort_request", json={"rid": ""})
        assert prefill.aborted == []
        await client.post(prefill.url + "/abort_request", json={"rid": "pre"})
        assert sorted(prefill.aborted) == ["pre", "pre_1", "prefix"]
        assert list(prefill.engine.table.jobs) == ["other"]
        await client.post(prefill.url + "/abort_request", json={"abort_all": True})
